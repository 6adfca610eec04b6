"""What is said of images and clips: the column, and the task it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import table, write_csv
from unrolled.core.errors import DataError, UsageError
from unrolled.data.schema import ColumnHints, Schema, infer
from unrolled.data.sources import Table

CAPTIONS = ("a dog runs in the grass", "two men sit on a bench", "a red car by the sea")
ROWS = range(24)


def beside_an_image(folder: Path, header: tuple[str, ...], cells: list[tuple]) -> Table:
    """Return a table whose rows begin with an image each."""
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    rows = [("a.png", *row) for row in cells]
    return table(write_csv(folder / "d.csv", rows, header))


def captions(folder: Path, name: str = "caption") -> Table:
    return beside_an_image(
        folder, ("image", name), [(CAPTIONS[row % 3],) for row in ROWS]
    )


def shortly(schema: Schema) -> tuple[str, tuple[str, ...], tuple[str, ...], str | None]:
    return schema.task, schema.images, schema.text, schema.answer


def test_texts_are_captions(tmp_path: Path) -> None:
    for name in ("caption", "description", "remark"):
        schema = infer(captions(tmp_path, name), ColumnHints())
        assert shortly(schema) == ("caption", ("image",), (), name)
        assert schema.kind == "image"


def test_a_caption_comes_before_other_columns(tmp_path: Path) -> None:
    cells = [(row, CAPTIONS[row % 3], "nobody") for row in ROWS]
    dataset = beside_an_image(tmp_path, ("image", "number", "caption", "author"), cells)
    assert infer(dataset, ColumnHints()).answer == "caption"
    schema = infer(dataset, ColumnHints(label="author"))
    assert shortly(schema) == ("classify", ("image",), (), "author")


@pytest.mark.parametrize("kinds", [2, 3, 12])
def test_words_that_repeat_are_labels(tmp_path: Path, kinds: int) -> None:
    cells = [(f"kind{row % kinds}",) for row in ROWS]
    schema = infer(beside_an_image(tmp_path, ("file", "what"), cells), ColumnHints())
    assert shortly(schema) == ("classify", ("file",), (), "what")


def test_more_labels_than_a_text_has(tmp_path: Path) -> None:
    cells = [(f"breed{row % 120}",) for row in range(480)]
    schema = infer(beside_an_image(tmp_path, ("image", "breed"), cells), ColumnHints())
    assert schema.task == "classify"


def test_single_words_that_hardly_repeat_are_texts(tmp_path: Path) -> None:
    cells = [(f"street{row}",) for row in ROWS]
    schema = infer(beside_an_image(tmp_path, ("image", "text"), cells), ColumnHints())
    assert schema.task == "caption"


def test_the_numbers_of_classes_are_labels(tmp_path: Path) -> None:
    cells = [(row % 4, row) for row in ROWS]
    dataset = beside_an_image(tmp_path, ("image", "label", "number"), cells)
    assert shortly(infer(dataset, ColumnHints())) == (
        "classify",
        ("image",),
        (),
        "label",
    )


@pytest.mark.parametrize(("folders", "images"), [(2, 1), (3, 2), (60, 2)])
def test_folders_are_labels_however_many(
    tmp_path: Path, folders: int, images: int
) -> None:
    for label in range(folders):
        folder = tmp_path / f"a kind of bird {label}"
        folder.mkdir()
        for number in range(images):
            (folder / f"{number}.png").write_bytes(b"looked at later")
    schema = infer(table(tmp_path), ColumnHints())
    assert shortly(schema) == ("classify", ("image",), (), "label")


def test_a_question_is_read_with_the_image(tmp_path: Path) -> None:
    cells = [("what is it ?", ["dog", "cat"][row % 2], CAPTIONS[0]) for row in ROWS]
    dataset = beside_an_image(tmp_path, ("image", "question", "answer", "note"), cells)
    schema = infer(dataset, ColumnHints())
    assert shortly(schema) == ("ask-image", ("image",), ("question",), "answer")
    assert schema.inputs == ("image", "question")
    assert schema.kind == ""
    other = infer(dataset, ColumnHints(text=("note",)))
    assert shortly(other) == ("ask-image", ("image",), ("note",), "answer")
    # the question itself can be what is learnt
    learnt = infer(dataset, ColumnHints(label="question"))
    assert shortly(learnt) == ("caption", ("image",), (), "question")


def test_a_named_column_of_images_is_never_the_answer(tmp_path: Path) -> None:
    rows = [(CAPTIONS[row % 3], f"00{row}") for row in ROWS]
    dataset = table(write_csv(tmp_path / "d.csv", rows, ("words", "picture")))
    schema = infer(dataset, ColumnHints(images=("picture",)))
    assert shortly(schema) == ("caption", ("picture",), (), "words")


def test_of_two_columns_of_images_the_first_is_read(tmp_path: Path) -> None:
    cells = [("a.png", CAPTIONS[row % 3]) for row in ROWS]
    dataset = beside_an_image(tmp_path, ("left", "right", "caption"), cells)
    assert infer(dataset, ColumnHints()).images == ("left",)
    schema = infer(dataset, ColumnHints(images=("right",)))
    assert shortly(schema) == ("caption", ("right",), (), "caption")


def test_images_of_which_nothing_is_said(tmp_path: Path) -> None:
    for header, cells in (
        (("image", "none"), [("",)] * 4),
        (("image", "next"), [("a.png",)] * 4),
    ):
        dataset = beside_an_image(tmp_path, header, cells)
        message = r"d\.csv: no column says anything of the images; .*data\.label=COLUMN"
        with pytest.raises(DataError, match=message) as caught:
            infer(dataset, ColumnHints())
        assert ", ".join(header) in str(caught.value)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    dataset = captions(tmp_path)
    for hints in (ColumnHints(images=("imgae",)), ColumnHints(label="capton")):
        with pytest.raises(UsageError, match=r"did you mean '(image|caption)'"):
            infer(dataset, hints)


def test_a_task_that_is_named(tmp_path: Path) -> None:
    dataset = captions(tmp_path)
    assert infer(dataset, ColumnHints(task="classify")).task == "classify"
    assert infer(dataset, ColumnHints(task="caption")).task == "caption"


def test_clips_are_labelled_frame_by_frame(tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    frames = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    np.savez(path, frames=frames, labels=np.zeros((2, 3), dtype=int))
    schema = infer(table(path), ColumnHints())
    assert shortly(schema) == ("label-frames", ("frames",), (), "labels")
    assert schema.clips
    np.savez(path, frames=frames)
    with pytest.raises(
        DataError, match=r"clips\.npz: there is no label for each frame"
    ):
        infer(table(path), ColumnHints())
