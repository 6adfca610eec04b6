"""Frames of many clips, in memory and in a file: the same, whatever is cut."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unrolled.core.errors import UserError
from unrolled.data.clips import ArrayClip
from unrolled.data.frame_store import FrameStore
from unrolled.fields.clips import Clips
from unrolled.models import Aligned
from unrolled.nn import LayerConfig, build_layer
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder, PooledImages
from unrolled.tasks import label_frames
from unrolled.tasks.tag import Tagger
from unrolled.training.precision import ComputeDevice


def drawn(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), np.uint8)


@pytest.mark.parametrize("limit", [0, 5 * 3 * 8 * 8, 1 << 20])
def test_what_is_kept_is_what_came(limit: int) -> None:
    store = FrameStore(limit)
    store.append(drawn(4, 1))
    store.append(drawn(3, 2))
    store.cut(4)
    store.append(drawn(2, 3))
    expected = np.concatenate([drawn(4, 1), drawn(2, 3)])
    assert len(store) == 6
    np.testing.assert_array_equal(store.frames(), expected)
    assert isinstance(store.frames(), np.memmap) == (limit < expected.nbytes)


def test_cutting_to_nothing_forgets_all() -> None:
    for limit in (0, 1 << 20):
        store = FrameStore(limit)
        store.append(drawn(4))
        store.cut(0)
        store.append(drawn(2, 1))
        np.testing.assert_array_equal(store.frames(), drawn(2, 1))


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"missing: No such file.*TMPDIR.*encoder.size"):
        FrameStore(0).append(drawn(1))


@pytest.mark.parametrize("bidirectional", [False, True])
@torch.no_grad()
def test_long_clips_are_labelled_as_whole_ones(
    monkeypatch: pytest.MonkeyPatch, bidirectional: bool
) -> None:
    """Stretches of 7 frames of clips in a file give what one pass over padded clips gives."""
    torch.manual_seed(0)
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 6), stem=3, stride=1)
    pooled = PooledImages(ImageEncoder(network), 8, 8, 6)
    layer = build_layer("gru", LayerConfig(hidden=5, bidirectional=bidirectional), 6)
    model = Aligned(pooled, layer, 3).eval()
    field = Clips("clip", 8, 8, 3)
    clips = [ArrayClip("a clip", drawn(n, n).transpose(0, 2, 3, 1)) for n in (30, 2, 9)]
    store = FrameStore(500)
    lengths = [field.read_into(store, clip) for clip in clips]
    examples = field.stored(store, lengths, np.arange(3))
    assert examples.clips is not None
    monkeypatch.setattr(label_frames, "STRETCH", 7)
    task: Any = object.__new__(label_frames.LabelFrames)
    device = ComputeDevice(torch.device("cpu"), "fp32", "")
    rows = np.array([2, 0, 1])
    scored = task.scored(model, examples, rows, device)
    whole = Tagger.scored(task, model, examples, rows, device)
    real = torch.arange(30) < torch.tensor([9, 30, 2])[:, None]
    # sums over other batches of frames: rounding alone
    torch.testing.assert_close(
        scored.outputs[real], whole.outputs[real], atol=1e-5, rtol=1e-5
    )
