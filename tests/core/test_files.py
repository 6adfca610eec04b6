"""A file is either whole or as it was before."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from unrolled.core.files import replacing, sha256, write_bytes, write_json, write_text


class Crash(BaseException):
    """What no handler of ordinary errors may swallow."""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_keeps_its_line_ends_and_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    write_text(path, "가\r\nb\rc\n")
    assert path.read_bytes() == "가\r\nb\rc\n".encode()
    assert left(path.parent) == ["a.txt"]


def test_json_is_readable_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"글": 1})
    assert path.read_text("utf-8") == '{\n  "글": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text("utf-8")) == {"글": 1}
    assert left(tmp_path) == ["a.json"]


@pytest.mark.parametrize("stage", ["block", "fsync", "chmod", "replace"])
def test_a_failure_at_any_stage_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def crash(*args: object, **options: object) -> None:
        raise Crash(stage)

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"new, and longer")
            if stage == "block":
                crash()

    if stage != "block":
        monkeypatch.setattr(os if stage == "fsync" else Path, stage, crash)
    with pytest.raises(Crash, match=stage):
        write()
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["a.bin"]


def test_the_bytes_are_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync = os.fsync
    replace = Path.replace

    def told_fsync(handle: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def told_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", told_fsync)
    monkeypatch.setattr(Path, "replace", told_replace)
    write_bytes(tmp_path / "a", b"x")
    assert events == ["file", "rename", "folder"]


def test_a_system_that_syncs_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    fsync = os.fsync

    def closed(path: Path, *flags: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *flags)

    monkeypatch.setattr(os, "open", closed)
    write_bytes(tmp_path / "a", b"x")
    monkeypatch.undo()

    def refused(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refused)
    write_bytes(tmp_path / "a", b"y")
    assert (tmp_path / "a").read_bytes() == b"y"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    write_bytes(tmp_path / "a", data)
    assert sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
