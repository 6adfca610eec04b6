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
import threading
import time
from pathlib import Path

import pytest

from unrolled.core import locks
from unrolled.core.errors import UserError
from unrolled.core.locks import LOCK, held, locked

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


def test_a_second_process_is_refused_and_a_lock_of_a_killed_one_is_free(
    tmp_path: Path,
) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(UserError) as caught, locked(tmp_path):
            pass
        message = f"process {process.pid} on {socket.gethostname()}, since 2"
        assert str(caught.value).startswith(
            f"{tmp_path}: a training is at work here already ({message}"
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


@pytest.fixture
def unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def none(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)


@pytest.mark.usefixtures("unsupported")
def test_without_locks_of_the_file_system_a_file_names_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path / ".lock.owner"
    with locked(tmp_path):
        with (
            pytest.raises(
                UserError, match=f"if that process has ended, remove {owner}"
            ),
            locked(tmp_path),
        ):
            pass
        assert owner.exists()
    tmp_path.mkdir(exist_ok=True)
    with subprocess.Popen(["true"]) as gone:
        pass
    record = {"pid": gone.pid, "host": socket.gethostname(), "since": "then"}
    owner.write_text(json.dumps(record))
    with locked(tmp_path):
        assert json.loads(owner.read_text())["pid"] == os.getpid()
    tmp_path.mkdir(exist_ok=True)
    owner.write_text(json.dumps(record | {"host": "another"}))
    with pytest.raises(UserError, match="on another, since then"), locked(tmp_path):
        pass
    monkeypatch.setattr(locks, "PAUSE", 0.0)
    owner.write_text("")  # of a process that ended before it had written its name
    with pytest.raises(UserError, match="of another process"), locked(tmp_path):
        pass


def one_after_another(path: Path) -> None:
    """Many threads wait for one lock; none enters while another is inside."""
    inside = [0]
    most = [0]

    def work() -> None:
        with held(path, "busy", "wait", blocking=True):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.005)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (inside, most) == ([0], [1])
    assert list(path.parent.iterdir()) == []


def test_who_waits_enters_when_the_other_has_left(tmp_path: Path) -> None:
    one_after_another(tmp_path / "a.lock")


@pytest.mark.usefixtures("unsupported")
def test_who_waits_without_locks_of_the_file_system(tmp_path: Path) -> None:
    one_after_another(tmp_path / "a.lock")
    record = {"pid": 1, "host": "another", "since": "then"}
    (tmp_path / "a.lock.owner").write_text(json.dumps(record))
    refused = pytest.raises(
        UserError, match=r"^busy .*on another.*set another folder; if that"
    )
    path = tmp_path / "a.lock"
    with refused, held(path, "busy", "set another folder", blocking=True):
        pass


NO_LOCKS = """
import sys
sys.modules["fcntl"] = None  # importing it raises ImportError
from pathlib import Path
from unrolled.core.locks import held
path = Path(sys.argv[1])
with held(path, "busy", "wait") as lock:
    print(lock.is_held(), sorted(file.name for file in path.parent.iterdir()))
print(sorted(path.parent.iterdir()))
"""


def test_a_system_that_has_no_such_locks_at_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_LOCKS, str(tmp_path / "a.lock")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == "True ['a.lock', 'a.lock.owner']\n[]\n"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="could not be written"), locked(tmp_path):
        pass
