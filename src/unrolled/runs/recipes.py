"""Recipes: a name, a YAML file, a run or a data file, and changes, become one typed config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from unrolled.core.config import keys
from unrolled.core.errors import (
    UsageError,
    UserError,
    cut,
    listed,
    nearest,
    shown,
)
from unrolled.core.files import exists, expanded, read_text, refuse_strange
from unrolled.core.words import either
from unrolled.core.yaml import load_yaml
from unrolled.data.hub import is_hub, title
from unrolled.runs.keys import deep, flat
from unrolled.tasks.recipe import About, Recipe, ReportConfig
from unrolled.training.settings import EXECUTION, LIMITS

CONFIG = "config.yaml"


FILES = (
    "train",
    "dev",
    "train_target",
    "dev_target",
)  # the keys of `data` that name files


# files that belong to another one: where that is replaced, they are of other data
BELONGS = {
    "train": ("train_target", "dev", "dev_target"),
    "train_target": ("dev", "dev_target"),
    "dev": ("dev_target",),
    "dev_target": (),
}


def folder() -> Path:
    """Return the folder of the recipes that ship."""
    return Path(str(resources.files("unrolled") / "recipes"))


def shipped() -> list[str]:
    """Return the names of the recipes that ship."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UsageError naming file and line."""
    try:
        values = load_yaml(read_text(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        why = shown(str(getattr(error, "problem", None) or error), 200).strip("'\"")
        raise UsageError(f"{where}: this is not YAML: {why}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    return values


def about(name: str) -> About:
    """Return what a shipped recipe says of itself."""
    return About.read(read_yaml(folder() / f"{name}.yaml")["about"], name)


def merge(
    base: dict[str, Any], changes: Mapping[str, Any], resume: bool = False
) -> dict[str, Any]:
    """Apply flat changes to nested values.

    A limit that is set replaces the limits of ``base``: who asks a recipe of 20 epochs for 50
    steps means 50 steps, and who asks for 2 minutes means 2 minutes. A file that is replaced takes
    along those that belong to it; see :func:`left_out`. Not so where a run is resumed, whose files
    may have moved one by one.
    """
    values = flat(base)
    changes = flat(changes)
    gone = set() if resume else {f"data.{name}" for name in left_out(values, changes)}
    if any(f"training.{name}" in changes for name in LIMITS):
        gone |= {f"training.{name}" for name in LIMITS}
    kept = {key: value for key, value in values.items() if key not in gone}
    return deep(kept | changes)


def left_out(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, str]:
    """Return which files of ``values`` belong to one that is replaced, and by which key it is.

    Both are flat. A recipe whose training file is replaced must not be scored on its own dev
    file, nor lines of one file be answered by those of another.
    """
    gone: dict[str, str] = {}
    for name, owned in BELONGS.items():
        key = f"data.{name}"
        if key not in changes or changes[key] == values.get(key):
            continue
        for other in owned:
            key = f"data.{other}"
            if values.get(key) is not None and key not in changes:
                gone.setdefault(other, name)
    return gone


def requested(target: str, changes: Mapping[str, Any], resume: bool = False) -> Recipe:
    """Return the recipe for a name, a YAML file, a run or a data file; see ``merge``.

    Keys that nobody set are chosen later, by the data and the machine.

    Raises:
        UsageError: there is no such recipe or file (the nearest name is given), or a key is wrong.
    """
    try:
        merged = merge(base_of(target), changes, resume)
    except AttributeError:
        raise UsageError(f"{target}: a group of keys holds a single value") from None
    return Recipe.read(merged)


def left_out_lines(target: str, changes: Mapping[str, Any]) -> list[str]:
    """Say which files of a recipe are not used, since the one they belong to was replaced."""
    try:
        values = flat(base_of(target))
    except AttributeError:
        return []
    return [
        f"left out data.{other}={values[f'data.{other}']}, which belongs to "
        f"data.{owner}={values.get(f'data.{owner}')}; name another with data.{other}=FILE"
        for other, owner in left_out(values, flat(changes)).items()
    ]


def base_of(target: str) -> dict[str, Any]:
    """Return the values that a name, a YAML file, a run or a data file stands for.

    Raises:
        UsageError: there is no such recipe or file (the nearest name is given).
    """
    path = expanded(target)
    if target in shipped() and not exists(path / CONFIG):
        base = read_yaml(folder() / f"{target}.yaml")
        base.pop("about")
        base.setdefault("name", target)
    elif path.suffix in (".yaml", ".yml") and exists(path):
        base = read_yaml(path)
        base.pop("about", None)
        base.setdefault("name", path.stem)
    elif exists(path / CONFIG):
        refuse_strange(path / CONFIG, os.path.realpath(path))
        base = read_yaml(path / CONFIG)
    elif is_hub(target):
        base = {"name": title(target), "data": {"train": target}}
    elif exists(path):
        # the name of a folder may be "."
        base = {
            "name": path.absolute().name.split(".")[0] or "run",
            "data": {"train": str(path)},
        }
    else:
        raise UsageError(_no_such(target))
    return base


def _no_such(target: str) -> str:
    names = beside(Path(target))
    file = nearest(Path(target).name, names)
    # a name with a dot means a file
    guess = (Path(target).suffix and file) or nearest(target, shipped()) or file
    if guess and guess in names:
        guess = str(Path(target).parent / guess)
    every = either(
        "`unrolled recipes` lists the recipes", f"the recipes are {listed(shipped())}"
    )
    hint = f"; did you mean {shown(guess)}?" if guess else f"; {every}"
    return f"there is no recipe and no file {shown(target, 200)}{hint}"


def is_available(recipe: Recipe, name: str) -> bool:
    """Whether a data file is where ``find_data`` looks for it."""
    try:
        find_data(recipe, name)
    except UserError:
        return False
    return True


def find_data(recipe: Recipe, name: str) -> Path:
    """Return where a data file stands: as given, beside the recipes, or in UNROLLED_DATA.

    Raises:
        UserError: it is in none of these; for a shipped recipe the message says where the data
            comes from, its licence and size, and the folder to put it in.
    """
    if is_hub(name):
        return Path(name)
    if not name or "\0" in name:
        raise UsageError(f"{shown(name)} is no name of a data file")
    paths = [expanded(name), folder() / "data" / name]
    root = os.environ.get("UNROLLED_DATA")
    if root:
        paths.append(expanded(root) / name)
    for path in paths:
        if exists(path):
            return path
    if recipe.name in shipped():
        known = about(recipe.name)
        own = read_yaml(folder() / f"{recipe.name}.yaml").get("data", {})
        if known.source and name in (own.get(key) for key in FILES):
            path = Path(root or "data") / name
            setting = "" if root else " and set UNROLLED_DATA=data"
            raise UserError(
                f"{name} is not here: it comes from {known.source} (licence {known.licence}, "
                f"{known.size}); put it at {path}{setting}"
            )
    guess = nearest(Path(name).name, beside(Path(name)))
    hint = f"; did you mean {shown(guess)}?" if guess else ""
    moved = "" if hint else "; if it has moved, say where to: data.train=FILE"
    raise UserError(f"{cut(name, 300)}: no such file{hint or moved}")


def beside(path: Path) -> list[str]:
    """Return the names of what stands in the folder of a path, none where there is no folder."""
    try:
        return os.listdir(path.parent)
    except OSError:
        return []


def as_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, those left out that train nothing."""
    before = flat(old.model_dump())
    after = flat(new.model_dump())
    free = {f"training.{name}" for name in (*LIMITS, *EXECUTION)}
    free |= set(keys(ReportConfig, "report."))
    return [
        key for key in keys(Recipe) if before[key] != after[key] and key not in free
    ]
