"""What a model must beat: simple methods on the same split, so that a score can be judged."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unrolled.data.examples import Examples, Ragged
from unrolled.data.sources import Document, Table
from unrolled.fields.frames import Frames
from unrolled.fields.text import Text
from unrolled.fields.vector import Vector
from unrolled.fields.words import words_of
from unrolled.runs.prepare import Prepared
from unrolled.scores import (
    accuracy,
    confusion_counts,
    macro_f1,
    mean_absolute_error,
    root_mean_squared_error,
)
from unrolled.tasks.base import Task, locate
from unrolled.tasks.labelled import Classify, Regress
from unrolled.tasks.language import Language, TokenStream
from unrolled.tasks.pairs import Pairs
from unrolled.tasks.rewrite import Rewrite
from unrolled.tasks.series import last_values
from unrolled.tasks.tag import Tag
from unrolled.tasks.tag_frames import FrameTag
from unrolled.tasks.translate import Translate

ROWS = 200_000  # a bag of n-grams over more rows takes minutes and hardly gains
# memory goes by characters and not by rows: a bag of 1- to 4-grams took 30 bytes for each character
# of English prose, 150 of short Korean reviews and 870 of random syllables, where every piece is
# new; so long documents are cut and a large table is read in part
TEXT = 2_000
CHARACTERS = 10_000_000
TOKENS = 1 << 24  # pairs of tokens take 30 bytes each while they are counted
HELD = 1 << 28  # float64 numbers that a regression over many labels holds at once: 2 GB
STEPS = (
    25  # copies of its weights that the search for them holds: L-BFGS keeps ten steps
)
NUMBERS = 50_000_000  # of the windows that a linear model reads; they overlap


@dataclass(frozen=True, slots=True)
class Baseline:
    """A simple method, its dev scores and the seconds it took."""

    name: str
    scores: dict[str, float]
    seconds: float


def baselines(prepared: Prepared) -> list[Baseline]:
    """Score the simple methods of a task on the dev part, fitted on the training part.

    Methods on n-grams read at most ``TEXT`` characters of a text and ``CHARACTERS`` in all, since
    a yardstick must not take more memory than the model; one that still runs out is left out.
    """
    task = prepared.task
    methods = next(
        (found for kind, found in METHODS.items() if isinstance(task, kind)), []
    )
    scored = []
    for name, method in methods:
        if name.endswith("regression") and task.schema.text:
            name = f"n-gram {name}"
        began = time.monotonic()
        try:
            scores = method(prepared)
        except MemoryError:
            continue
        if scores is not None:
            scored.append(Baseline(name, scores, time.monotonic() - began))
    return scored


def _texts(data: Table | Document, task: Task) -> list[str]:
    """Return the input text of each row, cut at ``TEXT`` characters."""
    assert isinstance(data, Table)
    places = locate(data, task.schema.inputs, task.columns)
    return [
        "\n".join(str(row[i])[:TEXT] for i in places if row[i] is not None)[:TEXT]
        for row in data.rows
    ]


def _first(texts: list[str]) -> list[str]:
    """Return the texts that ``ROWS`` and ``CHARACTERS`` allow, one at least."""
    ends = itertools.accumulate(map(len, texts[:ROWS]))
    return texts[: max(1, sum(end <= CHARACTERS for end in ends))]


def _kept(data: Table | Document, examples: Examples) -> Table:
    """Return the rows that were encoded: the others were skipped as faulty."""
    assert isinstance(data, Table)
    chosen = np.flatnonzero(np.isin(data.lines, examples.lines)).tolist()
    rows = [data.rows[i] for i in chosen]
    at = [data.lines[i] for i in chosen]
    return Table(data.path, data.format, data.columns, rows, at, [])


def _classes(task: Classify, truth: Any, found: Any) -> dict[str, float]:
    matrix = confusion_counts(
        np.asarray(truth), np.asarray(found, dtype=np.int64), task.width
    )
    return {"accuracy": accuracy(matrix), "macro_f1": macro_f1(matrix)}


def majority(prepared: Prepared) -> dict[str, float]:
    """Always answer the most frequent label."""
    assert isinstance(prepared.task, Classify)
    common = np.bincount(prepared.train.targets).argmax()
    return _classes(
        prepared.task, prepared.dev.targets, np.full(len(prepared.dev), common)
    )


def _features(prepared: Prepared) -> tuple[Any, Any, Any]:
    """Return features of the training and the dev rows, and the training targets."""
    task = prepared.task
    train = prepared.train
    dev = prepared.dev
    assert isinstance(task, Classify | Regress)
    if isinstance(task.inputs, Vector):
        return train.vectors, dev.vectors, train.targets
    if isinstance(task.inputs, Frames):
        told = _steps(train, task.inputs)
        scored = _steps(dev, task.inputs)
        if len(scored) < len(dev):
            return None, None, None
        return told, scored, train.targets[-len(told) :]
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = _first(_texts(_kept(prepared.train_data, train), task))
    # a piece that one text alone holds tells nothing, unless there are few texts
    grams = TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, 4),
        min_df=2 if len(texts) > 2000 else 1,
        sublinear_tf=True,
        dtype=np.float32,
    )
    try:
        return (
            grams.fit_transform(texts),
            grams.transform(_texts(_kept(prepared.dev_data, dev), task)),
            train.targets[: len(texts)],
        )
    except ValueError:  # no text holds a character
        return None, None, None


def _steps(examples: Examples, inputs: Frames) -> Any:
    """Return all steps of each window side by side; of a whole sequence its mean and last step.

    Of the windows the latest are taken, ``NUMBERS`` in all.
    """
    assert examples.frames is not None
    if inputs.reading.window is not None:
        count = max(1, NUMBERS // (inputs.reading.window * inputs.width))
        chosen = np.arange(len(examples))[-count:]
        return examples.frames.take(chosen)[0].flatten(1).numpy()
    flat = examples.frames.flat
    starts = examples.frames.starts
    ends = starts + examples.frames.lengths
    means = [flat[a:b].mean(0) for a, b in zip(starts, ends, strict=True)]
    return np.concatenate([np.stack(means), flat[ends - 1]], 1)


def logistic(prepared: Prepared) -> dict[str, float] | None:
    """Fit logistic regression on character 1- to 4-grams of the text, or on the numbers."""
    from sklearn.linear_model import LogisticRegression

    assert isinstance(prepared.task, Classify)
    train, dev, targets = _features(prepared)
    if train is None or len(set(targets.tolist())) < 2:
        return None
    # liblinear is the fast one for two labels and sparse text
    count = len(set(targets.tolist()))
    solver = "liblinear" if count == 2 else "lbfgs"
    # a score of each row and label, and the weights and their gradients of the last steps
    if solver == "lbfgs" and count * (sum(train.shape) + STEPS * train.shape[1]) > HELD:
        return None
    fitted = LogisticRegression(C=3.0, solver=solver, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        # a fit that stops at max_iter is still a fair baseline, and not the user's concern
        warnings.simplefilter("ignore")
        fitted.fit(train, targets)
    return _classes(prepared.task, prepared.dev.targets, fitted.predict(dev))


def mean(prepared: Prepared) -> dict[str, float] | None:
    """Always answer the mean of the training values."""
    if prepared.recipe.data.difference:
        return None
    return _values(prepared, np.zeros(len(prepared.dev)))


def ridge(prepared: Prepared) -> dict[str, float] | None:
    """Fit linear regression on the numbers or windows, or ridge regression on character n-grams."""
    from sklearn.linear_model import LinearRegression, Ridge

    assert isinstance(prepared.task, Regress)
    train, dev, targets = _features(prepared)
    if train is None:
        return None
    plain = not isinstance(prepared.task.inputs, Text)
    fitted = (LinearRegression() if plain else Ridge(1.0)).fit(train, targets)
    return _values(prepared, fitted.predict(dev))


def _values(prepared: Prepared, scaled: Any) -> dict[str, float]:
    task = prepared.task
    assert isinstance(task, Regress)
    base = task.base(prepared.dev)
    truth = (
        task.output.decode(np.asarray(prepared.dev.targets, dtype=np.float64)) + base
    )
    return _errors(
        truth, task.output.decode(np.asarray(scaled, dtype=np.float64)) + base
    )


def last_value(prepared: Prepared) -> dict[str, float] | None:
    """Answer the last value of what is forecast: persistence."""
    task = prepared.task
    dev = prepared.dev
    assert isinstance(task, Regress)
    inputs = task.inputs
    column = task.output.column
    if not isinstance(inputs, Frames) or column not in inputs.columns:
        return None
    truth = task.output.decode(np.asarray(dev.targets, dtype=np.float64)) + task.base(
        dev
    )
    return _errors(truth, last_values(inputs, column, dev))


def _errors(truth: Any, found: Any) -> dict[str, float]:
    return {
        "mae": mean_absolute_error(truth, found),
        "rmse": root_mean_squared_error(truth, found),
    }


def tag_of_word(prepared: Prepared) -> dict[str, float]:
    """Give each word the tag it most often has in training; an unseen one the most frequent tag."""
    task = prepared.task
    assert isinstance(task, Tag)
    seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
    everything: Counter[int] = Counter()
    for word, tag in _tagged(task, _kept(prepared.train_data, prepared.train)):
        seen[word][tag] += 1
        everything[tag] += 1
    common = everything.most_common(1)[0][0]
    pairs = _tagged(task, _kept(prepared.dev_data, prepared.dev))
    found = [
        seen[word].most_common(1)[0][0] if word in seen else common for word, _ in pairs
    ]
    count = len(task.output.names)
    matrix = confusion_counts(
        np.array([tag for _, tag in pairs]), np.array(found), count
    )
    return {"accuracy": accuracy(matrix), "macro_f1": macro_f1(matrix)}


def _tagged(task: Tag, table: Table) -> list[tuple[str, int]]:
    """Return every word of a table with the index of its tag."""
    answer = task.output.column
    words_at, tags_at = locate(table, [task.inputs.column, answer], task.columns)
    found: list[tuple[str, int]] = []
    for row in table.rows:
        words = task.inputs.check([row[words_at]])
        tags = map(task.output.check, words_of(answer, row[tags_at], "tag"))
        found += zip(words, tags, strict=True)
    return found


def majority_step(prepared: Prepared) -> dict[str, float]:
    """Give each step the most frequent label."""
    _, common = _labels_of(prepared.train)
    truth, _ = _labels_of(prepared.dev)
    return _steps_scored(prepared, truth, np.full(len(truth), common))


def logistic_step(prepared: Prepared) -> dict[str, float] | None:
    """Fit logistic regression on the numbers of a step by itself."""
    from sklearn.linear_model import LogisticRegression

    train = prepared.train
    dev = prepared.dev
    told, _ = _labels_of(train)
    if len(set(told.tolist())) < 2:
        return None
    step = max(1, train.frames.flat.size // NUMBERS)
    fitted = LogisticRegression(max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a fit that stops at max_iter is still a fair baseline
        fitted.fit(train.frames.flat[::step], told[::step])
    return _steps_scored(prepared, _labels_of(dev)[0], fitted.predict(dev.frames.flat))


def _labels_of(examples: Examples) -> tuple[Any, int]:
    """Return the labels of all steps, and the most frequent one."""
    assert isinstance(examples.targets, Ragged)
    labels = np.array(examples.targets.flat, dtype=np.int64)
    return labels, int(np.bincount(labels).argmax())


def _steps_scored(prepared: Prepared, truth: Any, found: Any) -> dict[str, float]:
    assert isinstance(prepared.task, Tag)
    matrix = confusion_counts(truth, found, len(prepared.task.output.names))
    return {"accuracy": accuracy(matrix), "macro_f1": macro_f1(matrix)}


def bigram(prepared: Prepared) -> dict[str, float]:
    """Guess the next token from the one before it, smoothed with the token frequencies.

    Interpolated with Witten-Bell weights: a token with many different followers trusts its own
    counts less (Chen and Goodman 1999, section 2.5). ``TOKENS`` of the text are counted.
    """
    task = prepared.task
    train = prepared.train
    dev = prepared.dev
    assert isinstance(task, Language)
    assert isinstance(train, TokenStream)
    size = task.tokenizer.size
    end = task.tokenizer.eos_id
    tokens = train.tokens[:TOKENS]
    single = (np.bincount(tokens, minlength=size) + 1.0) / (len(tokens) + size)
    before = np.concatenate([[end], tokens[:-1]]).astype(np.int64)
    pairs, counts = np.unique(before * size + tokens, return_counts=True)
    times = np.bincount(before, minlength=size)
    kinds = np.bincount(pairs // size, minlength=size)
    tokens = dev.tokens[:]
    asked = np.concatenate([[end], tokens[:-1]]).astype(np.int64)
    wanted = asked * size + tokens
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count = np.where(pairs[place] == wanted, counts[place], 0)
    weight = times[asked] / np.maximum(1, times[asked] + kinds[asked])
    shares = (
        weight * count / np.maximum(1, times[asked]) + (1 - weight) * single[tokens]
    )
    loss = float(-np.log(shares).mean())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss * len(dev) / math.log(2) / max(1, dev.size),
    }


def copy(prepared: Prepared) -> dict[str, float]:
    """Answer each text with itself."""
    assert isinstance(prepared.task, Pairs)
    asked = prepared.task.asked(prepared.dev)
    return prepared.task.measure(replace(asked, answers=asked.sources))[0]


Method = Callable[[Prepared], dict[str, float] | None]
METHODS: dict[type[Task], list[tuple[str, Method]]] = {
    Classify: [("majority class", majority), ("logistic regression", logistic)],
    Regress: [("mean", mean), ("last value", last_value), ("linear regression", ridge)],
    FrameTag: [
        ("most frequent label", majority_step),
        ("logistic regression on the step", logistic_step),
    ],
    Tag: [("most frequent tag of the word", tag_of_word)],
    Language: [("bigrams", bigram)],
    Translate: [("copy of the source", copy)],
    Rewrite: [("copy of the source", copy)],
}
