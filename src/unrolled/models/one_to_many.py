"""One to many: an image, a label or a vector in, a sequence out (captions, names).

Shapes: S sources, M places of a source, R rows that are written, C features of a place.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from unrolled.models.encoder_decoder import EncoderDecoder
from unrolled.nn import Attention, RecurrentDecoder, TokenEmbedding
from unrolled.nn.convolution import BatchNorm
from unrolled.nn.memory import DecoderState


class OneToMany(EncoderDecoder):
    """What makes a memory of a source at once, and a decoder that begins from it.

    Every feature of the source is scaled to mean 0 and deviation 1 first (Ioffe and Szegedy 2015).

    With a decoder that attends to nothing it is Show and Tell (Vinyals et al. 2015), whose sequence
    begins from one vector; with attention over the places of an image Show, Attend and Tell (Xu et
    al. 2015).

    Args:
        source: a module that makes of sources vectors (S, M, C), and says C as ``output_size``.
        width: of the memory that the decoder was built for.
        target, decoder, outputs, dropout, tie, bias: see :class:`EncoderDecoder`.

    Raises:
        ValueError: the widths do not allow ``tie``.
    """

    def __init__(
        self,
        source: nn.Module,
        width: int,
        target: TokenEmbedding,
        decoder: Attention | RecurrentDecoder,
        outputs: int,
        dropout: float = 0.0,
        tie: bool = False,
        bias: bool = True,
    ) -> None:
        size: int = source.output_size  # type: ignore[assignment]
        encoder = nn.Linear(size, width)
        super().__init__(source, encoder, target, decoder, outputs, dropout, tie, bias)
        # what is the same in all images drowns what tells them apart: features of ReLUs most
        self.norm = BatchNorm(size)

    def plain(self) -> type[EncoderDecoder]:
        """Return the class whose steps the native core knows."""
        return OneToMany

    def memory(self, source: Tensor) -> Tensor:
        """Return what the decoder looks at (S, M, width) of sources."""
        features = self.source(source)
        rows = features.flatten(0, 1)[:, :, None, None]
        normed = self.norm(rows).view_as(features)
        memory: Tensor = self.encoder(self.dropout(normed))
        return memory

    def start(self, source: Tensor, lengths: Tensor, *extra: Tensor) -> DecoderState:
        """Read sources; return the state before the first step.

        Args:
            source: S of them, as ``source`` reads them.
            lengths: (S,), not looked at: every place of a source is real.
            extra: the source that each row is written for (R,), where these are several; else
                each source has one row.
        """
        memory = self.memory(source)
        positions = torch.full((len(memory),), memory.shape[1], device=memory.device)
        state = self.decoder.attend(memory, positions)
        if not extra:
            return state
        state = state.reorder(extra[0])
        if state.memory.rows_per_source:
            return state  # the rows of a source read the one copy of it
        return replace(state, memory=state.memory.by_row())
