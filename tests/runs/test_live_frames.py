"""Frames as they come: labels are those of whole clips, images are parted, nothing grows."""

from __future__ import annotations

import gc
import io
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as Pillow

from unrolled.core.errors import UserError
from unrolled.fields.clips import Clips
from unrolled.models import Aligned, ManyToOne
from unrolled.nn import LayerConfig, Pooling, build_layer
from unrolled.nn.convolution import BasicBlock, ResidualNetwork
from unrolled.nn.image_encoder import ImageEncoder, PooledImages
from unrolled.runs import live_frames
from unrolled.runs.live_frames import LiveFrames, jpeg_frames, raw_frames

Bytes = NDArray[np.uint8]
NAMES = ("still", "left", "right")
HEIGHT = 12
WIDTH = 16


def drawn(count: int, *shape: int, seed: int = 0) -> Bytes:
    shape = shape or (HEIGHT, WIDTH, 3)
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (count, *shape))
    # light and dark ones
    brightness = generator.random((count, *[1] * len(shape)))
    return (values * brightness).astype(np.uint8)


@torch.no_grad()
def tell_apart(model: Aligned, colours: int) -> None:
    """Let a model of random weights give frames labels that differ."""
    pooled: Any = model.embedding
    frames = drawn(30, HEIGHT, WIDTH, colours, seed=9)
    images = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    deviations = pooled(images).std(0)
    pooled.projection.weight.div_(deviations[:, None])
    pooled.projection.bias.div_(deviations)
    pooled.projection.bias.sub_(pooled(images).mean(0))
    model.head.weight.mul_(20)
    for weight in model.layer.parameters():
        if weight.dim() == 2:
            weight.mul_(2)
    steps = [model.layer.read(pooled(images[n : n + 3])[None]) for n in range(27)]
    model.head.bias.sub_(model.head(torch.cat(steps)).mean((0, 1)))


def built(layer: str = "gru", colours: int = 3, **settings: Any) -> tuple[Any, Aligned]:
    """Return a predictor of a run that labels frames, and its model."""
    torch.manual_seed(2)
    network = ResidualNetwork(BasicBlock, (1, 1, 1, 1), (8, 8, 8, 6), stem=3, stride=1)
    pooled = PooledImages(ImageEncoder(network), HEIGHT, WIDTH, 8)
    config = LayerConfig(hidden=8, **settings)
    model = Aligned(pooled, build_layer(layer, config, 8), len(NAMES)).eval()
    tell_apart(model, colours)
    task = SimpleNamespace(
        name="label-frames",
        clips=Clips("clip", HEIGHT, WIDTH, colours),
        class_names=NAMES,
    )
    return SimpleNamespace(task=task, model=model), model


@torch.no_grad()
def whole(model: Aligned, frames: Bytes) -> tuple[list[str], list[float]]:
    """Return label and probability of every frame of a clip that is read at once."""
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    best = model(pixels[None])[0].softmax(-1).max(-1)
    return [NAMES[index] for index in best.indices.tolist()], best.values.tolist()


def check(live: LiveFrames, model: Aligned, frames: Bytes) -> None:
    predictions = [live.push(frame) for frame in frames]
    names, probabilities = whole(model, frames)
    assert [prediction.text for prediction in predictions] == names
    assert len(set(names)) > 1
    got = [prediction.probability for prediction in predictions]
    assert got == pytest.approx(probabilities, abs=1e-4)


# ---------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("layer", "settings"),
    [
        ("gru", {}),
        ("lstm", {"layers": 2}),
        ("rnn", {}),
        ("mingru", {}),
        ("attention", {"heads": 2, "context": 30}),
    ],
)
def test_labels_are_those_of_the_whole_clip(
    layer: str, settings: dict[str, Any]
) -> None:
    predictor, model = built(layer, **settings)
    live = LiveFrames(predictor)
    frames = drawn(25)
    check(live, model, frames)
    # what was seen before counts, until a new recording begins
    got = [live.push(frame).probability for frame in frames[:4]]
    assert got != pytest.approx(whole(model, frames[:4])[1], abs=1e-3)
    live.reset()
    check(live, model, drawn(20, seed=1))


def test_frames_are_scaled_and_coloured_as_those_of_a_clip() -> None:
    for colours, shape in ((3, (30, 44, 3)), (1, (30, 44, 3)), (3, (HEIGHT, WIDTH, 1))):
        predictor, model = built(colours=colours)
        live = LiveFrames(predictor)
        frames = drawn(12, *shape)
        predictions = [live.push(frame) for frame in frames]
        scaled = predictor.task.clips.scaled(frames)
        assert scaled.shape == (12, colours, HEIGHT, WIDTH)
        names, _ = whole(model, scaled.transpose(0, 2, 3, 1))
        assert [prediction.text for prediction in predictions] == names


def test_grey_frames_may_have_no_axis_of_colours() -> None:
    predictor, model = built(colours=1)
    frames = drawn(8, HEIGHT, WIDTH)
    live = LiveFrames(predictor)
    got = [live.push(frame).probability for frame in frames]
    live.reset()
    again = [live.push(frame[..., None]).probability for frame in frames]
    assert got == again == pytest.approx(whole(model, frames[..., None])[1], abs=1e-4)


def test_frames_of_numbers_from_0_to_1_are_read_as_those_of_a_clip_are() -> None:
    predictor, _ = built()
    live = LiveFrames(predictor)
    frame = drawn(1)[0]
    expected = live.push(frame)
    live.reset()
    assert live.push(frame / 255) == expected
    live.reset()
    assert live.push(frame.astype(np.int64)) == expected
    with pytest.raises(UserError, match=r"this is no frame: expected numbers from 0"):
        live.push(frame.astype(np.float32))


def test_frames_that_cannot_be_written_to_are_read() -> None:
    for colours in (1, 3):
        predictor, _ = built(colours=colours)
        frame = drawn(1, HEIGHT, WIDTH, colours)[0]
        frame.setflags(write=False)
        LiveFrames(predictor).push(frame)


@pytest.mark.parametrize(
    "shape", [(3,), (HEIGHT, WIDTH, 2), (HEIGHT, WIDTH, 4), (2, 3, 4, 3)]
)
def test_what_is_no_frame_is_refused(shape: tuple[int, ...]) -> None:
    predictor, _ = built()
    with pytest.raises(UserError, match=r"expected a frame \(H, W\) or \(H, W, 3\)"):
        LiveFrames(predictor).push(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("layer", ["gru", "lstm"])
def test_a_layer_that_reads_ahead_is_refused(layer: str) -> None:
    predictor, _ = built(layer, bidirectional=True)
    with pytest.raises(UserError, match=r"train it with model\.bidirectional=false"):
        LiveFrames(predictor)


def test_a_run_that_labels_no_frames_is_refused() -> None:
    predictor, model = built()
    predictor.task.clips = None
    predictor.task.name = "tag"
    with pytest.raises(UserError, match="trained to tag labels no frames of video"):
        LiveFrames(predictor)
    predictor, model = built()
    other = ManyToOne(model.embedding, model.layer, Pooling("last", 8), 2)  # type: ignore[arg-type]
    predictor.model = other
    with pytest.raises(UserError, match="labels no frames of video"):
        LiveFrames(predictor)


def test_a_recording_longer_than_the_context_says_what_to_do() -> None:
    predictor, _ = built("attention", heads=2, context=4)
    live = LiveFrames(predictor)
    frames = drawn(5)
    first = [live.push(frame).text for frame in frames[:4]]
    with pytest.raises(UserError, match=r"at most 4 positions.*reset\(\) begins a new"):
        live.push(frames[4])
    live.reset()
    assert [live.push(frame).text for frame in frames[:4]] == first


def held_by(value: Any) -> int:
    """Return how many items the lists of an object hold."""
    lists = [part for part in vars(value).values() if isinstance(part, list | tuple)]
    return sum(map(len, lists))


def test_nothing_grows() -> None:
    predictor, model = built("lstm")
    live = LiveFrames(predictor)
    frames = drawn(16)
    assert live.latency == 0
    counts: list[tuple[int, int]] = []
    for number in range(2_000):
        live.push(frames[number % 16])
        if number >= 1_000 and number % 333 == 0:
            gc.collect()
            counts.append(
                (held_by(live) + held_by(live._stream), len(gc.get_objects()))
            )
    assert len(live.seconds) == 1_000
    assert live.latency == float(np.median(live.seconds)) > 0
    assert len({held for held, _ in counts}) == 1
    assert counts[-1][1] - counts[0][1] < 50
    assert not any(weight.grad_fn for weight in model.parameters())
    # the state is still that of all frames, and of the last ones alone
    live.reset()
    check(live, model, frames)


# ---------------------------------------------------------------------- images of a stream


def jpeg(image: Bytes, **settings: Any) -> bytes:
    content = io.BytesIO()
    Pillow.fromarray(image).save(content, "JPEG", **settings)
    return content.getvalue()


def pixels(content: bytes) -> Bytes:
    with Pillow.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def segment(mark: int, content: bytes) -> bytes:
    return bytes((0xFF, mark)) + struct.pack(">H", len(content) + 2) + content


def with_segment(content: bytes, mark: int, more: bytes) -> bytes:
    """Return an image with a segment behind its first mark."""
    return content[:2] + segment(mark, more) + content[2:]


def exif(thumbnail: bytes) -> bytes:
    """Return a description of an image that holds a smaller one (CIPA DC-008, 4.5)."""
    # a directory of nothing, and behind it that of the thumbnail: its kind, place and length
    entries = ((0x0103, 3, 6), (0x0201, 4, 56), (0x0202, 4, len(thumbnail)))
    header = b"II*\x00" + struct.pack("<IHIH", 8, 0, 14, len(entries))
    directory = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    tiff = header + directory + struct.pack("<I", 0)
    return b"Exif\x00\x00" + tiff + thumbnail


class Dribble:
    """A stream that gives so many bytes at once, whatever is asked for."""

    def __init__(self, content: bytes, size: int = 1) -> None:
        self.rest = content
        self.size = size

    def read(self, count: int) -> bytes:
        raise AssertionError("it may wait for as many bytes")

    def read1(self, count: int) -> bytes:
        part = self.rest[: self.size]
        self.rest = self.rest[self.size :]
        return part


class Plain:
    """A stream that has ``read`` alone."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


def images(content: bytes) -> list[Bytes]:
    return list(jpeg_frames(io.BytesIO(content)))


def encoded() -> dict[str, bytes]:
    """Return images of many kinds."""
    image = drawn(1, 24, 40, 3)[0]
    plain = jpeg(image)
    thumbnail = jpeg(image[:8, :8])
    described = with_segment(plain, 0xE1, exif(thumbnail))
    return {
        "plain": plain,
        "grey": jpeg(image[..., 0]),
        "progressive": jpeg(image, progressive=True),
        "restarts": jpeg(image, restart_marker_blocks=1),
        "progressive with restarts": jpeg(
            image, progressive=True, restart_marker_blocks=1
        ),
        "thumbnail": described,
        "comment": with_segment(plain, 0xFE, b"the end: \xff\xd9, \xff\xd8\xff\xda"),
        "fill before a mark": plain[:2] + b"\xff\xff" + plain[2:],
        "fill before the end": plain[:-2] + b"\xff\xff\xff\xd9",
        "best": jpeg(image, quality=100, subsampling=0),
        "worst": jpeg(image, quality=1),
    }


ENCODED = encoded()


def test_the_images_hold_what_makes_them_hard() -> None:
    with Pillow.open(io.BytesIO(ENCODED["thumbnail"])) as image:
        directory = image.getexif().get_ifd(ExifTags.IFD.IFD1)
    assert directory[0x0201] == 56
    assert ENCODED["thumbnail"].count(b"\xff\xd9") > 1
    assert ENCODED["comment"].count(b"\xff\xd9") > 1
    for name in ("restarts", "progressive with restarts"):
        assert ENCODED[name].count(b"\xff\xd0") > 0
    assert ENCODED["progressive"].count(b"\xff\xda") > 1
    # data of a scan in which a byte of ones is told from a mark by a zero behind it
    assert b"\xff\x00" in ENCODED["best"]


@pytest.mark.parametrize("kind", ENCODED)
def test_an_image_of_a_stream_is_the_image(kind: str) -> None:
    content = ENCODED[kind]
    (image,) = images(content)
    np.testing.assert_array_equal(image, pixels(content))
    # cut at every byte it is either whole or not there yet
    assert live_frames._end_of_jpeg(bytearray(content)) == len(content)
    for end in range(len(content)):
        assert live_frames._end_of_jpeg(bytearray(content[:end])) is None


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_images_that_follow_each_other_are_parted(size: int) -> None:
    stream: Any = Dribble(b"".join(ENCODED.values()), size)
    got = list(jpeg_frames(stream))
    assert len(got) == len(ENCODED)
    for image, content in zip(got, ENCODED.values(), strict=True):
        np.testing.assert_array_equal(image, pixels(content))


def test_a_stream_without_read1_is_read_too() -> None:
    stream: Any = Plain(ENCODED["plain"] + ENCODED["grey"])
    assert len(list(jpeg_frames(stream))) == 2


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\x00" * 9, b" \r\n\x00"])
def test_blanks_between_images_and_behind_the_last_are_passed_over(
    between: bytes,
) -> None:
    content = between.join([b"", ENCODED["plain"], ENCODED["best"], b""])
    assert len(images(content)) == 2
    assert len(list(jpeg_frames(Dribble(content)))) == 2  # type: ignore[arg-type]
    assert images(between) == []


def test_an_image_is_given_before_the_next_one_comes() -> None:
    class Waiting:
        def __init__(self) -> None:
            self.parts: Iterator[bytes] = iter(
                [ENCODED["plain"][:50], ENCODED["plain"][50:] + ENCODED["best"][:99]]
            )

        def read(self, count: int) -> bytes:
            part = next(self.parts, None)
            assert part is not None, "more was read than the first image needs"
            return part

    stream: Any = Waiting()
    image = next(jpeg_frames(stream))
    np.testing.assert_array_equal(image, pixels(ENCODED["plain"]))


def test_nothing_comes_of_nothing() -> None:
    assert images(b"") == []


@pytest.mark.parametrize("kind", ENCODED)
def test_a_stream_that_is_cut_off_gives_what_came_and_says_so(kind: str) -> None:
    content = ENCODED[kind]
    for end in (1, 2, 3, 20, len(content) // 2, len(content) - 1):
        frames = jpeg_frames(io.BytesIO(ENCODED["grey"] + content[:end]))
        assert next(frames).shape == (24, 40, 3)
        with pytest.raises(UserError, match="the last image is cut off"):
            next(frames)


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a" + b"\x00" * 50,
        b"\x89PNG\r\n",
        b"--boundary\r\nContent-Type: image/jpeg\r\n\r\n",
        bytes(range(256)),
        b"\xff\xd9\xff\xd8",
    ],
)
def test_what_is_no_jpeg_says_how_to_give_frames(content: bytes) -> None:
    with pytest.raises(UserError, match=r"expected images of JPEG.*--shape H,W,C"):
        images(content)
    # nor is it one behind an image
    frames = jpeg_frames(io.BytesIO(ENCODED["plain"] + content))
    next(frames)
    with pytest.raises(UserError, match="expected images of JPEG"):
        next(frames)


def test_an_image_that_is_broken_is_refused() -> None:
    plain = ENCODED["plain"]
    behind_a_segment = plain[:20] + b"garbage" + plain[20:]
    with pytest.raises(UserError, match="a frame cannot be read as an image"):
        images(behind_a_segment)
    # segments of the right lengths without an image in them
    empty = b"\xff\xd8" + segment(0xFE, b"nothing") + b"\xff\xd9"
    with pytest.raises(UserError, match="a frame cannot be read as an image: "):
        images(empty)


def test_bytes_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_frames, "LARGEST", 1 << 20)
    head = ENCODED["plain"][: ENCODED["plain"].index(b"\xff\xda")]
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")

    class Endless:
        count = 0

        def read(self, count: int) -> bytes:
            self.count += count
            assert self.count < 1 << 22
            return head + scan if self.count == count else b"\x01" * count

    stream: Any = Endless()
    with pytest.raises(UserError, match="an image of more than 1 MB is no frame"):
        list(jpeg_frames(stream))


def test_a_stream_of_images_is_labelled() -> None:
    predictor, model = built()
    live = LiveFrames(predictor)
    contents = [jpeg(frame, quality=95) for frame in drawn(10)]
    frames = np.stack([pixels(content) for content in contents])
    predictions = map(live.push, jpeg_frames(io.BytesIO(b"".join(contents))))
    assert [prediction.text for prediction in predictions] == whole(model, frames)[0]


# ---------------------------------------------------------------------- bytes of frames


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5), (4, 5, 1), (1, 1)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_frames_of_bytes_are_cut_by_their_shape(
    shape: tuple[int, ...], count: int
) -> None:
    frames = drawn(count, *shape)
    for stream in (io.BytesIO(frames.tobytes()), Plain(frames.tobytes())):
        got = list(raw_frames(stream, shape))  # type: ignore[arg-type]
        assert len(got) == count
        for frame, expected in zip(got, frames, strict=True):
            np.testing.assert_array_equal(frame, expected)


def test_frames_of_bytes_may_come_in_any_parts() -> None:
    frames = drawn(3, 4, 5, 3)

    class Slow:
        def __init__(self) -> None:
            self.stream = io.BytesIO(frames.tobytes())

        def read(self, count: int) -> bytes:
            return self.stream.read(min(count, 7))

    got = list(raw_frames(Slow(), (4, 5, 3)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.stack(got), frames)


def test_a_frame_of_bytes_that_is_cut_off_is_refused() -> None:
    content = drawn(2, 40, 30, 3).tobytes()
    frames = raw_frames(io.BytesIO(content[:-100]), (40, 30, 3))
    assert next(frames).shape == (40, 30, 3)
    with pytest.raises(
        UserError,
        match=r"the last frame has 3,500 bytes of 3,600: is --shape right\?",
    ):
        next(frames)


def test_bytes_of_grey_frames_are_labelled() -> None:
    predictor, model = built(colours=1)
    live = LiveFrames(predictor)
    frames = drawn(10, HEIGHT, WIDTH)
    stream = io.BytesIO(frames.tobytes())
    predictions = [live.push(frame) for frame in raw_frames(stream, (HEIGHT, WIDTH))]
    names, _ = whole(model, frames[..., None])
    assert [prediction.text for prediction in predictions] == names
