"""How long a look inside takes, how large its page is, and whether it scrolls without a stop.

``python -m benchmarks inside RUN TEXTFILE``: a language model, or a classifier of texts, reads the
first 100 tokens and the first 10,000 of a text, several times in turn.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

LENGTHS = {100: 5, 10_000: 3}  # characters that are read, and how often
FRAMES = 120  # that are scrolled
STEP = 240  # pixels a frame

# scrolls frame by frame, and returns how long each took in milliseconds
SCROLL = """async ([frames, step]) => {
  const box = document.querySelector('.scroller');
  const times = [];
  let before = await new Promise(requestAnimationFrame);
  for (let frame = 0; frame < frames; frame++) {
    box.scrollLeft += step;
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
  }
  return times;
}"""


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure both lengths, and print medians."""
    from unrolled.run import load

    folder, file = arguments[:2]
    look = load(folder)
    text = Path(file).read_text("utf-8")
    measured: dict[str, Any] = {}
    for length, turns in LENGTHS.items():
        repeats = 1 + length // len(text)
        read = (text * repeats)[:length]
        seconds: list[float] = []
        with tempfile.TemporaryDirectory() as scratch:
            for _ in range(turns):
                began = time.perf_counter()
                inside = look.inspect(read)
                path = inside.save(Path(scratch) / "inside.html")
                seconds.append(time.perf_counter() - began)
            size = path.stat().st_size / 1e6
            frames = scrolled(path)
        tokens = len(inside.traces[0].tokens)
        measured[str(tokens)] = {
            "seconds": statistics.median(seconds),
            "all_seconds": seconds,
            "megabytes": size,
            "longest_frame_ms": max(frames, default=None),
            "median_frame_ms": statistics.median(frames) if frames else None,
        }
        print(f"{tokens} tokens: {measured[str(tokens)]}")
    return {"run": Path(folder).name, "lengths": measured}


def scrolled(path: Path) -> list[float]:
    """Return how long each frame took while the page was scrolled; none without a browser."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium")
    if executable is None:
        return []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=yes]")
        page.locator(".scroller").first.scroll_into_view_if_needed()
        times: list[float] = page.evaluate(SCROLL, [FRAMES, STEP])
        browser.close()
    return times
