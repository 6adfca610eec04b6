"""Checks of the data: what makes a score look better than the model is."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.checks.base import (
    FEW,
    SAMPLE,
    SMALL,
    Context,
    Finding,
    evenly,
    few_of,
    grave,
    proportion,
)
from unrolled.core.errors import shown
from unrolled.data.columns import label
from unrolled.data.examples import Examples
from unrolled.data.sources import Table
from unrolled.data.units import amount, unit_of
from unrolled.text.streams import SPECIALS

SURE = 0.99  # accuracy of one column, or F1 of one token, that is no luck
NEARLY_SURE = 0.95
FAR = 0.3  # more than the commonest label tells
LARGEST = 5_000_000  # cells of a table of tokens by labels

Cells = list[str]  # of one column, as labels


def shared(context: Context) -> Finding | None:
    """Scored rows that were trained on flatter the score."""
    if not context.plan.prepared.held_out:
        return Finding("ok", "scored on the training data itself, as asked")
    train = context.train
    dev = context.dev
    first = context.first
    twice = [row for row, key in enumerate(dev.inputs) if key and key in first]
    total = sum(map(bool, dev.inputs))
    unit = "long lines of the scored part"
    if context.task.schema.inputs:
        unit = "scored rows"
    if not twice:
        message = f"none of the {total:,} {unit} stands in training{context.only}"
        return Finding("ok", message)
    pairs = [f"{dev.at(row)} = {train.at(first[dev.inputs[row]])}" for row in twice]
    return Finding(
        grave(len(twice), total),
        f"{proportion(len(twice), total, unit)} also stand in training, case and blanks "
        f"apart{context.only}",
        where=few_of(pairs),
        advice="take them out of one part: known rows flatter the score",
    )


def shared_text(context: Context) -> Finding | None:
    """Of rows of several texts, one that stands in both parts may tell its row's answer."""
    columns = context.task.schema.text
    train = context.plan.prepared.train_data
    dev = context.plan.prepared.dev_data
    if not isinstance(train, Table) or not isinstance(dev, Table) or len(columns) < 2:
        return None
    if not {*train.columns} & {*dev.columns} >= {*columns}:
        return None
    shares = {}
    for name in columns:
        known = set(cells(train, name))
        scored = cells(dev, name)
        shares[name] = sum(bool(cell) and cell in known for cell in scored)
    name, count = max(shares.items(), key=lambda pair: pair[1])
    total = len(dev.rows)
    if not count:
        return Finding("ok", f"no text of the {total:,} scored rows stands in training")
    return Finding(
        "warning",
        f"{proportion(count, total, 'scored rows')} have a text of column {name!r} that also "
        "stands in training, beside another",
        where=f"column {name!r}",
        advice=f"data.group={name} keeps rows of one text in one part",
    )


def column(context: Context) -> Finding | None:
    """A column that tells the answer by itself may not be known when the model is used."""
    train = context.plan.prepared.train_data
    dev = context.plan.prepared.dev_data
    answer = context.task.schema.answer
    inputs = context.task.schema.inputs
    if not isinstance(train, Table) or not isinstance(dev, Table) or answer is None:
        return None
    in_both = {*train.columns} & {*dev.columns}
    if not in_both.issuperset([answer, *inputs]):
        return None
    index = train.columns.index(answer)
    if isinstance(train.rows[0][index], list):
        return None  # an answer for every word or step
    parts = (sampled(train), sampled(dev))
    answers = [cells(part, answer) for part in parts]
    telling = []
    hinting = []
    for name in train.columns:
        if name == answer or name not in dev.columns:
            continue
        columns = [cells(part, name) for part in parts]
        if context.names:
            # a task that reads one column is to tell the label by it
            right = 0.0 if inputs == (name,) else guesses(*columns, *answers)
            tells = right >= SURE
            if not tells and right and name not in context.task.schema.numbers:
                hinting.append((right, name))
        else:
            tells = same(columns[0], answers[0])
        if tells:
            telling.append(name)
    read = [name for name in telling if name in inputs]
    spared = [name for name in telling if name not in inputs]
    note = f" ({few_of(spared)} would, but is left out)" if spared else ""
    if not read and hinting:
        return _hint(hinting, inputs)
    if not read:
        return Finding("ok", f"no column that is read tells the answer by itself{note}")
    is_by_chance = context.names and len(answers[1]) < SMALL / 2
    return Finding(
        "warning" if is_by_chance else "problem",
        f"column {read[0]!r} by itself tells {shown(answer)} in the scored rows{note}",
        where=few_of([f"column {name!r}" for name in read]),
        advice="leave it out (data.numbers, data.text), unless it is known before the "
        "answer is",
    )


def _hint(hinting: list[tuple[float, str]], inputs: tuple[str, ...]) -> Finding:
    """Return the finding for columns that tell far more than the commonest answer does."""
    right, name = max(hinting)
    done = "it is read" if name in inputs else "it is left out"
    return Finding(
        "warning",
        f"column {name!r} by itself tells {right:.0%} of the scored rows: {done}",
        where=few_of([f"column {name!r}" for _, name in sorted(hinting, reverse=True)]),
        advice="see whether it is known before the answer is (data.categories, data.numbers)",
    )


def sampled(table: Table) -> Table:
    """Return the table with at most ``SAMPLE`` of its rows, evenly spaced."""
    indices = np.arange(len(table.rows))
    rows = [table.rows[index] for index in evenly(indices, SAMPLE)]
    return replace(table, rows=rows)


def cells(table: Table, name: str) -> Cells:
    """Return one column as labels."""
    index = table.columns.index(name)
    return [label(row[index]) for row in table.rows]


def same(column: Cells, answers: Cells) -> bool:
    """Whether two columns of numbers are the same but for their unit."""
    values = _amounts(column)
    answer_values = _amounts(answers)
    pairs = zip(values, answer_values, strict=True)
    complete = [pair for pair in pairs if None not in pair]
    known = np.array(complete, np.float64).reshape(-1, 2)
    # of two points, or of one value alone, nothing can be said
    if len(known) < 3 or np.ptp(known, axis=0).min() == 0:
        return False
    correlations = np.asarray(np.corrcoef(known.T))
    return bool(abs(correlations[0, 1]) > 1 - 1e-6)


def guesses(train: Cells, dev: Cells, train_labels: Cells, dev_labels: Cells) -> float:
    """Return how many labels of the scored rows one column of the training rows tells.

    0 where that is not far more than the commonest label tells, as luck may have it.
    """
    numbers = _amounts(train)
    if len(set(train)) > SMALL and None not in numbers:
        guessed = by_nearest(train, dev, train_labels)
    else:
        guessed = by_votes(train, dev, train_labels)
    pairs = zip(guessed, dev_labels, strict=True)
    right = float(np.mean([guess == truth for guess, truth in pairs]))
    counts = Counter(dev_labels)
    majority = max(counts.values()) / len(dev_labels)
    far = right >= NEARLY_SURE and right > majority + 0.05
    return right if far or right > majority + FAR else 0.0


def numbers_of(column: Cells) -> NDArray[np.float64]:
    """Return the numbers of a column, 0 where a cell has none."""
    numbers = [value or 0.0 for value in _amounts(column)]
    return np.array(numbers)


def _amounts(column: Cells) -> list[float | None]:
    """Return the numbers of a column, without the unit behind them."""
    unit = unit_of(column)
    return [amount(cell, unit=unit) for cell in column]


def by_nearest(train: Cells, dev: Cells, labels: Cells) -> Cells:
    """Return for each scored cell the label of the training row whose number is nearest."""
    known = numbers_of(train)
    scored = numbers_of(dev)
    order = np.argsort(known)
    known = np.sort(known)
    after = np.searchsorted(known, scored)
    after = after.clip(1, len(known) - 1)
    distance_before = scored - known[after - 1]
    distance_after = known[after] - scored
    nearest = after - (distance_before < distance_after)
    return [labels[row] for row in order[nearest]]


def by_votes(train: Cells, dev: Cells, labels: Cells) -> Cells:
    """Return for each scored cell the most frequent label of the training rows with that cell."""
    votes = defaultdict[str, Counter[str]](Counter)
    for cell, name in zip(train, labels, strict=True):
        votes[cell][name] += 1
    best: dict[str, str] = {}
    for cell, counts in votes.items():
        name, _ = counts.most_common(1)[0]
        best[cell] = name
    return [best.get(cell, "") for cell in dev]


def token(context: Context) -> Finding | None:
    """A token of one label's rows alone may be the label, written into the text."""
    tokenizer = context.task.tokenizer
    prepared = context.plan.prepared
    width = len(context.names)
    if tokenizer is None or not width:
        return None
    if tokenizer.size * width > LARGEST:
        return None
    if not isinstance(prepared.train.targets, np.ndarray):
        return None
    train_scores = overlap(prepared.train, tokenizer.size, width)
    dev_scores = overlap(prepared.dev, tokenizer.size, width)
    # F1 of a token as the sign of a label, in both parts
    scores = np.minimum(train_scores, dev_scores)
    index, kind = np.unravel_index(int(scores.argmax()), scores.shape)
    f1 = scores[index, kind]
    if f1 < SURE:
        return Finding("ok", "no token tells a label by itself")
    return Finding(
        "warning",
        f"the token {shown(tokenizer.token(int(index)))} tells label "
        f"{shown(context.names[kind])} by itself (F1 {f1:.3f})",
        where=f"column {context.task.schema.inputs[0]!r}",
        advice="see whether the label was written into the text",
    )


def overlap(part: Examples, size: int, width: int) -> Any:
    """Return 2 |A and B| / (|A| + |B|) of rows with a token and rows of a class, (size, width)."""
    assert part.sequences is not None
    chosen = evenly(np.arange(len(part)), SAMPLE)
    targets = np.asarray(part.targets)[chosen].astype(np.int64)
    ids, lengths = part.sequences.take(chosen, 0)
    steps = np.arange(ids.shape[1])
    real = steps < lengths.numpy()[:, None]
    rows, _ = np.nonzero(real)
    tokens = ids.numpy()[real]
    # each token once a row
    pairs = np.unique(rows * size + tokens)
    rows, tokens = np.divmod(pairs, size)
    table_cells = tokens * width + targets[rows]
    counted = np.bincount(table_cells, minlength=size * width)
    with_both = counted.reshape(size, width)
    with_token = with_both.sum(1, keepdims=True)
    of_class = np.bincount(targets, minlength=width)
    scores = 2 * with_both / np.maximum(1, with_token + of_class)
    scores[: len(SPECIALS)] = 0
    # what stands in every row tells only that nearly all rows have one label
    is_common = of_class > 0.8 * len(targets)
    is_rare = of_class < FEW
    scores[:, is_common | is_rare] = 0
    return scores
