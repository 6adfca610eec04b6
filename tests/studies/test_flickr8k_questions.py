"""Questions made of captions: what the rules ask, which are kept, and what is written."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unrolled.core.errors import UserError
from unrolled.data.pictures import listed_parts, members_of_tar, names_in
from unrolled.studies import flickr8k_questions
from unrolled.studies.caption_questions import (
    COLOUR,
    NUMBER,
    OBJECT,
    CaptionGrammar,
    questions_of_caption,
    words_of_caption,
)
from unrolled.studies.flickr8k_questions import (
    ImageQuestion,
    balanced,
    questions_of_images,
    write,
)

# what teaches which words are nouns, and which verbs
SUBJECTS = ("dog", "man", "horse", "boy", "woman")
VERBS = ("jumping over", "running on", "sitting on", "chasing")
THINGS = ("log", "beach", "bench", "ball", "shirt", "truck")
LEARNT = [
    f"a brown {subject} is {verb} a {thing} ."
    for subject in SUBJECTS
    for verb in VERBS
    for thing in THINGS
] + [
    f"two {subject} are {verb} the red {thing}"
    for subject in ("dogs", "men", "boys")
    for verb in VERBS
    for thing in THINGS
]
GRAMMAR = CaptionGrammar([words_of_caption(caption) for caption in LEARNT])


def answers(caption: str) -> dict[str, tuple[str, str]]:
    questions = questions_of_caption(words_of_caption(caption), GRAMMAR)
    return {question.text: (question.answer, question.kind) for question in questions}


def test_nouns_and_verbs_are_learnt() -> None:
    plurals = {"dogs", "men", "boys"}
    assert GRAMMAR.nouns == {*SUBJECTS, *THINGS, *plurals}
    assert GRAMMAR.gerund("jumps") == "jumping"
    assert GRAMMAR.gerund("runs") == "running"
    assert GRAMMAR.gerund("sit") == "sitting"
    assert GRAMMAR.gerund("chases") == "chasing"
    assert GRAMMAR.gerund("flies") is None
    assert GRAMMAR.gerund("dog") is None


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "A dog is jumping over a log .",
            {
                "what is jumping over a log?": ("dog", OBJECT),
                "what is the dog jumping over?": ("log", OBJECT),
            },
        ),
        (
            "The man runs on a beach",
            {
                "who is running on a beach?": ("man", OBJECT),
                "what is the man running on?": ("beach", OBJECT),
            },
        ),
        (
            "Three dogs sit on the bench .",
            {
                "how many dogs are sitting on the bench?": ("three", NUMBER),
                "what are the dogs sitting on?": ("bench", OBJECT),
            },
        ),
        (
            "A man in a red shirt is sitting in front of a truck .",
            {
                "what colour is the man's shirt?": ("red", COLOUR),
                "who is sitting in front of a truck?": ("man", OBJECT),
                "what is the man sitting in front of?": ("truck", OBJECT),
            },
        ),
        ("There is a grey truck", {"what colour is the truck?": ("gray", COLOUR)}),
        (
            "A boy chases his dog",
            {
                "who is chasing his dog?": ("boy", OBJECT),
                "what is the boy chasing?": ("dog", OBJECT),
            },
        ),
    ],
)
def test_what_is_asked(caption: str, expected: dict[str, tuple[str, str]]) -> None:
    assert answers(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "",
        ".",
        "dog",
        "A dog .",
        "running",
        "a a a a a",
        "two",
        # two colours, two of a thing, and people
        "with a black and white truck",
        "the red truck near the blue truck",
        "beside a white man",
        # the answer would be said
        "two dogs",
        "A dog is chasing a dog .",
        # a part of a sentence
        "a dog is on the beach",
        "a zebra is jumping over a log",
        '" A dog',
        "개가 달린다",
    ],
)
def test_what_gives_no_question(caption: str) -> None:
    assert answers(caption) == {}


def test_no_question_says_its_answer_and_all_end_alike() -> None:
    for caption in LEARNT:
        for text, (answer, _) in answers(caption).items():
            assert answer not in text.removesuffix("?").split()
            assert text.endswith("?")
            assert " " not in answer


def test_what_captions_of_an_image_answer_otherwise_is_left_out() -> None:
    captions = [("x.jpg", caption) for caption in LEARNT]
    captions += [
        ("a.jpg", "a dog is chasing a ball"),
        ("a.jpg", "a dog chases a ball"),
        ("b.jpg", "a dog is chasing a ball"),
        ("b.jpg", "a dog is chasing a man"),
        ("b.jpg", "a dog is chasing a truck"),
    ]
    rows = [row for row in questions_of_images(captions) if row.image != "x.jpg"]
    said = [(row.image, row.question, row.answer) for row in rows]
    assert said == [
        ("a.jpg", "what is chasing a ball?", "dog"),
        ("a.jpg", "what is the dog chasing?", "ball"),
        ("b.jpg", "what is chasing a ball?", "dog"),
        ("b.jpg", "what is chasing a man?", "dog"),
        ("b.jpg", "who is the dog chasing?", "man"),
        ("b.jpg", "what is chasing a truck?", "dog"),
    ]


def rows_of(answer: str, count: int) -> list[ImageQuestion]:
    return [
        ImageQuestion(f"{index}.jpg", f"what is {index}?", answer, OBJECT)
        for index in range(count)
    ]


def test_common_answers_are_thinned_and_rare_ones_left_out() -> None:
    questions = rows_of("dog", 5000) + rows_of("log", 90) + rows_of("zebra", 19)
    kept = balanced(questions, lambda name: False)
    counts = Counter(row.answer for row in kept)
    assert set(counts) == {"dog", "log"}
    assert counts["log"] == 90
    # 100 and the sum of exp(-x / 200), which is 200
    assert 240 < counts["dog"] < 360
    assert balanced(questions, lambda name: False) == kept
    order = {row: index for index, row in enumerate(questions)}
    assert [order[row] for row in kept] == sorted(order[row] for row in kept)


def test_an_answer_counts_in_training_alone() -> None:
    questions = rows_of("dog", 30)
    assert balanced(questions, lambda name: False) == questions
    assert balanced(questions, lambda name: int(name[:-4]) < 20) == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder as ``task=caption`` reads it: 40 pictures, of which ten are held out."""
    folder = tmp_path / "flickr8k"
    (folder / "images").mkdir(parents=True)
    names = [f"{number:03}.png" for number in range(40)]
    lines = ["image\tcaption"]
    for number, name in enumerate(names):
        colour = (6 * number, 100, 50)
        Image.new("RGB", (4, 4), colour).save(folder / "images" / name)
        lines += [f"{name}\t{caption}" for caption in LEARNT[number::40]]
    (folder / "captions.tsv").write_text("\n".join(lines) + "\n")
    (folder / "train_images.txt").write_text("\n".join(names[:30]) + "\n")
    (folder / "dev_images.txt").write_text("\n".join(names[30:]) + "\n")
    return folder


def test_what_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    words = [str(folder), "--source", str(source)]
    assert flickr8k_questions.main(words) == 0
    assert {path.name for path in folder.iterdir()} == {
        "images.tar",
        "questions.jsonl",
        "train_images.txt",
        "dev_images.txt",
    }
    lines = (folder / "questions.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    counts = Counter(row["kind"] for row in rows)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{kind}: {counts[kind]} questions" for kind in sorted(counts)]
    for row in rows:
        assert list(row) == ["image", "question", "answer", "kind"]
    lists = listed_parts(folder)
    assert lists is not None
    train, dev = [names_in(path) for path in lists]
    assert {row["image"] for row in rows} == train | dev
    assert train <= {f"{number:03}.png" for number in range(30)}
    assert dev <= {f"{number:03}.png" for number in range(30, 40)}
    trained = Counter(row["answer"] for row in rows if row["image"] in train)
    assert min(trained.values()) >= 20
    # images as they were
    for member in members_of_tar(folder / "images.tar"):
        content = (source / "images" / member.name).read_bytes()
        assert member.read() == content
        Image.open(io.BytesIO(content)).load()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert flickr8k_questions.main(words) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_missing_image_is_named_and_nothing_is_written(
    source: Path, tmp_path: Path
) -> None:
    (source / "images" / "005.png").unlink()
    with pytest.raises(UserError, match=r"005\.png"):
        write(tmp_path / "new", source)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("name", ["captions.tsv", "train_images.txt", "dev_images.txt"])
def test_a_folder_without_one_of_the_files_is_one_line(
    source: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / name).unlink()
    words = [str(tmp_path / "new"), "--source", str(source)]
    code = flickr8k_questions.main(words)
    said = capsys.readouterr().err
    assert code != 0
    assert said.startswith("unrolled: ")
    assert said.count("\n") == 1


def test_no_folder_at_all_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / "new"), "--source", str(tmp_path / "none")]
    assert flickr8k_questions.main(words) == UserError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
