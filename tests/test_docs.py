"""The pages' commands run, in the order of each page; both languages show the same ones.

What is run is what is shown, with a reduction for speed: every ``unrolled train`` and ``doctor``
gets the keys of ``REDUCED`` after its own, ``compare`` these, one seed and two layers; ``generate``
writes fewer tokens, and a file that a page makes with Python has ``ROWS`` rows in place of 20,000.
A block under ``<!-- needs: NAME -->`` reads the folder NAME of UNROLLED_DATA, and is left out
without it.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
RUN = (
    *("README.md", "docs/first-hour.md", "docs/how-to.md", "docs/course.md"),
    *("docs/native.md", "docs/streaming.md", "docs/sequence-to-sequence.md"),
    "docs/tuning.md",
)
TRANSLATED = ("first-hour.md", "course.md", "tuning.md")
REDUCED = [
    *(
        "training.max_steps=4",
        "training.max_epochs=1",
        "data.limit=400",
        "data.vocabulary=300",
        "report.inside=false",
    ),
    "decoding.max_length=12",  # a model of four steps does not stop by itself
]
SHORTER = {
    "generate": ["--max-new-tokens", "8"],
    "recall": [
        "--layers",
        "gru",
        "--delays",
        "2,3",
        "--updates",
        "2",
        "--out",
        "runs/few-cells",
    ],
}
ROWS = "100"
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>\w+) -->\n)?```(?P<kind>sh|python)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
Call = Callable[..., tuple[str, str]]


class Block(NamedTuple):
    """A fenced block of shell or Python, and the data it needs from outside."""

    kind: str
    needs: str | None
    body: str

    @property
    def lines(self) -> list[str]:
        """The commands of a shell block."""
        return [
            line for line in self.body.splitlines() if line and not line.startswith("#")
        ]


def blocks(page: str) -> Iterator[Block]:
    for match in BLOCK.finditer((ROOT / page).read_text("utf-8")):
        yield Block(match["kind"], match["needs"], match["body"])


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def reduced(words: list[str]) -> list[str]:
    """Return a command's words with the reduction that its verb takes."""
    if words[0] == "train":
        if words[1].startswith("runs/") and "--resume" not in words:
            return words
        # of a text that is no table a hundredth is scored
        scored = ["data.holdout=0.01"] if words[1].startswith("shakespeare") else []
        keys = REDUCED
        if Path(words[1], "dev_images.txt").is_file():
            # the rows that are scored are the last ones
            keys = [key for key in REDUCED if not key.startswith("data.limit")]
        return [*words, *keys, *scored]
    if words[0] == "compare" and not words[1].startswith("runs/"):
        return [*words, *REDUCED, "--seeds", "1", "--layers", "none,gru"]
    if words[0] == "doctor" and not words[1].startswith("runs/"):
        return [*words, *REDUCED]
    return [*words, *SHORTER.get(words[0], [])]


def run_line(line: str, call: Call) -> None:
    words = shlex.split(os.path.expandvars(line), comments=True)
    program, *rest = words
    if program == "python" and rest[0] == "-m":
        # what has been imported is not run anew without a warning
        sys.modules.pop(rest[1], None)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(rest[1], run_name="__main__")
        assert ended.value.code == 0
        return
    if program == "python":
        runpy.run_path(str(ROOT / rest[0]), run_name="__main__")
        return
    assert program == "unrolled", f"not a command of this project: {line}"
    call(*reduced(rest))


# docs/tuning.md trains an LSTM with projections, for which torch has no fast kernel and says so
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(
    page: str, cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = os.environ.get("UNROLLED_DATA", "")
    left = []
    for number, block in enumerate(blocks(page)):
        if block.needs and not (data and Path(data, block.needs).exists()):
            left.append(block.needs)
            continue
        if block.kind == "python":
            script = tmp_path / f"block{number}.py"
            script.write_text(block.body.replace("20000", ROWS), "utf-8")
            if page != "README.md":
                runpy.run_path(str(script))
            continue
        for line in block.lines:
            if line.startswith("python "):
                words = shlex.split(os.path.expandvars(line))[1:]
                start = 1 if words[0] == "-m" else 0
                monkeypatch.setattr("sys.argv", words[start:])
            run_line(line, cli)
    if left:
        pytest.skip(
            f"{page}: what reads {', '.join(left)} of UNROLLED_DATA was left out"
        )


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_show_the_same_commands(page: str) -> None:
    ours, theirs = (list(blocks(f"docs/{folder}{page}")) for folder in ("", "ko/"))
    shown = [
        [line for b in document if b.kind == "sh" for line in b.lines]
        for document in (ours, theirs)
    ]
    assert shown[0] == shown[1]
    assert [b.needs for b in ours] == [b.needs for b in theirs]


def test_there_is_something_to_run() -> None:
    commands = [line for page in RUN for block in blocks(page) for line in block.lines]
    verbs = {shlex.split(line)[1] for line in commands if line.startswith("unrolled ")}
    assert {"train", "doctor", "evaluate", "predict", "generate", "recipes"} <= verbs


@pytest.mark.parametrize("page", [p.relative_to(ROOT).as_posix() for p in pages()])
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`",
        "",
        (ROOT / page).read_text("utf-8"),
        flags=re.S | re.M,
    )
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} names {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page} names {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    names: list[str] = []
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("#"):
            words = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            names.append(words.replace(" ", "-"))
    return set(names)


def test_pictures_are_small_and_every_one_is_shown() -> None:
    images = sorted((ROOT / "docs" / "images").glob("course-*.svg"))
    assert images
    for page in ("docs/course.md", "docs/ko/course.md"):
        text = (ROOT / page).read_text("utf-8")
        for image in images:
            assert image.stat().st_size < 60_000, image.name
            assert f"images/{image.name}" in text, f"{page} lacks {image.name}"
