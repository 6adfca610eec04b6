"""What a search may not write: the protocol of a constraint, and phrases that are banned.

Legend: B rows (hypotheses), S sources, V tokens of the vocabulary, N rows after a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor


class Constraint(Protocol):
    """Follows the hypotheses of one search and says what each may write next.

    It is made for one batch of sources and starts with S rows, row s about source s, nothing
    written yet. After each step :meth:`advance` says which rows go on: N of them, in any order,
    rows repeated (beams) or missing (pruned, or their source is done). What it remembers should
    be tensors with one entry a row, so that ``advance`` is ``index_select`` and some arithmetic.

    The order of calls in a step: ``allowed`` (what the B rows may take), then ``advance`` (B rows
    become N), then ``feed`` (what the model reads for each of the N tokens).
    """

    def allowed(self) -> Tensor | None:
        """Return which tokens each row may take next, bool (B, V); None is all of them.

        The end mark is a token like the others: rule it out while a row may not end. A row that
        may take nothing is given up; a source all of whose rows are is returned as it stands.
        """
        ...

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        """Return this, row i now being what was row ``rows[i]``, after ``tokens[i]``.

        Args:
            rows: integers (N,) below B, as those of ``State.reorder``.
            tokens: the tokens chosen (N,), allowed by their rows or forced by a prefix. The end
                mark is never among them: a row that ended is missing.
        """
        ...

    def feed(self, tokens: Tensor) -> Tensor:
        """Return what the model reads for the tokens just advanced by, (N,).

        Mostly ``tokens`` themselves. A token that stands for something else, such as a place that
        a word of the source fills, is replaced here; the hypothesis keeps what was chosen.
        """
        ...


class BannedPhrases:
    """Rules out the token that would complete a banned phrase.

    Args:
        phrases: sequences of at least two tokens; single tokens are banned more cheaply.
        vocabulary: V.
        rows: S.
        device: where the tokens are.
    """

    def __init__(
        self,
        phrases: Sequence[Sequence[int]],
        vocabulary: int,
        rows: int,
        device: torch.device,
    ) -> None:
        self.vocabulary = vocabulary
        longest = max(len(phrase) for phrase in phrases)
        # right aligned; what is before the phrase matches everything
        heads = [
            [-1] * (longest - len(phrase)) + list(phrase[:-1]) for phrase in phrases
        ]
        self.heads = torch.tensor(heads, device=device)  # (P, longest - 1)
        self.last = torch.tensor([phrase[-1] for phrase in phrases], device=device)
        self.recent = torch.full((rows, longest - 1), -2, device=device)

    def allowed(self) -> Tensor | None:
        same = (self.recent[:, None] == self.heads) | (self.heads == -1)
        row, phrase = same.all(-1).nonzero(as_tuple=True)
        if not row.numel():
            return None
        mask = torch.ones(
            len(self.recent), self.vocabulary, dtype=torch.bool, device=row.device
        )
        mask[row, self.last[phrase]] = False
        return mask

    def advance(self, rows: Tensor, tokens: Tensor) -> Self:
        self.recent = torch.cat([self.recent[rows, 1:], tokens[:, None]], 1)
        return self

    def feed(self, tokens: Tensor) -> Tensor:
        return tokens
