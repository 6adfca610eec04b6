"""Checks of the data: what makes a score look better, or a model worse, than it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unrolled.checks.base import Context, Finding, PartRows, Status, evenly, location
from unrolled.core.errors import shown
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.fields import Text
from unrolled.data.schema import label, number
from unrolled.data.sources import Document, Table
from unrolled.data.streams import SPECIALS
from unrolled.tasks.base import locate
from unrolled.tasks.language import TokenStream

SHOWN = 3  # examples that are named
SAMPLE = 10_000  # rows that the slower checks look at
FEW = 5  # a label of fewer training rows is hardly learnt
SMALL = 100  # a score on fewer rows moves by chance
MANY = 0.05  # share of rows that makes a score wrong
TINY = 0.005  # share of rows that moves no score one can tell from chance
SURE = 0.99  # accuracy of one column, or F1 of one token, that is no luck
CELLS = 5_000_000  # of a table of tokens by labels


def few_of(names: Sequence[str]) -> str:
    """Name the first few, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def proportion(count: int, total: int, unit: str) -> str:
    """Say a count, its total and the percentage."""
    return f"{count:,} of {total:,} {unit} ({count / max(1, total):.1%})"


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


def conflicts(context: Context) -> Finding | None:
    """Equal inputs with different labels bound every score."""
    if not context.names:
        return None
    part = context.train
    groups = defaultdict[int, list[int]](list)
    for row, key in enumerate(part.inputs):
        if key and context.first[key] != row:
            groups[context.first[key]].append(row)
    held = 0
    lost = 0
    pairs = []
    for first, others in groups.items():
        group = [row for row in (first, *others) if part.answers[row]]
        votes = Counter(part.answers[row] for row in group)
        if len(votes) < 2:
            continue
        held += len(group)
        # who says the most frequent label is right in those alone
        lost += len(group) - max(votes.values())
        label_of_first = part.answers[group[0]]
        other = next(row for row in group if part.answers[row] != label_of_first)
        pairs.append(f"{part.at(group[0])} and {part.at(other)}")
    total = len(part.inputs)
    if not held:
        return Finding("ok", f"rows of equal input have equal labels{context.only}")
    return Finding(
        grave(lost, total),
        f"{proportion(held, total, 'training rows')} have the input of another, but not "
        f"its label: no model can be right in more than {1 - lost / total:.1%}"
        f"{context.only}",
        where=few_of(pairs),
        advice="correct the labels, or leave such rows out",
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
    parts = (sampled(train), sampled(dev))
    answers = [cells(part, answer) for part in parts]
    telling = []
    for name in train.columns:
        if name == answer or name not in dev.columns:
            continue
        columns = [cells(part, name) for part in parts]
        if context.names:
            # a task that reads one column is to tell the label by it
            tells = inputs != (name,) and guesses(*columns, *answers)
        else:
            tells = same(columns[0], answers[0])
        if tells:
            telling.append(name)
    read = [name for name in telling if name in inputs]
    spared = [name for name in telling if name not in inputs]
    note = f" ({few_of(spared)} would, but is left out)" if spared else ""
    if not read:
        return Finding("ok", f"no column that is read tells the answer by itself{note}")
    is_certain = not context.names or len(answers[1]) >= SMALL / 2
    return Finding(
        "problem" if is_certain else "warning",
        f"column {read[0]!r} by itself tells {shown(answer)} in the scored rows{note}",
        where=few_of([f"column {name!r}" for name in read]),
        advice="leave it out (data.numbers, data.text), unless it is known before the "
        "answer is",
    )


def sampled(table: Table) -> Table:
    """Return the table with at most ``SAMPLE`` of its rows, evenly spaced."""
    rows = evenly(np.arange(len(table.rows)), SAMPLE)
    return replace(table, rows=[table.rows[row] for row in rows])


def cells(table: Table, name: str) -> list[str]:
    """Return one column as labels."""
    index = table.columns.index(name)
    return [label(row[index]) for row in table.rows]


def same(values: list[str], answers: list[str]) -> bool:
    """Whether two columns of numbers are the same but for their unit."""
    pairs = [(number(a), number(b)) for a, b in zip(values, answers, strict=True)]
    complete = [pair for pair in pairs if None not in pair]
    known = np.array(complete, np.float64).reshape(-1, 2)
    if len(known) < 3 or np.ptp(known, axis=0).min() == 0:
        return False
    correlation = np.asarray(np.corrcoef(known.T))[0, 1]
    return bool(abs(correlation) > 1 - 1e-6)


def guesses(
    train: list[str], dev: list[str], train_labels: list[str], dev_labels: list[str]
) -> bool:
    """Whether one column of the training rows tells the labels of the scored rows."""
    numbers = [number(value) for value in train]
    if len(set(train)) > SMALL and None not in numbers:
        guessed = by_nearest(train, dev, train_labels)
    else:
        guessed = by_votes(train, dev, train_labels)
    hits = [a == b for a, b in zip(guessed, dev_labels, strict=True)]
    right = float(np.mean(hits))
    majority = max(Counter(dev_labels).values()) / len(dev_labels)
    return right >= SURE and right > majority + 0.05


def by_nearest(train: list[str], dev: list[str], labels: list[str]) -> list[str]:
    """Return for each scored cell the label of the training row whose number is nearest."""
    known = np.array([number(value) or 0.0 for value in train])
    scored = np.array([number(value) or 0.0 for value in dev])
    labels = [labels[row] for row in np.argsort(known)]
    known = np.sort(known)
    after = np.searchsorted(known, scored).clip(1, len(known) - 1)
    is_before_nearer = scored - known[after - 1] < known[after] - scored
    return [labels[row] for row in after - is_before_nearer]


def by_votes(train: list[str], dev: list[str], labels: list[str]) -> list[str]:
    """Return for each scored cell the most frequent label of the training rows with that cell."""
    votes = defaultdict[str, Counter[str]](Counter)
    for value, name in zip(train, labels, strict=True):
        votes[value][name] += 1
    best = {value: count.most_common(1)[0][0] for value, count in votes.items()}
    return [best.get(value, "") for value in dev]


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
    index, kind = np.unravel_index(int(both.argmax()), both.shape)
    f1 = both[index, kind]
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
    ids, lengths = part.sequences.take(chosen, 0)
    real = np.arange(ids.shape[1]) < lengths.numpy()[:, None]
    # row times size plus token: each token once a row
    pairs = np.unique(np.nonzero(real)[0] * size + ids.numpy()[real])
    targets = np.asarray(part.targets)[chosen].astype(np.int64)
    cell_indices = pairs % size * width + targets[pairs // size]
    counted = np.bincount(cell_indices, minlength=size * width)
    table = counted.reshape(size, width)
    kinds = np.bincount(targets, minlength=width)
    scores = 2 * table / np.maximum(1, table.sum(1, keepdims=True) + kinds)
    scores[: len(SPECIALS)] = 0
    # what stands in every row tells only that nearly all rows have one label
    scores[:, (kinds > 0.8 * len(targets)) | (kinds < FEW)] = 0
    return scores


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
    width = len(context.names)
    train_counts = np.bincount(learnt, minlength=width)
    dev_counts = np.bincount(scored, minlength=width)
    is_learnt = train_counts > 0
    is_scored = dev_counts > 0
    remarks = [
        f"{few_of([repr(context.names[index]) for index in np.flatnonzero(chosen)])} {what}"
        for chosen, what in (
            (~is_learnt & is_scored, "in the scored part alone, so never learnt"),
            (
                is_learnt & (train_counts < FEW),
                f"with fewer than {FEW} training examples",
            ),
            (is_learnt & ~is_scored, "in the training part alone, so never scored"),
        )
        if chosen.any()
    ]
    if not remarks:
        return Finding("ok", f"each has {FEW} training examples or more and is scored")
    return Finding(
        "warning",
        "; ".join(remarks),
        where=f"column {context.task.schema.answer!r}",
        advice="add rows of them, or join rare labels",
    )


def scored(context: Context) -> Finding | None:
    """A scored part that is small, or nearly all of one label, says little."""
    dev = context.plan.prepared.dev
    targets = classes(context, dev)
    if not context.plan.prepared.held_out or not isinstance(dev, Examples):
        return None
    if dev.answers < SMALL:
        swing = ""
        if context.names:
            swing = f": chance alone moves accuracy by {1 / dev.answers**0.5:.0%}"
        return Finding(
            "warning",
            f"only {dev.answers} answers are scored{swing}",
            advice="hold out more (data.holdout=0.3), or give data.dev=FILE",
        )
    message = f"{dev.answers:,} answers are scored"
    if targets is None:
        return Finding("ok", message)
    counts = np.bincount(targets)
    name = context.names[int(counts.argmax())]
    most = counts.max() / len(targets)
    message += f"; always saying {shown(name)} is right in {most:.1%}"
    if most < 0.9:
        return Finding("ok", message)
    return Finding(
        "warning",
        message,
        where=f"column {context.task.schema.answer!r}",
        advice="judge by macro_f1: training.metric=macro_f1",
    )


def order(context: Context) -> Finding | None:
    """The order of the labels matters where only the first rows of a file are read."""
    targets = classes(context, context.plan.prepared.train)
    limit = context.plan.recipe.data.limit
    if targets is None or len(targets) < SMALL or context.task.name != "classify":
        return None
    # sorted, the label changes once less than there are labels
    if np.count_nonzero(np.diff(targets)) >= len(np.unique(targets)):
        return Finding("ok", "the rows are not sorted by label")
    if limit is None:
        return Finding(
            "ok", "the rows are sorted by label: harmless, every epoch is shuffled"
        )
    return Finding(
        "warning",
        "the rows are sorted by label and only the first "
        f"{limit:,} are read (data.limit)",
        where=context.train.data.path,
        advice="shuffle the file, or drop data.limit",
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
    limit = f"data.max_tokens={field.max_tokens}"
    if not len(full):
        return Finding("ok", f"no text is longer than {limit}")
    # of a large file only the first rows are at hand
    at_hand = full[np.isin(examples.lines[full], table.lines)]
    chosen = evenly(at_hand, SAMPLE // 10)
    if not len(chosen):
        return None
    lengths = whole_lengths(context, field, table, examples.lines[chosen].tolist())
    lost = lengths - examples.lengths[chosen]
    # of those looked at, carried over to all that are full
    count = round(float((lost > 0).mean()) * len(full))
    lost_tokens = float(lost.mean()) * len(full)
    lost_part = lost_tokens / (float(examples.lengths.sum()) + lost_tokens)
    longest = int(examples.lines[chosen[lengths.argmax()]])
    among = " of those looked at" if len(chosen) < len(full) else ""
    return Finding(
        "warning" if lost_part >= 0.01 else "ok",
        f"{proportion(count, len(examples), 'texts')} are longer than "
        f"{limit}: {lost_part:.1%} of all tokens are never read",
        where=f"{location(table, longest)} is the longest{among}, "
        f"{lengths.max():,} tokens",
        advice="raise data.max_tokens",
    )


def whole_lengths(context: Context, field: Text, table: Table, lines: list[int]) -> Any:
    """Return how many tokens the texts on some lines have when nothing is cut off."""
    row_by_line = {line: row for row, line in enumerate(table.lines)}
    rows = [table.rows[row_by_line[line]] for line in lines]
    columns = locate(table, field.columns, context.task.columns)
    texts = [field.check([row[column] for column in columns]) for row in rows]
    encoded = replace(field, max_tokens=None).encode(texts)
    return np.array([len(ids) for ids in encoded])


def unknown(context: Context) -> Finding | None:
    """Scored text that the vocabulary does not know cannot be understood."""
    dev: Any = context.plan.prepared.dev
    tokenizer = getattr(
        getattr(context.task, "inputs", context.task), "tokenizer", None
    )
    if tokenizer is None:
        return None
    if isinstance(dev, TokenStream):
        tokens = dev.tokens[:]
    elif dev.spellings is None:
        tokens = dev.sequences.flat[:]
    else:  # words that are spelt are read by their pieces
        tokens = dev.spellings.pieces.flat[:]
    count = int((tokens == tokenizer.unk_id).sum())
    if not count:
        return Finding("ok", "the vocabulary knows everything in the scored part")
    message = proportion(
        count, len(tokens), "scored tokens are unknown to the vocabulary"
    )
    # what was not looked at may have them
    unseen = "" if context.only else unseen_characters(context)
    if unseen:
        message += f"; characters that training never saw: {unseen}"
    return Finding(
        "warning" if count > 0.01 * len(tokens) else "ok",
        message,
        advice="data.tokenizer=bytes knows everything",
    )


def unseen_characters(context: Context) -> str:
    """Return the most frequent characters of the scored part that training never saw."""
    counts = Counter(whole_text(context.dev))
    for character in set(whole_text(context.train)):
        counts.pop(character, None)
    return " ".join(character for character, _ in counts.most_common(8))


def whole_text(part: PartRows) -> str:
    """Return all that is read of a part."""
    if isinstance(part.data, Document):
        return part.data.text
    return "".join(part.inputs)


def empty(context: Context) -> Finding | None:
    """Rows without input teach nothing."""
    if not context.task.schema.inputs:
        return None
    parts = (context.train, context.dev)
    rows: list[str] = []
    for part in parts:
        rows += [part.at(row) for row, key in enumerate(part.inputs) if not key]
    if not rows:
        return Finding("ok", f"no input is empty{context.only}")
    total = sum(len(part.inputs) for part in parts)
    return Finding(
        "ok" if len(rows) < TINY * total else "warning",
        f"{proportion(len(rows), total, 'rows')} have an empty input{context.only}",
        where=few_of(rows),
        advice="take them out",
    )
