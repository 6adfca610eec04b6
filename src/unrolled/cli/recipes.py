"""``unrolled recipes``."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this recipe.")
    ] = None,
) -> None:
    """List the recipes that ship, by pattern; or show one.

    Example: unrolled recipes nsmc
    """
    from unrolled.core.errors import UsageError, unknown
    from unrolled.runs.recipes import about, folder, shipped

    if name is not None:
        if name not in shipped():
            raise UsageError(unknown("recipe", name, shipped()))
        print((folder() / f"{name}.yaml").read_text("utf-8"), end="")
        return
    recipes = {recipe: about(recipe) for recipe in shipped()}
    width = max(map(len, recipes))
    for pattern in dict.fromkeys(sorted(known.pattern for known in recipes.values())):
        print(pattern)
        for recipe, known in recipes.items():
            if known.pattern == pattern:
                time = "GPUs" if known.minutes is None else f"{known.minutes:>4g} min"
                print(f"  {recipe:<{width}}  {time:<8}  {known.what}")
        print()
    print(
        "minutes on 2 cores, upper bounds; GPUs: docs/paper-scale.md says for how long; "
        "start one with: unrolled train NAME"
    )
