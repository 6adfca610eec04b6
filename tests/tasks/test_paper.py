"""The recipes of Vaswani et al. (2017): their sizes, their schedule, one step of the true shape."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from unrolled.data.schema import Schema
from unrolled.models import Unaligned
from unrolled.runs.plan import make_plan
from unrolled.runs.prepare import prepare
from unrolled.runs.recipes import requested
from unrolled.runs.resolve import DataFacts, Machine, resolve
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import Recipe
from unrolled.training.loop import Trainer
from unrolled.training.progress import Progress, SilentLog
from unrolled.training.schedules import factor

# width, feed-forward, heads, layers, pieces, and the parameters in table 3
SIZES = {
    "wmt14-en-de-base": (512, 2048, 8, 6, 37_000, 65e6),
    "wmt14-en-de-big": (1024, 4096, 16, 6, 37_000, 213e6),
    "wmt14-en-fr-big": (1024, 4096, 16, 6, 32_000, None),
    "wsj-parse": (1024, 2048, 8, 4, None, None),
}
TRANSLATE = [name for name in SIZES if name.startswith("wmt14")]


def changes(name: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Return what makes a recipe read made-up files: sides of 20 to 40 words, which are pieces.

    All the words that the vocabulary has room for are among them.
    """
    draw = random.Random(1)
    count = requested(name, {}).data.vocabulary - 4
    words = [f"w{number}" for number in range(count)]
    texts = list[str]()
    at = 0
    while at < count or len(texts) % 2:
        size = draw.randrange(20, 41)
        texts.append(" ".join(words[at : at + size] or words[:size]))
        at += size
    half = len(texts) // 2
    for side, lines in (("source", texts[:half]), ("target", texts[half:])):
        (folder / f"{side}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    source = str(folder / "source.txt")
    target = str(folder / "target.txt")
    return {
        "data.train": source,
        "data.train_target": target,
        "data.dev": source,
        "data.dev_target": target,
        "data.text": "source",
        "data.label": "target",
        "data.tokenizer": "whitespace",
        **here(tokens),
    }


def here(tokens: int) -> dict[str, Any]:
    """Return what makes a recipe train on one thread, few tokens at a time."""
    return {
        "training.batch_tokens": tokens,
        "training.device": "cpu",
        "training.precision": "fp32",
        "training.threads": 1,
    }


def trees(folder: Path, rows: int) -> Path:
    """Write made-up trees over 10 to 30 words."""
    draw = random.Random(2)
    lines = []
    for _ in range(rows):
        words = [f"w{draw.randrange(500)}" for _ in range(draw.randrange(10, 31))]
        half = len(words) // 2
        parts = [
            " ".join(f"(NN {word})" for word in part)
            for part in (words[:half], words[half:])
        ]
        lines.append(f"(TOP (S (NP {parts[0]}) (VP {parts[1]})))")
    file = folder / "made.ptb"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def parsing(name: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Return what makes a recipe read made-up trees."""
    file = str(trees(folder, 200))
    return {"data.train": file, "data.dev": file, **here(tokens)}


def learnt(name: str, folder: Path) -> tuple[Recipe, Task]:
    """Return a recipe as it is resolved, and its task with a vocabulary of the full size."""
    settings = (
        parsing(name, folder, 500)
        if name == "wsj-parse"
        else changes(name, folder, 500)
    )
    prepared = prepare(requested(name, settings))
    return prepared.recipe, prepared.task


@pytest.mark.parametrize("name", SIZES)
def test_a_model_has_the_sizes_of_the_paper(name: str, tmp_path: Path) -> None:
    width, inner, heads, layers, pieces, parameters = SIZES[name]
    recipe, task = learnt(name, tmp_path)
    with torch.device("meta"):
        model = task.build(recipe)
    assert isinstance(model, Unaligned)
    attention = 4 * (width * width + width)
    forward = 2 * width * inner + inner + width
    read = layers * (attention + forward + 4 * width)
    written = layers * (2 * attention + forward + 6 * width)
    assert model.decoder.output_size == model.encoder.output_size == width
    assert {
        b.attention.heads for s in (model.encoder, model.decoder) for b in s.blocks
    } == {heads}
    count = {
        n: sum(p.numel() for p in part.parameters())
        for n, part in model.named_children()
    }
    assert count["decoder"] == written
    if pieces is None:
        projected = model.encoder.input_size * width + width
        assert count["encoder"] == read + projected
        return
    assert count["encoder"] == read
    assert task.output.tokenizer.size == pieces  # type: ignore[attr-defined]
    assert model.source.weight is model.target.weight is model.head.weight
    assert model.source.scale == math.sqrt(width)
    total = sum(p.numel() for p in model.parameters())
    assert total == read + written + pieces * width
    # its exact vocabulary is not told
    assert parameters is None or abs(total / parameters - 1) < 0.031


@pytest.mark.parametrize("name", SIZES)
def test_what_the_paper_says_of_a_training_stands_in_its_recipe(name: str) -> None:
    big = name.endswith("big")
    parse = name == "wsj-parse"
    schema = Schema("parse" if parse else "translate", ("en",), (), "other")
    unresolved = requested(name, {})
    facts = DataFacts(schema, 4_500_000, 10**9)
    recipe = resolve(unresolved, facts, Machine.of(unresolved))
    model = recipe.model
    training = recipe.training
    search = recipe.decoding
    assert training.batch_tokens * training.accumulate == 25_000
    assert training.max_steps == (300_000 if big else 100_000)
    assert training.patience is training.clip is None
    assert (training.beta1, training.beta2, training.weight_decay) == (0.9, 0.98, 0)
    assert (training.label_smoothing, training.average) == (0.1, "last")
    assert training.average_last == (20 if big else 5)
    dropouts = {"wmt14-en-de-big": 0.3, "wsj-parse": 0.2}
    assert model.dropout == dropouts.get(name, 0.1)
    assert model.attention_dropout == (0.2 if parse else 0.0)
    assert model.embedding_dropout == model.head_dropout == model.token_dropout == 0
    assert not model.norm_first
    assert (model.positions, model.feedforward, model.norm) == (
        "sinusoidal",
        "relu",
        "layer",
    )
    assert (search.beam, search.length_penalty) == ((21, 0.3) if parse else (4, 0.6))
    # a parser bounds what it writes by its trees: see Parse.limits
    assert parse or (search.max_ratio, search.max_extra) == (1, 50)
    # section 5.3, equation 3
    for step in (1, 100, 4000, 4001, training.max_steps):
        paper = model.hidden**-0.5 * min(step**-0.5, step * 4000**-1.5)
        ours = training.learning_rate * factor(training, step - 1, 0.5, 0)
        assert ours == pytest.approx(paper, rel=1e-4)


LARGE = pytest.mark.skipif(
    not os.environ.get("UNROLLED_LARGE"),
    reason="takes up to 6 GB of memory: set UNROLLED_LARGE=1",
)


@pytest.mark.parametrize(
    "name",
    [
        name if name.endswith("base") else pytest.param(name, marks=LARGE)
        for name in SIZES
    ],
)
def test_one_step_of_the_true_shape(name: str, tmp_path: Path) -> None:
    make = parsing if name == "wsj-parse" else changes
    plan = make_plan(name, make(name, tmp_path, 256), tmp_path / "run")
    trainer = Trainer(plan.job(Progress(True)))
    model = cast(Any, plan.model)
    watched = [model.head, model.encoder.blocks[0], model.decoder.blocks[-1]]
    before = [p.detach().clone() for part in watched for p in part.parameters()]
    assert trainer.step(SilentLog()) == ""
    assert trainer.position.step == 1
    assert 0 < trainer.position.tokens <= 256
    mean = float(trainer.state.pending[0].sum) / float(trainer.state.pending[0].count)
    # untrained: about as likely as any other piece
    assert 0 < mean < 2 * math.log(model.head.out_features)
    rate = trainer.state.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(plan.recipe.training.learning_rate / 4000)
    now = [p.detach() for part in watched for p in part.parameters()]
    moved = [
        float((new - old).abs().max()) for old, new in zip(before, now, strict=True)
    ]
    # Adam's first step is the rate, whatever the gradient; the bias of keys has none
    assert max(moved) == pytest.approx(rate, rel=0.1)  # to the rounding of weights of 1
    assert sum(move > 0 for move in moved) > 0.9 * len(moved)
