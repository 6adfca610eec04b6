"""Captions, questions about images, labels of images and of frames: from a folder to answers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unrolled
from unrolled.core.errors import UserError
from unrolled.data.image_files import ImageFile
from unrolled.data.sources import read
from unrolled.scores.captions import caption_scores
from unrolled.studies.sort_of_clevr import write
from unrolled.tasks.image_questions import as_learnt, points_of

Call = Callable[..., tuple[str, str]]
STEPS = 3
KEYS: dict[str, Any] = {
    "model.hidden": 8,
    "model.embedding": 8,
    "encoder.size": 24,
    "training.max_steps": STEPS,
    "training.batch_size": 4,
    "training.threads": 1,
    "training.precision": "fp32",
    "report.inside": False,
}


def pictures(folder: Path, captions: bool = False) -> Path:
    """Write a few pictures with questions, or with captions, into a folder."""
    write(folder, 12, 4, 0, captions)
    return folder


def drawn_clips(path: Path, count: int = 6, steps: int = 5) -> Path:
    """Write clips whose frames are bright or dark, and say so."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (count, steps))
    noise = generator.integers(0, 40, (count, steps, 8, 10))
    frames = (labels[:, :, None, None] * 180 + noise).astype(np.uint8)
    lengths = np.full(count, steps)
    lengths[0] = steps - 2
    labels[0, steps - 2 :] = -1
    names = np.array(["dark", "bright"])
    np.savez(path, frames=frames, labels=labels, lengths=lengths, names=names)
    return path


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of captions, and a run on it."""
    folder = tmp_path_factory.mktemp("captions")
    data = pictures(folder / "data", captions=True)
    return data, unrolled.train(data, out=folder / "run", quiet=True, **KEYS)


@pytest.fixture(scope="module")
def questioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of questions, and a run on it."""
    folder = tmp_path_factory.mktemp("questions")
    data = pictures(folder / "data")
    keys = {**KEYS, "model.fusion_width": 8}
    return data, unrolled.train(data, out=folder / "run", quiet=True, **keys)


def test_a_folder_of_captions_is_understood_and_divided_by_its_lists(
    captioned: tuple[Path, Any],
) -> None:
    data, run = captioned
    schema = run.task.schema
    assert (schema.task, schema.images, schema.answer) == (
        "caption",
        ("image",),
        "caption",
    )
    table = read(data)
    assert isinstance(table.rows[0][0], ImageFile)
    result = json.loads((run.folder / "result.json").read_text())
    # three captions of each of the four pictures in the list
    assert result["scored_rows"] == 12


def test_captions_are_scored_against_all_that_an_image_has(
    captioned: tuple[Path, Any],
) -> None:
    data, run = captioned
    scores = run.evaluate(data)
    table = read(data)
    references: dict[str, list[str]] = {}
    for image, caption in table.rows:
        references.setdefault(str(image), []).append(caption)
    images = [ImageFile.of(row[0]) for row in table.rows]
    first = {str(image): image for image in images}
    answers = run.predict(list(first.values()))
    expected = caption_scores(answers, [references[name] for name in first])
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-12)


def test_an_image_is_given_by_its_bytes_its_name_or_its_path(
    captioned: tuple[Path, Any], tmp_path: Path
) -> None:
    _, run = captioned
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 40)).save(content, "PNG")
    path = tmp_path / "a photo, by the sea.png"
    path.write_bytes(content.getvalue())
    by_bytes = run.predict([content.getvalue()])
    assert run.predict([path]) == by_bytes
    assert run.predict([str(path)]) == by_bytes
    # one of many is as one alone
    assert run.predict([path, content.getvalue(), str(path)]) == by_bytes * 3


def test_an_image_that_is_not_there_is_an_error_that_names_it(
    captioned: tuple[Path, Any],
) -> None:
    _, run = captioned
    with pytest.raises(UserError, match=r"nowhere\.png"):
        run.predict(["nowhere.png"])


def test_a_broken_image_is_refused_with_its_line_or_left_out(
    captioned: tuple[Path, Any], tmp_path: Path
) -> None:
    _, run = captioned
    Image.new("RGB", (9, 9)).save(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows = ["image\tcaption", "fine.png\ta square", "broken.png\ta circle"]
    (tmp_path / "captions.tsv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match=r"captions\.tsv:3.*broken\.png"):
        run.evaluate(tmp_path)
    scores = run.evaluate(tmp_path, **{"data.on_error": "skip"})
    assert 0 <= scores["bleu_1"] <= 1


def test_a_training_goes_on_to_the_same_bits(
    captioned: tuple[Path, Any], tmp_path: Path
) -> None:
    data, _ = captioned
    # scored at every step, so that both choose their weights alike
    keys = {
        **KEYS,
        "training.schedule": "constant",
        "training.evaluate_every": 1,
    }
    uninterrupted = unrolled.train(data, out=tmp_path / "whole", quiet=True, **keys)
    first = {**keys, "training.max_steps": STEPS - 1}
    unrolled.train(data, out=tmp_path / "run", quiet=True, **first)
    resumed = unrolled.train(
        data, out=tmp_path / "run", resume=True, quiet=True, **keys
    )
    whole = uninterrupted.model.state_dict()
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, whole[name]), name


@pytest.mark.parametrize(
    "keys",
    [
        {"model.attention": "none"},
        {"layer": "lstm", "model.attention": "multiplicative"},
        {"layer": "attention", "model.heads": 2},
        {"encoder.network": "lite0", "encoder.size": 32},
    ],
    ids=["show and tell", "multiplicative", "transformer", "lite0"],
)
def test_every_decoder_writes(
    captioned: tuple[Path, Any], tmp_path: Path, keys: dict[str, Any]
) -> None:
    data, _ = captioned
    run = unrolled.train(
        data,
        out=tmp_path / "run",
        quiet=True,
        **{**KEYS, "training.max_steps": 1, **keys},
    )
    assert "cider_d" in run.evaluate(data)
    again = unrolled.load(tmp_path / "run")
    assert again.evaluate(data) == run.evaluate(data)


def test_the_look_inside_shows_where_each_word_looks(
    captioned: tuple[Path, Any], tmp_path: Path
) -> None:
    _, run = captioned
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), (10, 200, 30)).save(path)
    values = run.inspect(str(path)).to_json()
    grid = run.model.source.grid(24, 24)
    assert len(values["regions"]) == 8
    assert len(values["maps"]) == len(values["written"])
    assert (len(values["maps"][0]), len(values["maps"][0][0])) == grid
    page = run.inspect(str(path)).to_html()
    assert page.count('class="picture"') == 2 + len(values["written"])


def test_the_report_is_a_contact_sheet(captioned: tuple[Path, Any]) -> None:
    _, run = captioned
    page = (run.folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4


# ---------------------------------------------------------------------- questions


def test_questions_are_scored_by_kind(questioned: tuple[Path, Any], cli: Call) -> None:
    data, run = questioned
    out, _ = cli("evaluate", run.folder, data, "--json")
    scores = json.loads(out)
    by_kind = scores["by_kind"]
    assert set(by_kind) == {"relational", "non-relational"}
    total = sum(part["rows"] * part["accuracy"] for part in by_kind.values())
    rows = sum(part["rows"] for part in by_kind.values())
    assert scores["accuracy"] == pytest.approx(total / rows)


def test_a_question_on_the_command_line(
    questioned: tuple[Path, Any], cli: Call, tmp_path: Path
) -> None:
    _, run = questioned
    for name in ("one.png", "two.png"):
        Image.new("RGB", (75, 75), (255, 255, 255)).save(tmp_path / name)
    question = "what shape is the red object?"
    answer, _ = cli("predict", run.folder, tmp_path / "one.png", "--question", question)
    assert answer.strip() in run.task.class_names
    rows = [{"image": str(tmp_path / "one.png"), "question": question}]
    assert run.predict(rows) == [answer.strip()]
    both, _ = cli("predict", run.folder, tmp_path, "--question", question)
    assert len(both.splitlines()) == 2


def test_a_question_without_a_known_word_is_refused(
    questioned: tuple[Path, Any],
) -> None:
    data, run = questioned
    table = read(data)
    with pytest.raises(UserError, match="no word of the questions"):
        run.predict([{"image": table.rows[0][0], "question": "¿qué?"}])


def test_predictions_of_a_file_name_the_images(
    questioned: tuple[Path, Any], cli: Call, tmp_path: Path
) -> None:
    data, run = questioned
    out, _ = cli("predict", run.folder, "--file", data / "questions.jsonl", "--json")
    first = json.loads(out.splitlines()[0])
    assert first["image"].endswith(".png")
    assert first["answer"] in run.task.class_names


def test_several_answers_count_as_people_gave_them() -> None:
    right = ((0,), (0, 0, 0, 1), (0, 1, 1, 2), (2, 2))
    points = points_of(right, [0, 1, 1, 2])
    assert points.tolist() == pytest.approx([1, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What colour is the dog?", "what colour is the dog ?"),
        ("  Is it   a cat's?", "is it a cat ' s ?"),
        ("", ""),
    ],
)
def test_questions_are_read_in_lower_case_marks_apart(text: str, expected: str) -> None:
    assert as_learnt(text) == expected


@pytest.mark.parametrize("fusion", ["relation", "hops", "attention", "joined"])
def test_every_fusion_is_trained_and_read_back(
    questioned: tuple[Path, Any], tmp_path: Path, fusion: str
) -> None:
    data, _ = questioned
    keys = {**KEYS, "model.fusion": fusion, "model.fusion_width": 8}
    run = unrolled.train(
        data,
        out=tmp_path / "run",
        quiet=True,
        **{**keys, "training.max_steps": 1},
    )
    assert run.task.read_unit == "tokens"
    assert unrolled.load(tmp_path / "run").evaluate(data) == run.evaluate(data)


# ---------------------------------------------------------------------- labels


def test_folders_of_images_are_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label, colour in (("dark", 30), ("bright", 220)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            noise = generator.integers(0, 30, (16, 16, 3))
            image = Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))
            image.save(tmp_path / "photos" / label / f"{number}.png")
    keys = {**KEYS, "encoder.size": 16, "training.max_steps": 20, "seed": 2}
    run = unrolled.train(tmp_path / "photos", out=tmp_path / "run", quiet=True, **keys)
    assert run.task.name == "classify"
    assert run.task.read_unit == "images"
    assert run.evaluate(tmp_path / "photos")["accuracy"] > 0.9
    assert run.predict([tmp_path / "photos" / "dark" / "0.png"]) == ["dark"]


def test_two_rows_of_one_image_are_read_each(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (12, 12), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [
        f"{number}.png,{label}"
        for number in range(8)
        for label in ("red", "red" if number % 2 else "black")
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    keys = {**KEYS, "encoder.size": 12, "training.max_steps": 2}
    run = unrolled.train(tmp_path, out=tmp_path / "run", quiet=True, **keys)
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    assert run.evaluate(tmp_path / "labels.csv")["accuracy"] <= 1


# ---------------------------------------------------------------------- frames


def test_frames_are_labelled_and_padding_is_not_scored(tmp_path: Path) -> None:
    data = drawn_clips(tmp_path / "clips.npz")
    keys = {**KEYS, "training.max_steps": 40, "training.learning_rate": 0.01}
    run = unrolled.train(data, out=tmp_path / "run", quiet=True, **keys)
    assert run.task.name == "label-frames"
    assert run.task.read_unit == "frames"
    scores = run.evaluate(data)
    assert scores["accuracy"] > 0.9
    assert {"edit", "f1_10", "f1_25", "f1_50"} < set(scores)
    with np.load(data) as arrays:
        frames = arrays["frames"]
        labels = arrays["labels"]
    scored = labels[labels >= 0]
    predictions = [
        run.task.output.names.index(name)
        for clip, length in zip(frames, [3, 5, 5, 5, 5, 5], strict=True)
        for name in run.answers([clip[:length]])[0].details["tags"]
    ]
    names = ["bright", "dark"]
    expected = [names.index(["dark", "bright"][label]) for label in scored]
    accuracy = np.mean(np.array(predictions) == np.array(expected))
    assert accuracy == pytest.approx(scores["accuracy"])


def test_labels_longer_than_frames_are_refused(tmp_path: Path) -> None:
    data = drawn_clips(tmp_path / "clips.npz")
    with np.load(data) as arrays:
        parts = dict(arrays)
    parts["labels"] = parts["labels"][:, :-1]
    np.savez(tmp_path / "short.npz", **parts)
    with pytest.raises(UserError, match=r"short\.npz.*labels"):
        read(tmp_path / "short.npz")


def test_labels_of_a_file_without_names_are_those_of_the_training(
    tmp_path: Path,
) -> None:
    data = drawn_clips(tmp_path / "clips.npz")
    keys = {**KEYS, "training.max_steps": 2}
    run = unrolled.train(data, out=tmp_path / "run", quiet=True, **keys)
    with np.load(data) as arrays:
        parts = dict(arrays)
    del parts["names"]
    np.savez(tmp_path / "numbers.npz", **parts)
    again = unrolled.load(tmp_path / "run")
    assert again.evaluate(tmp_path / "numbers.npz") == run.evaluate(data)
