"""easy-VQA: pictures of one coloured shape each, and questions about it.

The pictures come with a package (MIT licence): ``pip install easy-vqa``. ``python -m
unrolled.studies.easy_vqa FOLDER`` writes its training part as a folder that can be trained on, the
last tenth of the pictures to score on, and its test part into FOLDER/test.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError
from unrolled.core.files import replacing
from unrolled.studies.folders import write_folder
from unrolled.studies.image_archives import add_file, lines_of

HELD_OUT = 10  # one of so many pictures is scored on
INSTALL = "the pictures come with a package: pip install easy-vqa"


def source() -> Path:
    """Return the folder of the package's pictures. Raises UserError: it is not installed."""
    spec = find_spec("easy_vqa")
    locations = None if spec is None else spec.submodule_search_locations
    for location in locations or []:
        folder = Path(location) / "data"
        if folder.is_dir():
            return folder
    raise UserError(INSTALL)


def write(folder: Path, pictures: Path) -> None:
    """Write the training part and the test part into a folder.

    Args:
        folder: is made where it does not exist.
        pictures: the folder of the package.

    Raises:
        UserError: the disk refused a file.
    """
    questions = _questions(pictures / "train")
    numbers = sorted({number for _, _, number in questions})
    first = numbers[-(len(numbers) // HELD_OUT) :][0]
    names = [f"{number}.png" for number in numbers]
    held_out = [f"{number}.png" for number in numbers if number >= first]
    with contextlib.ExitStack() as stack:
        lists = [
            stack.enter_context(replacing(folder / name))
            for name in ("train_images.txt", "dev_images.txt")
        ]
        lists[0].write_bytes(lines_of(names[: len(names) - len(held_out)]))
        lists[1].write_bytes(lines_of(held_out))
    _write_part(folder, pictures / "train", questions)
    _write_part(folder / "test", pictures / "test", _questions(pictures / "test"))


def _questions(part: Path) -> list[tuple[str, str, int]]:
    """Return question, answer and number of the picture of each row of a part."""
    rows: list[Any] = json.loads((part / "questions.json").read_text("utf-8"))
    return [(question, answer, int(number)) for question, answer, number in rows]


def _write_part(
    folder: Path, part: Path, questions: list[tuple[str, str, int]]
) -> None:
    """Write pictures and questions of a part."""
    with (
        replacing(folder / "questions.jsonl") as rows,
        replacing(folder / "images.tar") as archive_path,
    ):
        objects = [
            {"image": f"{number}.png", "question": question, "answer": answer}
            for question, answer, number in questions
        ]
        rows.write_bytes(lines_of(map(json.dumps, objects)))
        with tarfile.open(archive_path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in sorted({number for _, _, number in questions}):
                content = (part / "images" / f"{number}.png").read_bytes()
                add_file(archive, f"{number}.png", content)


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    return write_folder(
        "easy_vqa",
        "Write the pictures and questions of easy-VQA as a folder to train on.",
        arguments,
        lambda folder: write(folder, source()),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
