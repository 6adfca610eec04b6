"""The Python API: ``train`` a recipe or a file, ``load`` a run, and use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unrolled.checks import quick
from unrolled.core.errors import UsageError
from unrolled.core.files import path_of
from unrolled.core.words import either, option
from unrolled.insight.inside import Inside, inspect
from unrolled.insight.summary import finish
from unrolled.models import LanguageModel
from unrolled.runs import folder as runs
from unrolled.runs import generate
from unrolled.runs.evaluate import adjusted, evaluate
from unrolled.runs.exporting import export_model
from unrolled.runs.file_predictions import FilePredictions, predict_file
from unrolled.runs.file_reading import read_as
from unrolled.runs.keys import flat
from unrolled.runs.plan import Request
from unrolled.runs.predictor import KeptStepper, Predictor
from unrolled.runs.published import is_published, open_published
from unrolled.runs.rewards import with_judge
from unrolled.runs.talking import Conversation
from unrolled.runs.train import Say, train_request
from unrolled.tasks.base import Prediction, TokenChoice
from unrolled.training.parallel import joined
from unrolled.training.precision import callers_state_kept

# of generated texts, beside those of sampling
OPTIONS = ("seed", "stop", "notice", "json_schema", "grammar", "draft", "precision")


class Run:
    """A trained model with its fields: predict, evaluate, generate.

    Attributes:
        folder: where the run is kept.
        recipe: its resolved settings.
        task: its fields and scores.
        model: the torch module, in evaluation mode.
        compute_device: where, and how precisely, it computes.
        result: dev scores, baselines, sizes and times.
        options: how texts are written; see ``adjust``.
    """

    def __init__(self, loaded: runs.Loaded, device: str = "auto") -> None:
        self.folder = loaded.folder
        self.recipe = loaded.recipe
        self.task = loaded.task
        self.result = loaded.result
        predictor = Predictor.of(loaded, device)
        self.model = predictor.model
        self.compute_device = predictor.compute_device
        self.options = predictor.options
        self._kept = KeptStepper()

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, task={self.task.name}, layer={self.recipe.layer})"

    @property
    def predictor(self) -> Predictor:
        """What answers rows, by the task, model and options of now: frozen, so one a thread."""
        most = self.recipe.data.max_row
        return Predictor(
            self.task,
            self.model,
            self.compute_device,
            most,
            self.options,
            self._kept,
        )

    def scorer(self, notice: Say = lambda text: None) -> Predictor:
        """Return what is scored: of an aligned model with what judged its answers in training."""
        return with_judge(self.predictor, self.recipe, self.folder, notice)

    def answers(self, rows: Iterable[Any]) -> list[Prediction]:
        """Answer rows with probabilities and details.

        Args:
            rows: each a text, a row as the data file writes it, a sequence of the input cells, or
                a mapping of column names to cells; for a sequence of numbers a list of its steps,
                each a list of the columns' numbers. A text or a mapping by itself is one row. A
                table of pandas or polars, its rows and named tuples are read by their names.

        Raises:
            UserError: a row does not fit the columns the run was trained on.
        """
        return self.predictor.predict(rows)

    def predict(self, rows: Iterable[Any]) -> list[str]:
        """Return the answer to each row; see ``answers`` for what rows can be."""
        return [prediction.text for prediction in self.answers(rows)]

    def predict_file(self, path: str | Path, /, **changes: Any) -> FilePredictions:
        """Answer every row of a file, as they are taken; see ``FilePredictions``.

        Args:
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
        options = adjusted(
            self.predictor, self.recipe, begin, banned, required, alignment, decoding
        )
        self.recipe = self.recipe.changed(decoding=options.search)
        self.options = options

    def evaluate(
        self,
        data: str | Path,
        *,
        target: str | Path | None = None,
        notice: Say = lambda text: None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Return the scores on a file; with ``data.by`` those by the values of a column, too.

        Args:
            data: a file with the same fields as the training data.
            target: of pairs of texts the file whose lines are the answers to those of ``data``.
            notice: called with a sentence when rows were skipped.
            changes: keys under ``data`` for this file, such as ``**{"data.label": "stars"}``.

        Raises:
            DataError: a column is missing or a row is faulty.
        """
        scorer = self.scorer(notice)
        scored = evaluate(scorer, self.recipe, data, changes, notice, target)
        return scored.document()

    def stream(
        self,
        prompt: str = "",
        max_new_tokens: int = 200,
        **options: Any,
    ) -> Iterator[str]:
        """Yield text that goes on from a prompt as it is made; see ``generate``."""
        given = _given(options)
        yield from generate.stream(
            self.predictor, prompt, max_new_tokens, options, **given
        )

    def generate(
        self, prompt: str = "", max_new_tokens: int = 200, **options: Any
    ) -> str:
        """Return text that goes on from a prompt.

        Args:
            prompt: what stands before; empty starts a new text.
            max_new_tokens: the most tokens written.
            options: those of ``Sampling``, such as ``top_p``; ``seed``; ``stop``, a list of texts;
                ``json_schema``, a dictionary or file that the text has to follow; ``grammar``, a
                file of one in Lark or GBNF; ``draft``, "ngram" or a smaller run over the same
                vocabulary, whose guesses are checked at once: the text stays as likely;
                ``precision`` of the weights that are read at every step: float32, bf16, int8, or
                for attention q8_0 or q4_0, GGUF's blocks.
        """
        return "".join(self.stream(prompt, max_new_tokens, **options))

    def chat(
        self,
        max_new_tokens: int = 256,
        notice: Callable[[str], None] = lambda text: None,
        **options: Any,
    ) -> Conversation:
        """Return a talk with a run of ``task=chat``: ``say`` yields answers as they are made.

        Args:
            max_new_tokens: the most tokens of an answer.
            notice: called with a sentence where the oldest turns no longer fit.
            options: how answers are drawn; those of ``Sampling``, and ``seed``.

        Raises:
            UsageError: the run was trained to something else.
        """
        return Conversation(self.predictor, max_new_tokens, options, notice)

    def texts(
        self, prompts: Sequence[str], max_new_tokens: int = 200, **options: Any
    ) -> list[str]:
        """Return a text that goes on from each of some prompts, written side by side.

        Text i is that of ``generate`` with the seed + i, whatever is written beside it; through
        torch, where the native core has no step, up to rounding.

        Args:
            prompts: what stands before each; the same one may be given again and again.
            max_new_tokens: the most tokens written of each.
            options: see ``generate``; ``draft`` is for one text at a time.
        """
        given = _given(options)
        if "draft" in given:
            raise UsageError("a draft is for one text at a time; leave it out")
        return generate.texts(self.predictor, prompts, max_new_tokens, options, **given)

    def choices(
        self, prompt: str = "", max_new_tokens: int = 200, **options: Any
    ) -> tuple[str, list[TokenChoice]]:
        """Return text that goes on from a prompt, and its tokens with what else was likely.

        Args:
            prompt, max_new_tokens, options: see ``generate``.
        """
        given = _given(options)
        return generate.with_choices(
            self.predictor, prompt, max_new_tokens, options, **given
        )

    def describe(self) -> dict[str, Any]:
        """Return what the model is: ``family``, ``parameters``, ``context`` and ``vocabulary``.

        The family is the architecture of another program's checkpoint, else the layer; the context
        is the positions that can be read, None without limit; vocabulary the tokens that are
        scored, None where none are.
        """
        vocabulary: int | None = None
        if isinstance(self.model, LanguageModel):
            vocabulary = self.model.head.out_features
        return {
            "family": self.result.get("family", self.recipe.layer),
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "context": getattr(self.model, "context", None),
            "vocabulary": vocabulary,
        }

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return a language model's scores of the token after each of some.

        Args:
            ids: tokens, read as they are: nothing is put before them.

        Returns:
            (T, V) in fp32, on the CPU.

        Raises:
            UsageError: the run is no language model, or ids are none, too many, or unknown to it.
        """
        return generate.logits(self.predictor, ids)

    def inspect(
        self,
        *inputs: Any,
        hold: Sequence[str] = (),
        units: Sequence[int] | None = None,
        at: int | None = None,
        language: str = "auto",
    ) -> Inside:
        """Look inside the model while it reads some inputs; see ``insight.inside.inspect``.

        Args:
            inputs: texts, or rows in any form that ``predict`` takes.
            hold: gates and units that are held, such as ``forget=0`` or ``unit:17=1.0``.
            units: which units of each layer are shown.
            at: the step whose output is explained, from 1.
            language: of the page: ``auto``, ``en`` or ``ko``.
        """
        title = f"{self.recipe.name}: {self.task.name}, {self.recipe.layer}"
        return inspect(
            self.predictor,
            inputs,
            self.result,
            hold=hold,
            units=units,
            at=at,
            title=title,
            language=language,
        )

    def export(self, to: str, out: str | Path | None = None, say: Say = print) -> Path:
        """Write the model in another program's format into a folder, and return the folder.

        Args:
            to: ``hf`` (language models over attention of a published kind, for transformers),
                ``gguf`` (the same for llama.cpp),
                ``onnx`` (any layer; labels, values, tags and language models, for ONNX Runtime) or
                ``ctranslate2`` (texts written from texts over attention).
            out: the folder to make; ``export/<to>`` in that of the run by default.
            say: takes the lines that tell how far the two are apart, and what was written.

        Raises:
            UsageError: there is no such format, or no folder to write into.
            UserError: the format has no such model, the folder is there, or the two disagree.
        """
        if out is not None:
            folder = path_of(out, option("out"))
        elif self.folder.is_dir():
            folder = self.folder / "export" / to
        else:
            output = either("-o", "out=")
            raise UsageError(f"{self.folder} is a file: name the folder with {output}")
        export_model(self.task, self.model, to, folder, say)
        return folder


def load(
    folder: str | Path,
    device: str = "auto",
    weights: str = "best",
    *,
    result: bool = True,
    tokenizer: str | Path | None = None,
) -> Run:
    """Return the run in a folder, or a checkpoint of another program as a run.

    Args:
        folder: the run folder; a folder of Hugging Face (``config.json``, safetensors) of the
            GPT-2, Llama, Mistral, Qwen2 or Qwen3 kind; a GGUF file of them; or a file of llama2.c.
        device: ``auto``, ``cpu``, ``cuda`` ...
        weights: ``best``, or ``last`` for those of the newest checkpoint.
        result: read ``result.json`` too, without which rows can be answered as well.
        tokenizer: the file of a vocabulary, for a checkpoint of another program; by default the
            one that stands beside it.

    Raises:
        UserError: there is no run, it has no weights yet, or it was damaged; a checkpoint is of an
            unknown kind, asks for code, or is not what its settings say.
    """
    path = path_of(folder, "folder")
    with callers_state_kept():
        if is_published(path):
            file = None
            if tokenizer is not None:
                file = path_of(tokenizer, option("tokenizer"))
            return Run(open_published(path, file), device)
        if tokenizer is not None:
            raise UsageError(
                f"{option('tokenizer')} is for checkpoints of other programs; a run has its own"
            )
        return Run(runs.load(path, weights, result), device)


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
    """Train a recipe or a data file and return the run; torch's state is the caller's again.

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
    path = path_of(target, "target")
    return start(path, flat(changes), out, resume, seed, say, quiet)


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
        return Run(loaded, request.recipe.training.device)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of texts out of those of sampling."""
    given = {name: options.pop(name) for name in OPTIONS if name in options}
    if isinstance(given.get("draft"), Run):
        given["draft"] = given["draft"].predictor
    return given
