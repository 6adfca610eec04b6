"""What was seen inside a model while it read one input: typed arrays with named axes.

Legend: T steps, H units, N heads, S steps read, U steps written, P patches of a side of an image,
H' and W' sides of the grid that attention reads.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
DIGITS = 6  # significant ones in JSON


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One layer in one direction.

    Attributes:
        name: of the layer.
        cell: its equations: ``lstm``, ``gru``, ``rnn_tanh``, ``attention`` ...
        direction: ``forward`` or ``backward``.
        state: h and, of an LSTM, c: (T, U'), of the units that are shown.
        gates: by name, each (T, U').
        units: which units are shown, (U',).
        size: how many units there are, H.
        norm: the length of the whole h at each step, (T,).
        gradient_norms: |d loss / d h_t| at each step, (T,); None where it was not worked out.
        over: what the steps are: ``input`` or ``written``.
    """

    name: str
    cell: str
    direction: str
    state: dict[str, Floats]
    gates: dict[str, Floats]
    units: tuple[int, ...]
    size: int
    norm: Floats
    gradient_norms: Floats | None = None
    over: str = "input"


@dataclass(frozen=True, eq=False)
class AttentionTrace:
    """Where each step looks.

    Attributes:
        name: of the layer.
        kind: ``self``; ``written`` where a decoder looks at what it wrote, and ``source`` where it
            looks at what was read.
        weights: (N, T', S'); rows sum to 1.
        span: how many steps each of the T' and S' stands for.
    """

    name: str
    kind: str
    weights: Floats
    span: int = 1


@dataclass(frozen=True)
class Outcome:
    """What may be answered, and its probability; or a value."""

    name: str
    probability: float


@dataclass(frozen=True)
class StepPrediction:
    """The likeliest outcomes after a step; ``step`` counts from 0."""

    step: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Explained:
    """The one number that gradients and attributions explain.

    Attributes:
        step: the step of the output, from 0; None where an input has one output.
        outcome: the label, token or ``value``.
        probability: of that outcome, or the value.
        index: which output it is.
        is_value: whether it is a value, and no probability.
    """

    step: int | None
    outcome: str
    probability: float
    index: int
    is_value: bool = False


@dataclass(frozen=True, eq=False)
class Attributions:
    """How much each input added to the number that is explained.

    Attributes:
        integrated_gradients: (T,), of Sundararajan et al. (2017), eq. 1, from an input of zeros.
        leave_one_out: (T,): the number less what it is without that step.
        baseline: the number for the input of zeros.
        completeness_gap: |sum of attributions - (number - baseline)|.
        columns: by other column or number of a step, the sum of its integrated gradients.
        points: of the quadrature.
        spans: first step and end of each of the T attributions, where steps are taken together.
    """

    integrated_gradients: Floats
    leave_one_out: Floats
    baseline: float
    completeness_gap: float
    columns: dict[str, float]
    points: int
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class TrackingUnit:
    """A unit that follows something through the input.

    Attributes:
        layer, direction: where it is.
        unit: its index.
        feature: what it follows.
        correlation: Pearson's, over the steps.
        chance: the largest correlation of any unit with the same feature shifted in time.
    """

    layer: str
    direction: str
    unit: int
    feature: str
    correlation: float
    chance: float


@dataclass(frozen=True)
class Forecast:
    """A value with the interval that nine of ten held-out values were in, if errors are normal."""

    value: float
    low: float
    high: float
    column: str
    ahead: int
    truth: float | None = None


@dataclass(frozen=True, eq=False)
class ImageTrace:
    """What was seen of an image.

    Attributes:
        png: the pixels that were read, as a PNG.
        regions: by how much the number that is explained falls where a patch is grey, (P, P).
        maps: where each word looks, (U, H', W'); None without attention.
    """

    png: bytes
    regions: Floats
    maps: Floats | None = None

    @property
    def address(self) -> str:
        """The image as an address that a page can hold."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True, eq=False)
class Trace:
    """All that was seen while a model read one input.

    Attributes:
        text: the input as it was given.
        tokens: what was read at each step, (T,).
        written: what was written, piece by piece, (U,).
        answer: the whole answer: a label, a value as it is shown, all labels, the text written.
        layers, predictions, attention, attributions, tracking: see there.
        explained: what gradients and attributions are of.
        state_gradient_norms: |d h_T / d h_t| of the last layer, (T,).
        numbers: what was read, in the unit of the file, (T, D), where that is numbers.
        columns: of these numbers, (D,).
        holds: what was held, as it was given.
        unheld: predictions without holds.
        forecast: where the answer is a value.
        notices: what the reader of this should know.
        image: what was seen of an image, where one was read.
    """

    text: str
    tokens: tuple[str, ...]
    layers: tuple[LayerTrace, ...]
    predictions: tuple[StepPrediction, ...]
    explained: Explained
    attributions: Attributions | None
    attention: tuple[AttentionTrace, ...] = ()
    tracking: tuple[TrackingUnit, ...] = ()
    written: tuple[str, ...] = ()
    answer: str = ""
    state_gradient_norms: Floats | None = None
    numbers: Floats | None = None
    columns: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    unheld: tuple[StepPrediction, ...] = ()
    forecast: Forecast | None = None
    notices: tuple[str, ...] = field(default=())
    image: ImageTrace | None = None

    @property
    def gradient_norms(self) -> Floats | None:
        """|d loss / d h_t| of the last layer, read forward."""
        shown = [
            layer for layer in self.layers if layer.direction == "forward"
        ] or self.layers
        return shown[-1].gradient_norms if shown else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; see ``docs/inspect.md`` for what they are."""
        values: dict[str, Any] = {
            "input": self.text,
            "tokens": list(self.tokens),
            "answer": self.answer,
            "explained": {
                "step": self.explained.step,
                "outcome": self.explained.outcome,
                "probability": rounded(self.explained.probability),
            },
            "layers": [_layer(layer) for layer in self.layers],
            "predictions": [_prediction(step) for step in self.predictions],
        }
        if self.written:
            values["written"] = list(self.written)
        if self.attention:
            values["attention"] = [_attention(trace) for trace in self.attention]
        if self.attributions is not None:
            values["attributions"] = _attributions(self.attributions)
        values["gradient_norms"] = _list(self.gradient_norms)
        values["state_gradient_norms"] = _list(self.state_gradient_norms)
        values["tracking"] = [
            {
                "layer": unit.layer,
                "direction": unit.direction,
                "unit": unit.unit,
                "feature": unit.feature,
                "correlation": rounded(unit.correlation),
            }
            for unit in self.tracking
        ]
        if self.numbers is not None:
            values["columns"] = list(self.columns)
            values["numbers"] = _list(self.numbers)
        if self.holds:
            values["holds"] = list(self.holds)
            values["unheld"] = [_prediction(step) for step in self.unheld]
        if self.forecast is not None:
            values["forecast"] = vars(self.forecast)
        if self.image is not None:
            values["regions"] = _list(self.image.regions)
            if self.image.maps is not None:
                values["maps"] = _list(self.image.maps)
        values["notices"] = list(self.notices)
        return values


def rounded(value: float) -> float:
    """Return a number with the digits that float32 has."""
    return float(f"{value:.{DIGITS + 1}g}")


def _list(array: Floats | None) -> list[Any] | None:
    """Return an array as nested lists of numbers, of which each has the digits of float32."""
    if array is None:
        return None
    if array.ndim > 1:
        return [_list(part) for part in array]
    return [rounded(value) for value in array.tolist()]


def _layer(layer: LayerTrace) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": layer.name,
        "cell": layer.cell,
        "direction": layer.direction,
        "over": layer.over,
        "state": {name: _list(array) for name, array in layer.state.items()},
        "gates": {name: _list(array) for name, array in layer.gates.items()},
        "gradient_norms": _list(layer.gradient_norms),
        "norm": _list(layer.norm),
        "size": layer.size,
    }
    if len(layer.units) < layer.size:
        values["units"] = list(layer.units)
    return values


def _prediction(prediction: StepPrediction) -> dict[str, Any]:
    return {
        "step": prediction.step,
        "outcomes": [
            {"outcome": outcome.name, "probability": rounded(outcome.probability)}
            for outcome in prediction.outcomes
        ],
    }


def _attention(trace: AttentionTrace) -> dict[str, Any]:
    return {
        "name": trace.name,
        "kind": trace.kind,
        "span": trace.span,
        "weights": _list(trace.weights),
    }


def _attributions(attributions: Attributions) -> dict[str, Any]:
    values: dict[str, Any] = {
        "integrated_gradients": _list(attributions.integrated_gradients),
        "leave_one_out": _list(attributions.leave_one_out),
        "baseline": rounded(attributions.baseline),
        "completeness_gap": rounded(attributions.completeness_gap),
        "points": attributions.points,
    }
    if attributions.columns:
        values["columns"] = {
            name: rounded(value) for name, value in attributions.columns.items()
        }
    if attributions.spans:
        values["spans"] = [list(span) for span in attributions.spans]
    return values


def spans_of(steps: int, most: int) -> list[tuple[int, int]]:
    """Return spans of equal length, at most ``most`` of them, that cover all steps."""
    size = max(1, -(-steps // most))
    return [(first, min(first + size, steps)) for first in range(0, steps, size)]


def stacked(steps: Sequence[Any]) -> Floats:
    """Return tensors (1, H), one a step, as one array (T, H)."""
    rows = [step.detach().float().cpu().numpy()[0] for step in steps]
    return np.stack(rows)
