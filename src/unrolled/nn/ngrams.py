"""A linear model over n-grams of tokens, to stand beside a layer.

Shapes: B rows, T steps, O outputs, N longest n-gram.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.nn.dropout import check_probability

PRIME = 1_000_003
# Adam moves a weight by about its learning rate a step, and most n-grams are met in few steps:
# without it a phrase would take epochs to be heard beside the layer
LOUDNESS = 8.0


class NGrams(nn.Module):
    """Sums one learnt vector for every n-gram of a row: the wide half of a wide and deep model.

    What a fixed phrase says is learnt from few examples this way, while the layer learns what
    order and context say (Cheng et al. 2016, section 3). An n-gram finds its vector by a hash
    (Weinberger et al. 2009); the sum is divided by the root of their number, so that long rows do
    not shout, and multiplied by ``LOUDNESS``.

    Args:
        longest: N, at least 1; n-grams of 1 to N tokens are read.
        outputs: O.
        buckets: vectors; n-grams share one where their hashes meet.
        dropout: probability that an n-gram is left out.

    Raises:
        ValueError: a size below 1, no probability.
    """

    def __init__(
        self, longest: int, outputs: int, buckets: int = 2**19, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if min(longest, outputs, buckets) < 1:
            raise ValueError(
                "expected longest, outputs and buckets of at least 1, got "
                f"{longest}, {outputs} and {buckets}"
            )
        check_probability("dropout", dropout)
        self.longest = longest
        self.buckets = buckets
        self.dropout = dropout
        # at first it says nothing: what it will say is a correction of the layer
        self.weight = nn.Parameter(torch.zeros(buckets, outputs))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, O) for tokens (B, T) with ``lengths`` (B,) real steps; 0 for an empty row."""
        indices, real = self.bucket_indices(tokens, lengths)
        counts = real.sum(1)
        total = real.sum(1, keepdim=True).clamp(min=1).to(self.weight.dtype)
        kept = F.dropout(
            real.to(self.weight.dtype),
            self.dropout,
            self.training,
        )
        scales = LOUDNESS * kept / total.sqrt()
        # of a batch of unequal rows most n-grams are padding: only real ones are looked up
        return F.embedding_bag(
            indices[real],
            self.weight,
            counts.cumsum(0) - counts,  # where each row begins
            per_sample_weights=scales[real],
            mode="sum",
        )

    def bucket_indices(
        self,
        tokens: Tensor,
        lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the index of every n-gram's bucket and whether it is real, both (B, N T)."""
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        key = torch.zeros_like(tokens)
        indices = []
        real = []
        for size in range(1, self.longest + 1):
            shifted = F.pad(tokens, (0, size - 1))[:, size - 1 :]
            key = key * PRIME + shifted + 1
            # the low bits of a product are poor; fold the high ones in
            indices.append((key ^ (key >> 21)) % self.buckets)
            real.append(steps + size <= lengths[:, None])
        return torch.cat(indices, 1), torch.cat(real, 1)

    def contributions(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what each n-gram of one row adds to the outputs, in evaluation.

        Args:
            tokens: of the row (T,), all real.

        Returns:
            The first token of each of the G n-grams (G,), how many it has (G,), and what it adds
            (G, O); the sum of these is what ``forward`` returns.
        """
        steps = len(tokens)
        lengths = torch.tensor([steps], device=tokens.device)
        indices, real = self.bucket_indices(tokens[None], lengths)
        count = real.sum().clamp(min=1).to(self.weight.dtype)
        first = torch.arange(steps, device=tokens.device).repeat(self.longest)
        size = torch.arange(
            1,
            self.longest + 1,
            device=tokens.device,
        )
        sizes = size.repeat_interleave(steps)
        vectors = self.weight[indices[real]] * (LOUDNESS / count.sqrt())
        return first[real[0]], sizes[real[0]], vectors
