"""Images as cells: names, bytes and paths, squares of pixels, and files that are none."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from conftest import table, write_csv
from unrolled.core.errors import DataError
from unrolled.data.image_files import ImageFile
from unrolled.data.sources import Table
from unrolled.fields.base import InvalidCell
from unrolled.fields.image import Image
from unrolled.tasks.image_rows import ImageRows, read_rows

RNG = np.random.default_rng(0)
FIELD = Image("picture", 8)
PIXELS = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], form: str = "PNG") -> bytes:
    content = io.BytesIO()
    Pillow.fromarray(pixels).save(content, form)
    return content.getvalue()


CONTENTS = [encoded(pixels) for pixels in PIXELS]
PHOTO = encoded(RNG.integers(0, 256, (30, 20, 3), dtype=np.uint8), "JPEG")


def bomb() -> bytes:
    """Return a PNG of a few bytes that says it has 3.6 thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


# what is no image that can be read, by the name of its file, and what is said of it
DAMAGED = {
    "empty.png": (b"", "the file is empty"),
    "text.jpg": (b"hello, I am no image", "it begins as none of JPEG, PNG"),
    "cut.jpg": (PHOTO[: len(PHOTO) // 2], "[Tt]runcated"),
    "cut.png": (encoded(PIXELS[0].repeat(9, 0))[:150], ""),
    "bomb.png": (bomb(), "decompression bomb"),
}


# ---------------------------------------------------------------------- cells


def test_an_image_may_be_given_as_a_name_a_path_or_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(CONTENTS[0])
    monkeypatch.chdir(tmp_path)
    for cell in ("a.png", str(path), path, CONTENTS[0], ImageFile.of(path)):
        for image in (FIELD.check(cell), FIELD.check_to_predict((cell,))):
            assert isinstance(image, ImageFile)
            pixels = FIELD.decode(image)
            np.testing.assert_array_equal(pixels, PIXELS[0].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "column 'picture' names no image"),
        ("", "column 'picture' names no image"),
        (7, "column 'picture' holds 7 where the name of an image is expected"),
        ([1, 2], r"column 'picture' holds \[1, 2\] where the name"),
        ("none.png", "column 'picture': there is no image 'none.png'"),
        (Path("none.png"), "there is no image 'none.png'"),
        (".", "there is no image '.'"),
        ("~nobody/x.png", "there is no image '~nobody/x.png'"),
        ("x" * 5000, r"there is no image 'x+ \.\.\. x+'"),
        ("a\0b.png", r"there is no image 'a\\x00b.png'"),
        ("https://a.b/c.png", "there is no image 'https://a.b/c.png'"),
        (ImageFile("x/a.png", None), "there is no image 'x/a.png'"),
        (
            ImageFile("a.png", None, shared=True),
            "several images are called 'a.png'; write their paths in the folder",
        ),
    ],
)
def test_a_cell_without_an_image(cell: Any, message: str) -> None:
    with pytest.raises(InvalidCell, match=message) as caught:
        FIELD.check(cell)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    content, message = DAMAGED[name]
    path = tmp_path / name
    path.write_bytes(content)
    pattern = rf"column 'picture': '.*{name}' cannot be read as an image: .*{message}"
    with pytest.raises(InvalidCell, match=pattern):
        FIELD.decode(FIELD.check(path))
    with pytest.raises(InvalidCell, match=rf"'{len(content)} bytes .*' cannot be read"):
        FIELD.decode(FIELD.check(content))


def test_an_image_that_went_away(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(CONTENTS[0])
    image = FIELD.check(path)
    path.unlink()
    with pytest.raises(
        InvalidCell, match=r"cannot be read as an image: .*No such file"
    ):
        FIELD.decode(image)


def test_memory_that_cannot_be_had_is_said_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(content: bytes) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr("unrolled.fields.image.read_pixels", refuse)
    with pytest.raises(InvalidCell, match="cannot be read as an image: no room"):
        FIELD.decode(FIELD.check(CONTENTS[0]))


# ---------------------------------------------------------------------- pixels


def test_images_become_squares() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    image = ImageFile.of(encoded(wide))
    stretched = Image("p", 10).decode(image)
    cropped = Image("p", 10, "crop").decode(image)
    assert stretched.shape == cropped.shape == (3, 10, 10)
    assert (cropped == 200).all()
    assert stretched[0, 0, 0] == 0
    assert stretched[0, 0, 5] == 200


def test_many_images_are_read_side_by_side_in_their_order() -> None:
    files: list[ImageFile] = []
    for number in range(40):
        content = b"no image" if number % 8 == 3 else CONTENTS[number % 5]
        files.append(ImageFile.of(content))
    before = list(warnings.filters)
    decoded = FIELD.decode_many(files)
    # threads leave nothing behind that would hide warnings of others
    assert warnings.filters == before
    assert len(decoded) == 40
    for number, pixels in enumerate(decoded):
        if number % 8 == 3:
            assert isinstance(pixels, InvalidCell)
        else:
            expected = PIXELS[number % 5].transpose(2, 0, 1)
            np.testing.assert_array_equal(pixels, expected)
    assert FIELD.decode_many([]) == []


def test_examples() -> None:
    rows = [FIELD.check(content) for content in CONTENTS]
    examples = FIELD.examples(rows, np.array([3, 5, 6, 7, 9]))
    assert examples.lines.tolist() == [3, 5, 6, 7, 9]
    assert examples.images is not None
    np.testing.assert_array_equal(examples.images.pixels, PIXELS.transpose(0, 3, 1, 2))
    assert examples.images.rows.tolist() == list(range(5))


def test_a_field_is_saved_and_read_back() -> None:
    for field in (FIELD, Image("a", 32, "crop")):
        values = json.loads(json.dumps(field.to_json()))
        assert Image.from_json(values) == field
        assert field.columns == (field.column,)


# ---------------------------------------------------------------------- rows of a file


def dataset(folder: Path, names: list[str]) -> Table:
    """Return a table of images beside which some lie, sound and damaged ones."""
    for number, content in enumerate(CONTENTS):
        (folder / f"{number}.png").write_bytes(content)
    for name, (content, _) in DAMAGED.items():
        (folder / name).write_bytes(content)
    rows = [(name, f"row {row}") for row, name in enumerate(names)]
    return table(write_csv(folder / "d.csv", rows, ("image", "caption")))


def rows_of(data: Table, on_error: str = "stop") -> ImageRows:
    return read_rows(FIELD, data, 0, lambda cells: cells[1], on_error)


def test_each_image_is_read_once(tmp_path: Path) -> None:
    rows = rows_of(dataset(tmp_path, ["2.png", "0.png", "2.png", "1.png", "0.png"]))
    assert rows.names == ("2.png", "0.png", "1.png")
    assert rows.images.rows.tolist() == [0, 1, 0, 2, 1]
    expected = PIXELS[[2, 0, 1]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(rows.images.pixels, expected)
    assert rows.lines.tolist() == [2, 3, 4, 5, 6]
    assert rows.values == [f"row {row}" for row in range(5)]
    assert rows.errors == []


@pytest.mark.parametrize("name", ["none.png", "", *sorted(DAMAGED)])
def test_a_faulty_image_is_an_error_of_its_line_or_a_row_that_is_counted(
    tmp_path: Path, name: str
) -> None:
    data = dataset(tmp_path, ["0.png", name, "1.png", name])
    with pytest.raises(
        DataError, match=r"mend the row, or set data\.on_error=skip"
    ) as caught:
        rows_of(data)
    assert (caught.value.path, caught.value.line) == (str(tmp_path / "d.csv"), 3)
    assert repr(name) in str(caught.value) or not name
    rows = rows_of(data, "skip")
    assert rows.lines.tolist() == [2, 4]
    assert [(error.path, error.line) for error in rows.errors] == [
        (str(tmp_path / "d.csv"), 3),
        (str(tmp_path / "d.csv"), 5),
    ]


def test_a_file_without_any_image_that_can_be_read(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["none.png", "text.jpg"])
    for on_error in ("stop", "skip"):
        with pytest.raises(DataError, match=r"d\.csv:2: .*'none\.png'"):
            rows_of(data, on_error)


def test_images_of_an_archive_have_the_pixels_of_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "i.tar", "w") as archive:
        for number, content in enumerate((*CONTENTS, PHOTO[:300])):
            member = tarfile.TarInfo(f"photos/{number}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    names = [f"photos/{number}.png" for number in range(6)]
    rows = [(name, "a dog") for name in names]
    data = table(write_csv(tmp_path / "d.csv", rows, ("image", "caption")))
    with pytest.raises(DataError, match=r"d\.csv:7: .*'photos/5\.png' cannot be read"):
        rows_of(data)
    sound = rows_of(data, "skip")
    np.testing.assert_array_equal(sound.images.pixels, PIXELS.transpose(0, 3, 1, 2))


def test_a_damaged_image_of_a_folder_is_named_by_its_file(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(CONTENTS[0])
    (tmp_path / "dog" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/2\.png:1: .*the file is empty"):
        rows_of(table(tmp_path))
    assert rows_of(table(tmp_path), "skip").values == ["cat", "dog"]
