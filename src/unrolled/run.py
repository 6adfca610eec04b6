"""The Python API: ``train`` a recipe or a file, ``load`` a run, and use it."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from unrolled.checks import quick
from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.core.files import path_of
from unrolled.core.locks import locked
from unrolled.core.terminal import clean
from unrolled.core.words import either, option
from unrolled.data.aligned import read_aligned
from unrolled.data.schema import Schema
from unrolled.data.series import WindowSpec
from unrolled.data.sources import Document, Table, read
from unrolled.decoding.sampling import Sampling
from unrolled.decoding.settings import Search
from unrolled.export import export
from unrolled.insight.summary import finish
from unrolled.models import Unaligned
from unrolled.tasks import folder as runs
from unrolled.tasks import recipe as recipes
from unrolled.tasks.base import Evaluation, OutputConstraints, Prediction, Task
from unrolled.tasks.labelled import need_table
from unrolled.tasks.language import Language
from unrolled.tasks.pairs import Pairs, pair_of
from unrolled.tasks.plan import finished_as_asked, folder_of, make_plan
from unrolled.tasks.prepare import wanted
from unrolled.tasks.recipe import Recipe, deep, flat, merge, resolve
from unrolled.tasks.rows import cells_of, rows_of
from unrolled.tasks.series import answer_steps, sequences
from unrolled.tasks.translate import Translate
from unrolled.training.loop import fit
from unrolled.training.parallel import ProcessGroup, joined
from unrolled.training.precision import callers_state_kept, choose, torch_defaults
from unrolled.training.progress import Progress

Say = Callable[[str], None]
MOST = 2**63 - 1  # what torch counts and seeds with


class Run:
    """A trained model with its fields: predict, evaluate, generate.

    Attributes:
        folder: where the run is kept.
        recipe: its resolved settings.
        task: its fields and scores.
        model: the torch module, in evaluation mode.
        result: dev scores, baselines, sizes and times.
    """

    def __init__(self, loaded: runs.Loaded, device: str = "auto") -> None:
        self.folder = loaded.folder
        self.recipe = loaded.recipe
        self.task = loaded.task
        self.result = loaded.result
        precision = "fp32" if self.recipe.training.precision == "fp32" else "auto"
        self.place = choose(device, precision)
        self.model: nn.Module = loaded.model.to(self.place.device)
        self.task.answer_by(self.recipe)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, task={self.task.name}, layer={self.recipe.layer})"

    @torch_defaults()
    def answers(self, rows: Iterable[Any]) -> list[Prediction]:
        """Answer rows with probabilities and details.

        Args:
            rows: each a text, a row as the data file writes it, a sequence of the input cells, or
                a mapping of column names to cells; for a sequence of numbers a list of its steps,
                each a list of the columns' numbers. A text or a mapping by itself is one row, and
                a table of pandas or polars has as many as its own. What names its cells, as a
                named tuple or a row of such a table does, is read by the names.

        Raises:
            UserError: a row does not fit the columns the run was trained on.
        """
        if isinstance(self.task, Language):
            raise UsageError(use_generate())
        cells = [self.cells(row) for row in rows_of(rows)]
        return self.task.predict(self.model, cells, self.place) if cells else []

    def adjust(
        self,
        *,
        begin: str = "",
        banned: Sequence[str] = (),
        required: Sequence[str] = (),
        alignment: bool = False,
        **decoding: Any,
    ) -> None:
        """Search for answers otherwise from now on, with a model that writes texts.

        Args:
            begin: what every answer begins with.
            banned, required: words or phrases that no answer holds, or that every one holds.
            alignment: tell in ``details`` which word of the source each word was written for.
            decoding: keys under ``decoding``, such as ``beam=1``, ``n_best=5`` or
                ``**{"sampling.temperature": 0.7}``.

        Raises:
            UsageError: the task does not search, a key is unknown or a value does not fit.
        """
        # all at once or not at all, and no answer that another thread searches for is changed
        task = copy.copy(self.task)
        if not task.writes:
            raise UsageError(
                f"a run that was trained to {task.name} searches for no answers"
            )
        told = self.recipe.changed(decoding=self._decoding(decoding))
        if not isinstance(begin, str):
            raise UsageError(f"begin is {shown(begin)}; give a text")
        words = tuple(several("banned", banned)), tuple(several("required", required))
        task.ask(self.model, OutputConstraints(alignment, begin, *words))
        task.answer_by(told)
        self.task = task
        self.recipe = told

    def _decoding(self, changes: Mapping[str, Any]) -> Search:
        told = flat(self.recipe.decoding.model_dump()) | flat(changes)
        return Search.read(deep(told), "decoding")

    def predict(self, rows: Iterable[Any]) -> list[str]:
        """Return the answer to each row; see ``answers`` for what rows can be."""
        return [answer.text for answer in self.answers(rows)]

    def cells(self, row: Any) -> tuple[Any, ...]:
        """Return the input cells of one row, in whichever form it was given."""
        return cells_of(row, self.task, self.recipe.data.max_row)

    @torch_defaults()
    def answers_by_line(
        self, table: Table, told: Recipe, schema: Schema
    ) -> tuple[dict[int, Prediction], list[DataError]]:
        """Answer every row of a table whose rows are steps of sequences.

        Args:
            table: the rows.
            told, schema: how they are read; see ``reading``.

        Returns:
            Answers by the line of their step, and the faulty rows that were left out.

        Raises:
            DataError: a row is faulty, or no column tells the sequences apart as in training.
        """
        skip = told.data.on_error == "skip"
        how = self._held(told)
        return answer_steps(self.task, self.model, table, schema, how, skip, self.place)

    def _held(self, told: Recipe) -> WindowSpec:
        """Return how a file holds sequences: as in training, their column named anew."""
        how: WindowSpec = self.task.inputs.reading  # type: ignore[attr-defined]
        return replace(how, sequence=told.data.sequence)

    def reading(self, changes: Mapping[str, Any]) -> tuple[Recipe, Schema]:
        """Return the settings and columns by which another file is read.

        Raises:
            UsageError: a key that is not under ``data``, or one that says what is read of a
                sequence: a run is what it was trained as.
        """
        given = flat(changes)
        other = next((key for key in given if not key.startswith("data.")), None)
        if other is not None:
            raise UsageError(
                f"{other} cannot change in a trained run; only keys under data can"
            )
        told = (
            Recipe.read(merge(self.recipe.model_dump(), given))
            if given
            else self.recipe
        )
        trained = self.task.schema
        named = wanted(told)
        refuse_other_steps(self.recipe, told, trained.steps)
        schema = Schema(
            self.task.name,
            named.text or trained.text,
            named.numbers or trained.numbers,
            named.label or trained.answer,
        )
        return told, schema

    @torch_defaults()
    def evaluation(
        self,
        data: str | Path,
        changes: Mapping[str, Any],
        notice: Say = lambda text: None,
        target: str | Path | None = None,
    ) -> Evaluation:
        """Score the run on a file; see ``evaluate``, whose changes stand in a mapping here."""
        given = flat(changes)
        search = {
            key: value for key, value in given.items() if key.startswith("decoding.")
        }
        told, schema = self.reading(
            {key: v for key, v in given.items() if key not in search}
        )
        if search and not self.task.writes:
            raise UsageError(f"{next(iter(search))} is for runs that write texts")
        # how much was trained on says nothing of how much is scored
        limit = told.data.limit if "data.limit" in given else None
        found = self._scored(data, target, told, schema, limit)
        if self.task.schema.steps:
            skip = told.data.on_error == "skip"
            output = self.task.output  # type: ignore[attr-defined]
            found = sequences(
                need_table(found),
                schema,
                self._held(told),
                self.task.columns,
                skip,
                output,
            )
        examples, skipped = self.task.encode(found, told.data.on_error, schema)
        if skipped:
            notice(f"skipped {len(skipped):,} faulty rows; the first: {skipped[0]}")
        decoding = self._decoding(
            {key.partition(".")[2]: v for key, v in search.items()}
        )
        # of its own: other threads may answer meanwhile, as the run is set
        task = copy.copy(self.task)
        task.answer_by(told.changed(decoding=decoding))
        with torch.no_grad():
            scored = task.evaluate(self.model, examples, self.place)
        if not all(map(math.isfinite, scored.scores.values())):
            raise UserError(
                f"{data}: the scores are no numbers: a row, or a weight, is out of bounds"
            )
        return scored

    def _scored(
        self,
        data: str | Path,
        target: str | Path | None,
        told: Recipe,
        schema: Schema,
        limit: int | None,
    ) -> Table | Document:
        """Read what is scored: a file, or two whose lines stand beside each other."""
        path = recipes.find_data(told, str(path_of(data, "data")))
        encoding = told.data.encoding
        on_error = told.data.on_error
        if target is not None:
            if not isinstance(self.task, Pairs):
                raise UsageError(
                    f"a target file is for pairs of texts, not for {self.task.name}"
                )
            beside = recipes.find_data(told, str(path_of(target, "target")))
            return read_aligned(
                path,
                beside,
                encoding=encoding,
                on_error=on_error,
                limit=limit,
                columns=pair_of(schema),
                max_row=told.data.max_row,
            )
        most = told.data.max_row
        found = read(
            path, encoding=encoding, on_error=on_error, limit=limit, max_row=most
        )
        if isinstance(found, Document) and isinstance(self.task, Pairs):
            raise DataError(
                "this is one plain text; give the file whose lines are its answers too: "
                + either("--target FILE", "target=FILE"),
                path,
            )
        return found

    def evaluate(
        self,
        data: str | Path,
        *,
        target: str | Path | None = None,
        notice: Say = lambda text: None,
        **changes: Any,
    ) -> dict[str, float]:
        """Return the scores on a file.

        Args:
            data: a file with the same fields as the training data.
            target: of pairs of texts the file whose lines are the answers to those of ``data``.
            notice: called with a sentence when rows were skipped.
            changes: keys under ``data`` for this file, such as ``**{"data.label": "stars"}``.

        Raises:
            DataError: a column is missing or a row is faulty.
        """
        return self.evaluation(data, changes, notice, target).scores

    def stream(
        self,
        prompt: str = "",
        max_new_tokens: int = 200,
        *,
        seed: int | None = None,
        stop: Sequence[str] = (),
        notice: Say = lambda text: None,
        **sampling: Any,
    ) -> Iterator[str]:
        """Yield text that goes on from a prompt as it is made; see ``generate``."""
        if not isinstance(self.task, Language):
            predict = either("`unrolled predict`", "run.predict(rows)")
            raise UsageError(
                f"this run was trained to {self.task.name}: use {predict}; text is generated by a "
                "run with task=language"
            )
        if not isinstance(prompt, str):
            raise UsageError(f"prompt is {shown(prompt)}; give a text")
        whole("max_new_tokens", max_new_tokens, MOST)
        if seed is not None:
            whole("seed", seed, MOST)
        chosen = Sampling.read(sampling)
        pieces = self.task.generate(
            self.model,
            prompt,
            max_new_tokens,
            chosen,
            seed=seed,
            stop=several("stop", stop),
            device=self.place.device,
            notice=notice,
        )
        while True:
            # entered anew for each piece: the caller's own code runs between them
            with torch_defaults(), self.place.autocast():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def generate(
        self, prompt: str = "", max_new_tokens: int = 200, **options: Any
    ) -> str:
        """Return text that goes on from a prompt.

        Args:
            prompt: what stands before; empty starts a new text.
            max_new_tokens: the most tokens written.
            options: ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``,
                ``seed``, ``stop`` (a list of strings).
        """
        return "".join(self.stream(prompt, max_new_tokens, **options))

    def export(self, to: str, out: str | Path | None = None, say: Say = print) -> Path:
        """Write the model in another program's format, once it was seen to say the same there.

        Args:
            to: ``ctranslate2``.
            out: the folder to make; ``export/<to>`` in that of the run by default.
            say: takes the lines that tell how far the two are apart, and what was written.

        Returns:
            The folder.

        Raises:
            UserError: the format has no such model, the folder is there already, or what was
                written says something else and was removed.
        """
        if not isinstance(self.task, Pairs):
            raise UsageError(
                f"{self.task.name} has no export; translate and rewrite have"
            )
        folder = (
            self.folder / "export" / to if out is None else path_of(out, option("out"))
        )
        model = (
            copy.deepcopy(self.model).cpu()
            if self.place.device.type != "cpu"
            else self.model
        )
        source = self.task.inputs.tokenizer
        target = self.task.output.tokenizer
        export(to, cast(Unaligned, model), source, target, folder, say)
        return folder


def compare(
    task: Task, first: Evaluation, second: Evaluation, names: tuple[str, str]
) -> list[str]:
    """Tell in lines whether two runs differ on the same file by more than chance.

    Raises:
        UsageError: the task has no such test.
    """
    if (
        not isinstance(task, Translate)
        or first.written is None
        or second.written is None
    ):
        raise UsageError(
            "runs are compared in translation; see the scores of each for the rest"
        )
    lines = []
    for found in task.compare(first.written, second.written).values():
        lines += [f"{names[0]}: {found.first}", f"{names[1]}: {found.second}"]
        alike = found.first.value == found.second.value
        lines.append(
            "no difference" if alike else f"p = {found.p:.4f} by paired bootstrap"
        )
    return lines


def refuse_other_steps(trained: Recipe, told: Recipe, steps: bool) -> None:
    """Raise UsageError for keys by which a run would read other sequences than it was trained on.

    ``steps`` is whether the rows it was trained on are steps.
    """
    was = trained.data
    now = told.data
    other = [
        k
        for k in ("window", "ahead", "difference")
        if getattr(now, k) != getattr(was, k)
    ]
    if now.rows not in (was.rows, "steps" if steps else "examples"):
        other.append("rows")
    if now.sequence != was.sequence and not steps:
        other.append("sequence")
    if other:
        raise UsageError(
            f"data.{other[0]} cannot change in a trained run, where it is "
            f"{json.dumps(getattr(was, other[0]))}; train another run with it"
        )


def use_generate() -> str:
    """Return what to say of rows that a language model is to answer."""
    call = either("`unrolled generate RUN --prompt TEXT`", "run.generate(prompt)")
    return f"this run is a language model: use {call}"


def several(name: str, words: Any) -> list[str]:
    """Return words as a list, one by itself too, which is no list of its letters.

    Raises:
        UsageError: they are no texts; ``name`` is the argument.
    """
    found = [words] if isinstance(words, str) else words
    if not isinstance(found, Iterable):
        raise UsageError(f"{name} is {shown(words)}; give a text, or a list of them")
    found = list(found)
    if not all(isinstance(word, str) for word in found):
        raise UsageError(f"{name} is {shown(words)}; give a text, or a list of them")
    return found


def whole(name: str, value: Any, most: int) -> None:
    """Raise UsageError for an argument that is no whole number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise UsageError(
            f"{name} is {shown(value)}; give a whole number from 0 to {most}"
        )


def load(
    folder: str | Path,
    device: str = "auto",
    weights: str = "best",
    *,
    result: bool = True,
) -> Run:
    """Return the run in a folder.

    Args:
        folder: the run folder.
        device: ``auto``, ``cpu``, ``cuda`` ...
        weights: ``best``, or ``last`` for those of the newest checkpoint.
        result: read ``result.json`` too; answers need nothing of it, so that a damaged one need
            not stop them.

    Raises:
        UserError: there is no run, it has no weights yet, or it was damaged.
    """
    if weights not in ("best", "last"):
        raise UsageError(f"weights={shown(weights)}: say best or last")
    with callers_state_kept():
        return Run(runs.load(path_of(folder, "folder"), weights, result), device)


def train(
    target: str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    say: Say = print,
    quiet: bool = False,
    **changes: Any,
) -> Run:
    """Train a recipe or a data file and return the run.

    torch's random state and number of threads are the caller's again afterwards.

    Args:
        target: the name of a recipe, a YAML file, a data file, or the folder of a run to resume.
        out: folder of the run; ``runs/<name>`` by default.
        resume: go on from the newest checkpoint; a finished run is left as it is.
        seed: short for the key ``seed``.
        say: takes each line about data and result.
        quiet: no progress on standard error.
        changes: keys of the recipe: ``layer="lstm"``, ``model={"hidden": 64}`` or
            ``**{"model.hidden": 64}``.

    Raises:
        UserError: a file, a key or a value is wrong; the message says what to do.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    if out is not None:
        path_of(out, option("out"))
    return start(
        path_of(target, "target"), flat(changes), out, resume, seed, say, quiet
    )


def start(
    target: str | Path,
    changes: Mapping[str, Any],
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    say: Say = print,
    quiet: bool = False,
) -> Run:
    """Train as ``train`` does, with dotted keys in a mapping, where none can be mistaken."""
    with callers_state_kept(), joined() as world:
        told = dict(changes) if seed is None else {**changes, "seed": seed}
        unheard: list[Exception] = []

        def heard(line: str) -> None:
            try:
                say(clean(line))
            except (OSError, ValueError) as error:
                if say is not print:
                    raise  # the caller's own
                unheard.append(
                    error
                )  # what cannot be printed ends no training, but is told

        hearing = heard if world.first else lambda line: None
        run = _start(
            world, str(target), told, out, resume, hearing, quiet or not world.first
        )
        if unheard:
            raise unheard[0]
        return run


def _start(
    world: ProcessGroup,
    target: str,
    told: dict[str, Any],
    out: str | Path | None,
    resume: bool,
    say: Say,
    quiet: bool,
) -> Run:
    recipe = resolve(target, told, resume)
    where = folder_of(target, recipe, out)
    ended = finished_as_asked(recipe, where) if resume else ""
    if ended:
        say(f"{where} is finished: {ended}")
        return load(where, recipe.training.device)
    plan = make_plan(target, told, out, resume)
    if plan.finished:
        say(f"{plan.folder} is finished: {plan.finished}")
        return load(plan.folder, plan.recipe.training.device)
    for line in [*plan.lines(), *([] if resume or not world.first else quick(plan))]:
        say(line)
    say("")
    world.barrier()  # each looks whether there is a run before the first one begins it
    with locked(plan.folder) if world.first else contextlib.nullcontext() as lock:
        if not resume and world.first:
            runs.claim(
                plan.folder
            )  # begun by another process while this one read the data
        with Progress(quiet) as progress:
            at = fit(plan.job(progress, lock.is_held if lock else lambda: True), resume)
        if world.first:
            finish(plan, at, say)
    world.barrier()  # the first one still replaced files, which nobody is to read meanwhile
    return load(plan.folder, plan.recipe.training.device)
