"""The Python API: ``train`` a recipe or a file, ``load`` a run, and use it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from unrolled.checks import quick
from unrolled.core.errors import UsageError, shown
from unrolled.core.files import path_of
from unrolled.core.words import option
from unrolled.decoding.sampling import Sampling
from unrolled.export import export
from unrolled.insight.summary import finish
from unrolled.models import Unaligned
from unrolled.runs import arguments
from unrolled.runs import folder as runs
from unrolled.runs.evaluate import changed_search, evaluate
from unrolled.runs.file_predictions import FilePredictions, predict_file
from unrolled.runs.file_reading import read_as
from unrolled.runs.keys import flat
from unrolled.runs.plan import Request
from unrolled.runs.predictor import Predictor
from unrolled.runs.train import Say, train_request
from unrolled.tasks.base import (
    AnswerOptions,
    Evaluation,
    OutputConstraints,
    Prediction,
)
from unrolled.training.parallel import joined
from unrolled.training.precision import callers_state_kept, choose, torch_defaults


class Run:
    """A trained model with its fields: predict, evaluate, generate.

    Attributes:
        folder: where the run is kept.
        recipe: its resolved settings.
        task: its fields and scores.
        model: the torch module, in evaluation mode.
        compute_device: where, and how precisely, it computes.
        result: dev scores, baselines, sizes and times.
        predictor: what answers rows.
    """

    def __init__(self, loaded: runs.Loaded, device: str = "auto") -> None:
        self.folder = loaded.folder
        self.recipe = loaded.recipe
        self.task = loaded.task
        self.result = loaded.result
        precision = "fp32" if self.recipe.training.precision == "fp32" else "auto"
        self.compute_device = choose(device, precision)
        self.model: nn.Module = loaded.model.to(self.compute_device.device)
        options = AnswerOptions.of(self.recipe)
        self.task.check_options(options, self.model)
        self.predictor = Predictor(
            self.task,
            self.model,
            self.compute_device,
            self.recipe.data.max_row,
            options,
        )

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, task={self.task.name}, layer={self.recipe.layer})"

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
        return self.predictor.predict(rows)

    def predict(self, rows: Iterable[Any]) -> list[str]:
        """Return the answer to each row; see ``answers`` for what rows can be."""
        return [prediction.text for prediction in self.answers(rows)]

    def predict_file(self, path: str | Path, **changes: Any) -> FilePredictions:
        """Answer every row of a file, as they are taken; see ``FilePredictions``.

        Args:
            path: a file with the columns that were trained on.
            changes: keys under ``data`` for this file, such as ``**{"data.text": "review"}``.
        """
        reading = read_as(self.recipe, self.task, changes)
        as_lines = "data.text" not in flat(changes)
        return predict_file(self.predictor, path_of(path, "path"), reading, as_lines)

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
        if not self.task.is_generative:
            raise UsageError(
                f"a run that was trained to {self.task.name} searches for no answers"
            )
        search = changed_search(self.recipe, decoding)
        if not isinstance(begin, str):
            raise UsageError(f"begin is {shown(begin)}; give a text")
        constraints = OutputConstraints(
            alignment,
            begin,
            tuple(arguments.texts("banned", banned)),
            tuple(arguments.texts("required", required)),
        )
        recipe = self.recipe.changed(decoding=search)
        options = AnswerOptions.of(recipe, constraints)
        self.task.check_options(options, self.model)
        # all at once or not at all, and no answer that another thread searches for is changed
        self.recipe = recipe
        self.predictor = replace(self.predictor, options=options)

    def evaluation(
        self,
        data: str | Path,
        changes: Mapping[str, Any],
        notice: Say = lambda text: None,
        target: str | Path | None = None,
    ) -> Evaluation:
        """Score the run on a file; see ``evaluate``, whose changes stand in a mapping here."""
        return evaluate(self.predictor, self.recipe, data, changes, notice, target)

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
        self.task.check_generates()
        if not isinstance(prompt, str):
            raise UsageError(f"prompt is {shown(prompt)}; give a text")
        arguments.whole("max_new_tokens", max_new_tokens)
        if seed is not None:
            arguments.whole("seed", seed)
        pieces = self.task.generate(
            self.model,
            prompt,
            max_new_tokens,
            Sampling.read(sampling),
            seed=seed,
            stop=arguments.texts("stop", stop),
            device=self.compute_device.device,
            notice=notice,
        )
        while True:
            # entered anew for each piece: the caller's own code runs between them
            with torch_defaults(), self.compute_device.autocast():
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
        source, target = self.task.vocabularies()
        folder = (
            self.folder / "export" / to if out is None else path_of(out, option("out"))
        )
        on_processor = self.compute_device.device.type == "cpu"
        model = self.model if on_processor else copy.deepcopy(self.model).cpu()
        export(to, cast(Unaligned, model), source, target, folder, say)
        return folder


def compare(
    run: Run, first: Evaluation, second: Evaluation, names: tuple[str, str]
) -> list[str]:
    """Tell in lines whether two runs differ on the same file by more than chance.

    Raises:
        UsageError: the task has no such test.
    """
    lines = []
    options = run.predictor.options
    for comparison in run.task.compare(first, second, options).values():
        lines.append(f"{names[0]}: {comparison.first}")
        lines.append(f"{names[1]}: {comparison.second}")
        alike = comparison.first.value == comparison.second.value
        chance = f"p = {comparison.p:.4f} by paired bootstrap"
        lines.append("no difference" if alike else chance)
    return lines


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
    given = dict(changes) if seed is None else {**changes, "seed": seed}
    with callers_state_kept(), joined() as group:
        request = Request.read(str(target), given, out, resume)
        loaded = train_request(group, request, say, quiet, quick, finish)
        return Run(loaded, loaded.recipe.training.device)
