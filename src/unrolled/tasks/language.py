"""A language model: the next token at every step, and text that goes on from a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.core import digests
from unrolled.core.errors import DataError, UsageError, listed
from unrolled.core.words import either
from unrolled.data.batches import BatchSource, Lanes, Windows
from unrolled.data.documents import DocumentLanes, Documents, PackedDocuments
from unrolled.data.examples import Ints
from unrolled.data.schema import Schema
from unrolled.data.shards import Tokens
from unrolled.data.sources import Document, nfc
from unrolled.decoding.generate import MakeDraft, Stepper, TokenReader, generate
from unrolled.decoding.grammar import GrammarText, TextGrammar
from unrolled.decoding.sampling import Sampling
from unrolled.decoding.speculative import Drafter, ModelDraft
from unrolled.decoding.stopping import until
from unrolled.fields.base import TOKENIZER
from unrolled.fields.label import Label
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.text import Text
from unrolled.models import LanguageModel
from unrolled.nn import build_layer, with_context
from unrolled.tasks import baselines
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    AxisNames,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    Method,
    Prediction,
    Rows,
    Shards,
    Split,
    Task,
    TokenChoice,
    build_embedding,
    locate,
)
from unrolled.tasks.language_scores import score, score_documents
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import LanguageSteps
from unrolled.tasks.steps import StepReader
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, next_token, next_word
from unrolled.training.precision import ComputeDevice

WIDE = 4096  # from a vocabulary of this size on, scores take more memory than all else
DEFAULTS = DefaultSettings(
    values={
        "model": {"hidden": 256, "embedding": 128, "head_dropout": 0.1},
        "training": {"batch_size": 32, "learning_rate": 3e-3, "patience": 3},
    },
    budget=20_000_000,
    counts_characters=True,
)


@dataclass(frozen=True, slots=True)
class TokenStream:
    """One long text as ids; rows stand one after another, each ended by the end mark.

    ``size`` is the length of the text in UTF-8 bytes; ``unknown`` counts ids that stand for pieces
    training did not see. Mapped ``tokens`` end with the end mark already. ``offsets`` (N + 1,) are
    where each of N documents, the rows of a table, begins, and where the last one ends; None for
    running text.
    """

    tokens: NDArray[np.int32] | Tokens
    size: int
    unknown: int
    offsets: Ints | None = None

    def __len__(self) -> int:
        return len(self.tokens)


TOGETHER = 10_000  # rows that are encoded at once
ALTERNATIVES = 5  # tokens that are shown beside one that was written


@dataclass(frozen=True, eq=False)
class Language(Task):
    """Text without labels. The end mark is also what stands before a fresh start."""

    name: ClassVar[str] = "language"
    metric: ClassVar[str] = "loss"
    reads_documents: ClassVar[bool] = True
    untested_score: ClassVar[str | None] = "bits_per_byte"
    answers_rows: ClassVar[bool] = False
    around: ClassVar[tuple[str, ...]] = ("tie", "head_bias")
    scored_unit: ClassVar[str] = "tokens"
    measures: ClassVar[dict[str, bool]] = {
        "loss": DOWN,
        "perplexity": DOWN,
        "bits_per_byte": DOWN,
        "accuracy": UP,
    }

    vocabulary: Tokenizer
    text: tuple[str, ...]
    layout: FileLayout

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts texts into tokens."""
        return self.vocabulary

    @property
    def pattern(self) -> str:
        """The next token at every step."""
        return "language model"

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
        """Learn the vocabulary."""
        _refuse_one_text(recipe, schema)
        layout = FileLayout.of(data)
        if pretrained is not None and pretrained.tokenizer is not None:
            return cls(pretrained.tokenizer, schema.text, layout)
        texts = _texts(data, schema)
        config = recipe.data
        kind = config.tokenizer or "chars"
        vocabulary = Tokenizer.fit(kind, texts, config.vocabulary, config.min_count)
        return cls(vocabulary, schema.text, layout)

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the tokens of embedding and output weights."""
        tokens = AxisNames(tuple(self.tokenizer.texts()))
        return dict.fromkeys(("embedding.weight", "head.weight", "head.bias"), tokens)

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, self.text)

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Any, list[DataError]]:
        """Encode a text, or rows of texts; see the base class."""
        if isinstance(data, Document):
            tokens = self.tokenizer.encode_array(data.text)
            unknown = int((tokens == self.tokenizer.unk_id).sum())
            return TokenStream(tokens, len(data.text.encode()), unknown), []
        schema = schema or self.schema
        errors = list(data.skipped)
        if not schema.text:
            raise DataError(
                "this run was trained on plain text; name the column with data.text",
                data.path,
            )
        field = Text(schema.text, self.tokenizer, None)
        indices = locate(data, schema.text, self.columns)
        rows = valid_rows(
            numbered(data),
            data,
            lambda row: field.check([row[i] for i in indices]),
            on_error,
            errors,
        )
        texts = [row_texts for _, row_texts in rows]
        tokens, offsets = _encoded(field, texts)
        size = sum(len(text.encode()) for text in chain.from_iterable(texts))
        unknown = int((tokens == self.tokenizer.unk_id).sum())
        return TokenStream(tokens, size, unknown, offsets), errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a language model; a layer of limited reach reads one training window."""
        config = recipe.model
        embedding = build_embedding(self.tokenizer.size, config)
        settings = with_context(recipe.layer, config, recipe.training.window)
        layer = build_layer(recipe.layer, settings, config.embedding)
        try:
            return LanguageModel(
                embedding,
                layer,
                self.tokenizer.size,
                config.head_dropout,
                config.tie,
                config.head_bias,
                recipe.align.method == "ppo",
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of the next token."""
        smoothing = recipe.training.label_smoothing
        candidates = recipe.training.candidates
        carries = self._carries(recipe, model)
        if candidates is not None and smoothing:
            raise UsageError(
                "training.candidates goes without training.label_smoothing; unset one"
            )
        penalties = recipe.training.activation, recipe.training.slowness
        if candidates is None and self.tokenizer.size < WIDE and not any(penalties):
            return next_token(smoothing, carries)
        return next_word(smoothing, carries, candidates, *penalties)

    def operations_per_token(self, model: nn.Module, recipe: Recipe) -> float | None:
        """Return those of all weights.

        Unknown where only some tokens are compared, or some weights are frozen for a time.
        """
        assert isinstance(model, LanguageModel)
        training = recipe.training
        if training.candidates is not None or training.unfreeze is not None:
            return None
        return model.operations_per_token(recipe.training.window)

    def _carries(self, recipe: Recipe, model: nn.Module) -> bool:
        assert isinstance(model, LanguageModel)
        carry = recipe.training.carry
        if carry and model.context is not None:
            raise UsageError(
                f"training.carry=true needs a layer of unlimited reach; layer={recipe.layer} reads "
                f"{model.context} tokens"
            )
        return model.context is None if carry is None else carry

    def source(
        self, examples: TokenStream, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return carried lanes, or independent windows where the reach is limited.

        Raises:
            UsageError: running text has no documents that could be read apart.
        """
        assert isinstance(model, LanguageModel)
        if recipe.data.documents == "apart":
            return self._source_apart(examples, recipe, model)
        settings = recipe.training
        end = self.tokenizer.eos_id
        tokens = examples.tokens
        if isinstance(tokens, np.ndarray) and (not len(tokens) or tokens[-1] != end):
            # so that the model learns where the text ends
            tokens = np.append(tokens, np.int32(end))
        window = min(settings.window, model.context or settings.window, len(tokens))
        rows = max(1, min(settings.batch_size, len(tokens) // window))
        if self._carries(recipe, model):
            return Lanes(tokens, rows, window, recipe.seed, end, settings.reset)
        return Windows(tokens, rows, window, recipe.seed, end)

    def _source_apart(
        self, examples: TokenStream, recipe: Recipe, model: LanguageModel
    ) -> BatchSource:
        """Return lanes or windows of documents of which none sees another."""
        assert examples.offsets is not None
        settings = recipe.training
        documents = Documents(examples.tokens, examples.offsets)
        size = documents.size
        window = min(settings.window, model.context or settings.window, size)
        rows = max(1, min(settings.batch_size, size // window))
        start = self.tokenizer.start_id
        if self._carries(recipe, model):
            return DocumentLanes(
                documents, rows, window, recipe.seed, start, settings.reset
            )
        return PackedDocuments(documents, rows, window, recipe.seed, start)

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        examples: TokenStream,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Score every token once.

        A layer of unlimited reach reads the text in lanes side by side, each after the mark that
        texts begin with and ``WARM`` tokens of what precedes it; where that says something else
        than one pass, by more than ``TOLERANCE`` nats a token, it reads in one pass. One of limited
        reach reads windows of its reach that overlap by half, and only the second half is scored.
        Of documents apart each is read from a fresh start. ``loss`` is in nats a token, the end
        marks of rows among them; ``bits_per_byte`` is the sum of these nats over the UTF-8 bytes of
        the texts, which have no end marks;
        ``accuracy`` the share of tokens the model would have guessed.
        """
        assert isinstance(model, LanguageModel)
        tokens = torch.from_numpy(examples.tokens[:].astype(np.int64))
        if not len(tokens):
            raise DataError("there is no text to score", "data")
        start = self.tokenizer.start_id
        if options.documents == "apart" and examples.offsets is not None:
            offsets = torch.from_numpy(examples.offsets)
            total = score_documents(model, tokens, offsets, start, compute_device)
        else:
            total = score(model, tokens, start, compute_device)
        loss = total.nats / total.count
        scores = {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "bits_per_byte": total.nats / math.log(2) / max(1, examples.size),
            "accuracy": total.right / total.count,
        }
        return Evaluation(scores)

    @property
    def blind_loss(self) -> float:
        """That of all tokens alike."""
        return math.log(self.tokenizer.size)

    def refuse_documents(self, recipe: Recipe) -> None:
        """Raise nothing: rows of text may be read apart."""

    def unknown_in(self, text: str) -> list[str]:
        """Return the characters of a text, or else its words, that the vocabulary lacks."""
        unknown = self.tokenizer.unk_id
        # a letter is no word
        by_word = self.tokenizer.kind in ("words", "whitespace")
        for parts in ("" if by_word else text, text.split()):
            encoded = {part: self.tokenizer.encode(part) for part in parts}
            lacking = [part for part, ids in encoded.items() if unknown in ids]
            if lacking:
                return lacking
        return []

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
        """Yield text that goes on from ``prompt``, in whole characters, as it is made."""
        assert isinstance(model, LanguageModel)
        follows = None if grammar is None else self._followed(grammar)
        if not isinstance(prompt, str):
            start = list(prompt)  # ids say what is read
        else:
            start = self.tokenizer.beginning(nfc(prompt))
            if self.tokenizer.unk_id in start:
                lacking = listed(self.unknown_in(nfc(prompt)))
                notice(f"the prompt holds what was not in the training text: {lacking}")
        mark = self.tokenizer.start_id
        written = 0

        def observe(probabilities: Tensor, token: int) -> None:
            if choices is not None:
                choices.append(self._choice(probabilities, token, written))

        def pieces() -> Iterator[str]:
            nonlocal written
            for piece in self._pieces(tokens, start):
                written += len(piece)
                yield piece

        tokens = generate(
            stepper or model.stepper(),
            start,
            max_new_tokens,
            sampling,
            seed=seed,
            ends=self.tokenizer.end_ids,
            banned=self.tokenizer.unwritten_ids,
            device=device,
            notice=notice,
            mark=mark if start[0] == mark else None,
            observe=None if choices is None else observe,
            grammar=follows,
            draft=draft,
        )
        return until(pieces(), stop)

    def _followed(self, grammar: GrammarText) -> TextGrammar:
        """Return what holds a text to a grammar."""
        words = self.tokenizer
        if not words.end_ids:
            raise UsageError(
                "a text cannot be held to a grammar where no token of the checkpoint ends one"
            )
        end, *others = words.end_ids
        banned = [*words.unwritten_ids, *others]
        return TextGrammar(grammar, words.pieces(), end, banned)

    def draft_by(
        self, other: Language, stepper: Stepper, device: torch.device
    ) -> MakeDraft:
        """Return what guesses as another run does, which is read through ``stepper``.

        Raises:
            UsageError: it has another vocabulary.
        """
        if other.tokenizer.digest != self.tokenizer.digest:
            raise UsageError(
                "a draft has to have the tokens of the run; train it with model.init=RUN, or on "
                "the same text with the same tokenizer"
            )
        begun = [self.tokenizer.start_id]

        def make(generator: torch.Generator | None) -> Drafter:
            reader = TokenReader(stepper, begun, device, lambda text: None, keep=True)
            return ModelDraft(reader, generator)

        return make

    def _choice(self, probabilities: Tensor, token: int, start: int) -> TokenChoice:
        """Return a token of ``probabilities`` (V,), at a character, with the likeliest ones."""
        count = min(ALTERNATIVES, len(probabilities))
        likeliest = probabilities.topk(count)
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        alternatives = tuple((self._text_of(id), value) for id, value in pairs)
        probability = float(probabilities[token])
        text = self._text_of(token)
        return TokenChoice(text, probability, alternatives, start)

    def _text_of(self, token: int) -> str:
        is_end = token in self.tokenizer.end_ids
        return "" if is_end else self.tokenizer.token(token)

    def _pieces(self, tokens: Iterator[int], before: Sequence[int]) -> Iterator[str]:
        stream = self.tokenizer.stream_after(before)
        for token in tokens:
            piece = stream.feed(token)
            if piece:
                yield piece
        rest = stream.finish()
        if rest:
            yield rest

    def check_generates(self) -> None:
        """Raise nothing: a language model writes on."""

    def check_rows(self) -> None:
        """Raise UsageError: a language model writes on instead of answering."""
        call = either("`unrolled generate RUN --prompt TEXT`", "run.generate(prompt)")
        raise UsageError(f"this run is a language model: use {call}")

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Refuse; see ``check_rows``."""
        self.check_rows()
        return []

    @classmethod
    def reads_shards(cls, schema: Schema) -> bool:
        """All text is read in pieces."""
        return True

    @classmethod
    def of_vocabulary(
        cls,
        recipe: Recipe,
        schema: Schema,
        learn_vocabulary: Callable[[], Tokenizer],
        labels: Sequence[str],
        layout: FileLayout,
    ) -> Self:
        """Return the task of a file that was read in pieces."""
        _refuse_one_text(recipe, schema)
        return cls(learn_vocabulary(), schema.text, layout)

    def shard_fields(self) -> tuple[Text, Label | None]:
        """Return the field of texts."""
        return Text(self.text, self.tokenizer, None), None

    def of_shards(self, shards: Shards) -> TokenStream:
        """Return a text that is mapped from shards."""
        offsets = None if shards.rows is None else shards.rows[1]
        return TokenStream(shards.tokens, shards.size, shards.unknown, offsets)

    def describe_examples(self, examples: TokenStream) -> list[str]:
        """Say how much of the scored text the vocabulary does not know."""
        if not examples.unknown:
            return []
        return [f"{examples.unknown:,} scored tokens are unknown to the vocabulary"]

    def baselines(self, split: Split) -> list[Method]:
        """Guesses from the token before."""
        return baselines.of_tokens(split, self.tokenizer)

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads a text step by step."""
        return LanguageSteps(self.tokenizer)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"text": list(self.text)}

    def save(self, folder: Path) -> None:
        """Write the vocabulary."""
        digests.replace(folder, TOKENIZER, self.tokenizer.save)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        vocabulary = load_tokenizer(folder / TOKENIZER)
        return cls(vocabulary, tuple(values["text"]), layout)


def _encoded(
    field: Text, rows: Sequence[tuple[str, ...]]
) -> tuple[NDArray[np.int32], Ints]:
    """Return the ids of all rows one after another, and where each row begins and the last ends.

    Some rows at a time: ids in lists take ten times the memory of an array.
    """
    parts = [np.zeros(0, dtype=np.int32)]
    lengths = [0]
    for first in range(0, len(rows), TOGETHER):
        encoded = field.encode(rows[first : first + TOGETHER])
        lengths += map(len, encoded)
        parts.append(np.fromiter(chain.from_iterable(encoded), np.int32))
    return np.concatenate(parts), np.cumsum(lengths, dtype=np.int64)


def _refuse_one_text(recipe: Recipe, schema: Schema) -> None:
    """Raise UsageError where documents are to be kept apart, and there is one."""
    if recipe.data.documents == "apart" and not schema.text:
        raise UsageError(
            "data.documents=apart is for rows of text, and this is one text; give a table or "
            "JSON lines with a document a row, or a folder of texts, or leave it out"
        )


def _texts(data: Data, schema: Schema) -> list[str]:
    """Return all texts of a file."""
    if isinstance(data, Document):
        return [data.text]
    indices = locate(data, schema.text, data.columns)
    texts: list[str] = []
    for row in data.rows:
        texts += [str(row[i]) for i in indices if row[i] is not None]
    return texts
