"""Captions of images in one JSON object: COCO's form, and that of Karpathy's splits."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import table
from unrolled.core.errors import DataError
from unrolled.data.archives import find
from unrolled.data.formats import captions_json
from unrolled.data.formats.base import Head
from unrolled.data.formats.captions_json import CaptionsJsonFormat
from unrolled.data.image_files import ImageFile
from unrolled.data.schema import ColumnHints, infer
from unrolled.data.sources import Table, read
from unrolled.runs.divide import divide
from unrolled.runs.prepared import column_hints
from unrolled.runs.recipes import find_data, requested
from unrolled.tasks.recipe import Recipe

COCO: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [
        {"id": 7, "file_name": "b.png", "height": 4},
        {"id": 9, "file_name": "a.png", "height": 4},
        {"id": 11, "file_name": "none.png"},
    ],
    "licenses": [],
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "a dog runs in the grass"},
        {"id": 2, "image_id": 7, "caption": "two men sit on a bench"},
        {"id": 3, "image_id": 9, "caption": "the dog is brown"},
        {"id": 4, "image_id": 7, "bbox": [0, 0, 1, 1]},
    ],
}
KARPATHY: dict[str, Any] = {
    "images": [
        {
            "filepath": "val2014",
            "filename": "a.png",
            "split": "test",
            "sentences": [{"raw": "A dog.", "tokens": ["a", "dog"]}],
        },
        {
            "filename": "b.png",
            "split": "train",
            "sentences": [{"tokens": ["two", "men"]}, {"raw": "Men on a bench."}],
        },
        {"filename": "c.png", "split": "val", "sentences": [{"raw": "A red car."}]},
        {"filename": "d.png", "split": "restval", "sentences": [{"raw": "A sea."}]},
    ],
    "dataset": "flickr8k",
}


def write(path: Path, content: Any, **options: Any) -> Path:
    text = json.dumps(content, **options)
    path.write_text(text, encoding="utf-8")
    return path


def draw(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def changed(**changes: Any) -> dict[str, Any]:
    return {**COCO, **changes}


def rows(dataset: Table) -> list[tuple[Any, ...]]:
    """Return rows with the names of images instead of where these are."""
    return [
        tuple(str(c) if isinstance(c, ImageFile) else c for c in row)
        for row in dataset.rows
    ]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("name", ["captions.json", "captions.txt"])
def test_coco(tmp_path: Path, indent: int | None, name: str) -> None:
    draw(tmp_path, "images/a.png", "images/b.png")
    dataset = table(write(tmp_path / name, COCO, indent=indent))
    assert dataset.format.kind == "captions_json"
    assert dataset.columns == ["image", "caption"]
    # in the order of the images, each with all its captions
    assert rows(dataset) == [
        ("b.png", "two men sit on a bench"),
        ("a.png", "a dog runs in the grass"),
        ("a.png", "the dog is brown"),
    ]
    assert dataset.lines == [1, 2, 3]
    assert all(image.is_there for image in dataset.cells("image"))
    schema = infer(dataset, ColumnHints())
    assert (schema.task, schema.images, schema.answer) == (
        "caption",
        ("image",),
        "caption",
    )


def test_karpathy(tmp_path: Path) -> None:
    draw(tmp_path, "val2014/a.png", "b.png", "c.png", "d.png")
    dataset = table(write(tmp_path / "dataset.json", KARPATHY))
    assert dataset.columns == ["image", "caption", "split"]
    assert rows(dataset) == [
        ("val2014/a.png", "A dog.", "test"),
        ("b.png", "two men", "train"),
        ("b.png", "Men on a bench.", "train"),
        ("c.png", "A red car.", "val"),
        ("d.png", "A sea.", "restval"),
    ]
    assert all(image.is_there for image in dataset.cells("image"))
    schema = infer(dataset, ColumnHints())
    assert schema.answer == "caption"
    train, dev, how = divide(dataset, schema, Recipe())
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    assert [row[0] for row in rows(train)] == ["b.png", "b.png", "d.png"]
    assert [row[0] for row in rows(dev)] == ["c.png"]
    assert "1 rows of other parts are left out" in how


def test_the_recipe_of_coco_reads_this_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Karpathy's file of COCO names the folder of each image, beside which it lies."""
    parts = {"train": "train2014", "restval": "val2014", "val": "val2014"}
    images = []
    for number, (split, folder) in enumerate([*parts.items(), ("test", "val2014")]):
        name = f"COCO_{folder}_{number:012}.jpg"
        draw(tmp_path / "coco", f"{folder}/{name}")
        sentence = {"raw": "A dog runs.", "tokens": ["a", "dog", "runs"]}
        images.append(
            {
                "filepath": folder,
                "filename": name,
                "imgid": number,
                "split": split,
                "sentids": [number],
                "sentences": [{**sentence, "imgid": number, "sentid": number}],
            }
        )
    write(tmp_path / "coco/dataset_coco.json", {"images": images, "dataset": "coco"})
    monkeypatch.setenv("UNROLLED_DATA", str(tmp_path))
    recipe = requested("coco-captions", {})
    assert recipe.data.train
    dataset = table(find_data(recipe, recipe.data.train))
    assert all(image.is_there for image in dataset.cells("image"))
    schema = infer(dataset, column_hints(recipe))
    assert schema.task == recipe.task == "caption"
    train, dev, _ = divide(dataset, schema, recipe)
    assert isinstance(train, Table)
    assert isinstance(dev, Table)
    names = [[row[0][-5] for row in rows(part)] for part in (train, dev)]
    assert names == [["0", "1"], ["2"]]


def test_packed_and_in_a_folder(tmp_path: Path) -> None:
    draw(tmp_path, "images/a.png", "images/b.png")
    path = write(tmp_path / "captions.json", COCO)
    expected = rows(table(path))
    assert rows(table(tmp_path)) == expected
    packed = tmp_path / "captions.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    dataset = table(packed)
    assert dataset.format.gzip
    assert rows(dataset) == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(json.dumps(COCO).encode(encoding))
    assert len(table(path).rows) == 3


def test_texts_are_composed(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "é.png")
    caption = unicodedata.normalize("NFD", "개가 풀밭을 달린다")
    draw(tmp_path, name)
    content = changed(
        images=[{"id": 1, "file_name": name}],
        annotations=[{"image_id": 1, "caption": caption}],
    )
    for ascii_alone in (True, False):
        path = write(tmp_path / "d.json", content, ensure_ascii=ascii_alone)
        ((image, text),) = table(path).rows
        assert text == unicodedata.normalize("NFC", caption)
        assert image.is_there


@pytest.mark.parametrize("image_id", [404, "7", None, [7]])
def test_a_caption_of_no_image_is_an_error_of_its_row(
    tmp_path: Path, image_id: Any
) -> None:
    stray = [{"image_id": image_id, "caption": "x"}, {"image_id": 12, "caption": "y"}]
    path = write(tmp_path / "d.json", changed(annotations=COCO["annotations"] + stray))
    with pytest.raises(
        DataError, match=r"a caption is of the image .*, which is not there"
    ):
        read(path)
    dataset = table(path, on_error="skip")
    assert len(dataset.rows) == 3
    # in the order in which they stand
    shown = [error.message for error in dataset.skipped]
    assert [json.dumps(image_id) in shown[0], " 12," in shown[1]] == [True, True]
    assert [error.line for error in dataset.skipped] == [4, 5]


@pytest.mark.parametrize("image_id", ["000123", [1, 2], 1.5])
def test_images_may_be_known_by_anything(tmp_path: Path, image_id: Any) -> None:
    content = changed(
        images=[{"id": image_id, "file_name": "a.png"}],
        annotations=[{"image_id": image_id, "caption": "a dog"}],
    )
    assert rows(table(write(tmp_path / "d.json", content))) == [("a.png", "a dog")]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"filename": "a.png", "sentences": None}, []),
        ({"filename": "a.png", "sentences": ["a dog"]}, [("a.png", "a dog")]),
        ({"filename": "a.png", "sentences": [{"tokens": None}]}, [("a.png", "")]),
        ({"filename": "a.png", "sentences": [{"raw": 7}]}, [("a.png", 7)]),
        # without a name there is no path either
        ({"filepath": "v", "sentences": [{"raw": "x"}]}, [(None, "x")]),
        ({"filename": 7, "sentences": [{"raw": "x"}]}, [(7, "x")]),
    ],
)
def test_images_of_other_forms(
    tmp_path: Path, image: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    last = {"filename": "z.png", "sentences": [{"raw": "the last"}]}
    path = write(tmp_path / "d.json", {"images": [image, last]})
    assert rows(table(path)) == [*expected, ("z.png", "the last")]


@pytest.mark.parametrize(
    "content",
    [
        {"images": [], "annotations": []},
        {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1]}]},
        {"images": "none", "annotations": [{"caption": "x"}]},
    ],
)
def test_other_objects_are_no_captions(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "d.json", content)
    head = Head(find(path), None)
    assert CaptionsJsonFormat().sniff(head) is None


def test_rows_that_begin_alike_are_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    row = {"images": "a b", "caption": "x y"}
    path.write_text(f"{json.dumps(row)}\n" * 3)
    assert table(path).format.kind == "jsonl"


@pytest.mark.parametrize("content", [COCO, KARPATHY])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_that_is_cut_off(
    tmp_path: Path, content: Any, indent: int | None
) -> None:
    path = write(tmp_path / "captions.json", content, indent=indent)
    text = path.read_text()
    for end in range(40, len(text), 23):
        path.write_text(text[:end])
        with pytest.raises(
            DataError, match=r"captions\.json:[0-9]+: .* has no end; copy"
        ):
            read(path)


def test_a_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.json", COCO)
    text = path.read_text()
    path.with_suffix(".json.gz").write_bytes(gzip.compress(text.encode())[:150])
    with pytest.raises(
        DataError, match=r"captions\.json\.gz: cannot be read: .*copy it"
    ):
        read(path.with_suffix(".json.gz"))


def test_a_file_too_large_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "captions.json", COCO)
    monkeypatch.setattr(captions_json, "LARGEST", 100)
    with pytest.raises(DataError, match=r"captions\.json: .* write them as a table"):
        read(path)
