"""The runs of a comparison: every layer with every varied value and every seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unrolled.core.config import keys
from unrolled.core.errors import UsageError, nearest, shown, unknown
from unrolled.core.words import option
from unrolled.nn.build import LAYERS, LayerConfig, uses
from unrolled.runs.keys import flat
from unrolled.runs.recipes import requested
from unrolled.tasks.recipe import Recipe
from unrolled.training.settings import LIMITS

ALL_LAYERS = ("none", "rnn", "lstm", "gru", "mingru", "attention")
LIMIT = "data.limit"
# what changes neither which rows are scored nor what is scored of them
OF_DATA = (
    LIMIT,
    "data.tokenizer",
    "data.vocabulary",
    "data.target_tokenizer",
    "data.target_vocabulary",
    "data.joint",
    "data.min_count",
    "data.difference",
)
GROUPS = ("model.", "training.", "decoding.")
OWN = {"layer": "layers", "seed": "seeds"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a comparison.

    Attributes:
        name: of its folder.
        layer, seed: what it has.
        varied: the values of the keys that are varied.
        changes: dotted keys that it is trained with, all of these among them.
    """

    name: str
    layer: str
    seed: int
    varied: Values
    changes: Values

    def with_changes(self, more: Values) -> Trial:
        """Return the run with other keys changed too."""
        changes = {**self.changes, **more}
        return Trial(self.name, self.layer, self.seed, self.varied, changes)


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared.

    Attributes:
        target: a recipe, a YAML file, a data file or the folder of a run.
        changes: dotted keys that all runs have.
        layers: their names.
        vary: values by dotted key.
        seeds: how many, from that of the recipe on.
    """

    target: str
    changes: Values
    layers: Sequence[str]
    vary: Mapping[str, Sequence[Any]]
    seeds: int

    def trials(self) -> list[Trial]:
        """Return the runs, seed by seed, so that all layers have one before any has two.

        Raises:
            UsageError: there is no such layer or key, or a value does not fit.
        """
        recipe = requested(self.target, self.changes)
        first = recipe.seed
        seeds = range(first, first + self.seeds)
        combinations = [
            dict(zip(self.vary, values, strict=True))
            for values in itertools.product(*self.vary.values())
        ]
        names: set[str] = set()
        trials = []
        for seed, varied, layer in itertools.product(seeds, combinations, self.layers):
            name = _free(_name(layer, varied, seed), names)
            own = {**self.changes, **varied, "layer": layer, "seed": seed}
            changes = {**own, **unused(self.target, own, layer)}
            requested(self.target, changes)
            trials.append(Trial(name, layer, seed, varied, changes))
        return trials


def read_layers(names: Sequence[str]) -> list[str]:
    """Return names of layers.

    Raises:
        UsageError: there is none of that name, or one stands there twice.
    """
    for name in names:
        if name not in LAYERS:
            raise UsageError(
                f"{unknown('layer', name, LAYERS)}; one of your own comes with --plugin FILE"
            )
        if names.count(name) > 1:
            raise UsageError(f"{option('layers')} names {name} twice")
    if not names:
        raise UsageError(f"{option('layers')} is empty; known: {', '.join(LAYERS)}")
    return list(names)


def check_varied(vary: Mapping[str, Sequence[Any]], has_budget: bool) -> None:
    """Raise UsageError for a key that cannot be varied, or has fewer than two values.

    Args:
        vary: values by dotted key.
        has_budget: whether the time of each run is given.
    """
    for key, values in vary.items():
        reason = _cannot_vary(key, has_budget)
        if reason:
            raise UsageError(f"{shown(key)} cannot be varied: {reason}")
        if key == LIMIT and None in values:
            raise UsageError(f"{option('vary')} {LIMIT}: give numbers of rows")
        if len(values) < 2:
            raise UsageError(
                f"{option('vary')} {key} has one value; give several: {key}=A,B"
            )
        if len({str(value) for value in values}) < len(values):
            raise UsageError(f"{option('vary')} {key} has a value twice")


def _cannot_vary(key: str, has_budget: bool) -> str:
    """Return why not, or an empty text."""
    known = keys(Recipe)
    if key in OWN:
        return f"{option(OWN[key])} does"
    if key not in known:
        guess = nearest(key, known)
        hint = f"; did you mean {shown(guess)}?" if guess else ""
        return f"there is no such key{hint}"
    if has_budget and key in {f"training.{name}" for name in LIMITS}:
        return f"{option('budget')} says how long each run is trained"
    if key in OF_DATA or (key.startswith(GROUPS) and key != "training.metric"):
        return ""
    return "runs would be scored on other rows, or by another score"


def unused(target: str, changes: Values, layer: str) -> dict[str, Any]:
    """Return the settings that other layers have and this one lacks, at their defaults.

    A recipe may say ``model.bidirectional``, which ``layer=none`` has no use for.
    """
    values = requested(target, {k: v for k, v in changes.items() if k != "layer"})
    model = values.model
    default = LayerConfig()
    # a group of keys as such
    plain = default.model_dump()
    return {
        f"model.{key}": plain[key]
        for key in LayerConfig.model_fields
        if key not in uses(layer) and getattr(model, key) != getattr(default, key)
    }


def _name(layer: str, varied: Values, seed: int) -> str:
    parts = [layer]
    for key, value in flat(varied).items():
        text = _UNSAFE.sub("-", str(value)).strip("-.")[:30]
        parts.append(f"{key.rpartition('.')[2]}-{text}")
    return "-".join([*parts, f"seed-{seed}"])


def _free(name: str, names: set[str]) -> str:
    """Return a name that is not among ``names``, and add it to them."""
    free = name
    for number in itertools.count(2):
        if free not in names:
            break
        free = f"{name}-{number}"
    names.add(free)
    return free
