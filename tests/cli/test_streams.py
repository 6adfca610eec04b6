"""What reaches terminals, pipes, files and shells, whatever the data hold and whatever breaks."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unrolled as package
from conftest import SMALL, reviews, write_csv
from unrolled.cli.main import _run
from unrolled.cli.output import AnswerColumns
from unrolled.cli.output import write_csv as write_answers
from unrolled.core import terminal
from unrolled.core.words import command
from unrolled.tasks.base import Prediction
from unrolled.training.stopping import Terminated

Call = Callable[..., tuple[str, str]]
KEYS = [f"{key}={value}" for key, value in SMALL.items()]
COMMAND = [sys.executable, "-m", "unrolled"]
# all that a terminal obeys: C0 without the end of a line and the tab, DEL, and C1
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", reviews(60, 6), ("text", "label"))


def run(*words: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    given = {"capture_output": True, "timeout": 120, **options}
    return subprocess.run([*COMMAND, *map(str, words)], check=False, **given)


Inside = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Inside:
    """Run the command in this process; return its exit code and what it printed."""

    def call(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unrolled", *map(str, words)])
        capsys.readouterr()
        return _run(), *capsys.readouterr()

    return call


# streams that are closed or full


@pytest.mark.parametrize(
    "closed", [c for n in (1, 2, 3) for c in combinations((0, 1, 2), n)], ids=str
)
def test_closed_standard_files_are_no_files_of_the_run(
    data: Path, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    folder = tmp_path / "run"
    words = ["train", data, "--out", folder, "training.max_steps=3", *KEYS]
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        preexec_fn=close,
        capture_output=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert package.load(folder).predict(["a good film"])
    # what would have been printed stands in none of its files
    for path in folder.rglob("*"):
        assert not path.is_file() or b"trained 3 steps" not in path.read_bytes()[:2000]


def test_a_full_standard_error_ends_no_training(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Path("/dev/full").open("w") as full:
        words = ["train", data, "--out", folder, "training.max_steps=3", *KEYS]
        done = run(*words, capture_output=False, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 0
    assert package.load(folder).result["steps"] == 3


def test_a_full_standard_output_ends_no_training(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Path("/dev/full").open("w") as full:
        words = ["train", data, "--out", folder, "training.max_steps=3", *KEYS]
        done = run(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1  # something was lost
    assert package.load(folder).result["steps"] == 3
    assert "unrolled: standard output: " in done.stderr.decode().splitlines()[-1]


def test_an_instruction_level_that_is_none_is_one_line(home: SimpleNamespace) -> None:
    words = ["predict", home.runs["classify"], "a good film"]
    done = run(*words, env={**os.environ, "UNROLLED_ISA": "foo"})
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "UNROLLED_ISA" in line


def test_a_full_standard_output_is_told_in_one_line(home: SimpleNamespace) -> None:
    with Path("/dev/full").open("w") as full:
        words = ["predict", home.runs["classify"], "a good film"]
        done = run(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("unrolled: standard output: ")


# signals


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8, 1.5, 2.5])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_time_is_one_line_and_its_exit_code(
    data: Path, tmp_path: Path, delay: float, number: int
) -> None:
    folder = tmp_path / "run"
    words = ["train", data, "--out", folder, "training.max_steps=100000", *KEYS]
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    # before Python itself has begun there is nobody who could answer
    if process.returncode == -number:
        assert delay < 0.5
        return
    assert process.returncode == 128 + number, err
    assert b"Traceback" not in err
    if folder.exists() and (folder / "config.yaml").exists():
        assert b"go on with: unrolled train" in err or b"stopped" in err
        more = ["train", folder, "--resume", "training.max_steps=1"]
        assert run(*more).returncode in (0, 1)
    left = [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]
    assert left == []


@pytest.mark.parametrize(
    ("raised", "code"), [(Terminated("stopped"), 143), (KeyboardInterrupt(), 130)]
)
def test_a_signal_that_python_wraps_in_an_error_is_still_the_signal(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    # Python 3.11 raises a RuntimeError where a hook of a class being made does not return;
    # later versions let the signal pass
    class Hook:
        def __set_name__(self, owner: type, name: str) -> None:
            raise raised

    def make_class() -> None:
        type("Owner", (), {"hook": Hook()})

    monkeypatch.setattr("unrolled.runs.recipes.shipped", make_class)
    assert inside("recipes") == (code, "", "unrolled: stopped\n")


def test_ctrl_c_of_predict_speaks_of_no_training(home: SimpleNamespace) -> None:
    process = subprocess.Popen(
        [*COMMAND, "predict", str(home.runs["classify"]), "--live"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"a good film\n")
    assert process.stdout.readline() in (b"good\n", b"bad\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.decode().split() == ["unrolled:", "stopped"]


# what data hold reaches no terminal as it is


EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\x7f\x00"


def test_nothing_that_a_terminal_obeys_is_printed(
    tmp_path: Path, inside: Inside
) -> None:
    evil = EVIL.replace("\0", "")
    folder = tmp_path / f"a{evil}"
    folder.mkdir()
    rows = [(f"{text} {evil}", f"{label}{evil}") for text, label in reviews(60, 6)]
    path = write_csv(folder / f"r{evil}.csv", rows, (f"text{evil}", f"label{evil}"))
    out = tmp_path / "run"
    verbs = [
        ["train", path, "--out", out, "training.max_steps=3", *KEYS],
        ["predict", out, f"good {evil}"],
        ["predict", out, f"good {evil}", "--json"],
        ["predict", out, "--file", path],
        ["evaluate", out, path],
        ["doctor", path, *KEYS],
        ["doctor", out],
        ["train", path, f"model.{evil}=3"],
        ["train", f"x{evil}"],
        ["train", path, "--out", out],
        ["evaluate", out, f"gone{evil}"],
        ["predict", out, f"--{evil}"],
        [evil],
    ]
    for words in verbs:
        _, out, err = inside(*words)
        for stream in (out, err):
            match = OBEYED.search(stream)
            assert match is None, (words[0], stream[max(0, match.start() - 80) :][:160])
        assert out or err
        assert "Traceback" not in err


@pytest.mark.parametrize("encoding", ["ascii", "cp949"])
def test_what_a_terminal_cannot_show_is_escaped(
    home: SimpleNamespace, tmp_path: Path, encoding: str
) -> None:
    surrogate = "caf\udce9 \U0001f600 별로"
    env = os.environ | {"PYTHONIOENCODING": encoding}
    for words in (
        ["predict", home.runs["classify"], surrogate, "--json"],
        ["train", home.files["classify"], f"model.{surrogate}=1"],
        ["evaluate", home.runs["classify"], surrogate],
        [
            "generate",
            home.runs["language"],
            "--prompt",
            surrogate,
            "--max-new-tokens",
            "5",
        ],
    ):
        done = run(*words, env=env)
        assert b"Traceback" not in done.stderr, done.stderr.decode(encoding)
        done.stdout.decode(encoding)
        done.stderr.decode(encoding)
        if "--json" in words:
            assert json.loads(done.stdout.decode(encoding))["answer"] in ("good", "bad")


@given(st.text(st.characters(), max_size=40))
def test_a_message_is_one_line_that_commands_nothing(text: str) -> None:
    shown = terminal.clean(text)
    assert OBEYED.search(shown) is None
    assert len(shown.splitlines()) <= 1
    assert terminal.clean(shown) == shown


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_json_is_one_line_and_says_the_same(value: Any) -> None:
    line = terminal.as_json(value)
    assert json.loads(line) == value
    assert OBEYED.search(line) is None
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), [1, {"a": float("-inf")}]]
)
def test_no_number_is_no_json(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        terminal.as_json(value)


# answers in a table


def as_rows(cells: list[Any], raw: bool) -> list[str]:
    handle = io.StringIO()
    row = {f"c{n}": cell for n, cell in enumerate(cells)}
    write_answers(
        handle, iter([(row, Prediction("x", 0.5))]), AnswerColumns(list(row), raw)
    )
    return list(csv.reader(io.StringIO(handle.getvalue())))[1][: len(cells)]


cells = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.from_regex(r"\A[=+\-@\t\r\n ;'\"|%]{1,3}[a-z0-9()!.,;|]{0,8}\Z"),
    st.sampled_from(
        [
            "=1+1",
            "@SUM(A1)",
            "+cmd|' /C calc'!A0",
            "-2+3",
            "\t=1",
            " =1",
            " \r=",
            "＝1",
            "a;=1",
        ]
    ),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
)


@given(st.lists(cells, min_size=1, max_size=4))
def test_no_cell_of_answers_is_run_by_a_spreadsheet(given_cells: list[str]) -> None:
    written = as_rows(given_cells, raw=False)
    for before, after in zip(given_cells, written, strict=True):
        # only a mark before it tells the cells apart
        assert after in (before, f"'{before}")
        starts = after.lstrip(" \t\r\n").startswith(("=", "+", "-", "@"))
        if starts:
            float(after.strip())  # a plain number, or it raises
    assert as_rows(given_cells, raw=True) == given_cells


@pytest.mark.parametrize("number", ["-5", "+3", "-5.25", "-1e-3", "-.5", "-1,000"])
def test_a_plain_number_is_no_formula(number: str) -> None:
    assert as_rows([number], raw=False) == [number] or "," in number


def test_formulas_of_a_file_and_how_to_keep_them(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    texts = ['=HYPERLINK("http://x")', "-5", "@good film", "a good film"]
    path = write_csv(tmp_path / "t.csv", [(text,) for text in texts], ("text",))
    out = tmp_path / "a.csv"
    cli("predict", home.runs["classify"], "--file", path, "-o", out)
    written = [
        row["text"] for row in csv.DictReader(io.StringIO(out.read_text("utf-8")))
    ]
    assert written == ["'" + texts[0], "-5", "'" + texts[2], texts[3]]
    cli("predict", home.runs["classify"], "--file", path, "-o", out, "--raw")
    assert [
        row["text"] for row in csv.DictReader(io.StringIO(out.read_text("utf-8")))
    ] == texts


# answers in a file


def test_a_fault_leaves_an_older_file_and_keeps_what_was_answered(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [("1", "2")] * 2500 + [("x", "2")] + [("1", "2")] * 5
    path = write_csv(tmp_path / "t.csv", rows, ("rooms", "area"))
    out = tmp_path / "answers.csv"
    out.write_text("older,answers\n", encoding="utf-8")
    _, err = cli("predict", home.runs["regress"], "--file", path, "-o", out, code=1)
    assert out.read_text("utf-8") == "older,answers\n"
    kept = tmp_path / "answers.partial.csv"
    assert str(kept) in err
    assert f"{path}:2502" in err
    lines = kept.read_text("utf-8").splitlines()
    assert lines[0] == "rooms,area,answer"
    assert f"({len(lines) - 1:,} rows)" in err
    # a second time the first is not lost
    cli("predict", home.runs["regress"], "--file", path, "-o", out, code=1)
    assert {p.name for p in tmp_path.iterdir()} == {
        "t.csv",
        "answers.csv",
        "answers.partial.csv",
        "answers.partial-2.csv",
    }


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".txt"])
def test_a_fault_in_the_first_row_makes_no_file(
    cli: Call, home: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    path = write_csv(tmp_path / "t.csv", [("x", "2")], ("rooms", "area"))
    cli(
        "predict",
        home.runs["regress"],
        "--file",
        path,
        "-o",
        tmp_path / f"a{kind}",
        code=1,
    )
    cli(
        "predict",
        home.runs["regress"],
        "--file",
        "gone.csv",
        "-o",
        tmp_path / f"b{kind}",
        code=1,
    )
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_a_disk_that_is_full_leaves_an_older_file(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "t.csv", [("1", "2")] * 4000, ("rooms", "area"))
    out = tmp_path / "a.csv"
    out.write_text("older\n", encoding="utf-8")

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run(
        "predict", home.runs["regress"], "--file", path, "-o", out, preexec_fn=small
    )
    assert done.returncode == 1
    assert out.read_text("utf-8") == "older\n"
    (line,) = done.stderr.decode().splitlines()
    assert f"{out}: cannot be written" in line
    assert "a.partial.csv" in line


def test_a_pipe_is_written_to_while_rows_are_answered(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "t.csv", [("1", "2")] * 3, ("rooms", "area"))
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    contents: list[str] = []
    reader = threading.Thread(target=lambda: contents.append(pipe.read_text("utf-8")))
    reader.start()
    assert (
        run("predict", home.runs["regress"], "--file", path, "-o", pipe).returncode == 0
    )
    reader.join(30)
    assert len(contents[0].splitlines()) == 4
    assert pipe.is_fifo()


@pytest.mark.parametrize("kind", ["device", "pipe", "socket"])
def test_what_takes_no_answers_is_told_in_one_line(
    home: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    rows = [("1", "2")] * 3000
    path = write_csv(tmp_path / "t.csv", rows, ("rooms", "area"))
    target = tmp_path / "out.csv"
    if kind == "device":
        target.symlink_to("/dev/full")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(target))
    else:
        os.mkfifo(target)
        threading.Thread(target=lambda: target.open("rb").close(), daemon=True).start()
    before = os.lstat(target)
    done = run("predict", home.runs["regress"], "--file", path, "-o", target)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr.decode()
    assert len(done.stderr.splitlines()) <= 1
    assert os.path.samestat(os.lstat(target), before)


def test_a_long_name_keeps_what_was_answered(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "t.csv", [("1", "2"), ("x", "2")], ("rooms", "area"))
    target = tmp_path / f"{'y' * 248}.csv"
    _, err = cli("predict", home.runs["regress"], "--file", path, "-o", target, code=1)
    (kept,) = tmp_path.glob("*.partial.csv")
    assert str(kept) in err
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_a_link_stays_one(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "t.csv", [("1", "2")] * 3, ("rooms", "area"))
    (tmp_path / "real.csv").write_text("older\n", encoding="utf-8")
    link = tmp_path / "link.csv"
    link.symlink_to("real.csv")
    cli("predict", home.runs["regress"], "--file", path, "-o", link)
    assert link.is_symlink()
    assert len((tmp_path / "real.csv").read_text("utf-8").splitlines()) == 4


# lines without end


def test_one_line_ends_no_service(home: SimpleNamespace) -> None:
    deep = b"[" * 900 + b'"\\u00e9"' + b"]" * 900
    hostile = [
        b"1e300,1e300",
        deep,
        b"x" * 16_000_000,
        b"\xff\xfe",
        b'{"a": 1',
        b"nan,inf",
        b"",
    ]
    for kind, row in (
        ("vectors", b"7, 6"),
        ("classify", b"a good film"),
        ("tag", b"a b c"),
    ):
        lines = [part for line in hostile for part in (line, row)]
        began = time.monotonic()
        done = run(
            "predict",
            home.runs[kind],
            "--live",
            "--json",
            input=b"\n".join(lines) + b"\n",
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_AS, (12 << 30, 12 << 30)
            ),
        )
        assert done.returncode == 0, done.stderr[-500:]
        assert time.monotonic() - began < 60
        answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
        assert len(answers) == len(lines)
        sound = {json.dumps(answer["answer"]) for answer in answers[1::2]}
        assert len(sound) == 1  # the row between them is answered as ever
        assert not any(answer.get("error") for answer in answers[1::2])
        assert "data.max_row" in answers[4]["error"]


# commands that are to be copied


@pytest.mark.parametrize(
    "name",
    [
        "my data; echo PWNED",
        "$(echo PWNED)",
        "`echo PWNED`",
        "it's",
        'a"b',
        "-x",
        "~",
        "a\tb",
    ],
)
def test_printed_commands_are_those_of_the_shell(
    tmp_path: Path, inside: Inside, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = write_csv(folder / f"{name}.csv", reviews(60, 6), ("text", "label"))
    out = tmp_path / f"out {name}"
    words = ["training.max_steps=3", "name=a b", *KEYS]
    code, output, err = inside("train", path, "--out", out, *words)
    assert code == 0, err
    lines = output.split("next:\n")[1].splitlines()
    lines += [line[6:] for line in output.splitlines() if line.startswith("more: ")]
    _, _, err = inside("train", path, "--out", out, *words)
    lines.append(err.split("go on with it: ")[1].split(", or choose")[0])
    for line in lines:
        # as bash reads it: what follows `unrolled`, an argument a line
        script = "unrolled() { printf '%s\\0' \"$@\"; }\n" + line
        read = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        arguments = read.stdout.decode().split("\0")[:-1]
        assert read.stderr == b"", line
        # the folder or the file is one of them, whole; a tab is shown, and so stands otherwise
        if "\t" not in name:
            assert {str(path), str(out)} & set(arguments), line
        assert "PWNED" not in [part.strip() for part in arguments]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8))
)
def test_a_command_is_read_back_as_its_words(words: list[str]) -> None:
    plain = [
        word for word in words if OBEYED.search(word) is None and word.isprintable()
    ]
    assert shlex.split(command(*plain)) == ["unrolled", *plain]
