"""Many to one: a sequence in, one label or value out (sentiment, intent)."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.nn import Layer, Pooling, TokenEmbedding


class ManyToOne(nn.Module):
    """Embedding, layer, pooling over the real steps, output weights.

    Args:
        embedding: token ids to vectors.
        layer: any layer, in one or both directions.
        pooling: how the steps become one vector.
        outputs: 1 for a value, else the number of classes.
        dropout: before the output weights.
    """

    def __init__(
        self,
        embedding: TokenEmbedding,
        layer: Layer,
        pooling: Pooling,
        outputs: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding, self.layer, self.pooling = embedding, layer, pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(pooling.output_size, outputs)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return outputs (B, O) for token ids (B, T) with ``lengths`` (B,) real steps."""
        steps = self.layer.read(self.embedding(tokens), lengths)
        return self.head(self.dropout(self.pooling(steps, lengths)))
