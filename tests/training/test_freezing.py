"""Gradual unfreezing and rates by depth: frozen bits stay, rates equal the formula, resumes do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.test_loop import classifier, job, language, same, stream, texts
from unrolled.data.batches import Buckets
from unrolled.models import LanguageModel, ManyToOne, Unaligned
from unrolled.nn import (
    LayerConfig,
    Pooling,
    TokenEmbedding,
    build_decoder,
    build_layer,
)
from unrolled.nn.fitting import depths
from unrolled.training import checkpoints
from unrolled.training.freezing import rate_factors
from unrolled.training.job import Position
from unrolled.training.loop import Trainer, fit
from unrolled.training.objectives import classes, next_token
from unrolled.training.progress import SilentLog

OPTIMIZERS = ("adamw", "sgd", "adafactor", "muon")


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---------------------------------------------------------------------- groups


def stacked(layer: str, **settings: Any) -> ManyToOne:
    config = LayerConfig(hidden=6, layers=2, **settings)
    made = build_layer(layer, config, 4)
    pooling = Pooling("attention", made.output_size, made.reverse_size)
    return ManyToOne(TokenEmbedding(9, 4), made, pooling, 3)


@pytest.mark.parametrize("layer", ["lstm", "gru", "rnn"])
def test_recurrent_weights_are_apart_by_their_stacked_layer(layer: str) -> None:
    groups = depths(stacked(layer, bidirectional=True))
    assert groups[0] == ["embedding.weight"]
    for number in (0, 1):
        names = groups[1 + number]
        assert len(names) == 8
        endings = (f"_l{number}", f"_l{number}_reverse")
        assert all(name.endswith(endings) for name in names)
    assert {name.split(".")[0] for name in groups[3]} == {"pooling", "head"}
    assert len(groups) == 4


def test_blocks_stand_one_over_the_other() -> None:
    model = stacked("attention", heads=2, positions="learned", context=9)
    embedding, first, second, top = depths(model)
    assert embedding == ["embedding.weight"]
    assert "layer.place.weight" in first
    assert "layer.project.weight" in first
    assert "layer.norm.weight" in second
    assert all("blocks.1." in name or ".norm." in name for name in second)
    assert "head.weight" in top
    assert len(depths(stacked("none"))) == 4


@pytest.mark.parametrize("decoder", ["gru", "attention"])
def test_every_weight_is_in_one_group(decoder: str) -> None:
    config = LayerConfig(hidden=8, layers=2)
    encoder = build_layer("gru", config, 4)
    writer = build_decoder(decoder, config, 4, encoder)
    model = Unaligned(TokenEmbedding(9, 4), encoder, TokenEmbedding(8, 4), writer, 8)
    groups = depths(model)
    assert groups[0] == ["source.weight", "target.weight"]
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert [group[0].split(".")[0] for group in groups] == [
        "source",
        "encoder",
        "encoder",
        "decoder",
        "decoder",
        "head",
    ]


def test_tied_output_weights_are_of_the_embedding() -> None:
    groups = depths(language("lstm"))
    assert groups[0] == ["embedding.weight"]
    assert groups[-1] == ["head.bias"]


# ---------------------------------------------------------------------- rates


def test_rates_fall_by_the_same_share_from_the_top() -> None:
    factors = rate_factors([["a"], ["b", "c"], ["d"]], 0.5)
    assert factors == {"a": 0.25, "b": 0.5, "c": 0.5, "d": 1.0}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_weight_is_moved_at_its_own_rate(kind: str, tmp_path: Path) -> None:
    model = classifier()
    groups = depths(model)
    settings = {"optimizer": kind, "learning_rate": 0.1, "layer_decay": 0.4}
    settings |= {"max_steps": 9, "schedule": "linear", "final_share": 0.0}
    source = Buckets(texts(40), 8, None, 0)
    made = replace(
        job(tmp_path, model, source, classes(0.0), **settings), depths=groups
    )
    trainer = Trainer(made)
    trainer.position.step = 3
    trainer.set_learning_rate()
    expected = rate_factors(groups, 0.4)
    named = {id(weight): name for name, weight in model.named_parameters()}
    rates = {}
    for group in trainer.state.optimizer.param_groups:
        for weight in group["params"]:
            rates[named[id(weight)]] = group["lr"]
    assert set(rates) == set(named.values())
    for name, rate in rates.items():
        # a third of the linear fall is over
        assert rate == pytest.approx(0.1 * (1 - 3 / 9) * expected[name], rel=1e-12)
    assert len(set(rates.values())) == 3


def test_sgd_moves_weights_by_their_rates(tmp_path: Path) -> None:
    """One plain step: its length is the rate times the gradient."""
    moved = {}
    for decay in (1.0, 0.5):
        model = classifier()
        before = weights_of(model)
        settings = {"optimizer": "sgd", "momentum": 0.0, "clip": None}
        settings |= {"layer_decay": decay, "max_steps": 1, "weight_decay": 0.0}
        source = Buckets(texts(20), 8, None, 0)
        made = job(tmp_path / str(decay), model, source, classes(0.0), **settings)
        fit(replace(made, depths=depths(model)), resume=False)
        moved[decay] = {
            name: value - before[name] for name, value in weights_of(model).items()
        }
    for name, factor in rate_factors(depths(classifier()), 0.5).items():
        # differences of weights near 1 in fp32
        torch.testing.assert_close(
            moved[0.5][name], factor * moved[1.0][name], rtol=1e-3, atol=3e-7
        )


# ---------------------------------------------------------------------- unfreezing


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_weights_keep_their_bits(kind: str, tmp_path: Path) -> None:
    model = classifier(dropout=0.2)
    groups = depths(model)
    settings = {"optimizer": kind, "unfreeze": 1, "max_steps": 15, "weight_decay": 0.5}
    source = Buckets(texts(40), 8, None, 0)
    assert source.length(0) == 5
    made = job(tmp_path, model, source, classes(0.0), average="ema", **settings)
    trainer = Trainer(replace(made, depths=groups))
    log = SilentLog()
    for trained in (1, 2, 3):
        before = weights_of(model)
        for _ in range(5):
            if trainer.position.index >= 5:
                trainer.position.epoch += 1
                trainer.position.index = 0
            assert trainer.step(log) == ""
        after = weights_of(model)
        for height, names in enumerate(groups):
            is_frozen = height < 3 - trained
            for name in names:
                assert torch.equal(before[name], after[name]) == is_frozen, name
        state = trainer.state.optimizer.state
        touched = {id(weight) for weight, slots in state.items() if slots}
        open_names = itertools.chain.from_iterable(groups[3 - trained :])
        assert touched == {id(model.get_parameter(name)) for name in open_names}


def test_no_gradient_is_computed_for_what_is_frozen(tmp_path: Path) -> None:
    model = classifier()
    source = Buckets(texts(40), 8, None, 0)
    made = job(tmp_path, model, source, classes(0.0), max_steps=3, unfreeze=2.0)
    trainer = Trainer(replace(made, depths=depths(model)))
    trainer.state.unfreezing.follow(trainer.position, 5)
    trainer.updater.accumulate(range(1))
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded == {"head.weight", "head.bias"}


def test_what_is_trained_follows_from_the_position(tmp_path: Path) -> None:
    model = classifier()
    source = Buckets(texts(40), 8, None, 0)
    made = job(tmp_path, model, source, classes(0.0), max_steps=3, unfreeze=0.4)
    unfreezing = Trainer(replace(made, depths=depths(model))).state.unfreezing
    for position, trained in (
        (Position(epoch=0, index=0), 1),
        (Position(epoch=0, index=1), 1),
        (Position(epoch=0, index=2), 2),
        (Position(epoch=0, index=4), 3),
        (Position(epoch=7, index=0), 3),
        # back, as after a rollback
        (Position(epoch=0, index=3), 2),
    ):
        unfreezing.follow(position, 5)
        open_groups = [
            all(model.get_parameter(name).requires_grad for name in names)
            for names in depths(model)
        ]
        assert open_groups == [False] * (3 - trained) + [True] * trained


Make = Callable[[], ManyToOne | LanguageModel]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "make", [lambda: classifier(dropout=0.3), lambda: language("lstm")]
)
def test_a_resume_gives_the_same_bits(kind: str, make: Make, tmp_path: Path) -> None:
    def made(folder: str, **settings: Any) -> Any:
        model = make()
        is_language = isinstance(model, LanguageModel)
        source = stream("lstm") if is_language else Buckets(texts(40), 8, None, 0)
        objective = next_token(0.0, True) if is_language else classes(0.0)
        keys = {"optimizer": kind, "unfreeze": 0.7, "layer_decay": 0.5, **settings}
        plain = job(tmp_path / folder, model, source, objective, None, **keys)
        return replace(plain, depths=depths(model))

    whole = made("whole", max_steps=14)
    fit(whole, resume=False)
    # stopped while some are frozen, and once more when others are
    for steps in (2, 5, 14):
        parts = made("parts", max_steps=steps)
        fit(parts, resume=steps > 2)
    assert same(whole.model, parts.model)
    kept = [
        load_file(tmp_path / folder / "checkpoints/step-14" / checkpoints.TENSORS)
        for folder in ("whole", "parts")
    ]
    assert kept[0].keys() == kept[1].keys()
    assert any(name.startswith("optimizer.") for name in kept[0])
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[1][name]), name
