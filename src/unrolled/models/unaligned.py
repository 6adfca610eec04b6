"""Many to many, unaligned: an encoder reads a sequence, a decoder writes another.

Shapes: S sources, M steps of a source.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from unrolled.models.encoder_decoder import EncoderDecoder
from unrolled.nn import (
    Attention,
    Layer,
    RecurrentDecoder,
    SpelledWords,
    TokenEmbedding,
)
from unrolled.nn.memory import DecoderState


class Unaligned(EncoderDecoder):
    """Encoder and decoder, of any kinds, tied by the memory that the decoder looks at.

    Args:
        source: what turns sources into vectors.
        encoder: any layer, in one or both directions.
        target, decoder, outputs, dropout, tie, bias: see :class:`EncoderDecoder`.

    Raises:
        ValueError: the widths do not allow ``tie``.
    """

    def __init__(
        self,
        source: TokenEmbedding | SpelledWords | nn.Identity,
        encoder: Layer,
        target: TokenEmbedding,
        decoder: Attention | RecurrentDecoder,
        outputs: int,
        dropout: float = 0.0,
        tie: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(source, encoder, target, decoder, outputs, dropout, tie, bias)

    @property
    def limit(self) -> int | None:
        """The most tokens a source may have, its end mark included; None is no limit."""
        return self._layer.context

    @property
    def _layer(self) -> Layer:
        return cast(Layer, self.encoder)

    def plain(self) -> type[EncoderDecoder]:
        """Return the class whose steps the native core knows."""
        return Unaligned

    def start(self, source: Tensor, lengths: Tensor, *extra: Tensor) -> DecoderState:
        """Read sources; return the state before the first step, a row a source.

        Args:
            source: ids (S, M), padded at the right.
            lengths: real steps of each (S,).
            extra: what the source embedding reads beside ids.
        """
        memory = self._layer.read(self.source(source, *extra), lengths)
        return self.decoder.attend(memory, lengths)
