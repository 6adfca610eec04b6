"""``unrolled recipes``: what ships, grouped by pattern."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from unrolled.runs.recipes import about, folder, shipped

Call = Callable[..., tuple[str, str]]


def test_every_recipe_stands_under_its_pattern_with_its_minutes(cli: Call) -> None:
    out, err = cli("recipes")
    assert err == ""
    pattern = ""
    seen = []
    for line in out.splitlines():
        if line.startswith("  "):
            name, *rest = line.split()
            description = about(name)
            time = (
                "GPUs"
                if description.minutes is None
                else f"{description.minutes:g} min"
            )
            assert description.pattern == pattern
            assert " ".join(rest) == f"{time} {' '.join(description.what.split())}"
            seen.append(name)
        elif line:
            pattern = line
    assert sorted(seen) == shipped()
    assert "unrolled train NAME" in out.splitlines()[-1]


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_is_shown_as_its_file(cli: Call, name: str) -> None:
    out, _ = cli("recipes", name)
    assert yaml.safe_load(out) == yaml.safe_load(
        (folder() / f"{name}.yaml").read_text("utf-8")
    )


def test_an_unknown_recipe_is_answered_with_the_nearest(cli: Call) -> None:
    name = shipped()[0]
    assert f"did you mean '{name}'?" in cli("recipes", name + "x", code=2)[1]
