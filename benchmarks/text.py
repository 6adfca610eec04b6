"""Language models of attention, a token at a time: the native stream against plain PyTorch.

Plain PyTorch is eager, in the manner of nanoGPT, with keys and values kept in room that is made
once; and ``transformers.generate``. Same weights, rows and threads, taking turns; medians.

``python -m benchmarks text [RUN FILE [bits | drafts]]``; of a run over a text, it says what fewer
bits of weights cost on the text of FILE, and how much sooner the run writes with guesses of what
stood before. With the last word this alone is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unrolled
from unrolled.decoding.sampling import Sampling, choose
from unrolled.models import LanguageModel
from unrolled.nn import Attention, TokenEmbedding
from unrolled.nn.packed_model import TransformerParts
from unrolled.nn.paged_texts import PagedTexts
from unrolled.ops import native

CONTEXT = 512
ROUNDS = 5
PROMPT = 384
# width, blocks, heads, vocabulary, and steps of a round
SIZES = {"5M": (256, 6, 4, 1000, 60), "40M": (512, 12, 8, 4096, 12)}
SCORED = 20_000  # tokens that fewer bits are compared on
WRITTEN = 150  # tokens that are written with guesses and without
Measured = dict[str, float]


class PlainGPT(nn.Module):
    """GPT-2 as one would write it, with a cache of keys and values for B rows."""

    def __init__(self, model: LanguageModel, rows: int) -> None:
        super().__init__()
        layer: Any = model.layer
        self.model = model
        self.heads = layer.blocks[0].attention.heads
        self.qkv = []
        for block in layer.blocks:
            attention = block.attention
            parts = (attention.query, attention.key, attention.value)
            self.qkv.append(torch.cat([part.weight for part in parts]).detach())
        shape = (len(layer.blocks), rows, self.heads, CONTEXT, layer.head_size)
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.read = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Read ids (B, T) after what was read; return scores of the next (B, V)."""
        model: Any = self.model
        rows, steps = ids.shape
        first = self.read
        past = first + steps
        x = model.embedding.weight[ids] + model.layer.place.weight[first:past]
        for number, block in enumerate(model.layer.blocks):
            parts = F.linear(block.attention_norm(x), self.qkv[number])
            q, k, v = parts.view(rows, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            self.keys[number, :, :, first:past] = k
            self.values[number, :, :, first:past] = v
            k = self.keys[number, :, :, :past]
            v = self.values[number, :, :, :past]
            read = F.scaled_dot_product_attention(q, k, v, is_causal=steps > 1)
            x = x + block.attention.out(read.transpose(1, 2).reshape(x.shape))
            inner = F.gelu(block.feedforward.up(block.feedforward_norm(x)))
            x = x + block.feedforward.out(inner)
        self.read = past
        return model.head(model.layer.norm(x[:, -1]))


def build(width: int, blocks: int, heads: int, vocabulary: int) -> LanguageModel:
    """Return a model with weights that were drawn."""
    torch.manual_seed(0)
    layer = Attention(
        width,
        width,
        blocks,
        heads,
        positions="learned",
        norm="layer",
        feedforward="gelu",
        context=CONTEXT,
    )
    embedding = TokenEmbedding(vocabulary, width, std=0.5)
    return LanguageModel(embedding, layer, vocabulary, bias=False).eval()


def hugging_face(model: LanguageModel) -> Any:
    """Return a GPT-2 of the same sizes in transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    layer: Any = model.layer
    config = GPT2Config(
        vocab_size=model.head.out_features,
        n_positions=CONTEXT,
        n_embd=layer.output_size,
        n_layer=len(layer.blocks),
        n_head=layer.blocks[0].attention.heads,
    )
    return GPT2LMHeadModel(config).eval()


def seconds(run: Callable[[], None]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def by_turns(paths: dict[str, Callable[[], None]]) -> Measured:
    """Return the median seconds of each way, which take turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    for round in range(ROUNDS + 1):
        for name, run in paths.items():
            took = seconds(run)
            if round:
                times[name].append(took)
    return {name: statistics.median(taken) for name, taken in times.items()}


def steps_of(model: LanguageModel, rows: int, steps: int) -> Measured:
    """Return seconds of one step of every way, after a prompt of 64 tokens."""
    vocabulary = model.head.out_features
    ids = torch.randint(0, vocabulary, (rows, 64))
    paths: dict[str, Callable[[], None]] = {}
    plain = PlainGPT(model, rows)

    def eagerly() -> None:
        plain.read = 64
        for _ in range(steps):
            plain(ids[:, :1])

    plain(ids)
    paths["eager"] = eagerly
    for precision in native.DECODER_PRECISIONS:
        stream = model.stream(rows, precision)
        stream.read(ids)

        def natively(stream: Any = stream) -> None:
            for _ in range(steps):
                stream.step(ids[:, 0])
            # back to the prompt, which copies nothing
            stream.load(stream.state.shortened(steps))

        paths[precision] = natively
    measured = by_turns(paths)
    return {name: took / steps for name, took in measured.items()}


def prompts_of(model: LanguageModel) -> Measured:
    """Return seconds of reading a prompt of one row."""
    ids = torch.randint(0, model.head.out_features, (1, PROMPT))
    plain = PlainGPT(model, 1)
    stream = model.stream(1)
    half = model.stream(1, "bf16")

    def eagerly() -> None:
        plain.read = 0
        plain(ids)

    def natively(stream: Any) -> None:
        stream.reset()
        stream.read(ids)

    return by_turns(
        {
            "eager": eagerly,
            "float32": lambda: natively(stream),
            "bf16": lambda: natively(half),
        }
    )


def generating(
    model: LanguageModel, prompt: int, shared: bool, rows: int = 32, tokens: int = 32
) -> Measured:
    """Return seconds of writing ``tokens`` in many rows, greedily.

    Args:
        model: what writes.
        prompt: tokens that stand before.
        shared: whether all rows have the same.
        rows, tokens: how many.
    """
    other = hugging_face(model)
    ids = torch.randint(0, model.head.out_features, (rows, prompt))
    if shared:
        ids = ids[:1].expand(rows, prompt).contiguous()
    stream = model.stream(rows)
    prompts = ids.tolist()
    parts = TransformerParts.of_model(model, LanguageModel)

    def natively() -> None:
        stream.reset()
        scores = stream.read(ids)
        for _ in range(tokens - 1):
            scores = stream.step(scores.argmax(1))

    def by_transformers() -> None:
        other.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
        )

    def in_pages() -> None:
        texts = PagedTexts(parts)
        begun, scores = zip(*map(texts.read, prompts), strict=True)
        following = torch.cat(scores)
        for _ in range(tokens - 1):
            following = texts.step(begun, following.argmax(1).tolist())

    return by_turns(
        {"transformers": by_transformers, "float32": natively, "pages": in_pages}
    )


def sampling_of(model: LanguageModel) -> float:
    """Return seconds of a choice by top-k and top-p of one row."""
    scores = torch.randn(1, model.head.out_features)
    sampling = Sampling(temperature=0.8, top_k=50, top_p=0.9)
    generator = torch.Generator().manual_seed(0)

    def draw() -> None:
        for _ in range(100):
            choose(scores.clone(), sampling, None, generator)

    return by_turns({"draw": draw})["draw"] / 100


def bits_of(run: Any, text: str) -> Measured:
    """Return bits per byte of the beginning of a text, by the bits of weights."""
    words = run.task.tokenizer
    model = run.model
    ids = torch.tensor([words.encode(text)[: SCORED + 1]])
    bytes_read = len(words.decode(ids[0, 1:].tolist()).encode())
    window = model.context or 512
    costs: Measured = {}
    for precision in native.DECODER_PRECISIONS:
        stream = model.stream(1, precision)
        nats = 0.0
        for begin in range(0, ids.shape[1] - 1, window):
            part = ids[:, begin : begin + window + 1]
            stream.reset()
            scores = stream.read_each(part[:, :-1])[0].log_softmax(1)
            nats -= float(scores.gather(1, part[0, 1:, None]).sum())
        costs[precision] = nats / bytes_read / float(np.log(2))
        print(f"{precision:<8} {costs[precision]:.4f} bits per byte", flush=True)
    return costs


def drafts_of(run: Any, text: str) -> dict[str, Measured]:
    """Return seconds of writing, with guesses and without, where text repeats and where not."""
    line = text[:60]
    prompts = {"repeats": line * 5, "does not repeat": text[:300]}
    measured: dict[str, Measured] = {}
    for name, prompt in prompts.items():

        def write(draft: str | None, prompt: str = prompt) -> None:
            run.generate(prompt, WRITTEN, temperature=0, draft=draft)

        times = by_turns(
            {"alone": lambda: write(None), "ngram": lambda: write("ngram")}
        )
        measured[name] = times
        print(f"{name:<16} with guesses {times['alone'] / times['ngram']:.2f}x")
    return measured


@torch.inference_mode()
def run(arguments: list[str]) -> dict[str, Any]:
    """Measure; ``arguments`` may hold a run's folder, a file of text and what alone is wanted."""
    of_run = arguments[:2]
    only = arguments[2:]
    threads = torch.get_num_threads()
    library: Any = native.library()
    bandwidth = library.bandwidth(200 << 20, threads, 0.5)
    print(f"{threads} threads, memory {bandwidth / 1e9:.1f} GB/s")
    results: dict[str, Any] = {"threads": threads, "bandwidth": bandwidth}
    for name, (*sizes, steps) in ({} if only else SIZES).items():
        model = build(*sizes)
        measured: dict[str, Any] = {}
        for rows in (1, 32):
            measured[f"{rows} rows"] = steps_of(model, rows, max(4, steps // rows))
        measured["prompt"] = prompts_of(model)
        if name == "5M":
            measured["generate"] = generating(model, 8, shared=False)
            measured["one prompt"] = generating(model, 256, shared=True)
        measured["bytes"] = model.stream(1).bytes
        measured["choice"] = sampling_of(model)
        results[name] = measured
        _show(name, measured, bandwidth)
    if of_run:
        folder, file = of_run
        trained = unrolled.load(folder, device="cpu")
        text = Path(file).read_text("utf-8")
        if only != ["drafts"]:
            results["bits"] = bits_of(trained, text)
        if only != ["bits"]:
            results["drafts"] = drafts_of(trained, text)
    return results


def _show(name: str, measured: dict[str, Any], bandwidth: float) -> None:
    for part in ("1 rows", "32 rows", "prompt", "generate", "one prompt"):
        times = measured.get(part)
        if times is None:
            continue
        base_name, base = next(iter(times.items()))
        print(f"{name} {part:<10} {base_name} {base * 1e3:.3f} ms")
        for way, took in list(times.items())[1:]:
            print(f"    {way:<8} {took * 1e3:8.3f} ms  {base / took:5.2f}x")
    took = measured["1 rows"]["float32"]
    of_peak = measured["bytes"] / took / bandwidth
    choice = measured["choice"] * 1e6
    print(f"    {of_peak:.0%} of the memory's speed; a choice takes {choice:.0f} us")
