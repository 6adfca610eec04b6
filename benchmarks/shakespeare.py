"""How long until 1.88 nats a character on tinyshakespeare: ours beside nanoGPT's CPU setting."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

import unrolled
from benchmarks import nanogpt
from unrolled.runs.prepare import prepare
from unrolled.runs.recipes import requested

TARGET = 1.88


def ours(seed: int) -> dict[str, float]:
    """Train the recipe ``shakespeare-quick``; its seconds hold the evaluation too."""
    with tempfile.TemporaryDirectory() as folder:
        run = unrolled.train(
            "shakespeare-quick",
            out=Path(folder) / "run",
            seed=seed,
            quiet=True,
            say=lambda _: None,
        )
        result = run.result
    summary = {"seconds": result["seconds"], "loss": result["scores"]["loss"]}
    print(f"  unrolled: {summary['seconds']:.1f} s, {summary['loss']:.4f}", flush=True)
    return summary


def theirs(threads: int) -> dict[str, float]:
    """Train nanoGPT's setting on the same split."""
    prepared = prepare(requested("shakespeare-quick", {}))
    torch.set_num_threads(threads)
    text, held_out = (
        torch.from_numpy(s.tokens).long() for s in (prepared.train, prepared.dev)
    )
    return nanogpt.train(text, held_out, prepared.task.tokenizer.size, TARGET)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure ours three times around one run of the baseline, and print the ratio."""
    threads = torch.get_num_threads()
    results = [ours(0)]
    baseline = theirs(threads)
    results += [ours(1), ours(2)]
    seconds = statistics.median(result["seconds"] for result in results)
    reached = all(result["loss"] <= TARGET for result in results)
    ratio = baseline["seconds"] / seconds
    print(
        f"\nnanoGPT, its CPU setting: {baseline['seconds']:.1f} s to {baseline['loss']:.3f}"
    )
    print(
        f"unrolled: {seconds:.1f} s (median of 3) to {[round(f['loss'], 3) for f in results]}"
    )
    print(
        f"ratio: {ratio:.1f} times faster"
        if reached
        else "1.88 was not reached every time"
    )
    return {
        "ours": results,
        "nanogpt": baseline,
        "threads": threads,
        "ratio": ratio,
        "reached": reached,
    }
