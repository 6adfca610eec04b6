"""What an installation leaves behind: the native library, and a plain path to the sources."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import unrolled

ROOT = Path(__file__).parent.parent
COMPILERS = ("c++", "g++", "clang++", "cl")


@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here"
)
def test_where_there_is_a_compiler_there_is_a_library_of_these_sources() -> None:
    # a core that does not compile would otherwise leave every test to torch, and green
    package = Path(unrolled.__file__).parent
    installed = Path(sysconfig.get_path("platlib"), "unrolled")
    files = [
        path
        for folder in (package, installed)
        for path in folder.glob("ops/*unrolled.*")
    ]
    libraries = [path for path in files if path.suffix in {".so", ".dylib", ".dll"}]
    assert libraries, (
        "expected a library in unrolled/ops, got none; see what make native-test says"
    )
    header = (ROOT / "native/include/unrolled.h").read_text("utf-8")
    (version,) = re.findall(r"^#define UNROLLED_ABI (\d+)$", header, re.MULTILINE)
    assert ctypes.CDLL(str(libraries[0])).unrolled_abi() == int(version)


def test_a_copy_of_the_sources_in_pythonpath_is_the_one_that_runs(
    tmp_path: Path,
) -> None:
    (tmp_path / "unrolled").mkdir()
    (tmp_path / "unrolled/__init__.py").write_text("print('the copy')\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import unrolled"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "the copy\n"
