"""What a model must beat: simple methods on the same split, so that a score can be judged."""

from __future__ import annotations

import functools
import itertools
import math
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.data.batches import IGNORED
from unrolled.data.columns import label
from unrolled.data.examples import Examples, Ragged
from unrolled.data.sources import Table
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.fields.steps import rows_of_words
from unrolled.fields.text import Text
from unrolled.fields.text_and_columns import TextAndColumns
from unrolled.fields.vector import Vector
from unrolled.fields.words import Words, words_of
from unrolled.scores import (
    accuracy,
    confusion_counts,
    macro_f1,
    mean_absolute_error,
    root_mean_squared_error,
)
from unrolled.tasks.base import (
    ClassPredictions,
    Data,
    Evaluation,
    Method,
    Scores,
    Split,
    locate,
)
from unrolled.tasks.ngram_model import frequencies, witten_bell
from unrolled.text.tokenizers import Tokenizer

ROWS = 200_000  # a bag of n-grams over more rows takes minutes and hardly gains
# memory goes by characters and not by rows: a bag of 1- to 4-grams took 30 bytes for each character
# of English prose, 150 of short Korean reviews and 870 of random syllables, where every piece is
# new; so long documents are cut and a large table is read in part
TEXT = 2_000
CHARACTERS = 10_000_000
TOKENS = 1 << 24  # pairs of tokens take 30 bytes each while they are counted
HELD = 1 << 28  # float64 numbers that a regression over many labels holds at once: 2 GB
# copies of its weights that the search for them holds: L-BFGS keeps ten steps
STEPS = 25
TREE_LABELS = 50  # each of which takes trees of its own
NUMBERS = 50_000_000  # of the windows that a linear model reads; they overlap
Inputs = Text | Vector | Frames | TextAndColumns


@dataclass(frozen=True, slots=True)
class Baseline:
    """A simple method, its dev scores and the seconds it took."""

    name: str
    scores: Scores
    seconds: float


def measured(
    methods: Sequence[Method], seconds: float = math.inf
) -> tuple[list[Baseline], list[str]]:
    """Score simple methods on the dev part, fitted on the training part.

    Methods on n-grams read at most ``TEXT`` characters of a text and ``CHARACTERS`` in all, since
    a yardstick must not take more memory than the model; one that still runs out is left out.

    Returns:
        The scores, and the names of methods that were left out since those before them had taken
        more than so many ``seconds``.
    """
    baselines = []
    left_out = []
    start = time.monotonic()
    for name, method in methods:
        began = time.monotonic()
        if began - start > seconds:
            left_out.append(name)
            continue
        try:
            scores = method()
        except MemoryError:
            continue
        if scores is not None:
            baselines.append(Baseline(name, scores, time.monotonic() - began))
    return baselines, left_out


# ---------------------------------------------------------------------- a label or value a row


def of_labels(
    split: Split, inputs: Inputs, columns: Sequence[str], count: int
) -> list[Method]:
    """Return the methods for one of ``count`` labels a row."""
    scored = functools.partial(_class_scores, split.dev.targets, count)
    return [
        ("majority class", lambda: scored(_majority(split))),
        (
            f"{_grams(inputs)}logistic regression",
            lambda: logistic(split, inputs, columns, scored),
        ),
        *_trees(split, scored, classes=True),
    ]


def of_values(
    split: Split,
    inputs: Inputs,
    columns: Sequence[str],
    answer: str,
    decode: Callable[[Any, Examples], NDArray[np.float64]],
) -> list[Method]:
    """Return the methods for a value a row; ``decode`` gives values for scaled ones."""

    def scored(scaled: Any) -> Scores:
        truth = decode(split.dev.targets, split.dev)
        predicted = decode(scaled, split.dev)
        return _errors(truth, predicted)

    def mean() -> Scores | None:
        if isinstance(inputs, Frames) and inputs.reading.difference:
            return None
        return scored(np.zeros(len(split.dev)))

    def last_value() -> Scores | None:
        if not isinstance(inputs, Frames) or answer not in inputs.columns:
            return None
        truth = decode(split.dev.targets, split.dev)
        last = inputs.last_values(answer, split.dev)
        return _errors(truth, last)

    return [
        ("mean", mean),
        ("last value", last_value),
        (
            f"{_grams(inputs)}linear regression",
            lambda: linear(split, inputs, columns, scored),
        ),
        *_trees(split, scored, classes=False),
    ]


def _trees(
    split: Split, scored: Callable[[Any], Scores], classes: bool
) -> list[Method]:
    """Return gradient-boosted trees on the columns that are no texts, where there are some.

    One number by itself is left to the line, of which trees make steps.
    """
    vectors = split.train.vectors
    if vectors is None or vectors.shape[1] < 2:
        return []
    return [("gradient-boosted trees", lambda: boosted(split, scored, classes))]


def boosted(
    split: Split, scored: Callable[[Any], Scores], classes: bool
) -> Scores | None:
    """Fit gradient-boosted trees on columns (Ke et al. 2017, histograms), as scikit-learn does."""
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    targets = np.asarray(split.train.targets)
    trees = HistGradientBoostingRegressor(random_state=0)
    if classes:
        counts = Counter(targets.tolist())
        if not 2 <= len(counts) <= TREE_LABELS:
            return None
        # which sets rows of each label apart, so there must be several
        stopping = "auto" if min(counts.values()) > 1 else False
        trees = HistGradientBoostingClassifier(random_state=0, early_stopping=stopping)
    trees.fit(split.train.vectors, targets)
    predicted = trees.predict(split.dev.vectors)
    return scored(predicted)


def _grams(inputs: Inputs) -> str:
    return "n-gram " if isinstance(inputs, Text | TextAndColumns) else ""


def _class_scores(truth: Any, count: int, predicted: Any) -> Scores:
    labels = np.asarray(predicted, dtype=np.int64)
    confusion = confusion_counts(np.asarray(truth), labels, count)
    return {"accuracy": accuracy(confusion), "macro_f1": macro_f1(confusion)}


def _errors(truth: Any, predicted: Any) -> Scores:
    return {
        "mae": mean_absolute_error(truth, predicted),
        "rmse": root_mean_squared_error(truth, predicted),
    }


def _majority(split: Split) -> Any:
    """Always answer the most frequent label."""
    counts = np.bincount(split.train.targets)
    return np.full(len(split.dev), counts.argmax())


def logistic(
    split: Split,
    inputs: Inputs,
    columns: Sequence[str],
    scored: Callable[[Any], Scores],
) -> Scores | None:
    """Fit logistic regression on character 1- to 4-grams of the text, or on the numbers."""
    from sklearn.linear_model import LogisticRegression

    features = _features(split, inputs, columns)
    if features is None:
        return None
    labels = set(features.targets.tolist())
    count = len(labels)
    if count < 2:
        return None
    # liblinear is the fast one for two labels and sparse text
    solver = "liblinear" if count == 2 else "lbfgs"
    # a score of each row and label, and the weights and their gradients of the last steps
    rows, width = features.train.shape
    held = count * (rows + width + STEPS * width)
    if solver == "lbfgs" and held > HELD:
        return None
    fitted = LogisticRegression(C=3.0, solver=solver, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        # a fit that stops at max_iter is still a fair baseline, and not the user's concern
        warnings.simplefilter("ignore")
        fitted.fit(features.train, features.targets)
    return scored(fitted.predict(features.dev))


def linear(
    split: Split,
    inputs: Inputs,
    columns: Sequence[str],
    scored: Callable[[Any], Scores],
) -> Scores | None:
    """Fit linear regression on the numbers or windows, or ridge regression on character n-grams."""
    from sklearn.linear_model import LinearRegression, Ridge

    features = _features(split, inputs, columns)
    if features is None:
        return None
    is_sparse = isinstance(inputs, Text | TextAndColumns)
    regression = Ridge(1.0) if is_sparse else LinearRegression()
    fitted = regression.fit(features.train, features.targets)
    return scored(fitted.predict(features.dev))


@dataclass(frozen=True, slots=True)
class _Features:
    """Features of the training and the dev rows, and the training targets."""

    train: Any
    dev: Any
    targets: Any


def _features(split: Split, inputs: Inputs, columns: Sequence[str]) -> _Features | None:
    train = split.train
    dev = split.dev
    if isinstance(inputs, Vector):
        return _Features(train.vectors, dev.vectors, train.targets)
    if isinstance(inputs, Frames):
        features = _steps(train, inputs)
        scored = _steps(dev, inputs)
        if len(scored) < len(dev):
            return None
        latest = train.targets[-len(features) :]
        return _Features(features, scored, latest)
    text = inputs.text if isinstance(inputs, TextAndColumns) else inputs
    train_texts = _texts(_kept(split.train_data, train), text, columns)
    dev_texts = _texts(_kept(split.dev_data, dev), text, columns)
    grams = _grams_of(_first(train_texts), dev_texts, train.targets)
    if grams is None or train.vectors is None:
        return grams
    return _joined(grams, train.vectors, dev.vectors)


def _joined(grams: _Features, train: Any, dev: Any) -> _Features:
    """Return n-grams with the features of other columns next to them."""
    from scipy.sparse import csr_matrix, hstack

    count = grams.train.shape[0]
    train_columns = csr_matrix(train[:count])
    dev_columns = csr_matrix(dev)
    joined_train = hstack([grams.train, train_columns])
    joined_dev = hstack([grams.dev, dev_columns])
    return _Features(joined_train.tocsr(), joined_dev.tocsr(), grams.targets)


def _grams_of(train: list[str], dev: list[str], targets: Any) -> _Features | None:
    """Return the n-grams of texts, weighted by how rare they are; None where there are none."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # a piece that one text alone holds tells nothing, unless there are few texts
    grams = TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, 4),
        min_df=2 if len(train) > 2000 else 1,
        sublinear_tf=True,
        dtype=np.float32,
    )
    try:
        fitted = grams.fit_transform(train)
        scored = grams.transform(dev)
    except ValueError:  # no text holds a character
        return None
    return _Features(fitted, scored, targets[: len(train)])


def _texts(data: Table, inputs: Text, columns: Sequence[str]) -> list[str]:
    """Return the input text of each row, cut at ``TEXT`` characters."""
    indices = locate(data, inputs.columns, columns)
    texts = []
    for row in data.rows:
        cells = [row[i] for i in indices]
        beginnings = [str(cell)[:TEXT] for cell in cells if cell is not None]
        text = "\n".join(beginnings)
        texts.append(text[:TEXT])
    return texts


def _first(texts: list[str]) -> list[str]:
    """Return the texts that ``ROWS`` and ``CHARACTERS`` allow, one at least."""
    ends = itertools.accumulate(map(len, texts[:ROWS]))
    count = sum(end <= CHARACTERS for end in ends)
    return texts[: max(1, count)]


def _kept(data: Data, examples: Examples) -> Table:
    """Return the rows that were encoded: the others were skipped as faulty."""
    assert isinstance(data, Table)
    is_kept = np.isin(data.lines, examples.lines)
    chosen = np.flatnonzero(is_kept).tolist()
    rows = [data.rows[i] for i in chosen]
    lines = [data.lines[i] for i in chosen]
    return Table(data.path, data.format, data.columns, rows, lines, [])


def _steps(examples: Examples, inputs: Frames) -> Any:
    """Return all steps of each window side by side; of a whole sequence its mean and last step.

    Of the windows the latest are taken, ``NUMBERS`` in all.
    """
    assert examples.frames is not None
    if inputs.reading.window is not None:
        size = inputs.reading.window * inputs.width
        count = max(1, NUMBERS // size)
        latest = np.arange(len(examples))[-count:]
        windows, _ = examples.frames.take(latest)
        return windows.flatten(1).numpy()
    flat = examples.frames.flat
    starts = examples.frames.starts
    ends = starts + examples.frames.lengths
    bounds = zip(starts, ends, strict=True)
    means = np.stack([flat[start:end].mean(0) for start, end in bounds])
    last = flat[ends - 1]
    return np.concatenate([means, last], 1)


# ---------------------------------------------------------------------- a label a step


def of_tags(
    split: Split,
    inputs: Words,
    others: Vector | None,
    output: Label,
    columns: Sequence[str],
) -> list[Method]:
    """Return the methods for a tag a word; ``others`` are columns next to the words."""
    train, dev = (
        functools.partial(_tagged, inputs, output, columns, data, examples)
        for data, examples in (
            (split.train_data, split.train),
            (split.dev_data, split.dev),
        )
    )
    count = len(output.names)
    methods: list[Method] = [
        (
            "most frequent tag of the word",
            lambda: commonest_tag(train(()), dev(()), count),
        )
    ]
    kinds = () if others is None else others.schema.categories
    if kinds:
        name = f"most frequent tag of the word and its {', '.join(kinds)}"
        methods.append((name, lambda: commonest_tag(train(kinds), dev(kinds), count)))
    if others is not None and len(kinds) < len(others.columns):
        methods.append(
            ("logistic regression on the columns", lambda: logistic_step(split, count))
        )
    return methods


Key = tuple[str, ...]
Tagged = list[tuple[list[Key], int]]


def commonest_tag(train: Tagged, dev: Tagged, count: int) -> Scores:
    """Give each word the tag that it, as nearly as it was seen, most often has in training.

    Args:
        train, dev: the keys of each word, the closest first, and its tag.
        count: how many tags there are.
    """
    counts: defaultdict[Key, Counter[int]] = defaultdict(Counter)
    for keys, tag in train:
        for key in keys:
            counts[key][tag] += 1
    common = {key: _most_common(tags) for key, tags in counts.items()}
    truth = []
    predicted = []
    for keys, tag in dev:
        known = next(key for key in keys if key in common)
        truth.append(tag)
        predicted.append(common[known])
    return _class_scores(truth, count, predicted)


def _most_common(counts: Counter[int]) -> int:
    ((tag, _),) = counts.most_common(1)
    return tag


def _tagged(
    inputs: Words,
    output: Label,
    columns: Sequence[str],
    data: Data,
    examples: Examples,
    kinds: Sequence[str],
) -> Tagged:
    """Return the keys of every word of a table, the closest first, and the index of its tag.

    These are the word with what the columns ``kinds`` say of it, the word, what they say, nothing.
    """
    table = _kept(data, examples)
    names = [inputs.column, *kinds, output.column]
    *indices, tags_index = locate(table, names, columns)
    tagged: Tagged = []
    for row in table.rows:
        cells = [row[i] for i in indices]
        words = inputs.check(cells[:1])
        tags = map(output.check, words_of(output.column, row[tags_index], "tag"))
        said = rows_of_words(kinds, cells, len(words)) if kinds else [()] * len(words)
        for word, values, tag in zip(words, said, tags, strict=True):
            kind = tuple(map(label, values))
            keys: list[Key] = [(word, *kind), (word,), ("", *kind), ()]
            tagged.append((keys, tag))
    return tagged


def one_label(split: Split, count: int) -> Evaluation:
    """Give every step the most frequent label; those without a label are not scored."""
    counts = np.bincount(_step_labels(split.train), minlength=count)
    common = int(counts.argmax())
    truth = _step_labels(split.dev)
    examples = split.dev
    rows = np.repeat(np.arange(len(examples)), examples.targets.lengths)
    scored = np.asarray(examples.targets.flat) != IGNORED
    predicted = np.full(len(truth), common)
    steps = np.concatenate([np.arange(n) for n in examples.targets.lengths])
    judged = ClassPredictions(
        rows[scored], truth, predicted, np.ones(len(truth)), steps[scored]
    )
    return Evaluation(_class_scores(truth, count, predicted), judged=judged)


def of_steps(split: Split, count: int) -> list[Method]:
    """Return the methods for one of ``count`` labels a step of numbers."""
    return [
        ("most frequent label", lambda: majority_step(split, count)),
        ("logistic regression on the step", lambda: logistic_step(split, count)),
    ]


def majority_step(split: Split, count: int) -> Scores:
    """Give each step the most frequent label."""
    counts = np.bincount(_step_labels(split.train))
    common = int(counts.argmax())
    truth = _step_labels(split.dev)
    predicted = np.full(len(truth), common)
    return _class_scores(truth, count, predicted)


def logistic_step(split: Split, count: int) -> Scores | None:
    """Fit logistic regression on the numbers of a step by itself."""
    from sklearn.linear_model import LogisticRegression

    frames = split.train.frames.flat
    labels = _step_labels(split.train)
    if len(set(labels.tolist())) < 2:
        return None
    step = max(1, frames.size // NUMBERS)
    fitted = LogisticRegression(max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        # a fit that stops at max_iter is still a fair baseline
        warnings.simplefilter("ignore")
        fitted.fit(frames[::step], labels[::step])
    predicted = fitted.predict(split.dev.frames.flat)
    return _class_scores(_step_labels(split.dev), count, predicted)


def _step_labels(examples: Examples) -> NDArray[np.int64]:
    """Return the labels of all steps that have one."""
    assert isinstance(examples.targets, Ragged)
    labels = np.array(examples.targets.flat, dtype=np.int64)
    return labels[labels != IGNORED]


# ---------------------------------------------------------------------- the next token


def of_tokens(split: Split, tokenizer: Tokenizer) -> list[Method]:
    """Return the methods for the next token of a text."""
    return [("bigrams", lambda: bigrams(split, tokenizer))]


def bigrams(split: Split, tokenizer: Tokenizer) -> Scores:
    """Guess the next token from the one before it, smoothed with the token frequencies.

    ``TOKENS`` of the text are counted; see ``witten_bell``.
    """
    size = tokenizer.size
    end = tokenizer.eos_id
    tokens = split.train.tokens[:TOKENS]
    single = frequencies(tokens, size)
    before = _before(tokens, end)
    pairs, counts = np.unique(before * size + tokens, return_counts=True)
    times = np.bincount(before, minlength=size)
    followers = np.bincount(pairs // size, minlength=size)
    scored = split.dev.tokens[:]
    before = _before(scored, end)
    scored_pairs = before * size + scored
    # of pairs that were never seen the index is that of another, or beyond the last
    indices = np.searchsorted(pairs, scored_pairs)
    indices = np.minimum(indices, len(pairs) - 1)
    is_seen = pairs[indices] == scored_pairs
    count = np.where(is_seen, counts[indices], 0)
    probabilities = witten_bell(count, times[before], followers[before], single[scored])
    loss = float(-np.log(probabilities).mean())
    bits = loss * len(scored) / math.log(2)
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": bits / max(1, split.dev.size),
    }


def _before(tokens: NDArray[Any], start: int) -> NDArray[np.int64]:
    """Return the token before each (N,), the mark ``start`` before the first."""
    return np.concatenate([[start], tokens[:-1]]).astype(np.int64)
