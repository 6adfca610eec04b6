"""The Python API: ``train`` a recipe or a file, ``load`` a run, and use it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError
from unrolled.core.files import write_json, write_text
from unrolled.data.schema import Schema
from unrolled.data.sources import parse_row, read
from unrolled.decoding.sampling import Sampling
from unrolled.insight import card, report
from unrolled.tasks import folder as runs
from unrolled.tasks import recipe as recipes
from unrolled.tasks.base import Answer, Evaluation, Task
from unrolled.tasks.baselines import Baseline, baselines, best
from unrolled.tasks.language import Language
from unrolled.tasks.prepare import Prepared, prepare, wanted
from unrolled.tasks.recipe import Recipe, changed_keys, flat, resolve
from unrolled.training import checkpoints
from unrolled.training.loop import Job, Position, fit, planned_steps
from unrolled.training.precision import Place, choose
from unrolled.training.progress import Progress, duration
from unrolled.training.settings import LIMITS

Say = Callable[[str], None]


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
        self.folder, self.recipe, self.task = loaded.folder, loaded.recipe, loaded.task
        self.result = loaded.result
        precision = "fp32" if self.recipe.training.precision == "fp32" else "auto"
        self.place = choose(device, precision)
        self.model: nn.Module = loaded.model.to(self.place.device)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, task={self.task.name}, layer={self.recipe.layer})"

    def answers(self, rows: Iterable[Any]) -> list[Answer]:
        """Answer rows with probabilities and details.

        Args:
            rows: each a text, a row as the data file writes it, a sequence of the input cells, or
                a mapping of column names to cells.

        Raises:
            UserError: a row does not fit the columns the run was trained on.
        """
        cells = [self.cells(row) for row in rows]
        return self.task.predict(self.model, cells, self.place) if cells else []

    def predict(self, rows: Iterable[Any]) -> list[str]:
        """Return the answer to each row; see ``answers`` for what a row can be."""
        return [answer.text for answer in self.answers(rows)]

    def cells(self, row: Any) -> tuple[Any, ...]:
        """Return the input cells of one row, in whichever form it was given."""
        names = self.task.schema.inputs
        if isinstance(row, dict):
            missing = [name for name in names if name not in row]
            if missing:
                raise UserError(f"{row!r} has no {missing[0]!r}; expected {', '.join(names)}")
            return tuple(row[name] for name in names)
        if not isinstance(row, str):
            found = tuple(row)
            if len(found) != len(names):
                raise UserError(f"{row!r} has {len(found)} cells; expected {', '.join(names)}")
            return found
        return parse_cells(row, self.task)

    def evaluation(self, data: str | Path, **changes: Any) -> Evaluation:
        """Score the run on a file that holds the same fields; see ``evaluate``."""
        told = self.recipe
        if changes:
            told = resolve(str(self.folder), flat(changes))
        path = recipes.find_data(told, str(data))
        found = read(
            path, encoding=told.data.encoding, on_error=told.data.on_error, limit=told.data.limit
        )
        trained, named = self.task.schema, wanted(told)
        schema = Schema(
            self.task.name,
            named.text or trained.text,
            named.numbers or trained.numbers,
            named.label or trained.answer,
        )
        examples, _ = self.task.encode(found, told.data.on_error, schema)
        with torch.no_grad():
            return self.task.evaluate(self.model, examples, self.place)

    def evaluate(self, data: str | Path, **changes: Any) -> dict[str, float]:
        """Return the scores on a file.

        Args:
            data: a file with the same fields as the training data.
            changes: keys under ``data`` for this file, such as ``**{"data.label": "stars"}``.

        Raises:
            DataError: a column is missing or a row is faulty.
        """
        return self.evaluation(data, **changes).scores

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
            raise UsageError(
                f"this run was trained to {self.task.name}: use `unrolled predict`; text is "
                "generated by a run with task=language"
            )
        chosen = Sampling.read(sampling)
        with self.place.autocast():
            yield from self.task.generate(
                self.model, prompt, max_new_tokens, chosen,
                seed=seed, stop=stop, device=self.place.device, notice=notice,
            )  # fmt: skip

    def generate(self, prompt: str = "", max_new_tokens: int = 200, **options: Any) -> str:
        """Return text that goes on from a prompt.

        Args:
            prompt: what stands before; empty starts a new text.
            max_new_tokens: the most tokens written.
            options: ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``,
                ``seed``, ``stop`` (a list of strings).
        """
        return "".join(self.stream(prompt, max_new_tokens, **options))


def parse_cells(row: str, task: Task) -> tuple[Any, ...]:
    """Read a row as the data file writes it: a text by itself, or cells in the file's columns.

    Raises:
        UserError: the cells are too few or too many.
    """
    schema, columns = task.schema, task.columns
    names, is_object = schema.inputs, row.lstrip().startswith("{")
    if len(names) == 1 and schema.text and not (is_object and task.format.kind == "jsonl"):
        return (row,)
    cells = parse_row(row, task.format, columns)
    if task.format.kind == "jsonl":
        known = dict(zip(columns, cells, strict=True))
        return tuple(known[name] for name in names)
    for known_names in (names, columns, [name for name in columns if name != schema.answer]):
        if len(cells) == len(known_names):
            return tuple(cells[list(known_names).index(name)] for name in names)
    raise UserError(f"{row!r} has {len(cells)} cells; expected {len(names)}: {', '.join(names)}")


def load(folder: str | Path, device: str = "auto") -> Run:
    """Return the run in a folder.

    Raises:
        UserError: there is no run, it has no weights yet, or it was damaged.
    """
    return Run(runs.load(Path(folder)), device)


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
    """
    plan = make_plan(str(target), flat(changes), out, resume, seed)
    if plan.finished:
        say(f"{plan.folder} is finished: {plan.finished}")
        return load(plan.folder, plan.recipe.training.device)
    for line in plan.lines():
        say(line)
    say("")
    began = time.monotonic()
    with Progress(quiet) as progress:
        at = fit(plan.job(progress), resume)
    finish(plan, at, time.monotonic() - began, say)
    return load(plan.folder, plan.recipe.training.device)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is ready to start, or to go on."""

    target: str
    folder: Path
    recipe: Recipe
    prepared: Prepared
    model: nn.Module
    place: Place
    finished: str

    def lines(self) -> list[str]:
        """Say what was found and what will be trained."""
        size = sum(p.numel() for p in self.model.parameters())
        training = self.recipe.training
        limits = [f"{name} {getattr(training, name):g}" for name in LIMITS if getattr(training, name)]
        return [
            *self.prepared.found,
            f"model: layer={self.recipe.layer}, {size:,} parameters",
            f"computes on: {self.place.describe()}, {training.threads} threads",
            f"trains until: {', '.join(limits)}"
            + (f", or {training.patience} evaluations without progress" if training.patience else ""),
            f"run: {self.folder}",
        ]

    def job(self, progress: Progress) -> Job:
        """Return what the training loop needs, and write the folder's first files."""
        task, recipe, prepared = self.prepared.task, self.recipe, self.prepared
        runs.begin(self.folder, recipe, task, prepared.files)
        model = self.model.to(self.place.device)

        def evaluate(scored: nn.Module) -> dict[str, float]:
            return task.evaluate(scored, prepared.dev, self.place).scores

        return Job(
            model=model,
            objective=task.objective(recipe, model),
            source=task.source(prepared.train, recipe, model),
            settings=recipe.training,
            place=self.place,
            seed=recipe.seed,
            folder=self.folder / runs.CHECKPOINTS,
            metric=recipe.training.metric or task.metric,
            higher=(recipe.training.metric or task.metric) in ("accuracy", "macro_f1"),
            evaluate=evaluate,
            keep_best=lambda weights: runs.save_weights(self.folder, weights),
            progress=progress,
        )


def make_plan(
    target: str,
    changes: dict[str, Any],
    out: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
) -> Plan:
    """Resolve a recipe, read its data and build its model; nothing is written.

    Raises:
        UserError: the run exists and is not to be resumed, a key or a file is wrong, or a key or
            the data differ from those the run was begun with.
    """
    if seed is not None:
        changes = changes | {"seed": seed}
    recipe = resolve(target, changes)
    within = Path(target) if runs.is_run(Path(target)) else Path("runs") / recipe.name
    where = Path(out) if out is not None else within
    known = runs.is_run(where)
    if known and not resume:
        raise UserError(
            f"{where} holds a run already; go on with it: unrolled train {target} --out {where} "
            "--resume, or choose another --out"
        )
    saved = runs.read_recipe(where) if known else None
    task, files = runs.read_fields(where) if known else (None, {})
    recipe = settle(recipe, saved)
    torch.set_num_threads(recipe.training.threads or torch.get_num_threads())
    prepared = prepare(recipe, task)
    recipe = prepared.recipe
    if saved is not None:
        refuse_changes(where, saved, recipe, files, prepared.files)
    place = choose(recipe.training.device, recipe.training.precision)
    if recipe.training.precision == "auto":
        recipe = recipe.changed(training=recipe.training.changed(precision=place.precision))
        place = Place(place.device, place.precision, place.why)
    check_metric(recipe, prepared.task)
    torch.manual_seed(recipe.seed)
    model = prepared.task.build(recipe)
    finished = is_finished(where, recipe, prepared, model) if known else ""
    return Plan(target, where, recipe, prepared, model, place, finished)


def settle(recipe: Recipe, saved: Recipe | None) -> Recipe:
    """Fill what the machine decides: threads, and on resume what the run was begun with."""
    training = recipe.training
    threads = saved.training.threads if saved else torch.get_num_threads()
    values: dict[str, Any] = {"threads": training.threads or threads}
    if saved is not None and training.precision == "auto":
        values["precision"] = saved.training.precision
    if saved is not None and not training.bounded:
        values |= {name: getattr(saved.training, name) for name in LIMITS}
    # a copy keeps in mind which keys were set, and which are still to be chosen
    return recipe.model_copy(update={"training": training.model_copy(update=values)})


def refuse_changes(
    where: Path, saved: Recipe, recipe: Recipe, before: dict[str, str], now: dict[str, str]
) -> None:
    """Raise UserError when a key other than a limit, or the data, differ from the run's."""
    differing = changed_keys(saved, recipe)
    if differing:
        old, new = flat(saved.model_dump()), flat(recipe.model_dump())
        told = "; ".join(f"{key} was {old[key]!r} and is now {new[key]!r}" for key in differing)
        raise UserError(
            f"{where} cannot be resumed with other settings: {told}. Only limits "
            f"({', '.join('training.' + name for name in LIMITS)}) may change; for the rest choose "
            "another --out"
        )
    altered = [name for name in now if before.get(name) != now[name]]
    if altered:
        raise UserError(
            f"{where} cannot be resumed: {altered[0]} is not the file it was begun with; restore "
            "it, or choose another --out"
        )


def check_metric(recipe: Recipe, task: Task) -> None:
    """Raise UsageError for a metric that the task does not measure."""
    known = {
        "classify": ("accuracy", "macro_f1", "loss"),
        "tag": ("accuracy", "macro_f1", "loss"),
        "regress": ("mae", "rmse", "loss"),
        "language": ("loss", "perplexity", "bits_per_byte", "accuracy"),
    }[task.name]
    metric = recipe.training.metric
    if metric is not None and metric not in known:
        raise UsageError(f"training.metric={metric}: task={task.name} has {', '.join(known)}")


def is_finished(where: Path, recipe: Recipe, prepared: Prepared, model: nn.Module) -> str:
    """Return how a run ended when nothing is left to do, else an empty text."""
    result = runs.read_result(where)
    if not result:
        return ""
    if result["stopped"] != "limit":
        return f"{result['stopped']}"
    limits = recipe.training
    total = planned_steps(limits, prepared.task.source(prepared.train, recipe, model))
    by_time = limits.max_minutes is not None and result["seconds"] >= 60 * limits.max_minutes
    if by_time or (total is not None and result["steps"] >= total):
        return f"it reached its limit at step {result['steps']:,} (raise training.max_steps to go on)"
    return ""


def finish(plan: Plan, at: Position, seconds: float, say: Say) -> None:
    """Measure the best weights, compare them with the baselines, and write result and report."""
    run = load_unfinished(plan)
    task, dev = plan.prepared.task, plan.prepared.dev
    began = time.monotonic()
    with torch.no_grad():
        evaluation = task.evaluate(run.model, dev, run.place)
    per_row = 1000 * (time.monotonic() - began) / max(1, len(dev))
    found = baselines(plan.prepared)
    samples = sample_texts(run) if isinstance(task, Language) else []
    result = {
        "task": task.name,
        "layer": plan.recipe.layer,
        "scores": evaluation.scores,
        "baselines": [{"name": b.name, "scores": b.scores, "seconds": b.seconds} for b in found],
        "steps": at.step,
        "best_step": at.best_step or at.step,
        "stopped": at.stopped,
        "seconds": at.seconds,
        "tokens": at.tokens,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "megabytes": (plan.folder / runs.MODEL).stat().st_size / 1e6,
        "milliseconds_a_row": per_row,
        "held_out_rows": len(dev),
        "precision": plan.place.precision,
        "device": str(plan.place.device),
        "threads": plan.recipe.training.threads,
        "found": plan.prepared.found,
        "samples": samples,
    }
    write_text(plan.folder / "README.md", card.render(plan.recipe, task, result))
    page = report.render(plan.folder, plan.recipe, task, result, evaluation)
    write_text(plan.folder / "report.html", page)
    # last: its presence says that the run has ended
    write_json(plan.folder / runs.RESULT, result)
    for line in summary(plan, result, found):
        say(line)


def load_unfinished(plan: Plan) -> Run:
    """Return the run with its best weights."""
    return Run(runs.load(plan.folder), plan.recipe.training.device)


def sample_texts(run: Run) -> list[str]:
    """Return a few texts the model writes, for the report."""
    return [run.generate("", 300, seed=number, temperature=0.8) for number in range(3)]


def summary(plan: Plan, result: dict[str, Any], found: list[Baseline]) -> list[str]:
    """Return the lines that close a training: scores, baselines, what to type next."""
    task, metric = plan.prepared.task, plan.prepared.task.metric
    trained = duration(result["seconds"])
    lines = [
        f"trained {result['steps']:,} steps in {trained}; best at step {result['best_step']:,} "
        f"({result['stopped']})",
        "",
        f"held out: {result['held_out_rows']:,} {'tokens' if task.name == 'language' else 'rows'}",
    ]
    rows = [(f"this model ({plan.recipe.layer})", result["scores"])]
    rows += [(b.name, b.scores) for b in found]
    width = max(len(name) for name, _ in rows)
    for name, scores in rows:
        shown = "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
        lines.append(f"  {name:<{width}}  {shown}")
    strongest = best(found, task)
    if strongest is not None:
        ours, theirs = result["scores"][metric], strongest.scores[metric]
        if (theirs >= ours) if task.higher else (theirs <= ours):
            lines.append(
                f"The baseline wins: {strongest.name} has {metric} {theirs:.4f}, this model "
                f"{ours:.4f}. Train longer, or use the baseline."
            )
    return [*lines, "", f"report: {plan.folder / 'report.html'}", "next:", *next_commands(plan)]


def next_commands(plan: Plan) -> list[str]:
    """Return three commands to type next."""
    where, task = plan.folder, plan.prepared.task
    if task.name == "language":
        return [
            f'  unrolled generate {where} --prompt "..." --temperature 0.8',
            f"  unrolled evaluate {where} FILE",
            f"  unrolled train {plan.target} layer={other_layer(plan)} --out {where}-{other_layer(plan)}",
        ]
    row = example_row(plan)
    return [
        f"  unrolled predict {where} {row}",
        f"  unrolled predict {where} --file FILE -o answers.csv",
        f"  unrolled train {plan.target} layer={other_layer(plan)} --out {where}-{other_layer(plan)}",
    ]


def other_layer(plan: Plan) -> str:
    """Return a layer to compare with."""
    if plan.prepared.task.schema.numbers:
        return "lstm" if plan.recipe.layer == "none" else "none"
    return "gru" if plan.recipe.layer != "gru" else "lstm"


def example_row(plan: Plan) -> str:
    """Return a held-out row, quoted for a shell."""
    import shlex

    data, schema = plan.prepared.dev_data, plan.prepared.task.schema
    rows = getattr(data, "rows", [])
    with contextlib.suppress(ValueError, IndexError):
        cells = [rows[0][data.columns.index(name)] for name in schema.inputs]  # type: ignore[union-attr]
        words = [" ".join(c) if isinstance(c, list) else str(c) for c in cells]
        return shlex.quote(", ".join(words)[:60])
    return '"..."'
