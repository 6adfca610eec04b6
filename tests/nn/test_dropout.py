"""Dropout that leaves out the same features at every step."""

from __future__ import annotations

import pytest
import torch

from unrolled.nn import LockedDropout


def test_locked_dropout() -> None:
    dropout = LockedDropout(0.5)
    x = torch.ones(3, 4, 50)
    y = dropout(x)
    assert (y == y[:, :1]).all()
    assert y.unique().tolist() == [0.0, 2.0]
    assert not (y[0] == y[1]).all()
    assert dropout.eval()(x) is x
    with pytest.raises(ValueError, match="expected p from 0 to 1, got 7"):
        LockedDropout(7)
