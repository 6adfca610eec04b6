"""A run that is killed, again and again, and resumed ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unrolled.core import digests
from unrolled.runs import folder as runs
from unrolled.training import checkpoints
from unrolled.training.progress import read_metrics

HELPER = Path(__file__).with_name("killing.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

COMMON = {
    "training.max_steps": 12,
    "training.checkpoint_every": 3,
    "training.evaluate_every": 4,
    "training.log_every": 5,
    "training.accumulate": 2,
    "training.average": "ema",
    "training.ema_decay": 0.8,
    "training.threads": 1,
    "model.hidden": 8,
    "model.embedding": 8,
    "model.head_dropout": 0.3,
    "model.embedding_dropout": 0.3,
}
SCENES: dict[str, dict[str, Any]] = {
    "text.txt": COMMON
    | {
        "layer": "lstm",
        "training.window": 8,
        "training.batch_size": 4,
        "model.dropout": 0.2,
        "model.layers": 2,
        "training.reset": 0.2,
    },
    "rows.csv": COMMON
    | {
        "layer": "gru",
        "training.batch_size": 4,
        "data.vocabulary": 60,
        "data.tokenizer": "words",
        "model.recurrent_dropout": 0.2,
    },
}


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
    texts = [" ".join(draw.choices(words, k=draw.randint(2, 9))) for _ in range(150)]
    (folder / "text.txt").write_text("\n".join(texts[:25]) + "\n")
    rows = [f'"{text}",{"yes" if "good" in text else "no"}' for text in texts]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return folder


Train = Callable[..., int]


@pytest.fixture(scope="module")
def train(data: Path) -> Iterator[Train]:
    """Return a function that trains a scene in a process and tells how that ended."""
    with subprocess.Popen(
        [sys.executable, str(HELPER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pipes = process.stdin, process.stdout

        def ask(
            scene: str,
            folder: Path,
            kill: tuple[str, int] | None = None,
            **overrides: Any,
        ) -> int:
            line = {
                "target": str(data / scene),
                "changes": SCENES[scene],
                "folder": str(folder),
                "resume": folder.exists(),
                "kill": kill,
                **overrides,
            }
            pipes[0].write(json.dumps(line) + "\n")
            pipes[0].flush()
            return int(pipes[1].readline())

        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def straight(train: Train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the scenes' runs that were never stopped."""
    folders = {scene: tmp_path_factory.mktemp("straight") / "run" for scene in SCENES}
    for scene, folder in folders.items():
        assert train(scene, folder) == 0
    return folders


def dev_lines(folder: Path) -> list[dict[str, Any]]:
    lines = [
        line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "dev"
    ]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


def assert_same_end(folder: Path, other: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (other / "model.safetensors").read_bytes()
    assert dev_lines(folder) == dev_lines(other)
    assert losses(folder) == losses(other)
    name = Path("checkpoints") / "step-12" / checkpoints.TENSORS
    assert (folder / name).read_bytes() == (other / name).read_bytes()


def assert_readable(folder: Path) -> None:
    """The files that stand in a run are those that the training wrote, whenever it was killed."""
    if not runs.is_run(folder):
        return
    runs.read_recipe(folder)
    runs.read_fields(folder)
    assert digests.verify(folder, runs.READ) >= 2
    if (folder / runs.MODEL).exists():
        runs.load(folder)


# each list is one run's life: killed at these points one after another, then left to end
LIVES = {
    "early": [("backward", 1), ("update", 2)],
    "inside-accumulation": [("backward", 8), ("backward", 12)],
    "before-an-update": [("update", 5), ("update", 5)],
    "while-logging": [("report", 2), ("report", 3)],
    "while-saving-tensors": [("save_tensors", 1), ("save_tensors", 3)],
    "while-hashing": [("sha256", 4), ("sha256", 1)],
    "while-syncing": [("sync", 9), ("sync", 8)],
    "before-a-file-counts": [("replace", 8), ("replace", 9)],
    "before-a-checkpoint-counts": [("rename", 1), ("rename", 3)],
    "while-removing-the-old": [("rmtree", 4), ("rmtree", 3)],
}


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("scene", SCENES)
def test_the_same_bits_after_kills(
    tmp_path: Path, train: Train, straight: dict[str, Path], scene: str, life: str
) -> None:
    folder = tmp_path / "run"
    for kill in LIVES[life]:
        assert train(scene, folder, kill) == -signal.SIGKILL
        assert not list((folder / "checkpoints").glob("step-*/*.tmp"))
        assert_readable(folder)
    assert train(scene, folder) == 0
    assert_same_end(folder, straight[scene])
    # what was half written when the kills came is gone
    known = {path.name for path in straight[scene].iterdir()}
    assert {path.name for path in folder.iterdir()} == known


def test_the_scenes_are_what_they_are_meant_to_be(straight: dict[str, Path]) -> None:
    for scene, folder in straight.items():
        state = json.loads(
            (folder / "checkpoints/step-12" / checkpoints.STATE).read_text()
        )
        position = state["position"]
        # a second epoch is begun and not ended, in both
        assert position["epoch"] >= (0 if scene == "rows.csv" else 1)
        assert position["index"] > 0
        tensors = checkpoints.load(folder / "checkpoints/step-12").tensors
        assert any(name.startswith("average.0.") for name in tensors)
        assert any(n.startswith("carry.recurrent/") for n in tensors) == (
            scene == "text.txt"
        )
        assert [line["step"] for line in dev_lines(folder)] == [4, 8, 12]


def test_the_command_killed_from_outside_and_resumed(
    tmp_path: Path, data: Path, train: Train, straight: dict[str, Path]
) -> None:
    scene = "text.txt"
    folder = tmp_path / "run"
    words = [f"{key}={value}" for key, value in SCENES[scene].items()]
    command = [
        sys.executable,
        "-m",
        "unrolled",
        "train",
        str(data / scene),
        *words,
        "--out",
        str(folder),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    ) as process:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoints" / "step-3").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(
        [*command, "--resume"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert_same_end(folder, straight[scene])
    assert json.loads((folder / "result.json").read_text())["steps"] == 12
