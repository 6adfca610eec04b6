"""Generated tasks: what is asked stands where it should, and is what a plain loop finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrolled.data.batches import IGNORED
from unrolled.studies import memory_tasks
from unrolled.studies.memory_tasks import KINDS, TASKS, TOLERANCE

DELAYS = (1, 2, 3, 10, 31)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("delay", DELAYS)
def test_a_batch_is_a_function_of_its_key(name: str, delay: int) -> None:
    task = TASKS[name]
    first = task.batch(40, delay, 0, 1)
    again = task.batch(40, delay, 0, 1)
    other = task.batch(40, delay, 0, 2)
    assert first.targets is not None
    assert again.targets is not None
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)
    if task.vocabulary:
        assert 0 <= int(first.inputs.min()) <= int(first.inputs.max()) < task.vocabulary
        real = first.targets[first.targets != IGNORED]
        assert 0 <= int(real.min()) <= int(real.max()) < task.outputs


@pytest.mark.parametrize("delay", DELAYS)
def test_the_symbol_stands_so_many_steps_before_the_mark(delay: int) -> None:
    batch = TASKS["delay"].batch(50, delay, 1)
    assert batch.targets is not None
    mark = 2 * memory_tasks.SYMBOLS
    assert batch.inputs.shape == (50, delay + 1)
    assert (batch.inputs[:, delay] == mark).all()
    assert torch.equal(batch.inputs[:, 0], batch.targets)
    # noise never shows what is asked for
    assert (batch.inputs[:, 1:] >= memory_tasks.SYMBOLS).all()


@pytest.mark.parametrize("delay", DELAYS)
def test_copied_symbols_are_asked_for_in_order(delay: int) -> None:
    batch = TASKS["copying"].batch(30, delay, 1)
    assert batch.targets is not None
    assert batch.inputs.shape == (30, delay + 20) == batch.targets.shape
    assert torch.equal(batch.targets[:, -10:], batch.inputs[:, :10])
    assert (batch.targets[:, :-10] == IGNORED).all()
    assert (batch.inputs[:, 10 + delay - 1] == memory_tasks.SYMBOLS + 1).all()
    assert (batch.inputs[:, 10 + delay :] == memory_tasks.SYMBOLS).all()


@pytest.mark.parametrize("delay", DELAYS)
def test_the_bracket_asked_for_is_the_innermost_open_one(delay: int) -> None:
    batch = TASKS["parentheses"].batch(200, delay, 1)
    assert batch.targets is not None
    depths = set()
    for row, answer in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        stack: list[tuple[int, int]] = []
        for step, token in enumerate(row[:-1]):
            if token < KINDS:
                stack.append((step, token))
            elif token < 2 * KINDS:
                assert stack.pop()[1] == token - KINDS
        step, kind = stack[-1]
        assert kind == answer
        assert len(row) - 1 - step == delay
        depths.add(len(stack))
    assert depths == {1, 2, 3, 4}


def test_brackets_in_between_nest() -> None:
    tokens = memory_tasks._balanced(np.random.default_rng(0), 300, 21)
    assert (tokens[:, -1] == 2 * KINDS).all()
    deepest = 0
    for row in tokens[:, :-1].tolist():
        depth = 0
        for token in row:
            depth += 1 if token < KINDS else -1
            assert depth >= 0
            deepest = max(deepest, depth)
        assert depth == 0
    assert deepest == memory_tasks.DEPTH


@pytest.mark.parametrize("delay", DELAYS)
def test_two_numbers_are_marked_one_in_each_half(delay: int) -> None:
    batch = TASKS["adding"].batch(100, delay, 1)
    assert batch.targets is not None
    values, marks = batch.inputs.unbind(-1)
    assert values.shape == (100, delay + 1)
    assert (values >= 0).all()
    assert (values < 1).all()
    half = (delay + 1) // 2
    assert (marks[:, :half].sum(1) == 1).all()
    assert (marks[:, half:].sum(1) == 1).all()
    assert torch.allclose((values * marks).sum(1), batch.targets)


@pytest.mark.parametrize("name", ["delay", "copying", "parentheses"])
def test_no_answer_is_more_frequent(name: str) -> None:
    task = TASKS[name]
    targets = task.batch(4000, 12, 3).targets
    assert targets is not None
    counts = torch.bincount(targets[targets != IGNORED], minlength=task.outputs)
    shares = counts / counts.sum()
    assert float((shares - task.chance).abs().max()) < 0.03


def test_chance_of_a_sum_is_that_of_always_saying_one() -> None:
    targets = TASKS["adding"].batch(200_000, 9, 3).targets
    assert targets is not None
    right = (targets - 1).abs() <= TOLERANCE
    assert float(right.double().mean()) == pytest.approx(
        TASKS["adding"].chance, abs=2e-3
    )
