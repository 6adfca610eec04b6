"""What a run was begun with, and what a resume may not change of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.core import digests
from unrolled.core.errors import UserError, shown
from unrolled.core.words import option
from unrolled.runs import folder as runs
from unrolled.runs.keys import flat
from unrolled.runs.pretrained import Transfer, digest_at
from unrolled.runs.recipes import CONFIG, FILES, changed_keys
from unrolled.tasks.base import Task
from unrolled.tasks.recipe import Recipe
from unrolled.training.settings import EXECUTION, LIMITS


@dataclass(frozen=True, slots=True)
class Before:
    """What a run was begun with: as its newest checkpoint says, else as its files do.

    ``data`` are hashes by the keys that name the files; ``fields`` the hash of the fields, None
    where no checkpoint keeps it, and so is ``instructions``, the level that it computed with;
    ``transfer`` is what was taken of the run that it began with.
    """

    recipe: Recipe
    task: Task
    data: dict[str, str]
    fields: str | None
    instructions: str | None = None
    transfer: Transfer | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether its weights stand in a checkpoint."""
        return self.fields is not None

    def notes(self, recipe: Recipe) -> list[str]:
        """Say where what is computed from here on may differ from what would have been.

        Args:
            recipe: that it goes on with.
        """
        now = runs.instructions()
        notes = []
        if self.instructions not in (None, now):
            notes.append(
                f"warning: begun with {self.instructions} instructions, and goes on with {now}: "
                "equal bits are not promised"
            )
        if self.recipe.training.compile or recipe.training.compile:
            notes.append(
                "warning: training.compile=true, now or before: equal bits are not promised"
            )
        return notes

    def begins_with(self, name: str | None, where: Path) -> bool:
        """Whether ``model.init`` names the weights that the run was begun with.

        They are compared by their digest, and by the name alone where no run is found by it and
        the weights stand in a checkpoint.

        Args:
            name: as ``model.init`` is now.
            where: the run.

        Raises:
            UserError: there is no such run, and no checkpoint.
        """
        if name == self.recipe.model.init:
            return True
        if name is None or self.transfer is None:
            return False
        try:
            return digest_at(name, where) == self.transfer.digest
        except UserError:
            if self.has_checkpoint:
                return False
            raise


def read_before(where: Path, recipe: Recipe) -> Before:
    """Read what a run was begun with. Raises UserError: its fields are no longer those."""
    runs.look(where)
    task, files = runs.read_fields(where)
    digests.verify(
        where, [name for name in runs.READ if name not in (CONFIG, runs.RESULT)]
    )
    begun = runs.read_begun(where)
    if not begun and runs.is_ended_without_checkpoints(where):
        raise UserError(
            f"{where} has no checkpoint left, so it answers as before and cannot go on; choose "
            f"another {option('out')} to train anew"
        )
    transfer = read_transfer(where)
    if not begun:
        saved = runs.read_recipe(where)
        data = runs.by_role(saved, files)
        return Before(saved, task, data, None, transfer=transfer)
    saved = Recipe.read(begun["recipe"], str(where))
    instructions = begun.get("instructions")
    data = begun["data"]
    before = Before(saved, task, data, begun["fields"], instructions, transfer)
    if runs.digest_of(task) != before.fields:
        raise UserError(
            f"{where} cannot be resumed: its fields or its vocabulary are not those that it was "
            f"begun with; restore them, or choose another {option('out')}"
        )
    return before


def read_transfer(where: Path) -> Transfer | None:
    """Return what a run took of the one it began with. Raises UserError: it cannot be read."""
    try:
        return Transfer.from_json(runs.read_init(where))
    except ValueError:
        raise UserError(
            f"{where / runs.FIELDS}: what the run began with cannot be read; train it anew"
        ) from None


def finished_as_requested(recipe: Recipe, where: Path) -> str:
    """Return how a run ended that was asked for as it is, else an empty text.

    Needs no data file: it may have moved since.
    """
    if not runs.is_run(where):
        return ""
    runs.look(where)
    result = runs.read_result(where)
    if not result:
        return ""
    if digests.is_changed(where, CONFIG):
        return ""  # what was changed is told by its key, when the plan is made
    digests.verify(where, runs.READ)
    requested = flat(recipe.model_dump(exclude_unset=True))
    saved = flat(runs.read_recipe(where).model_dump())
    changed = any(saved.get(key) != value for key, value in requested.items())
    return "" if changed else ended(result)


def ended(result: dict[str, Any]) -> str:
    """Return how a run ended."""
    if result["stopped"] != "limit":
        return str(result["stopped"])
    return f"it reached its limit at step {result['steps']:,} (raise training.max_steps to go on)"


def refuse_edits(
    where: Path, before: Before, recipe: Recipe, changes: Mapping[str, Any]
) -> None:
    """Refuse a run whose file of settings was edited, before any of them is followed.

    Args:
        where: the run.
        before: what it was begun with.
        recipe: as the file and the keys that are given now say.
        changes: the keys that are given now.

    Raises:
        UserError: a key of the file is another, other than a limit that was raised or the place of
            a data file or of the run that it began with.
    """
    if not digests.is_changed(where, CONFIG):
        return
    old = flat(before.recipe.model_dump())
    new = flat(recipe.model_dump())
    given = flat(changes)
    raised = {
        key
        for key in (f"training.{name}" for name in LIMITS)
        if not _is_lower(new[key], old[key])
    }
    # of files their bytes are compared, once they are read
    moved = {key for key in (f"data.{role}" for role in FILES) if new[key] and old[key]}
    if before.begins_with(recipe.model.init, where):
        moved.add("model.init")
    free = {*given, *raised, *moved}
    _refuse(
        where,
        [key for key in old if new[key] != old[key] and key not in free],
        old,
        new,
    )


def _refuse(
    where: Path, differing: list[str], old: dict[str, Any], new: dict[str, Any]
) -> None:
    if differing:
        changes = "; ".join(
            f"{key} was {shown(old[key])} and is now {shown(new[key])}"
            for key in differing
        )
        limits = ", ".join(f"training.{name}" for name in LIMITS)
        execution = ", ".join(f"training.{name}" for name in EXECUTION)
        raise UserError(
            f"{where} cannot be resumed with other settings: {changes}. Only limits ({limits}) and "
            f"how it is computed ({execution}) may change; for the rest choose another "
            f"{option('out')}"
        )


def refuse_changes(
    where: Path,
    before: Before,
    recipe: Recipe,
    data: dict[str, str],
    changes: Mapping[str, Any],
) -> None:
    """Refuse a run that was begun with other settings or other data.

    A limit may be another where it is given now; in the run's own file it may be raised. Data, and
    the run that it began with, may lie in another place.

    Args:
        where: the run.
        before: what it was begun with.
        recipe: resolved now.
        data: hashes of the data files by the keys that name them.
        changes: the keys that are given now.

    Raises:
        UserError: a key, or a file, is another; it names the first ones.
    """
    altered = [role for role, digest in data.items() if before.data.get(role) != digest]
    if altered:
        name = getattr(recipe.data, altered[0])
        raise UserError(
            f"{where} cannot be resumed: {name} is not the file it was begun with; restore it, or "
            f"choose another {option('out')}"
        )
    moved = {f"data.{role}" for role in data}
    if before.begins_with(recipe.model.init, where):
        moved.add("model.init")
    old = flat(before.recipe.model_dump())
    new = flat(recipe.model_dump())
    differing = [key for key in changed_keys(before.recipe, recipe) if key not in moved]
    limits = [f"training.{name}" for name in LIMITS]
    given = any(key in flat(changes) for key in limits)
    if not given:
        differing += [key for key in limits if _is_lower(new[key], old[key])]
    _refuse(where, differing, old, new)


def _is_lower(now: float | None, before: float | None) -> bool:
    """Whether a limit is lower than it was; None is none."""
    return now is not None and (before is None or now < before)
