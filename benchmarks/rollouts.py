"""Answers drawn for a training by rewards, beside transformers: same weights and prompts.

``python -m benchmarks rollouts RUN [--prompts 64] [--samples 8] [--rounds 5]``. RUN chats over
attention with ``data.template=plain``, such as ``arithmetic-sft``; it is exported as a Llama. Both
draw at temperature 1 until each text ends, or to the most tokens of an answer; counted are the
tokens drawn, ends included. Needs transformers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import unrolled
from unrolled.decoding.many import padded, write_many
from unrolled.decoding.sampling import Sampling
from unrolled.text.turns import Turn

MOST = 8  # tokens of an answer


def prompts_of(count: int) -> list[str]:
    """Return sums of numbers from 0 to 999."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(1000, (count, 2), generator=generator).tolist()
    return [f"{first}+{second}=" for first, second in pairs]


def measured(draw: Callable[[int], int], seed: int) -> float:
    """Return the tokens a second of one drawing."""
    began = time.perf_counter()
    tokens = draw(seed)
    return tokens / (time.perf_counter() - began)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure both in turns, and return the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks rollouts")
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    loaded = unrolled.load(options.run)
    task: Any = loaded.task
    model: Any = loaded.model
    tokenizer = task.tokenizer
    texts = prompts_of(options.prompts)
    ids = [tokenizer.opening([Turn("user", text)]) for text in texts]
    rows: list[list[int]] = []
    for row in ids:
        rows += [row] * options.samples

    def ours(seed: int) -> int:
        written = write_many(
            model,
            rows,
            MOST,
            Sampling(),
            tokenizer.end_id,
            tokenizer.unwritten_ids,
            seed,
        )
        return sum(len(text.ids(tokenizer.end_id)) for text in written)

    with tempfile.TemporaryDirectory() as home:
        other = exported(loaded, Path(home))
        reversed_rows, lengths = padded([row[::-1] for row in rows])
        left_padded = reversed_rows.flip(1)
        steps = torch.arange(left_padded.shape[1])
        mask = (steps >= left_padded.shape[1] - lengths[:, None]).long()

        def theirs(seed: int) -> int:
            torch.manual_seed(seed)
            drawn = other.generate(
                left_padded,
                attention_mask=mask,
                max_new_tokens=MOST,
                do_sample=True,
                top_k=0,
                eos_token_id=tokenizer.end_id,
                pad_token_id=0,
            )
            new = drawn[:, left_padded.shape[1] :]
            ended = (new == tokenizer.end_id).long()
            # up to the first end, itself included
            counted = (ended.cumsum(1) - ended) == 0
            return int(counted.sum())

        ours(0)
        theirs(0)
        speeds: dict[str, list[float]] = {"unrolled": [], "transformers": []}
        for seed in range(1, options.rounds + 1):
            speeds["unrolled"].append(measured(ours, seed))
            speeds["transformers"].append(measured(theirs, seed))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratio = medians["unrolled"] / medians["transformers"]
    for name, value in medians.items():
        print(f"{name:<14}{value:>12,.0f} tokens a second")
    print(f"ratio {ratio:.2f}")
    return {"rows": len(rows), "speeds": speeds, "ratio": ratio}


def exported(loaded: Any, home: Path) -> Any:
    """Return the model as transformers reads it."""
    from transformers import AutoModelForCausalLM

    folder = loaded.export("hf", home / "hf", say=lambda text: None)
    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return other.eval()
