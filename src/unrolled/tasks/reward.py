"""A model that judges answers: of two it says which is better, and of one what it is worth.

It reads a whole talk and gives a number; the difference of two is the log odds that the one is
preferred (Bradley and Terry 1952; Ouyang et al. 2022, equation 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import BatchSource, Buckets, by_length, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.talks import Talk, check_turns, question, talk_of, with_answer
from unrolled.scores.intervals import wilson
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    DefaultSettings,
    Evaluation,
    Method,
    Prediction,
    Rows,
    Scores,
    Split,
    Task,
)
from unrolled.tasks.chat import Chat
from unrolled.tasks.chat_alignment import PairBatches
from unrolled.tasks.chat_examples import ChatPairs, Steps
from unrolled.tasks.exchanges import Exchange
from unrolled.tasks.recipe import Recipe
from unrolled.text.turns import ASSISTANT, Turn
from unrolled.training.objectives import Objective
from unrolled.training.policies import ranks, worth
from unrolled.training.precision import ComputeDevice

TOGETHER = 64  # talks that are judged at once
DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": 512},
        "model": {
            "hidden": 128,
            "embedding": 128,
            "embedding_dropout": 0.3,
            "head_dropout": 0.3,
        },
        "training": {"batch_size": 16, "learning_rate": 1e-3, "patience": 3},
    },
    budget=60_000,
    tokenizer="unigram",
)


@dataclass(frozen=True, eq=False)
class RewardModel(Chat):
    """Talks with two answers, of which one is the better."""

    name: ClassVar[str] = "reward"
    metric: ClassVar[str] = "accuracy"
    is_generative: ClassVar[bool] = False
    answers_talks: ClassVar[bool] = False
    answers_values: ClassVar[bool] = True
    around: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[dict[str, bool]] = {
        "accuracy": UP,
        "accuracy_low": UP,
        "accuracy_high": UP,
        "loss": DOWN,
        "margin": UP,
    }

    @property
    def pattern(self) -> str:
        """One number for a whole talk."""
        return "many to one"

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        return DEFAULTS

    # ------------------------------------------------------------------ rows to examples

    def _encoded(self, talk: Talk, last: bool = False) -> Steps:
        """Return the tokens of a talk, of which none is to be written. Raises InvalidCell."""
        try:
            ids = self.tokenizer.encode_talk(talk).ids
        except UserError as error:
            raise InvalidCell(str(error)) from None
        if len(ids) > self.longest:
            # how a talk ends is what is judged
            ids = [ids[0], *ids[-self.longest + 1 :]]
        return ids, []

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a language model that says what a talk is worth."""
        align = recipe.align.model_copy(update={"method": "ppo"})
        model = super().build(recipe.model_copy(update={"align": align}))
        # it writes nothing
        model.head = nn.Identity()
        return model

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return the cross entropy of which answer is the better."""
        return ranks(recipe.training.label_smoothing)

    def operations_per_token(self, model: nn.Module, recipe: Recipe) -> None:
        """Return None: there are no products with a vocabulary."""

    def source(self, examples: Any, recipe: Recipe, model: nn.Module) -> BatchSource:
        """Return batches of pairs. Raises UsageError: these are none."""
        pairs = _paired(examples)
        plan = Buckets(pairs.chosen, recipe.training.batch_size, None, recipe.seed)
        nothing = torch.zeros(2 * len(pairs), 2)
        return PairBatches(plan, pairs.both(), nothing)

    def aligned(
        self, examples: Any, recipe: Recipe, model: nn.Module, options: AnswerOptions
    ) -> None:
        """Return None: it is what others are aligned by."""

    def check_keys(self, recipe: Recipe) -> None:
        """Raise UsageError for keys that mean nothing to it."""
        Task.check_keys(self, recipe)

    def axis_names(self) -> dict[str, Any]:
        """Return the tokens of the embedding."""
        names = super().axis_names()
        return {name: axis for name, axis in names.items() if name.startswith("emb")}

    # ------------------------------------------------------------------ scores

    @torch.no_grad()
    def _worths(
        self, model: nn.Module, examples: Examples, compute_device: ComputeDevice
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return what each talk is worth, (N,)."""
        worths = np.zeros(len(examples))
        order = np.argsort(examples.lengths, kind="stable")
        for rows in by_length(examples.lengths, order, TOGETHER, None):
            batch = collate(examples, rows).to(compute_device.device)
            worths[rows] = worth(model, batch).double().cpu().numpy()
        return worths

    def validate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return how often the better answer is worth more.

        ``accuracy_low`` and ``accuracy_high`` are the ends of the interval of 95 % (Wilson 1927).
        """
        pairs = _paired(examples)
        worths = self._worths(model, pairs.both(), compute_device)
        chosen, rejected = np.split(worths, 2)
        margins = chosen - rejected
        right = float((margins > 0).mean())
        low, high = wilson(right, len(margins))
        return {
            "accuracy": right,
            "accuracy_low": low,
            "accuracy_high": high,
            "loss": float(np.logaddexp(0, -margins).mean()),
            "margin": float(margins.mean()),
        }

    def evaluate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Score a model on pairs."""
        return Evaluation(self.validate(model, examples, compute_device, options))

    def baselines(self, split: Split) -> list[Method]:
        """Take the longer answer for the better one."""

        def longer() -> Scores:
            pairs = _paired(split.dev)
            sides = (pairs.chosen, pairs.rejected)
            lengths = [
                np.array([len(text) for text in side.references]) for side in sides
            ]
            wins = (lengths[0] > lengths[1]) + 0.5 * (lengths[0] == lengths[1])
            return {"accuracy": float(wins.mean())}

        return [("the longer answer", longer)]

    # ------------------------------------------------------------------ predictions

    def rewards_of(
        self,
        model: nn.Module,
        exchanges: Sequence[Exchange],
        compute_device: ComputeDevice,
    ) -> list[float]:
        """Return what answers are worth."""
        talks = [
            (*exchange.prompt, Turn(ASSISTANT, exchange.answer or " "))
            for exchange in exchanges
        ]
        try:
            return self._of_talks(model, talks, compute_device)
        except InvalidCell as error:
            raise UserError(f"an answer cannot be judged: {error}") from None

    def _of_talks(
        self, model: nn.Module, talks: Sequence[Talk], compute_device: ComputeDevice
    ) -> list[float]:
        ids = [self._encoded(talk)[0] for talk in talks]
        examples = Examples(np.arange(len(ids)), Ragged.of(ids))
        worths: list[float] = self._worths(model, examples, compute_device).tolist()
        return worths

    def _prompt(self, cells: Sequence[Any]) -> Talk:
        """Return the talk of a row, which ends with the answer to be judged."""
        *before, last = zip(self.text, cells, strict=True)
        if not before:
            return check_turns(talk_of(*last), answered=True)
        names, values = zip(*before, strict=True)
        return check_turns(with_answer(question(names, values), *last), answered=True)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Say what the last answer of each talk is worth."""
        try:
            talks = [self._prompt(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        worths = self._of_talks(model, talks, compute_device)
        return [
            Prediction(f"{value:.4f}", details={"value": value}) for value in worths
        ]

    def check_generates(self) -> None:
        """Raise UsageError: it judges, and writes nothing."""
        Task.check_generates(self)


def _paired(examples: Any) -> ChatPairs:
    if isinstance(examples, ChatPairs):
        return examples
    raise UsageError(
        "answers are judged by pairs, in the columns chosen and rejected, and these are none"
    )
