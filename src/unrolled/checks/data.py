"""Checks of the data: what makes a model worse, or a score of it say less, than it could."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from unrolled.checks.base import (
    FEW,
    SAMPLE,
    SMALL,
    TINY,
    Context,
    Finding,
    PartRows,
    evenly,
    few_of,
    grave,
    location,
    proportion,
)
from unrolled.core.errors import shown
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.data.sources import Document, Table
from unrolled.fields.text import Text
from unrolled.tasks.base import locate


def reading(context: Context) -> Finding | None:
    """What is doubtful about how the files are read makes all other checks doubtful."""
    warnings = context.plan.prepared.warnings
    if not warnings:
        return Finding("ok", "nothing is doubtful about how the data is read")
    more = f"; and {len(warnings) - 1} more" if len(warnings) > 1 else ""
    return Finding(
        "warning",
        f"{warnings[0].message}{more}",
        where="; ".join(warning.message for warning in warnings[1:]),
        advice=warnings[0].key or "see that this is what the file means",
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
    is_rare = is_learnt & (train_counts < FEW)
    remarks = []
    for remark, chosen in (
        ("in the scored part alone, so never learnt", ~is_learnt & is_scored),
        (f"with fewer than {FEW} training examples", is_rare),
        ("in the training part alone, so never scored", is_learnt & ~is_scored),
    ):
        names = [repr(context.names[index]) for index in np.flatnonzero(chosen)]
        if names:
            remarks.append(f"{few_of(names)} {remark}")
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
    a_row = context.task.scored_unit == "rows"
    if targets is None or len(targets) < SMALL or not a_row:
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
    field = context.task.text_field
    examples = context.plan.prepared.train
    table = context.plan.prepared.train_data
    if field is None or field.max_tokens is None or not isinstance(table, Table):
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
    tokenizer = context.task.tokenizer
    if tokenizer is None:
        return None
    if not isinstance(dev, Examples):
        tokens = dev.tokens[:]
    elif dev.spellings is not None:
        # words that are spelt are read by their pieces
        tokens = dev.spellings.pieces.flat[:]
    else:
        # where no text is read it is the one that is written
        pieces: Any = dev.targets if dev.sequences is None else dev.sequences
        tokens = pieces.flat[:]
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
