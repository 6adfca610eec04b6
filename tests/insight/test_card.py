"""The model card: a README that tells what the model is, how good, and how to use it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from unrolled.insight import card
from unrolled.runs import folder as runs


@pytest.mark.parametrize("kind", ["classify", "regress", "vectors", "tag", "language"])
def test_the_card_tells_scores_baselines_data_and_use(
    home: SimpleNamespace, kind: str
) -> None:
    folder = home.runs[kind]
    text = (folder / "README.md").read_text("utf-8")
    loaded = runs.load(folder)
    assert text == card.render(loaded.recipe, loaded.task, loaded.result)
    assert text.startswith(f"# {loaded.recipe.name}\n")
    for line in loaded.result["found"]:
        assert f"- {line}\n" in text
    assert loaded.result["timed"] in text
    assert f"in {loaded.result['milliseconds_an_answer']:.3g} ms" in text
    rows = [
        line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")
    ]
    assert len({len(row) for row in rows}) == 1
    ours = [cell.strip() for cell in rows[2]]
    scores = loaded.result["scores"].values()
    assert ours == ["this model", *(f"{value:.4f}" for value in scores)]
    assert [row[0].strip() for row in rows[3:]] == [
        b["name"] for b in loaded.result["baselines"]
    ]


@pytest.mark.parametrize("kind", ["classify", "regress", "vectors", "tag", "language"])
def test_the_code_on_the_card_is_python(home: SimpleNamespace, kind: str) -> None:
    text = (home.runs[kind] / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "README.md", "exec")
    assert ("run.generate(" in code) == (kind == "language")


def test_what_the_data_holds_is_shown_and_not_obeyed(home: SimpleNamespace) -> None:
    loaded = runs.load(home.runs["classify"])
    line = "3 labels: <b>x</b> 1, a|b 2, ![p](http://x/y.png) 3,\n## Heading\n\n`c` *d* _e_ a_b\\"
    text = card.render(loaded.recipe, loaded.task, {**loaded.result, "found": [line]})
    (shown,) = [item for item in text.splitlines() if item.startswith("- ")]
    assert shown == (
        r"- 3 labels: \<b\>x\</b\> 1, a\|b 2, !\[p\](http://x/y.png) 3, ## Heading "
        r"\`c\` \*d\* \_e\_ a_b\\"
    )
    assert re.sub(r"\\(\W|_)", r"\1", shown) == "- " + " ".join(line.split())
