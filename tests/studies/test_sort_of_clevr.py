"""Pictures of six coloured shapes: what they show, what is asked of them, and what is written."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import random
from unrolled.data.pictures import (
    listed_parts,
    members_of_tar,
    names_in,
    table_beside_images,
)
from unrolled.studies import sort_of_clevr
from unrolled.studies.sort_of_clevr import (
    COLOURS,
    NON_RELATIONAL,
    RELATIONAL,
    ColouredShape,
    Scene,
    draw,
    possible_questions,
    questions_of,
    scene,
    write,
)

SCENES = [scene(0, index) for index in range(300)]
WHITE = (255, 255, 255)
# blue and orange, and blue and gray, lie a pixel apart on both sides of the middle
BY_HAND = Scene(
    (
        ColouredShape("red", "square", 10, 10),
        ColouredShape("green", "circle", 25, 10),
        ColouredShape("blue", "square", 37, 38),
        ColouredShape("orange", "circle", 38, 65),
        ColouredShape("gray", "square", 60, 37),
        ColouredShape("yellow", "square", 69, 69),
    )
)


def answers(shown: Scene) -> dict[str, str]:
    return {question.text: question.answer for question in possible_questions(shown)}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "questions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_answers_about_one_object() -> None:
    given = answers(BY_HAND)
    assert given["what shape is the red object?"] == "square"
    assert given["what shape is the orange object?"] == "circle"
    # the middle of 75 pixels is 37.5
    left = {"red", "green", "blue"}
    top = {"red", "green", "gray"}
    for colour in COLOURS:
        on_left = given[f"is the {colour} object on the left?"]
        at_top = given[f"is the {colour} object at the top?"]
        assert on_left == ("yes" if colour in left else "no")
        assert at_top == ("yes" if colour in top else "no")


def test_answers_about_several_objects() -> None:
    given = answers(BY_HAND)
    closest = "what shape is the object closest to the {} object?"
    furthest = "what shape is the object furthest from the {} object?"
    count = "how many objects have the shape of the {} object?"
    # red: green at 15; yellow at 83
    assert given[closest.format("red")] == "circle"
    assert given[furthest.format("red")] == "square"
    # blue: gray at 23.02, orange at 27.02; yellow at 44.6, red at 38.9
    assert given[closest.format("blue")] == "square"
    assert given[furthest.format("blue")] == "square"
    # yellow: orange at 31.3, gray at 33.2; red at 83.4
    assert given[closest.format("yellow")] == "circle"
    assert given[furthest.format("yellow")] == "square"
    # gray: blue at 23.02; red at 56.8
    assert given[closest.format("gray")] == "square"
    assert given[furthest.format("gray")] == "square"
    # green: red at 15; yellow at 73.6
    assert given[closest.format("green")] == "square"
    assert given[furthest.format("green")] == "square"
    # orange: blue at 27.02; red at 61.7
    assert given[closest.format("orange")] == "square"
    assert given[furthest.format("orange")] == "square"
    # the object itself is counted
    assert given[count.format("red")] == "4"
    assert given[count.format("green")] == "2"
    kinds = Counter(question.kind for question in possible_questions(BY_HAND))
    assert kinds == {NON_RELATIONAL: 18, RELATIONAL: 18}


@pytest.mark.parametrize("shape", ["square", "circle"])
def test_a_tie_of_distances_is_not_asked(shape: str) -> None:
    """As closest to red, 15 off, and as furthest, 40 off, stand two, of one shape or of both."""
    tied = Scene(
        (
            ColouredShape("red", "square", 20, 20),
            ColouredShape("green", "square", 35, 20),
            ColouredShape("blue", shape, 29, 32),
            ColouredShape("orange", "circle", 40, 40),
            ColouredShape("gray", "square", 60, 20),
            ColouredShape("yellow", shape, 20, 60),
        )
    )
    # orange is the middle of a square with red, gray and yellow at its corners
    assert set(answers(BY_HAND)) - set(answers(tied)) == {
        "what shape is the object closest to the red object?",
        "what shape is the object furthest from the red object?",
        "what shape is the object furthest from the orange object?",
    }
    assert set(answers(tied)) <= set(answers(BY_HAND))


def test_fewer_than_ten_are_all_asked() -> None:
    """Of four at the corners of a square, two are the closest to each, and one the furthest."""
    corners = itertools.product((20, 50), (20, 50))
    square_of_four = Scene(
        tuple(
            ColouredShape(colour, "circle", x, y)
            for colour, (x, y) in zip(COLOURS, corners, strict=False)
        )
    )
    chosen = questions_of(square_of_four, np.random.default_rng(0))
    relational = [question for question in chosen if question.kind == RELATIONAL]
    texts = {question.text for question in relational}
    assert len(relational) == 8
    assert not any("closest" in text for text in texts)
    counts = [question for question in relational if question.text.startswith("how")]
    assert [question.answer for question in counts] == ["4"] * 4


def test_scenes_keep_the_limits() -> None:
    for shown in SCENES:
        assert [drawn.colour for drawn in shown.objects] == list(COLOURS)
        for drawn in shown.objects:
            assert drawn.shape in ("square", "circle")
            assert 6 <= drawn.x <= 75 - 6
            assert 6 <= drawn.y <= 75 - 6
        for first, second in itertools.combinations(shown.objects, 2):
            assert np.hypot(first.x - second.x, first.y - second.y) >= 12
    # and reach them
    positions = [drawn.x for shown in SCENES for drawn in shown.objects]
    assert {min(positions), max(positions)} == {6, 69}


def test_ten_questions_of_each_kind_no_two_alike() -> None:
    for index, shown in enumerate(SCENES):
        chosen = questions_of(shown, random(0, index, 1))
        possible = possible_questions(shown)
        assert set(chosen) <= set(possible)
        assert len(set(chosen)) == len(chosen)
        for kind in (NON_RELATIONAL, RELATIONAL):
            there = sum(question.kind == kind for question in possible)
            drawn = sum(question.kind == kind for question in chosen)
            assert drawn == min(10, there)


def test_answers_are_roughly_balanced() -> None:
    groups: dict[str, Counter[str]] = {}
    for index, shown in enumerate(SCENES):
        for question in questions_of(shown, random(0, index, 1)):
            text = " ".join(
                word for word in question.text.split() if word not in COLOURS
            )
            groups.setdefault(text, Counter())[question.answer] += 1
    counts = groups.pop("how many objects have the shape of the object?")
    assert len(groups) == 5
    for group in groups.values():
        assert len(group) == 2
        # about 1,000 answers: five standard deviations
        assert min(group.values()) > 0.42 * group.total()
    # one more than how many of five others agree
    for number, combinations in zip("123456", (1, 5, 10, 10, 5, 1), strict=True):
        assert abs(counts[number] / counts.total() - combinations / 32) < 0.06


def test_a_scene_and_its_questions_depend_on_seed_and_index_alone() -> None:
    assert [scene(0, index) for index in reversed(range(300))] == SCENES[::-1]
    assert len(set(SCENES)) == len(SCENES)
    assert scene(1, 0) != scene(0, 0)
    chosen = questions_of(SCENES[3], random(0, 3, 1))
    assert questions_of(SCENES[3], random(0, 3, 1)) == chosen
    assert questions_of(SCENES[3], random(0, 4, 1)) != chosen


def test_a_drawing_has_the_exact_colours() -> None:
    image = draw(BY_HAND)
    assert image.size == (75, 75)
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    for drawn in BY_HAND.objects:
        colour = np.array(COLOURS[drawn.colour])
        box = pixels[drawn.y - 5 : drawn.y + 5, drawn.x - 5 : drawn.x + 5]
        is_filled = (box == colour).all(-1)
        if drawn.shape == "square":
            assert is_filled.all()
        else:
            assert is_filled[4:6].all()
            assert is_filled[:, 4:6].all()
            assert not is_filled[[0, 0, -1, -1], [0, -1, 0, -1]].any()
            assert (is_filled == is_filled[::-1, ::-1]).all()
            assert (is_filled == is_filled.T).all()
            # pi times 25 is 78.5
            assert 70 <= is_filled.sum() <= 84
        # nothing beyond the box, and nothing smoothed
        assert (pixels == colour).all(-1).sum() == is_filled.sum()
    # of the table of colours and white alone
    shades = {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}
    assert shades == {WHITE, *COLOURS.values()}


def test_centres_of_drawn_scenes_have_their_colours() -> None:
    for shown in SCENES[:50]:
        image = draw(shown)
        for drawn in shown.objects:
            assert image.getpixel((drawn.x, drawn.y)) == COLOURS[drawn.colour]
        assert image.getpixel((0, 0)) == WHITE


def test_a_drawing_read_from_the_archive_has_its_pixels(tmp_path: Path) -> None:
    from PIL import Image

    write(tmp_path, images=3, dev=2, seed=4)
    # in place, as a training reads them: nothing of the archive is packed
    members = members_of_tar(tmp_path / "images.tar")
    assert [member.name for member in members] == [
        "train/000000.png",
        "train/000001.png",
        "train/000002.png",
        "dev/900000.png",
        "dev/900001.png",
    ]
    for index, member in zip((0, 1, 2, 900_000, 900_001), members, strict=True):
        image = Image.open(io.BytesIO(member.read()))
        assert image.format == "PNG"
        assert image.mode == "RGB"
        assert (np.asarray(image) == np.asarray(draw(scene(4, index)))).all()


def test_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "new", images=3, dev=2, seed=4)
    folder = tmp_path / "new"
    assert {path.name for path in folder.iterdir()} == {
        "images.tar",
        "questions.jsonl",
        "train_images.txt",
        "dev_images.txt",
    }
    train = (folder / "train_images.txt").read_text().splitlines()
    dev = (folder / "dev_images.txt").read_text().splitlines()
    assert (len(train), len(dev)) == (3, 2)
    rows = rows_of(folder)
    assert list(dict.fromkeys(row["image"] for row in rows)) == train + dev
    for row in rows:
        assert list(row) == ["image", "question", "answer", "kind"]
        index = int(row["image"][-10:-4])
        assert answers(scene(4, index))[row["question"]] == row["answer"]
    # readers of a folder of pictures find all of it
    assert table_beside_images(folder) == folder / "questions.jsonl"
    lists = listed_parts(folder)
    assert lists is not None
    assert [names_in(path) for path in lists] == [set(train), set(dev)]


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    def files(name: str, *words: str) -> dict[str, bytes]:
        folder = tmp_path / name
        arguments = [str(folder), "--images", "4", "--dev", "2", *words]
        assert sort_of_clevr.main(arguments) == 0
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = files("one")
    assert files("two") == first
    other = files("one", "--seed", "1")
    assert other["images.tar"] != first["images.tar"]
    assert other["questions.jsonl"] != first["questions.jsonl"]


def test_what_is_scored_on_is_the_same_for_any_number_to_train_on(
    tmp_path: Path,
) -> None:
    def held_out(images: int) -> list[dict[str, Any]]:
        write(tmp_path, images=images, dev=2)
        return [row for row in rows_of(tmp_path) if row["image"].startswith("dev")]

    assert held_out(1) == held_out(5)


def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, images=2, dev=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(shown: Scene) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sort_of_clevr, "draw", failing)
    with pytest.raises(UserError, match=r"images\.tar.*free some space"):
        write(tmp_path, images=3, dev=1, seed=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images is 0; give a number of pictures from 1 to 900,000"),
        ({"images": 900_001}, "images is 900001"),
        ({"dev": 0}, "dev is 0"),
        ({"dev": 100_001}, "dev is 100001"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sort_of_clevr.main([str(tmp_path), "--images", "0"]) == 2
    assert capsys.readouterr().err.startswith("unrolled: images is 0")


def test_without_pillow_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match="pip install pillow"):
        draw(BY_HAND)
