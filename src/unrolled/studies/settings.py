"""What a comparison is begun with, checked, and the folder that it goes on in."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import read_json
from unrolled.core.locks import LOCK
from unrolled.core.words import either, option
from unrolled.studies.trials import ALL_LAYERS, Study, check_varied, read_layers

STUDY = "study.json"
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study is begun with, and what a resumed one must have again.

    Attributes:
        target, changes, layers, vary, seeds: see ``Study``.
        budget: seconds for all of it, or None.
        params: parameters of each model, or None.
        at_once: runs that are trained at the same time.
    """

    target: str
    changes: dict[str, Any]
    layers: list[str]
    vary: dict[str, list[Any]]
    seeds: int
    budget: float | None
    params: int | None
    at_once: int

    @property
    def study(self) -> Study:
        """The runs of it."""
        return Study(self.target, self.changes, self.layers, self.vary, self.seeds)


def read_settings(
    target: str,
    changes: dict[str, Any],
    layers: Sequence[str],
    vary: Mapping[str, Sequence[Any]],
    seeds: int,
    budget: float | None,
    params: int | None,
    at_once: int | None,
) -> StudySettings:
    """Return checked settings, with what nobody chose."""
    from unrolled.runs.recipes import requested

    if seeds < 1:
        raise UsageError(f"{option('seeds')} is {seeds}; give 1 or more")
    if at_once is not None and at_once < 1:
        jobs = either("--jobs", "at_once=")
        raise UsageError(f"{jobs} is {at_once}; give 1 or more")
    check_varied(vary, budget is not None)
    recipe = requested(target, changes)
    names = list(layers or ([recipe.layer] if vary else ALL_LAYERS))
    read_layers(names)
    every = {key: list(values) for key, values in vary.items()}
    count = math.prod(map(len, every.values())) * len(names) * seeds
    threads = recipe.training.threads
    at_once = at_once or _at_once(recipe.training.device, threads, count)
    if threads is None:
        threads = max(1, _cores() // at_once)
        changes = {**changes, "training.threads": threads}
    return StudySettings(
        target, changes, names, every, seeds, budget, params, min(at_once, count)
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _at_once(device: str, threads: int | None, count: int) -> int:
    """Return how many runs are trained at the same time: one a core, or one a GPU."""
    import torch

    if device != "cpu" and (device != "auto" or torch.cuda.is_available()):
        return 1
    return max(1, min(count, _cores() // (threads or 1)))


def default_folder(settings: StudySettings) -> Path:
    from unrolled.runs.recipes import requested

    return Path("studies") / f"compare-{requested(settings.target, {}).name}"


def refuse_other(folder: Path, settings: StudySettings) -> None:
    """Raise UsageError where a folder holds something that this study is not to go on with."""
    try:
        names = {path.name for path in folder.iterdir()} - {LOCK}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; name a folder") from None
    another = f"choose another {option('out')}"
    if not names:
        return
    if STUDY not in names:
        raise UsageError(f"{folder} holds other files, and no study; {another}")
    before = _spelt(_saved(folder))
    now = _spelt(asdict(settings))
    for key in {**before, **now}:
        was, is_now = (values.get(key, "not given") for values in (before, now))
        if was != is_now:
            raise UsageError(
                f"{folder} holds another study: {key} was {was} and is {is_now}; {another}, or "
                "remove it"
            )


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / STUDY
    try:
        values = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: this file is damaged; remove the folder") from None
    if "settings" not in values:
        raise UsageError(
            f"{folder} holds a study of another kind; choose another {option('out')}"
        )
    return values["settings"]


def _spelt(settings: Values) -> dict[str, str]:
    """Return settings as people name them, the keys of ``changes`` and ``vary`` among them."""
    spelt: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            keys = {
                f"{name} {key}" if name == "vary" else key: value[key] for key in value
            }
            spelt |= {key: str(inner) for key, inner in keys.items()}
        else:
            spelt[name] = str(value)
    return spelt
