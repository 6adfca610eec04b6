"""The recurrent layers beside torch.nn and ONNX Runtime: ``python -m benchmarks layers``.

    python -m benchmarks layers [PART]... [--quick] [--run=FOLDER]...

Every number is a ratio within one run: the competitors take turns, and the median of the turns'
ratios is reported. No speed is reported before outputs and gradients were compared and the native
core was seen at work. ``--quick`` takes fewer and shorter turns; ``--run`` names trained runs for
the part ``accuracy``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.layers import (
    accuracy,
    memory,
    onnx_runtime,
    ragged,
    recipes,
    recurrence,
    streaming,
    training,
)
from benchmarks.layers.common import Options, core

PARTS: dict[str, Callable[[Options], Any]] = {
    "training": training.run,
    "recurrence": recurrence.run,
    "ragged": ragged.run,
    "streaming": streaming.run,
    "onnx": onnx_runtime.run,
    "memory": memory.run,
    "recipes": recipes.run,
    "accuracy": accuracy.run,
}


def read_options(arguments: list[str]) -> tuple[list[str], Options]:
    """Return the parts that the command line names, all of them by default, and the options."""
    names = [word for word in arguments if not word.startswith("--")]
    runs = tuple(
        word.removeprefix("--run=") for word in arguments if word.startswith("--run=")
    )
    known = {"--quick", *(f"--run={folder}" for folder in runs)}
    wrong = [word for word in names if word not in PARTS]
    wrong += [word for word in arguments if word.startswith("--") and word not in known]
    if wrong:
        raise SystemExit(
            f"expected parts out of {', '.join(PARTS)}, --quick or --run=FOLDER, got {wrong[0]!r}"
        )
    quick = Options(repeats=3, slot=0.02, quick=True, runs=runs)
    return names or list(PARTS), quick if "--quick" in arguments else Options(runs=runs)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure the parts named and print their tables."""
    names, options = read_options(arguments)
    results: dict[str, Any] = {
        "core": core(),
        "options": vars(options),
        "load": os.getloadavg(),
    }
    print(f"native core: {results['core']}; load {results['load'][0]:.2f}")
    for name in names:
        print(f"\n== {name} ==", flush=True)
        results[name] = PARTS[name](options)
    results["load_after"] = os.getloadavg()
    return results
