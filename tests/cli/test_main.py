"""The command itself: help, usage errors, exit codes, and what it costs to start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

VERBS = [
    *("train", "doctor", "evaluate", "predict", "generate", "chat"),
    *("inspect", "load", "compare", "recall", "export", "recipes"),
]
Call = Callable[..., tuple[str, str]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(cli: Call, verb: str) -> None:
    out, err = cli(verb, "--help")
    assert f"Usage: unrolled {verb}" in out
    assert f"unrolled {verb} " in out.split("Example", 1)[1]
    assert err == ""


def test_the_help_lists_the_verbs(cli: Call) -> None:
    out, _ = cli("--help")
    assert [
        line.split()[0] for line in out.split("Commands:")[1].splitlines() if line
    ] == VERBS


def test_the_version_is_that_of_the_package(cli: Call) -> None:
    import unrolled

    assert cli("--version")[0] == f"unrolled {unrolled.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frob"], "No such command 'frob'"),
        (["predict"], "Missing argument 'RUN'"),
        (["evaluate", "runs/x"], "Missing argument 'DATA'"),
        (["train", "x.csv", "--sed", "3"], "No such option: --sed"),
        (["train", "x.csv", "--seed", "-1"], "'--seed'"),
        (["generate", "runs/x", "--temperature", "-1"], "'--temperature'"),
        (["generate", "runs/x", "--max-new-tokens", "many"], "'--max-new-tokens'"),
        (["train", "x.csv"], "there is no recipe and no file 'x.csv'"),
        (["train", "x.csv", "lstm"], "'lstm' is not key=value"),
        (["predict", "runs/x"], "give rows, or --file FILE, or --live"),
        (["predict", "runs/x", "a", "--live"], "give rows, or --file FILE, or --live"),
        (["predict", "runs/x", "a", "-o", "b.csv"], "add --file FILE"),
        (["recipes", "nope"], "there is no recipe 'nope'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    cli: Call, words: list[str], message: str
) -> None:
    out, err = cli(*words, code=2)
    assert message in err
    assert out == ""
    assert err.count("\n") == 1


def test_no_verb_shows_the_help(cli: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from unrolled.cli.main import _run

    monkeypatch.setattr(sys, "argv", ["unrolled"])
    assert _run() == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "runs/x", "a"], "runs/x: there is no such run"),
        (["evaluate", "runs/x", "a.csv"], "runs/x: there is no such run"),
        (["generate", "runs/x"], "runs/x: there is no such run"),
    ],
)
def test_failed_work_is_one_line_and_exit_code_1(
    cli: Call, words: list[str], message: str
) -> None:
    out, err = cli(*words, code=1)
    assert message in err
    assert out == ""


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            "out of memory",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
            1,
            "out of memory",
        ),
        (
            RuntimeError("Storage size calculation overflowed with sizes=[9]"),
            1,
            "out of memory",
        ),
        (
            PermissionError(13, "Permission denied", "/x/y"),
            1,
            "/x/y: Permission denied",
        ),
    ],
)
def test_what_befalls_a_program_is_one_line(
    cli: Call,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    message: str,
) -> None:
    import unrolled.run

    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(unrolled.run, "load", fails)
    _, err = cli("evaluate", "runs/x", "a.csv", code=code)
    assert message in err


def test_other_runtime_errors_keep_their_traceback(
    cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import unrolled.run

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(unrolled.run, "load", fails)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        cli("evaluate", "runs/x", "a.csv")


def test_a_model_larger_than_the_memory_is_one_line(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    words = [
        home.files["classify"],
        "model.hidden=100000000",
        "--out",
        tmp_path / "run",
    ]
    _, err = cli("train", *words, code=1)
    assert "out of memory; lower model.hidden or model.embedding" in err


def test_a_folder_that_cannot_be_written_is_one_line(
    cli: Call, home: SimpleNamespace
) -> None:
    _, err = cli("train", home.files["vectors"], "--out", "/proc/unrolled", code=1)
    assert "/proc/unrolled" in err


def test_ctrl_c_stops_a_training_that_goes_on_later(
    home: SimpleNamespace, tmp_path: Path, cli: Call
) -> None:
    words = [home.files["vectors"], "training.checkpoint_every=5", "training.threads=1"]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "unrolled",
            "train",
            *map(str, words),
            "--out",
            str(run),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if list(run.glob("checkpoints/step-*")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: unrolled train {run} --resume" in err
    assert "Traceback" not in err
    newest = max(int(p.name[5:]) for p in run.glob("checkpoints/step-*"))
    out, _ = cli("train", run, f"training.max_steps={newest + 5}", "--resume")
    assert f"trained {newest + 5} steps" in out


def test_python_m_unrolled_is_the_command(
    unrolled: Callable[..., subprocess.CompletedProcess[str]], home: SimpleNamespace
) -> None:
    done = unrolled("predict", home.runs["vectors"], "7, 6")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().lstrip("-").isdigit()
    done = unrolled("frob")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("unrolled: No such command 'frob'")


def test_a_reader_that_leaves_is_no_error(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text\n" + "row of a film\n" * 20000)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "unrolled",
            "predict",
            str(home.runs["classify"]),
            "--file",
            str(rows),
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["answer"] in ("good", "bad")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
