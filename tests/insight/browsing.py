"""Opens a page as people do, in a browser, and looks for what is wrong with any page.

The browser is Debian's chromium; where there is none, the tests skip.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class Mode(NamedTuple):
    """How a page is looked at."""

    locale: str = "en-US"
    theme: str = "light"
    width: int = 1200
    size: str = "normal"
    scripts: bool = True


MODES = {
    "light": Mode(),
    "dark": Mode(theme="dark"),
    "korean": Mode(locale="ko-KR"),
    "phone": Mode(width=360),
    "large": Mode(size="large"),
    "korean phone, dark and large": Mode("ko-KR", "dark", 360, "large"),
    "no scripts": Mode(scripts=False),
}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; skip where there is none."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium here to open the page with")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, mode: Mode = MODES["light"]) -> Iterator[Page]:
    """Open a page; at the end nothing was fetched and nothing was complained of."""
    context = browser.new_context(
        locale=mode.locale,
        color_scheme=mode.theme,  # type: ignore[arg-type]
        viewport={"width": mode.width, "height": 900},
        java_script_enabled=mode.scripts,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    said: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path.as_uri())
    if mode.size == "large":
        page.locator("button[data-set=size]").click()
    yield page
    assert said == []
    assert requested == [path.as_uri()]
    context.close()


def violations(page: Page) -> list[str]:
    """Return what axe-core finds on a page: the rule, and the elements that break it."""
    results: dict[str, Any] = Axe().run(page).response
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in results["violations"]
        for node in violation["nodes"]
    ]


def sideways(page: Page) -> int:
    """Return by how many pixels a page is wider than its window."""
    script = (
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return int(page.evaluate(script))


def check(browser: Browser, path: Path, mode: Mode) -> None:
    """Assert what holds for every page: no violation, no fetch, no error, no scrolling sideways."""
    with opened(browser, path, mode) as page:
        assert sideways(page) == 0
        if mode.scripts:
            # a page that draws itself says when it has
            page.wait_for_function(
                "!document.getElementById('inside') || document.documentElement.dataset.drawn"
            )
            # what is folded is looked at too
            page.evaluate(
                "document.querySelectorAll('details').forEach(d => { d.open = true })"
            )
            assert violations(page) == []
            assert sideways(page) == 0


def pixels(picture: bytes) -> tuple[int, int, list[bytes]]:
    """Return width, height and the bytes of each row, as filtered, of a PNG."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    at = 8
    body = b""
    while at < len(picture):
        size, kind = struct.unpack(">I4s", picture[at : at + 8])
        body += picture[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    raw = zlib.decompress(body)
    row = len(raw) // height
    return width, height, [raw[n * row + 1 : (n + 1) * row] for n in range(height)]
