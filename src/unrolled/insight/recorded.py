"""From what was recorded of a model to arrays: states, gates and attention of each layer.

Legend: T steps, H units, N heads, S steps read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from unrolled.core.errors import UsageError
from unrolled.insight.trace import AttentionTrace, Floats, LayerTrace, stacked
from unrolled.ops.recording import LONG, LayerRecord

UNITS = 32  # of a layer that are shown, where there are more than LONG steps
STATES = ("h", "c")


def layer_traces(
    records: Sequence[LayerRecord],
    norms: Sequence[Floats] | None,
    units: tuple[int, ...] | None,
    is_generative: bool,
) -> tuple[LayerTrace, ...]:
    """Return what each layer went through, the forward direction of a layer before the backward.

    Args:
        records: of a pass over one row.
        norms: of gradients, by record.
        units: which are shown; None takes all, of a long input ``UNITS`` of them.
        is_generative: whether a decoder is among them, whose steps are those of what is written.

    Raises:
        UsageError: a unit is out of range.
    """
    traces: list[LayerTrace] = []
    for index, record in enumerate(records):
        if not record.steps:
            continue
        arrays = {
            name: stacked([step[name] for step in record.steps])
            for name in record.steps[0]
        }
        h = arrays["h"]
        shown = _shown(record.name, h, units)
        # gates of a projected layer have units of their own, of which all are shown
        chosen = {
            name: array[:, shown] if array.shape == h.shape else array
            for name, array in arrays.items()
        }
        traces.append(
            LayerTrace(
                name=record.name,
                cell=record.cell,
                direction="backward" if record.backward else "forward",
                state={name: chosen[name] for name in STATES if name in chosen},
                gates={
                    name: array for name, array in chosen.items() if name not in STATES
                },
                units=tuple(shown),
                size=h.shape[1],
                norm=np.linalg.norm(h, axis=1).astype(np.float32),
                gradient_norms=None if norms is None else norms[index],
                over="written"
                if is_generative and record.name.startswith("decoder")
                else "input",
            )
        )
    return tuple(traces)


def _shown(name: str, h: Floats, units: tuple[int, ...] | None) -> list[int]:
    """Return the units (of H) that are shown, of a long input those of the largest variance."""
    count = h.shape[1]
    if units is not None:
        wrong = [unit for unit in units if not 0 <= unit < count]
        if wrong:
            raise UsageError(
                f"--units {wrong[0]}: {name} has {count} units, 0 to {count - 1}"
            )
        return sorted(set(units))
    if len(h) <= LONG or count <= UNITS:
        return list(range(count))
    largest = np.argsort(-h.var(0), kind="stable")[:UNITS]
    return sorted(largest.tolist())


def attention_traces(
    records: Sequence[LayerRecord], is_generative: bool
) -> tuple[AttentionTrace, ...]:
    """Return where each step looks, by layer; of a long input by spans of steps.

    ``is_generative`` tells whether a decoder is among the layers.
    """
    traces: list[AttentionTrace] = []
    for record in records:
        if not record.weights:
            continue
        weights = (
            torch.cat([part[0] for part in record.weights], 1).float().cpu().numpy()
        )
        kind = "self"
        if record.name.endswith(" to the source"):
            kind = "source"
        elif is_generative and record.name.startswith("decoder"):
            kind = "written"
        if record.span > 1:
            weights = _means(weights, record.span)
        traces.append(AttentionTrace(record.name, kind, weights, record.span))
    return tuple(traces)


def _means(weights: Floats, span: int) -> Floats:
    """Return weights (N, T, S) as means over ``span`` queries each, the last of those left."""
    starts = np.arange(0, weights.shape[1], span)
    sums = np.add.reduceat(weights, starts, axis=1)
    counts = np.diff(np.append(starts, weights.shape[1]))
    means: Floats = (sums / counts[:, None]).astype(np.float32)
    return means
