"""Labels and numbers of a row as one vector.

Shapes: S rows, K labels, D numbers, C features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConditionEncoder(nn.Module):
    """A vector for each label and one for the numbers, one after another.

    What a model writes is then conditioned on the row: the first place of what it attends to.

    Args:
        labels: names of each of the K columns of labels; index 0, which stands for none of them,
            is a vector of zeros.
        numbers: D.
        width: of the vector of a column, and of that of all numbers.

    Raises:
        ValueError: there is neither a label nor a number.
    """

    def __init__(self, labels: Sequence[int], numbers: int, width: int) -> None:
        super().__init__()
        if not labels and not numbers:
            raise ValueError("expected a column of labels or a number at least")
        self.embeddings = nn.ModuleList(
            nn.Embedding(count + 1, width, padding_idx=0) for count in labels
        )
        self.linear = nn.Linear(numbers, width) if numbers else None
        self.numbers = numbers
        self.output_size = width * (len(labels) + bool(numbers))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (S, 1, C) of rows (S, D + K): numbers, then the index of each label."""
        vectors: list[Tensor] = []
        if self.linear is not None:
            vectors.append(self.linear(rows[:, : self.numbers]))
        indices = rows[:, self.numbers :].long()
        for column, embedding in enumerate(self.embeddings):
            vectors.append(embedding(indices[:, column]))
        return torch.cat(vectors, 1)[:, None]
