"""What an aligned chat model learns from: pairs of answers, and judged answers of its own.

Legend: N pairs or prompts, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.data.batches import Batch, Buckets, collate
from unrolled.data.examples import Examples
from unrolled.decoding.many import ManyReader, WrittenText, write_many
from unrolled.decoding.sampling import Sampling
from unrolled.fields.talks import Talk
from unrolled.nn.adapters import merged
from unrolled.tasks.chat_examples import ChatExamples, ChatPairs
from unrolled.tasks.chat_scores import (
    costs,
    distinct_pairs,
    exchanges,
    rollout_tensors,
)
from unrolled.tasks.exchanges import Reward
from unrolled.text.turns import ChatTokenizer
from unrolled.training.alignment import AlignConfig
from unrolled.training.parallel import world
from unrolled.training.policies import Drawn, log_probabilities
from unrolled.training.precision import ComputeDevice

WATCHED = 64  # texts whose KL is measured where it costs nothing


@dataclass(frozen=True)
class PairBatches:
    """Batches of pairs: the better answers first, then the others.

    Attributes:
        plan: which pairs are read together.
        both: all talks (2 N,).
        before: of each answer its log probability before the training, and its tokens, (2 N, 2).
    """

    plan: Buckets
    both: Examples
    before: Tensor

    @classmethod
    def of(
        cls,
        pairs: ChatPairs,
        rows: int,
        seed: int,
        reference: nn.Module,
        compute_device: ComputeDevice,
    ) -> PairBatches:
        """Return batches of ``rows`` pairs, compared with what ``reference`` says of them."""
        both = pairs.both()
        nats, counts = costs(reference, both, compute_device)
        before = np.stack([-nats, counts], 1)
        plan = Buckets(pairs.chosen, rows, None, seed)
        return cls(plan, both, torch.from_numpy(before).float())

    def length(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        return self.plan.length(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Return one batch of an epoch: 2 B talks."""
        rows = self.plan.plan(epoch)[index]
        doubled = np.concatenate([rows, rows + len(self.both) // 2])
        batch = collate(self.both, doubled)
        return replace(batch, rewards=self.before[doubled])


@dataclass(frozen=True)
class Judge:
    """Says what answers earn, with what is taken off for length and repetition.

    Attributes:
        reward: of an answer by itself.
        settings: of the method.
        tokenizer: of the talks.
    """

    reward: Reward
    settings: AlignConfig
    tokenizer: ChatTokenizer

    def earned(
        self,
        prompts: Sequence[Talk],
        references: Sequence[str],
        written: Sequence[WrittenText],
    ) -> Tensor:
        """Return what answers (N,) earn."""
        judged = exchanges(self.tokenizer, prompts, references, written)
        rewards = self.reward(judged)
        settings = self.settings
        earned: list[float] = []
        for reward, text in zip(rewards, written, strict=True):
            if settings.unended == "nothing" and not text.ended:
                reward = 0.0
            if settings.repetition:
                repeated = 1 - distinct_pairs([text.tokens])
                reward -= settings.repetition * repeated
            earned.append(reward)
        return torch.tensor(earned)


@dataclass(frozen=True)
class AnswerDraws:
    """Draws answers to the prompts of batches, and has them judged; see ``policies.Draw``.

    Attributes:
        examples: whose prompts are answered.
        judge: of answers.
        settings: of the method.
        most: tokens of an answer at most.
        fitting: returns the ids of a prompt.
        reference: returns the model that the training began with.
        compute_device: where models compute.
    """

    examples: ChatExamples
    judge: Judge
    settings: AlignConfig
    most: int
    fitting: Callable[[Talk], list[int]]
    reference: Callable[[], nn.Module]
    compute_device: ComputeDevice

    def __call__(self, model: nn.Module, batch: Batch, seed: int) -> Drawn:
        """Draw answers to the prompts of a batch, those to one prompt side by side."""
        settings = self.settings
        group = 1 if settings.method == "ppo" else settings.samples
        rows = np.repeat(batch.rows, group).tolist()
        prompts = [self.examples.prompts[row] for row in rows]
        references = [self.examples.references[row] for row in rows]
        tokenizer = self.judge.tokenizer
        banned = tokenizer.unwritten_ids
        ids = [self.fitting(prompt) for prompt in prompts]
        device = next(model.parameters()).device
        reader: ManyReader = model  # type: ignore[assignment]
        with merged(model):
            written = write_many(
                reader,
                ids,
                self.most,
                Sampling(temperature=settings.temperature),
                tokenizer.end_id,
                banned,
                seed,
                device,
            )
        inputs, targets, logs = rollout_tensors(ids, written, tokenizer.end_id)
        inputs, targets, logs = (part.to(device) for part in (inputs, targets, logs))
        drawn = Batch(inputs, None, targets, np.array(rows))
        rewards = self.judge.earned(prompts, references, written)
        before = self.reference().to(device)
        # of texts that are only watched some are enough
        heeded = settings.beta or settings.method == "ppo"
        compared = len(rows) if heeded else min(WATCHED, len(rows))
        some = replace(drawn, inputs=inputs[:compared], targets=targets[:compared])
        reference = logs.clone()
        reference[:compared] = log_probabilities(
            before, some, banned, settings.temperature
        )
        return Drawn(
            inputs,
            targets,
            logs,
            reference,
            rewards.to(device),
            group,
            compared,
        )


def refuse_several_processes(settings: AlignConfig) -> None:
    """Raise UsageError where several processes train: each would draw for itself."""
    if world().size > 1:
        raise UsageError(
            f"align.method={settings.method} is for one process; start it without torchrun"
        )
