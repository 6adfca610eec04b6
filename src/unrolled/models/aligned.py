"""Many to many, aligned: a label at every step (tagging)."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.nn import Layer, SpelledWords, TokenEmbedding
from unrolled.nn.stream import Stream
from unrolled.nn.streaming import open_model_stream


class Aligned(nn.Module):
    """Embedding, layer, and output weights at every step.

    Args:
        embedding: word ids to vectors, or words and their spelling; the identity where the steps
            are vectors already.
        layer: any layer, in one or both directions.
        outputs: number of classes.
        dropout: before the output weights.
    """

    def __init__(
        self,
        embedding: TokenEmbedding | SpelledWords | nn.Identity,
        layer: Layer,
        outputs: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layer = layer
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(layer.output_size, outputs)

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, *spelling: Tensor
    ) -> Tensor:
        """Return class scores (B, T, C) for word ids (B, T); ``spelling`` goes to the embedding."""
        steps = self.layer.read(self.embedding(tokens, *spelling), lengths)
        return self.head(self.dropout(steps))

    def stream(self, batch: int = 1, precision: str = "float32") -> Stream:
        """Return what reads one step (B,) or (B, D) and gives (B, C); see :meth:`Layer.stream`.

        Raises:
            ValueError: the layer reads both ways, or words are spelt.
        """
        return open_model_stream(self, Aligned, batch, precision)
