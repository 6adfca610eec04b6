"""Checks of the data: what makes a score look better, or a model worse, than it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unrolled.checks.base import Context, Finding, Status, evenly, place
from unrolled.core.errors import shown
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.schema import label, number
from unrolled.data.sources import Document, Table
from unrolled.fields.text import Text
from unrolled.tasks.base import locate
from unrolled.tasks.language import TokenStream
from unrolled.text.streams import SPECIALS

SHOWN = 3  # examples that are named
SAMPLE = 10_000  # rows that the slower checks look at
FEW = 5  # a label of fewer training rows is hardly learnt
SMALL = 100  # a score on fewer rows moves by chance
MANY = 0.05  # share of rows that makes a score wrong
TINY = 0.005  # share of rows that moves no score one can tell from chance
SURE = 0.99  # accuracy of one column, or F1 of one token, that is no luck
CELLS = 5_000_000  # of a table of tokens by labels


def some(items: Sequence[str]) -> str:
    """Name the first few items, and how many more there are."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def share(count: int, total: int, what: str) -> str:
    """Say a count, its total and the percentage."""
    return f"{count:,} of {total:,} {what} ({count / max(1, total):.1%})"


def grave(count: int, total: int) -> Status:
    """Return how far a count of faulty rows can move a score."""
    if count < TINY * total:
        return "ok"
    return "problem" if count >= MANY * total else "warning"


def shared(context: Context) -> Finding | None:
    """Scored rows that were trained on flatter the score."""
    if not context.plan.prepared.held_out:
        return Finding("ok", "scored on the training data itself, as asked")
    train = context.train
    dev = context.dev
    first = context.first
    twice = [row for row, key in enumerate(dev.inputs) if key and key in first]
    total = sum(map(bool, dev.inputs))
    what = (
        "scored rows" if context.task.schema.inputs else "long lines of the scored part"
    )
    if not twice:
        return Finding(
            "ok", f"none of the {total:,} {what} stands in training{context.only}"
        )
    return Finding(
        grave(len(twice), total),
        f"{share(len(twice), total, what)} also stand in training, case and blanks apart"
        f"{context.only}",
        some([f"{dev.at(row)} = {train.at(first[dev.inputs[row]])}" for row in twice]),
        "take them out of one part: known rows flatter the score",
    )


def conflicts(context: Context) -> Finding | None:
    """Equal inputs with different labels bound every score."""
    if not context.names:
        return None
    rows = context.train
    groups = defaultdict[int, list[int]](list)
    for row, key in enumerate(rows.inputs):
        if key and context.first[key] != row:
            groups[context.first[key]].append(row)
    held = 0
    lost = 0
    where = []
    for first, others in groups.items():
        group = [row for row in (first, *others) if rows.answers[row]]
        votes = Counter(rows.answers[row] for row in group)
        if len(votes) > 1:
            held = held + len(group)
            lost = lost + len(group) - max(votes.values())
            other = next(
                row for row in group if rows.answers[row] != rows.answers[group[0]]
            )
            where.append(f"{rows.at(group[0])} and {rows.at(other)}")
    total = len(rows.inputs)
    if not held:
        return Finding("ok", f"rows of equal input have equal labels{context.only}")
    return Finding(
        grave(lost, total),
        f"{share(held, total, 'training rows')} have the input of another, but not its label: no "
        f"model can be right in more than {1 - lost / total:.1%}{context.only}",
        some(where),
        "correct the labels, or leave such rows out",
    )


def column(context: Context) -> Finding | None:
    """A column that tells the answer by itself may not be known when the model is used."""
    train = context.plan.prepared.train_data
    dev = context.plan.prepared.dev_data
    answer = context.task.schema.answer
    inputs = context.task.schema.inputs
    if not (isinstance(train, Table) and isinstance(dev, Table)) or answer is None:
        return None
    if not {answer, *inputs} <= {*train.columns} & {*dev.columns}:
        return None
    if isinstance(train.rows[0][train.columns.index(answer)], list):
        return None  # an answer for every word or step
    parts = [
        replace(t, rows=[t.rows[i] for i in evenly(np.arange(len(t.rows)), SAMPLE)])
        for t in (train, dev)
    ]
    goals = [cells(part, answer) for part in parts]
    told = []
    for name in train.columns:
        if name == answer or name not in dev.columns:
            continue
        values = [cells(part, name) for part in parts]
        if context.names:
            tells = inputs != (name,) and guesses(
                values[0], goals[0], values[1], goals[1]
            )
        else:
            tells = same(values[0], goals[0])
        told += [name] if tells else []
    read = [name for name in told if name in inputs]
    spared = [name for name in told if name not in inputs]
    note = f" ({some(spared)} would, but is left out)" if spared else ""
    if not read:
        return Finding("ok", f"no column that is read tells the answer by itself{note}")
    return Finding(
        "problem" if not context.names or len(goals[1]) >= SMALL / 2 else "warning",
        f"column {read[0]!r} by itself tells {shown(answer)} in the scored rows{note}",
        some([f"column {name!r}" for name in read]),
        "leave it out (data.numbers, data.text), unless it is known before the answer is",
    )


def cells(table: Table, name: str) -> list[str]:
    """Return one column as labels."""
    place = table.columns.index(name)
    return [label(row[place]) for row in table.rows]


def same(values: list[str], goals: list[str]) -> bool:
    """Whether two columns of numbers are the same but for their unit."""
    pairs = [(number(a), number(b)) for a, b in zip(values, goals, strict=True)]
    known = np.array([pair for pair in pairs if None not in pair], np.float64).reshape(
        -1, 2
    )
    if len(known) < 3 or np.ptp(known, axis=0).min() == 0:
        return False
    return bool(abs(np.asarray(np.corrcoef(known.T))[0, 1]) > 1 - 1e-6)


def guesses(
    values: list[str], truth: list[str], asked: list[str], goals: list[str]
) -> bool:
    """Whether a label is that of the nearest number, or most often that of the same word."""
    numbers = [number(value) for value in values]
    if len(set(values)) > SMALL and None not in numbers:
        known, wanted = (
            np.array([number(v) or 0.0 for v in part]) for part in (values, asked)
        )
        truth = [truth[i] for i in np.argsort(known)]
        known = np.sort(known)
        after = np.searchsorted(known, wanted).clip(1, len(known) - 1)
        nearer = wanted - known[after - 1] < known[after] - wanted
        found = [truth[i] for i in after - nearer]
    else:
        votes = defaultdict[str, Counter[str]](Counter)
        for value, name in zip(values, truth, strict=True):
            votes[value][name] += 1
        best = {value: count.most_common(1)[0][0] for value, count in votes.items()}
        found = [best.get(value, "") for value in asked]
    right = float(np.mean([a == b for a, b in zip(found, goals, strict=True)]))
    return right >= SURE and right > max(Counter(goals).values()) / len(goals) + 0.05


def token(context: Context) -> Finding | None:
    """A token of one label's rows alone may be the label, written into the text."""
    tokenizer = getattr(getattr(context.task, "inputs", None), "tokenizer", None)
    prepared = context.plan.prepared
    width = len(context.names)
    if tokenizer is None or not width or tokenizer.size * width > CELLS:
        return None
    if not isinstance(prepared.train.targets, np.ndarray):
        return None
    scores = [
        overlap(part, tokenizer.size, width) for part in (prepared.train, prepared.dev)
    ]
    # F1 of a token as the sign of a label, in both parts
    both = np.minimum(*scores)
    place, kind = np.unravel_index(int(both.argmax()), both.shape)
    if both[place, kind] < SURE:
        return Finding("ok", "no token tells a label by itself")
    return Finding(
        "warning",
        f"the token {shown(tokenizer.token(int(place)))} tells label "
        f"{shown(context.names[kind])} by itself (F1 {both[place, kind]:.3f})",
        f"column {context.task.schema.inputs[0]!r}",
        "see whether the label was written into the text",
    )


def overlap(part: Examples, size: int, width: int) -> Any:
    """Return 2 |A and B| / (|A| + |B|) of rows with a token and rows of a class, (size, width)."""
    assert part.sequences is not None
    chosen = evenly(np.arange(len(part)), SAMPLE)
    ids, lengths = part.sequences.take(chosen, 0)
    real = np.arange(ids.shape[1]) < lengths.numpy()[:, None]
    pairs = np.unique(
        np.nonzero(real)[0] * size + ids.numpy()[real]
    )  # each token once a row
    targets = np.asarray(part.targets)[chosen].astype(np.int64)
    counted = np.bincount(
        pairs % size * width + targets[pairs // size], minlength=size * width
    )
    table = counted.reshape(size, width)
    kinds = np.bincount(targets, minlength=width)
    found = 2 * table / np.maximum(1, table.sum(1, keepdims=True) + kinds)
    found[: len(SPECIALS)] = 0
    # what stands in every row tells only that nearly all rows have one label
    found[:, (kinds > 0.8 * len(targets)) | (kinds < FEW)] = 0
    return found


def classes(context: Context, part: Any) -> Ints | None:
    """Return the class of every row, or word, of a part."""
    if not context.names or not isinstance(part, Examples) or part.targets is None:
        return None
    ragged = isinstance(part.targets, Ragged)
    targets = np.asarray(part.targets.flat[:] if ragged else part.targets)
    return targets[targets >= 0].astype(np.int64)


def labels(context: Context) -> Finding | None:
    """Labels that cannot be learnt, or that no score knows of."""
    learnt = classes(context, context.plan.prepared.train)
    scored = classes(context, context.plan.prepared.dev)
    if learnt is None or scored is None:
        return None
    seen, asked = (
        np.bincount(part, minlength=len(context.names)) for part in (learnt, scored)
    )
    told = [
        f"{some([repr(context.names[i]) for i in np.flatnonzero(chosen)])} {what}"
        for chosen, what in (
            ((seen == 0) & (asked > 0), "in the scored part alone, so never learnt"),
            ((seen > 0) & (seen < FEW), f"with fewer than {FEW} training examples"),
            ((seen > 0) & (asked == 0), "in the training part alone, so never scored"),
        )
        if chosen.any()
    ]
    if not told:
        return Finding("ok", f"each has {FEW} training examples or more and is scored")
    where = f"column {context.task.schema.answer!r}"
    return Finding(
        "warning", "; ".join(told), where, "add rows of them, or join rare labels"
    )


def scored(context: Context) -> Finding | None:
    """A scored part that is small, or nearly all of one label, says little."""
    dev = context.plan.prepared.dev
    found = classes(context, context.plan.prepared.dev)
    if not context.plan.prepared.held_out or not isinstance(dev, Examples):
        return None
    if dev.answers < SMALL:
        swing = f": chance alone moves accuracy by {1 / dev.answers**0.5:.0%}"
        return Finding(
            "warning",
            f"only {dev.answers} answers are scored{swing if context.names else ''}",
            "",
            "hold out more (data.holdout=0.3), or give data.dev=FILE",
        )
    if found is None:
        return Finding("ok", f"{dev.answers:,} answers are scored")
    counts = np.bincount(found)
    name = context.names[int(counts.argmax())]
    most = counts.max() / len(found)
    told = f"{dev.answers:,} answers are scored; always saying {shown(name)} is right in {most:.1%}"
    if most < 0.9:
        return Finding("ok", told)
    where = f"column {context.task.schema.answer!r}"
    return Finding(
        "warning", told, where, "judge by macro_f1: training.metric=macro_f1"
    )


def order(context: Context) -> Finding | None:
    """The order of the labels matters where only the first rows of a file are read."""
    found = classes(context, context.plan.prepared.train)
    limit = context.plan.recipe.data.limit
    if found is None or len(found) < SMALL or context.task.name != "classify":
        return None
    if np.count_nonzero(np.diff(found)) >= len(np.unique(found)):
        return Finding("ok", "the rows are not sorted by label")
    if limit is None:
        return Finding(
            "ok", "the rows are sorted by label: harmless, every epoch is shuffled"
        )
    told = f"the rows are sorted by label and only the first {limit:,} are read (data.limit)"
    return Finding(
        "warning", told, context.train.data.path, "shuffle the file, or drop data.limit"
    )


def cut(context: Context) -> Finding | None:
    """What ``data.max_tokens`` cuts off is never read."""
    field = getattr(context.task, "inputs", None)
    examples = context.plan.prepared.train
    table = context.plan.prepared.train_data
    if (
        not isinstance(field, Text)
        or field.max_tokens is None
        or not isinstance(table, Table)
    ):
        return None
    full = np.flatnonzero(examples.lengths >= field.max_tokens)
    if not len(full):
        return Finding(
            "ok", f"no text is longer than data.max_tokens={field.max_tokens}"
        )
    # of a large file only the first rows are at hand
    chosen = evenly(full[np.isin(examples.lines[full], table.lines)], SAMPLE // 10)
    if not len(chosen):
        return None
    at = {line: row for row, line in enumerate(table.lines)}
    rows = [table.rows[at[line]] for line in examples.lines[chosen].tolist()]
    places = locate(table, field.columns, context.task.columns)
    whole = replace(field, max_tokens=None).encode(
        [field.check([r[i] for i in places]) for r in rows]
    )
    lengths = np.array([len(ids) for ids in whole])
    lost = lengths - examples.lengths[chosen]
    count = round(float((lost > 0).mean()) * len(full))
    gone = float(lost.mean()) * len(full)
    part = gone / (float(examples.lengths.sum()) + gone)
    worst = int(examples.lines[chosen[lengths.argmax()]])
    few = " of those looked at" if len(chosen) < len(full) else ""
    return Finding(
        "warning" if part >= 0.01 else "ok",
        f"{share(count, len(examples), 'texts')} are longer than "
        f"data.max_tokens={field.max_tokens}: {part:.1%} of all tokens are never read",
        f"{place(table, worst)} is the longest{few}, {lengths.max():,} tokens",
        "raise data.max_tokens",
    )


def unknown(context: Context) -> Finding | None:
    """Scored text that the vocabulary does not know cannot be understood."""
    dev: Any = context.plan.prepared.dev
    tokenizer = getattr(
        getattr(context.task, "inputs", context.task), "tokenizer", None
    )
    if tokenizer is None:
        return None
    if isinstance(dev, TokenStream):
        flat = dev.tokens[:]
    else:  # words that are spelt are read by their pieces
        flat = (dev.sequences if dev.spellings is None else dev.spellings.pieces).flat[
            :
        ]
    count = int((flat == tokenizer.unk_id).sum())
    if not count:
        return Finding("ok", "the vocabulary knows everything in the scored part")
    parts = (context.dev, context.train)
    scored, learnt = (
        p.data.text if isinstance(p.data, Document) else "".join(p.inputs)
        for p in parts
    )
    fresh = Counter(scored)
    for character in set(learnt):
        fresh.pop(character, None)
    new = " ".join(character for character, _ in fresh.most_common(8))
    if context.only:  # what was not looked at may have them
        new = ""
    told = share(count, len(flat), "scored tokens are unknown to the vocabulary")
    told += f"; characters that training never saw: {new}" if new else ""
    many = count > 0.01 * len(flat)
    return Finding(
        "warning" if many else "ok", told, "", "data.tokenizer=bytes knows everything"
    )


def empty(context: Context) -> Finding | None:
    """Rows without input teach nothing."""
    if not context.task.schema.inputs:
        return None
    rows = [
        p.at(i)
        for p in (context.train, context.dev)
        for i, key in enumerate(p.inputs)
        if not key
    ]
    if not rows:
        return Finding("ok", f"no input is empty{context.only}")
    total = len(context.train.inputs) + len(context.dev.inputs)
    status: Status = "ok" if len(rows) < TINY * total else "warning"
    told = f"{share(len(rows), total, 'rows')} have an empty input{context.only}"
    return Finding(status, told, some(rows), "take them out")
