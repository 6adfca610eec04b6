"""The page of a look inside: its data, and the charts that need no script.

The words and the order of the page stand in ``templates/inside.html``; what moves is drawn by
``templates/inside.js``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from unrolled.insight import charts, pages
from unrolled.insight.drawings import (
    alignment,
    band,
    forecast_chart,
    side_by_side,
    visible,
)
from unrolled.insight.inside import MARK, Inside
from unrolled.insight.packing import Pack
from unrolled.insight.tables import TextTable
from unrolled.insight.trace import (
    AttentionTrace,
    Floats,
    LayerTrace,
    StepPrediction,
    Trace,
)
from unrolled.insight.words import LANGUAGES, Phrase, t, table
from unrolled.ops.recording import LONG

NUMBERS = 600_000  # of states and gates on the page of a short input
NUMBERS_LONG = 3_900_000
ROWS = 60  # of a table that is open
CHANGES = 30  # of held predictions that are listed
ALIGNED = 80  # tokens of a side of an alignment that is drawn
CURVES = 6
PARTED = 0.1  # of the length of a state: from here on two states have parted
SMALLEST = 1e-12  # of a gradient that is drawn


def render(inside: Inside) -> str:
    """Return the page of some traces."""
    numbers = sum(map(_numbers, inside.traces))
    pack = Pack(numbers)
    data = [_data(trace, pack) for trace in inside.traces]
    panels = [_panel(trace) for trace in inside.traces]
    return pages.page(
        "inside.html",
        lang=inside.language,
        scripts=["inside.js"],
        styles=["inside.css"],
        mark=Markup(MARK),
        title=inside.title,
        panels=panels,
        parting=_parting(inside.traces),
        words=pages.data_block("words", _script_words()),
        data=pages.data_block("inside", {"traces": data, "pack": pack.to_json()}),
    )


def _script_words() -> dict[str, dict[str, str]]:
    """Return the captions that the script puts in, by language and key."""
    captions = {
        key: caption for key, caption in table().items() if key.startswith("inside.js_")
    }
    return {
        language: {key: caption[language] for key, caption in captions.items()}
        for language in LANGUAGES
    }


# ---------------------------------------------------------------------- what the script draws


def _numbers(trace: Trace) -> int:
    """Return how many numbers of states and gates a page holds of a trace."""
    whole = sum(
        array.size for layer in trace.layers for array in _arrays(layer).values()
    )
    return min(whole, NUMBERS if len(trace.tokens) <= LONG else NUMBERS_LONG)


def _arrays(layer: LayerTrace) -> dict[str, Floats]:
    return layer.state | layer.gates


def _data(trace: Trace, pack: Pack) -> dict[str, Any]:
    """Return what the script reads of a trace."""
    most = NUMBERS if len(trace.tokens) <= LONG else NUMBERS_LONG
    arrays = sum(len(_arrays(layer)) for layer in trace.layers)
    longest = max((len(layer.norm) for layer in trace.layers), default=1)
    units = max(1, most // max(1, arrays * longest))
    layers = [_layer_data(layer, pack, units) for layer in trace.layers]
    return {
        "tokens": list(trace.tokens),
        "written": list(trace.written),
        "layers": layers,
        "predictions": [
            [
                step.step,
                [[o.name, float(f"{o.probability:.4g}")] for o in step.outcomes],
            ]
            for step in trace.predictions
        ],
        "over": "written" if trace.written else "input",
        "values": trace.forecast is not None or trace.explained.outcome == "value",
        "attention": [_attention_data(part, pack) for part in trace.attention],
    }


def _layer_data(layer: LayerTrace, pack: Pack, most: int) -> dict[str, Any]:
    """Return the arrays of a layer, of ``most`` units at most: those that vary most."""
    h = layer.state["h"]
    shown = list(range(h.shape[1]))
    if len(shown) > most:
        largest = np.argsort(-h.var(0), kind="stable")[:most]
        shown = sorted(largest.tolist())
    return {
        "name": layer.name,
        "cell": layer.cell,
        "direction": layer.direction,
        "over": layer.over,
        "size": layer.size,
        "units": [layer.units[index] for index in shown],
        "arrays": {
            name: pack.add(array[:, shown]) for name, array in _arrays(layer).items()
        },
    }


def _attention_data(part: AttentionTrace, pack: Pack) -> dict[str, Any]:
    return {
        "name": part.name,
        "kind": part.kind,
        "span": part.span,
        "weights": pack.add(part.weights),
    }


# ---------------------------------------------------------------------- what is drawn here


@dataclass(frozen=True)
class Panel:
    """What the page shows of one trace, without its script."""

    trace: Trace
    cards: Sequence[tuple[object, object]]
    predictions: TextTable
    shares: Sequence[dict[str, Any]]
    shares_chart: Markup | None
    columns: TextTable | None
    sums: Phrase | None
    forgetting: Sequence[Markup]
    attention: TextTable | None
    alignment: Markup | None
    tracking: Sequence[dict[str, Any]]
    changes: TextTable | None
    series: Sequence[Markup]


def _panel(trace: Trace) -> Panel:
    return Panel(
        trace=trace,
        cards=_cards(trace),
        predictions=_predictions(trace),
        shares=_shares(trace),
        shares_chart=_shares_chart(trace),
        columns=_columns(trace),
        sums=_sums(trace),
        forgetting=_forgetting(trace),
        attention=_attention_table(trace),
        alignment=_alignment(trace),
        tracking=[vars(unit) | {"r": f"{unit.correlation:+.2f}"} for unit in trace.tracking],
        changes=_changes(trace),
        series=_series(trace),
    )


def _cards(trace: Trace) -> list[tuple[object, object]]:
    """Return what is read first: the answer, and the number that is explained."""
    explained = trace.explained
    answer = trace.answer if len(trace.answer) <= 40 else f"{trace.answer[:39]}…"
    cards: list[tuple[object, object]] = [(visible(answer) or "–", t("inside.answer"))]
    if trace.forecast is not None:
        low = f"{trace.forecast.low:.4g}"
        cards.append((f"{low} – {trace.forecast.high:.4g}", t("inside.interval")))
    elif explained.outcome != "value":
        outcome = visible(explained.outcome)
        where = t("inside.probability", outcome=outcome)
        if explained.step is not None:
            where = t(
                "inside.probability_at",
                outcome=outcome,
                step=explained.step + 1,
            )
        cards.append((f"{explained.probability:.4f}", where))
    cards.append((f"{len(trace.tokens):,}", t("inside.steps")))
    units = sum(layer.size for layer in trace.layers)
    cards.append((f"{units:,}", t("inside.units")))
    return cards


def _over(trace: Trace) -> tuple[str, ...]:
    """Return the steps that predictions stand at."""
    return trace.written or trace.tokens


def _predictions(trace: Trace) -> TextTable:
    """Return what is likeliest after each step, evenly spaced where there are many."""
    names = _over(trace)
    rows: list[list[object]] = []
    steps = trace.predictions
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 100)).astype(int))
    for index in chosen:
        prediction = steps[index]
        outcomes = ", ".join(
            f"{visible(outcome.name)} {outcome.probability:.3f}"
            for outcome in prediction.outcomes
        )
        name = visible(names[prediction.step])
        rows.append([f"{prediction.step + 1}", name, outcomes])
    head = [t("inside.step"), t("inside.token"), t("inside.likeliest")]
    return TextTable(head, rows, "words", t("inside.predictions"))


def _shares(trace: Trace) -> list[dict[str, Any]]:
    """Return the share of each step, or of each span, with the lengths of its bars."""
    attributions = trace.attributions
    if attributions is None or len(trace.tokens) < 2:
        return []
    spans = attributions.spans or [(i, i + 1) for i in range(len(trace.tokens))]
    if len(spans) > 200:
        return []
    gradients = attributions.integrated_gradients
    left_out = attributions.leave_one_out
    largest = max(float(np.abs(gradients).max()), float(np.abs(left_out).max()), 1e-9)
    shares = []
    for (first, end), gradient, difference in zip(
        spans, gradients.tolist(), left_out.tolist(), strict=True
    ):
        shares.append(
            {
                "name": _span_name(trace.tokens, first, end),
                "gradient": f"{gradient:+.4f}",
                "difference": f"{difference:+.4f}",
                "gradient_bar": _bar(gradient, largest),
                "difference_bar": _bar(difference, largest),
            }
        )
    return shares


def _bar(value: float, largest: float) -> dict[str, Any]:
    return {
        "sign": "up" if value >= 0 else "down",
        "width": f"{50 * abs(value) / largest:.1f}",
    }


def _span_name(tokens: Sequence[str], first: int, end: int) -> str:
    if end - first == 1:
        return visible(tokens[first])
    return f"{first + 1}–{end}: {tokens[first]} …"


def _shares_chart(trace: Trace) -> Markup | None:
    """Return the shares over the input as curves, where they are many."""
    attributions = trace.attributions
    if attributions is None or len(attributions.integrated_gradients) <= ROWS:
        return None
    starts = [first + 1 for first, _ in attributions.spans] or range(
        1, len(trace.tokens) + 1
    )
    series = {
        t("inside.integrated"): _points(starts, attributions.integrated_gradients),
        t("inside.left_out"): _points(starts, attributions.leave_one_out),
    }
    chart = charts.lines(series, t("inside.step"), t("inside.share"))
    return charts.figure(t("inside.shares"), chart)


def _points(xs: Sequence[int], ys: Floats) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(xs, ys.tolist(), strict=True)]


def _columns(trace: Trace) -> TextTable | None:
    """Return the share of each other column, or of each number of a step, the largest first."""
    if trace.attributions is None or not trace.attributions.columns:
        return None
    ordered = sorted(
        trace.attributions.columns.items(), key=lambda item: -abs(item[1])
    )
    rows = [[name, f"{value:+.4f}"] for name, value in ordered]
    return TextTable([t("inside.column"), t("inside.share")], rows, "", t("inside.columns"))


def _sums(trace: Trace) -> Phrase | None:
    """Return the sentence that says how far the shares add up to the number."""
    attributions = trace.attributions
    if attributions is None:
        return None
    total = trace.explained.probability - attributions.baseline
    return t(
        "inside.sums",
        number=f"{trace.explained.probability:.4f}",
        baseline=f"{attributions.baseline:.4f}",
        total=f"{total:+.4f}",
        gap=f"{attributions.completeness_gap:.1g}",
    )


def _forgetting(trace: Trace) -> list[Markup]:
    """Return how far gradients reach, as curves of their logarithms."""
    figures: list[Markup] = []
    over: dict[str, dict[object, list[tuple[float, float]]]] = {}
    for layer in trace.layers:
        if layer.gradient_norms is None or len(layer.gradient_norms) < 2:
            continue
        name = t(f"inside.{layer.direction}", layer=layer.name)
        points = _logarithms(layer.gradient_norms)
        if len(points) > 1 and len(over.get(layer.over, {})) < CURVES:
            over.setdefault(layer.over, {})[name] = points
    for steps, series in over.items():
        chart = charts.lines(series, t(f"inside.step_of_{steps}"), t("inside.log_loss"))
        figures.append(charts.figure(t("inside.loss_gradient"), chart))
    norms = trace.state_gradient_norms
    points = [] if norms is None else _logarithms(norms)
    if len(points) > 1:
        series = {t("inside.log_state"): points}
        chart = charts.lines(series, t("inside.step"), t("inside.log_state"))
        figures.append(charts.figure(t("inside.state_gradient"), chart))
    return figures


def _logarithms(norms: Floats) -> list[tuple[float, float]]:
    """Return the logarithm of norms by step; of many, evenly spaced ones; 0 has none."""
    chosen = np.unique(np.linspace(0, len(norms) - 1, min(len(norms), 400)).astype(int))
    chosen = chosen[norms[chosen] > SMALLEST]
    values = np.log10(norms[chosen])
    return _points((chosen + 1).tolist(), values)


def _attention_table(trace: Trace) -> TextTable | None:
    """Return where the steps look most, the mean over heads of the last layer of a kind."""
    shown = [part for part in trace.attention if part.kind == "source"] or list(
        trace.attention
    )
    if not shown:
        return None
    part = shown[-1]
    names = _over(trace) if part.kind == "source" else trace.tokens
    weights = part.weights.mean(0)
    rows: list[list[object]] = []
    for query, row in enumerate(weights[:200]):
        best = np.argsort(-row, kind="stable")[:3]
        looks = ", ".join(
            f"{visible(trace.tokens[index * part.span])} {row[index]:.2f}"
            for index in best
        )
        step = query * part.span
        rows.append([f"{step + 1}", visible(names[step]), looks])
    head = [t("inside.step"), t("inside.token"), t("inside.looks_at")]
    return TextTable(head, rows, "words", part.name)


def _alignment(trace: Trace) -> Markup | None:
    """Return source and written tokens joined by lines, of a short input."""
    shown = [part for part in trace.attention if part.kind == "source"]
    if not shown or max(len(trace.tokens), len(trace.written)) > ALIGNED:
        return None
    # the last layer but one follows words best (Garg et al. 2019, section 4.1)
    weights = shown[max(0, len(shown) - 2)].weights.mean(0)
    if weights.shape != (len(trace.written), len(trace.tokens)):
        return None
    return alignment(trace.tokens, trace.written, weights)


def _changes(trace: Trace) -> TextTable | None:
    """Return the steps whose likeliest outcome is another, or surer, where something is held."""
    if not trace.holds:
        return None
    names = _over(trace)
    rows: list[list[object]] = []
    pairs = zip(trace.unheld, trace.predictions, strict=True)
    changed = [(before, after) for before, after in pairs if _differs(before, after)]
    for before, after in changed[:CHANGES]:
        cells = [_best(before), _best(after)]
        name = visible(names[before.step])
        rows.append([f"{before.step + 1}", name, *cells])
    head = [t("inside.step"), t("inside.token"), t("inside.unheld"), t("inside.held")]
    counted = t("inside.changed", count=len(changed), total=len(trace.predictions))
    return TextTable(head, rows, "words", counted)


def _best(prediction: StepPrediction) -> str:
    outcome = prediction.outcomes[0]
    return f"{visible(outcome.name)} {outcome.probability:.3f}"


def _differs(before: StepPrediction, after: StepPrediction) -> bool:
    old = before.outcomes[0]
    new = after.outcomes[0]
    distance = abs(old.probability - new.probability)
    return old.name != new.name or distance > 1e-2 * max(1.0, abs(old.probability))


def _series(trace: Trace) -> list[Markup]:
    """Return the numbers that were read, labels over time, and the forecast."""
    figures: list[Markup] = []
    if trace.numbers is not None and len(trace.numbers) > 1:
        chosen = np.unique(
            np.linspace(0, len(trace.numbers) - 1, min(len(trace.numbers), 400)).astype(int)
        )
        for index, name in list(enumerate(trace.columns))[:CURVES]:
            points = _points((chosen + 1).tolist(), trace.numbers[chosen, index])
            chart = charts.lines({name: points}, t("inside.step"), name)
            figures.append(charts.figure(name, chart))
        is_labelled = len(trace.predictions) == len(trace.tokens) > 1
        if is_labelled and trace.explained.outcome != "value":
            figures.append(band([step.outcomes[0].name for step in trace.predictions]))
    if trace.forecast is not None and trace.numbers is not None:
        figures.append(forecast_chart(trace))
    return figures


def _parting(traces: Sequence[Trace]) -> dict[str, Any] | None:
    """Return where the states of the first two inputs part, with a chart of their distance."""
    if len(traces) < 2 or not traces[0].layers or not traces[1].layers:
        return None
    pairs = [
        (a, b)
        for a, b in zip(traces[0].layers, traces[1].layers, strict=False)
        if a.direction == "forward" and a.over == "input" and a.units == b.units
    ]
    if not pairs:
        return None
    series: dict[object, list[tuple[float, float]]] = {}
    furthest = np.zeros(0)
    for a, b in pairs[:CURVES]:
        relative = _distances(a, b)
        series[a.name] = _points(range(1, len(relative) + 1), relative)
        furthest = relative if not len(furthest) else np.maximum(furthest, relative)
    beyond = np.flatnonzero(furthest > PARTED)
    parted = int(beyond[0]) if len(beyond) else None
    sentence = t("inside.never_part")
    first = traces[0].tokens
    second = traces[1].tokens
    if parted is not None:
        sentence = t(
            "inside.part", step=parted + 1, first=first[parted], second=second[parted]
        )
    chart = charts.lines(series, t("inside.step"), t("inside.distance"))
    drawn = None
    if len(furthest) <= ALIGNED:
        drawn = side_by_side(first, second, furthest.tolist(), parted)
    return {
        "sentence": sentence,
        "drawing": drawn,
        "chart": charts.figure(t("inside.distance_of"), chart),
    }


def _distances(a: LayerTrace, b: LayerTrace) -> Floats:
    """Return how far two states are apart after each step, as a share of the longer one's length."""
    count = min(len(a.norm), len(b.norm))
    distance = np.linalg.norm(a.state["h"][:count] - b.state["h"][:count], axis=1)
    length = np.maximum(a.norm[:count], b.norm[:count])
    return distance / np.maximum(length, SMALLEST)
