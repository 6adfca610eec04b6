"""What the page of a look inside shows of one trace without a script: tables and charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from unrolled.insight import charts
from unrolled.insight.drawings import (
    alignment,
    band,
    forecast_chart,
    picture,
    visible,
)
from unrolled.insight.tables import TextTable
from unrolled.insight.trace import (
    AttentionTrace,
    Attributions,
    Floats,
    Outcome,
    StepPrediction,
    Trace,
)
from unrolled.insight.words import Phrase, t

ROWS = 60  # shares from which on they are drawn as curves, too
BARS = 200  # shares that are listed
CHANGES = 30  # of held predictions that are listed
ALIGNED = 80  # tokens of a side of an alignment that is drawn
CURVES = 6
MAPS = 40  # words whose place in an image is drawn
DRAWN = 400  # points of a curve
LISTED = 100  # steps of a table
QUERIES = 200  # steps whose attention is listed
ANSWER = 40  # characters of an answer on its card
SMALLEST = 1e-12  # of a gradient that is drawn
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Share:
    """The share of a step, with the lengths of its bars in percent of the room there is."""

    name: str
    gradient: float
    difference: float
    largest: float

    @property
    def bars(self) -> list[tuple[str, str, str]]:
        """Of both numbers: the sign, the length and the number itself."""
        bars: list[tuple[str, str, str]] = []
        for value in (self.gradient, self.difference):
            sign = "up" if value >= 0 else "down"
            width = 50 * abs(value) / self.largest
            bars.append((sign, f"{width:.1f}", f"{value:+.4f}"))
        return bars


@dataclass(frozen=True)
class Panel:
    """What the page shows of one trace, without its script."""

    trace: Trace
    cards: Sequence[tuple[object, object]]
    predictions: TextTable
    shares: Sequence[Share]
    shares_chart: Markup | None
    columns: TextTable | None
    sums: Phrase | None
    forgetting: Sequence[Markup]
    attention: TextTable | None
    alignment: Markup | None
    changes: TextTable | None
    series: Sequence[Markup]
    image: Sequence[Markup]


def panel_of(trace: Trace) -> Panel:
    """Return what the page shows of a trace."""
    shares: Sequence[Share] = ()
    shares_chart = None
    columns = None
    sums = None
    if trace.attributions is not None:
        shares = _shares(trace, trace.attributions)
        shares_chart = _shares_chart(trace, trace.attributions)
        columns = _columns(trace.attributions)
        sums = _sums(trace, trace.attributions)
    return Panel(
        trace=trace,
        cards=_cards(trace),
        predictions=_predictions(trace),
        shares=shares,
        shares_chart=shares_chart,
        columns=columns,
        sums=sums,
        forgetting=_forgetting(trace),
        attention=_attention_table(trace),
        alignment=_alignment(trace),
        changes=_changes(trace),
        series=_series(trace),
        image=_image(trace),
    )


def evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` indices, evenly spaced, the ends among them."""
    chosen = np.linspace(0, count - 1, min(count, most))
    indices: list[int] = np.unique(chosen.astype(int)).tolist()
    return indices


def curve(xs: Iterable[int], ys: Floats) -> Points:
    """Return points of a curve."""
    pairs = zip(xs, ys.tolist(), strict=True)
    return [(float(x), float(y)) for x, y in pairs]


def _outcome(outcome: Outcome) -> str:
    return f"{visible(outcome.name)} {outcome.probability:.3f}"


def _cards(trace: Trace) -> list[tuple[object, object]]:
    """Return what is read first: the answer, and the number that is explained."""
    answer = visible(trace.answer) or "–"
    if len(answer) > ANSWER:
        answer = f"{answer[:ANSWER]}…"
    cards: list[tuple[object, object]] = [(answer, t("inside.answer"))]
    explained = trace.explained
    if trace.forecast is not None:
        low = f"{trace.forecast.low:.4g}"
        high = f"{trace.forecast.high:.4g}"
        cards.append((f"{low} – {high}", t("inside.interval")))
    elif not explained.is_value:
        outcome = visible(explained.outcome)
        name = t("inside.probability", outcome=outcome)
        if explained.step is not None:
            step = explained.step + 1
            name = t("inside.probability_at", outcome=outcome, step=step)
        cards.append((f"{explained.probability:.4f}", name))
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
    for index in evenly(len(trace.predictions), LISTED):
        prediction = trace.predictions[index]
        outcomes = ", ".join(map(_outcome, prediction.outcomes))
        name = visible(names[prediction.step])
        rows.append([f"{prediction.step + 1}", name, outcomes])
    head = [
        t("inside.step"),
        t("inside.token"),
        t("inside.likeliest"),
    ]
    return TextTable(head, rows, "words", t("inside.predictions"))


def _shares(trace: Trace, attributions: Attributions) -> list[Share]:
    """Return the share of each step, or of each span of steps."""
    spans = attributions.spans
    if not spans:
        spans = tuple((index, index + 1) for index in range(len(trace.tokens)))
    if not 1 < len(spans) <= BARS:
        return []
    gradients = attributions.integrated_gradients
    differences = attributions.leave_one_out
    largest = max(
        float(np.abs(gradients).max()),
        float(np.abs(differences).max()),
        1e-9,
    )
    shares: list[Share] = []
    for (first, end), gradient, difference in zip(
        spans,
        gradients.tolist(),
        differences.tolist(),
        strict=True,
    ):
        name = visible(trace.tokens[first])
        if end - first > 1:
            name = f"{first + 1}–{end}: {name} …"
        shares.append(Share(name, gradient, difference, largest))
    return shares


def _shares_chart(trace: Trace, attributions: Attributions) -> Markup | None:
    """Return the shares over the input as curves, where they are many."""
    count = len(attributions.integrated_gradients)
    if count <= ROWS:
        return None
    starts = [first + 1 for first, _ in attributions.spans]
    starts = starts or list(range(1, count + 1))
    series = {
        t("inside.integrated"): curve(starts, attributions.integrated_gradients),
        t("inside.left_out"): curve(starts, attributions.leave_one_out),
    }
    chart = charts.lines(series, t("inside.step"), t("inside.share"))
    return charts.figure(t("inside.shares"), chart)


def _columns(attributions: Attributions) -> TextTable | None:
    """Return the share of each other column, or of each number of a step, the largest first."""
    if not attributions.columns:
        return None
    shares = list(attributions.columns.items())
    shares.sort(key=lambda pair: -abs(pair[1]))
    rows = [[name, f"{value:+.4f}"] for name, value in shares]
    head = [t("inside.column"), t("inside.share")]
    return TextTable(head, rows, "", t("inside.columns"))


def _sums(trace: Trace, attributions: Attributions) -> Phrase:
    """Return the sentence that says how far the shares add up to the number."""
    number = trace.explained.probability
    return t(
        "inside.sums",
        number=f"{number:.4f}",
        baseline=f"{attributions.baseline:.4f}",
        total=f"{number - attributions.baseline:+.4f}",
        gap=f"{attributions.completeness_gap:.1g}",
    )


def _forgetting(trace: Trace) -> list[Markup]:
    """Return how far gradients reach, as curves of their logarithms."""
    figures: list[Markup] = []
    series_over: dict[str, dict[Any, Points]] = {}
    for layer in trace.layers:
        series = series_over.setdefault(layer.over, {})
        points = _logarithms(layer.gradient_norms)
        if len(points) > 1 and len(series) < CURVES:
            name = t(f"inside.{layer.direction}", layer=layer.name)
            series[name] = points
    for over, series in series_over.items():
        if series:
            steps = t(f"inside.step_of_{over}")
            chart = charts.lines(series, steps, t("inside.log_loss"))
            figures.append(charts.figure(t("inside.loss_gradient"), chart))
    points = _logarithms(trace.state_gradient_norms)
    if len(points) > 1:
        up = t("inside.log_state")
        chart = charts.lines({up: points}, t("inside.step"), up)
        figures.append(charts.figure(t("inside.state_gradient"), chart))
    return figures


def _logarithms(norms: Floats | None) -> Points:
    """Return the logarithm of norms by step; of many, evenly spaced ones; 0 has none."""
    if norms is None:
        return []
    chosen = np.array(evenly(len(norms), DRAWN))
    chosen = chosen[norms[chosen] > SMALLEST]
    return curve((chosen + 1).tolist(), np.log10(norms[chosen]))


def _of_source(trace: Trace) -> list[AttentionTrace]:
    return [part for part in trace.attention if part.kind == "source"]


def _attention_table(trace: Trace) -> TextTable | None:
    """Return where the steps look most, the mean over heads of the last layer of a kind."""
    if not trace.attention:
        return None
    shown = _of_source(trace) or trace.attention
    part = shown[-1]
    names = trace.tokens if part.kind == "self" else trace.written
    attended_tokens = trace.written if part.kind == "written" else trace.tokens
    weights = part.weights.mean(0)
    rows: list[list[object]] = []
    for query, row in enumerate(weights[:QUERIES]):
        best = np.argsort(-row, kind="stable")[:3]
        keys: list[str] = []
        for index in best.tolist():
            token = visible(attended_tokens[index * part.span])
            keys.append(f"{token} {row[index]:.2f}")
        step = query * part.span
        rows.append([f"{step + 1}", visible(names[step]), ", ".join(keys)])
    head = [
        t("inside.step"),
        t("inside.token"),
        t("inside.looks_at"),
    ]
    return TextTable(head, rows, "words", part.name)


def _alignment(trace: Trace) -> Markup | None:
    """Return source and written tokens joined by lines, of a short input."""
    shown = _of_source(trace)
    is_long = max(len(trace.tokens), len(trace.written)) > ALIGNED
    if not shown or is_long or trace.image is not None:
        return None
    # the last layer but one follows words best (Garg et al. 2019, section 4.1)
    part = shown[max(0, len(shown) - 2)]
    weights = part.weights.mean(0)
    return alignment(trace.tokens, trace.written, weights)


def _changes(trace: Trace) -> TextTable | None:
    """Return the steps whose likeliest outcome is another, or surer, where something is held."""
    if not trace.holds:
        return None
    names = _over(trace)
    pairs = zip(trace.unheld, trace.predictions, strict=True)
    changed = [(before, after) for before, after in pairs if _differs(before, after)]
    rows: list[list[object]] = []
    for before, after in changed[:CHANGES]:
        rows.append(
            [
                f"{before.step + 1}",
                visible(names[before.step]),
                _outcome(before.outcomes[0]),
                _outcome(after.outcomes[0]),
            ]
        )
    head = [
        t("inside.step"),
        t("inside.token"),
        t("inside.unheld"),
        t("inside.held"),
    ]
    total = len(trace.predictions)
    caption = t("inside.changed", count=len(changed), total=total)
    return TextTable(head, rows, "words", caption)


def _differs(before: StepPrediction, after: StepPrediction) -> bool:
    old = before.outcomes[0]
    new = after.outcomes[0]
    distance = abs(old.probability - new.probability)
    largest = max(1.0, abs(old.probability))
    return old.name != new.name or distance > 1e-2 * largest


def _image(trace: Trace) -> list[Markup]:
    """Return the image, the regions that mattered, and where each word looks."""
    image = trace.image
    if image is None:
        return []
    address = image.address
    figures = [
        picture(t("inside.image_read"), address, None),
        picture(t("inside.regions"), address, image.regions),
    ]
    if image.maps is not None:
        for word, weights in zip(trace.written[:MAPS], image.maps, strict=False):
            figures.append(picture(visible(word), address, weights))
    return figures


def _series(trace: Trace) -> list[Markup]:
    """Return the numbers that were read, labels over time, and the forecast."""
    figures: list[Markup] = []
    if trace.numbers is None or len(trace.numbers) < 2:
        return figures
    chosen = evenly(len(trace.numbers), DRAWN)
    steps = [index + 1 for index in chosen]
    for index, name in enumerate(trace.columns[:CURVES]):
        points = curve(steps, trace.numbers[chosen, index])
        chart = charts.lines({name: points}, t("inside.step"), name)
        figures.append(charts.figure(name, chart))
    is_labelled = len(trace.predictions) == len(trace.tokens)
    if is_labelled and not trace.explained.is_value:
        labels = [step.outcomes[0].name for step in trace.predictions]
        figures.append(band(labels))
    if trace.forecast is not None:
        figures.append(forecast_chart(trace, trace.forecast))
    return figures
