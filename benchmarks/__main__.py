"""``python -m benchmarks NAME``: run one, print its table, keep it in ``benchmarks/results/``.

Where some parts of it are named, so is the file: a later part does not undo what was measured.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    adapters,
    answers,
    blocks,
    images,
    inside,
    layers,
    llama_cpp,
    optimizers,
    overhead,
    parallel,
    pretraining,
    published,
    rollouts,
    shakespeare,
    shards,
    startup,
    text,
    training_speed,
    translation,
)

BENCHMARKS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "adapters": adapters.run,
    "answers": answers.run,
    "blocks": blocks.run,
    "images": images.run,
    "inside": inside.run,
    "layers": layers.run,
    "llama_cpp": llama_cpp.run,
    "optimizers": optimizers.run,
    "overhead": overhead.run,
    "parallel": parallel.run,
    "pretraining": pretraining.run,
    "published": published.run,
    "rollouts": rollouts.run,
    "shakespeare": shakespeare.run,
    "shards": shards.run,
    "startup": startup.run,
    "text": text.run,
    "training_speed": training_speed.run,
    "translation": translation.run,
}


def hardware() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    import torch

    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> int:
    """Run the benchmark that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m benchmarks {' | '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    name = sys.argv[1]
    results = BENCHMARKS[name](sys.argv[2:])
    now = datetime.now(UTC)
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        **hardware(),
        **results,
    }
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    parts = [Path(word).stem for word in sys.argv[2:] if not word.startswith("--")]
    path = folder / f"{'-'.join([name, *parts])}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print(f"\nwritten to {path.relative_to(Path(__file__).parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
