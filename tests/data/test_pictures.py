"""Tables that name images, folders of images, archives, and lists of what is held out."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import table, write_csv, write_jsonl
from unrolled.core.errors import DataError, UsageError
from unrolled.data.image_files import ImageFile
from unrolled.data.pictures import (
    ImageFolder,
    is_image,
    listed_parts,
    members_of_tar,
    names_in,
    rows_named,
    table_beside_images,
)
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Table, fingerprint, read, size
from unrolled.runs.divide import divide, divide_by_column, divide_by_lists
from unrolled.tasks.recipe import DataConfig, Recipe

DECOMPOSED = unicodedata.normalize("NFD", "가é.png")
COMPOSED = unicodedata.normalize("NFC", DECOMPOSED)
CAPTIONS = ["a dog runs in the grass", "two men sit on a bench", "a red car by the sea"]


def content(number: int) -> bytes:
    """Return an image that is like no other, as the bytes of a file."""
    pixels = np.full((4, 4, 3), number, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def draw(folder: Path, *names: str) -> dict[str, bytes]:
    """Write images below a folder; return their bytes by their names."""
    contents: dict[str, bytes] = {}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        contents[name] = content(number)
        path.write_bytes(contents[name])
    return contents


def pack(path: Path, contents: dict[str, bytes], **options: Any) -> Path:
    """Write an archive of tar that holds these files."""
    with tarfile.open(path, "w", **options) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def captioned(path: Path, *names: str) -> Path:
    """Write a table that says something of each image."""
    rows = [(name, CAPTIONS[row % 3]) for row, name in enumerate(names)]
    return write_csv(path, rows, ("image", "caption"))


def images(dataset: Table) -> list[ImageFile]:
    return dataset.cells(dataset.columns[0])


# ---------------------------------------------------------------------- columns that name images


def test_is_image() -> None:
    for name in ("a.jpg", "a.JPEG", "b/c.png", "x.webp", "x.bmp", "x.GIF"):
        assert is_image(name)
    for name in ("a.jpg.txt", "png", "jpg", "a.mp4", ""):
        assert not is_image(name)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_a_column_that_names_images_holds_where_they_are(
    tmp_path: Path, kind: str
) -> None:
    contents = draw(tmp_path, "a.png", "b.PNG", "c.png")
    rows = list(zip(contents, CAPTIONS, strict=True))
    path = tmp_path / f"d.{kind}"
    if kind == "csv":
        write_csv(path, rows, ("file", "caption"))
    elif kind == "tsv":
        path.write_text("".join(f"{a}\t{b}\n" for a, b in [("file", "caption"), *rows]))
    else:
        objects = [dict(zip(("file", "caption"), row, strict=True)) for row in rows]
        if kind == "jsonl":
            write_jsonl(path, objects)
        else:
            path.write_text(json.dumps(objects))
    dataset = table(path)
    assert dataset.columns == ["file", "caption"]
    cells = dataset.cells("file")
    assert [(image.name, image.read()) for image in cells] == list(contents.items())
    assert dataset.cells("caption") == CAPTIONS
    assert infer(dataset, ColumnHints()).images == ("file",)


def test_a_table_without_a_header(tmp_path: Path) -> None:
    contents = draw(tmp_path, "a.png", "b.png")
    path = tmp_path / "d.tsv"
    path.write_text(f"a.png\t{CAPTIONS[0]}\nb.png\t{CAPTIONS[1]}\n")
    dataset = table(path)
    assert [image.read() for image in images(dataset)] == list(contents.values())


def test_words_that_end_as_images_do_are_words(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    rows = [("I looked at a.png", "good"), ("it was not there", "bad")] * 10
    dataset = table(write_csv(tmp_path / "d.csv", rows, ("text", "label")))
    assert dataset.rows == rows
    # one cell that names no image is enough
    rows = [("a.png", "good")] * 10 + [("none", "bad")]
    dataset = table(write_csv(tmp_path / "d.csv", rows, ("text", "label")))
    assert dataset.rows == rows
    lists = [{"words": ["a.png", "b.png"], "tags": ["N", "N"]}] * 3
    assert (
        table(write_jsonl(tmp_path / "d.jsonl", lists)).rows[0][0] == lists[0]["words"]
    )


def test_text_alone_is_no_table_of_images(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    path = tmp_path / "d.txt"
    path.write_text("a.png\nb.png\n")
    assert read(path).format.kind == "text"


def test_two_columns_of_images(tmp_path: Path) -> None:
    contents = draw(tmp_path, "a.png", "b.png")
    path = write_csv(
        tmp_path / "d.csv", [("a.png", "b.png", "x")] * 4, ("l", "r", "label")
    )
    for left, right, label in table(path).rows:
        assert [left.read(), right.read()] == list(contents.values())
        assert label == "x"


def test_an_empty_cell_and_a_missing_image_stay_rows(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    dataset = table(captioned(tmp_path / "d.csv", "a.png", "", "none.png", "a.png"))
    first, empty, missing, last = images(dataset)
    assert first.is_there
    assert empty == ""
    assert (missing.name, missing.is_there, missing.shared) == (
        "none.png",
        False,
        False,
    )
    assert last == first
    # whoever reads on knows that such a cell is to name an image
    late = ["a.png"] * 30 + ["no image", "x" * 400 + ".png"]
    cells = images(table(captioned(tmp_path / "d.csv", *late)))
    assert [cell.is_there for cell in cells[-3:]] == [True, False, False]


# ---------------------------------------------------------------------- where they are looked for


def test_images_are_found_in_folders_below_by_path_or_by_name(tmp_path: Path) -> None:
    contents = draw(tmp_path, "photos/2020/a.png", "photos/b.png", "c.png")
    path = captioned(
        tmp_path / "d.csv", "photos/2020/a.png", "b.png", "./c.png", "a.png"
    )
    cells = images(table(path))
    expected = [*contents.values(), contents["photos/2020/a.png"]]
    assert [image.read() for image in cells] == expected
    assert [image.name for image in cells][1:3] == ["b.png", "./c.png"]


def test_a_name_that_several_images_share_is_none_of_them(tmp_path: Path) -> None:
    contents = draw(tmp_path, "one/a.png", "two/a.png", "three/a.png", "two/b.png")
    path = captioned(tmp_path / "d.csv", "a.png", "two/a.png", "b.png")
    shared, second, other = images(table(path))
    assert (shared.is_there, shared.shared, shared.name) == (False, True, "a.png")
    assert second.read() == contents["two/a.png"]
    assert other.read() == contents["two/b.png"]
    # an image beside the table is meant before those below it
    draw(tmp_path, "a.png")
    assert images(table(path))[0].path == tmp_path / "a.png"


def test_an_image_that_lacks_in_its_folder_is_none_of_another(tmp_path: Path) -> None:
    contents = draw(tmp_path, "train/1.png", "test/2.png", "c.png")
    names = ("train/1.png", "train/2.png", "train/c.png", "elsewhere/2.png", "2.png")
    cells = images(table(captioned(tmp_path / "d.csv", *names)))
    assert [image.is_there for image in cells] == [True, False, False, True, True]
    assert not any(image.shared for image in cells)
    # of a folder that is not there its name alone is looked for
    assert cells[3].read() == cells[4].read() == contents["test/2.png"]


def test_whole_paths_and_paths_that_lead_upwards(tmp_path: Path) -> None:
    contents = draw(tmp_path / "photos", "one/a.png", "two/a.png")
    (tmp_path / "words").mkdir()
    whole = str(tmp_path / "photos" / "two" / "a.png")
    names = ("../photos/one/a.png", whole, str(tmp_path / "none.png"))
    cells = images(table(captioned(tmp_path / "words" / "d.csv", *names)))
    assert [cell.read() for cell in cells[:2]] == list(contents.values())
    assert [cell.name for cell in cells] == list(names)
    assert not cells[2].is_there


@pytest.mark.parametrize("name", ["annotations", "Flickr8k_text", "set.captions"])
def test_annotations_beside_the_folder_of_images(tmp_path: Path, name: str) -> None:
    contents = draw(tmp_path / "photos", "a.png", "b.png")
    (tmp_path / name).mkdir()
    path = captioned(tmp_path / name / "d.csv", "a.png", "photos/b.png")
    assert [image.read() for image in images(table(path))] == list(contents.values())
    # images in the folder itself come first
    draw(tmp_path / name, "c.png")
    assert [image.is_there for image in images(table(path))] == [False, False]


def test_images_of_another_data_set_are_none_of_this(tmp_path: Path) -> None:
    draw(tmp_path / "others", "a.png")
    (tmp_path / "mine").mkdir()
    # nor does it matter what is wrong with the files of others
    (tmp_path / "others" / "i.tar").write_bytes(b"no archive")
    (image,) = images(table(captioned(tmp_path / "mine" / "d.csv", "a.png")))
    assert not image.is_there


def test_where_paths_lead_to_images_no_folder_is_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, "a.png", "b/b.png")
    path = captioned(tmp_path / "d.csv", "a.png", str(tmp_path / "b" / "b.png"))

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("went through a folder")

    monkeypatch.setattr(os, "walk", refuse)
    assert all(image.is_there for image in images(table(path)))


@pytest.mark.parametrize("written", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("folder", [".", "사진"])
def test_names_that_are_not_ascii(
    tmp_path: Path, written: str, stored: str, folder: str
) -> None:
    (data,) = draw(tmp_path / folder, stored).values()
    for path in (
        captioned(tmp_path / "d.csv", written),
        write_jsonl(tmp_path / "d.jsonl", [{"image": written, "caption": CAPTIONS[0]}]),
    ):
        (image,) = images(table(path))
        assert image.read() == data


def test_names_in_an_archive_that_are_not_ascii(tmp_path: Path) -> None:
    pack(tmp_path / "i.tar", {f"사진/{DECOMPOSED}": content(7)})
    for written in (COMPOSED, f"사진/{COMPOSED}"):
        (image,) = images(table(captioned(tmp_path / "d.csv", written)))
        assert image.read() == content(7)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    draw(tmp_path, "a/.b.png", ".c/d.png", "e.png")
    # as a Mac writes them beside files that it copies
    (tmp_path / "._images.tar").write_bytes(b"no archive")
    assert list(ImageFolder(tmp_path).by_path) == ["e.png"]


# ---------------------------------------------------------------------- archives


@pytest.mark.parametrize(
    "form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]
)
def test_images_of_an_archive_are_read_in_place(tmp_path: Path, form: int) -> None:
    names = ["a.png", "deep/" * 12 + "b.png", "deep/c.png"]
    contents = {name: content(number) for number, name in enumerate(names)}
    path = pack(tmp_path / "i.tar", {"README.md": b"about", **contents}, format=form)
    members = members_of_tar(path)
    assert [member.name for member in members] == names
    assert [member.read() for member in members] == list(contents.values())
    cells = images(table(captioned(tmp_path / "d.csv", *names, "b.png")))
    assert [cell.read() for cell in cells] == [*contents.values(), contents[names[1]]]
    assert {path.name for path in tmp_path.iterdir()} == {"i.tar", "d.csv"}


def test_paths_in_an_archive_of_the_folder_it_was_made_in(tmp_path: Path) -> None:
    contents = {"./one/a.png": content(1), "./two/a.png": content(2)}
    pack(tmp_path / "i.tar", contents)
    cells = images(table(captioned(tmp_path / "d.csv", "one/a.png", "./two/a.png")))
    assert [cell.read() for cell in cells] == list(contents.values())


def test_files_come_before_archives_of_the_same_names(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    pack(tmp_path / "i.tar", {"a.png": content(9), "b.png": content(8)})
    cells = images(table(captioned(tmp_path / "d.csv", "a.png", "b.png")))
    assert [cell.read() for cell in cells] == [content(0), content(8)]


def test_links_folders_and_holes_of_an_archive_are_no_images(tmp_path: Path) -> None:
    path = pack(tmp_path / "i.tar", {"a.png": content(1)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("b.png")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("c.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        holes = tarfile.TarInfo("d.png")
        holes.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}
        holes.size = 1
        archive.addfile(holes, io.BytesIO(b"x"))
    assert [member.name for member in members_of_tar(path)] == ["a.png"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    contents = {f"{number}.png": content(number) for number in range(9)}
    path = pack(tmp_path / "i.tar", contents)
    whole = path.read_bytes()
    names = captioned(tmp_path / "d.csv", *contents)
    for damaged in (
        whole[:700],
        whole[: 5 * 1024 - 300],
        b"",
        whole[:1024] + b"x" * 512 + whole[1536:],
        gzip.compress(whole),
        b"no archive",
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"i\.tar: .*copy it anew, or unpack it"):
            read(names)
    path.write_bytes(whole)
    assert all(image.is_there for image in images(table(names)))


# ---------------------------------------------------------------------- folders


def test_a_folder_with_one_table_is_that_table(tmp_path: Path) -> None:
    contents = draw(tmp_path, "images/a.png", "images/b.png")
    path = captioned(tmp_path / "captions.csv", "images/a.png", "b.png", "none.png")
    (tmp_path / "train_images.txt").write_text("a.png\n")
    assert table_beside_images(tmp_path) == path
    dataset = table(tmp_path)
    cells = images(dataset)
    assert [cell.read() for cell in cells[:2]] == list(contents.values())
    assert dataset.path == str(tmp_path)
    # errors name the table and its line, not the folder
    assert dataset.position(dataset.lines[2]) == (str(path), 4)


def test_a_faulty_line_of_a_table_in_a_folder_is_named(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    path = captioned(tmp_path / "captions.csv", "a.png", "a.png")
    path.write_text(path.read_text() + "a.png,b,c\n")
    with pytest.raises(DataError, match=r"captions\.csv:4: expected 2 fields"):
        read(tmp_path)
    dataset = table(tmp_path, on_error="skip")
    assert len(dataset.rows) == 2
    assert len(dataset.skipped) == 1


def test_tables_of_captions_or_questions_come_before_others(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    captioned(tmp_path / "notes.csv", "a.png")
    with_captions = captioned(tmp_path / "captions.csv", "a.png")
    assert table_beside_images(tmp_path) == with_captions
    # files that a Mac writes beside others
    (tmp_path / "._captions.csv").write_bytes(b"\0\5\x16\7")
    assert table_beside_images(tmp_path) == with_captions
    inner = tmp_path / "photos"
    draw(inner, "a.png")
    captioned(inner / "captions.tsv", "a.png")
    assert table_beside_images(tmp_path) == with_captions


def test_several_tables_beside_images_are_refused_with_their_names(
    tmp_path: Path,
) -> None:
    draw(tmp_path, "photos/a.png")
    for name in ("a_train.csv", "a_val.csv"):
        captioned(tmp_path / name, "a.png")
    with pytest.raises(
        DataError, match=r"the tables a_train\.csv, a_val\.csv; give one"
    ):
        read(tmp_path)


def test_a_folder_without_images_is_no_folder_of_images(tmp_path: Path) -> None:
    captioned(tmp_path / "captions.csv", "a.png")
    (tmp_path / ".hidden.png").write_bytes(content(1))
    assert table_beside_images(tmp_path) is None
    pack(tmp_path / "i.tar", {"a.png": content(1)})
    assert table_beside_images(tmp_path) == tmp_path / "captions.csv"


def test_folders_of_images_are_labels(tmp_path: Path) -> None:
    names = ("dog/1.png", "cat/2.PNG", "cat/1.png", f"{DECOMPOSED[:-4]}/1.png")
    contents = draw(tmp_path, *names, ".hidden/1.png", "dog/.2.png")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dog" / "notes.txt").write_text("about")
    dataset = table(tmp_path)
    assert dataset.format.kind == "folder"
    assert dataset.columns == ["image", "label"]
    rows = {(image.name, label): image.read() for image, label in dataset.rows}
    labels = ("dog", "cat", "cat", COMPOSED[:-4])
    expected = zip(names, labels, strict=True)
    assert rows == {(name, label): contents[name] for name, label in expected}
    assert [image.name for image, _ in dataset.rows][:3] == [
        "cat/1.png",
        "cat/2.PNG",
        "dog/1.png",
    ]
    # what is wrong with an image names its file
    path, line = dataset.position(dataset.lines[2])
    assert (path, line) == (str(tmp_path / "dog" / "1.png"), 1)
    schema = infer(dataset, ColumnHints())
    assert (schema.task, schema.answer, schema.images) == (
        "classify",
        "label",
        ("image",),
    )
    assert size(tmp_path) >= sum(len(contents[name]) for name in names)


def test_the_fingerprint_of_a_folder_is_that_of_its_images(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.png", "dog/1.png")
    first = fingerprint(tmp_path)
    (tmp_path / "dog" / "1.png").write_bytes(content(200))
    assert fingerprint(tmp_path) != first


def test_parts_of_a_data_set_are_no_labels(tmp_path: Path) -> None:
    draw(tmp_path, "Train/1.png", "val_2014/1.png")
    with pytest.raises(DataError, match="folders Train, val_2014 are parts of a data"):
        read(tmp_path)
    draw(tmp_path, "cat/1.png")
    assert set(table(tmp_path).cells("label")) == {"Train", "val_2014", "cat"}


def test_parts_with_labels_in_them_are_given_by_themselves(tmp_path: Path) -> None:
    draw(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png")
    with pytest.raises(DataError, match=r"train, val are parts .*train'.*val'"):
        read(tmp_path)
    assert table(tmp_path / "train").cells("label") == ["cat", "dog"]


def test_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        draw(tmp_path, f"{name}/1.png", "b/1.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(DataError, match="is a label, and is no UTF-8; rename it"):
        read(tmp_path)


# ---------------------------------------------------------------------- what is held out


def test_lists_beside_the_images(tmp_path: Path) -> None:
    assert listed_parts(tmp_path) is None
    train = tmp_path / "Flickr_8k.trainImages.txt"
    train.write_text("a.png\n")
    assert listed_parts(tmp_path) is None
    for name in ("Flickr_8k.devImages.txt", "val.txt"):
        dev = tmp_path / name
        dev.write_text("b.png\n")
        (tmp_path / "Flickr_8k.testImages.txt").write_text("c.png\n")
        assert listed_parts(tmp_path) == (train, dev)
        # of both parts, which stands beside them in some sets
        (tmp_path / "trainval.txt").write_text("a.png\nb.png\n")
        (tmp_path / "._train.txt").write_bytes(b"\0")
        assert listed_parts(tmp_path) == (train, dev)
        dev.unlink()
    for name in ("train2.txt", "dev.txt"):
        (tmp_path / name).write_text("a.png\n")
    # which of the two is meant cannot be told
    assert listed_parts(tmp_path) is None


def test_names_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(f"\ufeffa.png\r\n  b c.png \n\n{DECOMPOSED}\r\n".encode())
    assert names_in(path) == {"a.png", "b c.png", COMPOSED}
    path.write_bytes(b"\xff\xfea\0")
    with pytest.raises(
        DataError, match=r"train\.txt: cannot be read as a list of names"
    ):
        names_in(path)
    with pytest.raises(
        DataError, match=r"none\.txt: cannot be read as a list of names"
    ):
        names_in(tmp_path / "none.txt")


def test_rows_that_a_list_names() -> None:
    cells = ["x/a.png", ImageFile("y/b.png", None), "a.png", DECOMPOSED, None, ""]
    assert rows_named(cells, {"a.png"}) == [0, 2]
    assert rows_named(cells, {"x/a.png", "y/b.png"}) == [0, 1]
    assert rows_named(cells, {COMPOSED}) == [3]
    assert rows_named(cells, set()) == []


def held(
    folder: Path, train: str, dev: str, names: tuple[str, ...]
) -> tuple[Table, Table, str]:
    """Divide a table of images by two lists that lie beside it."""
    draw(folder, *names)
    captioned(folder / "captions.csv", *names)
    (folder / "train_images.txt").write_text(train)
    (folder / "dev_images.txt").write_text(dev)
    dataset = table(folder)
    return divide(dataset, infer(dataset, ColumnHints()), Recipe())  # type: ignore[return-value]


def test_a_folder_with_lists_is_divided_by_them(tmp_path: Path) -> None:
    names = ("p/a.png", "p/b.png", "p/c.png", "p/d.png")
    train, dev, how = held(tmp_path, "a.png\np/b.png\n", "c.png\n", names)
    assert [image.name for image in images(train)] == ["p/a.png", "p/b.png"]
    assert [image.name for image in images(dev)] == ["p/c.png"]
    assert train.lines + dev.lines == [2, 3, 4]
    assert "1 rows of the images in dev_images.txt" in how
    assert "1 rows of other images are left out" in how


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        ("a.png\nb.png\n", "b.png\n", r"'b\.png' stands in train_images\.txt too"),
        # the same image by its path, and by its name alone
        ("a.png\np/b.png\n", "b.png\n", r"'p/b\.png' stands in train_images\.txt too"),
        ("b.png\n", "p/b.png\n", r"'p/b\.png' stands in train_images\.txt too"),
    ],
)
def test_an_image_in_both_lists_is_refused(
    tmp_path: Path, train: str, dev: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        held(tmp_path, train, dev, ("p/a.png", "p/b.png"))
    assert caught.value.path == str(tmp_path / "dev_images.txt")
    assert "leave it out of one list" in str(caught.value)


def test_a_list_that_names_no_image_of_the_table(tmp_path: Path) -> None:
    message = r"train_images\.txt: no image of .* stands in this list; name them as"
    with pytest.raises(DataError, match=message):
        held(tmp_path, "2007_000027\n", "b.png\n", ("p/a.png", "p/b.png"))


def test_lists_that_are_named(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png")
    dataset = table(captioned(tmp_path / "d.csv", "a.png", "b.png", "a.png"))
    schema = infer(dataset, ColumnHints())
    lists = {name: tmp_path / f"{name}.list" for name in ("train_list", "dev_list")}
    lists["train_list"].write_text("a.png\n")
    lists["dev_list"].write_text("b.png\n")
    settings = {name: str(path) for name, path in lists.items()}
    train, dev, _ = divide(dataset, schema, Recipe(data=DataConfig(**settings)))
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    assert (train.lines, dev.lines) == ([2, 4], [3])
    assert divide_by_lists(dataset, schema, *lists.values())[0] == train
    for name, path in settings.items():
        with pytest.raises(UsageError, match=r"data\.train_list and data\.dev_list"):
            divide(dataset, schema, Recipe(data=DataConfig(**{name: path})))


def split(folder: Path, parts: list[str]) -> tuple[Table, Schema]:
    """Return a table of images with a column that says the part of each."""
    names = [f"{row}.png" for row in range(len(parts))]
    draw(folder, *names)
    rows = [
        (name, CAPTIONS[row % 3], part)
        for row, (name, part) in enumerate(zip(names, parts, strict=True))
    ]
    dataset = table(write_csv(folder / "d.csv", rows, ("image", "caption", "split")))
    return dataset, infer(dataset, ColumnHints(label="caption"))


def test_a_column_says_which_rows_are_held_out(tmp_path: Path) -> None:
    dataset, schema = split(
        tmp_path, ["train", "val", "test", "restval", " Dev ", "validation", ""]
    )
    parts = divide(dataset, schema, Recipe())
    assert parts == divide_by_column(dataset)
    train, dev, how = parts
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    assert (train.lines, dev.lines) == ([2, 5], [3, 6, 7])
    assert "held out the 3 rows whose split is val or dev" in how
    assert "2 rows of other parts are left out" in how


def test_rows_of_a_test_are_never_learnt(tmp_path: Path) -> None:
    dataset, schema = split(tmp_path, ["train"] * 8 + ["test"] * 8)
    assert divide_by_column(dataset) is None
    train, dev, _ = divide(dataset, schema, Recipe())
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    assert {*train.cells("split"), *dev.cells("split")} == {"train"}
    assert len(train.rows) + len(dev.rows) == 8


def test_a_column_of_another_sense_divides_nothing(tmp_path: Path) -> None:
    dataset, schema = split(tmp_path, ["banana", "wood"] * 8)
    train, dev, how = divide(dataset, schema, Recipe())
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    assert len(train.rows) + len(dev.rows) == 16
    assert "by the hash of image" in how


def test_rows_of_an_image_stay_together(tmp_path: Path) -> None:
    names = [f"{number % 12}.png" for number in range(60)]
    draw(tmp_path, *names[:12])
    dataset = table(captioned(tmp_path / "d.csv", *names))
    train, dev, _ = divide(dataset, infer(dataset, ColumnHints()), Recipe())
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    learnt, scored = ({str(image) for image in images(part)} for part in (train, dev))
    assert learnt
    assert scored
    assert not learnt & scored
