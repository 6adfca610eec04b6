"""Chat: a language model that answers, learnt from what assistants said in talks.

Only what the assistant says is learnt, and the token that ends it, so that a tuned model ends its
turns (Ouyang et al. 2022, the first of three steps).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import IGNORED, BatchSource
from unrolled.data.chat_columns import choose_chat
from unrolled.data.documents import Documents, PackedDocuments
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.data.sources import Table
from unrolled.decoding.many import WrittenText, write_many
from unrolled.decoding.sampling import Sampling
from unrolled.fields.base import InvalidCell
from unrolled.fields.label import Label
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.talks import Talk, asked, check_turns, with_answer
from unrolled.fields.text import Text
from unrolled.models import LanguageModel
from unrolled.tasks import describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    GeneratedTexts,
    Method,
    Prediction,
    Rows,
    Scores,
    Shards,
    Split,
    Task,
    locate,
    need_table,
)
from unrolled.tasks.chat_scores import CHOICES, RANKED, costs, distinct_pairs
from unrolled.tasks.language import Language
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.write_text import hashes
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import Tokenizer
from unrolled.text.turns import ASSISTANT, TURNS, ChatTokenizer, Turn
from unrolled.training.objectives import Objective, answers
from unrolled.training.precision import ComputeDevice

LONGEST = 512  # tokens of a talk, where nobody says otherwise
ANSWER = 128  # tokens of an answer, where nobody says otherwise
SEED = 0  # of the wrong answers among which the right one is looked for
DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": LONGEST},
        "model": {"hidden": 256, "embedding": 128, "head_dropout": 0.1},
        "training": {"batch_size": 16, "learning_rate": 2e-3, "patience": 3},
        "decoding": {"beam": 1, "max_length": ANSWER},
    },
    budget=20_000_000,
    counts_characters=True,
    tokenizer="unigram",
)


@dataclass(frozen=True, slots=True)
class ChatExamples(Examples):
    """Talks of N rows: what is read of each, and which tokens the assistant has to write.

    ``prompts`` are the turns before the last answer, ``references`` that answer, empty where there
    is none.
    """

    prompts: tuple[Talk, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        """One answer a row."""
        return len(self.lines)

    @property
    def answered(self) -> bool:
        """Whether there are answers to learn from."""
        return self.targets is not None

    def pick(self, rows: Any) -> ChatExamples:
        """Return some of the examples (M,), in that order."""
        # without super(): a class with slots is made anew
        picked = cast(ChatExamples, Examples.pick(self, rows))
        chosen = np.arange(len(self))[rows].tolist()
        return replace(
            picked,
            prompts=tuple(self.prompts[row] for row in chosen),
            references=tuple(self.references[row] for row in chosen),
        )


@dataclass(frozen=True, eq=False)
class Chat(Language):
    """Talks, and an answer to what the user says last.

    Attributes:
        vocabulary: cuts texts, and marks turns.
        text: the columns of talks, or of questions and what they are about.
        answer: the column of answers; None where talks hold them.
        longest: the most tokens of a talk.
        seen: hashes of the answers of training, in order.
    """

    name: ClassVar[str] = "chat"
    reads_documents: ClassVar[bool] = False
    answers_rows: ClassVar[bool] = True
    is_generative: ClassVar[bool] = True
    first_column_suffices: ClassVar[bool] = True
    untested_score: ClassVar[str | None] = None
    measures: ClassVar[dict[str, bool]] = {
        "loss": DOWN,
        "perplexity": DOWN,
        "exact": UP,
        "ended": UP,
        "distinct": UP,
        "distinct_2": UP,
        "copied": DOWN,
        "ranked_first": UP,
    }

    vocabulary: ChatTokenizer
    answer: str | None
    longest: int
    seen: NDArray[np.uint64]

    @property
    def tokenizer(self) -> ChatTokenizer:
        """What cuts texts into tokens, and marks turns."""
        return self.vocabulary

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, self.text, answer=self.answer)

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        if recipe.layer != "attention":
            return DEFAULTS
        # no published model of attention has one, and so it can be exported as one
        model = {**DEFAULTS.values["model"], "head_bias": False}
        return replace(DEFAULTS, values={**DEFAULTS.values, "model": model})

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the vocabulary, unless a training begins with one."""
        table = need_table(data)
        read = list(_talks(table, schema))
        return cls(
            vocabulary=cls._vocabulary(recipe, read, pretrained),
            text=schema.text,
            layout=FileLayout.of(table),
            answer=schema.answer,
            longest=recipe.data.max_tokens or LONGEST,
            seen=np.unique(hashes([turn.text for turn in _said(read)])),
        )

    @staticmethod
    def _vocabulary(
        recipe: Recipe, talks: Sequence[Talk], pretrained: Task | None
    ) -> ChatTokenizer:
        """Return what cuts talks: of the run that a training begins with, or learnt from them."""
        template = recipe.data.template
        known = None if pretrained is None else pretrained.tokenizer
        if isinstance(known, ChatTokenizer):
            if template in (None, known.template.name):
                return known
            known = known.base
        if known is None:
            config = recipe.data
            texts = [turn.text for talk in talks for turn in talk]
            kind = config.tokenizer or DEFAULTS.tokenizer
            known = Tokenizer.fit(kind, texts, config.vocabulary, config.min_count)
        return ChatTokenizer(known, template or TURNS)

    # ------------------------------------------------------------------ rows to examples

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[ChatExamples, list[DataError]]:
        """Encode the talks of a table; see the base class.

        A file of other columns than those of training is read by its own: talks, questions with
        answers, or questions alone.
        """
        table = need_table(data)
        columns = self._columns_of(table, schema or self.schema)
        answered = self._is_answered(table, columns)
        errors = list(table.skipped)

        def check(cells: Sequence[Any]) -> Talk:
            talk = columns.talk(cells)
            if answered:
                return check_turns(talk, answered=True)
            return check_turns(talk, answered=False)

        def encoded(cells: Sequence[Any]) -> tuple[Talk, list[int], list[int]]:
            talk = check(cells)
            return talk, *self._encoded(talk)

        rows = list(valid_rows(numbered(table), table, encoded, on_error, errors))
        if not rows:
            raise DataError("no row is left to read", table.path)
        lines = np.array([line for line, _ in rows])
        talks, inputs, targets = zip(*(row for _, row in rows), strict=True)
        last = [talk[-1].text if answered else "" for talk in talks]
        prompts = [talk[:-1] if answered else talk for talk in talks]
        examples = ChatExamples(
            lines,
            Ragged.of(inputs),
            targets=Ragged.of(targets) if answered else None,
            prompts=tuple(prompts),
            references=tuple(last),
        )
        return examples, errors

    def _columns_of(self, table: Table, schema: Schema) -> TalkColumns:
        """Return the columns of a file: those that are known, or else those that look like talks.

        Raises:
            DataError: there are none.
        """
        names = table.columns
        if all(name in names for name in schema.text) or not table.format.named:
            answer = schema.answer if schema.answer in names else None
            if not table.format.named and schema.answer is not None:
                answer = schema.answer if len(names) == len(self.columns) else None
            wanted = [*schema.text, *([answer] if answer else [])]
            indices = locate(table, wanted, self.columns, schema.answer)
            return TalkColumns(schema.text, answer, tuple(indices))
        chosen = choose_chat(table, (), None, self.name)
        assert chosen is not None
        texts = chosen["text"]
        answer = chosen.get("answer")
        wanted = [*texts, *([answer] if answer else [])]
        indices = [names.index(name) for name in wanted]
        return TalkColumns(texts, answer, tuple(indices))

    @staticmethod
    def _is_answered(table: Table, columns: TalkColumns) -> bool:
        """Whether the first talk of a file that can be read ends with an answer: so do all."""
        if columns.answer is not None:
            return True
        for row in table.rows:
            try:
                return columns.talk(row)[-1].role == ASSISTANT
            except (InvalidCell, IndexError):
                continue
        return True

    def _encoded(self, talk: Talk) -> tuple[list[int], list[int]]:
        """Return what is read at each step of a talk, and what is to be written there.

        Raises:
            InvalidCell: it has more tokens than are read, or no template for a turn.
        """
        try:
            if talk[-1].role != ASSISTANT:
                ids = self.tokenizer.opening(talk)
                targets: list[int] = []
            else:
                encoded = self.tokenizer.encode_talk(talk)
                pairs = zip(encoded.ids, encoded.is_answer, strict=True)
                targets = [id if scored else IGNORED for id, scored in pairs][1:]
                ids = encoded.ids[:-1]
        except UserError as error:
            raise InvalidCell(str(error)) from None
        if len(ids) > self.longest:
            raise InvalidCell(
                f"the talk has {len(ids):,} tokens and data.max_tokens is {self.longest:,}: what "
                "ends its answer would be cut off"
            )
        return ids, targets

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a language model, which reads a whole talk."""
        training = recipe.training.changed(window=self.window(recipe))
        return super().build(recipe.changed(training=training))

    def window(self, recipe: Recipe) -> int:
        """Return how many tokens are read at once: a talk at least."""
        return max(recipe.training.window, self.longest)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of what the assistant says."""
        return answers(recipe.training.label_smoothing)

    def source(
        self, examples: Any, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return talks packed into windows, of which none sees another.

        Raises:
            UserError: there are no answers to learn from.
        """
        if not examples.answered:
            raise UserError(
                "these talks end with the user, and hold no answers to learn from; name the column "
                "of answers with data.label"
            )
        documents = _documents(examples)
        longest = int(documents.lengths.max())
        settings = recipe.training
        window = max(longest, min(settings.window, documents.size))
        rows = max(1, min(settings.batch_size, documents.size // window))
        start = int(examples.sequences.flat[0])
        return PackedDocuments(documents, rows, window, recipe.seed, start)

    def check_keys(self, recipe: Recipe) -> None:
        """Raise UsageError for keys that mean nothing to talks."""
        Task.check_keys(self, recipe)
        if recipe.decoding.beam > 1 or recipe.decoding.n_best > 1:
            raise UsageError(
                "an answer of a talk is written greedily, or drawn with decoding.sample=true; leave "
                "decoding.beam and decoding.n_best at 1"
            )

    def refuse_documents(self, recipe: Recipe) -> None:
        """Raise UsageError where talks are to be joined in another way."""
        Task.refuse_documents(self, recipe)

    def check_options(
        self, options: AnswerOptions, model: nn.Module | None = None
    ) -> None:
        """Raise UsageError for options that answers of talks cannot follow."""
        Task.check_options(self, options, model)

    # ------------------------------------------------------------------ scores

    def validate(
        self,
        model: nn.Module,
        examples: ChatExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return what the answers given cost; nothing is written."""
        nats, counts = costs(model, examples, compute_device)
        loss = float(nats.sum() / counts.sum())
        return {"loss": loss, "perplexity": math.exp(min(loss, 700))}

    def evaluate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Score the answers given, and those that the model writes.

        ``loss`` is in nats a token of the answers given, their end marks included. Of answers that
        are written, greedily unless ``options`` say otherwise, ``exact`` is the share that equals
        the one given, ``ended`` the share that ended itself, ``distinct`` the share of different
        ones, ``distinct_2`` that of different pairs of tokens, and ``copied`` the share that is
        some answer of training word for word. ``ranked_first`` is the share of the first
        ``RANKED`` questions whose own answer costs fewest nats a token among ``CHOICES``.
        """
        scores: Scores = {}
        if examples.answered:
            scores |= self.validate(model, examples, compute_device, options)
        written = self.write(model, examples.prompts, compute_device, options)
        texts = [self.tokenizer.decode(text.tokens) for text in written]
        count = len(texts)
        if examples.answered:
            pairs = zip(texts, examples.references, strict=True)
            scores["exact"] = sum(_same(*pair) for pair in pairs) / count
        scores["ended"] = sum(text.ended for text in written) / count
        scores["distinct"] = len(set(texts)) / count
        scores["distinct_2"] = distinct_pairs([text.tokens for text in written])
        scores["copied"] = float(np.isin(hashes(texts), self.seen).mean())
        if examples.answered and len(set(examples.references)) >= CHOICES:
            scores["ranked_first"] = self._ranked(model, examples, compute_device)
        generated = GeneratedTexts(
            examples.lines,
            [prompt[-1].text for prompt in examples.prompts],
            [[text] for text in examples.references],
            texts,
        )
        length = sum(len(text.tokens) for text in written) / count
        notes = (f"{count:,} answers were written, of {length:.1f} tokens",)
        return Evaluation(scores, written=generated, notes=notes)

    def _ranked(
        self, model: nn.Module, examples: ChatExamples, compute_device: ComputeDevice
    ) -> float:
        """Return how often the right answer is the likeliest among some of other questions."""
        generator = np.random.default_rng(SEED)
        known = np.array(sorted(set(examples.references)))
        talks: list[Talk] = []
        count = min(RANKED, len(examples))
        for row in range(count):
            right = examples.references[row]
            others = known[known != right]
            wrong = generator.choice(others, CHOICES - 1, replace=False)
            for text in (right, *wrong.tolist()):
                talks.append((*examples.prompts[row], Turn(ASSISTANT, text)))
        encoded = [self._encoded_last(talk) for talk in talks]
        inputs, targets = zip(*encoded, strict=True)
        choices = Examples(
            np.arange(len(talks)), Ragged.of(inputs), targets=Ragged.of(targets)
        )
        nats, counts = costs(model, choices, compute_device)
        means = (nats / counts).reshape(count, CHOICES)
        # a tie is no right answer
        return float((means[:, 0] < means[:, 1:].min(1)).mean())

    def _encoded_last(self, talk: Talk) -> tuple[list[int], list[int]]:
        """Return a talk of which the last answer alone is to be written."""
        ids = self.tokenizer.opening(talk[:-1])
        answer = self.tokenizer.encode_answer(talk[-1].text)
        targets = [IGNORED] * (len(ids) - 1) + answer
        return [*ids, *answer[:-1]], targets

    def write(
        self,
        model: nn.Module,
        prompts: Sequence[Talk],
        compute_device: ComputeDevice,
        options: AnswerOptions,
        seed: int = SEED,
    ) -> list[WrittenText]:
        """Write an answer to each talk."""
        assert isinstance(model, LanguageModel)
        search = options.search
        most = search.max_length or ANSWER
        greedy = Sampling(temperature=0.0)
        return write_many(
            model,
            [self.fitting(prompt, model.context, most) for prompt in prompts],
            most,
            search.sampling if search.sample else greedy,
            self.tokenizer.end_id,
            self.tokenizer.unwritten_ids,
            seed,
            compute_device.device,
        )

    def fitting(self, talk: Talk, context: int | None, most: int) -> list[int]:
        """Return the ids of a talk to be answered, without its oldest turns where it is too long.

        What the system says stays. Of a last turn that is too long by itself the end is read.
        """
        ids = self.tokenizer.opening(talk)
        if context is None:
            return ids
        room = max(1, context - min(most, context // 2))
        first = 1 if talk[0].role == "system" else 0
        while len(ids) > room and len(talk) - first > 2:
            talk = (*talk[:first], *talk[first + 2 :])
            ids = self.tokenizer.opening(talk)
        return ids if len(ids) <= room else [ids[0], *ids[-room + 1 :]]

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say how many answers there are, and how long."""
        return describing.texts(values)

    def describe_examples(self, examples: Any) -> list[str]:
        """Say how many of the scored answers training has, too."""
        if not examples.answered:
            return []
        known = int(np.isin(hashes(examples.references), self.seen).sum())
        if not known:
            return []
        return [
            f"{known:,} of {len(examples):,} scored answers are answers of training, too"
        ]

    def baselines(self, split: Split) -> list[Method]:
        """Return the answer that is most frequent in training."""
        return []

    # ------------------------------------------------------------------ predictions

    def check_rows(self) -> None:
        """Raise nothing: a question is answered."""

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, empty where it can."""
        try:
            self._prompt(cells)
        except InvalidCell as error:
            return str(error)
        return ""

    def _prompt(self, cells: Sequence[Any]) -> Talk:
        talk = asked(self.text, cells)
        if talk[-1].role == ASSISTANT:
            talk = talk[:-1]
        return check_turns(talk, answered=False)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Answer the talk, or the question, of each row."""
        try:
            prompts = [self._prompt(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        written = self.write(model, prompts, compute_device, options)
        return [
            Prediction(
                self.tokenizer.decode(text.tokens), details={"ended": text.ended}
            )
            for text in written
        ]

    # ------------------------------------------------------------------ shards and the run folder

    @classmethod
    def reads_shards(cls, schema: Schema) -> bool:
        """Talks are read whole."""
        return False

    @classmethod
    def of_vocabulary(
        cls,
        recipe: Recipe,
        schema: Schema,
        learn_vocabulary: Callable[[], Tokenizer],
        labels: Sequence[str],
        layout: FileLayout,
    ) -> Self | None:
        """Return None: talks are read whole."""
        return None

    def shard_fields(self) -> tuple[Text, Label | None]:
        """Raise UsageError: talks are read whole."""
        return Task.shard_fields(self)

    def of_shards(self, shards: Shards) -> Any:
        """Raise UsageError: talks are read whole."""
        return Task.of_shards(self, shards)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "text": list(self.text),
            "answer": self.answer,
            "longest": self.longest,
            "seen": base64.b64encode(self.seen.tobytes()).decode(),
        }

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        vocabulary = load_tokenizer(folder / "tokenizer.json")
        if not isinstance(vocabulary, ChatTokenizer):
            raise ValueError("the tokenizer has no template")
        seen = np.frombuffer(base64.b64decode(values["seen"]), np.uint64)
        return cls(
            vocabulary=vocabulary,
            text=tuple(values["text"]),
            layout=layout,
            answer=values["answer"],
            longest=values["longest"],
            seen=seen,
        )


@dataclass(frozen=True, slots=True)
class TalkColumns:
    """The columns of a file that hold talks, and where each stands.

    Attributes:
        text: of talks, or of questions and what they are about.
        answer: of answers; None where talks hold them, or there are none.
        indices: where all of them stand in a row.
    """

    text: tuple[str, ...]
    answer: str | None
    indices: tuple[int, ...]

    def talk(self, row: Sequence[Any]) -> Talk:
        """Return the talk of a row. Raises InvalidCell: a cell holds no part of one."""
        cells = [row[index] for index in self.indices]
        if self.answer is None:
            return asked(self.text, cells)
        talk = asked(self.text, cells[:-1])
        return with_answer(talk, self.answer, cells[-1])


def _talks(table: Table, schema: Schema) -> list[Talk]:
    """Return the talks of a table, without those that cannot be read."""
    wanted = [*schema.text, *([schema.answer] if schema.answer else [])]
    indices = locate(table, wanted, table.columns)
    columns = TalkColumns(schema.text, schema.answer, tuple(indices))
    talks: list[Talk] = []
    for row in table.rows:
        try:
            talks.append(columns.talk(row))
        except InvalidCell:
            continue  # told with its line when rows are encoded
    return talks


def _said(talks: Sequence[Talk]) -> list[Turn]:
    """Return what assistants say."""
    return [turn for talk in talks for turn in talk if turn.role == ASSISTANT]


def _documents(examples: ChatExamples) -> Documents:
    """Return talks as documents, without the token that each begins with."""
    assert examples.sequences is not None
    assert isinstance(examples.targets, Ragged)
    targets = examples.targets.flat[:]
    offsets = examples.sequences.offsets
    # the input of the step after is the token, where it is not learnt
    tokens = np.empty_like(targets)
    flat = examples.sequences.flat[:]
    tokens[:-1] = flat[1:]
    ends = offsets[1:] - 1
    tokens[ends] = targets[ends]
    scored = targets != IGNORED
    # where a talk ends with what is not learnt, nothing is told by it
    tokens[ends] = np.where(scored[ends], tokens[ends], 0)
    return Documents(tokens, offsets, scored)


def _same(answer: str, reference: str) -> bool:
    return " ".join(answer.split()) == " ".join(reference.split())
