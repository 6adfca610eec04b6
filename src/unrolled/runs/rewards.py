"""What judges the answers of a model that is aligned: a rule, a run, or a function of one's own."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError, shown, unknown
from unrolled.core.files import expanded
from unrolled.runs import folder as runs
from unrolled.runs.adapting import begin_adapted
from unrolled.runs.predictor import Predictor
from unrolled.runs.pretrained import Pretrained, located, origin_of, take
from unrolled.tasks.base import AnswerOptions, Prediction, Task
from unrolled.tasks.exchanges import VERIFIED, Exchange, Reward
from unrolled.tasks.recipe import Recipe

TOGETHER = 256  # answers that a run judges at once


@dataclass(frozen=True, slots=True)
class Alignment:
    """What judges answers, and the model that a training began with.

    Attributes:
        reward: what answers earn; None where nothing judges them.
        reference: returns the model; None where nothing is compared with it.
    """

    reward: Reward | None = None
    reference: Callable[[], nn.Module] | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, task: Task, folder: Path, runs_code: bool = False
    ) -> Alignment:
        """Return what a recipe says of it.

        Args:
            recipe: resolved.
            task: with its fields.
            folder: of the run.
            runs_code: whether a file of code may be run that the recipe names: not where it is read
                from a run folder, which may come from anybody.

        Raises:
            UserError: ``align.reward`` names nothing that judges.
        """
        align = recipe.align
        if align.reward is not None and is_code(align.reward) and not runs_code:
            raise UsageError(
                f"align.reward={align.reward} is code, which the settings of a run do not run; "
                "name it anew where the run is trained on"
            )
        reward = None if align.reward is None else open_reward(recipe, folder)
        if align.method == "none" and recipe.model.init is None:
            return cls(reward)
        begun = functools.cache(lambda: begun_as(recipe, task, folder))
        return cls(reward, begun)

    def added(self, options: AnswerOptions) -> AnswerOptions:
        """Return options with what judges."""
        return replace(options, reward=self.reward, reference=self.reference)


def with_judge(
    predictor: Predictor, recipe: Recipe, folder: Path, notice: Callable[[str], None]
) -> Predictor:
    """Return what answers as a run does, with what judges its answers where it was aligned.

    Args:
        predictor: of the run.
        recipe: of the run.
        folder: of the run.
        notice: called with a sentence where what judges is no longer there: answers are scored
            without it.
    """
    if recipe.align.method == "none":
        return predictor
    try:
        alignment = Alignment.of(recipe, predictor.task, folder)
        if alignment.reference is not None:
            alignment.reference()
    except UserError as error:
        notice(f"scored without what judged the answers: {error}")
        return predictor
    return replace(predictor, options=alignment.added(predictor.options))


def begun_as(recipe: Recipe, task: Task, folder: Path) -> nn.Module:
    """Return the model that a training of a recipe begins with, which learns nothing.

    Raises:
        UserError: the run that it begins with is not there, or was changed since.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        model = task.build(recipe)
        init = recipe.model.init
        if init is not None:
            pretrained = Pretrained.open(init, origin_of(recipe), folder)
            _refuse_changed(folder, pretrained)
            take(pretrained, model, task)
            begin_adapted(model, recipe, folder)
    finally:
        torch.set_rng_state(generator_state)
    return model.eval().requires_grad_(False)


def _refuse_changed(folder: Path, pretrained: Pretrained) -> None:
    """Raise UserError where a run was begun with other weights than these."""
    if not runs.is_run(folder):
        return
    taken = runs.read_init(folder)
    if taken is not None and taken.get("digest") != pretrained.digest:
        raise UserError(
            f"model.init={pretrained.name}: these are no longer the weights that the run was begun "
            "with, and it is compared with those; restore them"
        )


# ---------------------------------------------------------------------- rewards


def is_code(name: str) -> bool:
    """Whether a reward is a function in a file of Python code."""
    file, _, _ = name.rpartition(":")
    return file.endswith(".py")


def open_reward(recipe: Recipe, folder: Path) -> Reward:
    """Return what ``align.reward`` names.

    Raises:
        UserError: there is no such run, file or function, or it judges nothing.
    """
    name = recipe.align.reward or ""
    if name in VERIFIED:
        return VERIFIED[name]
    if is_code(name):
        file, _, function = name.rpartition(":")
        return _own(expanded(file), function)
    path = _run_at(name, recipe, folder)
    loaded = runs.load(path, result=False)
    judge = getattr(loaded.task, "rewards_of", None)
    predictor = Predictor.of(loaded)
    if judge is not None:
        return functools.partial(_judged, predictor)
    labels = loaded.task.class_names
    schema = loaded.task.schema
    reads_text = schema.inputs == schema.text and len(schema.text) == 1
    answers = bool(labels) or loaded.task.answers_values
    if not (reads_text and answers and loaded.task.scored_unit == "rows"):
        raise UsageError(
            f"align.reward={name}: this run was trained to {loaded.task.name}; a run that judges "
            "answers (task=reward), classifies texts or gives them a value is needed"
        )
    label = recipe.align.label
    if labels and label is not None and label not in labels:
        raise UsageError(f"align.label: {unknown('label', label, labels)}")
    chosen = (label or labels[-1]) if labels else None
    return functools.partial(_classified, predictor, chosen)


def _run_at(name: str, recipe: Recipe, folder: Path) -> Path:
    """Return where a run stands that judges. Raises UsageError: there is none."""
    try:
        return located(name, begun=folder if runs.is_run(folder) else None)
    except UsageError as error:
        reason = str(error).replace("model.init", "align.reward")
        known = ", ".join(VERIFIED)
        raise UsageError(f"{reason} (or one of {known}, or FILE.py:FUNCTION)") from None


def _judged(predictor: Predictor, exchanges: Sequence[Exchange]) -> list[float]:
    """Return what a run that judges answers says of each."""
    task: Any = predictor.task
    rewards: list[float] = []
    for first in range(0, len(exchanges), TOGETHER):
        part = exchanges[first : first + TOGETHER]
        rewards += task.rewards_of(predictor.model, part, predictor.compute_device)
    return rewards


def _classified(
    predictor: Predictor, label: str | None, exchanges: Sequence[Exchange]
) -> list[float]:
    """Return the probability of a label, or the value, of each text."""
    rewards: list[float] = []
    for first in range(0, len(exchanges), TOGETHER):
        part = exchanges[first : first + TOGETHER]
        rows = [(exchange.text,) for exchange in part]
        predictions = predictor.predict_cells(rows)
        rewards += [_number_of(prediction, label) for prediction in predictions]
    return rewards


def _number_of(prediction: Prediction, label: str | None) -> float:
    if label is None:
        return float(prediction.details.get("value", prediction.text))
    probabilities = prediction.details.get("probabilities", prediction.details)
    return float(probabilities[label])


def _own(path: Path, function: str) -> Reward:
    """Return a function of somebody's own file. Raises UserError: it is not there, or fails."""
    if not path.is_file():
        raise UsageError(f"align.reward: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"unrolled_reward_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"{path}: it cannot be run ({type(error).__name__}: {error})"
        ) from None
    judge = getattr(module, function, None)
    if not callable(judge):
        raise UsageError(
            f"align.reward: {path} has no function {shown(function)}; it takes a list of exchanges "
            "(prompt, answer, reference) and returns a number for each"
        )

    def checked(exchanges: Sequence[Exchange]) -> list[float]:
        try:
            rewards = [float(value) for value in judge(exchanges)]
        except Exception as error:
            raise UserError(
                f"{path}: {function} failed ({type(error).__name__}: {error})"
            ) from None
        if len(rewards) != len(exchanges):
            raise UserError(
                f"{path}: {function} gave {len(rewards):,} rewards for {len(exchanges):,} answers"
            )
        if not all(map(math.isfinite, rewards)):
            raise UserError(f"{path}: {function} gave a reward that is not finite")
        return rewards

    return checked
