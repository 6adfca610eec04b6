"""Charts: round ticks, points where they belong, names that cannot break out of the page."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled.core.errors import UserError
from unrolled.insight import charts, plot
from unrolled.insight.words import t

XSS = "<script>alert('x')</script>\"&"
numbers = st.floats(-1e9, 1e9, allow_nan=False).filter(
    lambda x: x == 0 or abs(x) > 1e-6
)


@given(numbers, numbers, st.integers(2, 10))
def test_ticks_are_few_round_even_and_inside(a: float, b: float, count: int) -> None:
    low = min(a, b)
    high = max(a, b)
    span = high - low
    if span < 1e-6 * max(1.0, abs(low), abs(high)):
        return
    ticks = plot.ticks(low, high, count)
    assert 0 < len(ticks) <= count + 1
    slack = 1e-6 * span
    assert low - slack <= ticks[0]
    assert ticks[-1] <= high + slack
    steps = np.diff(ticks)
    if len(ticks) > 1:
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        step = float(steps[0])
        lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(lead - f) for f in (1, 2, 2.5, 5, 10)) < 1e-4
        # nothing that would fit is left out
        assert ticks[0] - step < low + slack
        assert ticks[-1] + step > high - slack


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (7, 7, [7]),
        (-3, 2, [-3, -2, -1, 0, 1, 2]),
    ],
)
def test_ticks_of_common_ranges(low: float, high: float, expected: list[float]) -> None:
    assert plot.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (9999, "9999"),
        (20000, "20k"),
        (2.5e6, "2.5M"),
        (2e-5, "2e-5"),
    ],
)
def test_a_number_has_a_short_name(value: float, name: str) -> None:
    assert plot.label(value) == name


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # raises on anything that is not well formed


def test_every_point_is_drawn_inside_the_frame_and_in_its_place() -> None:
    points = [(0.0, 1.0), (50.0, 3.0), (100.0, 2.0)]
    svg = drawn(charts.lines({"loss": points}, "step", "loss").svg)
    positions = [
        (float(c.get("cx", 0)), float(c.get("cy", 0))) for c in svg.iter("circle")
    ]
    assert len(positions) == 3
    xs, ys = zip(*positions, strict=True)
    assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2)
    assert ys[1] < ys[2] < ys[0]  # up is a smaller y
    assert all(0 <= x <= plot.WIDTH for x in xs)
    assert all(0 <= y <= plot.HEIGHT for y in ys)


def test_two_curves_have_a_legend_and_one_has_none() -> None:
    single = charts.lines({"first": [(0, 1), (1, 2)]}, "x", "y").svg
    pair = charts.lines({"first": [(0, 1), (1, 2)], "second": [(0, 2)]}, "x", "y").svg
    assert ">first<" not in single
    assert ">first<" in pair
    assert ">second<" in pair
    # two curves, and the sample of each; the second has a dash and a mark of its own
    assert len(re.findall('stroke-width="2"', pair)) == 4
    assert len(re.findall('stroke-dasharray="8 4"', pair)) == 2
    assert 'class="s2"' in pair


def test_the_legend_of_many_series_stays_inside_the_drawing() -> None:
    series = {f"a rather long name {n}": [(0, n), (1, n)] for n in range(7)}
    root = drawn(charts.lines(series, "x", "y").svg)
    width, height = map(float, root.get("viewBox", "").split()[2:])
    assert height > plot.HEIGHT
    for text in root.iter("text"):
        assert float(text.get("x", 0)) <= width
    names = [text.text for text in root.iter("text")]
    assert set(series) <= set(names)


def test_a_chart_is_also_a_table() -> None:
    series = {"a": [(1.0, 0.5), (2.0, 0.25)], "b": [(2.0, 4.0)]}
    table = charts.lines(series, "step", "loss").table
    assert [str(cell) for cell in table.head] == ["step", "a", "b"]
    assert table.rows == [["1", "0.5", ""], ["2", "0.25", "4"]]
    single = charts.lines({"a": [(1.0, 0.5)]}, "step", "loss").table
    assert [str(cell) for cell in single.head] == ["step", "loss"]
    many = charts.lines({"a": [(n, n) for n in range(5000)]}, "step", "loss").table
    assert len(many.rows) == charts.ROWS
    assert (many.rows[0][0], many.rows[-1][0]) == ("0", "4999")
    assert str(many.caption) == "100 of 5,000 points, evenly spaced"


def test_a_logarithmic_scale_has_equal_steps_for_equal_factors() -> None:
    points = [(10.0, 1.0), (100.0, 2.0), (1000.0, 3.0)]
    root = drawn(charts.lines({"a": points}, "rows", "score", log="x").svg)
    xs = [float(circle.get("cx", 0)) for circle in root.iter("circle")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    with pytest.raises(UserError, match="nothing to draw"):
        charts.lines({"a": [(0, 1)]}, "rows", "score", log="x")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 1000, [1, 10, 100, 1000]),
        (10, 100, [10, 20, 50, 100]),
        (30, 40, [30]),
    ],
)
def test_logarithmic_ticks(low: float, high: float, expected: list[float]) -> None:
    assert plot.log_ticks(low, high) == pytest.approx(expected)


def test_texts_of_a_chart_are_in_both_languages() -> None:
    svg = charts.lines({"a": [(0, 1), (1, 2)]}, t("chart.step"), "y").svg
    languages = {
        text.get("lang"): text.text
        for text in drawn(svg).iter("text")
        if text.get("lang")
    }
    assert languages == {"en": "step", "ko": "스텝"}
    assert drawn(svg).get("data-ko") == "스텝에 따른 y"


def test_a_single_point_and_a_flat_curve_can_be_drawn() -> None:
    for points in ([(5.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)]):
        assert len(
            list(drawn(charts.lines({"a": points}, "x", "y").svg).iter("circle"))
        ) == len(points)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        charts.lines({"a": []}, "x", "y")


def test_a_scatter_has_a_dot_a_pair_and_the_diagonal() -> None:
    chart = charts.scatter([(1.0, 2.0), (3.0, 3.0), (2.0, -1.0)], "true", "answer")
    svg = drawn(chart.svg)
    assert chart.table.rows == [["1", "2"], ["2", "-1"], ["3", "3"]]
    assert len(list(svg.iter("circle"))) == 3
    assert [line for line in svg.iter("line") if line.get("stroke-dasharray")]


def test_a_matrix_shows_every_count_and_shades_by_row() -> None:
    table = charts.matrix(np.array([[3, 1], [0, 0]]), ["a", "b"])
    body = drawn(table)
    cells = [(cell.text, cell.get("style", "")) for cell in body.iter("td")]
    assert [text for text, _ in cells] == ["3", "1", "0", "0"]
    assert [re.findall(r"--f:([\d.]+)", style)[0] for _, style in cells] == [
        "0.750",
        "0.250",
        "0.000",
        "0.000",
    ]
    assert ["".join(cell.itertext()) for cell in body.iter("th")] == [
        "true \\ answered정답 \\ 모델의 답",
        "a",
        "b",
        "a",
        "b",
    ]


def test_names_are_escaped_everywhere() -> None:
    pages = [
        charts.lines({XSS: [(0, 1), (1, 2)], "b": [(0, 1)]}, XSS, XSS).svg,
        charts.scatter([(0, 1), (1, 1)], XSS, XSS).svg,
        charts.figure(XSS, charts.scatter([(0, 1), (1, 1)], XSS, XSS)),
        charts.matrix(np.eye(2, dtype=int), [XSS, "b"]),
    ]
    for page in pages:
        assert "<script" not in page
        assert XSS in "".join(drawn(page).itertext())


def test_a_logarithmic_axis_puts_equal_ratios_at_equal_distances() -> None:
    points = [(10, 1e-3), (100, 1e-1), (1000, 1e1)]
    chart = charts.lines({"a": points, "b": [(10, 0.0)]}, "steps", "ms", log="xy")
    svg = drawn(chart.svg)
    circles = [
        (float(circle.get("cx", "")), float(circle.get("cy", "")))
        for circle in svg.iter("circle")
    ]
    assert len(circles) == 3  # a zero has no logarithm
    (x1, y1), (x2, y2), (x3, y3) = circles
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    words = [text.text for text in svg.iter("text")]
    assert {"10", "100", "1000"} <= set(words)
    assert {"0.001", "0.01", "0.1", "1"} <= set(words)
