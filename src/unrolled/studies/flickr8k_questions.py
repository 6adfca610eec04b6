"""Questions about the images of Flickr8k, made of their captions by rules, as COCO-QA's are.

``python -m unrolled.studies.flickr8k_questions FOLDER --source flickr8k`` reads a folder that
``task=caption`` reads, too (``captions.tsv``, lists of images, the images in a folder or a
``.tar``), and writes the questions, both lists and the images. The rules are in
``caption_questions``; which of their questions are kept is said in section 3.3 of Ren et al. 2015:
rare answers are left out, and the more often an answer was given, the more seldom it is kept.
Captions and images are for research alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from unrolled.core.errors import UserError
from unrolled.core.files import replacing
from unrolled.data.batches import random
from unrolled.data.image_files import ImageFile
from unrolled.data.pictures import listed_parts, names_in
from unrolled.data.sources import Table, read
from unrolled.studies.caption_questions import (
    CaptionGrammar,
    questions_of_caption,
    words_of_caption,
)
from unrolled.studies.image_archives import add_file, lines_of

SOURCE = "flickr8k"
SEED = 0
RAREST = 20  # times that an answer must be given in training
# an answer is kept so often for sure, and later with a probability that falls by e in so many
# (COCO-QA's)
ALWAYS_KEPT = 100
FALLS_IN = 200
COLUMNS = ("image", "caption")


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """A row of what is written: the name of an image, and a question about it."""

    image: str
    question: str
    answer: str
    kind: str


def questions_of_images(captions: Iterable[tuple[str, str]]) -> list[ImageQuestion]:
    """Return what the rules ask about images, a question once an image.

    A question that two captions of an image answer otherwise is left out.

    Args:
        captions: names of images, and what is said of them.
    """
    rows = [(name, words_of_caption(caption)) for name, caption in captions]
    grammar = CaptionGrammar([words for _, words in rows])
    questions: dict[tuple[str, str], ImageQuestion] = {}
    answers: dict[tuple[str, str], set[str]] = {}
    for name, words in rows:
        for made in questions_of_caption(words, grammar):
            key = (name, made.text)
            row = ImageQuestion(name, made.text, made.answer, made.kind)
            questions.setdefault(key, row)
            answers.setdefault(key, set()).add(made.answer)
    return [row for key, row in questions.items() if len(answers[key]) == 1]


def balanced(
    questions: list[ImageQuestion], is_dev: Callable[[str], bool]
) -> list[ImageQuestion]:
    """Return the questions whose answers are neither too rare nor too common.

    Args:
        questions: about all images.
        is_dev: whether an image is scored on, by its name; both parts are thinned alike.
    """
    generator = random(SEED)
    given: Counter[str] = Counter()
    kept: list[int] = []
    for index in generator.permutation(len(questions)).tolist():
        answer = questions[index].answer
        given[answer] += 1
        excess = max(0, given[answer] - ALWAYS_KEPT)
        if generator.random() < math.exp(-excess / FALLS_IN):
            kept.append(index)
    rows = [questions[index] for index in sorted(kept)]
    trained = Counter(row.answer for row in rows if not is_dev(row.image))
    return [row for row in rows if trained[row.answer] >= RAREST]


def write(folder: Path, source: Path) -> Counter[str]:
    """Write questions, lists and images into a folder, and return how many there are of a kind.

    Args:
        folder: is made where it does not exist.
        source: the folder with captions and images.

    Raises:
        UserError: the source is no such folder, an image of it is missing, or the disk refused a
            file.
    """
    lists = listed_parts(source)
    if lists is None:
        raise UserError(
            f"{source}: there are no lists train_images.txt and dev_images.txt; name a folder "
            "with captions.tsv, both lists and the images with --source"
        )
    names = [names_in(path) for path in lists]
    rows = _captions(source)
    images = {image.name: image for image, _ in rows}
    made = questions_of_images((image.name, caption) for image, caption in rows)
    questions = balanced(made, names[1].__contains__)
    with_question = {row.image for row in questions}
    with contextlib.ExitStack() as stack:
        targets = (
            "questions.jsonl",
            "train_images.txt",
            "dev_images.txt",
            "images.tar",
        )
        table, *list_paths, archive = [
            stack.enter_context(replacing(folder / target)) for target in targets
        ]
        for path, part in zip(list_paths, names, strict=True):
            path.write_bytes(lines_of(sorted(part & with_question)))
        table.write_bytes(lines_of(map(_line, questions)))
        _write_images(archive, [images[name] for name in sorted(with_question)])
    return Counter(row.kind for row in questions)


def _captions(source: Path) -> list[tuple[ImageFile, str]]:
    """Return where the image of each caption is, and the caption."""
    table = read(source)
    if not isinstance(table, Table) or not set(COLUMNS) <= set(table.columns):
        raise UserError(
            f"{source}: there is no table with the columns image and caption"
        )
    images, captions = [table.cells(column) for column in COLUMNS]
    pairs = zip(images, captions, strict=True)
    return [
        (image, caption)
        for image, caption in pairs
        if isinstance(image, ImageFile) and isinstance(caption, str)
    ]


def _line(row: ImageQuestion) -> str:
    cells = {
        "image": row.image,
        "question": row.question,
        "answer": row.answer,
        "kind": row.kind,
    }
    return json.dumps(cells)


def _write_images(path: Path, images: Iterable[ImageFile]) -> None:
    """Write images as they are into one archive. Raises UserError: one cannot be read."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for image in images:
            try:
                content = image.read()
            except (OSError, ValueError) as error:
                raise UserError(f"{image.name}: cannot be read: {error}") from None
            add_file(archive, image.name, content)


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m unrolled.studies.flickr8k_questions",
        description="Write questions about the images of Flickr8k, made of their captions.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, default=Path(SOURCE))
    options = parser.parse_args(arguments)
    try:
        counts = write(options.folder, options.source)
    except UserError as error:
        print(f"unrolled: {error}", file=sys.stderr)
        return error.exit_code
    for kind, count in sorted(counts.items()):
        print(f"{kind}: {count:,} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
