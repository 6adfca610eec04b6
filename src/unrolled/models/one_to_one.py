"""One to one: a vector in, a value or label out; the network without memory.

With no hidden layer it is linear regression, and with class scores logistic or softmax regression.
"""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.nn import Layer, ScaledNumbers


class OneToOne(nn.Module):
    """A layer stepped once over a vector, and output weights.

    Args:
        layer: any layer; ``none`` is the feed-forward network.
        outputs: 1 for a value, else the number of classes.
        dropout: before the output weights.
        embedding: what makes a vector of an input that is none, as of an image.
    """

    def __init__(
        self,
        layer: Layer,
        outputs: int,
        dropout: float = 0.0,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embedding = ScaledNumbers() if embedding is None else embedding
        self.layer = layer
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(layer.output_size, outputs)

    def forward(
        self,
        vectors: Tensor,
        lengths: Tensor | None = None,
        owners: Tensor | None = None,
    ) -> Tensor:
        """Return outputs (B, O) for vectors (B, D), or for what the embedding reads.

        Args:
            vectors: one a row, or of several rows one.
            lengths: not looked at: a vector has one step.
            owners: which of them each row has (B,); None where there are as many.
        """
        read = self.embedding(vectors)
        if owners is not None:
            read = read[owners]
        steps = self.layer.read(read.unsqueeze(1), None)
        return self.head(self.dropout(steps.squeeze(1)))
