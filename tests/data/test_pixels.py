"""Pixels of image files: how they stand, what colours they have, and files that are none."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from unrolled.data.pixels import FORMATS, MOST_PIXELS, ORIENTATION, read_pixels, square

RNG = np.random.default_rng(0)
# no two pixels are alike, and no two sides
KNOWN = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3) * 5
PHOTO = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
# what a file may raise that is no image, or a damaged one
REFUSED = (OSError, ValueError, SyntaxError)


def encoded(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    """Return an image, or an array of pixels, as the bytes of a file."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def oriented(value: Any) -> Image.Exif:
    """Return EXIF that says how an image is turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def read(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(read_pixels(content))


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, depth: int, colours: int, *chunks: bytes) -> bytes:
    """Return a PNG whose header says this of it, with some chunks behind it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return content + b"".join(chunks) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------- upright

# how a picture that stands upright was stored, for each way that EXIF numbers
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", sorted(STORED))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_an_image_stands_as_its_exif_says(orientation: int, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    stored = np.ascontiguousarray(STORED[orientation](KNOWN))
    content = encoded(stored, form, exif=oriented(orientation), **options)
    np.testing.assert_array_equal(read(content), KNOWN)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_the_library_itself_turns_it(orientation: int) -> None:
    content = encoded(PHOTO, "JPEG", exif=oriented(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert upright is not None
    np.testing.assert_array_equal(read(content), np.asarray(upright))


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    content = encoded(KNOWN, exif=oriented(value))
    np.testing.assert_array_equal(read(content), KNOWN)


def test_damaged_exif_leaves_an_image_as_it_is() -> None:
    plain = encoded(KNOWN)
    end = plain.index(b"IDAT") - 4
    for damage in (b"II*\0\xff\xff\xff\x7f", b"nonsense", b"MM\0*\0\0\0\x08\0\x09"):
        content = plain[:end] + chunk(b"eXIf", damage) + plain[end:]
        np.testing.assert_array_equal(read(content), KNOWN)
    # words where a number is due, beside the mark that tells how the image stands
    exif = oriented(6)
    exif[0x010E] = "a photo"
    photo = encoded(PHOTO, "JPEG", exif=exif)
    description = b"\x01\x0e\0\2"
    assert photo.count(description) == 1
    odd = photo.replace(description, b"\x01\x03\0\2")
    np.testing.assert_array_equal(read(odd), read(photo))
    assert read(odd).shape == (40, 24, 3)


# ---------------------------------------------------------------------- colours


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_grey_is_as_much_of_each_colour(form: str) -> None:
    grey = KNOWN[..., 0]
    np.testing.assert_array_equal(
        read(encoded(grey, form)), np.repeat(grey[..., None], 3, 2)
    )


def test_black_and_white() -> None:
    bits = np.array([[0, 255, 255], [255, 0, 0]], dtype=np.uint8)
    content = encoded(Image.fromarray(bits).convert("1"))
    assert Image.open(io.BytesIO(content)).mode == "1"
    np.testing.assert_array_equal(read(content)[..., 1], bits)


def test_of_16_bits_of_grey_the_upper_eight_are_kept() -> None:
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], dtype=np.uint16)
    expected = [[0, 0, 1], [128, 254, 255]]
    for content in (
        encoded(values),
        encoded(values, "TIFF"),
        # read and written elsewhere: the high byte first
        encoded(
            Image.frombytes("I;16B", (3, 2), values.astype(">u2").tobytes()), "TIFF"
        ),
    ):
        assert Image.open(io.BytesIO(content)).mode.startswith("I;16")
        for colour in range(3):
            assert read(content)[..., colour].tolist() == expected
    turned = read(encoded(values, exif=oriented(6)))
    assert turned[..., 0].tolist() == [[128, 0], [254, 0], [255, 1]]


def test_a_value_of_16_bits_that_is_transparent_is_white_and_no_other() -> None:
    values = struct.pack(">4H", 0, 25_600, 51_200, 65_535)
    key = struct.pack(">H", 25_600)
    data = chunk(b"IDAT", zlib.compress(b"\0" + values))
    content = png(4, 1, 16, 0, chunk(b"tRNS", key), data)
    assert read(content)[0, :, 0].tolist() == [0, 255, 200, 255]


def test_what_is_transparent_lies_on_white() -> None:
    colours = RNG.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    colours[0, :, 3] = 0
    colours[1, :, 3] = 255
    alpha = colours[..., 3:].astype(float) / 255
    expected = alpha * colours[..., :3] + (1 - alpha) * 255
    for form in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        shown = read(encoded(colours, form, **options))
        assert np.abs(shown - expected).max() <= 1
        assert (shown[0] == 255).all()
        np.testing.assert_array_equal(shown[1], colours[1, :, :3])
    grey = np.ascontiguousarray(colours[..., :2])
    grey[..., 1] = colours[..., 3]
    shown = read(encoded(_grey(grey)))
    expected = alpha * grey[..., :1] + (1 - alpha) * 255
    assert np.abs(shown - expected).max() <= 1


def _grey(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an image of grey and alpha (H, W, 2)."""
    size = (pixels.shape[1], pixels.shape[0])
    return Image.frombytes("LA", size, pixels.tobytes())


def test_a_palette_with_transparency() -> None:
    indices = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    opaque = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    assert read(encoded(image))[0].tolist() == opaque
    white = [255, 255, 255]
    for form in ("PNG", "GIF"):
        shown = read(encoded(image, form, transparency=1))
        assert shown[0].tolist() == [opaque[0], white, opaque[2]]
    # an alpha for each colour
    shown = read(encoded(image, transparency=bytes([255, 0, 128])))
    assert shown[0, :2].tolist() == [opaque[0], white]
    half = 128 / 255 * np.array(opaque[2]) + 127 / 255 * 255
    assert np.abs(shown[0, 2] - half).max() <= 1


def test_a_colour_that_is_transparent() -> None:
    content = encoded(KNOWN, transparency=tuple(KNOWN[1, 2].tolist()))
    expected = KNOWN.copy()
    expected[1, 2] = 255
    np.testing.assert_array_equal(read(content), expected)


def test_a_jpeg_for_print_has_the_colours_it_was_made_of() -> None:
    # cyan, magenta, yellow and black, in areas that its compression keeps
    inks = np.zeros((16, 64, 4), dtype=np.uint8)
    for index in range(4):
        inks[:, 16 * index : 16 * index + 16, index] = 255
    content = encoded(_inks(inks), "JPEG")
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    shown = read(content)[8, 8::16].astype(int)
    expected = [[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]
    assert np.abs(shown - expected).max() <= 8


def _inks(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an image of four inks (H, W, 4)."""
    size = (pixels.shape[1], pixels.shape[0])
    return Image.frombytes("CMYK", size, pixels.tobytes())


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_read(form: str) -> None:
    colours = ([255, 0, 0], [0, 255, 0], [0, 0, 255])
    frames = [
        Image.fromarray(np.full((8, 8, 3), colour, np.uint8)) for colour in colours
    ]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(
        frames[0], form, save_all=True, append_images=frames[1:], **options
    )
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert (read(content) == colours[0]).all()


# ---------------------------------------------------------------------- files that are refused


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_an_image_that_is_cut_off_is_refused(form: str) -> None:
    content = encoded(PHOTO, form)
    for part in (0.1, 0.5, 0.8):
        with pytest.raises(REFUSED):
            read_pixels(content[: int(len(content) * part)])
    read_pixels(content)


@pytest.mark.parametrize(
    ("width", "height"),
    [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (10_001, 10_000), (10**8 + 1, 1)],
)
def test_a_header_of_too_many_pixels_is_refused_before_memory_is_taken(
    width: int, height: int
) -> None:
    assert width * height > MOST_PIXELS
    content = png(width, height, 8, 2, chunk(b"IDAT", zlib.compress(bytes(1000))))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="decompression bomb"):
            read_pixels(content)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_of_other_formats_is_refused() -> None:
    for form, start in (("GIF", 6), ("BMP", 18)):
        content = bytearray(encoded(KNOWN, form))
        large = struct.pack("<HH", 65_535, 65_535)
        if form == "BMP":
            large = struct.pack("<ii", 65_535, 65_535)
        content[start : start + len(large)] = large
        with pytest.raises(ValueError, match="decompression bomb"):
            read_pixels(bytes(content))


def test_the_size_of_a_bomb_is_named() -> None:
    content = png(10_001, 10_000, 8, 2, chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(
        ValueError, match="it has 10001 x 10000 pixels, more than 100,000,000"
    ):
        read_pixels(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "^the file is empty$"),
        (b"hello, this is text\n", "it begins as none of JPEG, PNG"),
        (b"\0" * 1000, "it begins as none of"),
        # a program, which another program would have to run
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
            "none of",
        ),
    ],
)
def test_what_is_no_image_is_refused_in_words(content: bytes, message: str) -> None:
    with pytest.raises(OSError, match=message) as caught:
        read_pixels(content)
    # nothing of the inside of a library
    assert "object at 0x" not in str(caught.value)


SEEDS = {
    "JPEG": encoded(PHOTO, "JPEG", exif=oriented(6)),
    "PNG": encoded(PHOTO, exif=oriented(3)),
    "GIF": encoded(PHOTO, "GIF"),
    "WEBP": encoded(PHOTO, "WEBP", exif=oriented(8)),
    "BMP": encoded(PHOTO, "BMP"),
    "grey": encoded(PHOTO[..., 0].astype(np.uint16) * 257),
    "palette": encoded(Image.fromarray(PHOTO).convert("P"), transparency=3),
}


@settings(max_examples=200)
@given(
    seed=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=8),
    end=st.none() | st.integers(0, 2000),
)
def test_whatever_bytes_come_an_image_is_read_or_refused(
    seed: str, changes: list[tuple[int, int]], end: int | None
) -> None:
    content = bytearray(SEEDS[seed])
    for position, value in changes:
        content[position % len(content)] = value
    try:
        pixels = read(bytes(content[:end]))
    except REFUSED:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_formats_are_those_that_are_said() -> None:
    for form in FORMATS:
        assert read(encoded(KNOWN, form)).shape == KNOWN.shape


# ---------------------------------------------------------------------- warnings


def test_threads_leave_the_filters_of_warnings_as_they_were() -> None:
    contents = [SEEDS["JPEG"], SEEDS["palette"]] * 100
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, contents))
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)


def test_the_librarys_warnings_are_no_errors() -> None:
    # of so many pixels the library warns, and it refuses twice as many
    content = png(9_500, 10_000, 8, 2, chunk(b"IDAT", zlib.compress(b"")))
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(content))
    with pytest.raises(OSError, match="truncated"):
        read_pixels(content)


# ---------------------------------------------------------------------- squares


def test_an_image_is_stretched_to_a_square_or_its_middle_is_taken() -> None:
    sides = np.zeros((8, 24, 3), dtype=np.uint8)
    sides[:, 8:16] = 100
    sides[:, 16:] = 200
    image = Image.fromarray(sides)
    assert (square(image, 8, middle=True) == 100).all()
    # pixels beside the middle tell on those at its edges
    assert square(image, 4, middle=True)[:, :, 1:3].tolist() == [[[100] * 2] * 4] * 3
    stretched = square(image, 6)
    assert stretched.shape == (3, 6, 6)
    assert stretched.dtype == np.uint8
    # two columns of each third
    assert stretched[0, 0, [0, 5]].tolist() == [0, 200]
    np.testing.assert_array_equal(stretched[0, 0], stretched[2, 5])
    upright = image.transpose(Image.Transpose.ROTATE_90)
    assert (square(upright, 8, middle=True) == 100).all()


@pytest.mark.parametrize("middle", [False, True])
def test_an_image_of_that_size_keeps_its_pixels(middle: bool) -> None:
    pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    read_back = square(Image.fromarray(pixels), 8, middle)
    np.testing.assert_array_equal(read_back, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("middle", [False, True])
def test_narrow_and_tiny_images_become_squares(
    size: tuple[int, int], middle: bool
) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    pixels = square(image, 5, middle)
    assert pixels.shape == (3, 5, 5)
    assert pixels.reshape(3, -1).T.tolist() == [[10, 20, 30]] * 25
