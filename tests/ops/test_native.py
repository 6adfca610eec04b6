"""Finding, checking and describing the native core; what happens where there is none."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unrolled import nn
from unrolled.ops import native

HEADER = Path(__file__).parents[2] / "native" / "include" / "unrolled.h"
core = pytest.mark.usefixtures("core")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not looked for the library yet."""
    monkeypatch.setattr(native, "_library", None)
    monkeypatch.setattr(native, "_missing", None)


def _listed(text: str, name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} {{(.*?)}};", text, re.S)
    assert body is not None
    return {
        key: int(value) for key, value in re.findall(r"UNROLLED_(\w+) = (\d+)", body[1])
    }


def _fields(text: str, name: str) -> list[tuple[str, str]]:
    """Return the members of a struct, with their kinds as ``struct`` has them."""
    fields = []
    for line in re.search(rf"typedef struct {name} {{(.*?)}}", text, re.S)[1].split(
        ";"
    ):
        kind = re.match(r"\s*(?:const )?(int32_t|int64_t|float)\b(.*)", line, re.S)
        for part in kind[2].split(",") if kind else ():
            member = re.fullmatch(r"\W*(?:const )?\W*(\w+)(?:\[(\d)\])?\s*", part)
            code = "P" if "*" in part else {"int32_t": "i", "int64_t": "q"}[kind[1]]
            fields.append((member[1], (member[2] or "") + code))
    return fields


def test_the_header_says_the_same() -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text("utf-8"), flags=re.S)
    assert int(re.search(r"#define UNROLLED_ABI (\d+)", text)[1]) == native.ABI
    for name, table in (
        ("unrolled_cell", native.CELLS),
        ("unrolled_counter", native._COUNTERS | {"matmul": 3}),
        ("unrolled_level", {name: index for index, name in enumerate(native.LEVELS)}),
    ):
        assert {
            key.lower(): value for key, value in _listed(text, name).items()
        } == table
    precisions = {"fp32": "float32"}
    enumerators = _listed(text, "unrolled_precision")
    assert {
        precisions.get(key.lower(), key.lower()): value
        for key, value in enumerators.items()
    } == native.DECODER_PRECISIONS
    # the structs: names and kinds in one order
    assert _fields(text, "unrolled_run") == list(native.FIELDS.items())
    assert _fields(text, "unrolled_decoding") == list(native.DECODING.items())
    # the functions: how many arguments
    declared = re.findall(r"UNROLLED_API [^;(]*?unrolled_(\w+)\((.*?)\);", text, re.S)
    counts = {
        name: 0 if arguments.strip() == "void" else arguments.count(",") + 1
        for name, arguments in declared
    }
    assert counts.pop("abi") == 0
    assert counts.pop("matmul") == 15  # for C alone
    assert {
        name: len(kinds) - 1 for name, kinds in native._SIGNATURES.items()
    } == counts


def _nowhere(path: Path) -> str:
    return "no .*libunrolled"


def _no_library(path: Path) -> str:
    path.write_text("not a library", "utf-8")
    return "libunrolled"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("prepare", [_nowhere, _no_library])
def test_without_the_library_there_is_one_warning_and_torchs_path(
    prepare: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "libunrolled.so"
    reason = prepare(path)
    monkeypatch.setenv("UNROLLED_LIBRARY", str(path))
    layer = nn.GRU(3, 4)
    x = torch.randn(2, 5, 3)
    theirs = torch.nn.GRU(3, 4, batch_first=True)
    theirs.load_state_dict(layer.state_dict())
    with pytest.warns(
        RuntimeWarning, match=f"not in use: .*{reason}.*compiler and reinstall"
    ):
        y = layer.read(x)
    torch.testing.assert_close(y, theirs(x)[0])
    layer.read(x).sum().backward()  # a warning is an error here
    assert str(path) in native.missing()
    assert layer.explain() == f"layer 0: torch ({native.missing()})"
    with pytest.raises(RuntimeError, match="expected the native core, got none"):
        native.level()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ({"unrolled_abi": lambda: 99}, r"of version 99, expected \d+"),
        ({}, r"of version 0, expected \d+"),
        ({"unrolled_abi": lambda: native.ABI}, "has no unrolled_level"),
    ],
)
def test_a_library_of_another_version_is_left_alone(
    functions: dict[str, Any],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "libunrolled.so"
    path.touch()
    monkeypatch.setenv("UNROLLED_LIBRARY", str(path))
    monkeypatch.setattr(
        native.ctypes, "CDLL", lambda name: SimpleNamespace(**functions)
    )
    with pytest.warns(RuntimeWarning, match=reason):
        assert native.library() is None
    assert not native.available()


@pytest.mark.skipif(not native.available(), reason="needs the native core")
@pytest.mark.skipif(
    sys.platform != "linux", reason="libraries of Linux alone are looked into"
)
@pytest.mark.usefixtures("fresh")
def test_a_library_that_lacks_bytes_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next(path for path in native._candidates() if path.is_file()).read_bytes()
    path = tmp_path / "libunrolled.so"
    monkeypatch.setenv("UNROLLED_LIBRARY", str(path))
    # loading one ends the process: so it must not come to that
    monkeypatch.setattr(
        native.ctypes, "CDLL", lambda name: pytest.fail(f"{name} was loaded")
    )
    for size in (
        5,
        63,
        64,
        5_000,
        len(whole) * 3 // 10,
        len(whole) * 9 // 10,
        len(whole) - 1,
    ):
        path.write_bytes(whole[:size])
        monkeypatch.setattr(native, "_missing", None)
        with pytest.warns(RuntimeWarning, match="cut short"):
            assert native.library() is None
        assert "libunrolled.so is cut short" in native.missing()


@pytest.mark.usefixtures("fresh")
def test_many_threads_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def slowly() -> SimpleNamespace:
        opened.append(1)
        sum(range(200_000))
        raise OSError("gone")

    monkeypatch.setattr(native, "_open", slowly)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            assert not any(pool.map(lambda _: native.available(), range(32)))
    assert len(opened) == len(caught) == 1


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNROLLED_LIBRARY", raising=False)
    for platform, end in (("linux", "so"), ("darwin", "dylib"), ("win32", "dll")):
        monkeypatch.setattr(sys, "platform", platform)
        beside, installed = native._candidates()
        assert beside == Path(native.__file__).parent / f"libunrolled.{end}"
        assert installed.parts[-3:] == ("unrolled", "ops", f"libunrolled.{end}")


@core
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", ["avx1024", "AVX2", "portable,avx2"])
def test_a_level_that_is_unknown_is_refused_at_every_call(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNROLLED_ISA", name)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=rf"expected UNROLLED_ISA out of portable.*'{name}'"
        ):
            nn.RNN(2, 3).read(torch.randn(1, 2, 2))


@core
def test_a_level_that_does_not_run_here_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = SimpleNamespace(best_level=lambda: 1, set_level=lambda level: -1)
    monkeypatch.setattr(native, "_library", small)
    with pytest.raises(
        ValueError, match="expected a level out of portable, avx2, got 'avx512'"
    ):
        native.set_level("avx512")


@core
@pytest.mark.usefixtures("fresh")
def test_the_environment_chooses_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLLED_ISA", "portable")
    assert native.level() == "portable"
    assert native.features() == ()
    assert nn.GRU(2, 3).explain() == "layer 0: native (portable, float32)"


@core
def test_levels_and_counters() -> None:
    for level in native.levels():
        native.set_level(level)
        assert native.level() == level
    before = native.count("forward"), native.count("backward")
    layer = nn.LSTM(2, 3, 2, bidirectional=True)
    y = layer.read(torch.randn(1, 2, 2))
    assert native.count("forward") == before[0] + 4
    y.sum().backward()
    assert native.count("backward") == before[1] + 4


@core
def test_a_complaint_becomes_an_error() -> None:
    native.check(None)
    with pytest.raises(ValueError, match="the native core: expected k"):
        native.check(b"expected k")


@core
def test_what_the_processor_can_do() -> None:
    library = native.library()
    assert library is not None
    assert library.peak(native.PRECISIONS["float32"], 1, 0.01) > 1e8
    assert library.bandwidth(1 << 16, 1, 0.01) > 1e8
