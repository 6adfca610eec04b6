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
        self.head = nn.Linear(pooling.output_size, outputs)
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
        characters: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Return outputs (B, O).

        Args:
            tokens: ids (B, T), or vectors (B, T, D).
            lengths: real steps (B,); None when all are.
            characters: code points of the texts (B, C), which ``ngrams`` reads.
            counts: how many of them are real (B,).
        """
        steps = self.layer.read(self.embedding(tokens), lengths)
        outputs = self.head(self.dropout(self.pooling(steps, lengths)))
        if self.ngrams is None:
            return outputs
        assert characters is not None and counts is not None  # noqa: PT018
        return outputs + self.ngrams(characters, counts)

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
        if self.pooling.kind != "last" or self.ngrams is not None:
            raise ValueError(
                "expected a model that answers from the last step, got pooling "
                f"{self.pooling.kind!r}{' and n-grams' if self.ngrams else ''}; stream its layer"
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
