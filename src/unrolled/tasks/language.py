"""A language model: the next token at every step, and text that goes on from a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core import digests
from unrolled.core.errors import DataError, UsageError
from unrolled.core.words import either
from unrolled.data.batches import BatchSource, Lanes, Windows
from unrolled.data.schema import Schema
from unrolled.data.shards import Tokens
from unrolled.data.sources import Document, Table, nfc
from unrolled.decoding.generate import generate
from unrolled.decoding.sampling import Sampling
from unrolled.decoding.stopping import until
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.text import Text
from unrolled.models import LanguageModel
from unrolled.nn import State, build_layer, with_context
from unrolled.tasks.base import (
    DOWN,
    UP,
    Evaluation,
    Prediction,
    Rows,
    Task,
    build_embedding,
    locate,
)
from unrolled.tasks.labelled import TOKENIZER
from unrolled.tasks.recipe import Recipe
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, begin_with, next_token, next_word
from unrolled.training.precision import ComputeDevice

WARM = 512  # tokens a lane reads unscored before its own part
CHUNK = 256  # tokens read at once while scoring
WIDE = 4096  # from a vocabulary of this size on, scores take more memory than all else
SCORED = 2**25  # scores that are made at once
LANE = 2048  # a text is scored in lanes of at least this many tokens
TOLERANCE = (
    0.01  # nats a token by which lanes may differ from one pass where they begin
)


@dataclass(frozen=True, slots=True)
class TokenStream:
    """One long text as ids; rows stand one after another, each ended by the end mark.

    ``size`` is the length of the text in UTF-8 bytes; ``unknown`` counts ids that stand for pieces
    training did not see. Mapped ``tokens`` end with the end mark already.
    """

    tokens: NDArray[np.int32] | Tokens
    size: int
    unknown: int

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class Sum:
    """Running totals of what was scored."""

    nats: float = 0.0
    right: int = 0
    count: int = 0

    def add(self, logits: Tensor, targets: Tensor, scored: Tensor) -> None:
        """Take in scores (B, T, V), targets (B, T) and which of them count (B, T)."""
        rows = max(1, SCORED // 16 // logits.shape[-1])
        for part, truth in zip(
            logits[scored].split(rows), targets[scored].split(rows), strict=True
        ):
            part = part.float()
            self.nats += float(F.cross_entropy(part, truth, reduction="sum"))
            self.right += int((part.argmax(-1) == truth).sum())
            self.count += len(truth)


class Language(Task):
    """Text without labels. The end mark is also what stands before a fresh start."""

    name: ClassVar[str] = "language"
    pattern: ClassVar[str] = "language model"
    metric: ClassVar[str] = "loss"
    measures: ClassVar[dict[str, bool]] = {
        "loss": DOWN,
        "perplexity": DOWN,
        "bits_per_byte": DOWN,
        "accuracy": UP,
    }

    def __init__(self, tokenizer: Tokenizer, text: tuple[str, ...]) -> None:
        self.tokenizer = tokenizer
        self.text = text

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the vocabulary."""
        if isinstance(data, Document):
            texts = [data.text]
        else:
            places = locate(data, schema.text, data.columns)
            texts = [
                str(row[i]) for row in data.rows for i in places if row[i] is not None
            ]
        config = recipe.data
        kind = config.tokenizer or "chars"
        return cls(
            Tokenizer.fit(kind, texts, config.vocabulary, config.min_count), schema.text
        )

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, self.text)

    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[TokenStream, list[DataError]]:
        """Encode a text, or rows of texts; see the base class."""
        if isinstance(data, Document):
            tokens = self.tokenizer.encode_array(data.text)
            unknown = int((tokens == self.tokenizer.unk_id).sum())
            return TokenStream(tokens, len(data.text.encode()), unknown), []
        schema = schema or self.schema
        skipped = list(data.skipped)
        if not schema.text:
            raise DataError(
                "this run was trained on plain text; name the column with data.text",
                data.path,
            )
        field = Text(schema.text, self.tokenizer, None)
        places = locate(data, schema.text, self.columns)
        texts = []
        for row, line in zip(data.rows, data.lines, strict=True):
            try:
                texts.append(field.check([row[i] for i in places]))
            except InvalidCell as error:
                if on_error != "skip":
                    raise invalid_row(error, *data.position(line)) from None
                skipped.append(invalid_row(error, *data.position(line)))
        flat = [token for ids in field.encode(texts) for token in ids]
        size = sum(len(text.encode()) for row in texts for text in row)
        return TokenStream(
            np.array(flat, dtype=np.int32), size, self.tokenizer.unknown(flat)
        ), skipped

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a language model; a layer of limited reach reads one training window."""
        config = recipe.model
        embedding = build_embedding(self.tokenizer.size, config)
        settings = with_context(recipe.layer, config, recipe.training.window)
        layer = build_layer(recipe.layer, settings, config.embedding)
        try:
            return LanguageModel(
                embedding, layer, self.tokenizer.size, config.head_dropout, config.tie
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
        """Return carried lanes, or independent windows where the reach is limited."""
        assert isinstance(model, LanguageModel)
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

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, examples: TokenStream, place: ComputeDevice
    ) -> Evaluation:
        """Score every token once.

        A layer of unlimited reach reads the text in lanes side by side, each after the mark that
        texts begin with and ``WARM`` tokens of what precedes it; where that says something else
        than one pass, by more than ``TOLERANCE`` nats a token, it reads in one pass. One of limited
        reach reads windows of its reach that overlap by half, and only the second half is scored.
        ``loss`` is in nats a token, ``bits_per_byte`` over the UTF-8 bytes of the text,
        ``accuracy`` the share of tokens the model would have guessed.
        """
        assert isinstance(model, LanguageModel)
        tokens = torch.from_numpy(examples.tokens[:].astype(np.int64))
        if not len(tokens):
            raise DataError("there is no text to score", "data")
        score = _score if model.context is None else _windows
        total = score(model, tokens, self.tokenizer.eos_id, place)
        loss = total.nats / total.count
        scores = {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "bits_per_byte": total.nats / math.log(2) / max(1, examples.size),
            "accuracy": total.right / total.count,
        }
        return Evaluation(scores)

    def generate(
        self,
        model: nn.Module,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling,
        *,
        seed: int | None = None,
        stop: Sequence[str] = (),
        device: torch.device | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> Iterator[str]:
        """Yield text that goes on from ``prompt``, in whole characters, as it is made."""
        assert isinstance(model, LanguageModel)
        end = self.tokenizer.eos_id
        start = [end, *self.tokenizer.encode(nfc(prompt))]
        banned = [self.tokenizer.pad_id, self.tokenizer.unk_id, self.tokenizer.bos_id]
        tokens = generate(
            model.stepper(),
            start,
            max_new_tokens,
            sampling,
            seed=seed,
            ends=[end],
            banned=banned,
            device=device,
            notice=notice,
            mark=end,
        )
        return until(self._pieces(tokens), stop)

    def _pieces(self, tokens: Iterator[int]) -> Iterator[str]:
        stream = self.tokenizer.stream()
        for token in tokens:
            piece = stream.feed(token)
            if piece:
                yield piece
        rest = stream.finish()
        if rest:
            yield rest

    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Refuse: a language model writes on instead of answering."""
        call = either("`unrolled generate RUN --prompt TEXT`", "run.generate(prompt)")
        raise UsageError(f"this run is a language model: use {call}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"text": list(self.text)}

    def save(self, folder: Path) -> None:
        """Write the vocabulary."""
        digests.replace(folder, TOKENIZER, self.tokenizer.save)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        return cls(Tokenizer.load(folder / TOKENIZER), tuple(values["text"]))


def _score(
    model: LanguageModel, tokens: Tensor, start: int, place: ComputeDevice
) -> Sum:
    """Score a text read in one pass, or in lanes where they say the same."""
    count = max(1, min(64, len(tokens) // LANE))
    if count > 1:
        total, joints = _lanes(model, tokens, start, place, count)
        if joints <= TOLERANCE:
            return total
    return _lanes(model, tokens, start, place, 1)[0]


def _lanes(
    model: LanguageModel, tokens: Tensor, start: int, place: ComputeDevice, count: int
) -> tuple[Sum, float]:
    """Score a text read in lanes side by side, the state carried along each.

    A lane reads ``WARM`` tokens of what stands before it unscored, after the mark that every text
    begins with. What it says of its own first tokens is then compared with what the lane before
    it would have said there, reading on: by so much a token the lanes differ from one pass.

    Returns:
        What was scored, and by how much the lanes differ from one pass in their first ``CHUNK``
        tokens, in nats a token: the mean over lanes.
    """
    size = len(tokens)
    total = Sum()
    length = -(-size // count)
    begins = torch.arange(count) * length
    before = torch.cat(
        [torch.tensor([start]), tokens]
    )  # before[p] stands before tokens[p]

    def inputs(rows: Tensor, at: int, end: int) -> Tensor:
        positions = rows[:, None] + torch.arange(at, end)
        return before[positions.clamp(max=size)].to(place.device)

    def known(rows: Tensor, at: int, end: int) -> tuple[Tensor, Tensor]:
        """Return the tokens at these positions, and which of them are of the lane's own part."""
        positions = rows[:, None] + torch.arange(at, end)
        own = positions < torch.clamp(rows[:, None] + length, max=size)
        return tokens[positions.clamp(max=size - 1)].to(place.device), own.to(
            place.device
        )

    state: State = model.initial_state(1)
    if count > 1:
        # the first lane starts fresh; the others first read what stands before them
        warm: State | None = None
        for at in range(-WARM, 0, CHUNK):
            read = inputs(begins[1:], at, at + CHUNK)
            with place.autocast():
                warm = model.read(
                    begin_with(read, start) if warm is None else read, warm
                )[1]
        assert warm is not None
        state = type(state).join([state, warm])
    chunk = max(1, min(CHUNK, SCORED // (count * model.head.out_features)))
    alone = torch.empty(0)
    for at in range(0, length, chunk):
        end = min(at + chunk, length)
        with place.autocast():
            scores, state = model(inputs(begins, at, end), state)
        targets, own = known(begins, at, end)
        total.add(scores, targets, own)
        if at == 0 and count > 1:
            alone = _nats(scores[1:], targets[1:], own[1:])
    if count == 1:
        return total, 0.0
    # the end of each lane but the last is where the next one begins
    handed = state.reorder(torch.arange(count - 1, device=place.device))
    end = min(chunk, length)
    with place.autocast():
        scores, _ = model(inputs(begins[1:], 0, end), handed)
    reading_on = _nats(scores, *known(begins[1:], 0, end))
    return total, float((alone - reading_on).abs().mean())


def _nats(scores: Tensor, targets: Tensor, own: Tensor) -> Tensor:
    """Return the mean cross entropy of each row (B,) of scores (B, T, V), where ``own`` (B, T)."""
    losses = F.cross_entropy(scores.transpose(1, 2).float(), targets, reduction="none")
    return (losses * own).sum(1) / own.sum(1).clamp(min=1)


def _windows(
    model: LanguageModel, tokens: Tensor, start: int, place: ComputeDevice
) -> Sum:
    """Score a text in overlapping windows of the model's context."""
    assert model.context is not None
    size = len(tokens)
    total = Sum()
    width = min(model.context, size)
    fresh = max(1, width // 2)  # tokens that each window after the first scores
    begins = torch.arange(0, max(1, size - width + fresh), fresh)
    shifted = torch.cat([torch.tensor([start]), tokens])
    for rows in begins.split(
        max(1, min(32, SCORED // (width * model.head.out_features)))
    ):
        places = rows[:, None] + torch.arange(width)
        inputs = begin_with(shifted[places.clamp(max=size - 1)], start)
        first = rows == 0
        scored = (places < size) & (
            first[:, None] | (torch.arange(width) >= width - fresh)
        )
        with place.autocast():
            logits, _ = model(inputs.to(place.device))
        targets = tokens[places.clamp(max=size - 1)]
        total.add(logits, targets.to(place.device), scored.to(place.device))
    return total
