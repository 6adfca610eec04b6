"""Learning from preferences and from rewards: losses of a model that writes, as functions.

Legend: N texts, T tokens, M tokens that were written, V tokens of the vocabulary, G texts of a
prompt. Log probabilities, advantages and values are 0 where nothing was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import UserError
from unrolled.data.batches import IGNORED, Batch, collate, random
from unrolled.data.examples import Examples
from unrolled.nn.state import State
from unrolled.training.advantages import (
    branch_advantages,
    generalised_advantages,
    group_advantages,
    leave_one_out,
    whitened,
)
from unrolled.training.alignment import AlignConfig
from unrolled.training.objectives import (
    Carry,
    Logs,
    Loss,
    Objective,
    Reads,
    features,
)

SCORED = 2**24  # scores that are made at once
STEP = (
    0.1  # by which the weight of the KL is adapted (Ziegler et al. 2019, section 2.2)
)
MOST = 0.2  # error of the KL that is heeded
NOBODY = np.empty(0, np.int64)  # rows of no file
SILENT = 50  # rollouts in a row whose rewards may all be equal


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a model says of the tokens that were written, (M,) each.

    Attributes:
        written: where they stand, bool (N, T).
        logs: their log probabilities.
        entropies: of the distribution that each was drawn from, in nats.
        vectors: what the head read, (M, D).
    """

    written: Tensor
    logs: Tensor
    entropies: Tensor
    vectors: Tensor

    def laid(self, values: Tensor) -> Tensor:
        """Return values (M,) where their tokens stand (N, T), 0 elsewhere."""
        whole = torch.zeros(
            self.written.shape, dtype=values.dtype, device=values.device
        )
        return whole.masked_scatter(self.written, values)


def token_scores(
    model: nn.Module, batch: Batch, banned: Sequence[int] = (), temperature: float = 1.0
) -> TokenScores:
    """Return what a model says of each target that is not IGNORED.

    Args:
        model: a language model.
        batch: rows that begin anew, with targets (N, T).
        banned: tokens that cannot be written: they have no share of the probability.
        temperature: that scores are divided by.
    """
    assert batch.targets is not None
    read, _ = features(model, batch, None, carry_state=False)
    written = batch.targets != IGNORED
    vectors = read[written]
    targets = batch.targets[written]
    head = cast(Reads, model).head
    rows = max(1, SCORED // head.out_features)
    logs = [vectors.new_zeros(0).float()]
    entropies = [vectors.new_zeros(0).float()]
    for part, truth in zip(vectors.split(rows), targets.split(rows), strict=True):
        scores = head(part).float() / temperature
        if banned:
            ids = torch.tensor(list(banned), device=scores.device)
            scores = scores.index_fill(1, ids, -torch.inf)
        shares = scores.log_softmax(-1)
        logs.append(shares.gather(1, truth[:, None])[:, 0])
        # a token without a share adds nothing
        products = shares.exp() * shares.clamp(min=-1e30)
        entropies.append(-products.sum(-1))
    return TokenScores(
        written,
        torch.cat(logs),
        torch.cat(entropies),
        vectors,
    )


def log_probabilities(
    model: nn.Module, batch: Batch, banned: Sequence[int] = (), temperature: float = 1.0
) -> Tensor:
    """Return the log probability (N, T) of each target, 0 where it is IGNORED."""
    scores = token_scores(model, batch, banned, temperature)
    return scores.laid(scores.logs)


# ---------------------------------------------------------------------- preferences


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_before: Tensor,
    rejected_before: Tensor,
    beta: float,
    method: str = "dpo",
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss (N,) of pairs of answers, by their log probabilities (N,).

    Rafailov et al. 2023, equation 7, with the smoothing of Mitchell 2023; ``ipo`` is Azar et al.
    2023, equation 17, by log probabilities that the caller has divided by the lengths.

    Args:
        chosen, rejected: of the model that learns.
        chosen_before, rejected_before: of the model that it began as.
        beta: how much it costs to leave that one.
        method: ``dpo`` or ``ipo``.
        smoothing: share of pairs taken to be the wrong way round.
    """
    margin = (chosen - chosen_before) - (rejected - rejected_before)
    if method == "ipo":
        return (margin - 1 / (2 * beta)).square()
    right = F.logsigmoid(beta * margin)
    wrong = F.logsigmoid(-beta * margin)
    return -(1 - smoothing) * right - smoothing * wrong


def prefers(settings: AlignConfig) -> Objective:
    """Return the objective of pairs: the first half of a batch is chosen, the other rejected.

    ``batch.rewards`` (2 N, 2) holds the log probability of each answer before the training, and its
    tokens.
    """

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        assert batch.rewards is not None
        sums = log_probabilities(model, batch).sum(1)
        before, lengths = batch.rewards.unbind(1)
        if settings.method == "ipo":
            sums = sums / lengths
            before = before / lengths
        chosen, rejected = sums.chunk(2)
        chosen_before, rejected_before = before.chunk(2)
        losses = preference_loss(
            chosen,
            rejected,
            chosen_before,
            rejected_before,
            settings.beta,
            settings.method,
            settings.label_smoothing,
        )
        margins = (chosen - chosen_before) - (rejected - rejected_before)
        count = torch.tensor(len(losses), device=losses.device)
        logs = {
            "margin": (settings.beta * margins.detach().sum(), count),
            "preferred": ((margins > 0).sum(), count),
        }
        return Loss(losses.sum(), count, None, logs)

    return objective


def worth(model: nn.Module, batch: Batch) -> Tensor:
    """Return what each text of a batch is worth (N,), by its last token."""
    assert batch.lengths is not None
    read, _ = features(model, batch, None, carry_state=False)
    last = (batch.lengths - 1)[:, None, None].expand(
        -1,
        1,
        read.shape[-1],
    )
    value: nn.Linear = model.value  # type: ignore[assignment]
    outputs: Tensor = value(read.gather(1, last)[:, 0])
    return outputs[:, 0].float()


def ranks(smoothing: float = 0.0) -> Objective:
    """Return the objective of which of two texts is preferred, as ``prefers`` has them in a batch.

    The better one is worth more, by the log odds that it is preferred (Bradley and Terry 1952).
    """

    def objective(model: nn.Module, batch: Batch, carry: Carry) -> Loss:
        chosen, rejected = worth(model, batch).chunk(2)
        margins = chosen - rejected
        right = F.logsigmoid(margins)
        wrong = F.logsigmoid(-margins)
        losses = -(1 - smoothing) * right - smoothing * wrong
        count = torch.tensor(len(losses), device=losses.device)
        logs = {
            "margin": (margins.detach().sum(), count),
            "preferred": ((margins > 0).sum(), count),
        }
        return Loss(losses.sum(), count, None, logs)

    return objective


# ---------------------------------------------------------------------- rewards


def clipped_loss(
    logs: Tensor, logs_before: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Return the loss by clipped ratios (Schulman et al. 2017, eq. 7), and where it is clipped.

    All have one shape: of tokens, or of texts.
    """
    ratio = (logs - logs_before).exp()
    free = ratio * advantages
    held = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(free, held), held < free


def value_loss(
    values: Tensor, values_before: Tensor, returns: Tensor, clip: float
) -> Tensor:
    """Return half the squared error of values, which are held near what they were before."""
    bounded = values_before + (values - values_before).clamp(-clip, clip)
    errors = (values - returns).square()
    return 0.5 * torch.maximum(errors, (bounded - returns).square())


def divergence(logs: Tensor, reference: Tensor) -> Tensor:
    """Return an estimate of the KL that is never negative and has little variance (Schulman 2020).

    That is r - 1 - ln r with r the probability in the reference over that in the model.
    """
    ratio = reference - logs
    return ratio.exp() - ratio - 1


@dataclass(frozen=True)
class Rollout(State):
    """Texts that a model wrote, with what it is to learn from them; all of it is in checkpoints.

    Attributes:
        inputs, targets: as in a batch, (N, T).
        logs: log probabilities as the texts were drawn, (N, T).
        reference: those of the model that the training began with, (N, T).
        advantages, returns, values: (N, T); returns and values are of PPO.
        rewards: what each text earned, (N,), before any penalty for leaving the reference.
        order: the rows in the order in which parts are cut, one row of numbers a pass (P, N).
        weights: of the KL now, rollouts in a row that told nothing, and texts that were compared
            with the reference, (3,).
    """

    kind: ClassVar[str] = "rollout"
    inputs: Tensor
    targets: Tensor
    logs: Tensor
    reference: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    rewards: Tensor
    order: Tensor
    weights: Tensor

    @property
    def rows(self) -> int:
        return len(self.inputs)

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        others = {"order", "weights"}
        picked = {
            field.name: getattr(self, field.name)[rows]
            for field in fields(self)
            if field.name not in others
        }
        return replace(self, **picked)

    def detach(self) -> Self:
        return self

    def to_tensors(self) -> dict[str, Tensor]:
        return {
            field.name: getattr(self, field.name).contiguous() for field in fields(self)
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(**tensors)

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        raise ValueError("rollouts are learnt from one after another")

    @property
    def written(self) -> Tensor:
        """Where tokens were written, (N, T)."""
        return self.targets != IGNORED


@dataclass(frozen=True, slots=True)
class Drawn:
    """Texts as they were drawn, before anything is made of their rewards; see ``Rollout``.

    Attributes:
        group: G, the texts of each prompt, which stand in a row.
        compared: how many of the first texts the reference has read; of the others ``reference``
            is ``logs``. None: all.
    """

    inputs: Tensor
    targets: Tensor
    logs: Tensor
    reference: Tensor
    rewards: Tensor
    group: int
    compared: int | None = None


# draws texts for the rows of a batch, by a seed
Draw = Callable[[nn.Module, Batch, int], Drawn]


@dataclass(frozen=True)
class Prompts:
    """Batches of prompts that each serve for some updates, in another order in each epoch.

    ``extra`` of a batch holds the number of the update among those, and a seed that is equal in all
    of them. Long prompts and short ones stand in one batch: what is learnt is to be the same.

    Attributes:
        examples: prompts (N,).
        size: B, prompts of a batch.
        times: updates by each.
        seed: of the order, and of what is drawn.
    """

    examples: Examples
    size: int
    times: int
    seed: int

    def length(self, epoch: int) -> int:
        """Return the number of updates in an epoch."""
        return -(-len(self.examples) // self.size) * self.times

    def batch(self, epoch: int, index: int) -> Batch:
        """Return the prompts of one update."""
        first, number = divmod(index, self.times)
        order = random(self.seed, epoch).permutation(len(self.examples))
        rows = order[first * self.size :][: self.size]
        seed = int(random(self.seed, epoch, first).integers(2**31))
        extra = torch.tensor([number, seed], dtype=torch.int64)
        batch = collate(self.examples, rows)
        return replace(batch, restart=False, extra=(extra,))


class PolicyObjective:
    """Learns from rewards of what the model writes: draws texts, and makes some updates by them.

    Args:
        settings: of the method.
        draw: draws and judges texts.
        most: tokens of a text at most.
        banned: tokens that are never drawn.
    """

    def __init__(
        self, settings: AlignConfig, draw: Draw, most: int, banned: Sequence[int]
    ) -> None:
        self.settings = settings
        self.draw = draw
        self.most = most
        self.banned = tuple(banned)

    def __call__(self, model: nn.Module, batch: Batch, carry: Any) -> Loss:
        """Return the loss of one update; see ``Objective``."""
        number, seed = batch.extra[0].tolist()
        # dropout would draw the ratios of probabilities
        model.eval()
        try:
            rollout = carry
            if number == 0 or not isinstance(carry, Rollout):
                rollout = self.roll_out(model, batch, seed, carry)
            rows = self._rows(rollout, number)
            loss = self._loss(model, rollout.reorder(rows))
            if number == 0:
                loss = replace(loss, logs={**loss.logs, **_of_rollout(rollout)})
        finally:
            model.train()
        return replace(loss, carry=rollout)

    def _rows(self, rollout: Rollout, number: int) -> Tensor:
        """Return the rows of an update, by its number."""
        turn, part = divmod(number, self.settings.parts)
        return rollout.order[turn].tensor_split(self.settings.parts)[part]

    def _telling(self, rollout: Rollout) -> Rollout:
        """Return the texts by which something is learnt: not those that earned what all did."""
        settings = self.settings
        if settings.method == "ppo" or settings.beta or settings.entropy_weight:
            return rollout
        tells = (rollout.advantages != 0).any(1)
        # a loss of no text would have no gradient
        tells[0] |= not tells.any()
        return rollout.reorder(tells.nonzero()[:, 0])

    @torch.no_grad()
    def roll_out(
        self, model: nn.Module, batch: Batch, seed: int, carry: Any
    ) -> Rollout:
        """Draw texts, and say how much better each was than expected.

        Raises:
            UserError: rewards are no numbers, or were all equal for too long.
        """
        settings = self.settings
        drawn = self.draw(model, batch, seed)
        if not bool(torch.isfinite(drawn.rewards).all()):
            raise UserError(
                "a reward is not finite: mend what align.reward names; the last checkpoint is "
                "intact"
            )
        weight, silent = self._before(drawn, carry)
        written = drawn.targets != IGNORED
        # what leaving the reference costs, at each token (Ouyang et al. 2022, equation 2)
        gap = torch.where(written, drawn.logs - drawn.reference, 0.0)
        values = torch.zeros_like(drawn.logs)
        returns = torch.zeros_like(drawn.logs)
        if settings.method == "ppo":
            values = self._values(
                model, Batch(drawn.inputs, None, drawn.targets, batch.rows)
            )
            advantages = self._token_advantages(drawn, written, gap * weight, values)
            returns = torch.where(written, advantages + values, 0.0)
            advantages = whitened(advantages, written)
        else:
            advantages = self._group_advantages(drawn, gap.sum(1) * weight)
            advantages = torch.where(written, advantages, 0.0)
        count = len(drawn.rewards)
        order = self._order(count, seed)
        compared = count if drawn.compared is None else drawn.compared
        weights = torch.tensor([self._adapted(weight, gap), silent, compared])
        return Rollout(
            drawn.inputs,
            drawn.targets,
            drawn.logs,
            drawn.reference,
            advantages,
            returns,
            values,
            drawn.rewards,
            order.to(drawn.inputs.device),
            weights,
        )

    def _before(self, drawn: Drawn, carry: Any) -> tuple[float, float]:
        """Return the weight of the KL, and rollouts in a row that told nothing, this one included.

        Raises:
            UserError: they were too many.
        """
        settings = self.settings
        before = carry.weights if isinstance(carry, Rollout) else None
        weight = settings.beta if before is None else float(before[0])
        silent = 0.0 if before is None else float(before[1])
        # one text by itself cannot be told from others
        differ = bool((drawn.rewards != drawn.rewards[0]).any())
        silent = 0.0 if differ or len(drawn.rewards) < 2 else silent + 1
        if silent >= SILENT:
            raise UserError(
                f"all answers of {SILENT} rollouts earned {float(drawn.rewards[0]):g}: there is "
                "nothing to learn from; look at what align.reward gives, raise "
                "align.temperature, or begin with a model that is right at times"
            )
        return weight, silent

    def _order(self, count: int, seed: int) -> Tensor:
        """Return the order of the rows in each pass (P, N)."""
        generator = torch.Generator().manual_seed(seed)
        orders: list[Tensor] = []
        for _ in range(self.settings.passes):
            orders.append(torch.randperm(count, generator=generator))
        return torch.stack(orders)

    def _adapted(self, weight: float, gap: Tensor) -> float:
        """Return the weight of the KL that comes next."""
        target = self.settings.kl_target
        if target is None:
            return weight
        error = float(gap.sum(1).mean()) / target - 1
        return weight * (1 + STEP * min(MOST, max(-MOST, error)))

    def _group_advantages(self, drawn: Drawn, penalties: Tensor) -> Tensor:
        """Return the advantages of texts (N, 1), or of their tokens (N, T)."""
        if self.settings.method == "rloo":
            return leave_one_out(drawn.rewards - penalties, drawn.group)[:, None]
        scaled = not self.settings.unbiased
        rewards = drawn.rewards
        if self.settings.credit == "branch":
            return branch_advantages(rewards, drawn.targets, drawn.group, scaled)
        return group_advantages(rewards, drawn.group, scaled)[:, None]

    def _token_advantages(
        self, drawn: Drawn, written: Tensor, penalties: Tensor, values: Tensor
    ) -> Tensor:
        """Return the advantages of PPO: a text is judged as a whole, at its last token."""
        rewards = -penalties
        steps = torch.arange(written.shape[1], device=written.device)
        last = (written * steps).argmax(1)
        rows = torch.arange(len(written), device=written.device)
        rewards[rows, last] += drawn.rewards
        settings = self.settings
        return generalised_advantages(
            rewards, values, written, settings.discount, settings.trace
        )

    @staticmethod
    def _values(model: nn.Module, batch: Batch) -> Tensor:
        """Return what is expected before each token that was written, (N, T)."""
        scores = token_scores(model, batch)
        return scores.laid(_expected(model, scores.vectors))

    def _loss(self, model: nn.Module, rollout: Rollout) -> Loss:
        """Return the loss of some texts."""
        settings = self.settings
        texts = torch.tensor(rollout.rows, device=rollout.inputs.device)
        rollout = self._telling(rollout)
        batch = Batch(rollout.inputs, None, rollout.targets, NOBODY)
        scores = token_scores(
            model,
            batch,
            self.banned,
            settings.temperature,
        )
        logs = scores.laid(scores.logs)
        written = scores.written
        lengths = written.sum(1)
        if settings.method == "rloo":
            sums = logs.sum(1)
            sums_before = rollout.logs.sum(1)
            advantages = rollout.advantages.sum(1) / lengths
            losses, clipped = clipped_loss(sums, sums_before, advantages, settings.clip)
            total = losses.sum()
            count = texts
            seen = torch.tensor(len(losses), device=losses.device)
        else:
            losses, clipped = clipped_loss(
                logs, rollout.logs, rollout.advantages, settings.clip
            )
            losses = torch.where(written, losses, 0.0)
            clipped = clipped & written
            seen = lengths.sum()
            total, count = self._summed(losses, rollout, logs, written, texts)
        if settings.entropy_weight:
            mean = scores.entropies.sum() / lengths.sum()
            total = total - settings.entropy_weight * mean * count
        if settings.method == "ppo":
            expected = scores.laid(_expected(model, scores.vectors))
            errors = value_loss(
                expected, rollout.values, rollout.returns, settings.clip
            )
            total = (
                total + settings.value_weight * torch.where(written, errors, 0).sum()
            )
        return Loss(total, count, None, {"clipped": (clipped.sum(), seen)})

    def _summed(
        self,
        losses: Tensor,
        rollout: Rollout,
        logs: Tensor,
        written: Tensor,
        texts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of tokens (N, T) as a sum, and what it is divided by."""
        settings = self.settings
        if settings.method == "ppo":
            return losses.sum(), written.sum()
        if settings.beta:
            kl = divergence(logs, rollout.reference)
            losses = losses + settings.beta * torch.where(written, kl, 0.0)
        if settings.unbiased:
            return losses.sum() / self.most, texts
        return (losses.sum(1) / written.sum(1)).sum(), texts


def _expected(model: nn.Module, vectors: Tensor) -> Tensor:
    """Return values (M,) of what the head reads; the layer learns nothing by them."""
    value: nn.Linear = model.value  # type: ignore[assignment]
    outputs: Tensor = value(vectors.detach())
    return outputs[:, 0].float()


def _of_rollout(rollout: Rollout) -> Logs:
    """Return what is logged of texts that were just drawn."""
    written = rollout.written
    texts = torch.tensor(rollout.rows, device=written.device)
    gap = torch.where(written, rollout.logs - rollout.reference, 0.0)
    informative = (rollout.advantages != 0).any(1).sum()
    tokens = written.sum()
    return {
        "reward": (rollout.rewards.sum(), texts),
        "kl": (gap.sum(), rollout.weights[2]),
        # the mean of -ln p of what was drawn is the entropy, nearly
        "entropy": (-torch.where(written, rollout.logs, 0.0).sum(), tokens),
        "length": (tokens, texts),
        "informative": (informative, texts),
        "kl_weight": (rollout.weights[0] * texts, texts),
    }
