# make setup | demo | test | check | native-test; each sets up what it needs
PYTHON ?= python3
BIN := .venv/bin
CMAKE := $(or $(shell command -v cmake),$(CURDIR)/$(BIN)/cmake)
NATIVE := native/CMakeLists.txt native/pip_backend.py $(wildcard native/include/* native/src/*)
export TOKENIZERS_PARALLELISM := true
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)

.PHONY: setup demo test check native-test docs clean

setup: .venv/.complete

# not isolated: an isolated build would compile everything anew each time
# what is never imported is not compiled
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --upgrade-strategy only-if-needed
EDITABLE := $(INSTALL) --no-build-isolation -e

# the package alone, as a user installs it; again whenever the native core changes, which compiles
# only what changed (build/ keeps the rest)
.venv/.base: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) scikit-build-core $(if $(shell command -v cmake),,cmake)
	$(EDITABLE) .
	touch $@

# every extra, the tools of the tests, and a browser for the pages
.venv/.complete: pyproject.toml | .venv/.base
	$(EDITABLE) '.[tensorboard,export,excel,grammar,dev]'
	tools/browser
	touch $@

demo: .venv/.base
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/demo

test: .venv/.complete
	$(BIN)/python -m pytest -rs --numprocesses 2 --dist worksteal

check: .venv/.complete
	$(BIN)/ruff format --check src tests benchmarks tools native
	$(BIN)/ruff check src tests benchmarks tools native
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/budgets.py
	$(BIN)/python tools/conventions.py
	$(BIN)/python tools/reference.py --check

# the native core by itself, as it is and under sanitizers
native-test: build/native/tested build/native-sanitized/tested

build/native-sanitized/tested: SANITIZE := address,undefined
build/%/tested: $(NATIVE) $(wildcard native/tests/*) | $(CMAKE)
	$(CMAKE) -S native -B $(@D) -DUNROLLED_TESTS=ON -DUNROLLED_SANITIZE=$(SANITIZE)
	$(CMAKE) --build $(@D)
	cd $(@D) && $(dir $(CMAKE))ctest --output-on-failure
	touch $@

$(CURDIR)/$(BIN)/cmake: | .venv/.base
	$(BIN)/python -m pip install --quiet cmake

# the pages that are written from the code
docs: .venv/.complete
	$(BIN)/python tools/reference.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
