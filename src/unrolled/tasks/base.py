"""What a task is: fields around a model, with scores and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import nn

from unrolled.core.errors import DataError, UsageError, unknown
from unrolled.data.batches import BatchSource, by_length
from unrolled.data.examples import Ints
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Format, Table
from unrolled.nn import Layer, TokenEmbedding
from unrolled.scores import ConfusionCounts
from unrolled.tasks.recipe import ModelConfig, Recipe
from unrolled.training.objectives import Objective
from unrolled.training.precision import ComputeDevice

Rows = Sequence[tuple[Any, ...]]
# whether more of a score is better
UP = True
DOWN = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one row.

    ``text`` is the answer as a line of output; ``probability`` its share of 1 where the task has
    one; ``details`` what else ``--json`` shows (the probability of each label, the exact value).
    """

    text: str
    probability: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClassPredictions:
    """The N class predictions that were scored: of rows, or of the words in them.

    Attributes:
        rows: place of the row among the examples, (N,).
        truth, found: class indices, (N,).
        confidence: probability of ``found``, (N,).
        words: place of the word in its row, (N,); None where a row has one answer.
    """

    rows: Ints
    truth: Ints
    found: Ints
    confidence: np.ndarray[Any, np.dtype[np.float64]]
    words: Ints | None = None


@dataclass(frozen=True, slots=True)
class GeneratedTexts:
    """The N texts that a model wrote.

    Attributes:
        lines: the line that each source stands on, (N,).
        sources, answers: N texts.
        references: the right answers to each, N lists of one or more.
    """

    lines: Ints
    sources: Sequence[str]
    references: Sequence[Sequence[str]]
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores, and what a report shows beside them.

    ``confusion`` and ``judged`` are those of a classifier; ``pairs`` (N, 2) holds true
    values and answers in the order of the examples; ``written`` is what a model wrote, and
    ``notes`` are lines that say how texts were scored.
    """

    scores: dict[str, float]
    confusion: ConfusionCounts | None = None
    pairs: np.ndarray[Any, np.dtype[np.float64]] | None = None
    judged: ClassPredictions | None = None
    written: GeneratedTexts | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputConstraints:
    """What answers are to hold, beside what a recipe says of the search.

    Attributes:
        alignment: tell which word of the source each word was written for.
        begin: what every answer begins with.
        banned: words and phrases that no answer holds.
        required: words and phrases that every answer holds.
    """

    alignment: bool = False
    begin: str = ""
    banned: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


class Task(ABC):
    """Fields, model and scores of one kind of problem; everything above asks only this.

    ``measures`` are the scores that ``evaluate`` gives, each with whether more of it is better
    (``UP`` or ``DOWN``); ``metric`` is the one that chooses the best weights. ``columns`` and
    ``format`` are those of the training file: a row is read as it writes them, and a file without
    a header by position. A task that ``writes`` searches for its answers as ``decoding`` says, and
    names the ``fault`` of each row that it cannot answer. A task holds no weights.
    """

    name: ClassVar[str]
    pattern: ClassVar[str]
    metric: ClassVar[str]
    measures: ClassVar[dict[str, bool]]
    writes: ClassVar[bool] = False
    columns: list[str]
    format: Format

    @classmethod
    @abstractmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the fields from training rows.

        The names of labels come from ``labels``, where given: a part held out by chance may hold
        a rare label that the training rows do not, which is no fault of the file.
        """

    @abstractmethod
    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[Any, list[DataError]]:
        """Return examples with their answers, and the rows that were skipped.

        Raises:
            DataError: a row is faulty and ``on_error`` is ``stop``.
        """

    @abstractmethod
    def build(self, recipe: Recipe) -> nn.Module:
        """Return the model, with random weights."""

    @abstractmethod
    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return what training minimises."""

    @abstractmethod
    def source(self, examples: Any, recipe: Recipe, model: nn.Module) -> BatchSource:
        """Return the training batches."""

    @abstractmethod
    def evaluate(
        self, model: nn.Module, examples: Any, place: ComputeDevice
    ) -> Evaluation:
        """Score a model, which is in evaluation mode."""

    def watch(
        self, model: nn.Module, examples: Any, place: ComputeDevice
    ) -> dict[str, float]:
        """Return the scores by which a training is watched: those of ``evaluate``, or cheaper."""
        return self.evaluate(model, examples, place).scores

    def fault(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, as far as that is known before; else nothing."""
        return ""

    def ask(self, model: nn.Module, asks: OutputConstraints) -> None:
        """Say what answers are to hold from now on.

        Raises:
            UsageError: this task or this model cannot do so.
        """
        if asks != OutputConstraints():
            raise UsageError(
                f"{self.name} writes no text that could hold or align words"
            )

    def answer_by(self, recipe: Recipe) -> None:  # noqa: B027 - most tasks have one way to answer
        """Take from a recipe how answers are looked for: its keys under ``decoding``."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields from plain values and the files in a run folder."""

    def save(self, folder: Path) -> None:  # noqa: B027 - numbers need no file
        """Write the files that belong to the fields (a vocabulary) into a run folder."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The columns the task was trained on."""

    def each_step(
        self, model: nn.Module, cells: Sequence[Any], place: ComputeDevice
    ) -> list[Prediction]:
        """Answer at every step of a sequence of numbers, given by its columns.

        Raises:
            UsageError: the task reads none.
        """
        raise UsageError(f"{self.name} does not read sequences of numbers")

    @abstractmethod
    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Answer rows of input cells.

        Raises:
            UserError: the task gives no answer to a single row, or a cell does not fit.
        """


class Columns(Protocol):
    """What tells the columns of a file: a table, or its rows as they are read."""

    @property
    def path(self) -> str | Path:
        """The file."""
        ...

    @property
    def format(self) -> Format:
        """How it is written."""
        ...

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        ...


def locate(
    data: Columns,
    names: Sequence[str],
    trained: Sequence[str],
    answer: str | None = None,
) -> list[int]:
    """Return the places of columns in a file: by name, or by position where it has no names.

    Args:
        data: the file.
        names: the columns that are looked for.
        trained: the columns of the training file, whose positions a file without header shares.
        answer: the column that such a file may leave out.

    Raises:
        DataError: a column is missing.
    """
    columns = data.columns
    if all(name in columns for name in names):
        return [columns.index(name) for name in names]
    if not data.format.named:
        for known in (
            list(trained),
            [name for name in trained if name != answer],
            list(names),
        ):
            if len(known) == len(columns) and all(name in known for name in names):
                return [known.index(name) for name in names]
    missing = next(name for name in names if name not in columns)
    raise DataError(
        unknown("column", missing, columns)
        + "; name the columns of this file with data.text=... and data.label=...",
        data.path,
        1 if data.format.header else None,
    )


def build_embedding(
    size: int, config: ModelConfig, scale: float = 1.0
) -> TokenEmbedding:
    """Return the embedding of a vocabulary of ``size`` tokens, its vectors times ``scale``."""
    return TokenEmbedding(
        size,
        config.embedding,
        token_dropout=config.token_dropout,
        dropout=config.embedding_dropout,
        std=config.embedding_std,
        scale=scale,
    )


def check_reach(layer: Layer, recipe: Recipe, texts: int = 1) -> None:
    """Raise UsageError when a row can be longer than the layer can read."""
    longest = recipe.data.max_tokens
    if layer.context is not None and (
        longest is None or longest * texts > layer.context
    ):
        raise UsageError(
            f"layer={recipe.layer} reads {layer.context} tokens (model.context) and a row may have "
            f"{'any number' if longest is None else longest * texts}: set data.max_tokens to "
            f"{layer.context // texts} or less"
        )


def score_batches(lengths: Ints, tokens: int = 16384, rows: int = 256) -> list[Ints]:
    """Return the rows of evaluation batches, rows of like length together."""
    return by_length(lengths, np.argsort(lengths, kind="stable"), rows, tokens)


def to_numpy(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as float64 numbers on the host."""
    return values.detach().float().cpu().double().numpy()
