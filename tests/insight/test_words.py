"""Captions: both languages have every one, pages have no other, and Hangul is drawn."""

from __future__ import annotations

import html
import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from markupsafe import Markup
from playwright.sync_api import Browser

from insight.browsing import MODES, chromium, opened
from unrolled.insight import pages, words
from unrolled.insight.words import t

PYTHON = Path(pages.__file__).parents[1]
# these are no captions: names of files and of the project, and the letter of correlation
NAMES = {"config.yaml", "unrolled", "JSON", "r"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def fields(text: str) -> Counter[str]:
    return Counter(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_every_caption_is_there_in_both_languages() -> None:
    for key, caption in words.table().items():
        assert set(caption) == set(words.LANGUAGES), key
        assert all(text.strip() for text in caption.values()), key
        assert fields(caption["en"]).keys() >= fields(caption["ko"]).keys(), key
        hangul = re.search("[가-힣]", caption["ko"])
        assert hangul or caption["en"] == caption["ko"], key


def test_a_key_stands_once() -> None:
    keys: Counter[str] = Counter()
    for path in words.TABLE.glob("*.json"):
        pairs = json.loads(path.read_text("utf-8"), object_pairs_hook=list)
        keys.update(key for key, _ in pairs)
    assert set(keys.values()) == {1}


def test_every_key_is_used_and_every_key_used_is_there() -> None:
    sources = [*PYTHON.rglob("*.py"), *pages.TEMPLATES.glob("*.html")]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    used = set(re.findall(r"""\bt\(\s*["']([a-z_.]+)["']""", text))
    # a key that is put together begins with what is written
    begun = set(re.findall(r"""\bt\(\s*f["']([a-z_.]+)""", text))
    begun |= {key for key in used if key.endswith((".", "_"))}
    assert used - begun <= words.table().keys()
    spelt = set(re.findall(r"""["']([a-z]+\.[a-z_]+)["']""", text))
    begun |= set(re.findall(r"""\bnamed\(["']([a-z]+)""", text))
    left = {
        key
        for key in words.table().keys() - used - spelt
        if not any(key.startswith(start) for start in begun)
    }
    assert left == set()


@pytest.mark.parametrize(
    "path", sorted(pages.TEMPLATES.glob("*.html")), ids=lambda path: path.name
)
def test_a_template_has_no_caption_of_its_own(path: Path) -> None:
    text = re.sub(
        r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", path.read_text("utf-8"), flags=re.S
    )
    text = re.sub(r"<(style|script)\b.*?</\1>", "", text, flags=re.S)
    for attribute in ("aria-label", "title", "alt", "placeholder"):
        assert not re.search(rf'\b{attribute}="[^"]*[A-Za-z가-힣]', text)
    shown = set(re.findall(r"[\w.]*[A-Za-z가-힣][\w.]*", re.sub("<[^>]*>", " ", text)))
    assert shown <= NAMES


def test_a_phrase_is_both_languages_and_is_escaped() -> None:
    phrase = t("report.right", truth="<b>")
    assert str(phrase) == "right: <b>"
    assert phrase.__html__() == (
        '<span class="w" lang="en">right: &lt;b&gt;</span>'
        '<span class="w" lang="ko">정답: &lt;b&gt;</span>'
    )
    assert phrase.attribute("title") == (
        'title="right: &lt;b&gt;" data-w="title" data-en="right: &lt;b&gt;" '
        'data-ko="정답: &lt;b&gt;"'
    )
    assert t("report.right", truth=Markup("<b>x</b>")).en == "right: <b>x</b>"
    nested = t("report.scores", scored_on=t("report.held_out"))
    assert nested.text("ko") == "점수: 따로 떼어 둔 데이터"
    assert words.both("gru").__html__() == "gru"


def test_a_name_has_its_caption_or_stays() -> None:
    assert words.named("pattern", "many to many, aligned").text("ko") == "다대다(정렬)"
    assert words.named("pattern", "something new") == words.both("something new")


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError):
        t("report.nothing")
    with pytest.raises(KeyError):
        t("report.right")


def page_at(path: Path, **settings: str) -> Path:
    path.write_text(pages.page("page.html", **settings), "utf-8")
    return path


def test_the_browser_or_the_reader_chooses_the_language(
    browser: Browser, tmp_path: Path
) -> None:
    path = page_at(tmp_path / "page.html")
    skip = words.table()["page.offline"]
    for mode, language in (("light", "en"), ("korean", "ko"), ("no scripts", "en")):
        with opened(browser, path, MODES[mode]) as page:
            assert page.locator("footer").inner_text() == skip[language]
            if mode == "light":
                page.get_by_role("button", name="한국어").click()
                assert page.locator("footer").inner_text() == skip["ko"]
                group = page.get_by_role("group", name="언어")
                assert group.is_visible()
    path = page_at(tmp_path / "korean.html", lang="ko")
    for mode in ("light", "no scripts"):
        with opened(browser, path, MODES[mode]) as page:
            assert page.locator("footer").inner_text() == skip["ko"]


def test_switches_say_whether_they_are_on(browser: Browser, tmp_path: Path) -> None:
    script = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, page_at(tmp_path / "page.html")) as page:
        light = page.evaluate(script)
        dark = page.get_by_role("button", name="Dark")
        assert dark.get_attribute("aria-pressed") == "false"
        dark.click()
        assert dark.get_attribute("aria-pressed") == "true"
        assert page.evaluate(script) != light
        dark.click()
        assert page.evaluate(script) == light
        before = page.locator("footer").bounding_box()
        page.get_by_role("button", name="Large text").click()
        after = page.locator("footer").bounding_box()
    assert before
    assert after
    assert after["height"] > before["height"]


DRAWN = """text => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 64;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.font = "48px " + getComputedStyle(document.body).fontFamily;
  context.fillText(text, 4, 52);
  return Array.from(context.getImageData(0, 0, 64, 64).data).join();
}"""


def test_hangul_is_drawn_and_is_no_box(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, page_at(tmp_path / "page.html"), MODES["korean"]) as page:
        box = page.evaluate(DRAWN, "\ue123")  # of private use: no font has it
        letters = [page.evaluate(DRAWN, letter) for letter in "한국어"]
    blank = ",".join(["0"] * (64 * 64 * 4))
    assert blank not in letters
    assert box not in letters
    assert len(set(letters)) == 3


def test_the_stack_of_fonts_names_korean_ones() -> None:
    page = html.unescape(pages.page("page.html"))
    for font in (
        "Noto Sans KR",
        "Nanum Gothic",
        "Apple SD Gothic Neo",
        "Malgun Gothic",
    ):
        assert f'"{font}"' in page
