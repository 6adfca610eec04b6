"""How fast a model answers, by a clock that the answers move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from unrolled.core.errors import UserError
from unrolled.insight import speed
from unrolled.tasks.base import AnswerOptions
from unrolled.training.precision import choose


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(at=0.0)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: now.at))
    return now


def measure(
    clock: SimpleNamespace, start: float, row: float, failing: str = "none"
) -> Any:
    """Return the speed of a task that takes ``start`` seconds a call and ``row`` a row."""
    calls: list[int] = []

    def predict(model: Any, rows: Any, *settings: Any) -> None:
        if (failing,) in rows:
            raise UserError("no")
        assert ("bad",) not in rows
        calls.append(len(rows))
        clock.at += start + row * len(rows)

    schema = SimpleNamespace(inputs=("text",), frames=False)
    task = SimpleNamespace(schema=schema, columns=["text"], predict=predict)
    rows = [("bad",), *[(f"row {n}",) for n in range(50)]]
    lines = list(range(1, 52))
    data = SimpleNamespace(columns=["text"], rows=rows, lines=lines)
    examples = SimpleNamespace(lines=np.array(lines[1:]))
    stand_ins: Any = (None, task, data, examples)
    here = choose("cpu", "fp32")
    result = speed.measure(*stand_ins, here, AnswerOptions())
    return result, calls


def test_rows_are_timed_alone_and_in_batches(clock: SimpleNamespace) -> None:
    result, calls = measure(clock, 0.010, 0.001)
    assert result.milliseconds == pytest.approx(11)
    assert result.per_second == pytest.approx(128 / 0.138)
    threads = f"{torch.get_num_threads()} thread"
    assert result.how.startswith(f"cpu, fp32, {threads}")
    assert result.how.endswith(
        "median of 46 rows asked one by one, and of 4 batches of 128"
    )
    assert clock.at < 2
    assert calls[:2] == [1, 1]


def test_a_slow_model_is_timed_on_few_rows(clock: SimpleNamespace) -> None:
    result, calls = measure(clock, 0, 0.4)
    assert result.milliseconds == pytest.approx(400)
    assert result.per_second == pytest.approx(2.5)
    assert calls == [1] * 5


def test_the_middle_of_a_fast_model_takes_a_moment(clock: SimpleNamespace) -> None:
    result, calls = measure(clock, 0.00001, 0.00001)
    assert clock.at < 0.1
    assert result.per_second == pytest.approx(256 / 0.00257)
    assert max(calls) == 256


@pytest.mark.parametrize("failing", ["row 0", "row 20"])
def test_rows_that_cannot_be_answered_have_no_speed(
    clock: SimpleNamespace, failing: str
) -> None:
    assert measure(clock, 0, 0, failing)[0] is None


def test_a_language_model_is_timed_by_the_token(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["language"])
    texts, timed = speed.write(run.model, run.task, run.compute_device, 2)  # type: ignore[arg-type]
    assert texts == [
        run.generate("", 300, temperature=0.8, seed=seed) for seed in (0, 1)
    ]
    assert 0 < timed.milliseconds < 1000
    assert timed.per_second is None
    assert "tokens written one after the other" in timed.how
