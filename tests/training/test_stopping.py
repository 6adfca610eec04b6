"""SIGINT and SIGTERM: the step is finished, a checkpoint written, and the bits stay the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from training.test_loop import classifier, job, left, texts
from unrolled.data.batches import Buckets
from unrolled.nn import State
from unrolled.training import checkpoints
from unrolled.training.loop import fit
from unrolled.training.objectives import Loss, classes
from unrolled.training.stopping import Interrupted, Stop, Terminated

RUN = """
import os, signal, sys, time
from unrolled.cli.main import main
from unrolled.training.update import Updater
update, turn, number, twice = Updater.update, int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "2"
calls = []
def signalled(self, losses):
    calls.append(1)
    if len(calls) == turn:
        for _ in range(1 + twice):
            os.kill(os.getpid(), number)
            time.sleep(0.05)
    return update(self, losses)
Updater.update = signalled
sys.argv = ["unrolled", *sys.argv[4:]]
main()
"""


def command(
    folder: Path, turn: int, number: int, times: int
) -> subprocess.CompletedProcess[str]:
    rows = folder.parent / "rows.csv"
    rows.write_text(
        "a,b,c\n" + "".join(f"{i},{i % 7},{i * (i % 7)}\n" for i in range(1, 60))
    )
    words = [
        "train",
        str(rows),
        "training.max_steps=12",
        "training.threads=1",
        "training.checkpoint_every=4",
        "--out",
        str(folder),
    ]
    return subprocess.run(
        [sys.executable, "-c", RUN, str(turn), str(int(number)), str(times), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_a_run_with_one_checkpoint_and_one_line(
    tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    done = command(run, 6, number, 1)
    assert done.returncode == code, done.stderr
    message = f"unrolled: stopped at step 6; go on with: unrolled train {run} --resume"
    assert done.stderr.splitlines()[-1] == message
    assert "Traceback" not in done.stderr
    assert checkpoints.steps(run / "checkpoints") == [4, 6]
    assert checkpoints.check(run / "checkpoints/step-6") is None
    assert not (run / ".lock").exists()


@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGINT, (130,)), (signal.SIGTERM, (-15,))]
)
def test_a_second_signal_ends_it_at_once_and_the_old_checkpoint_is_intact(
    tmp_path: Path, number: int, codes: tuple[int, ...]
) -> None:
    done = command(tmp_path / "run", 6, number, 2)
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr
    checkpoint, passed_over = checkpoints.newest(tmp_path / "run/checkpoints")
    assert checkpoint is not None
    assert (checkpoint.step, passed_over) == (4, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_python_it_is_an_exception_and_the_run_goes_on_with_the_same_bits(
    tmp_path: Path, number: int, accumulate: int
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def run(folder: Path, seed: int, turn: int, resume: bool) -> None:
        calls = list[int]()
        plain = classes()

        def objective(
            model: torch.nn.Module, batch: object, carry: State | None
        ) -> Loss:
            calls.append(1)
            if len(calls) == turn:
                os.kill(os.getpid(), number)
            return plain(model, batch, carry)  # type: ignore[arg-type]

        source = Buckets(texts(40), 4, None, 2)
        training_job = job(
            folder,
            classifier(seed, 0.3),
            source,
            objective,
            max_steps=16,
            accumulate=accumulate,
            average="ema",
            log_every=3,
        )
        torch.manual_seed(seed)
        fit(training_job, resume)

    run(tmp_path / "straight", 0, 0, resume=False)
    # in the middle of an epoch, inside an accumulation, and at the end of an epoch
    for turn in (3, 10, 1):
        resume = (tmp_path / "stopped").exists()
        kind = Interrupted if number == signal.SIGINT else Terminated
        with pytest.raises(
            kind, match=r"go on with: unrolled.train\(.*, resume=True\)"
        ) as caught:
            run(tmp_path / "stopped", 80 if resume else 0, turn, resume)
        assert isinstance(caught.value, KeyboardInterrupt | SystemExit)
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    run(tmp_path / "stopped", 99, 0, resume=True)
    (tensors, state, lines), (others, its_state, its_lines) = map(
        left, (tmp_path / "straight", tmp_path / "stopped")
    )
    assert (state, lines) == (its_state, its_lines)
    assert all(torch.equal(t, others[name]) for name, t in tensors.items())


def test_another_thread_catches_nothing_and_an_ignored_signal_stays_so() -> None:
    seen: list[bool] = []

    def inside() -> None:
        with Stop(quiet=True) as stop:
            seen.append(not stop.before)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [True]
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Stop(quiet=True) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGTERM, before)
