"""One input as a model reads it, step by step: what a look inside a model needs of its task.

Legend: T steps, D numbers a step, C characters, F features of other columns, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import UserError
from unrolled.data.batches import PAD, Batch, collate
from unrolled.data.examples import Examples
from unrolled.fields.base import InvalidCell
from unrolled.fields.text import SEPARATOR, Text
from unrolled.nn import NGrams

# what the tensors of ``Batch.extra`` hold; those of a row are told from what rows share
FEATURES = "features"
CHARACTERS = "characters"
CHARACTER_COUNT = "character count"
PIECES = "pieces"
PIECE_COUNTS = "piece counts"
SPELLING = "spelling"
WRITTEN = "written"
PIXELS = "pixels"
OF_A_ROW = (FEATURES, CHARACTERS, CHARACTER_COUNT, SPELLING, WRITTEN, PIXELS)
START = "⟨start⟩"
END = "⟨end⟩"
NOTHING = "⟨nothing⟩"

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class InputSteps:
    """One input as a model reads it.

    Attributes:
        names: what is read at each step, (T,), as a person would write it.
        batch: of this one row.
        roles: what each tensor of ``batch.extra`` holds.
        spans: the characters that each step is made of, (T,); empty where none are read.
        features: names of what stands at each step, or of other columns: (D,) or (F,).
        written: what a model that writes has written, piece by piece.
        numbers: what is read at each step, in the unit of the file, (T, D'), where that is numbers.
        columns: of these numbers, (D',).
        base: what is added to a value that is predicted.
        answer: the text that a model wrote, of one that writes.
        notice: what was left out of the input, if something was.
        grid: sides of the grid of an image whose places are the steps.
    """

    names: tuple[str, ...]
    batch: Batch
    roles: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    features: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    numbers: NDArray[np.float32] | None = None
    columns: tuple[str, ...] = ()
    base: float = 0.0
    answer: str = ""
    notice: str = ""
    grid: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def are_tokens(self) -> bool:
        """Whether what is read at a step is a token, and no numbers."""
        return self.batch.inputs.dtype == torch.int64

    def extra(self, role: str) -> Tensor | None:
        """Return the tensor of this role, if there is one."""
        if role not in self.roles:
            return None
        return self.batch.extra[self.roles.index(role)]

    def kept(self, indices: Sequence[int]) -> InputSteps:
        """Return the input with these steps of tokens alone, and the characters of these."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        left_out = sorted(set(range(len(self))) - set(indices))
        extras = list(self.batch.extra)
        for index, role in enumerate(self.roles):
            # features of the row itself have no steps
            if role == SPELLING or (role == FEATURES and extras[index].dim() == 3):
                extras[index] = extras[index][:, chosen]
        spans = self.spans
        characters = self.extra(CHARACTERS)
        if characters is not None and spans:
            keeps = ~np.isin(self.owners(characters.shape[1]), left_out)
            remaining = characters[:, torch.from_numpy(keeps)]
            extras[self.roles.index(CHARACTERS)] = remaining
            count = torch.tensor([remaining.shape[1]])
            extras[self.roles.index(CHARACTER_COUNT)] = count
            spans = ()
        batch = replace(
            self.batch,
            inputs=self.batch.inputs[:, chosen],
            lengths=None if self.batch.lengths is None else torch.tensor([len(chosen)]),
            extra=tuple(extras),
        )
        names = tuple(self.names[index] for index in indices)
        return replace(
            self,
            names=names,
            batch=batch,
            spans=spans,
        )

    def owners(self, count: int) -> NDArray[np.int64]:
        """Return the step that each of the first ``count`` characters is of, (C,).

        A character of no step, as a blank between words, is of the step after it.
        """
        owners = np.full(count, -1, dtype=np.int64)
        for step in reversed(range(len(self.spans))):
            begin, end = self.spans[step]
            owners[begin:end] = step
        owner = len(self) - 1
        for index in reversed(range(count)):
            if owners[index] < 0:
                owners[index] = owner
            owner = owners[index]
        return owners

    def without(self, first: int, end: int) -> InputSteps:
        """Return the input without some steps: tokens are left out, numbers are at their mean."""
        if self.are_tokens:
            return self.kept([*range(first), *range(end, len(self))])
        inputs = self.batch.inputs.clone()
        if inputs.dim() == 3:
            inputs[:, first:end] = 0
        else:
            inputs[:] = 0
        return replace(self, batch=replace(self.batch, inputs=inputs))

    def repeated(self, count: int) -> Batch:
        """Return a batch of ``count`` times the row."""
        extras = list(self.batch.extra)
        for index, role in enumerate(self.roles):
            if role in OF_A_ROW:
                shape = extras[index].shape[1:]
                extras[index] = extras[index].expand(count, *shape)
        batch = self.batch
        lengths = batch.lengths
        return replace(
            batch,
            inputs=batch.inputs.expand(count, *batch.inputs.shape[1:]),
            lengths=None if lengths is None else lengths.expand(count),
            extra=tuple(extras),
            rows=np.zeros(count, dtype=np.int64),
        )


def joined(rows: Sequence[InputSteps]) -> Batch:
    """Return rows of equally many steps, of one input changed in several ways, as one batch."""
    first = rows[0]
    extras: list[Tensor] = []
    for index, role in enumerate(first.roles):
        tensors = [row.batch.extra[index] for row in rows]
        if role in (PIECES, PIECE_COUNTS):
            extras.append(tensors[0])
            continue
        if role == CHARACTERS:
            longest = max(tensor.shape[1] for tensor in tensors)
            tensors = [F.pad(t, (0, longest - t.shape[1]), value=PAD) for t in tensors]
        extras.append(torch.cat(tensors))
    lengths = None
    if first.batch.lengths is not None:
        lengths = torch.full((len(rows),), len(first))
    inputs = torch.cat([row.batch.inputs for row in rows])
    indices = np.arange(len(rows))
    return replace(
        first.batch, inputs=inputs, lengths=lengths, extra=tuple(extras), rows=indices
    )


class StepReader(ABC):
    """What a look inside a model asks of its task.

    Attributes:
        at_each_step: whether there is an output at each step, of the input or of what is written.
        is_generative: whether the outputs are at the steps of what is written.
        are_values: whether an output is a value, and not a score of a label or token.
        labels_steps: whether each step of the input has a label of its own.
    """

    at_each_step: bool = False
    is_generative: bool = False
    are_values: bool = False
    labels_steps: bool = False

    @abstractmethod
    def read(self, model: nn.Module, cells: Sequence[Any]) -> InputSteps:
        """Return an input, given by its cells, as the model reads it.

        Raises:
            UserError: it cannot be read, or there is nothing to read.
        """

    @abstractmethod
    def layers(self, model: nn.Module) -> dict[nn.Module, str]:
        """Return the modules whose steps are recorded, and what they are called."""

    @abstractmethod
    def outcome(self, index: int) -> str:
        """Return what an output stands for: a label, a token."""

    def until(self, steps: InputSteps, end: int) -> InputSteps:
        """Return the input as if it ended before the step ``end``."""
        if steps.are_tokens:
            return steps.kept(range(end))
        batch = steps.batch
        if batch.inputs.dim() != 3:
            return steps
        lengths = None if batch.lengths is None else torch.tensor([end])
        cut = replace(batch, inputs=batch.inputs[:, :end], lengths=lengths)
        return replace(steps, names=steps.names[:end], batch=cut)

    def read_features(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what ``scores`` makes scores of: (B, T, .) or (B, .)."""
        features: Tensor = model(batch.inputs, batch.lengths, *batch.extra)
        return features

    def scores(self, model: nn.Module, features: Tensor) -> Tensor:
        """Return the scores (..., O) of some features."""
        return features

    def probabilities(self, scores: Tensor, steps: InputSteps) -> Tensor:
        """Return the probabilities (..., O), or values in the unit of the file."""
        return scores.softmax(-1)

    def embedding(self, model: nn.Module) -> nn.Module:
        """Return what turns the input into vectors, or hands on its numbers."""
        module: Any = model
        embedding: nn.Module = module.embedding
        return embedding

    def show(self, value: float) -> str:
        """Return a value that is predicted, as it is shown."""
        return f"{value:.6g}"

    def ngrams(self, model: nn.Module) -> NGrams | None:
        """Return what adds to the scores by itself what the characters say, where it does."""
        return None


def first_batch(examples: Examples) -> Batch:
    """Return the one example as a batch, whose steps are all real."""
    return collate(examples, np.array([0]))


def text_steps(field: Text, cells: Sequence[Any], examples: Examples) -> InputSteps:
    """Return the steps of texts (one column or more) that ``examples`` holds encoded.

    Raises:
        UserError: all texts are empty.
    """
    texts = field.check(cells)
    if not any(text.strip() for text in texts):
        raise UserError("the text is empty: give one with something to read")
    names: list[str] = []
    spans: list[Span] = []
    offset = 0
    batch = first_batch(examples)
    ids = batch.inputs[0].tolist()
    notice = ""
    for text in texts:
        text_spans = field.tokenizer.spans(text)
        most = None if field.max_tokens is None else field.max_tokens - 1
        if most is not None and len(text_spans) > most:
            notice = f"the first {most:,} of {len(text_spans):,} tokens are read (data.max_tokens)"
            text_spans = text_spans[:most]
        own_ids = ids[len(names) : len(names) + len(text_spans)]
        names += token_names(
            field,
            text,
            own_ids,
            text_spans,
        )
        spans += [(begin + offset, end + offset) for begin, end in text_spans]
        offset += len(text)
        names.append(END)
        # with what parts it from the next text
        spans.append((offset, offset + len(SEPARATOR)))
        offset += len(SEPARATOR)
    is_read = batch.extra and field.characters
    return InputSteps(
        tuple(names), batch, spans=tuple(spans) if is_read else (), notice=notice
    )


def token_names(
    field: Text, text: str, ids: Sequence[int], spans: Sequence[Span]
) -> list[str]:
    """Return tokens as the text has them; one of several that share a character as it is known."""
    names: list[str] = []
    for index, (id, (begin, end)) in enumerate(
        zip(
            ids,
            spans,
            strict=True,
        )
    ):
        shares = any(
            spans[other][0] == begin
            for other in (index - 1, index + 1)
            if 0 <= other < len(spans)
        )
        is_known = shares or begin == end
        names.append(field.tokenizer.token(id) if is_known else text[begin:end])
    return names


def checked(field: Any, cells: Sequence[Any]) -> Any:
    """Return what a field reads of cells that are to be answered.

    Raises:
        UserError: a cell does not fit.
    """
    try:
        return field.check_to_predict(cells)
    except InvalidCell as error:
        raise UserError(str(error)) from None
