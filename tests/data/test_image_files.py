"""Where the bytes of an image are: files, stretches of an archive, and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unrolled.data import image_files
from unrolled.data.image_files import LARGEST, ImageFile, is_file

CONTENT = b"the bytes of an image"


def test_a_file_is_known_by_its_name_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(CONTENT)
    image = ImageFile.of("a/b.png", tmp_path)
    assert (image.name, str(image)) == ("a/b.png", "a/b.png")
    assert image.path == tmp_path / "a" / "b.png"
    assert image.is_there
    assert image.read() == CONTENT
    assert ImageFile.of(image, Path("elsewhere")) is image
    whole = str(tmp_path / "a" / "b.png")
    # a whole path is no matter of the folder
    for given in (whole, Path(whole)):
        known = ImageFile.of(given, Path("elsewhere"))
        assert known.name == whole
        assert known.read() == CONTENT


def test_a_name_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for name in ("none.png", "folder.png"):
        image = ImageFile.of(name, tmp_path)
        assert not image.is_there
        with pytest.raises(FileNotFoundError, match=f"no image is called {name}"):
            image.read()


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300 + ".png",
        "a\0b.png",
        "~nobody-at-all/x.png",
        "~1.png",
        "\ud800.png",
        "",
    ],
)
def test_no_text_of_a_cell_is_too_strange_to_be_looked_for(
    tmp_path: Path, name: str
) -> None:
    image = ImageFile.of(name, tmp_path)
    assert not image.is_there
    assert image.name == name


def test_a_name_that_begins_as_a_home_does(tmp_path: Path) -> None:
    (tmp_path / "~1.png").write_bytes(CONTENT)
    assert ImageFile.of("~1.png", tmp_path).read() == CONTENT


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.png").write_bytes(CONTENT)
    image = ImageFile.of("~/x.png", Path("elsewhere"))
    assert image.read() == CONTENT
    assert image.name == "~/x.png"


def test_bytes_are_named_by_what_they_are() -> None:
    image = ImageFile.of(CONTENT)
    assert image.is_there
    assert image.read() == CONTENT
    assert image.name.startswith("21 bytes ")
    assert ImageFile.of(bytes(CONTENT)).name == image.name
    assert ImageFile.of(CONTENT + b"!").name != image.name
    assert ImageFile.of(b"").is_there


def test_a_stretch_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(b"before" + CONTENT + b"after")
    image = ImageFile("x.png", path, offset=6, size=len(CONTENT))
    assert image.read() == CONTENT
    assert image.read() == CONTENT
    assert ImageFile("x.png", path, offset=0, size=6).read() == b"before"


def test_more_bytes_than_any_image_has_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)  # a hole, which takes no room
    with pytest.raises(ValueError, match="268,435,457 bytes, more than 268,435,456"):
        ImageFile.of(path).read()
    monkeypatch.setattr(image_files, "LARGEST", 4)
    path.write_bytes(b"four")
    assert ImageFile.of(path).read() == b"four"
    with pytest.raises(ValueError, match="it has 5 bytes, more than 4"):
        ImageFile("x.png", path, offset=0, size=5).read()


def test_a_file_that_went_away(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(CONTENT)
    image = ImageFile.of(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        image.read()


def test_what_the_system_refuses_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> bool:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert not is_file(Path("x.png"))
