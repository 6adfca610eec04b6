"""Units that follow something through an input: where it stands, quotes, brackets, the answer.

Legend: T steps, H units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from unrolled.insight.trace import LayerTrace, StepPrediction, TrackingUnit

FEWEST = 16  # steps from which a correlation says something
CLEAR = 0.6  # of a correlation that is named
SHIFTS = 64  # of a feature, by which chance is told
Doubles = NDArray[np.float64]
OPENS = "([{<「『《〈"
CLOSES = ")]}>」』》〉"
QUOTES = '"“”«»'


def tracking_units(
    layers: Sequence[LayerTrace],
    tokens: Sequence[str],
    predictions: Sequence[StepPrediction],
) -> tuple[TrackingUnit, ...]:
    """Return for each feature of the input the unit of h that follows it most, if one clearly does.

    A correlation counts where it is at least ``CLEAR`` and larger than that of any unit with the
    feature shifted in time, which keeps what neighbouring steps have in common.
    """
    over = [
        layer
        for layer in layers
        if layer.over == "input" and len(layer.norm) == len(tokens)
    ]
    if len(tokens) < FEWEST or not over:
        return ()
    units: list[TrackingUnit] = []
    for name, feature in features_of(tokens, predictions).items():
        if feature.std() < 1e-9:
            continue
        best: TrackingUnit | None = None
        for layer in over:
            unit = _best_unit(layer, name, feature)
            if best is None or abs(unit.correlation) > abs(best.correlation):
                best = unit
        if best is not None and abs(best.correlation) >= max(CLEAR, best.chance):
            units.append(best)
    return tuple(units)


def features_of(
    tokens: Sequence[str], predictions: Sequence[StepPrediction]
) -> dict[str, Doubles]:
    """Return what a unit may follow, by its name, (T,)."""
    measures: dict[str, Callable[[Sequence[str]], list[float]]] = {
        "position": lambda tokens: [float(index) for index in range(len(tokens))],
        "position in the line": _since_line_end,
        "position in the word": _since_blank,
        "inside quotes": _inside_quotes,
        "depth of brackets": _depth,
        "digits": lambda tokens: [float(_all(token, str.isdigit)) for token in tokens],
        "capitals": lambda tokens: [
            float(_all(token, str.isupper)) for token in tokens
        ],
        "blanks": lambda tokens: [float(token.isspace()) for token in tokens],
    }
    features = {name: np.array(measure(tokens)) for name, measure in measures.items()}
    if np.array_equal(features["position"], features["position in the line"]):
        del features["position in the line"]
    if not any(token[:1].isspace() for token in tokens):
        # words are not told apart by blanks here
        del features["position in the word"]
    if len(predictions) == len(tokens) and predictions[-1].outcomes:
        last = predictions[-1].outcomes[0].name
        rows = [{o.name: o.probability for o in step.outcomes} for step in predictions]
        if all(last in row for row in rows):
            features[f"the answer {last}"] = np.array([row[last] for row in rows])
    return features


def _all(token: str, holds: Callable[[str], bool]) -> bool:
    return bool(token.strip()) and holds(token.strip())


def _since_line_end(tokens: Sequence[str]) -> list[float]:
    position = 0
    positions: list[float] = []
    for token in tokens:
        positions.append(float(position))
        position = 0 if "\n" in token else position + 1
    return positions


def _since_blank(tokens: Sequence[str]) -> list[float]:
    position = 0
    positions: list[float] = []
    for token in tokens:
        position = 0 if token[:1].isspace() else position + 1
        positions.append(float(position))
    return positions


def _inside_quotes(tokens: Sequence[str]) -> list[float]:
    inside = False
    states: list[float] = []
    for token in tokens:
        if sum(character in QUOTES for character in token) % 2:
            inside = not inside
        states.append(float(inside))
    return states


def _depth(tokens: Sequence[str]) -> list[float]:
    depth = 0
    depths: list[float] = []
    for token in tokens:
        depth += sum(character in OPENS for character in token)
        depth = max(0, depth - sum(character in CLOSES for character in token))
        depths.append(float(depth))
    return depths


def _best_unit(layer: LayerTrace, name: str, feature: Doubles) -> TrackingUnit:
    """Return the unit of a layer that follows a feature most, and what chance gives."""
    states = layer.state["h"].astype(np.float64)
    correlations = _correlations(states, feature)
    best = int(np.abs(correlations).argmax())
    steps = len(feature)
    first = max(1, steps // 8)
    shifts = np.unique(
        np.linspace(
            first,
            steps - first,
            SHIFTS,
        ).astype(int)
    )
    shifted = [np.abs(_correlations(states, np.roll(feature, s))).max() for s in shifts]
    return TrackingUnit(
        layer.name,
        layer.direction,
        layer.units[best],
        name,
        float(correlations[best]),
        float(max(shifted)),
    )


def _correlations(states: Doubles, feature: Doubles) -> Doubles:
    """Return Pearson's correlation of each unit (T, H) with a feature (T,), 0 of a constant one."""
    centred = states - states.mean(0)
    distances = feature - feature.mean()
    lengths = np.linalg.norm(centred, axis=0) * np.linalg.norm(distances)
    products = distances @ centred
    correlations: Doubles = np.where(
        lengths > 1e-12, products / np.maximum(lengths, 1e-12), 0.0
    )
    return correlations
