"""Shards read like the array they hold, are written whole or not at all, and damage is noticed."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.core import locks
from unrolled.core.errors import DataError, UserError
from unrolled.data import shards
from unrolled.data.shards import (
    Encoded,
    Writer,
    digest,
    encoded,
    identity,
    remembered,
    unchanged,
)

KEY = {"file": "a", "tokenizer": "b"}
VALUES = np.random.default_rng(0).integers(0, 60_000, 1000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "SHARD", 600)  # bytes: seven files
    return tmp_path / "cache"


def write(writer: Writer) -> dict[str, int]:
    for part in np.array_split(VALUES, 9):
        writer.add(part.astype(writer.dtype).tobytes())
    writer.array("lines", np.arange(5))
    return {"count": len(VALUES)}


def never(writer: Writer) -> dict[str, int]:
    raise AssertionError("this was encoded before")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tokens_read_like_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "HELD", 3)  # pages are given back all the time
    kept = encoded(KEY, "uint16", write)
    assert len([name for name in names(kept.folder) if name.startswith("tokens-")]) > 2
    tokens = kept.tokens([7, 3])
    whole = np.append(VALUES, [7, 3])
    assert len(tokens) == len(whole)
    assert tokens[-1] == 3
    assert tokens[0] == whole[0]
    draw = np.random.default_rng(1)
    for shape in [(0,), (5,), (4, 9), (2, 3, 2)]:
        at = draw.integers(-len(whole), len(whole), shape)
        np.testing.assert_array_equal(tokens[at], whole[at])
        assert tokens[at].dtype == np.int32
    for cut in [
        slice(None),
        slice(None, -1),
        slice(250, 650),
        slice(990, 5000),
        slice(3, 3),
    ]:
        np.testing.assert_array_equal(tokens[cut], whole[cut])
    for wrong in (len(whole), -len(whole) - 1):
        with pytest.raises(IndexError):
            tokens[np.array([0, wrong])]


def test_a_system_that_keeps_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "HELD", 1)
    monkeypatch.delattr(mmap, "MADV_DONTNEED")
    # and has no locks
    monkeypatch.setattr(locks, "_lock_file", lambda handle, blocking: False)
    kept = encoded(KEY, "uint16", write)
    for _ in range(3):
        np.testing.assert_array_equal(kept.tokens()[:], VALUES)
    assert names(kept.folder.parent) == [kept.folder.name]


def test_what_was_encoded_is_not_encoded_again() -> None:
    first = encoded(KEY, "uint16", write)
    second = encoded(KEY, "uint16", never)
    assert (first.known, second.known) == (False, True)
    assert second.manifest["count"] == 1000
    np.testing.assert_array_equal(second.tokens()[:], VALUES)
    np.testing.assert_array_equal(second.array("lines"), np.arange(5))
    other = encoded(KEY | {"tokenizer": "c"}, "uint16", write)
    assert not other.known
    assert other.folder != first.folder


@pytest.mark.parametrize("damage", ["short", "flipped", "missing", "manifest", "array"])
def test_damage_is_noticed_and_mended(damage: str) -> None:
    folder = encoded(KEY, "uint16", write).folder
    path = folder / {"manifest": "manifest.json", "array": "lines.npy"}.get(
        damage, "tokens-0001.bin"
    )
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage in ("flipped", "array"):
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    else:
        path.write_bytes(content[:-5])
    mended = encoded(KEY, "uint16", write)
    assert not mended.known
    np.testing.assert_array_equal(mended.tokens()[:], VALUES)
    np.testing.assert_array_equal(mended.array("lines"), np.arange(5))


def test_a_copied_shard_is_whole_by_its_hash() -> None:
    folder = encoded(KEY, "uint16", write).folder
    os.utime(folder / "tokens-0000.bin", (1, 1))
    assert encoded(KEY, "uint16", never).known


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()]
)
def test_an_end_in_the_middle_leaves_no_trace(
    cache: Path, error: BaseException
) -> None:
    def stopped(writer: Writer) -> dict[str, int]:
        write(writer)
        raise error

    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        encoded(KEY, "uint16", stopped)
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
        assert "UNROLLED_CACHE" in str(caught.value)
    assert names(cache) == []
    assert not encoded(KEY, "uint16", write).known


def test_a_file_that_cannot_grow_is_a_clear_error(cache: Path) -> None:
    program = (
        "import resource, sys; from unrolled.data.shards import encoded\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: encoded({}, 'uint8', lambda writer: writer.add(bytes(300_000)) or {})\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.stdout.startswith("UserError"), done.stderr
    assert "File too large" in done.stdout
    assert names(cache) == []


def test_what_a_killed_process_left_is_removed(cache: Path) -> None:
    folder = cache / shards.digest(KEY)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True)
    (partial / "tokens-0000.bin").write_bytes(b"half")
    folder.with_name(f"{folder.name}.lock").touch()
    kept = encoded(KEY, "uint16", write)
    assert names(cache) == [kept.folder.name]
    np.testing.assert_array_equal(kept.tokens()[:], VALUES)


def test_two_at_once_encode_once() -> None:
    made: list[int] = []
    results: list[Encoded] = []

    def slow(writer: Writer) -> dict[str, int]:
        made.append(1)
        time.sleep(0.2)
        return write(writer)

    threads = [
        threading.Thread(target=lambda: results.append(encoded(KEY, "uint16", slow)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert sorted(kept.known for kept in results) == [False, True, True, True]


def test_a_small_value_is_worked_out_once(cache: Path) -> None:
    assert remembered(KEY, lambda: {"a": [1, "가"]}) == {"a": [1, "가"]}
    assert remembered(KEY, lambda: 2) == {"a": [1, "가"]}
    (path,) = cache.iterdir()
    assert json.loads(path.read_text("utf-8"))["key"] == KEY
    path.write_text(path.read_text("utf-8")[:-10], "utf-8")
    assert remembered(KEY, lambda: 2) == 2
    for _ in range(2):
        assert remembered({"rows": 1}, lambda: [1, float("inf")]) == [1, float("inf")]


def test_a_small_value_is_worked_out_by_one_of_several() -> None:
    made: list[int] = []
    values: list[Any] = []

    def slow() -> int:
        made.append(1)
        time.sleep(0.2)
        return 7

    threads = [
        threading.Thread(target=lambda: values.append(remembered(KEY, slow)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert values == [7] * 4


def test_what_fails_to_be_worked_out_is_no_error_of_the_cache(cache: Path) -> None:
    def broken() -> None:
        raise PermissionError("the data file")

    with pytest.raises(PermissionError, match="the data file"):
        remembered(KEY, broken)
    assert not names(cache)


def test_a_changed_file_of_a_folder_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SETTLED", -1.0)
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("text\none\n")
    first = identity(folder)
    assert first == identity(folder) == shards.fingerprint(folder)
    known = shards.fingerprint
    monkeypatch.setattr(shards, "fingerprint", lambda path: pytest.fail("hashed again"))
    assert identity(folder) == first
    monkeypatch.setattr(shards, "fingerprint", known)
    time.sleep(0.02)
    (folder / "b.csv").write_text("text\ntwo\n")
    second = identity(folder)
    (folder / "b.csv").rename(folder / "c.csv")
    assert len({first, second, identity(folder)}) == 3


def test_a_changed_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = shards.fingerprint
    monkeypatch.setattr(
        shards, "fingerprint", lambda path: hashed.append(path) or real(path)
    )
    path = tmp_path / "t.txt"
    path.write_text("one")
    first = identity(path)
    assert identity(path) == first
    assert len(hashed) == 2  # so new that it may change again without a new date
    monkeypatch.setattr(shards, "SETTLED", -1.0)
    assert [identity(path), identity(path)] == [first, first]
    assert len(hashed) == 3
    before = path.stat()
    time.sleep(0.02)
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same date
    assert identity(path) == real(path) != first


def test_a_file_written_to_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one")
    with unchanged(path):
        pass
    with pytest.raises(DataError, match="changed while it was read"), unchanged(path):
        path.write_text("three")


def test_a_flipped_byte_under_an_old_date_is_noticed() -> None:
    folder = encoded(KEY, "uint16", write).folder
    for path in sorted(folder.iterdir()):
        seen = path.stat()
        content = bytearray(path.read_bytes())
        for offset in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[offset] ^= 4
            path.write_bytes(changed)
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            mended = encoded(KEY, "uint16", write)
            assert not mended.known, (path.name, offset)
            np.testing.assert_array_equal(mended.tokens()[:], VALUES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 3),
        ("dtype", "uint32"),
        ("files", []),
        ("size", 1),
        ("held", 7),
        ("x", None),
    ],
)
def test_a_manifest_that_says_otherwise_is_made_anew(name: str, value: Any) -> None:
    folder = encoded(KEY, "uint16", write).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {name: value}))
    assert not encoded(KEY, "uint16", write).known


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=4
    )
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_remembered_value_that_was_changed_is_worked_out_anew(
    cache: Path, value: Any
) -> None:
    assert remembered(KEY, lambda: "right") == "right"
    (path,) = cache.glob("*.json")
    path.write_text(
        json.dumps({"value": value, "sha256": json.loads(path.read_text())["sha256"]})
    )
    assert remembered(KEY, lambda: "right") == "right"
    path.write_bytes(path.read_bytes()[:-3])
    assert remembered(KEY, lambda: "right") == "right"


def test_a_folder_put_in_the_place_of_another_is_made_anew(cache: Path) -> None:
    mine = {**KEY, "seen": (1, 2)}
    other = {**KEY, "file": "b"}
    folder = encoded(mine, "uint16", write).folder
    elsewhere = encoded(other, "uint16", write).folder
    assert encoded(mine, "uint16", write).known
    shutil.rmtree(elsewhere)
    shutil.copytree(folder, elsewhere)
    assert not encoded(other, "uint16", write).known
    assert remembered(mine, lambda: "mine") == "mine"
    assert remembered(mine, lambda: "anew") == "mine"
    (path,) = cache.glob("*.json")
    shutil.copy(path, cache / f"{digest(other)}.json")
    assert remembered(other, lambda: "other") == "other"


def test_a_shard_that_is_cut_while_it_is_mapped_is_an_error() -> None:
    kept = encoded(KEY, "uint16", write)
    tokens = kept.tokens()
    assert tokens[5] == VALUES[5]
    path = kept.folder / "tokens-0002.bin"
    os.truncate(path, 10)
    # to read past the end of a file ends the process
    for at in (slice(None), np.arange(700), 650):
        with pytest.raises(UserError, match=r"tokens-0002\.bin"):
            _ = tokens[at]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_lock_of_the_cache_that_is_a_link_is_refused(
    cache: Path, tmp_path: Path, what: str
) -> None:
    folder = encoded(KEY, "uint16", write).folder
    target = tmp_path / "precious"
    target.write_text("x") if what == "file" else target.mkdir()
    lock = folder.parent / f"{folder.name}.lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to(target)
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="lock"):
        encoded(KEY, "uint16", write)
    assert target.is_dir() or target.read_text() == "x"
