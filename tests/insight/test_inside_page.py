"""The page of a look inside, in a browser: every panel and mode, the keyboard, and hostile text."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from insight.browsing import MODES, check, chromium, opened
from unrolled.insight.packing import FINE, Pack
from unrolled.run import load

HOSTILE = "great <script>alert(1)</script> <img src=x onerror=alert(2)> \x1b[31m film"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(
    home: SimpleNamespace,
    mirror: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = home.runs
    inspected = {
        "two": load(runs["language"]).inspect("row your", "gently"),
        "classify": load(runs["classify"]).inspect(HOSTILE),
        "tag": load(runs["tag"]).inspect("the cat eats fish", hold=["update=0"]),
        "table": load(runs["vectors"]).inspect((4, 6)),
        "written": load(mirror.run).inspect("a b c d"),
        "long": load(runs["language"]).inspect("row your boat\n" * 100),
    }
    return {
        name: look.save(folder / f"{name}.html") for name, look in inspected.items()
    }


def drawn(page: Page) -> None:
    page.wait_for_selector("html[data-drawn=yes]")


@pytest.mark.parametrize("mode", list(MODES))
def test_a_page_is_whole_in_every_mode(
    browser: Browser, pages: dict[str, Path], mode: str
) -> None:
    check(browser, pages["two"], MODES[mode])


@pytest.mark.parametrize("name", ["classify", "tag", "table", "written", "long"])
def test_every_kind_of_page_is_whole(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    check(browser, pages[name], MODES["light"])
    check(browser, pages[name], MODES["korean phone, dark and large"])


def test_steps_and_units_are_chosen_by_the_keyboard(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["two"]) as page:
        drawn(page)
        section = page.locator("section[data-trace='0']")
        readout = section.locator(".readout")
        graph = section.locator(".scroller")
        last = readout.inner_text()
        assert last.startswith("step 9 ")
        graph.focus()
        page.keyboard.press("Home")
        assert readout.inner_text().startswith("step 1 ")
        before = re.search(r"unit (\d+)", readout.inner_text())
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
        text = readout.inner_text()
        assert text.startswith("step 2 ")
        after = re.search(r"unit (\d+)", text)
        assert before
        assert after
        assert int(after[1]) == max(0, int(before[1]) - 1)
        # the cell shows the numbers of that step
        h = re.search(r"state h (-?[\d.]+)", text)
        assert h
        assert h[1].replace("-", "−") in section.locator(".cell").inner_text()


def test_a_click_chooses_a_step(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["classify"]) as page:
        drawn(page)
        page.locator(".graph canvas").click(position={"x": 5, "y": 120})
        assert page.locator(".readout").inner_text().startswith("step 1 ")


def test_text_of_people_stays_text(browser: Browser, pages: dict[str, Path]) -> None:
    html = pages["classify"].read_text("utf-8")
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "\x1b" not in html
    with opened(browser, pages["classify"]) as page:
        drawn(page)
        assert "<script>alert(1)" in page.locator("pre.said").inner_text()
        assert page.locator("img").count() == 0


def test_the_language_of_the_page_is_that_of_its_switch(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["written"]) as page:
        drawn(page)
        assert "head 1" in page.locator(".heads").inner_text()
        page.locator("button[data-value=ko]").click()
        assert "헤드 1" in page.locator(".heads").inner_text()
        assert "스텝" in page.locator(".readout").inner_text()


def test_a_held_gate_is_said_with_what_it_changes(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["tag"]) as page:
        text = page.locator("section").inner_text()
        assert "Held: update=0" in text
        assert re.search(r"\d of 4 predictions change", text)


def test_a_long_page_scrolls_and_draws_what_is_seen(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["long"]) as page:
        drawn(page)
        graph = page.locator(".scroller").first
        assert graph.evaluate("e => e.scrollWidth") > 20_000
        graph.evaluate("e => { e.scrollLeft = 10000 }")
        page.wait_for_function(
            "document.querySelector('.graph .token:not([hidden])').offsetLeft > 5000"
        )
        # as many elements as are seen, and not as many as there are steps
        assert page.locator(".graph .token, .graph .said-next").count() < 200


def test_packed_numbers_are_those_that_were_packed() -> None:
    generator = np.random.default_rng(0)
    arrays = [
        generator.normal(size=(7, 5)).astype(np.float32),
        generator.random((3, 4, 4)).astype(np.float32),
        np.zeros((2, 2), np.float32),
    ]
    for numbers, kind, bits in ((100, np.uint16, 16), (FINE + 1, np.uint8, 8)):
        pack = Pack(numbers)
        entries = [pack.add(array) for array in arrays]
        packed = json.loads(json.dumps(pack.to_json()))
        assert packed["bits"] == bits
        stored = np.frombuffer(gzip.decompress(base64.b64decode(packed["gzip"])), kind)
        for entry, array in zip(entries, arrays, strict=True):
            part = stored[entry["at"] : entry["at"] + array.size].astype(float)
            read = (entry["low"] + entry["step"] * part).reshape(entry["shape"])
            # half a step, and the rounding of float32
            np.testing.assert_allclose(read, array, rtol=0, atol=0.51 * entry["step"])
