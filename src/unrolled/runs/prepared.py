"""Data files as a recipe names them, and what training starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unrolled.core.errors import DataError, DataWarning, UsageError
from unrolled.data.aligned import read_aligned
from unrolled.data.schema import DOCUMENT, PAIRS, ColumnHints, Schema, infer
from unrolled.data.shards import unchanged
from unrolled.data.sources import Table, fingerprint, read
from unrolled.runs.pretrained import Pretrained
from unrolled.runs.recipes import find_data
from unrolled.runs.rewards import Alignment
from unrolled.tasks.base import AnswerOptions, Data, Split, Task
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.registry import task_class

ALIGNED = ", or the file whose lines stand beside its lines with data.train_target=FILE"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that training starts from.

    ``lines`` tell a person what was read, line by line; ``files`` are the SHA-256 of the data
    files by the name the recipe gives them; ``held_out`` is false where the training rows
    themselves are scored, as in learning by heart. ``partial`` is whether ``train_data`` is only
    the beginning of the training part, as of a large file; ``facts`` say for programs what
    ``lines`` say for people; ``warnings`` are those of them that want a look; ``pretrained`` is
    what the training begins with, until its weights were taken; ``alignment`` is what judges
    answers, where one learns from them.
    """

    recipe: Recipe
    task: Task
    train_data: Data
    dev_data: Data
    train: Any
    dev: Any
    lines: list[str]
    files: dict[str, str]
    partial: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[DataWarning, ...] = ()
    pretrained: Pretrained | None = None
    alignment: Alignment = field(default_factory=Alignment)

    @property
    def held_out(self) -> bool:
        """Whether the scored part is another than the training part."""
        data = self.recipe.data
        return data.dev is None or self.files[data.dev] != self.files[str(data.train)]

    @property
    def split(self) -> Split:
        """The training part and the scored part."""
        return Split(self.train_data, self.dev_data, self.train, self.dev, self.options)

    @property
    def options(self) -> AnswerOptions:
        """How texts are written and scored."""
        return self.alignment.added(AnswerOptions.of(self.recipe))


def column_hints(recipe: Recipe) -> ColumnHints:
    """Return what a recipe says about columns."""
    text = recipe.data.text
    texts = (text,) if isinstance(text, str) else tuple(text or ())
    kinds = ("numbers", "categories", "dates")
    return ColumnHints(
        task=recipe.task,
        text=texts,
        numbers=tuple(recipe.data.numbers or ()),
        categories=tuple(recipe.data.categories or ()),
        dates=tuple(recipe.data.dates or ()),
        decimal=recipe.data.decimal,
        time=recipe.data.time,
        group=recipe.data.group,
        by=recipe.data.by,
        label=recipe.data.label,
        rows=recipe.data.rows,
        sequence=recipe.data.sequence,
        window=recipe.data.window,
        ahead=recipe.data.ahead,
        paired=recipe.data.train_target is not None,
        without=tuple(kind for kind in kinds if getattr(recipe.data, kind) == []),
        images=() if recipe.data.image is None else (recipe.data.image,),
    )


def load_data(
    recipe: Recipe,
    name: str,
    limit: int | None = None,
    target: str | None = None,
    header: bool | None = None,
) -> tuple[Data, dict[str, str]]:
    """Read a data file that a recipe names, with ``target`` two whose lines stand side by side.

    Errors carry the path that was found. ``header`` is whether the first row is one, where a run
    was begun with the file.

    Returns:
        What was read, and the hash of each file by its name.
    """
    path = find_data(recipe, name)
    config = recipe.data
    options: dict[str, Any] = {
        "encoding": config.encoding,
        "on_error": config.on_error,
        "limit": limit,
        "max_row": config.max_row,
    }
    if target is None:
        with unchanged(path):
            data: Data = read(
                path,
                **options,
                header=config.header if header is None else header,
                sheet=config.sheet,
            )
            return data, {name: fingerprint(path)}
    beside = find_data(recipe, target)
    with unchanged(path, beside):
        data = read_aligned(path, beside, **options)
        return data, {name: fingerprint(path), target: fingerprint(beside)}


def check_sides(recipe: Recipe) -> None:
    """Raise UsageError where a file lacks the one that is to stand beside it."""
    data = recipe.data
    for name, file, target in (
        ("train", data.train, data.train_target),
        ("dev", data.dev, data.dev_target),
    ):
        if target is not None and file is None:
            raise UsageError(
                f"data.{name}_target={target} needs the file beside it: data.{name}"
            )
    if data.train_target and data.dev and not data.dev_target:
        raise UsageError(
            f"data.dev={data.dev} needs the file of answers beside it: set data.dev_target=FILE"
        )
    if data.train_target and recipe.task and not task_class(recipe.task).reads_pairs:
        raise UsageError(
            f"data.train_target is for task={' or '.join(PAIRS)}, not for {recipe.task}"
        )


def schema_of(data: Data, recipe: Recipe) -> Schema:
    """Return the task and columns of a file."""
    if isinstance(data, Table):
        return infer(data, column_hints(recipe))
    kind = task_class(recipe.task or DOCUMENT.task)
    if not kind.reads_documents:
        raise DataError(
            f"task={recipe.task} needs a table, and this is one plain text; give a csv, tsv or "
            "jsonl file" + (ALIGNED if kind.reads_pairs else ""),
            data.path,
        )
    return DOCUMENT
