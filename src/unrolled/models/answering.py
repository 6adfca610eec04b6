"""An image and a question in, an answer out that is written piece by piece.

Shapes: R questions, I images, T pieces of a question, M places of an image's grid, C features of a
place, W width of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.models.asking import FiLM
from unrolled.models.encoder_decoder import EncoderDecoder
from unrolled.nn import (
    Attention,
    Layer,
    Pooling,
    RecurrentDecoder,
    TokenEmbedding,
)
from unrolled.nn.convolution import BatchNorm
from unrolled.nn.image_encoder import ImageEncoder
from unrolled.nn.memory import DecoderState


@dataclass(frozen=True, slots=True)
class QuestionReader:
    """What reads a question.

    Attributes:
        embedding: of its pieces.
        layer: any layer over them, in one or both directions.
        pooling: how its steps become one vector.
    """

    embedding: TokenEmbedding
    layer: Layer
    pooling: Pooling


class Answering(EncoderDecoder):
    """What reads an image and a question, and a decoder that looks at both as it writes.

    Every place of the image is scaled and shifted by the question (FiLM, Perez et al. 2018), and
    stands in the memory before the steps of the question, so that attention finds what is asked
    for. A decoder without attention begins from the mean of both.

    Args:
        source: what makes a grid of an image.
        question: what reads a question.
        width: W, that the decoder was built for.
        target, decoder, outputs, dropout, tie, bias: see :class:`EncoderDecoder`.

    Raises:
        ValueError: the widths do not allow ``tie``.
    """

    def __init__(
        self,
        source: ImageEncoder,
        question: QuestionReader,
        width: int,
        target: TokenEmbedding,
        decoder: Attention | RecurrentDecoder,
        outputs: int,
        dropout: float = 0.0,
        tie: bool = False,
        bias: bool = True,
    ) -> None:
        features = source.output_size
        size = question.pooling.output_size
        encoder = FiLM(features, size, width)
        super().__init__(source, encoder, target, decoder, outputs, dropout, tie, bias)
        # what is the same in all images drowns what tells them apart: features of ReLUs most
        self.norm = BatchNorm(features)
        self.question_embedding = question.embedding
        self.question_layer = question.layer
        self.pooling = question.pooling
        self.question_memory = nn.Linear(question.layer.output_size, width)

    @property
    def embedding(self) -> nn.Module:
        """What turns the pieces of questions into vectors."""
        return self.question_embedding

    def plain(self) -> type[EncoderDecoder]:
        """Return the class whose steps the native core knows."""
        return Answering

    def start(self, source: Tensor, lengths: Tensor, *extra: Tensor) -> DecoderState:
        """Read questions and images; return the state before the first step, a row a question.

        Args:
            source: ids of questions (R, T).
            lengths: real ones of each (R,).
            extra: the images (I, 3, H, W) as bytes, or their features (I, M, C), and, where these
                are not as many as questions, the image that each question is about (R,).
        """
        images, *owners = extra
        grid = self.source(images)
        rows = grid.flatten(0, 1)[:, :, None, None]
        modulation = cast(FiLM, self.encoder)
        grid = modulation.prepare(self.norm(rows).view_as(grid))
        if owners:
            grid = grid[owners[0]]
        steps = self.question_layer.read(self.question_embedding(source), lengths)
        question = self.pooling(steps, lengths)
        positions = modulation.modulated(grid, question)
        question_steps = self.question_memory(steps)
        # padding stands at the end, where lengths tell it
        memory = self.dropout(torch.cat([positions, question_steps], 1))
        return self.decoder.attend(memory, lengths + positions.shape[1])
