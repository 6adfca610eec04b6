"""The best next tokens of every hypothesis: log softmax and selection.

Legend: B rows, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.ops import native
from unrolled.ops import recurrent as table
from unrolled.ops.layout import readable
from unrolled.ops.modes import mode

MOST = 64  # that the native core keeps of a row


def top_log_probabilities(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest log-probabilities of each row and their tokens, best first.

    Equal ones come in the order of their tokens. Half precision is computed in fp32. A row with NaN
    or inf, or of nothing but -inf, has no probabilities: its values are NaN.

    Args:
        logits: scores (B, V); -inf rules a token out.
        k: from 1 to V.

    Returns:
        Log-probabilities (B, k), fp32 or fp64, and tokens (B, k), int64.
    """
    if (
        logits.dtype == torch.float32
        and k <= MOST
        and mode() != "reference"
        and not (logits.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not table.unreachable(logits)
    ):
        logits = readable(logits)
        return _natively(logits if logits.stride(1) == 1 else logits.contiguous(), k)
    scores = logits if logits.dtype == torch.float64 else logits.float()
    scores = scores.log_softmax(dim=-1)
    # torch's topk leaves the order of equals open, also of those at the border
    values, indices = scores.topk(min(k + 1, scores.shape[-1]), dim=-1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=-1).nonzero().squeeze(-1)
    if tied.numel():
        ordered = scores[tied].sort(dim=-1, descending=True, stable=True)
        values[tied] = ordered.values[:, : values.shape[1]]
        indices[tied] = ordered.indices[:, : values.shape[1]]
    return values[:, :k], indices[:, :k]


def _natively(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    (rows, vocabulary) = logits.shape
    library: Any = native.library()
    if 0 <= logits.stride(0) < vocabulary and rows > 1:
        logits = logits.contiguous()  # rows that overlap, as expanded ones do
    values = logits.new_empty(rows, k)
    indices = logits.new_empty(rows, k, dtype=torch.int64)
    message = library.top_log_probabilities(
        torch.get_num_threads(),
        rows,
        vocabulary,
        logits.data_ptr(),
        logits.stride(0) if rows > 1 else vocabulary,
        k,
        values.data_ptr(),
        indices.data_ptr(),
    )
    native.check(message)
    return values, indices
