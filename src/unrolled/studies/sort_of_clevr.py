"""Sort-of-CLEVR: pictures of six coloured shapes, and questions about one of them or about several.

Santoro et al. 2017, "A simple neural network module for relational reasoning", section 4. Each
picture has 75 x 75 pixels, a white ground and one object of each of six colours, a square or a
circle by chance. A non-relational question is of one object alone: its shape, and whether it is on
the left or at the top. A relational one compares an object with all others: which is the closest,
which the furthest, and how many have its shape.

Positions are in pixels from the upper left corner of the picture, x to the right and y down: a
centre at (x, y) is the corner that the pixels (x - 1, y - 1) and (x, y) share. A square of side 10
so covers the pixels x - 5 ... x + 4 of the rows y - 5 ... y + 4, a circle of radius 5 what Pillow's
ellipse makes of the same box; neither is smoothed. Squares whose centres are 8 or 9 apart in x and
in y share a pixel or two at their corners, which the later colour takes.

``python -m unrolled.studies.sort_of_clevr FOLDER`` writes pictures, questions and the lists of what
to train and to score on; with ``--captions`` sentences about each picture instead of questions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import replacing
from unrolled.data.batches import random
from unrolled.studies.image_archives import add_file, lines_of

if TYPE_CHECKING:
    from PIL import Image

SIDE = 75  # pixels of a picture
RADIUS = 5  # of a circle, and half the side of a square
MARGIN = 6  # from a centre to the nearest edge, at least
APART = 12  # from a centre to any other, at least
WHITE = (255, 255, 255)
# red, green and blue of the colours, in the order in which objects are drawn
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("square", "circle")

NON_RELATIONAL = "non-relational"
RELATIONAL = "relational"
QUESTIONS = 10  # of a kind about a picture
QUESTION_STREAM = 1  # sets the chance of questions apart from that of positions

SEED = 0
IMAGES = 9800
DEV = 200
# the index of the first picture to score on, whatever is trained on; all have six digits
FIRST_DEV = 900_000
MOST_DEV = 100_000
IMAGE_FILE = "images.tar"
QUESTION_FILE = "questions.jsonl"
CAPTION_FILE = "captions.tsv"
CAPTIONS = 3  # sentences about a picture
TRAIN_FILE = "train_images.txt"
DEV_FILE = "dev_images.txt"


@dataclass(frozen=True, slots=True)
class ColouredShape:
    """An object of a picture.

    Attributes:
        colour: one of ``COLOURS``.
        shape: one of ``SHAPES``.
        x, y: its centre, in pixels from the left and from the top.
    """

    colour: str
    shape: str
    x: int
    y: int

    def squared_distance(self, x: int, y: int) -> int:
        """Return the squared distance of the centre to a point; exact, so that ties are seen."""
        return (self.x - x) ** 2 + (self.y - y) ** 2


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: one object of each colour, in the order of ``COLOURS``."""

    objects: tuple[ColouredShape, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture, its one answer, and whether it is relational."""

    text: str
    answer: str
    kind: str


def scene(seed: int, index: int) -> Scene:
    """Return the scene of a picture, which depends on ``seed`` and ``index`` alone.

    Objects take their positions in turn, each uniform over what the earlier ones leave. One rules
    out fewer than 450 of the 4,096 positions, so there is always room for the sixth.
    """
    generator = random(seed, index)
    objects: list[ColouredShape] = []
    for colour in COLOURS:
        shape = SHAPES[generator.integers(len(SHAPES))]
        x, y = _free_position(objects, generator)
        objects.append(ColouredShape(colour, shape, x, y))
    return Scene(tuple(objects))


def _free_position(
    objects: Iterable[ColouredShape], generator: np.random.Generator
) -> tuple[int, int]:
    while True:
        x, y = generator.integers(MARGIN, SIDE - MARGIN, 2, endpoint=True).tolist()
        distances = [other.squared_distance(x, y) for other in objects]
        if min(distances, default=APART**2) >= APART**2:
            return x, y


def possible_questions(scene: Scene) -> list[Question]:
    """Return every question that has one answer: 18 of a kind, fewer relational ones with ties."""
    questions: list[Question] = []
    for subject in scene.objects:
        questions += _about_itself(subject)
        questions += _about_others(scene, subject)
    return questions


def _about_itself(subject: ColouredShape) -> list[Question]:
    colour = subject.colour
    is_left = 2 * subject.x < SIDE
    is_top = 2 * subject.y < SIDE
    answers = {
        f"what shape is the {colour} object?": subject.shape,
        f"is the {colour} object on the left?": "yes" if is_left else "no",
        f"is the {colour} object at the top?": "yes" if is_top else "no",
    }
    return [Question(text, answer, NON_RELATIONAL) for text, answer in answers.items()]


def _about_others(scene: Scene, subject: ColouredShape) -> list[Question]:
    colour = subject.colour
    answers = {
        f"what shape is the object closest to the {colour} object?": _shape_at(
            scene, subject, min
        ),
        f"what shape is the object furthest from the {colour} object?": _shape_at(
            scene, subject, max
        ),
        # the object itself is one of them
        f"how many objects have the shape of the {colour} object?": str(
            sum(other.shape == subject.shape for other in scene.objects)
        ),
    }
    return [
        Question(text, answer, RELATIONAL)
        for text, answer in answers.items()
        if answer is not None
    ]


def _shape_at(
    scene: Scene, subject: ColouredShape, extreme: Callable[[list[int]], int]
) -> str | None:
    """Return the shape of the object at the least or the greatest distance; None at a tie.

    Of objects at one distance none is the closest, even where their shapes are equal.
    """
    others = [other for other in scene.objects if other != subject]
    distances = [other.squared_distance(subject.x, subject.y) for other in others]
    chosen = extreme(distances)
    if distances.count(chosen) > 1:
        return None
    return others[distances.index(chosen)].shape


def questions_of(scene: Scene, generator: np.random.Generator) -> list[Question]:
    """Return ten questions of each kind, no two alike, or all of a kind that has fewer.

    Args:
        scene: what is asked about.
        generator: draws which are asked, and in which order; non-relational ones come first.
    """
    possible = possible_questions(scene)
    questions: list[Question] = []
    for kind in (NON_RELATIONAL, RELATIONAL):
        of_kind = [question for question in possible if question.kind == kind]
        order = generator.permutation(len(of_kind))
        questions += [of_kind[index] for index in order[:QUESTIONS]]
    return questions


def captions_of(scene: Scene, generator: np.random.Generator) -> list[str]:
    """Return three sentences: how two objects stand to each other, twice, and counts."""
    captions: list[str] = []
    for _ in range(CAPTIONS - 1):
        first, second = generator.choice(len(scene.objects), 2, replace=False).tolist()
        captions.append(_beside(scene.objects[first], scene.objects[second]))
    squares = sum(shown.shape == "square" for shown in scene.objects)
    circles = len(scene.objects) - squares
    captions.append(f"there are {squares} squares and {circles} circles")
    return captions


def _beside(first: ColouredShape, second: ColouredShape) -> str:
    across = second.x - first.x
    down = second.y - first.y
    if abs(across) >= abs(down):
        relation = "to the left of" if across > 0 else "to the right of"
    else:
        relation = "above" if down > 0 else "below"
    names = [f"the {shown.colour} {shown.shape}" for shown in (first, second)]
    return f"{names[0]} is {relation} {names[1]}"


def draw(scene: Scene) -> Image.Image:
    """Return the picture (75, 75) of a scene in red, green and blue.

    Raises:
        UserError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise UserError("pictures are drawn by Pillow: pip install pillow") from None
    image = Image.new("RGB", (SIDE, SIDE), WHITE)
    pen = ImageDraw.Draw(image)
    for drawn in scene.objects:
        # Pillow counts the last row and column of a box in
        box = (
            drawn.x - RADIUS,
            drawn.y - RADIUS,
            drawn.x + RADIUS - 1,
            drawn.y + RADIUS - 1,
        )
        fill = COLOURS[drawn.colour]
        if drawn.shape == "square":
            pen.rectangle(box, fill)
        else:
            pen.ellipse(box, fill)
    return image


def write(
    folder: str | Path,
    images: int = IMAGES,
    dev: int = DEV,
    seed: int = SEED,
    captions: bool = False,
) -> None:
    """Write pictures, questions and the lists of both parts into a folder.

    All files are whole before the first replaces an older one. Those to score on are the same for
    any number to train on, and never among them.

    Args:
        folder: is made where it does not exist.
        images: pictures to train on, 1 to 900,000: ``train/000000.png`` and on.
        dev: pictures to score on beside them, 1 to 100,000: ``dev/900000.png`` and on.
        seed: 0 or more. Equal seeds give equal files.
        captions: whether sentences about the pictures are written, and no questions.

    Raises:
        UsageError: a number is out of its range.
        UserError: the disk refused a file, or Pillow is not installed.
    """
    _check("images", images, FIRST_DEV)
    _check("dev", dev, MOST_DEV)
    if seed < 0:
        raise UsageError(f"seed is {seed}; give 0 or more")
    train_names = _names("train", range(images))
    dev_names = _names("dev", range(FIRST_DEV, FIRST_DEV + dev))
    # renamed from the last to the first: where there are questions, there are their pictures
    text_file = CAPTION_FILE if captions else QUESTION_FILE
    targets = (text_file, TRAIN_FILE, DEV_FILE, IMAGE_FILE)
    with contextlib.ExitStack() as stack:
        texts, train_list, dev_list, archive = [
            stack.enter_context(replacing(Path(folder) / target)) for target in targets
        ]
        train_list.write_bytes(lines_of(train_names))
        dev_list.write_bytes(lines_of(dev_names))
        indices = {**train_names, **dev_names}
        _write_scenes(archive, texts, seed, indices, captions)


def _check(name: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise UsageError(
            f"{name} is {count}; give a number of pictures from 1 to {most:,}"
        )


def _names(part: str, indices: Iterable[int]) -> dict[str, int]:
    """Return the index of each picture of a part by its name."""
    return {f"{part}/{index:06}.png": index for index in indices}


def _write_scenes(
    archive_path: Path,
    text_path: Path,
    seed: int,
    indices: dict[str, int],
    captions: bool,
) -> None:
    """Write the pictures of some indices by their names, and what is asked or said about them."""
    with (
        tarfile.open(archive_path, "w", format=tarfile.USTAR_FORMAT) as archive,
        text_path.open("wb") as file,
    ):
        if captions:
            file.write(lines_of(["image\tcaption"]))
        for name, index in indices.items():
            shown = scene(seed, index)
            _add(archive, name, draw(shown))
            generator = random(seed, index, QUESTION_STREAM)
            if captions:
                said = captions_of(shown, generator)
                file.write(lines_of(f"{name}\t{caption}" for caption in said))
            else:
                file.write(_rows(name, questions_of(shown, generator)))


def _add(archive: tarfile.TarFile, name: str, image: Image.Image) -> None:
    content = io.BytesIO()
    image.save(content, "PNG")
    add_file(archive, name, content.getvalue())


def _rows(name: str, questions: Iterable[Question]) -> bytes:
    rows = [
        {
            "image": name,
            "question": question.text,
            "answer": question.answer,
            "kind": question.kind,
        }
        for question in questions
    ]
    return lines_of(map(json.dumps, rows))


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m unrolled.studies.sort_of_clevr",
        description="Write pictures of coloured shapes, and questions about them.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES, help="to train on")
    parser.add_argument("--dev", type=int, default=DEV, help="to score on")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--captions",
        action="store_true",
        help="sentences about each picture in place of questions",
    )
    options = parser.parse_args(arguments)
    try:
        write(
            options.folder,
            options.images,
            options.dev,
            options.seed,
            options.captions,
        )
    except UserError as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
