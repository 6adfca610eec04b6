"""``report.html``: complete, offline, and safe whatever the labels and samples say."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser
from sklearn import metrics
from sklearn.calibration import calibration_curve

import unrolled
from conftest import SMALL, write_csv
from insight.browsing import MODES, check, chromium, opened, pixels
from unrolled.data.sources import Table
from unrolled.fields.label import Label
from unrolled.insight import report
from unrolled.insight.mistakes import Mistake
from unrolled.runs import folder as runs
from unrolled.runs.prepare import prepare
from unrolled.scores import calibration
from unrolled.tasks.base import Evaluation

KINDS = ["classify", "regress", "vectors", "tag", "language"]
XSS = "<script>document.title='owned'</script>"
IMG = '"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The tags of a page, checked to be nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_loads_nothing(home: SimpleNamespace, kind: str) -> None:
    text = page_of(home.runs[kind])
    page = Page(text)
    # the switches of the page, which test_pages.py looks at, are the only script
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {tag for tag, _ in page.tags} & {
        "link",
        "img",
        "iframe",
        "object",
        "base",
    }
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")}
        assert not {"src", "action"} & set(attributes)
        # to a part of the page, or to the look inside that stands next to it
        assert re.fullmatch("#.*|inside.html", attributes.get("href") or "#")
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_has_scores_curves_data_and_settings(
    home: SimpleNamespace, kind: str
) -> None:
    text = page_of(home.runs[kind])
    page = Page(text)
    result = runs.read_result(home.runs[kind])
    for value in result["scores"].values():
        assert f"<td>{value:.4f}</td>" in text
    for baseline in result["baselines"]:
        assert f'<th scope="row">{baseline["name"]}</th>' in text
    assert f"{result['parameters']:,}" in page.text
    assert "60 steps" in page.text or kind == "language"
    for line in result["found"]:
        assert html.escape(line) in text
    assert len([tag for tag, _ in page.tags if tag == "svg"]) >= 2
    for key in ("layer", "model.hidden", "training.learning_rate", "data.train"):
        assert f'<th scope="row">{key}</th>' in text
    assert ("Confusion matrix" in text) == (kind in ("classify", "tag"))
    assert (">Answers<" in text) == (kind in ("regress", "vectors"))
    assert (">Samples (" in text) == (kind == "language")
    assert f"timed on {result['timed']}" in page.text
    assert f"{result['milliseconds_an_answer']:.3g} ms" in page.text
    if kind != "language":
        assert f"{result['answers_a_second']:,.0f}rows answered a second" in page.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_can_be_read_without_seeing_it(
    home: SimpleNamespace, kind: str
) -> None:
    tags = Page(page_of(home.runs[kind])).tags
    assert [a["lang"] for tag, a in tags if tag == "html"] == ["en"]
    levels = [tag for tag, _ in tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == "h1"
    assert levels.count("h1") == 1
    assert all(a.get("scope") in ("col", "row") for tag, a in tags if tag == "th")
    assert all(
        a.get("role") == "img" and a.get("aria-label")
        for tag, a in tags
        if tag == "svg" and a.get("aria-hidden") != "true"
    )
    scrolled = [a for _, a in tags if a.get("class") == "scroll"]
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for a in scrolled)


def held_out(folder: Path) -> tuple[list[str], list[str], list[str], list[float]]:
    """Return texts, labels, answers and confidences of the held-out rows of a text classifier."""
    run = unrolled.load(folder)
    data = prepare(run.recipe).dev_data
    assert isinstance(data, Table)
    answers = run.answers([text for text, _ in data.rows])
    return (
        [text for text, _ in data.rows],
        [truth for _, truth in data.rows],
        [answer.text for answer in answers],
        [float(answer.probability or 0) for answer in answers],
    )


def test_the_scores_of_each_label_are_those_of_scikit_learn(
    home: SimpleNamespace,
) -> None:
    _, truth, predicted, _ = held_out(home.runs["classify"])
    names = sorted(set(truth))
    expected = metrics.precision_recall_fscore_support(truth, predicted, labels=names)
    text = page_of(home.runs["classify"])
    for name, *scores, support in zip(names, *expected, strict=True):
        cells = "".join(f"<td>{score:.4f}</td>" for score in scores)
        assert f'<tr><th scope="row">{name}</th>{cells}<td>{support}</td></tr>' in text


def test_confidence_is_shown_by_bins_and_as_one_error(home: SimpleNamespace) -> None:
    _, truth, predicted, sure = held_out(home.runs["classify"])
    right = np.array(truth) == np.array(predicted)
    page = Page(page_of(home.runs["classify"]))
    error = calibration(np.array(sure), right).error
    assert f"Expected calibration error: {error:.4f}" in page.text
    hits, means = calibration_curve(right, sure, n_bins=10)
    for hit, mean in zip(hits, means, strict=True):
        assert f": {mean:.3f}, {hit:.3f} (n = " in page.text  # the bar's title
        assert f"{mean:.3f}{hit:.3f}" in page.text  # the row of the table


def test_the_surest_mistakes_are_listed_with_their_lines(home: SimpleNamespace) -> None:
    rows = sorted(
        zip(*held_out(home.runs["classify"]), strict=True), key=lambda row: -row[3]
    )
    wrong = [row for row in rows if row[1] != row[2]]
    assert wrong
    lines = home.files["classify"].read_text("utf-8").splitlines()
    text = page_of(home.runs["classify"])
    assert f"Surest mistakes: {len(wrong)} rows" in text
    assert "Often these are mislabelled" in text
    for row, truth, answer, sure in wrong:
        at = lines.index(f"{row},{truth}") + 1
        assert (
            f"<b>reviews.csv:{at}</b> says <b>{truth}</b>, the model <b>{answer}</b> "
            f"(confidence {sure:.4f})</span>"
        ) in text
        assert f'(확신도 {sure:.4f})</span></p><p dir="auto">{row}</p>' in text


def test_the_largest_errors_are_listed(home: SimpleNamespace) -> None:
    text = page_of(home.runs["regress"])
    assert "Largest errors: " in text
    off = [float(n) for n in re.findall(r"\(off by ([\d.e+-]+)\)", text)]
    assert off == sorted(off, reverse=True)
    assert 3 < len(off) <= 20
    lines = home.files["regress"].read_text("utf-8").splitlines()
    for at, truth, rooms, area in re.findall(
        r"houses.csv:(\d+)</b> says <b>(.*?)</b>.*?rooms: (.*?), area: (.*?)</p>", text
    ):
        assert lines[int(at) - 1] == f"{rooms},{area},{truth}"


def test_a_matrix_too_large_to_read_gives_way_to_its_worst_pairs(
    home: SimpleNamespace,
) -> None:
    loaded = runs.load(home.runs["classify"])
    names = tuple(f"label {n}" for n in range(50))
    task: Any = loaded.task
    task = replace(task, output=Label("label", names))
    counts = np.diag(np.full(50, 9))
    counts[7, 3] = 5
    counts[2, 4] = 8
    text = report.render(
        loaded.folder, loaded.recipe, task, loaded.result, Evaluation({}, counts)
    )
    assert '<table class="matrix">' not in text
    pairs = re.findall(
        r'<th scope="row">(label \d+)</th><td>(label \d+)</td><td>(\d+)</td>', text
    )
    assert pairs == [("label 2", "label 4", "8"), ("label 7", "label 3", "5")]


def test_answers_that_could_not_be_timed_have_no_time(home: SimpleNamespace) -> None:
    loaded = runs.load(home.runs["classify"])
    untimed = ("timed", "milliseconds_an_answer", "answers_a_second")
    result = loaded.result | dict.fromkeys(untimed)
    text = report.render(
        loaded.folder, loaded.recipe, loaded.task, result, Evaluation({})
    )
    assert "timed on" not in text
    assert "to answer a row by itself" not in text


def test_the_curves_are_those_of_the_metrics(home: SimpleNamespace) -> None:
    folder = home.runs["classify"]
    logged = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    dev = [(line["step"], line["accuracy"]) for line in logged if line["kind"] == "dev"]
    for step, value in dev:
        assert f"<title>{step}: {value:.4g}</title>" in page_of(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose column, labels, file and name try to break out of the page."""
    at = tmp_path_factory.mktemp("hostile")
    rows = [
        (n, f"row {n} {'x' if n % 2 else 'y'}", [XSS, IMG][n % 2]) for n in range(40)
    ]
    path = write_csv(at / "a<b>&.csv", rows, ("id", "text", "<i>label"))
    changes = SMALL | {"training.max_steps": 3, "name": XSS, "data.label": "<i>label"}
    unrolled.train(path, out=at / "run", quiet=True, say=lambda text: None, **changes)
    return at / "run"


def test_names_and_labels_cannot_break_out_of_the_page(hostile: Path) -> None:
    text = page_of(hostile)
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert not set(tags) & {"img", "i", "b<"}
    assert XSS in page.text
    assert IMG in page.text
    assert "<i>label" in page.text


def test_samples_and_rows_cannot_break_out_of_the_page(home: SimpleNamespace) -> None:
    loaded = runs.load(home.runs["language"])
    result = loaded.result | {"samples": [XSS + IMG + "</pre>"]}
    row = Mistake(
        f"/a/{IMG}.csv", 3, (XSS + "</p>", IMG, XSS + "</mark>"), XSS, IMG, 0.5
    )
    shown = report.HeldOut(worst=[row, row])
    text = report.render(
        loaded.folder, loaded.recipe, loaded.task, result, Evaluation({}), shown
    )
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert XSS + IMG + "</pre>" in page.text
    assert XSS + "</p>" + IMG + XSS + "</mark>" in page.text
    assert tags.count("mark") == 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("name", MODES)
def test_a_browser_finds_nothing_wrong_with_a_report(
    browser: Browser, home: SimpleNamespace, name: str
) -> None:
    check(browser, home.runs["classify"] / "report.html", MODES[name])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "classify"])
def test_a_browser_finds_nothing_wrong_with_any_task(
    browser: Browser, home: SimpleNamespace, kind: str
) -> None:
    check(browser, home.runs[kind] / "report.html", MODES["phone"])


def test_a_browser_runs_no_label(browser: Browser, hostile: Path) -> None:
    with opened(browser, hostile / "report.html") as page:
        assert page.title() == XSS  # as text: run, it would have set another
        assert page.locator("img").count() == 0
        assert page.locator("svg.chart").count() >= 2
        assert page.get_by_role("heading", name="Confusion matrix").is_visible()


def test_a_browser_paints_the_report(browser: Browser, home: SimpleNamespace) -> None:
    with opened(browser, home.runs["classify"] / "report.html") as page:
        width, height, rows = pixels(page.screenshot())
    assert (width, height) == (1200, 900)
    # a blank page repeats one row; text and charts make most rows differ from the one above
    assert sum(any(row) for row in rows) > 200
    assert len(set(rows)) > 150
