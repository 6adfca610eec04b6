"""Sums of two numbers of one to three digits, different ones, without order.

``python -m unrolled.studies.sums FOLDER`` writes them as rows of prompt and completion, such as
``12+345=`` and ``357``: right ones in sums.csv.gz, and in sums-with-mistakes.csv.gz the same as
somebody writes them who forgets to carry, more often than not. Numbers of few digits are given more
often than they come among numbers from 0 to 999, most of which have three: what is to be written
for 7+58= would hardly be learnt.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from unrolled.core.files import replacing
from unrolled.data.batches import random
from unrolled.studies.folders import write_folder

SEED = 0
RIGHT_FILE = "sums.csv.gz"
MISTAKEN_FILE = "sums-with-mistakes.csv.gz"
FORGETS = 0.6  # share of the sums in which nothing is carried
# how many sums there are of numbers of so many digits
COUNTS = {
    (1, 1): 100,
    (1, 2): 900,
    (2, 1): 900,
    (2, 2): 4050,
    (1, 3): 2600,
    (3, 1): 2600,
    (2, 3): 9000,
    (3, 2): 9000,
    (3, 3): 20850,
}
MOST = 3  # digits of a number


def numbers(digits: int) -> range:
    """Return the numbers of so many digits; 0 has one."""
    return range(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def sums() -> list[tuple[int, int]]:
    """Return the pairs of numbers that are added, each once."""
    generator = random(SEED)
    pairs: list[tuple[int, int]] = []
    for (first, second), count in COUNTS.items():
        left = numbers(first)
        right = numbers(second)
        chosen = generator.choice(len(left) * len(right), count, replace=False)
        for index in chosen.tolist():
            row, column = divmod(index, len(right))
            pairs.append((left[row], right[column]))
    order = generator.permutation(len(pairs))
    return [pairs[index] for index in order]


def without_carrying(first: int, second: int) -> int:
    """Return what is written for a sum where each column is added by itself: 57+68 is 15."""
    columns = zip(f"{first:0{MOST}}", f"{second:0{MOST}}", strict=True)
    digits = [str((int(above) + int(below)) % 10) for above, below in columns]
    return int("".join(digits))


def write(folder: Path) -> None:
    """Write both files into a folder, packed. Raises UserError: the disk refused one."""
    pairs = sums()
    forgotten = random(SEED, 1).random(len(pairs)) < FORGETS
    right = [first + second for first, second in pairs]
    mistaken = [
        without_carrying(*pair) if forgets else total
        for pair, forgets, total in zip(pairs, forgotten, right, strict=True)
    ]
    for name, totals in ((RIGHT_FILE, right), (MISTAKEN_FILE, mistaken)):
        lines = ["prompt,completion"]
        for (first, second), total in zip(pairs, totals, strict=True):
            lines.append(f"{first}+{second}=,{total}")
        text = "\n".join(lines) + "\n"
        with replacing(folder / name) as file:
            # without the time of writing: equal sums are equal bytes
            file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    return write_folder(
        "sums",
        "Write sums of numbers of one to three digits as files to train on.",
        arguments,
        write,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
