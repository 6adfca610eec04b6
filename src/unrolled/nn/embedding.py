"""Vectors for tokens.

Shapes: B rows, T steps, V entries of the vocabulary, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn.dropout import LockedDropout, check_probability


class ScaledNumbers(nn.Identity):
    """The first part of a model whose steps are vectors of numbers that its run has scaled.

    What the numbers are scaled by stands with the run's fields and not in the model. So a stream
    refuses it: rows as a file has them would be answered wrong, without a word.
    """


class TokenEmbedding(nn.Module):
    """A table of one vector for each token.

    Args:
        size: V.
        width: D.
        padding: the token whose vector is zero and stays so; None has none.
        dropout: variational, on the vectors' features: one mask a sequence.
        token_dropout: probability that an entry of the vocabulary is left out wherever it stands
            in the batch (Gal and Ghahramani 2016, section 4.2; Merity et al. 2018, section 4.3).
        std: spread of the first weights, drawn from a normal distribution; torch.nn draws with 1.
        scale: what vectors are multiplied with (Vaswani et al. 2017, section 3.4: sqrt(D)).

    Raises:
        ValueError: a size below 1, a padding token outside the table, no probability.
    """

    def __init__(
        self,
        size: int,
        width: int,
        padding: int | None = None,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        std: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if size < 1 or width < 1:
            raise ValueError(
                f"expected size and width of at least 1, got {size} and {width}"
            )
        if padding is not None and not 0 <= padding < size:
            raise ValueError(
                f"expected a padding token from 0 to {size - 1}, got {padding}; None has none"
            )
        check_probability("token_dropout", token_dropout)
        self.size = size
        self.width = width
        self.padding = padding
        self.token_dropout = token_dropout
        self.std = std
        self.scale = scale
        self.dropout = LockedDropout(dropout)
        self.weight = nn.Parameter(torch.empty(size, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew; that of padding is zero."""
        nn.init.normal_(self.weight, std=self.std)
        if self.padding is not None:
            with torch.no_grad():
                self.weight[self.padding].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Look the tokens up.

        Args:
            tokens: integers (B, T), or (B,) for one step.

        Returns:
            (B, T, D), or (B, D).

        Raises:
            ValueError: another shape.
        """
        if tokens.dim() not in (1, 2):
            raise ValueError(
                f"expected tokens of shape (batch, time) or (batch,), got {tuple(tokens.shape)}"
            )
        vectors = F.embedding(tokens, self.weight, self.padding)
        if self.training and self.token_dropout:
            # whole entries, so that a word cannot be read off its second occurrence
            kept = torch.ones(self.size, dtype=vectors.dtype, device=vectors.device)
            kept = F.dropout(kept, self.token_dropout, training=True)
            vectors = vectors * kept[tokens][..., None]
        if self.scale != 1:
            vectors = vectors * self.scale
        if tokens.dim() == 1:
            return self.dropout(vectors[:, None])[:, 0]
        return self.dropout(vectors)

    def extra_repr(self) -> str:
        sizes = f"{self.size}, {self.width}, padding={self.padding}"
        return f"{sizes}, token_dropout={self.token_dropout}"
