"""Label weights: those of scikit-learn, and the loss that torch's own weighted one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

import unrolled
from conftest import SMALL, sentences, write_csv, write_jsonl
from unrolled.core.errors import UsageError
from unrolled.data.batches import IGNORED, Batch
from unrolled.runs.keys import deep, flat, parse
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import merge, requested
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.weights import weights_of
from unrolled.training.objectives import classes, cross_entropy

RARE = [
    (f"text number {n} {'odd' if n % 7 == 0 else 'even'}", int(n % 7 == 0))
    for n in range(70)
]


@pytest.fixture
def rare(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "rare.csv", RARE, ("text", "label"))


def prepare_file(path: Path, weights: Any, **changes: Any) -> Prepared:
    return prepare(requested(str(path), {"training.label_weights": weights, **changes}))


def test_balanced_weights_are_those_of_scikit_learn(rare: Path, tmp_path: Path) -> None:
    prepared = prepare_file(rare, "balanced")
    targets = prepared.train.targets
    expected = compute_class_weight("balanced", classes=np.unique(targets), y=targets)
    label_weights = prepared.recipe.training.label_weights
    assert isinstance(label_weights, dict)
    assert list(label_weights) == ["0", "1"]
    np.testing.assert_allclose(list(label_weights.values()), expected)
    tags = prepare_file(write_jsonl(tmp_path / "t.jsonl", sentences(40, 1)), "balanced")
    flat_targets = np.array(tags.train.targets.flat)
    expected = compute_class_weight(
        "balanced", classes=np.unique(flat_targets), y=flat_targets
    )
    weights = weights_of(tags.recipe, tags.task.output.names)  # type: ignore[attr-defined]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    model = tags.task.build(tags.recipe).eval()
    batch = tags.task.source(tags.train, tags.recipe, model).batch(0, 0)
    assert batch.targets is not None
    scores = model(batch.inputs, batch.lengths, *batch.extra)
    loss = tags.task.objective(tags.recipe, model)(model, batch, None)
    goal = F.cross_entropy(scores.flatten(0, 1), batch.targets.flatten(), weights)
    assert float((loss.sum / loss.count).detach()) == pytest.approx(
        float(goal.detach()), rel=1e-5
    )


class GivenScores(torch.nn.Module):
    """Answers with the scores it is given."""

    def forward(self, inputs: torch.Tensor, lengths: None) -> torch.Tensor:
        return inputs


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sum_over_count_is_the_weighted_mean_of_torch(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 5, 4)
    weights = torch.tensor([0.3, 2.0, 1.0, 7.0])
    targets = torch.randint(4, (6, 5))
    targets[0, 3:] = targets[4] = IGNORED
    expected = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), weights, label_smoothing=smoothing
    )
    parts = [cross_entropy(logits[i], targets[i], smoothing, weights) for i in range(6)]
    # also over batches, which is what makes accumulation right
    total = sum(float(p.sum) for p in parts) / sum(float(p.count) for p in parts)
    assert total == pytest.approx(float(expected), rel=1e-5)
    batch = Batch(logits.flatten(0, 1), None, targets.flatten(), np.arange(30))
    loss = classes(smoothing, weights)(GivenScores(), batch, None)
    assert float(loss.sum / loss.count) == pytest.approx(float(expected), rel=1e-5)


def test_names_that_are_told_weigh_so_and_others_one(rare: Path) -> None:
    prepared = prepare_file(rare, {1: 4})
    weights = weights_of(prepared.recipe, ("0", "1"))
    assert weights is not None
    assert weights.tolist() == [1.0, 4.0]
    assert weights_of(requested(str(rare), {}), ("0", "1")) is None


def test_a_rare_label_is_found_more_often_with_weights(
    rare: Path, tmp_path: Path
) -> None:
    shares = []
    for weights in (None, {"1": 50.0}):
        run = unrolled.train(
            rare,
            out=tmp_path / str(weights),
            quiet=True,
            say=lambda text: None,
            **SMALL
            | {
                "training.max_steps": 20,
                "training.label_weights": weights,
                "training.learning_rate": 0.02,
            },
        )
        shares.append(
            np.mean(
                [
                    a.details["probabilities"]["1"]
                    for a in run.answers([t for t, _ in RARE])
                ]
            )
        )
    assert shares[0] < 0.4 < 0.6 < shares[1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"good": 2.0, "baad": 1.0}, "there is no label 'baad'; did you mean 'bad'"),
        ({"good": 0.0}, "the weight of 'good' is not a number above 0: 0.0"),
        (
            {"good": "heavy"},
            r"^training\.label_weights: the weight of 'good' is not a number",
        ),
        ({"good": float("inf")}, "the weight of 'good' is not a number above 0: inf"),
        (
            "balance",
            r"^training\.label_weights: 'balance' is neither balanced nor \{LABEL: WEIGHT, \.\.\.\}"
            r"; did you mean 'balanced'\?$",
        ),
        (
            3,
            r"^training\.label_weights: 3 is neither balanced nor \{LABEL: WEIGHT, \.\.\.\}$",
        ),
        (yaml.safe_load("{no: 2, yes: 1}"), 'write such labels in quotes, "no": 2'),
    ],
)
def test_what_is_no_weight_is_refused(
    tmp_path: Path, weights: Any, message: str
) -> None:
    rows = [(f"text {n}", "good" if n % 2 else "bad") for n in range(30)]
    with pytest.raises(UsageError, match=message):
        prepare_file(write_csv(tmp_path / "r.csv", rows, ("text", "label")), weights)


def test_a_value_has_no_labels_to_weigh(tmp_path: Path) -> None:
    rows = [(n, n * 1.5) for n in range(30)]
    path = write_csv(tmp_path / "r.csv", rows, ("x", "price"))
    with pytest.raises(
        UsageError, match=r"label_weights is for labels, and task=regress"
    ):
        prepare_file(path, "balanced")


def test_names_with_dots_are_names_and_no_keys() -> None:
    changes = parse(["training.label_weights={1.5: 2, a.b: 3}"])
    recipe = Recipe.read(deep(changes))
    assert recipe.training.label_weights == {"1.5": 2.0, "a.b": 3.0}
    assert Recipe.read(deep(flat(recipe.model_dump()))) == recipe
    again = merge(recipe.model_dump(), {"training.label_weights": {"c": 1.0}})
    assert again["training"]["label_weights"] == {"c": 1.0}


def test_a_run_with_weights_is_resumed_by_either_of_its_names(
    rare: Path, tmp_path: Path
) -> None:
    settings = SMALL | {"training.max_steps": 2, "training.label_weights": "balanced"}
    out = {"out": tmp_path / "r", "quiet": True, "say": lambda text: None}
    run = unrolled.train(rare, **out, **settings)
    for more in ({**settings, "training.max_steps": 3}, {"training.max_steps": 4}):
        target = rare if "training.label_weights" in more else tmp_path / "r"
        longer = unrolled.train(target, resume=True, **out, **more)
        assert longer.result["steps"] == more["training.max_steps"]
        assert (
            longer.recipe.training.label_weights
            == run.recipe.training.label_weights
            is not None
        )
