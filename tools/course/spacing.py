"""Takes the spaces out of the reviews that ship: letters, and a tag where a word begins."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path

from unrolled.runs.recipes import folder


def write(path: Path) -> None:
    """Write JSON lines of ``words`` (here letters) and ``tags``: B where a word begins, else I."""
    source = folder() / "data" / "reviews.tsv.gz"
    with (
        gzip.open(source, "rt", encoding="utf-8") as rows,
        path.open("w", encoding="utf-8") as out,
    ):
        for row in csv.DictReader(rows, delimiter="\t"):
            words = row["document"].split()
            letters = list("".join(words))
            tags = list("".join("B" + "I" * (len(word) - 1) for word in words))
            if letters:
                out.write(
                    json.dumps({"words": letters, "tags": tags}, ensure_ascii=False)
                    + "\n"
                )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
