"""The final config of a run: what was requested, and what data and machine decide of the rest.

It is resolved once, before training, and saved with the run like settings that were given.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from unrolled.data.schema import Schema
from unrolled.nn.build import LayerConfig, uses
from unrolled.runs.inherited import begun_inherited
from unrolled.runs.pretrained import Pretrained
from unrolled.tasks.base import DefaultSettings
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class
from unrolled.training.precision import ComputeDevice, choose
from unrolled.training.settings import LIMITS

FEWEST = 50  # steps between evaluations at least
CHARACTERS_A_PIECE = 80  # that training sees for each piece of a vocabulary
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What the data decide.

    Attributes:
        schema: the task and columns, as inferred.
        rows: training rows.
        characters: length of the training text.
        sharded: whether rows are encoded into shards, which do not keep the text itself.
    """

    schema: Schema
    rows: int
    characters: int
    sharded: bool = False


@dataclass(frozen=True)
class Machine:
    """What the machine decides: threads, and where and how precisely a model computes.

    Attributes:
        threads: as set, or as many as torch has.
        device, precision: as the recipe names them.
    """

    threads: int
    device: str
    precision: str

    @classmethod
    def of(cls, recipe: Recipe) -> Machine:
        """Return this machine, as the keys of a recipe choose of it."""
        training = recipe.training
        threads = training.threads or torch.get_num_threads()
        return cls(threads, training.device, training.precision)

    @functools.cached_property
    def compute_device(self) -> ComputeDevice:
        """Where and how precisely a model computes.

        It is looked for when it is first asked for: what is wrong with the data, or with a resume,
        is said before. Raises UsageError: there is no such device.
        """
        return choose(self.device, self.precision)


def as_begun(recipe: Recipe, saved: Recipe) -> Recipe:
    """Return a recipe with what nobody set of it as in the run that is resumed.

    What follows from limits or data stays, where nobody set it, since limits may be raised.
    """
    training = recipe.training
    values: Values = {"threads": training.threads or saved.training.threads}
    if training.precision == "auto":
        values["precision"] = saved.training.precision
    derived = {"patience", "evaluate_every"} - training.model_fields_set
    values |= {name: getattr(saved.training, name) for name in derived}
    if not training.bounded:
        values |= {name: getattr(saved.training, name) for name in LIMITS}
    if saved.model.init is not None:
        recipe = begun_inherited(recipe, saved)
    adapter = recipe.adapter
    if saved.adapter.init is not None:
        kept = {
            "rank",
            "alpha",
            "targets",
            "magnitudes",
            "whole",
        } - adapter.model_fields_set
        begun = {name: getattr(saved.adapter, name) for name in kept}
        adapter = adapter.model_copy(update=begun)
    # a copy keeps in mind which keys were set, and which are still to be chosen
    training = training.model_copy(update=values)
    return recipe.model_copy(update={"training": training, "adapter": adapter})


def resolve(
    requested: Recipe,
    facts: DataFacts,
    machine: Machine,
    pretrained: Pretrained | None = None,
) -> Recipe:
    """Return the config of a run with every unset key chosen.

    Args:
        requested: the recipe, as it was named and changed.
        facts: of the data.
        machine: that trains.
        pretrained: what the training begins with.
    """
    schema = facts.schema
    if pretrained is not None:
        requested = pretrained.shaping(requested, schema)
    kind = task_class(schema.task, schema.kind)
    defaults = kind.default_settings(requested, schema)
    amount = facts.characters if defaults.counts_characters else facts.rows
    values = requested.model_dump()
    if defaults.layer is not None and "layer" not in requested.model_fields_set:
        values["layer"] = defaults.layer
    _choose_groups(values, requested, defaults)
    _choose_limits(values, requested, defaults, amount)
    _choose_data(values, requested, defaults, facts)
    values["task"] = schema.task
    training = values["training"]
    training["threads"] = machine.threads
    if requested.training.precision == "auto":
        training["precision"] = machine.compute_device.precision
    if facts.sharded:
        values["model"]["ngrams"] = 0  # they read the text itself
    return Recipe.read(values)


def _choose_groups(
    values: Values, requested: Recipe, defaults: DefaultSettings
) -> None:
    """Choose the keys that a task has defaults for."""
    for group, keys in defaults.values.items():
        given = getattr(requested, group).model_fields_set
        for key, value in keys.items():
            if key not in given and _fits(values["layer"], key):
                values[group][key] = value


def _fits(layer: str, key: str) -> bool:
    return key not in LayerConfig.model_fields or key in uses(layer)


def _choose_limits(
    values: Values, requested: Recipe, defaults: DefaultSettings, amount: int
) -> None:
    """Choose when a training ends, and how often it is looked at."""
    training = requested.training
    if training.bounded:
        # a run whose end is set ends there; patience is for those that must find their own end
        values["training"]["patience"] = training.patience
    if "evaluate_every" not in training.model_fields_set:
        # epochs of small data end before anything is learnt, and patience counts evaluations
        read_a_step = training.batch_size
        if defaults.counts_characters:
            read_a_step *= training.window
        if amount < FEWEST * read_a_step:
            values["training"]["evaluate_every"] = FEWEST
    if not training.bounded:
        # small data is read more often: the schedule falls to its end either way
        epochs = min(300, max(6, defaults.budget // max(1, amount)))
        values["training"]["max_epochs"] = int(epochs)
        values["training"]["max_minutes"] = 10.0


def _choose_data(
    values: Values, requested: Recipe, defaults: DefaultSettings, facts: DataFacts
) -> None:
    """Choose the vocabulary, and write down the columns that are read."""
    schema = facts.schema
    data = values["data"]
    given = requested.data.model_fields_set
    if "vocabulary" not in given and defaults.sizes_vocabulary:
        size = facts.characters // CHARACTERS_A_PIECE
        data["vocabulary"] = int(min(16000, max(1000, size)))
    if schema.text or not schema.inputs:
        data["tokenizer"] = requested.data.tokenizer or defaults.tokenizer
    several = len(schema.text) > 1
    data["text"] = list(schema.text) if several else next(iter(schema.text), None)
    for kind in ("numbers", "categories", "dates"):
        data[kind] = list(getattr(schema, kind)) or None
    data["image"] = next(iter(schema.images), None)
    data["label"] = schema.answer
    data["rows"] = "steps" if schema.steps else requested.data.rows
