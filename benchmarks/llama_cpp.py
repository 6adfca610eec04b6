"""Models of attention beside llama.cpp: same weights, bits and threads, a token and a prompt.

``python -m benchmarks llama_cpp FILE.gguf [--precisions float32 q8_0]``. The file holds weights in
fp32, as ``unrolled export --to gguf`` writes them, or in any bits that both read. For the other
precisions llama.cpp itself writes the file that it reads; the stream packs the same weights. Needs
``pip install llama-cpp-python``, which compiles llama.cpp for this machine.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unrolled
from benchmarks.text import PROMPT, Measured, by_turns
from unrolled.ops import native

READ = 64  # tokens before the steps that are measured
STEPS = 60
CONTEXT = 512
# what llama.cpp calls the files it writes: llama_ftype
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "bf16": 32}


class LlamaCpp:
    """A file read by llama.cpp.

    Args:
        file: a GGUF file.
        threads: of a step and of a prompt.
        repacked: whether weights may lie as its kernels for this machine want them.
    """

    def __init__(self, file: Path, threads: int, repacked: bool) -> None:
        import llama_cpp

        self.library: Any = llama_cpp
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = repacked
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        if not self.model:
            raise SystemExit(f"llama.cpp does not read {file}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = CONTEXT
        settings.n_batch = CONTEXT
        settings.n_ubatch = CONTEXT
        settings.n_threads = threads
        settings.n_threads_batch = threads
        self.context: Any = llama_cpp.llama_init_from_model(self.model, settings)
        words = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(words)

    def forget(self, first: int) -> None:
        """Forget what was read from position ``first`` on."""
        memory = self.library.llama_get_memory(self.context)
        self.library.llama_memory_seq_rm(memory, 0, first, -1)

    def read(self, ids: list[int]) -> None:
        """Read ids after those before; scores of the last are kept."""
        row = (ctypes.c_int32 * len(ids))(*ids)
        batch = self.library.llama_batch_get_one(row, len(ids))
        status = self.library.llama_decode(self.context, batch)
        if status:
            raise SystemExit(f"llama.cpp stopped with status {status}")

    def scores(self) -> torch.Tensor:
        """Return the scores (V,) after what was read last."""
        row = self.library.llama_get_logits_ith(self.context, -1)
        return torch.from_numpy(np.ctypeslib.as_array(row, (self.vocabulary,)).copy())


def written_by_llama_cpp(file: Path, precision: str, folder: Path) -> Path:
    """Return a file of the same weights in fewer bits."""
    import llama_cpp

    if precision not in FILE_TYPES:
        return file
    made = folder / f"{precision}.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = FILE_TYPES[precision]
    # the table of tokens as the rest: ours packs it like any other weight
    options.pure = True
    status = llama_cpp.llama_model_quantize(
        str(file).encode(), str(made).encode(), ctypes.byref(options)
    )
    if status:
        raise SystemExit(f"llama.cpp does not write {precision}")
    return made


def compared(
    loaded: Any, file: Path, precision: str, threads: int, repacked: bool
) -> dict[str, Any]:
    """Return seconds of a step and a prompt of both, and how far apart their scores are."""
    other = LlamaCpp(file, threads, repacked)
    stream = loaded.model.stream(1, precision)
    count = min(PROMPT, loaded.model.context)
    drawn = np.random.default_rng(0).integers(3, other.vocabulary, count).tolist()
    ids = torch.tensor([drawn])

    def step_theirs() -> None:
        for number in range(STEPS):
            other.read([drawn[number]])
            other.scores()
        other.forget(READ)

    def step_ours() -> None:
        for number in range(STEPS):
            stream.step(ids[:, number])
        stream.load(stream.state.shortened(STEPS))

    def read_theirs() -> None:
        other.forget(0)
        other.read(drawn)

    def read_ours() -> None:
        stream.reset()
        stream.read(ids)

    other.read(drawn[:READ])
    # which stand until the next step
    scores = stream.read(ids[:, :READ])[0].clone()
    theirs = other.scores()
    step = by_turns({"llama.cpp": step_theirs, "unrolled": step_ours})
    prompt = by_turns({"llama.cpp": read_theirs, "unrolled": read_ours})
    deviation = float(theirs.std())
    return {
        "step": {name: took / STEPS for name, took in step.items()},
        "prompt": prompt,
        "prompt_tokens": count,
        "step_ratio": step["llama.cpp"] / step["unrolled"],
        "prompt_ratio": prompt["llama.cpp"] / prompt["unrolled"],
        "bytes": stream.bytes,
        # in standard deviations of the scores, whose size differs by model
        "difference": float((scores - theirs).abs().max()) / deviation,
        "same_choice": int(scores.argmax()) == int(theirs.argmax()),
    }


@torch.inference_mode()
def run(arguments: list[str]) -> dict[str, Any]:
    """Measure; ``arguments`` are those after the name of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks llama_cpp")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--precisions", nargs="+", default=["float32", "bf16", "q8_0", "q4_0"]
    )
    parser.add_argument(
        "--repacked",
        action="store_true",
        help="let llama.cpp lay weights out anew for AMX and the like, which ends in an illegal "
        "instruction on some machines",
    )
    chosen = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    library: Any = native.library()
    bandwidth = library.bandwidth(200 << 20, threads, 0.5)
    loaded = unrolled.load(chosen.file, device="cpu")
    results: dict[str, Any] = {
        "file": chosen.file.name,
        "parameters": loaded.describe()["parameters"],
        "threads": threads,
        "bandwidth": bandwidth,
        "llama_cpp_python": _version(),
        "repacked": chosen.repacked,
    }
    silence = _silenced()
    with tempfile.TemporaryDirectory() as folder:
        for precision in chosen.precisions:
            file = written_by_llama_cpp(chosen.file, precision, Path(folder))
            measured = compared(loaded, file, precision, threads, chosen.repacked)
            results[precision] = measured
            _show(precision, measured, bandwidth)
    del silence
    return results


def _silenced() -> Any:
    """Keep llama.cpp from telling of every tensor, as long as what is returned is kept."""
    import llama_cpp

    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    return callback


def _version() -> str:
    import llama_cpp

    return str(llama_cpp.__version__)


def _show(precision: str, measured: dict[str, Any], bandwidth: float) -> None:
    for part, count in (("step", 1), ("prompt", measured["prompt_tokens"])):
        times: Measured = measured[part]
        shown = "  ".join(f"{name} {took * 1e3:.3f} ms" for name, took in times.items())
        ratio = measured[f"{part}_ratio"]
        print(f"{precision:<8} {part} of {count:<4} {shown}  {ratio:.2f}x", flush=True)
    of_peak = measured["bytes"] / measured["step"]["unrolled"] / bandwidth
    print(
        f"         {of_peak:.0%} of the memory's speed, scores {measured['difference']:.1e} of "
        f"their deviation apart, same choice: {measured['same_choice']}",
        flush=True,
    )
