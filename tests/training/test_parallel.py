"""Several processes make the updates of one, and end and go on as one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from training.test_killed import assert_same_end, dev_lines, losses
from training.test_loop import classifier, stream, texts
from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import Batch, BatchSource, Buckets
from unrolled.nn.state import RecurrentState, unpack
from unrolled.runs.plan import make_plan
from unrolled.training import checkpoints, parallel
from unrolled.training.job import TrainingJob
from unrolled.training.objectives import Loss, classes
from unrolled.training.parallel import (
    ProcessGroup,
    StepReport,
    interleaved,
    joined,
    merged,
    random_states,
)
from unrolled.training.precision import choose
from unrolled.training.progress import read_metrics

HELPER = Path(__file__).with_name("group.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
DRY = {
    f"model.{name}": 0
    for name in ("dropout", "head_dropout", "embedding_dropout", "ngram_dropout")
}
COMMON = {
    "training.max_steps": 12,
    "training.checkpoint_every": 3,
    "training.evaluate_every": 4,
    "training.log_every": 1,
    "training.threads": 1,
    "training.precision": "fp32",
    "model.hidden": 8,
    "model.embedding": 8,
}
SCENES: dict[str, dict[str, Any]] = {
    # five lanes, of which two processes carry three and two
    "text.txt": COMMON
    | {
        "layer": "lstm",
        "training.window": 8,
        "training.batch_size": 5,
        "model.layers": 2,
        "training.reset": 0.2,
        "training.average": "ema",
        "training.ema_decay": 0.8,
    },
    "rows.csv": COMMON
    | {
        "layer": "gru",
        "training.batch_size": 5,
        "training.accumulate": 2,
        "data.vocabulary": 60,
        "data.tokenizer": "words",
        "model.ngrams": 500,
    },
    "pairs.tsv": COMMON
    | {
        "layer": "attention",
        "task": "translate",
        "data.tokenizer": "whitespace",
        "model.heads": 2,
        "model.bidirectional": "true",
        "data.max_tokens": 16,
        "model.attention_dropout": 0,
        "training.batch_size": 6,
        "training.label_smoothing": 0.1,
        "training.average": "last",
        "training.average_last": 2,
    },
    # a GPT, whose blocks are gathered one by one
    "windows.txt": COMMON
    | {
        "layer": "attention",
        "model.layers": 2,
        "model.heads": 2,
        "model.kv_heads": 1,
        "model.feedforward_size": 9,
        "model.tie": "true",
        "training.window": 8,
        "training.batch_size": 5,
        "training.average": "ema",
        "training.ema_decay": 0.8,
    },
    # two lanes: the third process has no row of its own
    "two.txt": COMMON
    | {"layer": "gru", "training.window": 8, "training.batch_size": 2},
}
SHARD: dict[str, Any] = {"training.shard": "true"}
DROPPING = {"model.embedding_dropout": 0.3, "model.head_dropout": 0.3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    words = [
        "good",
        "bad",
        "fine",
        "film",
        "plot",
        "actor",
        "dull",
        "bright",
        "slow",
        "quick",
    ]
    lines = [" ".join(draw.choices(words, k=draw.randint(2, 9))) for _ in range(150)]
    for name in ("text.txt", "two.txt", "windows.txt"):
        (folder / name).write_text("\n".join(lines[:25]) + "\n")
    rows = [f'"{line}",{"yes" if "good" in line else "no"}' for line in lines]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    pairs = [f"{line}\t{' '.join(reversed(line.split()))}" for line in lines]
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "\n".join(pairs) + "\n")
    return folder


Ask = Callable[..., list[int]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Return a function that starts a group of processes and tells how they ended."""
    with subprocess.Popen(
        [sys.executable, str(HELPER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        pipes = process.stdin, process.stdout

        def start(processes: int, errors: Path, **options: Any) -> list[int]:
            assert pipes[0] is not None
            assert pipes[1] is not None
            errors.mkdir(parents=True, exist_ok=True)
            line = {"processes": processes, "errors": str(errors), **options}
            pipes[0].write(json.dumps(line) + "\n")
            pipes[0].flush()
            return list(json.loads(pipes[1].readline()))

        yield start
        assert process.stdin is not None
        process.stdin.close()


def words(data: Path, scene: str, folder: Path, **changes: Any) -> list[str]:
    arguments = [f"{key}={value}" for key, value in (SCENES[scene] | changes).items()]
    resume = ["--resume"] if (folder / "config.yaml").exists() else []
    return ["train", str(data / scene), *arguments, "--out", str(folder), *resume]


def said(errors: Path, rank: int) -> str:
    return (errors / f"told-{rank}").read_text("utf-8")


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


# the updates of one process


def assert_near(folder: Path, other: Path) -> None:
    """The same steps, and losses that differ by the order in which fp32 numbers were added."""
    ours = losses(folder)
    theirs = losses(other)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    # one rounding is 6e-8; AdamW's first steps, which only see signs, make more of it
    assert [loss for _, loss in ours] == pytest.approx(
        [loss for _, loss in theirs], rel=1e-5
    )
    for mine, yours in zip(dev_lines(folder), dev_lines(other), strict=True):
        assert mine.pop("kind") == yours.pop("kind") == "dev"
        assert mine == pytest.approx(yours, rel=1e-5)
    assert result(folder)["tokens"] == result(other)["tokens"]


@pytest.mark.parametrize(
    ("scene", "several", "is_sharded"),
    [
        ("text.txt", 2, True),
        ("rows.csv", 2, False),
        ("pairs.tsv", 2, False),
        ("two.txt", 3, False),
        ("windows.txt", 2, True),
    ],
)
def test_several_processes_have_the_losses_of_one(
    tmp_path: Path, data: Path, ask: Ask, scene: str, several: int, is_sharded: bool
) -> None:
    for processes in (1, several):
        line = words(data, scene, tmp_path / f"run{processes}", **DRY)
        codes = ask(processes, tmp_path / "errors", words=line)
        assert codes == [0] * processes, said(tmp_path / "errors", 0)
    assert_near(tmp_path / "run1", tmp_path / f"run{several}")
    # the first one alone speaks
    assert f"in {several} processes" in (tmp_path / "errors/said-0").read_text("utf-8")
    assert (tmp_path / "errors/said-1").read_text("utf-8") == ""
    assert said(tmp_path / "errors", 1) == ""
    if not is_sharded:
        return
    # and where each has a part of the weights
    line = words(data, scene, tmp_path / "sharded", **DRY, **SHARD)
    codes = ask(several, tmp_path / "errors", words=line)
    assert codes == [0] * several, said(tmp_path / "errors", 0)
    assert_near(tmp_path / "run1", tmp_path / "sharded")
    assert_same_tensors(tmp_path / "run1", tmp_path / "sharded")


def assert_same_tensors(folder: Path, other: Path) -> None:
    """The newest checkpoints hold whole tensors of the same names, equal to rounding."""
    ours, theirs = (
        checkpoints.load(run / "checkpoints/step-12").tensors for run in (folder, other)
    )
    random = {name for name in theirs if name.startswith("random.cpu.")}
    assert ours.keys() == theirs.keys() - random
    for name, tensor in ours.items():
        if name.startswith(("model.", "average.", "best.")):
            # twelve steps of AdamW: 2e-3 each at most, where a gradient is near zero
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-3)
        else:
            assert theirs[name].shape == tensor.shape


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        # bf16 products round to 4e-3, and sums over rows in another order
        ({"training.precision": "bf16"}, 2e-3),
        # Newton-Schulz in bf16, of matrices that are multiplied in parts
        ({"training.optimizer": "muon"}, 2e-3),
        ({"training.checkpoint_activations": "true"}, 1e-5),
        ({"training.average": "last", "training.optimizer": "sgd"}, 1e-5),
    ],
)
def test_divided_weights_have_the_losses_of_one_process(
    tmp_path: Path, data: Path, ask: Ask, changes: dict[str, Any], tolerance: float
) -> None:
    curves = []
    for processes in (1, 2):
        folder = tmp_path / f"run{processes}"
        line = words(data, "windows.txt", folder, **DRY, **SHARD | changes)
        codes = ask(processes, tmp_path / "errors", words=line)
        assert codes == [0] * processes, said(tmp_path / "errors", 0)
        curves.append([loss for _, loss in losses(folder)])
    assert curves[1] == pytest.approx(curves[0], rel=tolerance)


@pytest.fixture(scope="module")
def sharded(data: Path, ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two processes, each with a part, that was never stopped."""
    folder = tmp_path_factory.mktemp("sharded")
    line = words(data, "windows.txt", folder / "run", **DROPPING, **SHARD)
    assert ask(2, folder / "errors", words=line) == [0, 0], said(folder / "errors", 0)
    return folder / "run"


def test_divided_killed_and_resumed_they_end_with_the_same_bits(
    tmp_path: Path, data: Path, ask: Ask, sharded: Path
) -> None:
    folder = tmp_path / "run"
    errors = tmp_path / "errors"
    for rank, point, turn in ((1, "backward", 5), (0, "sha256", 4)):
        line = words(data, "windows.txt", folder, **DROPPING, **SHARD)
        codes = ask(2, errors, words=line, hits=[[rank, point, turn, signal.SIGKILL]])
        assert codes[rank] == -signal.SIGKILL
        assert codes[1 - rank] == 1
        last = said(errors, 1 - rank).splitlines()[-1]
        assert last.startswith("unrolled: another process of this training has ended")
        assert "Traceback" not in said(errors, 1 - rank)
    line = words(data, "windows.txt", folder, **DROPPING, **SHARD)
    assert ask(2, errors, words=line) == [0, 0], said(errors, 0)
    assert_same_end(folder, sharded)


def test_divided_all_go_back_together(tmp_path: Path, data: Path, ask: Ask) -> None:
    changes = {**DRY, **SHARD, "training.max_skips": 1}
    line = words(data, "windows.txt", tmp_path / "run", **changes)
    assert ask(2, tmp_path, words=line, poison=[5, 6]) == [0, 0], said(tmp_path, 0)
    events = read_metrics(tmp_path / "run/metrics.jsonl")
    guard = [event for event in events if "event" in event]
    assert [(event["step"], event["event"]) for event in guard] == [(3, "rollback")]
    assert result(tmp_path / "run")["steps"] == 12


@pytest.mark.parametrize(
    ("lives"),
    [
        # divided among two, then one process by itself, then three
        [(2, "true", 4), (1, "true", 4), (3, "true", None)],
        # whole in one, divided, whole in both
        [(1, "false", 4), (2, "true", 4), (2, "false", None)],
    ],
)
def test_a_checkpoint_knows_nothing_of_how_weights_were_divided(
    tmp_path: Path, data: Path, ask: Ask, lives: list[tuple[int, str, int | None]]
) -> None:
    errors = tmp_path / "errors"
    whole = words(data, "windows.txt", tmp_path / "whole", **DRY)
    assert ask(1, errors, words=whole) == [0]
    run = tmp_path / "run"
    for processes, shard, turn in lives:
        changes = {**DRY, "training.shard": shard}
        hits = [] if turn is None else [[0, "update", turn, signal.SIGTERM]]
        code = 0 if turn is None else 143
        line = words(data, "windows.txt", run, **changes)
        assert ask(processes, errors, words=line, hits=hits) == [code] * processes
    assert_near(run, tmp_path / "whole")


def test_what_needs_whole_matrices_is_refused(data: Path, tmp_path: Path) -> None:
    changes = {"training.shard": True, "training.optimizer": "adafactor"}
    with pytest.raises(UsageError, match="choose adamw, sgd or muon"):
        make_plan(str(data / "windows.txt"), changes, tmp_path / "run")


def test_an_epoch_of_batches_of_fewer_rows_than_processes(
    tmp_path: Path, data: Path, ask: Ask
) -> None:
    changes = DRY | {"training.max_steps": "null", "training.max_epochs": 1}
    changes |= {"training.batch_size": 2, "model.ngrams": 0}
    for processes in (1, 3):
        line = words(data, "rows.csv", tmp_path / f"run{processes}", **changes)
        assert ask(processes, tmp_path / "errors", words=line) == [0] * processes
    assert_near(tmp_path / "run1", tmp_path / "run3")
    assert (
        result(tmp_path / "run3")["steps"] == 34
    )  # 133 rows: 67 batches, the last of one row


def test_a_gradient_that_one_process_has_and_one_that_none_has(
    tmp_path: Path, ask: Ask
) -> None:
    assert ask(3, tmp_path, call="uneven") == [0, 0, 0], said(tmp_path, 0)


def test_the_first_ones_clock_ends_all_after_the_same_step(
    tmp_path: Path, data: Path, ask: Ask
) -> None:
    changes = DRY | {"training.max_steps": "null", "training.max_minutes": 0.01}
    line = words(data, "two.txt", tmp_path / "run", **changes)
    assert ask(2, tmp_path, words=line, hurry=5) == [0, 0], said(tmp_path, 1)
    assert 0.6 <= result(tmp_path / "run")["seconds"] < 60


def test_all_skip_the_steps_that_one_spoils_and_go_back_together(
    tmp_path: Path, data: Path, ask: Ask
) -> None:
    line = words(data, "text.txt", tmp_path / "run", **DRY, **{"training.max_skips": 1})
    assert ask(2, tmp_path, words=line, poison=[5, 6]) == [0, 0], said(tmp_path, 0)
    guard = [
        event
        for event in read_metrics(tmp_path / "run/metrics.jsonl")
        if "event" in event
    ]
    assert [(event["step"], event["event"]) for event in guard] == [(3, "rollback")]
    assert [event["step"] for event in guard[0]["skipped"]] == [5, 6]
    for event in guard[0]["skipped"]:
        assert event["why"] == "the gradient is not finite"
        assert sorted(event["rows"]) == [0, 1, 2, 3, 4]  # those of both
    assert result(tmp_path / "run")["steps"] == 12
    assert all(loss == loss for _, loss in losses(tmp_path / "run"))


# they end and go on as one


@pytest.fixture(scope="module")
def straight(data: Path, ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two processes that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    line = words(data, "text.txt", folder / "run", **DROPPING)
    assert ask(2, folder / "errors", words=line) == [0, 0]
    return folder / "run"


def test_the_processes_drop_other_numbers(straight: Path) -> None:
    states = checkpoints.load(straight / "checkpoints/step-12").group("random")
    assert states.keys() == {"cpu", "cpu.1"}
    assert not torch.equal(states["cpu"], states["cpu.1"])


# each is one run's life: killed at these points one after another, then left to end
LIVES = {
    "the-first": [(0, "update", 5)],
    "the-second": [(1, "backward", 8), (1, "update", 4)],
    "the-first-while-saving": [(0, "sha256", 4)],
    "both": [(0, "update", 5), (1, "update", 5)],
}


@pytest.mark.parametrize("life", LIVES)
def test_killed_and_resumed_they_end_with_the_same_bits(
    tmp_path: Path, data: Path, ask: Ask, straight: Path, life: str
) -> None:
    folder = tmp_path / "run"
    errors = tmp_path / "errors"
    lives = [LIVES[life]] if life == "both" else [[hit] for hit in LIVES[life]]
    for hits in lives:
        line = words(data, "text.txt", folder, **DROPPING)
        codes = ask(
            2, errors, words=line, hits=[[*hit, signal.SIGKILL] for hit in hits]
        )
        dead = {hit[0] for hit in hits}
        assert codes == [-signal.SIGKILL if rank in dead else 1 for rank in (0, 1)]
        for rank in {0, 1} - dead:
            last = said(errors, rank).splitlines()[-1]
            assert last.startswith(
                "unrolled: another process of this training has ended"
            )
            assert "Traceback" not in said(errors, rank)
    line = words(data, "text.txt", folder, **DROPPING)
    assert ask(2, errors, words=line) == [0, 0]
    assert_same_end(folder, straight)


@pytest.mark.parametrize("hit", [0, 1])
def test_a_signal_to_one_ends_all_after_the_same_step(
    tmp_path: Path, data: Path, ask: Ask, straight: Path, hit: int
) -> None:
    folder = tmp_path / "run"
    errors = tmp_path / "errors"
    line = words(data, "text.txt", folder, **DROPPING)
    codes = ask(2, errors, words=line, hits=[[hit, "backward", 5, signal.SIGTERM]])
    assert codes == [143, 143]
    assert checkpoints.steps(folder / "checkpoints") == [3, 5]
    assert f"stopped at step 5; go on with: unrolled train {folder} --resume" in said(
        errors, 0
    )
    assert "stopped at" not in said(errors, 1)
    assert not (folder / ".lock").exists()
    assert ask(2, errors, words=words(data, "text.txt", folder, **DROPPING)) == [0, 0]
    assert_same_end(folder, straight)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_another_number_of_processes_goes_on_and_says_so(
    tmp_path: Path, data: Path, ask: Ask, before: int, after: int
) -> None:
    run = tmp_path / "run"
    errors = tmp_path / "errors"
    whole = words(data, "text.txt", tmp_path / "whole", **DRY)
    assert ask(1, errors, words=whole) == [0]
    for processes, code, hits in (
        (before, 143, [[0, "update", 7, signal.SIGTERM]]),
        (after, 0, []),
    ):
        line = words(data, "text.txt", run, **DRY)
        assert ask(processes, errors, words=line, hits=hits) == [code] * processes
    assert f"{before} processes trained before, {after} now" in said(errors, 0)
    assert_near(run, tmp_path / "whole")


def test_a_folder_that_is_not_the_same_for_all(tmp_path: Path, ask: Ask) -> None:
    assert ask(2, tmp_path, call="elsewhere") == [1, 1]
    assert "process 1 finds a checkpoint of step 5, the first one 4" in said(
        tmp_path, 1
    )
    assert "another process of this training has ended" in said(tmp_path, 0)


def test_a_run_that_exists_is_refused_by_all(
    tmp_path: Path, data: Path, ask: Ask, straight: Path
) -> None:
    line = [w for w in words(data, "text.txt", straight, **DROPPING) if w != "--resume"]
    assert ask(2, tmp_path, words=line) == [1, 1]
    assert "holds a run already" in said(tmp_path, 0)


def test_torchrun_stopped_from_outside_and_resumed(
    tmp_path: Path, data: Path, straight: Path
) -> None:
    folder = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", "-m", "unrolled"]
    with subprocess.Popen(
        [*launch, *words(data, "text.txt", folder, **DROPPING)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        deadline = time.monotonic() + 150
        while not (folder / "checkpoints" / "step-3").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("go on with: unrolled train") == 1
    assert 3 <= checkpoints.steps(folder / "checkpoints")[-1] < 12
    again = [*launch, *words(data, "text.txt", folder, **DROPPING)]
    done = subprocess.run(
        again, capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_same_end(folder, straight)


# the parts, without other processes


def sources() -> list[BatchSource]:
    return [
        Buckets(texts(34), 4, 20, seed=2),
        stream("lstm", reset=0.5),
        stream("attention"),
    ]


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("source", sources(), ids=["buckets", "lanes", "windows"])
def test_shares_make_up_the_batch(source: BatchSource, size: int) -> None:
    for index in range(source.length(1)):
        whole = source.batch(1, index)
        shares = [
            ProcessGroup(rank, size).shard(source, 1, index) for rank in range(size)
        ]
        assert [counted for _, counted in shares] == [
            r < len(whole.rows) for r in range(size)
        ]
        for rank, (batch, counted) in enumerate(shares):
            part = slice(rank, None, size) if counted else slice(0, 1)
            assert batch.rows.tolist() == whole.rows[part].tolist()
            # padding is cut to what the rows of a share need
            width = batch.inputs.shape[1]
            assert torch.equal(batch.inputs, whole.inputs[part, :width])
            assert whole.inputs[part, width:].count_nonzero() == 0
            assert batch.restart == whole.restart
            for ours, theirs in tensors_of(batch, whole):
                assert torch.equal(ours, theirs[part])
        if isinstance(source, Buckets):
            assert sum(b.steps for b, counted in shares if counted) == whole.steps


def tensors_of(batch: Batch, other: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = [
        (batch.targets, other.targets),
        (batch.lengths, other.lengths),
        (batch.fresh, other.fresh),
    ]
    assert all((a is None) == (b is None) for a, b in pairs)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def test_a_batch_that_has_more_than_rows_is_refused() -> None:
    class Odd:
        def length(self, epoch: int) -> int:
            return 1

        def batch(self, epoch: int, index: int) -> Batch:
            ids = torch.ones(4, 2, dtype=torch.int64)
            return Batch(ids, None, None, np.arange(4), extra=(ids,))

    assert ProcessGroup().shard(Odd(), 0, 0)[1]
    with pytest.raises(UserError, match="cannot be divided among processes"):
        ProcessGroup(0, 2).shard(Odd(), 0, 0)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_carried_states_become_one_and_are_divided_again(rows: int, size: int) -> None:
    whole = RecurrentState(
        torch.arange(rows * 2.0).reshape(1, rows, 2), torch.rand(1, rows, 2)
    )
    ranks = range(min(rows, size))
    shares = [
        whole.reorder(torch.arange(rows)[ProcessGroup(rank, size).part(rows)])
        for rank in ranks
    ]
    again = interleaved(shares)
    assert torch.equal(again.h, whole.h)  # type: ignore[attr-defined]
    assert torch.equal(again.c, whole.c)  # type: ignore[attr-defined]


def test_what_is_of_each_process_in_one_checkpoint() -> None:
    owned = [
        {"random.cpu": torch.tensor([rank]), "random.cuda": torch.tensor([10 + rank])}
        | (
            {"carry.recurrent/h": torch.full((1, 1, 2), float(rank))}
            if rank < 2
            else {}
        )
        for rank in range(3)
    ]
    tensors = merged(owned)
    states = {
        k.removeprefix("random."): v
        for k, v in tensors.items()
        if k.startswith("random.")
    }
    for rank in range(3):
        assert {k: int(v) for k, v in random_states(states, rank).items()} == {
            "cpu": rank,
            "cuda": 10 + rank,
        }
    assert random_states(states, 3) == {}
    carried = {
        k.removeprefix("carry."): v
        for k, v in tensors.items()
        if k.startswith("carry.")
    }
    assert unpack(carried).h[0].tolist() == [[0.0, 0.0], [1.0, 1.0]]  # type: ignore[attr-defined]
    alone = {"random.cpu": torch.tensor([0])}
    assert merged([alone]) == alone


def test_a_row_that_counts_for_nothing_moves_nothing() -> None:
    model = classifier()
    source = Buckets(texts(4), 4, None, 0)
    loss = classes()(model, source.batch(0, 0), None)
    pair = (loss.sum.detach(), loss.count)
    silent = parallel.for_nothing(Loss(loss.sum, loss.count, None, {"nats": pair}))
    silent.sum.backward()
    assert (float(silent.sum.detach()), int(silent.count)) == (0.0, 0)
    assert [float(number) for number in silent.logs["nats"]] == [0.0, 0.0]
    grads = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


@pytest.fixture
def alone() -> Iterator[ProcessGroup]:
    """A group of one, in this process: every message goes its way."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield parallel.world()
    finally:
        dist.destroy_process_group()


def test_sums_over_one_process_are_its_own(alone: ProcessGroup) -> None:
    model = classifier()
    classes()(model, Buckets(texts(9), 9, None, 0).batch(0, 0), None).sum.backward()
    parameters = list(model.parameters())
    parameters[1].grad = None
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    parts = [Loss(torch.tensor(i + 0.1), torch.tensor(i)) for i in range(3)]
    sums, report = alone.exchange(parts, parameters, StepReport(5, 2.5, 0))
    assert report == StepReport(5, 2.5, 0)
    assert [(p.sum, p.count) for p in sums] == [(p.sum, p.count) for p in parts]
    for parameter, grad in zip(parameters, before, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)  # type: ignore[arg-type]
    with joined() as inside:  # who is in a group stays in it
        assert inside == alone == ProcessGroup(0, 1, True)
    assert dist.is_initialized()


def test_nobody_is_joined_unless_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in parallel.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with joined() as world:
        assert world == ProcessGroup()
        assert world.first


def test_streams_of_chance_are_other_ones_for_each_and_the_first_keeps_its_own() -> (
    None
):
    drawn = []
    for rank, step in ((0, 0), (1, 0), (2, 0), (1, 5)):
        torch.manual_seed(3)
        parallel.seeded(7, rank, step)
        drawn.append(torch.rand(4).tolist())
    torch.manual_seed(3)
    assert drawn[0] == torch.rand(4).tolist()
    assert all(first != second for first, second in pairwise([*drawn, drawn[0]]))


def test_each_process_takes_its_own_gpu(
    alone: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.device] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for name in ("auto", "cuda"):
        assert choose(name, "fp32").device == torch.device("cuda:1")
    assert taken == [torch.device("cuda:1")] * 2
    assert choose("cpu", "fp32").device == torch.device("cpu")
    with pytest.raises(UsageError, match=r"training\.device=cuda:0: each of several"):
        choose("cuda:0", "fp32")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UsageError, match="process 2 of this machine has no GPU of its own, of 2"
    ):
        choose("auto", "fp32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto", "fp32").device == torch.device("cpu")


def test_a_job_is_of_this_process_alone_by_default() -> None:
    assert TrainingJob.__dataclass_fields__["world"].default_factory() == ProcessGroup()  # type: ignore[misc]


def test_the_log_of_the_first_alone_is_written(straight: Path) -> None:
    steps = [
        (line["step"], line["kind"])
        for line in read_metrics(straight / "metrics.jsonl")
    ]
    assert len(steps) == len(set(steps)) == 15
