"""A training by adapters: what is put beside the weights of a run, and what is kept of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unrolled.core import digests
from unrolled.core.errors import UsageError, nearest, shown
from unrolled.core.files import expanded
from unrolled.nn.adapters import (
    Product,
    adapt,
    adapters,
    ends_with,
    freeze_all_but,
    merge,
    merged_weights,
    products,
    state_beside,
)
from unrolled.runs import folder as runs
from unrolled.runs.pretrained import RUNS
from unrolled.runs.published.adapters import (
    CONFIG,
    WEIGHTS,
    Adapter,
    AdapterFolder,
    AdapterNames,
    adapters_for,
    made_alike,
    put,
    put_whole,
    written_config,
    written_tensors,
)
from unrolled.tasks.recipe import Recipe
from unrolled.training.adapting import AdapterConfig
from unrolled.training.averaging import Weights
from unrolled.training.checkpoints import save_tensors


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The adapters of a model that is trained, and how they are kept.

    Attributes:
        model: with its adapters.
        names: how its modules are called by PEFT.
        base: what the model began with.
        whole: weights that are trained themselves, since they were drawn anew.
        settings: by which they were made; with ``init`` those of the adapters there.
    """

    model: nn.Module
    names: AdapterNames
    base: str
    whole: tuple[str, ...]
    settings: AdapterConfig

    def lines(self) -> list[str]:
        """Say what is trained."""
        beside = adapters(self.model)
        sizes = [p.numel() for p in self.model.parameters() if p.requires_grad]
        every = sum(p.numel() for p in self.model.parameters())
        rank = next(iter(beside.values())).rank
        trained = sum(sizes)
        lines = [
            f"adapters: rank {rank} beside {len(beside)} weights; {trained:,} numbers are trained "
            f"({trained / every:.2%})"
        ]
        if self.whole:
            lines.append(f"  trained whole: {', '.join(self.whole)}")
        return lines

    def keep(self, folder: Path, weights: Weights) -> None:
        """Write the weights of the plain model, and the adapters alone as PEFT has them.

        Args:
            folder: of the run.
            weights: of what is trained.

        Raises:
            UserError: the disk refused it.
        """
        runs.save_weights(folder, merged_weights(self.model, weights))
        learnt = state_beside(self.model, weights)
        beside: dict[str, Adapter] = {}
        for name, low_rank in adapters(self.model).items():
            tensors = learnt[name]
            beside[name] = Adapter(
                tensors["down"],
                tensors["up"],
                low_rank.scale,
                tensors.get("magnitude"),
                low_rank.parts,
            )
        # what is trained; a weight may be frozen for another reason
        whole = {name: weights[name] for name in self.whole if name in weights}
        tensors, theirs = written_tensors(beside, whole, self.names)
        config = written_config(
            theirs, whole, self.names, self.base, self.settings.dropout
        )
        digests.replace_json(folder, f"{runs.ADAPTER}/{CONFIG}", config)
        digests.replace(
            folder,
            f"{runs.ADAPTER}/{WEIGHTS}",
            lambda path: save_tensors(path, tensors, {"format": "pt"}),
        )


def adapter_folder(name: str, folder: Path) -> Path:
    """Return where adapters stand: as given, in runs, that of a run, or near one that is resumed.

    Args:
        name: as it was given.
        folder: of the run that begins with them.

    Raises:
        UsageError: there is no such folder.
    """
    paths = [expanded(name), RUNS / name]
    if runs.is_run(folder):
        paths += runs.near(folder, name)
    for path in paths:
        for home in (path, path / runs.ADAPTER):
            if (home / CONFIG).is_file():
                return home
    raise UsageError(
        f"adapter.init={shown(name)}: there is no {CONFIG} in that folder; name one that PEFT "
        "wrote, or a run that was trained with adapter.rank"
    )


def check_adapter(recipe: Recipe) -> None:
    """Raise UsageError for keys that do not go with adapters."""
    settings = recipe.adapter
    if not settings.adapts:
        for key in ("alpha", "targets", "whole", "magnitudes", "dropout"):
            if getattr(settings, key) not in (None, False, 0.0):
                raise UsageError(
                    f"adapter.{key} needs adapters: set adapter.rank, such as 8"
                )
        return
    init = recipe.model.init
    if init is None:
        raise UsageError(
            "adapter.rank and adapter.init are for weights that stay as they are; name the run or "
            "checkpoint that has them with model.init"
        )
    if settings.init is not None and expanded(settings.init) == expanded(init):
        raise UsageError(
            f"model.init={init} has the adapters of adapter.init put in already; name what it "
            "began with, or leave out adapter.init"
        )
    training = recipe.training
    refused = {
        "training.unfreeze": training.unfreeze is not None,
        "training.layer_decay": training.layer_decay != 1,
        "training.shard": training.shard,
    }
    for key, is_set in refused.items():
        if is_set:
            raise UsageError(
                f"{key} is for weights that are trained themselves; leave it out with adapters"
            )


def adapted(
    model: nn.Module,
    recipe: Recipe,
    drawn: list[str],
    folder: Path,
    begins: bool,
) -> Adaptation:
    """Put the adapters of a recipe beside the weights of a model.

    Args:
        model: with the weights that it begins with.
        recipe: resolved.
        drawn: the weights that were drawn anew, wholly or in part; they are trained themselves.
        folder: of the run.
        begins: whether the training begins; else a checkpoint brings the numbers.

    Raises:
        UserError: no weight is called so, or the adapters that it is to begin with do not fit.
    """
    settings = recipe.adapter
    names = AdapterNames.of(model)
    every = [part for part in products(model) if part.weight_name not in drawn]
    beside: dict[str, Adapter] = {}
    if settings.init is not None and begins:
        given = AdapterFolder.open(adapter_folder(settings.init, folder))
        beside = adapters_for(given, every, names)
        beside = made_alike(beside)
        settings = _as_given(settings, beside)
        # beside those that are named here
        named = [*(settings.whole or []), *put_whole(given, model, names)]
        settings = settings.changed(whole=named or None)
    whole = [*drawn, *_named_whole(model, settings.whole, drawn)]
    every = [part for part in every if part.weight_name not in whole]
    chosen = chosen_products(every, settings.targets)
    _refuse_parts(chosen, names, settings)
    for product in chosen:
        low_rank = adapt(
            product,
            settings.rank,
            settings.scale,
            settings.magnitudes,
            settings.dropout,
        )
        if product.weight_name in beside:
            put(low_rank, beside[product.weight_name])
    freeze_all_but(model, lambda name: name in whole)
    base = str(recipe.model.init)
    return Adaptation(model, names, base, tuple(whole), settings)


def _named_whole(
    model: nn.Module, ends: list[str] | None, drawn: list[str]
) -> list[str]:
    """Return the weights that are to be trained themselves beside those that were drawn anew.

    Raises:
        UsageError: a name means none.
    """
    names = [name for name, _ in model.named_parameters()]
    for end in ends or []:
        if not any(ends_with(name, end) for name in names):
            guess = nearest(end, [name.removesuffix(".weight") for name in names])
            hint = f"; did you mean {guess}?" if guess else ""
            raise UsageError(f"adapter.whole: no weight is called {shown(end)}{hint}")
    return [
        name
        for name in names
        if name not in drawn and any(ends_with(name, end) for end in ends or [])
    ]


def with_settings(recipe: Recipe, adaptation: Adaptation | None) -> Recipe:
    """Return a recipe with the rank and scale of the adapters that a training begins with."""
    if adaptation is None:
        return recipe
    return recipe.model_copy(update={"adapter": adaptation.settings})


def _as_given(settings: AdapterConfig, beside: Mapping[str, Adapter]) -> AdapterConfig:
    """Return settings with the kind and places of the adapters that a training begins with.

    Raises:
        UsageError: the settings say otherwise.
    """
    first = next(iter(beside.values()))
    rank = first.rank
    scale = first.scale
    magnitudes = first.magnitude is not None
    values = {"rank": rank, "alpha": scale * rank, "magnitudes": magnitudes}
    for key, value in values.items():
        requested = getattr(settings, key)
        if key in settings.model_fields_set and requested and requested != value:
            raise UsageError(
                f"adapter.{key} is {requested:g}, and {value:g} of adapter.init={settings.init}; "
                "leave it out"
            )
    if settings.targets is None:
        return settings.changed(**values, targets=sorted(beside))
    lacking = [
        name
        for name in beside
        if not any(ends_with(name, target) for target in settings.targets)
    ]
    if lacking:
        raise UsageError(
            f"adapter.init={settings.init} has an adapter beside {lacking[0]}, which "
            "adapter.targets leaves out; name it there, too"
        )
    return settings.changed(**values)


def _refuse_parts(
    chosen: Sequence[Product], names: AdapterNames, settings: AdapterConfig
) -> None:
    """Raise UsageError where lengths are learnt of some rows of what is one weight in PEFT."""
    if not settings.magnitudes:
        return
    parts: dict[str, int] = {}
    for product in chosen:
        origin = names.origin(product.weight_name)
        assert origin is not None
        for name in origin.names:
            parts[name] = parts.get(name, origin.parts) - 1
    split = [name for name, left in parts.items() if left]
    if split:
        raise UsageError(
            f"adapter.magnitudes: {split[0].removesuffix('.weight')} is one weight of the "
            "published model; name all of query, key and value in adapter.targets, or none"
        )


def begin_adapted(model: nn.Module, recipe: Recipe, folder: Path) -> None:
    """Put the adapters that a training begins with into the weights of a plain model."""
    if recipe.adapter.init is None:
        return
    adapted(model, recipe, [], folder, begins=True)
    merge(model)


def chosen_products(
    every: Sequence[Product], targets: list[str] | None
) -> list[Product]:
    """Return the products that names mean, all where none are given.

    Args:
        every: those of the model.
        targets: ends of their names.

    Raises:
        UsageError: a name means none; the message has the nearest one.
    """
    if not every:
        raise UsageError(
            "adapters: no products of this model's layer were taken from model.init"
        )
    if targets is None:
        return list(every)
    short = dict.fromkeys(_short(product.name) for product in every)
    if not targets:
        raise UsageError(
            f"adapter.targets names no weight; known are {', '.join(short)}"
        )
    for target in targets:
        if any(product.is_called(target) for product in every):
            continue
        ends = dict.fromkeys(name.rpartition(".")[2] for name in short)
        guess = nearest(target, [*ends, *short])
        hint = f"; did you mean {guess}?" if guess else ""
        raise UsageError(
            f"adapter.targets: no weight is called {shown(target)}{hint} (known: "
            f"{', '.join(short)})"
        )
    return [product for product in every if any(map(product.is_called, targets))]


def _short(name: str) -> str:
    """Return the name of a product without what tells it from its like in other blocks."""
    below = re.sub(r".*\.\d+\.", "", name)
    return re.sub(r"_l\d+(_reverse)?$", "", below).rpartition("layer.")[2]
