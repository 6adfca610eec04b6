"""Whether a graph says what our model says, over batches of several sizes and lengths.

Shapes: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.export.onnx.models import Port, Translation
from unrolled.export.parity import BATCHES, Difference
from unrolled.models import LanguageModel
from unrolled.nn import RecurrentState

Arrays = dict[str, np.ndarray[Any, Any]]
PIECES = 7  # of the longest word
CHARACTERS = 3  # code points for each token


def compare(
    model: nn.Module,
    translation: Translation,
    session: Any,
) -> Difference:
    """Run both on random inputs, rows of unequal length among them.

    The difference is that of outputs up to 1; of a row with larger ones it is a share of the
    largest, since fp32 sums differ in proportion to what is summed.

    Args:
        model: ours, in evaluation mode, on the CPU.
        translation: its inputs and outputs.
        session: what runs the graph.
    """
    generator = np.random.default_rng(0)
    limit = getattr(getattr(model, "layer", None), "context", None)
    gaps = [0.0]
    outputs = 0
    longest = 0
    for rows, most in BATCHES:
        steps = min(most, limit) if limit else most
        longest = max(longest, steps)
        inputs = random_inputs(
            translation.inputs,
            rows,
            steps,
            generator,
        )
        theirs = session.run(None, inputs)
        ours = run_ours(model, translation.inputs, inputs)
        for our_output, their_output in zip(ours, theirs, strict=True):
            gaps.append(_gap(our_output, their_output))
            outputs += our_output.size
    # a maximum of Python's would pass over a NaN
    largest = float(np.max(gaps))
    return Difference(
        largest,
        outputs,
        (1, longest),
        "outputs",
        "step",
    )


def _gap(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    if ours.shape != theirs.shape:
        return float("nan")
    features = ours.shape[-1]
    our_rows = ours.reshape(-1, features).astype(np.float64)
    largest = np.abs(our_rows).max(1, keepdims=True)
    differences = np.abs(our_rows - theirs.reshape(-1, features))
    return float((differences / np.maximum(largest, 1)).max())


def random_inputs(
    ports: Sequence[Port], rows: int, steps: int, generator: np.random.Generator
) -> Arrays:
    """Return inputs of so many rows, the first as long as may be, others shorter."""
    sizes = {
        "batch": rows,
        "time": steps,
        "words": rows * steps,
        "pieces": PIECES,
        "characters": CHARACTERS * steps,
    }
    inputs: Arrays = {}
    for port in ports:
        shape = [sizes[size] if isinstance(size, str) else size for size in port.shape]
        if port.dtype is np.float32:
            inputs[port.name] = generator.normal(size=shape).astype(np.float32)
            continue
        below = port.below
        end = sizes[below] + port.least if isinstance(below, str) else below
        numbers = generator.integers(port.least, end, shape)
        if port.least and isinstance(below, str):
            numbers[0] = sizes[below]
        inputs[port.name] = numbers
    return inputs


@torch.inference_mode()
def run_ours(
    model: nn.Module, ports: Sequence[Port], inputs: Mapping[str, np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """Return what our model says of the same inputs."""
    tensors = [torch.from_numpy(inputs[port.name]) for port in ports]
    if not isinstance(model, LanguageModel):
        outputs: Tensor = model(*tensors)
        return [outputs.numpy()]
    tokens, lengths, *parts = tensors
    state = RecurrentState(*parts) if parts else None
    scores, after = model(tokens, state, lengths)
    said = [scores.numpy()]
    if isinstance(after, RecurrentState):
        said += [part.numpy() for part in (after.h, after.c) if part is not None]
    return said
