"""Training and translating beside other programs: ``python -m benchmarks translation``.

    python -m benchmarks translation [PART]... [--run=FOLDER] [--quick]

Parts: ``training`` (the small Transformer of multi30k-en-de beside a plain loop around
torch.nn.Transformer), ``decoding`` (Multi30k's validation set beside CTranslate2, on the weights of
the run) and ``memory`` (of decoding). ``--run`` names a trained run of a Transformer on Multi30k;
without one a few updates are made first, and the result says so. ``--quick`` takes fewer and
shorter turns. The data is looked for in UNROLLED_DATA.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.layers.common import Options
from benchmarks.translation import decoding, memory, training
from unrolled.run import load, train

# of a run that stands in where none was named
RECIPE = "multi30k-en-de"
UPDATES = 60
PARTS: dict[str, Callable[[Options, Path], Any]] = {
    "training": training.run,
    "decoding": decoding.run,
    "memory": memory.run,
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
    if wrong or len(runs) > 1:
        raise SystemExit(
            f"expected parts out of {', '.join(PARTS)}, --quick or one --run=FOLDER, "
            f"got {' '.join(wrong or runs)!r}"
        )
    # a turn is one pass over the sentences, or so many updates, however long it takes
    repeats = 2 if "--quick" in arguments else 5
    return names or list(PARTS), Options(repeats, 0.0, "--quick" in arguments, runs)


def model_of(options: Options, folder: Path) -> tuple[Path, str]:
    """Return the folder of the run whose weights are used, and what is to be said of it."""
    if options.runs:
        run = load(options.runs[0], "cpu")
        score = run.result["scores"].get("bleu", float("nan"))
        return (
            run.folder,
            f"{run.recipe.name}, {run.result['steps']:,} updates, BLEU {score:.2f}",
        )
    changes = {
        "training.max_steps": UPDATES,
        "training.evaluate_every": 10**6,
        "decoding.beam": 1,
    }
    train(RECIPE, out=folder / "run", quiet=True, say=lambda line: None, **changes)
    return (
        folder / "run",
        f"{RECIPE}, {UPDATES} updates alone: what it writes are no translations",
    )


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure the parts named and print their tables."""
    names, options = read_options(arguments)
    results: dict[str, Any] = {"options": vars(options), "load": os.getloadavg()}
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="unrolled-translation-") as name:
        folder = Path(name)
        if set(names) & {"decoding", "memory"}:
            folder, results["model"] = model_of(options, folder)
            print(f"model: {results['model']}")
        for part in names:
            # a training may have set threads of its own
            torch.set_num_threads(threads)
            print(
                f"\n== {part}, {threads} threads, load {os.getloadavg()[0]:.2f} ==",
                flush=True,
            )
            results[part] = PARTS[part](options, folder)
    return {**results, "threads": threads, "load_after": os.getloadavg()}
