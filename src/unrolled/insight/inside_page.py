"""The page of a look inside: what its script draws, as data, around what needs none.

The words and the order of the page stand in ``templates/inside.html``; what moves is drawn by
``templates/inside.js``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from unrolled.insight import pages
from unrolled.insight.inside_panels import panel_of
from unrolled.insight.packing import Pack
from unrolled.insight.parting import parting_of
from unrolled.insight.trace import (
    AttentionTrace,
    Floats,
    LayerTrace,
    StepPrediction,
    Trace,
)
from unrolled.insight.words import LANGUAGES, table
from unrolled.ops.recording import LONG

# by which a page is known again, and may be written over
MARK = '<meta name="generator" content="unrolled inspect">'
NUMBERS = 600_000  # of states and gates on the page of a short input
NUMBERS_LONG = 3_900_000


def render(traces: Sequence[Trace], title: str, language: str) -> str:
    """Return the page of some traces, in ``en``, ``ko`` or the browser's language (``auto``)."""
    numbers = sum(min(_size(trace), _most(trace)) for trace in traces)
    pack = Pack(numbers)
    data = [_data(trace, pack) for trace in traces]
    return pages.page(
        "inside.html",
        lang=language,
        scripts=["inside.js"],
        styles=["inside.css"],
        mark=Markup(MARK),
        title=title,
        panels=[panel_of(trace) for trace in traces],
        parting=parting_of(traces),
        words=pages.data_block("words", _script_words()),
        data=pages.data_block("inside", {"traces": data, "pack": pack.to_json()}),
    )


def _script_words() -> dict[str, dict[str, str]]:
    """Return the captions that the script puts in, by language and key."""
    words: dict[str, dict[str, str]] = {language: {} for language in LANGUAGES}
    for key, caption in table().items():
        if key.startswith("inside.js_"):
            for language in LANGUAGES:
                words[language][key] = caption[language]
    return words


def _most(trace: Trace) -> int:
    """Return how many numbers of states and gates a page holds of a trace at most."""
    return NUMBERS if len(trace.tokens) <= LONG else NUMBERS_LONG


def _size(trace: Trace) -> int:
    """Return how many numbers of states and gates there are."""
    size = 0
    for layer in trace.layers:
        size += sum(array.size for array in _arrays(layer).values())
    return size


def _arrays(layer: LayerTrace) -> dict[str, Floats]:
    return layer.state | layer.gates


def _data(trace: Trace, pack: Pack) -> dict[str, Any]:
    """Return what the script reads of a trace."""
    arrays = sum(len(_arrays(layer)) for layer in trace.layers)
    longest = max([len(layer.norm) for layer in trace.layers], default=1)
    units = _most(trace) // max(1, arrays * longest)
    return {
        "tokens": list(trace.tokens),
        "written": list(trace.written),
        "layers": [_layer_data(layer, pack, max(1, units)) for layer in trace.layers],
        "predictions": [_prediction_data(step) for step in trace.predictions],
        "over": "written" if trace.written else "input",
        "values": trace.explained.is_value,
        "attention": [_attention_data(part, pack) for part in trace.attention],
    }


def _prediction_data(prediction: StepPrediction) -> list[Any]:
    outcomes: list[list[Any]] = []
    for outcome in prediction.outcomes:
        rounded = float(f"{outcome.probability:.4g}")
        outcomes.append([outcome.name, rounded])
    return [prediction.step, outcomes]


def _layer_data(
    layer: LayerTrace,
    pack: Pack,
    most: int,
) -> dict[str, Any]:
    """Return the arrays of a layer, of ``most`` units at most: those that vary most."""
    h = layer.state["h"]
    shown = list(range(h.shape[1]))
    if len(shown) > most:
        largest = np.argsort(-h.var(0), kind="stable")[:most]
        shown = sorted(largest.tolist())
    packed = {name: pack.add(array[:, shown]) for name, array in _arrays(layer).items()}
    return {
        "name": layer.name,
        "cell": layer.cell,
        "direction": layer.direction,
        "over": layer.over,
        "size": layer.size,
        "units": [layer.units[index] for index in shown],
        "arrays": packed,
    }


def _attention_data(part: AttentionTrace, pack: Pack) -> dict[str, Any]:
    return {
        "name": part.name,
        "kind": part.kind,
        "span": part.span,
        "weights": pack.add(part.weights),
    }
