"""Makes the pictures of docs/course.md from real runs: `python tools/course [NAME ...]`.

Trains what is missing under runs/course (about six minutes on one core), then draws. A picture's
name is a key of ``PICTURES``; without names all are drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import memory
import recall
import regress
import torch
from figures import Picture

import text
from runs import ROOT

IMAGES = ROOT / "docs" / "images"
PICTURES: dict[str, Callable[[], Picture]] = {
    "regression": regress.regression,
    "logistic": regress.logistic,
    "multiplication": regress.multiplication,
    "unrolled": memory.unrolled_graph,
    "hidden": memory.hidden,
    "curves": memory.curves,
    "gradients": memory.gradients,
    "memory": memory.memory,
    "gates": memory.gates,
    "gru": memory.gru,
    "patterns": text.patterns,
    "sentiment": text.sentiment,
    "spacing": text.spacing,
    "attention": text.attention,
    "gpt": text.gpt,
    "recall": recall.recall,
    "parallel": recall.parallel,
}


def main(names: list[str]) -> None:
    """Draw the pictures named, or all."""
    torch.set_num_threads(1)
    for name in names or PICTURES:
        drawn = PICTURES[name]().svg()
        path = IMAGES / f"course-{name}.svg"
        path.write_text(drawn, "utf-8")
        print(f"{path.relative_to(ROOT)}  {len(drawn.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
