"""A GGUF file of somebody else beside transformers' reading of it: logits, greedy text and ids.

python -m benchmarks published FILE.gguf
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import unrolled

PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was",
    "def add(a, b):\n    return",
)
NEW = 64


def compared(run: Any, model: Any, words: Any, prompt: str) -> dict[str, Any]:
    """Return how far the two are apart after a prompt."""
    ids = run.task.tokenizer.beginning(prompt)
    with torch.inference_mode():
        theirs = model(torch.tensor([ids])).logits[0]
        written = model.generate(
            torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )[0, len(ids) :]
    ours = run.logits(ids)
    text, choices = run.choices(prompt, NEW, temperature=0)
    their_text = words.decode(written, skip_special_tokens=True)
    return {
        "prompt": prompt,
        "tokens": len(ids),
        "same_ids": words(prompt).input_ids == ids,
        "largest_difference": float((ours - theirs).abs().max()),
        "greedy_tokens": len(choices),
        "same_text": text == their_text,
    }


def run(arguments: list[str]) -> dict[str, Any]:
    """Compare a file; ``arguments`` are those after the name of the benchmark."""
    import transformers

    parser = argparse.ArgumentParser(prog="python -m benchmarks published")
    parser.add_argument("file", type=Path)
    path = parser.parse_args(arguments).file
    began = time.perf_counter()
    loaded = unrolled.load(path, device="cpu")
    seconds = time.perf_counter() - began
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    words = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    rows = [compared(loaded, model, words, prompt) for prompt in PROMPTS]
    for row in rows:
        print(row)
    return {
        "file": path.name,
        **loaded.describe(),
        "seconds_to_load": round(seconds, 1),
        "prompts": rows,
    }
