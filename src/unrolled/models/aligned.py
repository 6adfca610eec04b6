"""Many to many, aligned: a label at every step (tagging)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.nn import Layer, SpelledWords, TokenEmbedding
from unrolled.nn.image_encoder import PooledImages
from unrolled.nn.stream import Stream
from unrolled.nn.streaming import open_model_stream


class Aligned(nn.Module):
    """Embedding, layer, and output weights at every step.

    Args:
        embedding: word ids to vectors, or words and their spelling, or frames of video; the
            identity where the steps are vectors already.
        layer: any layer, in one or both directions.
        outputs: number of classes.
        dropout: before the output weights.
        features: how many features of other columns stand next to the vector of each step, D.
    """

    def __init__(
        self,
        embedding: TokenEmbedding | SpelledWords | PooledImages | nn.Identity,
        layer: Layer,
        outputs: int,
        dropout: float = 0.0,
        features: int = 0,
    ) -> None:
        super().__init__()
        self.features = features
        self.embedding = embedding
        self.layer = layer
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(layer.output_size, outputs)

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, *extra: Tensor
    ) -> Tensor:
        """Return class scores (B, T, C).

        Args:
            tokens: word ids (B, T), vectors (B, T, D), or frames (B, T, C, H, W).
            lengths: real steps (B,); None when all are.
            extra: features of other columns (B, T, D), where these are read; what is left goes to
                the embedding: the spelling of words.
        """
        if getattr(self.embedding, "reads_lengths", False):
            read = self.embedding(tokens, lengths)
        elif not self.features:
            read = self.embedding(tokens, *extra)
        else:
            features, *spelling = extra
            vectors = self.embedding(tokens, *spelling)
            read = torch.cat([vectors, features.to(vectors.dtype)], -1)
        return self.of_vectors(read, lengths)

    def of_vectors(
        self,
        vectors: Tensor,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return class scores (B, T, C) of what the embedding made of steps (B, T, D)."""
        steps = self.layer.read(vectors, lengths)
        return self.head(self.dropout(steps))

    def stream(self, batch: int = 1, precision: str = "float32") -> Stream:
        """Return what reads one step (B,) or (B, D) and gives (B, C); see :meth:`Layer.stream`.

        Raises:
            ValueError: the layer reads both ways, words are spelt, or other columns stand next to
                them.
        """
        if self.features:
            raise ValueError(
                "expected a model that reads one id or vector a step, got one of "
                f"{self.features} features of other columns beside it; stream its layer, and give "
                "it the vectors"
            )
        return open_model_stream(self, Aligned, batch, precision)
