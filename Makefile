# make setup | demo | test | check; each sets up what it needs
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := true

.PHONY: setup demo test check docs clean

setup: .venv/.complete

# the package alone, as a user installs it
.venv/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e .
	touch $@

# every extra, the tools of the tests, and a browser for the pages
.venv/.complete: pyproject.toml .venv/.base
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -e '.[tensorboard,dev]'
	tools/browser
	touch $@

demo: .venv/.base
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/demo

test: .venv/.complete
	$(BIN)/python -m pytest -rs

check: .venv/.complete
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/budgets.py
	$(BIN)/python tools/reference.py --check

# the pages that are written from the code
docs: .venv/.complete
	$(BIN)/python tools/reference.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
