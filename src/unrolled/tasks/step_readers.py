"""How the inputs of each task are read step by step; see ``tasks/steps.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import Batch
from unrolled.data.lines import nfc
from unrolled.fields.base import InvalidCell
from unrolled.fields.clips import Clips
from unrolled.fields.conditions import Conditions
from unrolled.fields.frames import Frames
from unrolled.fields.image import Image
from unrolled.fields.number import Number
from unrolled.fields.text import Text
from unrolled.fields.text_and_columns import TextAndColumns
from unrolled.fields.vector import Vector
from unrolled.fields.words import Words
from unrolled.fields.words_and_columns import WordsAndColumns
from unrolled.models import (
    Aligned,
    Answering,
    Asking,
    EncoderDecoder,
    LanguageModel,
    ManyToOne,
    OneToOne,
)
from unrolled.nn import ConditionEncoder, Layer, NGrams
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.tasks.steps import (
    CHARACTER_COUNT,
    CHARACTERS,
    END,
    FEATURES,
    PIECE_COUNTS,
    PIECES,
    PIXELS,
    SPELLING,
    START,
    WRITTEN,
    InputSteps,
    StepReader,
    checked,
    first_batch,
    text_steps,
    token_names,
)
from unrolled.text.tokenizers import Tokenizer

ROW = np.array([0])
OF_CHARACTERS = (CHARACTERS, CHARACTER_COUNT)
OF_SPELLING = (PIECES, PIECE_COUNTS, SPELLING)

# the text that a model writes for an input of some cells, and its ids with the end mark
Write = Callable[[nn.Module, Sequence[Any]], tuple[str, Sequence[int]]]


def read_input(field: Any, cells: Sequence[Any]) -> InputSteps:
    """Return the steps of an input, given by its cells, whatever field reads them.

    Raises:
        UserError: a cell does not fit, or a text is empty.
    """
    value = checked(
        field,
        cells,
    )
    examples = field.examples(
        [value],
        ROW,
    )
    if isinstance(field, Text):
        steps = text_steps(field, cells, examples)
        return replace(steps, roles=OF_CHARACTERS if field.characters else ())
    if isinstance(field, TextAndColumns):
        count = len(field.text.columns)
        steps = text_steps(field.text, cells[:count], examples)
        roles = (FEATURES, *(OF_CHARACTERS if field.text.characters else ()))
        return replace(steps, roles=roles, features=field.vector.feature_columns)
    if isinstance(field, Words):
        roles = () if field.tokenizer is None else OF_SPELLING
        return InputSteps(tuple(value), first_batch(examples), roles)
    if isinstance(field, WordsAndColumns):
        spelling = () if field.tokenizer is None else OF_SPELLING
        return InputSteps(
            tuple(value[0]),
            first_batch(examples),
            (FEATURES, *spelling),
            features=field.vector.feature_columns,
        )
    batch = first_batch(examples)
    if isinstance(field, Image):
        return InputSteps((value.name,), batch)
    if isinstance(field, Vector):
        return InputSteps(("row",), batch, features=field.feature_columns)
    if isinstance(field, Conditions):
        ones = torch.ones(1, dtype=torch.int64)
        return InputSteps(
            (field.describe(cells),),
            replace(batch, lengths=ones),
            features=field.parts,
        )
    names = tuple(str(step + 1) for step in range(batch.inputs.shape[1]))
    if isinstance(field, Clips):
        return InputSteps(names, batch)
    return _of_numbers(field, names, batch)


def _of_numbers(field: Frames, names: tuple[str, ...], batch: Batch) -> InputSteps:
    """Return the steps of a sequence of numbers."""
    size = len(field.means)
    scaled = batch.inputs[0, :, :size].numpy()
    return InputSteps(
        names,
        batch,
        features=field.feature_columns,
        numbers=(scaled * field.deviations + field.means).astype(np.float32),
        columns=field.feature_columns[:size],
    )


@dataclass(frozen=True)
class LabelledSteps(StepReader):
    """A label or a value for a whole input.

    Attributes:
        field: of the input.
        names: of the labels; none where the answer is a value.
        output: the field of a value.
        base: the column whose value at the last step is added; without one nothing is.
    """

    field: Any
    names: tuple[str, ...]
    output: Number | None = None
    base: str = ""

    @property
    def are_values(self) -> bool:  # type: ignore[override]
        """Whether a value is answered."""
        return not self.names

    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        return self._with_base(read_input(self.field, cells))

    def _with_base(self, steps: InputSteps) -> InputSteps:
        """Return the input with the value that a change from its last step is added to."""
        if not self.base or steps.numbers is None:
            return steps
        last = steps.numbers[len(steps) - 1]
        return replace(steps, base=float(last[steps.columns.index(self.base)]))

    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        known = cast(ManyToOne | OneToOne, model)
        return known.layer.observed("layer")

    def outcome(self, index: int) -> str:
        return self.names[index] if self.names else "value"

    def until(self, steps: InputSteps, end: int) -> InputSteps:
        if not steps.are_tokens:
            return self._with_base(super().until(steps, end))
        # with the end mark, which every text has that was learnt from
        last = len(steps) - 1
        indices = range(end) if end > last else [*range(end), last]
        return steps.kept(indices)

    def probabilities(self, scores: Tensor, steps: InputSteps) -> Tensor:
        if self.output is None:
            return scores.softmax(-1)
        return scores * self.output.deviation + (self.output.mean + steps.base)

    def show(self, value: float) -> str:
        assert self.output is not None
        return self.output.show(value)

    def ngrams(self, model: nn.Module) -> NGrams | None:
        return model.ngrams if isinstance(model, ManyToOne) else None


@dataclass(frozen=True)
class QuestionSteps(StepReader):
    """An answer to a question about an image; the steps are those of the question.

    Attributes:
        image, question: the fields of both.
        names: of the answers.
        prepare: makes of a question the text that is read.
    """

    image: Image
    question: Text
    names: tuple[str, ...]
    prepare: Callable[[Any], str]

    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        shown = checked(self.image, cells[:1])
        texts = [self.prepare(cells[1])]
        value = checked(self.question, texts)
        steps = text_steps(self.question, texts, self.question.examples([value], ROW))
        try:
            pixels = self.image.examples([shown], ROW).images
        except InvalidCell as error:
            raise UserError(str(error)) from None
        assert pixels is not None
        batch = replace(steps.batch, extra=(pixels.take(ROW),))
        return replace(steps, batch=batch, roles=(PIXELS,))

    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        return cast(Asking, model).layer.observed("layer")

    def outcome(self, index: int) -> str:
        return self.names[index]


@dataclass(frozen=True)
class TaggedSteps(StepReader):
    """A label at every step."""

    field: Words | WordsAndColumns | Frames | Clips
    names: tuple[str, ...]
    at_each_step = True
    labels_steps = True

    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        return read_input(self.field, cells)

    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        return cast(Aligned, model).layer.observed("layer")

    def outcome(self, index: int) -> str:
        return self.names[index]


@dataclass(frozen=True)
class LanguageSteps(StepReader):
    """The next token at every step."""

    tokenizer: Tokenizer
    at_each_step = True

    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        text = nfc(str(cells[0]))
        if not text:
            raise UserError("the text is empty: give one with something to read")
        field = Text(("text",), self.tokenizer, None)
        spans = self.tokenizer.spans(text)
        ids = self.tokenizer.encode(text)
        names = [
            START,
            *token_names(
                field,
                text,
                ids,
                spans,
            ),
        ]
        ids = [self.tokenizer.start_id, *ids]
        context = cast(LanguageModel, model).context
        notice = ""
        if context is not None and len(ids) > context:
            notice = (
                f"the last {context:,} of {len(ids):,} tokens are read (model.context)"
            )
            ids = ids[-context:]
            names = names[-context:]
        batch = Batch(
            torch.tensor([ids]),
            None,
            None,
            ROW,
        )
        return InputSteps(tuple(names), batch, notice=notice)

    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        return cast(LanguageModel, model).layer.observed("layer")

    def outcome(self, index: int) -> str:
        if index in self.tokenizer.end_ids:
            return END
        return self.tokenizer.token(index).replace("▁", " ")

    def read_features(self, model: nn.Module, batch: Batch) -> Tensor:
        return cast(LanguageModel, model).read(batch.inputs)[0]

    def scores(self, model: nn.Module, features: Tensor) -> Tensor:
        scores: Tensor = cast(LanguageModel, model).head(features)
        return scores


@dataclass(frozen=True)
class WrittenSteps(StepReader):
    """A sequence that is written for another; the outputs are those of the written tokens.

    Attributes:
        field: of the source.
        names: of the tokens that are written.
        write: searches for the answer.
        before: makes of what is written (1, U) what the decoder reads before each of it.
        prepare: makes of the cells those that are read.
    """

    field: Text | Words | Image | Conditions
    names: Callable[[int], str]
    write: Write
    before: Callable[[Batch], Tensor]
    prepare: Callable[[Sequence[Any]], Sequence[Any]] = tuple
    at_each_step = True
    is_generative = True

    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        cells = self.prepare(cells)
        steps = read_input(self.field, cells)
        source = cast(EncoderDecoder, model).source
        if isinstance(source, ImageEncoder):
            steps = _on_grid(steps, source)
        if isinstance(source, ConditionEncoder):
            # every part has as many features
            width = source.output_size // len(steps.features)
            names = np.repeat(steps.features, width).tolist()
            steps = replace(steps, features=tuple(names))
        answer, ids = self.write(model, cells)
        batch = replace(steps.batch, targets=torch.tensor([list(ids)]))
        inputs = self.before(batch)
        batch = replace(batch, targets=None, extra=(inputs, *batch.extra))
        return replace(
            steps,
            batch=batch,
            roles=(WRITTEN, *steps.roles),
            written=tuple(self.names(id) for id in ids),
            answer=answer,
        )

    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        known = cast(EncoderDecoder, model)
        observed = known.decoder.observed("decoder")
        if isinstance(known.encoder, Layer):
            return known.encoder.observed("encoder") | observed
        return observed

    def outcome(self, index: int) -> str:
        return self.names(index)

    def until(self, steps: InputSteps, end: int) -> InputSteps:
        raise UsageError("what is written has an output at each step")

    def read_features(self, model: nn.Module, batch: Batch) -> Tensor:
        known = cast(EncoderDecoder, model)
        assert batch.lengths is not None
        return known.read(batch.inputs, batch.lengths, *batch.extra)

    def scores(self, model: nn.Module, features: Tensor) -> Tensor:
        scores: Tensor = cast(EncoderDecoder, model).head(features)
        return scores


@dataclass(frozen=True)
class AnswerSteps(WrittenSteps):
    """An answer that is written to a question about an image; the steps are the question's.

    Attributes:
        question: its field.
        learnt: makes of a question the text that is read.
    """

    question: Text = field(kw_only=True)
    learnt: Callable[[Any], str] = field(kw_only=True)

    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        image = cast(Image, self.field)
        of_question = QuestionSteps(image, self.question, (), self.learnt)
        steps = of_question.read(model, cells)
        source = cast(ImageEncoder, cast(Answering, model).source)
        pixels = steps.extra(PIXELS)
        assert pixels is not None
        answer, ids = self.write(model, cells)
        batch = replace(steps.batch, targets=torch.tensor([list(ids)]))
        inputs = self.before(batch)
        batch = replace(batch, targets=None, extra=(inputs, *batch.extra))
        return replace(
            steps,
            batch=batch,
            roles=(WRITTEN, *steps.roles),
            written=tuple(self.names(id) for id in ids),
            answer=answer,
            grid=source.grid(*pixels.shape[2:]),
        )

    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        known = cast(Answering, model)
        question = known.question_layer.observed("question")
        return question | known.decoder.observed("decoder")


def _on_grid(steps: InputSteps, source: ImageEncoder) -> InputSteps:
    """Return the steps of an image as the places of its grid, row by row."""
    height, width = source.grid(*steps.batch.inputs.shape[2:])
    names: list[str] = []
    for row in range(height):
        names += [f"{row + 1}:{column + 1}" for column in range(width)]
    return replace(steps, names=tuple(names), grid=(height, width))


def piece_names(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return what names the tokens that a model writes."""

    def name(id: int) -> str:
        if id == tokenizer.eos_id:
            return END
        return tokenizer.token(id).replace("▁", " ")

    return name
