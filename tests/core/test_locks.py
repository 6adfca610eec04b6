"""One process at a time in a folder, whatever became of the last."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from unrolled.core.errors import UserError
from unrolled.core.locks import LOCK, OWNED, locked

HOLD = """
import sys, time
from pathlib import Path
from unrolled.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_lock_of_a_killed_one_is_free(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(UserError) as caught, locked(tmp_path):
            pass
        told = f"process {process.pid} on {socket.gethostname()}, since 2"
        assert str(caught.value).startswith(
            f"{tmp_path}: a training is at work here already ({told}"
        )
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert tmp_path.exists() is False  # nothing was begun in it


def test_a_folder_with_files_stays_and_its_lock_goes(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_without_locks_of_the_file_system_a_file_names_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    owner = tmp_path / OWNED
    with locked(tmp_path):
        with (
            pytest.raises(UserError, match=f"if that training has ended, remove {owner}"),
            locked(tmp_path),
        ):
            pass
        assert owner.exists()
    tmp_path.mkdir(exist_ok=True)
    with subprocess.Popen(["true"]) as gone:
        pass
    told = {"pid": gone.pid, "host": socket.gethostname(), "since": "then"}
    owner.write_text(json.dumps(told))
    with locked(tmp_path):
        assert json.loads(owner.read_text())["pid"] == os.getpid()
    tmp_path.mkdir(exist_ok=True)
    owner.write_text(json.dumps(told | {"host": "another"}))
    with pytest.raises(UserError, match="on another, since then"), locked(tmp_path):
        pass
