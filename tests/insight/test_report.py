"""``report.html``: complete, offline, and safe whatever the labels and samples say."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

import unrolled
from conftest import SMALL, write_csv
from unrolled.insight import report
from unrolled.tasks import folder as runs

KINDS = ["classify", "regress", "vectors", "tag", "language"]
XSS = "<script>document.title='owned'</script>"
IMG = '"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The tags of a page, checked to be nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
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
def test_a_report_loads_nothing_and_runs_nothing(home: SimpleNamespace, kind: str) -> None:
    text = page_of(home.runs[kind])
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base"}
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")}
        assert not {"src", "href", "action"} & set(attributes)
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_has_scores_curves_data_and_settings(home: SimpleNamespace, kind: str) -> None:
    text = page_of(home.runs[kind])
    page = Page(text)
    result = runs.read_result(home.runs[kind])
    for value in result["scores"].values():
        assert f"<td>{value:.4f}</td>" in text
    for each in result["baselines"]:
        assert f"<td>{each['name']}</td>" in text
    assert f"{result['parameters']:,}" in page.text
    assert "60 steps" in page.text or kind == "language"
    for line in result["found"]:
        assert html.escape(line) in text
    assert len([tag for tag, _ in page.tags if tag == "svg"]) >= 2
    for key in ("layer", "model.hidden", "training.learning_rate", "data.train"):
        assert f"<td>{key}</td>" in text
    assert ("Confusion matrix" in text) == (kind in ("classify", "tag"))
    assert ("<h2>Answers</h2>" in text) == (kind in ("regress", "vectors"))
    assert ("<h2>Samples" in text) == (kind == "language")


def test_the_curves_are_those_of_the_metrics(home: SimpleNamespace) -> None:
    folder = home.runs["classify"]
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    dev = [(line["step"], line["accuracy"]) for line in logged if line["kind"] == "dev"]
    for step, value in dev:
        assert f"<title>{step}: {value:.4g}</title>" in page_of(folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose column, labels, file and name try to break out of the page."""
    at = tmp_path_factory.mktemp("hostile")
    rows = [(n, f"row {n} {'x' if n % 2 else 'y'}", [XSS, IMG][n % 2]) for n in range(40)]
    path = write_csv(at / "a<b>&.csv", rows, ("id", "text", "<i>label"))
    changes = SMALL | {"training.max_steps": 3, "name": XSS, "data.label": "<i>label"}
    unrolled.train(path, out=at / "run", quiet=True, say=lambda text: None, **changes)
    return at / "run"


def test_names_and_labels_cannot_break_out_of_the_page(hostile: Path) -> None:
    text = page_of(hostile)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "i", "b<"}
    assert XSS in page.text
    assert IMG in page.text
    assert "<i>label" in page.text


def test_samples_cannot_break_out_of_the_page(home: SimpleNamespace) -> None:
    loaded = runs.load(home.runs["language"])
    result = loaded.result | {"samples": [XSS + IMG + "</pre>"]}
    evaluation = SimpleNamespace(confusion=None, pairs=None)
    text = report.render(loaded.folder, loaded.recipe, loaded.task, result, evaluation)  # type: ignore[arg-type]
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert XSS + IMG + "</pre>" in page.text


FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1000,1200",
]  # fmt: skip


@pytest.fixture
def browser(tmp_path: Path) -> str:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium here to open the report with")
    return found


def browse(browser: str, tmp_path: Path, page: Path, option: str) -> str:
    done = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={tmp_path}/profile", option, page.as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_browser_opens_the_report_and_runs_no_label(
    browser: str, tmp_path: Path, hostile: Path
) -> None:
    dom = browse(browser, tmp_path, hostile / "report.html", "--dump-dom")
    title = html.unescape(re.findall(r"<title>(.*?)</title>", dom)[0])
    assert title == XSS  # as text: run, it would have set another
    assert "<img" not in dom
    assert "<script" not in dom
    assert dom.count("<svg") >= 2
    assert "Confusion matrix" in dom


def pixels(path: Path) -> tuple[int, int, list[bytes]]:
    """Return width, height and the unfiltered-by-row bytes of a PNG."""
    data, at, body = path.read_bytes(), 8, b""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    raw = zlib.decompress(body)
    row = len(raw) // height
    return width, height, [raw[n * row + 1 : (n + 1) * row] for n in range(height)]


def test_a_browser_paints_the_report(browser: str, tmp_path: Path, home: SimpleNamespace) -> None:
    picture = tmp_path / "page.png"
    browse(browser, tmp_path, home.runs["classify"] / "report.html", f"--screenshot={picture}")
    width, height, rows = pixels(picture)
    assert (width, height) == (1000, 1200)
    # a blank page repeats one row; text and charts make most rows differ from the one above
    assert sum(any(row) for row in rows) > 300
    assert len(set(rows)) > 200
