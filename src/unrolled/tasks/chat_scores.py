"""What answers cost a model that did not write them, and what those are like that it writes.

Legend: N talks, T tokens.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.core.errors import shown
from unrolled.data.batches import IGNORED, Batch, by_length, collate
from unrolled.data.examples import Examples, Ints, Ragged
from unrolled.decoding.many import WrittenText
from unrolled.decoding.sampling import Sampling
from unrolled.fields.talks import Talk
from unrolled.scores.answers import pass_at
from unrolled.scores.refusals import is_refusal
from unrolled.tasks.base import AnswerOptions, Scores
from unrolled.tasks.chat_examples import ChatExamples, ChatPairs, Steps
from unrolled.tasks.exchanges import VERIFIED, Exchange, is_exact
from unrolled.tasks.write_text import hashes
from unrolled.text.turns import ASSISTANT, PLAIN, ChatTokenizer, Turn
from unrolled.training.policies import log_probabilities
from unrolled.training.precision import ComputeDevice

Floats = NDArray[np.float64]
TOGETHER = 64  # talks that are read at once
CHOICES = 10  # answers among which the right one is looked for
RANKED = 200  # questions for which it is
# multiplications that are made for that: a model of 135 million weights reads 16,000 tokens in them
RANKED_PRODUCTS = 2**41
CHANGED = 5  # questions whose answers are shown beside those before the training
ATTEMPTED = 500  # questions that are answered several times
SEED = 0  # of what is drawn for scores


@torch.no_grad()
def costs(
    model: nn.Module, examples: Examples, compute_device: ComputeDevice
) -> tuple[Floats, Floats]:
    """Return what the answers of each talk cost in nats, and their tokens, both (N,)."""
    nats = np.zeros(len(examples))
    counts = np.zeros(len(examples))
    order = np.argsort(examples.reach, kind="stable")
    for rows in by_length(examples.reach, order, TOGETHER, None):
        batch = collate(examples, rows).to(compute_device.device)
        assert batch.targets is not None
        logs = log_probabilities(model, batch)
        nats[rows] = -logs.double().sum(1).cpu().numpy()
        counts[rows] = (batch.targets != IGNORED).sum(1).cpu().numpy()
    return nats, counts


def distinct_pairs(texts: Sequence[Sequence[object]]) -> float:
    """Return the share of different pairs of neighbours among all (distinct-2, Li et al. 2016).

    1 where there is no pair: nothing was said twice.
    """
    pairs: Counter[tuple[object, object]] = Counter()
    for text in texts:
        pairs.update(itertools.pairwise(text))
    total = sum(pairs.values())
    return len(pairs) / total if total else 1.0


def spaced(count: int, most: int) -> Ints:
    """Return at most so many of ``count`` rows, equally far apart."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def rollout_tensors(
    prompts: Sequence[Sequence[int]], written: Sequence[WrittenText], end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and log probabilities of texts that were written, (N, T) each."""
    texts = [text.ids(end) for text in written]
    inputs: list[list[int]] = []
    targets: list[list[int]] = []
    logs: list[list[float]] = []
    for prompt, text, drawn in zip(prompts, texts, written, strict=True):
        silent = len(prompt) - 1
        inputs.append([*prompt, *text[:-1]])
        targets.append([IGNORED] * silent + text)
        logs.append([0.0] * silent + drawn.log_probabilities)
    return (
        _side_by_side(inputs, 0),
        _side_by_side(targets, IGNORED),
        _side_by_side(logs, 0.0),
    )


def _side_by_side(rows: Sequence[Sequence[float]], pad: float) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])


class Answers(Protocol):
    """What scores ask of a task of talks."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """Cuts texts, and marks turns."""
        ...

    @property
    def seen(self) -> NDArray[np.uint64]:
        """Hashes of the answers of training."""
        ...

    def encoded_last(self, talk: Talk) -> Steps:
        """Return the steps of a talk of which the last answer alone is to be written."""
        ...

    def write(
        self,
        model: nn.Module,
        prompts: Sequence[Talk],
        compute_device: ComputeDevice,
        options: AnswerOptions,
        sampling: Sampling | None = None,
        seed: int = SEED,
    ) -> list[WrittenText]:
        """Write an answer to each talk."""
        ...

    def fitting(self, talk: Talk, context: int | None, most: int) -> list[int]:
        """Return the ids of a talk that is to be answered."""
        ...


def exchanges(
    tokenizer: ChatTokenizer,
    prompts: Sequence[Talk],
    references: Sequence[str],
    written: Sequence[WrittenText],
) -> list[Exchange]:
    """Return answers (N,) as they are judged."""
    continues = tokenizer.template.name == PLAIN
    judged: list[Exchange] = []
    for prompt, reference, text in zip(prompts, references, written, strict=True):
        answer = tokenizer.continued(
            tokenizer.opening(prompt),
            text.tokens,
        )
        judged.append(Exchange(prompt, answer, reference, continues))
    return judged


@dataclass(frozen=True)
class AnswerScorer:
    """The scores of a model that answers.

    Attributes:
        task: of talks.
        model: in evaluation mode.
        compute_device: where it computes.
        options: by which it answers.
    """

    task: Answers
    model: nn.Module
    compute_device: ComputeDevice
    options: AnswerOptions

    def of_given(self, examples: ChatExamples) -> Scores:
        """Return what the answers given cost, in nats a token, their end marks included."""
        nats, counts = costs(self.model, examples, self.compute_device)
        loss = float(nats.sum() / counts.sum())
        return {"loss": loss, "perplexity": math.exp(min(loss, 700))}

    def of_pairs(self, pairs: ChatPairs) -> Scores:
        """Return how often the better answer is preferred, and by how much.

        That is by how many nats the model has made it likelier than the other one, against the
        model that the training began with; where it began with none, by how much likelier it is.
        """
        both = pairs.both()
        nats, counts = costs(self.model, both, self.compute_device)
        gains = -nats
        is_aligned = self.options.align.method != "none"
        if self.options.reference is not None and is_aligned:
            reference = self.options.reference().to(self.compute_device.device)
            before, _ = costs(reference, both, self.compute_device)
            gains = gains + before
        chosen, rejected = np.split(gains, 2)
        answered = float(nats[: len(pairs)].sum() / counts[: len(pairs)].sum())
        return {
            "accuracy": float((chosen > rejected).mean()),
            "margin": float((chosen - rejected).mean()),
            "loss": answered,
        }

    def texts(
        self, prompts: Sequence[Talk], written: Sequence[WrittenText]
    ) -> list[str]:
        """Return what was written, as texts."""
        blank = [""] * len(prompts)
        judged = exchanges(
            self.task.tokenizer,
            prompts,
            blank,
            written,
        )
        return [exchange.answer for exchange in judged]

    def of_written(
        self, examples: ChatExamples, written: Sequence[WrittenText]
    ) -> Scores:
        """Return what answers are like that were written.

        ``exact`` is the share that equals the one given, ``ended`` that which ended itself,
        ``refused`` that which declines (``scores.refusals``), ``distinct`` that of different ones,
        ``distinct_2`` that of different pairs of tokens, and ``copied`` the share that is some
        answer of training word for word.
        """
        texts = self.texts(examples.prompts, written)
        count = len(texts)
        scores: Scores = {}
        if examples.answered:
            pairs = zip(texts, examples.references, strict=True)
            scores["exact"] = sum(is_exact(*pair) for pair in pairs) / count
        scores["ended"] = sum(text.ended for text in written) / count
        scores["refused"] = sum(map(is_refusal, texts)) / count
        scores["distinct"] = len(set(texts)) / count
        scores["distinct_2"] = distinct_pairs([text.tokens for text in written])
        scores["copied"] = float(np.isin(hashes(texts), self.task.seen).mean())
        return scores

    def of_drawn(self, examples: ChatExamples) -> Scores:
        """Return what answers earn that are drawn, and how far they are from the reference.

        ``kl`` is in nats an answer: the mean of ln p - ln p of the model that the training began
        with. Nothing where the model did not learn from rewards.
        """
        align = self.options.align
        if not align.draws or self.options.reward is None:
            return {}
        prompts = examples.prompts
        written = self._drawn(prompts, SEED)
        tokenizer = self.task.tokenizer
        scores: Scores = {}
        # what is checked by the right answer says nothing without one
        if examples.answered or align.reward not in VERIFIED:
            judged = exchanges(
                tokenizer,
                prompts,
                examples.references,
                written,
            )
            rewards = self.options.reward(judged)
            scores["reward"] = sum(rewards) / len(rewards)
        return {
            **scores,
            "kl": self._divergence(prompts, written),
            "distinct_2": distinct_pairs([text.tokens for text in written]),
        }

    def _drawn(self, prompts: Sequence[Talk], seed: int) -> list[WrittenText]:
        sampling = Sampling(temperature=self.options.align.temperature)
        return self.task.write(
            self.model, prompts, self.compute_device, self.options, sampling, seed
        )

    @torch.no_grad()
    def _divergence(
        self, prompts: Sequence[Talk], written: Sequence[WrittenText]
    ) -> float:
        """Return the mean KL of answers in nats, by what they were drawn with."""
        assert self.options.reference is not None
        device = self.compute_device.device
        reference = self.options.reference().to(device)
        tokenizer = self.task.tokenizer
        model: Any = self.model
        most = self.options.search.max_length or max(
            len(text.tokens) for text in written
        )
        ids = [self.task.fitting(talk, model.context, most) for talk in prompts]
        total = 0.0
        for first in range(0, len(written), TOGETHER):
            part = slice(first, first + TOGETHER)
            tensors = rollout_tensors(
                ids[part],
                written[part],
                tokenizer.end_id,
            )
            inputs, targets, logs = (tensor.to(device) for tensor in tensors)
            before = log_probabilities(
                reference,
                Batch(inputs, None, targets, np.arange(len(inputs))),
                tokenizer.unwritten_ids,
                self.options.align.temperature,
            )
            total += float((logs.double() - before.double()).sum())
        return total / len(written)

    def changes(
        self, prompts: Sequence[Talk], written: Sequence[WrittenText]
    ) -> list[str]:
        """Return some answers, each with the one before the training; none where none aligned."""
        if self.options.reference is None:
            return []
        rows = spaced(len(prompts), CHANGED).tolist()
        some = [prompts[row] for row in rows]
        reference = self.options.reference().to(self.compute_device.device)
        before = self.task.write(
            reference,
            some,
            self.compute_device,
            self.options,
        )
        pairs = zip(
            some,
            self.texts(some, before),
            self.texts(some, [written[row] for row in rows]),
            strict=True,
        )
        return [
            f"{shown(prompt[-1].text)}: {shown(was)} before, {shown(now)} now"
            for prompt, was, now in pairs
        ]

    def of_attempts(self, examples: ChatExamples) -> Scores:
        """Return the share of right answers among several, and of questions that have one.

        A model that is only surer of what it knew has more of the first, and not of the second.
        """
        attempts = self.options.align.attempts
        if not attempts:
            return {}
        some = examples.pick(spaced(len(examples), ATTEMPTED))
        right = np.zeros(len(some), dtype=np.int64)
        for seed in range(attempts):
            written = self._drawn(some.prompts, seed)
            texts = self.texts(some.prompts, written)
            pairs = zip(texts, some.references, strict=True)
            right += np.array([is_exact(*pair) for pair in pairs])
        counts = right.tolist()
        scores = {"pass_1": pass_at(counts, attempts, 1)}
        if attempts > 1:
            scores[f"pass_{attempts}"] = pass_at(counts, attempts, attempts)
        return scores

    def _within_reach(self, steps: list[Steps]) -> list[Steps]:
        """Return the choices of questions of which the model can read all."""
        context = getattr(self.model, "context", None)
        if context is None:
            return steps
        kept: list[Steps] = []
        for first in range(0, len(steps), CHOICES):
            choices = steps[first : first + CHOICES]
            if all(len(inputs) <= context for inputs, _ in choices):
                kept += choices
        return kept

    def ranked(self, examples: ChatExamples) -> tuple[Scores, int]:
        """Return how often the right answer is the likeliest a token, and of how many questions.

        It stands among answers to others. Nothing where there are too few to choose from.
        """
        known = np.array(sorted(set(examples.references)))
        if len(known) < CHOICES:
            return {}, 0
        generator = np.random.default_rng(SEED)
        count = min(RANKED, len(examples))
        size = sum(weight.numel() for weight in self.model.parameters())
        most = RANKED_PRODUCTS // max(1, size)
        steps: list[Steps] = []
        for row in range(count):
            right = examples.references[row]
            others = known[known != right]
            wrong = generator.choice(others, CHOICES - 1, replace=False)
            for text in (right, *wrong.tolist()):
                talk = (*examples.prompts[row], Turn(ASSISTANT, text))
                steps.append(self.task.encoded_last(talk))
            if sum(len(inputs) for inputs, _ in steps) > most:
                break
        steps = self._within_reach(steps)
        if not steps:
            return {}, 0
        count = len(steps) // CHOICES
        inputs, targets = zip(*steps, strict=True)
        choices = Examples(
            np.arange(len(steps)), Ragged.of(inputs), targets=Ragged.of(targets)
        )
        nats, counts = costs(self.model, choices, self.compute_device)
        means = (nats / counts).reshape(count, CHOICES)
        # a tie is no right answer
        first = (means[:, 0] < means[:, 1:].min(1)).mean()
        return {"ranked_first": float(first)}, count
