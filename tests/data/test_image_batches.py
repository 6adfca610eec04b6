"""Batches of images and clips: what they hold, and how images change while one trains."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from unrolled.data.batches import IGNORED, PAD, Buckets
from unrolled.data.examples import Examples, FrameSpans, Images, Ragged
from unrolled.data.image_batches import ClipBatches, ImageBatches, ImageChanges

RNG = np.random.default_rng(0)
COUNT = 10
PIXELS = RNG.integers(0, 256, (COUNT, 3, 9, 12), dtype=np.uint8)
# image 4 is that of no row, and image 2 that of several
ROWS = np.array([2, 0, 1, 2, 3, 2, 5, 6, 7, 8, 9, 0])
LABELS = np.arange(len(ROWS))
TEXTS = [[7] * (row % 3 + 1) for row in range(len(ROWS))]
CHANGES = ImageChanges(crop=0.4, flip=True, colour=0.5)
ALL_CHANGES = [
    ImageChanges(crop=0.4),
    ImageChanges(flip=True),
    ImageChanges(colour=0.5),
    CHANGES,
]


@pytest.fixture
def threads() -> Iterator[None]:
    """Let torch divide its work, as it does outside of tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def labelled() -> Examples:
    return Examples(LABELS + 1, targets=LABELS, images=Images(PIXELS, ROWS))


def drawn(count: int, **values: float) -> Tensor:
    """Return what is drawn for images, 0 but for what is named."""
    names = (
        "scale",
        "across",
        "down",
        "mirror",
        "brightness",
        "contrast",
        "saturation",
    )
    row = [values.get(name, 0.0) for name in names]
    return torch.tensor([row] * count)


# ---------------------------------------------------------------------- examples


def test_images_are_taken_by_their_rows() -> None:
    images = Images(PIXELS, ROWS)
    taken = images.take(np.array([0, 3, 1]))
    assert taken.dtype == torch.uint8
    np.testing.assert_array_equal(taken.numpy(), PIXELS[[2, 2, 0]])
    np.testing.assert_array_equal(images.distinct(np.array([4])).numpy(), PIXELS[[4]])
    picked = images.pick(np.array([11, 4]))
    assert picked.rows.tolist() == [0, 3]
    assert picked.pixels is images.pixels


def test_features_of_images_are_taken_as_numbers() -> None:
    features = RNG.normal(size=(3, 4, 5)).astype(np.float16)
    taken = Images(features, np.array([2, 2, 0])).take(np.array([0, 2]))
    assert taken.dtype == torch.float32
    np.testing.assert_array_equal(taken.numpy(), features[[2, 0]].astype(np.float32))


def test_frames_of_clips_are_padded_behind_their_end() -> None:
    pixels = RNG.integers(1, 256, (9, 1, 2, 3), dtype=np.uint8)
    spans = FrameSpans(pixels, np.array([0, 2, 2, 9]), np.array([2, 5, 7, 0]))
    frames, lengths = spans.take(np.array([1, 0, 3]))
    assert frames.shape == (3, 5, 1, 2, 3)
    assert lengths.tolist() == [5, 2, 0]
    np.testing.assert_array_equal(frames[0].numpy(), pixels[2:7])
    np.testing.assert_array_equal(frames[1, :2].numpy(), pixels[:2])
    assert not frames[1, 2:].any()
    assert not frames[2].any()
    # of nothing but empty clips there is a frame to read
    empty, _ = spans.take(np.array([3]))
    assert empty.shape == (1, 1, 1, 2, 3)
    picked = spans.pick(np.array([2]))
    np.testing.assert_array_equal(picked.take(np.array([0]))[0][0].numpy(), pixels[2:])


def test_examples_pick_their_images_and_clips() -> None:
    examples = labelled().pick(np.array([3, 4]))
    assert examples.images is not None
    assert examples.images.rows.tolist() == [2, 3]
    assert examples.lengths.tolist() == [1, 1]
    spans = FrameSpans(
        np.zeros((9, 1, 2, 3), np.uint8), np.array([0, 4]), np.array([4, 5])
    )
    clips = Examples(np.array([1, 2]), clips=spans)
    assert clips.lengths.tolist() == [4, 5]
    assert clips.pick(np.array([1])).lengths.tolist() == [5]


# ---------------------------------------------------------------------- batches


def test_an_epoch_reads_each_image_once_with_all_its_rows() -> None:
    batches = ImageBatches(labelled(), 4, 0)
    assert batches.length(0) == 3
    rows: list[int] = []
    for index in range(3):
        batch = batches.batch(0, index)
        (owners,) = batch.extra
        assert len(batch.inputs) == len(batches.plan(0)[index])
        assert batch.lengths is not None
        assert batch.lengths.tolist() == [1] * len(batch.inputs)
        shown = batch.inputs[owners].numpy()
        np.testing.assert_array_equal(shown, PIXELS[ROWS[batch.rows]])
        assert batch.targets is not None
        np.testing.assert_array_equal(batch.targets.numpy(), LABELS[batch.rows])
        rows += batch.rows.tolist()
    assert sorted(rows) == list(range(len(ROWS)))


def test_texts_stand_beside_the_images_they_are_of() -> None:
    examples = Examples(
        LABELS + 1,
        sequences=Ragged.of(TEXTS),
        targets=Ragged.of(TEXTS),
        images=Images(PIXELS, ROWS),
    )
    batch = ImageBatches(examples, 4, 0).batch(0, 1)
    pixels, owners = batch.extra
    np.testing.assert_array_equal(pixels[owners].numpy(), PIXELS[ROWS[batch.rows]])
    assert batch.lengths is not None
    assert batch.targets is not None
    for row, ids, length, target in zip(
        batch.rows, batch.inputs, batch.lengths, batch.targets, strict=True
    ):
        text = TEXTS[row]
        assert int(length) == len(text)
        padding = batch.inputs.shape[1] - len(text)
        assert ids.tolist() == text + [PAD] * padding
        assert target.tolist() == text + [IGNORED] * padding


def test_in_order_images_are_read_as_they_are() -> None:
    batches = ImageBatches(labelled(), 4, 0, CHANGES)
    pixels = [batch.inputs.numpy() for batch in batches.in_order()]
    used = [image for image in range(COUNT) if image != 4]
    np.testing.assert_array_equal(np.concatenate(pixels), PIXELS[used])
    assert [len(part) for part in pixels] == [4, 4, 1]


def test_the_order_follows_from_seed_and_epoch() -> None:
    def plan(seed: int, epoch: int) -> list[int]:
        batches = ImageBatches(labelled(), 4, seed).plan(epoch)
        return np.concatenate(batches).tolist()

    assert plan(0, 0) == plan(0, 0)
    plans = [plan(seed, epoch) for seed, epoch in itertools.product((0, 1), (0, 1, 2))]
    assert len({tuple(order) for order in plans}) == 6
    for order in plans:
        assert sorted(order) == [image for image in range(COUNT) if image != 4]


def test_changes_follow_from_seed_epoch_and_index_alone() -> None:
    def batch(seed: int, epoch: int, index: int) -> Tensor:
        return ImageBatches(labelled(), 4, seed, CHANGES).batch(epoch, index).inputs

    first = batch(3, 1, 1)
    torch.rand(5)
    np.random.default_rng().random()
    batches = ImageBatches(labelled(), 4, 3, CHANGES)
    for epoch, index in ((0, 0), (1, 0), (1, 2)):
        batches.batch(epoch, index)
    assert torch.equal(batches.batch(1, 1).inputs, first)
    # the same image changes otherwise in another epoch
    whole = ImageBatches(labelled(), COUNT, 3, CHANGES)
    shown = []
    for epoch in (0, 1):
        order = whole.plan(epoch)[0].tolist()
        shown.append(whole.batch(epoch, 0).inputs[order.index(2)])
    assert not torch.equal(*shown)


def test_images_that_are_alike_change_otherwise_in_each_batch() -> None:
    pixels = np.repeat(PIXELS[:1], 6, axis=0)
    images = Images(pixels, np.arange(6))
    examples = Examples(np.arange(6) + 1, targets=np.arange(6), images=images)
    batches = ImageBatches(examples, 2, 0, CHANGES)
    shown: list[Tensor] = []
    for epoch, index in ((0, 0), (0, 1), (1, 0)):
        shown += batches.batch(epoch, index).inputs
    for first, second in itertools.combinations(shown, 2):
        assert not torch.equal(first, second)


@pytest.mark.parametrize("changes", [ImageChanges(), *ALL_CHANGES])
@pytest.mark.parametrize(
    "part",
    [slice(0, 2), slice(1, 2), slice(2, 4), slice(1, None, 2), slice(0, None, 3)],
)
def test_some_images_of_a_batch_are_those_of_the_whole(
    changes: ImageChanges, part: slice
) -> None:
    batches = ImageBatches(labelled(), 4, 0, changes)
    for index in range(2):
        whole = batches.batch(1, index)
        some = batches.batch(1, index, part)
        assert torch.equal(some.inputs, whole.inputs[part])
        owned = whole.extra[0]
        chosen = torch.isin(owned, torch.arange(4)[part])
        assert some.rows.tolist() == whole.rows[chosen.numpy()].tolist()
        images = torch.arange(4)[part]
        assert torch.equal(images[some.extra[0]], owned[chosen])


@pytest.mark.usefixtures("threads")
def test_some_images_are_those_of_the_whole_however_many_threads_read_them() -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (4, 3, 224, 224), dtype=np.uint8))
    for seed in range(3):
        values = CHANGES.draw(4, np.random.default_rng(seed))
        whole = CHANGES.apply(images, values)
        grey = CHANGES.apply(images[:, :1], values)
        for row in range(4):
            part = slice(row, row + 1)
            assert torch.equal(CHANGES.apply(images[part], values[part]), whole[part])
            some = CHANGES.apply(images[part, :1], values[part])
            assert torch.equal(some, grey[part])


def test_features_are_never_changed() -> None:
    features = RNG.normal(size=(COUNT, 4, 5)).astype(np.float16)
    examples = Examples(LABELS + 1, targets=LABELS, images=Images(features, ROWS))
    batches = ImageBatches(examples, COUNT, 0, CHANGES)
    order = batches.plan(0)[0]
    np.testing.assert_array_equal(
        batches.batch(0, 0).inputs.numpy(), features[order].astype(np.float32)
    )


# ---------------------------------------------------------------------- changes


def test_without_changes_pixels_stay() -> None:
    assert not ImageChanges()
    batches = ImageBatches(labelled(), 4, 0)
    for index, order in enumerate(batches.plan(0)):
        np.testing.assert_array_equal(
            batches.batch(0, index).inputs.numpy(), PIXELS[order]
        )


@pytest.mark.parametrize("colours", [1, 3])
def test_changes_that_are_drawn_as_none_leave_pixels(colours: int) -> None:
    images = torch.from_numpy(PIXELS[:, :colours])
    # the whole side, not mirrored, and colours times 1
    none = drawn(COUNT, scale=-1.0, mirror=1.0, across=0.7, down=-0.3)
    for changes in (*ALL_CHANGES, ImageChanges()):
        assert changes.apply(images, none).equal(images)


def test_half_of_the_images_are_mirrored_and_nothing_else() -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (200, 3, 7, 10), dtype=np.uint8))
    changes = ImageChanges(flip=True)
    changed = changes.apply(images, changes.draw(200, np.random.default_rng(0)))
    same = (changed == images).flatten(1).all(1)
    mirrored = (changed == images.flip(3)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_stays_in_the_image(flip: bool) -> None:
    # values say where a pixel stands: its column, its row
    columns = torch.arange(40).repeat(40, 1) * 5 + 20
    images = torch.stack([columns, columns.T, columns]).to(torch.uint8)
    images = images.repeat(300, 1, 1, 1)
    changes = ImageChanges(crop=0.5, flip=flip)
    values = changes.draw(300, np.random.default_rng(0))
    shown = changes.apply(images, values)[:, :2].float()
    assert shown.min() >= 20
    assert shown.max() <= 215
    across = (shown[:, 0, :, -1] - shown[:, 0, :, 0]) / (5 * 39)
    down = (shown[:, 1, -1] - shown[:, 1, 0]) / (5 * 39)
    sides = 1 - 0.5 * (1 + values[:, 0]) / 2
    assert torch.allclose(across.abs(), sides[:, None].expand(-1, 40), atol=0.03)
    assert torch.allclose(down, sides[:, None].expand(-1, 40), atol=0.03)
    assert float(sides.min()) < 0.55
    assert float(sides.max()) > 0.95
    assert bool((across < 0).any()) == flip
    # from one end of the image to the other
    assert float(shown[:, 1].amin((1, 2)).max()) > 90
    assert float(shown[:, 1].amax((1, 2)).min()) < 145


def test_a_crop_takes_the_part_that_was_drawn() -> None:
    image = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    image[..., :10, 10:] = 200
    changes = ImageChanges(crop=0.5)
    upper_right = drawn(1, scale=1.0, across=1.0, down=-1.0)
    assert changes.apply(image, upper_right)[0, 0, :18, 2:].eq(200).all()
    lower_left = drawn(1, scale=1.0, across=-1.0, down=1.0)
    assert not changes.apply(image, lower_left)[0, 0, 2:, :18].any()


def test_colours_change_as_they_are_drawn() -> None:
    images = torch.from_numpy(PIXELS)
    changes = ImageChanges(colour=0.5)
    dark = changes.apply(images, drawn(COUNT, brightness=-1.0))
    assert torch.equal(dark, (images.float() * 0.5).round().to(torch.uint8))
    grey = ImageChanges(colour=0.999).apply(images, drawn(COUNT, saturation=-1.0))
    assert int((grey.amax(1).int() - grey.amin(1)).max()) <= 1
    flat = changes.apply(images, drawn(COUNT, contrast=-1.0)).float()
    before = images.float().std((1, 2, 3))
    assert torch.allclose(flat.std((1, 2, 3)), before / 2, atol=12)
    plain = torch.full((1, 1, 4, 4), 90, dtype=torch.uint8)
    for name in ("contrast", "saturation"):
        assert changes.apply(plain, drawn(1, **{name: 1.0})).equal(plain)
    light = changes.apply(torch.full_like(plain, 250), drawn(1, brightness=1.0))
    assert light.eq(255).all()


def test_what_is_drawn_lies_between_minus_one_and_one() -> None:
    values = CHANGES.draw(1000, np.random.default_rng(0))
    assert values.shape == (1000, 7)
    assert float(values.min()) >= -1
    assert float(values.max()) <= 1
    assert values.mean(0).abs().max() < 0.1


# ---------------------------------------------------------------------- clips


def clip_batches(changes: ImageChanges, seed: int = 0) -> ClipBatches:
    lengths = np.array([3, 5, 4, 1, 5, 2])
    starts = np.cumsum(lengths) - lengths
    # all frames of a clip are one picture
    frames = np.repeat(PIXELS[:6], lengths, axis=0)
    targets = Ragged.of([[row] * length for row, length in enumerate(lengths.tolist())])
    clips = FrameSpans(frames, starts, lengths)
    examples = Examples(np.arange(6) + 1, targets=targets, clips=clips)
    return ClipBatches(Buckets(examples, 4, None, seed), changes)


def test_all_frames_of_a_clip_change_alike() -> None:
    batches = clip_batches(CHANGES)
    assert batches.length(0) == len(batches.plan(0)) == 2
    for index in range(2):
        batch = batches.batch(0, index)
        assert batch.lengths is not None
        for row, frames, length in zip(
            batch.rows, batch.inputs, batch.lengths, strict=True
        ):
            real = frames[: int(length)]
            assert real.eq(real[0]).all()
            assert not np.array_equal(real[0].numpy(), PIXELS[row])
        assert batch.inputs.dtype == torch.uint8


def test_clips_without_changes_are_those_of_their_buckets() -> None:
    batches = clip_batches(ImageChanges())
    batch = batches.batch(0, 0)
    assert torch.equal(batch.inputs, batches.buckets.batch(0, 0).inputs)
    assert batch.lengths is not None
    for row, frames in zip(batch.rows, batch.inputs, strict=True):
        np.testing.assert_array_equal(frames[0].numpy(), PIXELS[row])


@pytest.mark.parametrize("part", [slice(0, 2), slice(1, 2), slice(1, None, 2)])
def test_some_clips_of_a_batch_are_those_of_the_whole(part: slice) -> None:
    batches = clip_batches(CHANGES, 5)
    whole = batches.batch(2, 0)
    some = batches.batch(2, 0, part)
    assert some.rows.tolist() == whole.rows[part].tolist()
    assert some.lengths is not None
    for frames, others, length in zip(
        some.inputs, whole.inputs[part], some.lengths, strict=True
    ):
        assert torch.equal(frames[: int(length)], others[: int(length)])
    again = clip_batches(CHANGES, 5).batch(2, 0)
    assert torch.equal(again.inputs, whole.inputs)
    others = clip_batches(CHANGES, 6).batch(2, 0).inputs
    assert others.shape != whole.inputs.shape or not torch.equal(others, whole.inputs)
