"""A training that begins with the weights of another run, or of another program's checkpoint.

Weights are matched by their names, their shapes, and what their rows stand for: tokens, words and
labels by themselves, never by their number (see ``Task.axis_names``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from torch import Tensor, nn

from unrolled.core.errors import UsageError, UserError, listed, nearest, shown
from unrolled.core.files import exists, expanded, sha256
from unrolled.core.words import command, either
from unrolled.data.schema import Schema
from unrolled.nn.fitting import counterpart, fitted
from unrolled.runs import folder as runs
from unrolled.runs.inherited import PAIRED, PIECES, inherited, says_otherwise
from unrolled.runs.published import is_checkpoint, is_published, open_published
from unrolled.runs.recipes import about, beside, read_yaml, shipped
from unrolled.runs.recipes import folder as recipes_folder
from unrolled.tasks.base import AxisNames, Task
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class
from unrolled.text.tokenizers import PUBLISHED

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a training begins with.

    Attributes:
        name: as the recipe names it.
        path: where it stands.
        digest: SHA-256 of its weights.
        recipe: its settings, as they shape its model.
        task: its fields.
        weights: by their names.
    """

    name: str
    path: Path
    digest: str
    recipe: Recipe
    task: Task
    weights: dict[str, Tensor]

    @classmethod
    def open(cls, name: str, origin: str = "", begun: Path | None = None) -> Self:
        """Read the run that ``model.init`` names.

        Args:
            name: of the run.
            origin: where it comes from, as an error says it.
            begun: the folder of the run that began with it, where that is resumed.

        Raises:
            UserError: there is none, it has no weights yet, or was damaged.
        """
        path = located(name, origin, begun)
        try:
            is_other = is_published(path)
            loaded = open_published(path) if is_other else runs.load(path, result=False)
            digest = _digest(path)
        except UserError as error:
            raise UserError(f"model.init={cut_name(name)}: {error}") from None
        weights = {
            name: weight.detach() for name, weight in loaded.model.state_dict().items()
        }
        recipe = _as_shaped(loaded)
        return cls(name, path, digest, recipe, loaded.task, weights)

    @classmethod
    def of(cls, requested: Recipe) -> Self | None:
        """Return what a training of a recipe begins with; None where it begins with nothing.

        Raises:
            UsageError: it asks for the tokenizer of a checkpoint that brings none.
        """
        init = requested.model.init
        pretrained = None
        if init is not None:
            where = origin_of(requested)
            pretrained = cls.open(init, where)
        if requested.data.tokenizer == PUBLISHED:
            own = None if pretrained is None else pretrained.task.tokenizer
            if own is None or own.kind != PUBLISHED:
                raise UsageError(
                    "data.tokenizer=published is what the checkpoint of another program cuts text "
                    "with; name one with model.init=PATH"
                )
        return pretrained

    def shaping(self, requested: Recipe, schema: Schema) -> Recipe:
        """Return a recipe with the keys that shape these weights, where nobody set them.

        Args:
            requested: the recipe, as it was named and changed.
            schema: the task and columns, as inferred.
        """
        kind = task_class(schema.task, schema.kind)
        alike = kind.around == self.task.around
        around = kind.around if alike else ()
        pieces = PIECES if self.serves(requested, kind) else ()
        recipe = inherited(
            requested, self.recipe, around, (*pieces, *(PAIRED if alike else ()))
        )
        context = recipe.model.context
        longest = recipe.data.max_tokens
        if (
            context is None
            or longest is None
            or "max_tokens" in requested.data.model_fields_set
        ):
            return recipe
        most = max(2, min(longest, context // max(1, len(schema.text))))
        data = recipe.data.model_copy(update={"max_tokens": most})
        return recipe.model_copy(update={"data": data})

    def serves(self, requested: Recipe, kind: type[Task]) -> bool:
        """Whether its tokenizer cuts the texts of a task, too."""
        if kind.learns_words or self.task.learns_words or self.task.tokenizer is None:
            return False
        return not says_otherwise(requested, self.recipe)

    def vocabulary(self, requested: Recipe, schema: Schema) -> Task | None:
        """Return the task whose vocabulary is taken in place of learning one, if it is to be."""
        kind = task_class(schema.task, schema.kind)
        return self.task if self.serves(requested, kind) else None


def cut_name(name: str) -> str:
    """Return the name of a run as a message shows it."""
    return shown(name, 200).strip("'\"")


def origin_of(recipe: Recipe) -> str:
    """Say where the checkpoint comes from that a shipped recipe begins with."""
    if recipe.name not in shipped():
        return ""
    known = about(recipe.name)
    own = read_yaml(recipes_folder() / f"{recipe.name}.yaml").get("model", {})
    if recipe.model.init != own.get("init"):
        return ""
    if known.checkpoint is not None:
        return f"; to have it: {known.checkpoint}; or name it with model.init=PATH"
    if known.source is None:
        return ""
    return f"; it comes from {known.source} in UNROLLED_DATA (licence {known.licence})"


def located(name: str, origin: str = "", begun: Path | None = None) -> Path:
    """Return where a run stands: as given, in runs, in UNROLLED_DATA, or near one it began.

    Args:
        name: of the run.
        origin: where it comes from, as an error says it.
        begun: the folder of the run that began with it, where that is resumed.

    Raises:
        UsageError: it is in none of these.
    """
    if not name or "\0" in name:
        raise UsageError(f"model.init={shown(name)} is no name of a run")
    paths = [expanded(name), RUNS / name]
    root = os.environ.get("UNROLLED_DATA")
    if root:
        paths.append(expanded(root) / name)
    if begun is not None:
        paths += runs.near(begun, name)
    standing = [path for path in paths if exists(path)]
    for path in standing:
        if runs.is_run(path) or is_published(path):
            return path
    if name in shipped():
        first = either(f"`{command('train', name)}`", f"unrolled.train({name!r})")
        raise UsageError(
            f"model.init={name}: there is no run {RUNS / name}; train it first: {first}"
        )
    if standing:
        raise UsageError(
            f"model.init={cut_name(name)}: {standing[0]} is neither a run nor a checkpoint that "
            "is known: it has no config.yaml and no config.json"
        )
    guess = nearest(Path(name).name, _begin_others(paths))
    hint = f"; did you mean {shown(guess)}?" if guess else ""
    raise UsageError(f"model.init={cut_name(name)}: there is no such run{hint}{origin}")


def _begin_others(paths: Sequence[Path]) -> list[str]:
    """Return the names of runs and checkpoints that stand in the folders of paths."""
    names: list[str] = []
    for path in paths:
        folder = path.parent
        names += [
            name
            for name in beside(path)
            if runs.is_run(folder / name) or is_checkpoint(folder / name)
        ]
    return names


def digest_at(name: str, begun: Path) -> str:
    """Return the digest of the weights that ``model.init`` names now.

    Args:
        name: of a run.
        begun: the folder of the run that is resumed with it.

    Raises:
        UserError: there is no such run, or its weights cannot be read.
    """
    path = located(name, begun=begun)
    try:
        if runs.is_run(path):
            runs.look(path)
        elif not is_checkpoint(path):
            raise UserError(f"{path} is no checkpoint of a known kind")
        return _digest(path)
    except (UserError, OSError) as error:
        raise UserError(f"model.init={cut_name(name)}: {error}") from None


def _digest(path: Path) -> str:
    """Return the SHA-256 of a run's weights, or of a file that is a checkpoint.

    Of a folder of Hugging Face it is that of each file of weights, joined: settings and tokenizer
    are not in it, which the run keeps itself once it is begun.
    """
    if path.is_file():
        return sha256(path)
    if runs.is_run(path):
        return sha256(path / runs.MODEL)
    files = sorted(path.glob("*.safetensors"))
    return "-".join(sha256(file) for file in files)


def _as_shaped(loaded: runs.Loaded) -> Recipe:
    """Return the settings of a run with those that its model and its tokenizer have made of them.

    A language model that names no context can read one training window.
    """
    layer = getattr(loaded.model, "layer", None)
    recipe = loaded.recipe
    model = recipe.model.model_copy(update={"context": getattr(layer, "context", None)})
    data = recipe.data
    tokenizer = loaded.task.tokenizer
    if tokenizer is not None and tokenizer.kind == PUBLISHED:
        values = {"tokenizer": tokenizer.kind, "vocabulary": tokenizer.size}
        data = data.model_copy(update=values)
    return recipe.model_copy(update={"model": model, "data": data})


# ---------------------------------------------------------------------- what was taken


@dataclass(frozen=True, slots=True)
class Transfer:
    """What of a run was taken into a model. All are names of weights.

    Attributes:
        name: the run, as the recipe names it.
        digest: SHA-256 of its weights.
        whole: taken as they are.
        partly: taken in part: how many entries of how many, as ``[3, 5]``.
        reshaped: drawn anew, since they have another shape there.
        new: drawn anew, since there is nothing like them there.
        unused: of the run, and not taken.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    digest: str
    whole: list[str]
    partly: dict[str, Annotated[list[int], Field(min_length=2, max_length=2)]]
    reshaped: list[str]
    new: list[str]
    unused: list[str]

    @classmethod
    def from_json(cls, values: Any) -> Self | None:
        """Return what ``to_json`` was of; None where a run began with nothing.

        Raises:
            ValueError: it is something else.
        """
        return None if values is None else TypeAdapter(cls).validate_python(values)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def drawn(self) -> list[str]:
        """The weights that were drawn anew."""
        return [*self.reshaped, *self.new]

    def lines(self) -> list[str]:
        """Say what was taken, and what was not."""
        partly = [
            f"{name} ({taken:,} of {size:,})"
            for name, (taken, size) in self.partly.items()
        ]
        kinds = {
            "in part": partly,
            "drawn anew, of another shape there": self.reshaped,
            "drawn anew, not there": self.new,
            "left there": self.unused,
        }
        lines = [f"begins with {cut_name(self.name)}: {len(self.whole)} weights taken"]
        lines += [
            f"  {kind}: {listed(names)}" for kind, names in kinds.items() if names
        ]
        return lines


@torch.no_grad()
def take(pretrained: Pretrained, model: nn.Module, task: Task) -> Transfer:
    """Put the weights of a run into a model, as far as they fit.

    Args:
        pretrained: the run.
        model: with weights as they were drawn.
        task: that the model is of.

    Raises:
        UserError: nothing fits.
    """
    refuse_other_columns(pretrained.task.schema, task.schema, pretrained.name)
    ours = task.axis_names()
    theirs = pretrained.task.axis_names()
    others = list(pretrained.weights)
    used = set[str]()
    transfer = Transfer(pretrained.name, pretrained.digest, [], {}, [], [], [])
    for name, weight in _own(model):
        other = counterpart(name, others)
        if other is None:
            transfer.new.append(name)
            continue
        source = pretrained.weights[other]
        taken = _taken(model, name, source, ours.get(name), theirs.get(other))
        if taken is None:
            transfer.reshaped.append(name)
        elif not taken.count:
            transfer.new.append(name)
        else:
            taken.put(weight)
            used.add(other)
            if taken.count == taken.size:
                transfer.whole.append(name)
            else:
                transfer.partly[name] = [taken.count, taken.size]
    if not used:
        raise UserError(_nothing_fits(pretrained, model, transfer))
    unused = [name for name in others if name not in used and not _is_tied(name, model)]
    return replace(transfer, unused=unused)


def refuse_other_columns(there: Schema, here: Schema, name: str) -> None:
    """Raise UserError where other columns of numbers would be read by weights that tell them apart.

    Args:
        there, here: the columns of the run, and those that are read now.
        name: of the run.
    """
    for kind in ("numbers", "categories", "dates"):
        before = getattr(there, kind)
        now = getattr(here, kind)
        if before and now and before != now:
            raise UserError(
                f"model.init={cut_name(name)}: it reads {kind} in the columns {listed(before)}, "
                f"and this run in {listed(now)}; name the same in their order with data.{kind}"
            )


def _own(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model, those that stand in two places once."""
    seen = set[int]()
    for name, weight in model.state_dict().items():
        if weight.data_ptr() not in seen or not weight.numel():
            seen.add(weight.data_ptr())
            yield name, weight


def _is_tied(name: str, model: nn.Module) -> bool:
    """Whether a weight of this name is another weight of the model."""
    state = model.state_dict()
    return name in state and name not in dict(_own(model))


@dataclass(frozen=True, slots=True)
class _Taken:
    """A weight of another model, and which of its entries go where along an axis; None: all.

    ``count`` of ``size`` entries of the weight that it goes into are taken.
    """

    source: Tensor
    count: int
    size: int
    axis: int = 0
    entries: Tensor | None = None

    def put(self, weight: Tensor) -> None:
        """Write it into a weight, in place."""
        source = self.source.to(weight.device, weight.dtype)
        if self.entries is None:
            weight.copy_(source)
        else:
            weight.index_copy_(self.axis, self.entries, source)


def _taken(
    model: nn.Module,
    name: str,
    source: Tensor,
    ours: AxisNames | None,
    theirs: AxisNames | None,
) -> _Taken | None:
    """Return what of a weight is taken; None where its shape is another."""
    own = model.state_dict()[name]
    if ours is None and theirs is None:
        fitting = fitted(model, name, source)
        if fitting is None:
            return None
        columns = source.shape[-1] if source.dim() else 1
        size = own.shape[-1] if own.dim() else 1
        return _Taken(fitting, columns, size)
    if ours is None or theirs is None or ours.axis != theirs.axis:
        return _Taken(source, 0, len(own))
    axis = ours.axis
    known = {
        name: index for index, name in enumerate(_numbered_among_equals(theirs.names))
    }
    pairs = [
        (index, known[entry])
        for index, entry in enumerate(_numbered_among_equals(ours.names))
        if entry in known
    ]
    if not pairs:
        return _Taken(source, 0, len(own))
    if _without(own.shape, axis) != _without(source.shape, axis):
        return None
    entries, rows = torch.tensor(pairs, dtype=torch.long, device="cpu").view(-1, 2).T
    chosen = source.index_select(axis, rows)
    return _Taken(chosen, len(pairs), own.shape[axis], axis, entries)


def _numbered_among_equals(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield names with how many equal ones stood before them."""
    seen = Counter[str]()
    for name in names:
        yield name, seen[name]
        seen[name] += 1


def _without(shape: Sequence[int], axis: int) -> list[int]:
    return [size for index, size in enumerate(shape) if index != axis]


def _nothing_fits(pretrained: Pretrained, model: nn.Module, transfer: Transfer) -> str:
    """Say why nothing of a run could be taken."""
    state = model.state_dict()
    reasons: list[str] = []
    others = list(pretrained.weights)
    for name in transfer.reshaped:
        there = pretrained.weights[counterpart(name, others) or name]
        shapes = [list(weight.shape) for weight in (there, state[name])]
        reasons.append(f"{name} has shape {shapes[0]} there and {shapes[1]} here")
    if not reasons:
        reasons.append(f"it has {listed(others)}, and this model {listed(state)}")
    return (
        f"model.init={cut_name(pretrained.name)}: nothing of it fits this model: "
        f"{'; '.join(reasons[:3])}; leave out the keys of layer and sizes"
    )
