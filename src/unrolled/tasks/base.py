"""What a task is: fields around a model, with an objective, scores, baselines and predictions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import DataError, UsageError, unknown
from unrolled.core.words import either
from unrolled.data.batches import Batch, BatchSource, by_length
from unrolled.data.examples import Ints
from unrolled.data.schema import Schema
from unrolled.data.shards import Tokens
from unrolled.data.sources import Document, Format, Table
from unrolled.decoding.generate import MakeDraft, Stepper
from unrolled.decoding.grammar import GrammarText
from unrolled.decoding.sampling import Sampling
from unrolled.decoding.settings import Search
from unrolled.fields.clips import Clips
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.fields.text import Text
from unrolled.nn import Layer, TokenEmbedding
from unrolled.scores import ConfusionCounts
from unrolled.tasks import describing
from unrolled.tasks.exchanges import Reward
from unrolled.tasks.recipe import ModelConfig, Recipe
from unrolled.tasks.steps import StepReader
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.alignment import AlignConfig
from unrolled.training.objectives import Objective
from unrolled.training.precision import ComputeDevice

Data = Table | Document
Rows = Sequence[tuple[Any, ...]]
Scores = dict[str, float]
# whether more of a score is better
UP = True
DOWN = False


@dataclass(frozen=True, slots=True)
class FileLayout:
    """How the training file writes its rows, by which a row that somebody types is read.

    ``columns`` are those of the file; one without a header is read by position.
    """

    columns: list[str]
    format: Format

    @classmethod
    def of(cls, data: Data) -> Self:
        """Return the layout of a file that was read."""
        columns = [] if isinstance(data, Document) else data.columns
        return cls(columns, data.format)


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
class TokenChoice:
    """A token that a language model wrote, and what it could have written.

    Attributes:
        text: of the token; that of an alternative that ends the text is empty.
        probability: what the model gave it, before temperature and filters.
        alternatives: the likeliest tokens, itself among them where it is one, with their
            probabilities.
        start: characters of the text that stand before it.
    """

    text: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]
    start: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        alternatives = [
            {"text": text, "probability": probability}
            for text, probability in self.alternatives
        ]
        return {
            "text": self.text,
            "probability": self.probability,
            "alternatives": alternatives,
        }


@dataclass(frozen=True, slots=True)
class ClassPredictions:
    """The N class predictions that were scored: of rows, or of the words in them.

    Attributes:
        rows: index of the row among the examples, (N,).
        truth, predicted: class indices, (N,).
        confidence: probability of ``predicted``, (N,).
        words: index of the word in its row, (N,); None where a row has one answer.
    """

    rows: Ints
    truth: Ints
    predicted: Ints
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
    ``notes`` are lines that say how texts were scored. ``by`` holds, under ``by_COLUMN``, the
    scores of the rows of each value of ``data.by``, and how many rows they are.
    """

    scores: Scores
    confusion: ConfusionCounts | None = None
    pairs: np.ndarray[Any, np.dtype[np.float64]] | None = None
    judged: ClassPredictions | None = None
    written: GeneratedTexts | None = None
    notes: tuple[str, ...] = ()
    by: dict[str, dict[str, Scores]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return all scores as plain values: those of all rows, and those by a column."""
        return {**self.scores, **self.by}


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


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How one request is answered, by tasks that write texts; two may differ at the same time.

    Attributes:
        search: the settings of the search.
        constraints: what answers are to hold.
        copy_unknown: put in the word of the source that attention looks at for an unknown one.
        score_tokenizer: how texts are cut into words to be scored.
        documents: whether a language model is scored on documents joined or apart.
        align: how the model was aligned.
        reward: what answers earn; None where nothing judges them.
        reference: returns the model that the training began with, in evaluation mode; None where
            nobody asks for it.
    """

    search: Search = Search()
    constraints: OutputConstraints = OutputConstraints()
    copy_unknown: bool = True
    score_tokenizer: str = "13a"
    documents: str = "joined"
    align: AlignConfig = field(default_factory=AlignConfig)
    reward: Reward | None = None
    reference: Callable[[], nn.Module] | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, constraints: OutputConstraints | None = None
    ) -> AnswerOptions:
        """Return what a recipe says of answers."""
        data = recipe.data
        return cls(
            recipe.decoding,
            constraints or OutputConstraints(),
            data.copy_unknown,
            data.score_tokenizer,
            data.documents,
            align=recipe.align,
        )


@dataclass(frozen=True, slots=True)
class DefaultSettings:
    """Settings of a task for keys that nobody set.

    Attributes:
        values: keys of the groups ``data``, ``model`` and ``training``.
        budget: rows (or characters) that training reads in all, where nobody set a limit.
        counts_characters: whether small data is told by its characters, not its rows.
        layer: the layer where nobody named one.
        tokenizer: the kind of pieces that texts are cut into.
        sizes_vocabulary: whether the vocabulary grows with the text.
    """

    values: dict[str, dict[str, Any]]
    budget: int
    counts_characters: bool = False
    layer: str | None = None
    tokenizer: str = "chars"
    sizes_vocabulary: bool = True


@dataclass(frozen=True, slots=True)
class Split:
    """The training part and the scored part of the data: as read, and as encoded.

    ``options`` are those by which answers are scored.
    """

    train_data: Data
    dev_data: Data
    train: Any
    dev: Any
    options: AnswerOptions = AnswerOptions()


@dataclass(frozen=True, slots=True)
class Shards:
    """Texts that were encoded in pieces.

    Attributes:
        tokens: of all texts, one after another.
        size: the length of the texts in UTF-8 bytes.
        unknown: how many tokens stand for pieces that are unknown.
        rows: lines, offsets and targets of the N rows; None for running text. Without answers
            there are no targets.
    """

    tokens: Tokens
    size: int
    unknown: int
    rows: tuple[Ints, Ints, Ints] | None = None


@dataclass(frozen=True, slots=True)
class AxisNames:
    """What the entries of one axis of a weight stand for: tokens, words or labels.

    Two models may number them otherwise. Token texts are those of ``Tokenizer.texts``; what is no
    text begins with a NUL, as labels do.
    """

    names: tuple[str, ...]
    axis: int = 0


def label_names(labels: Sequence[str], axis: int = 0) -> AxisNames:
    """Return what labels are called among the entries of a weight."""
    return AxisNames(tuple(f"\0label {label}" for label in labels), axis)


# what a step of an input is called, by the kind of its field; of all others a token
READ_UNITS = {
    "vector": "rows",
    "conditions": "rows",
    "words": "words",
    "words_and_columns": "words",
    "frames": "steps",
    "clips": "frames",
    "image": "images",
}
# the name of a simple method, and what scores it on the scored part; None: it does not apply
Method = tuple[str, Callable[[], Scores | None]]


class Task(ABC):
    """Fields, model and scores of one kind of problem; everything above asks only this.

    A task is frozen: what it holds was learnt from training rows or read from a run folder, and
    how a request is answered comes with the request. It holds no weights.

    Attributes:
        metric: the score that chooses the best weights.
        measures: the scores that ``evaluate`` gives, each with whether more of it is better
            (``UP`` or ``DOWN``).
        untested_score: by which two models are set beside each other, where there is no test.
        is_generative: whether answers are texts that a search writes, as ``decoding`` says.
        reads_documents: whether it is trained on a file of running text.
        reads_pairs: whether it answers a text with a text.
        answers_rows: whether rows are answered; a language model writes on instead.
        first_column_suffices: whether a row may be given as the text of its first column alone.
        answers_talks: whether it answers what was said last in a talk, turn by turn.
        answers_values: whether an answer is a number, which is more or less wrong.
        scored_unit: what an answer is about: ``rows``, ``words``, ``steps`` or ``tokens``.
        loss_unit: what the loss is measured in.
        around: the keys of ``model`` that say what stands around the layer.
        rewards: scores of what a model draws that ``training.reward`` may name.
        learns_words: whether it reads whole words, which each run learns from its own rows.
        layout: how the training file writes its rows.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    measures: ClassVar[dict[str, bool]]
    untested_score: ClassVar[str | None] = None
    is_generative: ClassVar[bool] = False
    reads_documents: ClassVar[bool] = False
    reads_pairs: ClassVar[bool] = False
    answers_rows: ClassVar[bool] = True
    first_column_suffices: ClassVar[bool] = False
    answers_talks: ClassVar[bool] = False
    answers_values: ClassVar[bool] = False
    scored_unit: ClassVar[str] = "rows"
    loss_unit: ClassVar[str] = "nats"
    around: ClassVar[tuple[str, ...]] = ()
    rewards: ClassVar[tuple[str, ...]] = ()
    learns_words: ClassVar[bool] = False
    layout: FileLayout

    @property
    def read_unit(self) -> str:
        """What a step of an input is called: a training says how many it reads a second."""
        kind = getattr(getattr(self, "inputs", None), "kind", "")
        return READ_UNITS.get(kind, "tokens")

    @property
    @abstractmethod
    def pattern(self) -> str:
        """How inputs and outputs are tied to the steps: one of the five patterns."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The columns the task was trained on."""

    @property
    def columns(self) -> list[str]:
        """The columns of the training file."""
        return self.layout.columns

    @property
    def format(self) -> Format:
        """How the training file is written."""
        return self.layout.format

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels to choose from; none where the answer is no label."""
        return ()

    @property
    def blind_loss(self) -> float | None:
        """The loss of knowing nothing, ln(labels); None where it does not follow from the task."""
        return math.log(len(self.class_names)) if self.class_names else None

    @property
    def reads_sequences(self) -> bool:
        """Whether what is read has steps, one after another."""
        return True

    @property
    def text_field(self) -> Text | None:
        """The field of a text, where the task reads one."""
        return None

    @property
    def frames(self) -> Frames | None:
        """The field of a sequence of numbers, where the task reads one."""
        return None

    @property
    def clips(self) -> Clips | None:
        """The field of clips of video, where the task reads them."""
        return None

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The column that each feature of a row is of, where other columns than texts are read."""
        return ()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts the texts that are read into pieces."""
        return None

    # ------------------------------------------------------------------ training

    @classmethod
    @abstractmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""

    def axis_names(self) -> dict[str, AxisNames]:
        """Return what entries of weights stand for, by the names that the weights may have."""
        return {}

    @classmethod
    @abstractmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Task:
        """Learn the fields from training rows.

        The names of labels come from ``labels``, where given: a part held out by chance may hold
        a rare label that the training rows do not, which is no error of the file. Vocabularies of
        pieces come from ``pretrained``, where given.
        """

    @abstractmethod
    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Any, list[DataError]]:
        """Return examples with their answers, and the errors of rows that were skipped.

        Args:
            data: a file.
            on_error: ``stop`` or ``skip``.
            schema: its columns, where they are not those of training.

        Raises:
            DataError: a row is invalid and ``on_error`` is ``stop``.
        """

    @abstractmethod
    def build(self, recipe: Recipe) -> nn.Module:
        """Return the model, with random weights."""

    def begin(self, model: nn.Module, recipe: Recipe) -> None:  # noqa: B027 - few have such files
        """Give a model the weights that its training begins with, of files that a recipe names.

        Raises:
            UsageError: a file does not fit.
        """

    @abstractmethod
    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return what training minimises."""

    @abstractmethod
    def source(self, examples: Any, recipe: Recipe, model: nn.Module) -> BatchSource:
        """Return the training batches."""

    def aligned(
        self, examples: Any, recipe: Recipe, model: nn.Module, options: AnswerOptions
    ) -> tuple[Objective, BatchSource] | None:
        """Return what aligns a model and what it reads for that; None where nothing does.

        Raises:
            UsageError: the data are not of the kind that ``align.method`` learns from.
        """
        return None

    def decoder_inputs(self, batch: Batch) -> Tensor | None:
        """Return what a decoder reads before each target (B, T); None where there is none."""
        return None

    def check_keys(self, recipe: Recipe) -> None:
        """Raise UsageError for keys that mean nothing to this task."""
        if recipe.training.pretrain_epochs:
            raise UsageError(
                f"training.pretrain_epochs={recipe.training.pretrain_epochs} is for a label or "
                f"value of a text, not for {self.name}"
            )
        if recipe.align.method != "none":
            raise UsageError(
                f"align.method={recipe.align.method} is for task=chat, not for {self.name}"
            )
        self.refuse_ngrams(recipe)
        self.refuse_documents(recipe)

    def refuse_documents(self, recipe: Recipe) -> None:
        """Raise UsageError where rows are to be read apart, as a task of rows reads all of them."""
        if recipe.data.documents != "joined":
            raise UsageError(
                f"data.documents={recipe.data.documents} is for a language model; {self.name} "
                "reads each row by itself; leave it out"
            )

    def refuse_ngrams(self, recipe: Recipe) -> None:
        """Raise UsageError where n-grams are asked for that no model of this task reads."""
        if recipe.model.ngrams:
            raise UsageError(
                f"model.ngrams={recipe.model.ngrams} is for a label or value of a text, or for "
                f"tags of words, not for {self.name}"
            )

    @classmethod
    def reads_shards(cls, schema: Schema) -> bool:
        """Whether a file larger than memory can be encoded in pieces."""
        return False

    @classmethod
    def of_vocabulary(
        cls,
        recipe: Recipe,
        schema: Schema,
        learn_vocabulary: Callable[[], Tokenizer],
        labels: Sequence[str],
        layout: FileLayout,
    ) -> Task | None:
        """Return the task of a file that was read in pieces; None where it has to be read whole.

        Args:
            recipe: of the run.
            schema: the columns.
            learn_vocabulary: reads all texts, which takes long: asked for last.
            labels: those of the training rows.
            layout: how the file is written.
        """
        return None

    def shard_fields(self) -> tuple[Text, Label | None]:
        """Return the fields of what is encoded in pieces: texts, and their labels.

        Raises:
            UsageError: the task is not encoded in pieces.
        """
        raise UsageError(f"{self.name} is not encoded in pieces")

    def of_shards(self, shards: Shards) -> Any:
        """Return examples that are mapped from shards. Raises UsageError as ``shard_fields``."""
        raise UsageError(f"{self.name} is not encoded in pieces")

    def gather(
        self, data: Data, schema: Schema, on_error: str, answered: bool = True
    ) -> Data:
        """Return rows that are steps as sequences; all other rows as they are.

        Args:
            data: a file.
            schema: its columns.
            on_error: ``stop`` or ``skip``.
            answered: whether each row must have an answer.
        """
        return data

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say what the answers of a file are like."""
        return describing.numbers(values)

    def describe_examples(self, examples: Any) -> list[str]:
        """Return what there is to say of the scored part."""
        return []

    def baselines(self, split: Split) -> list[Method]:
        """Return the simple methods whose scores a model must beat."""
        return []

    # ------------------------------------------------------------------ scores and predictions

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Score a model, which is in evaluation mode."""

    def operations_per_token(self, model: nn.Module, recipe: Recipe) -> float | None:
        """Return the operations of training on one token; None where they are not known."""
        return None

    def validate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return the scores that are measured while a model trains: those of ``evaluate``."""
        return self.evaluate(model, examples, compute_device, options).scores

    @abstractmethod
    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Answer rows of input cells.

        Raises:
            UserError: the task gives no answer to a single row, or a cell does not fit.
        """

    def predict_steps(
        self, model: nn.Module, cells: Sequence[Any], compute_device: ComputeDevice
    ) -> list[Prediction]:
        """Answer at every step of a sequence of numbers, given by its columns.

        Raises:
            UsageError: the task reads none.
        """
        raise UsageError(f"{self.name} does not read sequences of numbers")

    def generate(
        self,
        model: nn.Module,
        prompt: str | Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        *,
        seed: int | None = None,
        stop: Sequence[str] = (),
        device: torch.device | None = None,
        notice: Callable[[str], None] = lambda text: None,
        choices: list[TokenChoice] | None = None,
        stepper: Stepper | None = None,
        grammar: GrammarText | None = None,
        draft: MakeDraft | None = None,
    ) -> Iterator[str]:
        """Yield text that goes on from ``prompt``, a text or its ids; see ``check_generates``.

        Each token that is written is added to ``choices``, where that is a list. ``stepper`` steps
        the model; None: what it makes itself. The text follows ``grammar``; ``draft`` makes what
        guesses its tokens.
        """
        self.check_generates()
        return iter(())

    def check_generates(self) -> None:
        """Raise UsageError where the task answers rows, and does not write on."""
        predict = either("`unrolled predict`", "run.predict(rows)")
        raise UsageError(
            f"this run was trained to {self.name}: use {predict}; text is generated by a "
            "run with task=language"
        )

    def check_rows(self) -> None:  # noqa: B027 - most tasks answer rows
        """Raise UsageError where the task answers no rows."""

    def check_options(
        self, options: AnswerOptions, model: nn.Module | None = None
    ) -> None:
        """Raise UsageError for options that this task, or this model, cannot follow."""
        if options.constraints != OutputConstraints():
            raise UsageError(
                f"{self.name} writes no text that could hold or align words"
            )

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, as far as that is known before; else nothing."""
        return ""

    def words(self, cells: Sequence[Any]) -> list[str]:
        """Return the words of a row that are answered one by one; none where rows are."""
        return []

    def aligns(self, model: nn.Module) -> bool:
        """Whether the words of answers can be aligned with those of the source."""
        return False

    def pair_columns(self, schema: Schema) -> tuple[str, str]:
        """Return the columns of source and target. Raises UsageError: the rows are no pairs."""
        raise UsageError(f"a target file is for pairs of texts, not for {self.name}")

    def check_data(self, data: Data) -> None:  # noqa: B027 - `encode` says the rest
        """Raise DataError for a file that cannot be scored by itself."""

    def compare(
        self, first: Evaluation, second: Evaluation, options: AnswerOptions
    ) -> dict[str, Any]:
        """Return whether two runs differ by more than chance, by the name of the score.

        Raises:
            UsageError: the task has no such test.
        """
        raise UsageError(
            "runs are compared in translation; see the scores of each for the rest"
        )

    def vocabularies(self) -> tuple[Tokenizer, Tokenizer]:
        """Return what cuts sources and targets, for an export. Raises UsageError: it has none."""
        raise UsageError(
            f"{self.name} writes no texts from texts, which ctranslate2 is for; onnx has it"
        )

    @abstractmethod
    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads an input step by step, for a look inside a model.

        Args:
            compute_device: where an answer is searched for.
            options: by which it is.
        """

    # ------------------------------------------------------------------ the run folder

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""

    @classmethod
    @abstractmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields from plain values and the files in a run folder."""

    def save(self, folder: Path) -> None:  # noqa: B027 - numbers need no file
        """Write the files that belong to the fields (a vocabulary) into a run folder."""


class Columns(Protocol):
    """What has the columns of a file: a table, or its rows as they are read."""

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
    """Return the indices of columns in a file: by name, or by position where it has no names.

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


def need_table(data: Data) -> Table:
    """Return a table, or say why a plain text does not do."""
    if isinstance(data, Document):
        raise DataError(
            "this is one plain text; a table with an answer column is needed", data.path
        )
    return data


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
    if layer.context is None:
        return
    if longest is None or longest * texts > layer.context:
        raise UsageError(
            f"layer={recipe.layer} reads {layer.context} tokens (model.context) and a row may have "
            f"{'any number' if longest is None else longest * texts}: set data.max_tokens to "
            f"{layer.context // texts} or less"
        )


def likeliest_labels(names: Sequence[str], outputs: Tensor) -> list[Prediction]:
    """Return the likeliest label of each row of scores (N, C); all probabilities are details."""
    predictions: list[Prediction] = []
    for row in outputs.double().softmax(-1).tolist():
        best = max(range(len(row)), key=row.__getitem__)
        details = {"probabilities": dict(zip(names, row, strict=True))}
        predictions.append(Prediction(names[best], row[best], details))
    return predictions


def score_batches(lengths: Ints, tokens: int = 16384, rows: int = 256) -> list[Ints]:
    """Return the rows of evaluation batches, rows of like length together."""
    return by_length(lengths, np.argsort(lengths, kind="stable"), rows, tokens)


def to_numpy(values: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as float64 numbers on the host."""
    return values.detach().float().cpu().double().numpy()
