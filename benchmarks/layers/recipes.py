"""Training of whole recipes with the native core and without it: two processes that take turns.

Without: the process finds no library, so every layer runs on torch as before there was a core. Both
train the same batches with the recipe's own threads and precision.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.layers import common
from benchmarks.layers.common import Options
from benchmarks.layers.memory import ROOT

# as shown, the recipe, and changes to it
RECIPES = (
    ("shakespeare-lstm", "shakespeare-lstm", ()),
    ("shakespeare-gru", "shakespeare-gru", ()),
    ("nsmc, its own text", "nsmc", ()),
    ("nsmc, labels", "nsmc", ("training.pretrain_epochs=0",)),
)
WARM = 3  # steps before the first turn
# seconds a turn of the slower
SLOT = 5.0
QUICK_SLOT = 1.0
SAME = 2.0**-7  # losses of the first step, relative: two roundings of bf16
NOWHERE = os.path.join(os.devnull, "no-library")
WIDTHS = (20, 6, 4, 11, 11, 6)


class Child:
    """A process that trains a recipe."""

    def __init__(self, name: str, changes: tuple[str, ...], native: bool) -> None:
        environment = (
            dict(os.environ) if native else {**os.environ, "UNROLLED_LIBRARY": NOWHERE}
        )
        # that there is no library is meant
        quiet = [] if native else ["-W", "ignore:the native core is not in use"]
        self.process = subprocess.Popen(
            [
                sys.executable,
                *quiet,
                "-m",
                "benchmarks.layers.child",
                "recipe",
                name,
                *changes,
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def steps(self, count: int) -> dict[str, Any]:
        """Train so many steps and return what the process says of them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a training of a recipe failed; its message stands above")
        report: dict[str, Any] = json.loads(line)
        return report

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def check(name: str, after: dict[str, Any], before: dict[str, Any]) -> None:
    """Refuse when the first losses differ, or either side is not what it should be."""
    if not after["calls"] or before["calls"]:
        common.refuse(
            f"{name}: {after['calls']} calls of the core with it, {before['calls']} without"
        )
    new = after["loss"]
    old = before["loss"]
    if new is None or old is None or not abs(new - old) <= SAME * abs(old):
        common.refuse(
            f"{name}: the first loss is {new} with the core and {old} without"
        )


def compete(name: str, changes: tuple[str, ...], options: Options) -> dict[str, Any]:
    """Return tokens a second of one recipe with the core and without it."""
    after, before = (Child(name, changes, native) for native in (True, False))
    try:
        first = after.steps(1), before.steps(1)
        check(name, *first)
        slowest = max(side.steps(WARM)["seconds"] / WARM for side in (after, before))
        count = max(1, round((QUICK_SLOT if options.quick else SLOT) / slowest))
        speeds: dict[str, list[float]] = {"after": [], "before": []}
        for _ in range(options.repeats):
            for side, child in (("after", after), ("before", before)):
                report = child.steps(count)
                speeds[side].append(report["tokens"] / report["seconds"])
    finally:
        after.close()
        before.close()
    pairs = zip(speeds["after"], speeds["before"], strict=True)
    return {
        "after": statistics.median(speeds["after"]),
        "before": statistics.median(speeds["before"]),
        "ratio": statistics.median(new / old for new, old in pairs),
        "steps_a_turn": count,
        "precision": first[0]["precision"],
        "threads": first[0]["threads"],
        "first_losses": [report["loss"] for report in first],
    }


def run(options: Options) -> dict[str, Any]:
    """Measure every recipe whose data are at hand; print tokens a second."""
    results: dict[str, Any] = {}
    common.line(WIDTHS, "recipe", "", "thr", "tokens/s", "before", "ratio")
    for title, name, changes in RECIPES[:1] if options.quick else RECIPES:
        if name == "nsmc" and not os.environ.get("UNROLLED_DATA"):
            print(
                f"{title}: left out, set UNROLLED_DATA to the folder that holds nsmc/"
            )
            continue
        result = compete(name, changes, options)
        common.line(
            WIDTHS,
            title,
            result["precision"],
            result["threads"],
            f"{result['after']:,.0f}",
            f"{result['before']:,.0f}",
            f"{result['ratio']:.2f}",
        )
        results[title] = result
    return results
