"""Many to one: a sequence in, one label or value out (sentiment, intent)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrolled.nn import Forms, Layer, NGrams, Pooling, TokenEmbedding
from unrolled.nn.forms import unlike
from unrolled.nn.stream import Stream
from unrolled.nn.streaming import open_model_stream


class ManyToOne(Forms):
    """Embedding, layer, pooling over the real steps, output weights.

    Args:
        embedding: token ids to vectors; the identity where the steps are vectors already.
        layer: any layer, in one or both directions.
        pooling: how the steps become one vector.
        outputs: 1 for a value, else the number of classes.
        dropout: before the output weights.
        pretrain: also hold the weights that ``recover`` needs.
        ngrams: a linear model over n-grams whose outputs are added.
        columns: a layer that reads the features of other columns; what it says, and the features
            themselves, stand next to the pooled vector before the output weights.
        features: how many features of other columns there are, D.

    Raises:
        ValueError: ``pretrain`` with a layer whose outputs mix both directions.
    """

    forms = ("recover",)

    def __init__(
        self,
        embedding: TokenEmbedding | nn.Identity,
        layer: Layer,
        pooling: Pooling,
        outputs: int,
        dropout: float = 0.0,
        pretrain: bool = False,
        ngrams: NGrams | None = None,
        columns: Layer | None = None,
        features: int = 0,
    ) -> None:
        super().__init__()
        if pretrain and not (layer.causal or layer.reverse_size):
            raise ValueError(
                "training.pretrain_epochs needs a layer whose directions are told apart: rnn, lstm "
                "or gru, or model.bidirectional=false"
            )
        self.embedding = embedding
        self.layer = layer
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.columns = columns
        joined = features + (columns.output_size if columns is not None else 0)
        self.head = nn.Linear(pooling.output_size + joined, outputs)
        self.ngrams = ngrams
        self.recovery: nn.Linear | None = None
        if pretrain:
            assert isinstance(embedding, TokenEmbedding)
            self.recovery = nn.Linear(layer.output_size, embedding.width)
            self.recovery_bias = nn.Parameter(torch.zeros(embedding.size))

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor | None = None,
        *extra: Tensor,
    ) -> Tensor:
        """Return outputs (B, O).

        Args:
            tokens: ids (B, T), or vectors (B, T, D).
            lengths: real steps (B,); None when all are.
            extra: the features of other columns (B, D), where ``columns`` reads them; then the code
                points of the texts (B, C) and how many of them are real (B,), where ``ngrams``
                does.
        """
        steps = self.layer.read(self.embedding(tokens), lengths)
        pooled = self.dropout(self.pooling(steps, lengths))
        if self.columns is not None:
            features, *rest = extra
            extra = tuple(rest)
            said = self.columns.read(features.unsqueeze(1), None).squeeze(1)
            pooled = torch.cat([pooled, said, features.to(pooled.dtype)], -1)
        outputs = self.head(pooled)
        return outputs if self.ngrams is None else outputs + self.ngrams(*extra)

    def stream(self, batch: int = 1, precision: str = "float32") -> Stream:
        """Return what reads one step (B,) or (B, D) and gives the outputs if the rows ended there.

        See :meth:`Layer.stream`.

        Raises:
            ValueError: the answer does not follow from the last step alone.
        """
        changed = unlike(self.pooling, Pooling)
        if changed:
            raise ValueError(
                f"expected a plain Pooling, which a stream leaves out, got {changed}; stream "
                "the layer of the model"
            )
        beside = " and n-grams" if self.ngrams is not None else ""
        if self.columns is not None:
            beside += " and other columns"
        if self.pooling.kind != "last" or beside:
            raise ValueError(
                "expected a model that answers from the last step, got pooling "
                f"{self.pooling.kind!r}{beside}; stream its layer"
            )
        return open_model_stream(self, ManyToOne, batch, precision)

    def recover(self, tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        """Guess every real token from its neighbours alone.

        What was read before a token and, of a layer in both directions, what was read after it,
        is projected and compared with the embeddings (Peters et al. 2018, section 3.1, with one
        softmax for both directions).

        Args:
            tokens: ids (B, T).
            lengths: real steps (B,).
            candidates: ids (K,) to choose among.

        Returns:
            Scores (M, K) of the M real tokens, row by row.
        """
        assert self.recovery is not None
        assert isinstance(self.embedding, TokenEmbedding)
        steps = self.layer.read(self.embedding(tokens), lengths)
        split = self.layer.output_size - self.layer.reverse_size
        edge = torch.zeros_like(steps[:, :1])
        before = torch.cat([edge, steps[:, :-1]], 1)[..., :split]
        after = torch.cat([steps[:, 1:], edge], 1)[..., split:]
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        known = self.recovery(self.dropout(torch.cat([before, after], -1)[real]))
        return (
            known @ self.embedding.weight[candidates].T + self.recovery_bias[candidates]
        )
