"""A chat model that learns from rewards by adapters, and is compared with what it began as."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import unrolled
from conftest import SMALL, write_csv, write_jsonl

BARE: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith("model.")},
    # to write texts takes longer than such a training
    "report.samples": False,
    "training.max_steps": 4,
    "training.learning_rate": 0.02,
    "training.schedule": "constant",
}


def trained(file: Path, folder: Path, **changes: Any) -> Any:
    said: list[str] = []
    return unrolled.train(file, out=folder, quiet=True, say=said.append, **changes)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A chat model that has learnt to answer a little, and prompts."""
    home = tmp_path_factory.mktemp("talks")
    words = {"one": "1", "two": "2"}
    pairs = [(f"{n}: say {word}", words[word]) for n in range(30) for word in words]
    data = write_csv(home / "talks.csv", pairs, ("Q", "A"))
    rows = [{"prompt": f"{n}: say two", "completion": "2"} for n in range(24)]
    keys: dict[str, Any] = {
        **BARE,
        "task": "chat",
        "data.tokenizer": "chars",
        "data.max_tokens": 30,
        "decoding.max_length": 4,
        "training.window": 60,
        "training.batch_size": 8,
    }
    shape: dict[str, Any] = {
        "layer": "attention",
        "model.hidden": 24,
        "model.embedding": 24,
    }
    shape |= {"model.heads": 2, "model.head_dropout": 0.0, "training.max_steps": 40}
    folder = home / "chat"
    trained(data, folder, **{**keys, **shape})
    prompts = write_jsonl(home / "prompts.jsonl", rows)
    return SimpleNamespace(folder=folder, data=data, prompts=prompts, keys=keys)


def rewarded(talks: SimpleNamespace, **keys: Any) -> dict[str, Any]:
    return {
        **talks.keys,
        "model.init": str(talks.folder),
        "align.method": "grpo",
        "align.reward": "exact",
        "align.samples": 4,
        "align.temperature": 2.0,
        "training.evaluate_every": 2,
        "training.log_every": 1,
        "adapter.rank": 2,
        **keys,
    }


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry["kind"] == "train"]


@pytest.mark.parametrize("credit", ["text", "branch"])
def test_adapters_learn_from_rewards(
    credit: str, talks: SimpleNamespace, tmp_path: Path
) -> None:
    keys = rewarded(talks, **{"align.credit": credit})
    trained(talks.prompts, tmp_path / "run", **keys)
    steps = logged(tmp_path / "run")
    # nothing has moved yet
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert any(0 < step["reward"] < 1 for step in steps)
    before = weights_of(talks.folder)
    after = weights_of(tmp_path / "run")
    name = "layer.blocks.0.attention.query.weight"
    assert not torch.equal(before[name], after[name])
    assert torch.equal(before["embedding.weight"], after["embedding.weight"])
    # compared is what went on with what was begun with, adapters and all
    again = rewarded(
        talks, **{"adapter.rank": 0, "adapter.init": str(tmp_path / "run")}
    )
    trained(talks.prompts, tmp_path / "next", **again)
    assert logged(tmp_path / "next")[0]["kl"] == pytest.approx(0, abs=1e-4)
