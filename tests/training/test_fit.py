"""What is learnt: the coefficients of scikit-learn's fits, and a table to the last product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression

from unrolled.data.batches import Buckets
from unrolled.data.examples import Examples
from unrolled.models import OneToOne
from unrolled.nn import LayerConfig, build_layer
from unrolled.training.job import TrainingJob
from unrolled.training.loop import fit
from unrolled.training.objectives import Objective, classes, values
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import Progress
from unrolled.training.settings import TrainingConfig

Floats = NDArray[np.float32]


def trained(
    folder: Path,
    x: Floats,
    y: NDArray[Any],
    outputs: int,
    objective: Objective,
    layer: dict[str, Any],
    **settings: Any,
) -> OneToOne:
    """Train on all rows at once through the one loop."""
    torch.manual_seed(0)
    model = OneToOne(build_layer("none", LayerConfig(**layer), x.shape[1]), outputs)
    source = Buckets(Examples(np.arange(len(x)), vectors=x, targets=y), len(x), None, 0)
    config = {
        "warmup_steps": 0,
        "log_every": 10_000,
        "checkpoint_every": 10_000,
    } | settings
    fit(
        TrainingJob(
            model,
            objective,
            source,
            TrainingConfig.read(config),
            ComputeDevice(torch.device("cpu"), "fp32", "for tests"),
            0,
            folder / "checkpoints",
            "loss",
            False,
            None,
            lambda weights: None,
            Progress(quiet=True),
        ),
        resume=False,
    )
    return model


CONVEX: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 0,
    "clip": None,
    "schedule": "constant",
}


def data(rows: int, seed: int) -> tuple[Floats, NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3)).astype(np.float32)
    x[:, 1] += 0.5 * x[:, 0] + 1  # correlated, and not centred
    return x, generator.normal(size=rows)


def test_linear_regression_is_scikit_learns(tmp_path: Path) -> None:
    x, noise = data(60, 0)
    y = (x @ np.array([1.5, -2.0, 0.3]) + 0.7 + 0.4 * noise).astype(np.float32)
    model = trained(
        tmp_path,
        x,
        y,
        1,
        values(),
        {"layers": 0},
        max_steps=400,
        learning_rate=0.2,
        **CONVEX,
    )
    expected = LinearRegression().fit(x.astype(np.float64), y)
    # fp32 gradients of 60 rows
    assert model.head.weight.detach().numpy()[0] == pytest.approx(
        expected.coef_, abs=5e-6
    )
    assert model.head.bias.item() == pytest.approx(expected.intercept_, abs=5e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_logistic_and_softmax_regression_are_scikit_learns(
    tmp_path: Path, count: int
) -> None:
    x, noise = data(120, 1)
    # labels with noise, which no plane divides: the fit without a penalty is finite
    y = np.digitize(x[:, 0] - x[:, 2] + 1.5 * noise, [0.0, 1.0][: count - 1]).astype(
        np.int64
    )
    assert np.bincount(y, minlength=count).min() > 15
    model = trained(
        tmp_path,
        x,
        y,
        count,
        classes(),
        {"layers": 0},
        max_steps=1500,
        learning_rate=0.5,
        **CONVEX,
    )
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    fitted.fit(x.astype(np.float64), y)
    weights = model.head.weight.detach().double().numpy()
    biases = model.head.bias.detach().double().numpy()
    # only differences between classes matter; scikit-learn's two classes are one difference
    if count == 2:
        weights = weights[1:] - weights[:1]
        biases = biases[1:] - biases[:1]
        coefficients = fitted.coef_
        intercepts = fitted.intercept_
    else:
        weights = weights - weights.mean(0)
        biases = biases - biases.mean()
        coefficients = fitted.coef_ - fitted.coef_.mean(0)
        intercepts = fitted.intercept_ - fitted.intercept_.mean()
    # both stop when a gradient is about 1e-7; the flattest direction bends by about 0.05
    assert weights == pytest.approx(coefficients, abs=3e-5)
    assert biases == pytest.approx(intercepts, abs=3e-5)


def test_weight_decay_of_sgd_is_scikit_learns_l2_penalty(tmp_path: Path) -> None:
    x, noise = data(120, 1)
    y = np.digitize(x[:, 0] - x[:, 2] + 0.1 * noise, [-0.5, 1.0]).astype(np.int64)
    strength = 0.05
    options = CONVEX | {"weight_decay": strength}
    model = trained(
        tmp_path,
        x,
        y,
        3,
        classes(),
        {"layers": 0},
        max_steps=800,
        learning_rate=0.5,
        **options,
    )
    # mean loss + strength / 2 |w|^2 is C sum loss + 1 / 2 |w|^2; biases are free in both
    fitted = LogisticRegression(C=1 / (strength * len(x)), tol=1e-10, max_iter=10_000)
    fitted.fit(x.astype(np.float64), y)
    assert model.head.weight.detach().numpy() == pytest.approx(fitted.coef_, abs=1e-5)
    biases = model.head.bias.detach().numpy()
    expected = fitted.intercept_ - fitted.intercept_.mean()
    assert biases - biases.mean() == pytest.approx(expected, abs=1e-5)


def test_the_multiplication_table_is_learnt_exactly(tmp_path: Path) -> None:
    a, b = np.meshgrid(np.arange(1, 10), np.arange(1, 10))
    pairs = np.stack([a.ravel(), b.ravel()], 1)
    products = pairs.prod(1)
    x = ((pairs - 5) / pairs.std()).astype(np.float32)
    y = ((products - products.mean()) / products.std()).astype(np.float32)
    model = trained(
        tmp_path,
        x,
        y,
        1,
        values(),
        {"layers": 2, "hidden": 32},
        max_steps=1500,
        learning_rate=0.01,
        weight_decay=0,
    )
    with torch.no_grad():
        answers = (
            model(torch.from_numpy(x))[:, 0].numpy() * products.std() + products.mean()
        )
    assert np.rint(answers).astype(int).tolist() == products.tolist()
