"""What a text costs a language model: in one pass, in lanes side by side, or in windows.

Legend: B lanes or windows, T tokens read at once, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.models import LanguageModel
from unrolled.nn import State
from unrolled.training.objectives import begin_with
from unrolled.training.precision import ComputeDevice

WARM = 512  # tokens a lane reads unscored before its own part
CHUNK = 256  # tokens read at once while scoring
SCORED = 2**25  # scores that are made at once
LANE = 2048  # a text is scored in lanes of at least this many tokens
# nats a token by which lanes may differ from one pass where they begin
TOLERANCE = 0.01


@dataclass(slots=True)
class Sum:
    """Running totals of what was scored."""

    nats: float = 0.0
    right: int = 0
    count: int = 0

    def add(self, logits: Tensor, targets: Tensor, scored: Tensor) -> None:
        """Take in scores (B, T, V), targets (B, T) and which of them count (B, T)."""
        vocabulary = logits.shape[-1]
        rows = max(1, SCORED // 16 // vocabulary)
        logit_parts = logits[scored].split(rows)
        target_parts = targets[scored].split(rows)
        for part, truth in zip(logit_parts, target_parts, strict=True):
            part = part.float()
            nats = F.cross_entropy(part, truth, reduction="sum")
            right = part.argmax(-1) == truth
            self.nats += float(nats)
            self.right += int(right.sum())
            self.count += len(truth)

    def merge(self, other: Sum) -> None:
        """Take in what was scored elsewhere."""
        self.nats += other.nats
        self.right += other.right
        self.count += other.count


def score(
    model: LanguageModel, tokens: Tensor, start: int, compute_device: ComputeDevice
) -> Sum:
    """Score every token of a text once.

    Args:
        model: in evaluation mode.
        tokens: the text (N,), N at least 1.
        start: the mark that every text begins with.
        compute_device: where the model computes.
    """
    if model.context is not None:
        return _windows(model, tokens, start, compute_device)
    most = len(tokens) // LANE
    count = max(1, min(64, most))
    if count > 1:
        lanes = _Lanes(model, tokens, start, compute_device, count)
        total, difference = lanes.score()
        if difference <= TOLERANCE:
            return total
    one_pass = _Lanes(model, tokens, start, compute_device, 1)
    total, _ = one_pass.score()
    return total


def score_documents(
    model: LanguageModel,
    tokens: Tensor,
    offsets: Tensor,
    start: int,
    compute_device: ComputeDevice,
) -> Sum:
    """Score every token of N documents once, each document from a fresh start.

    Documents of like length are read side by side. One that is longer than the reach of a model
    is read in overlapping windows, as a text by itself is.

    Args:
        model: in evaluation mode.
        tokens: of all documents.
        offsets: where each begins, and where the last one ends (N + 1,).
        start: the mark that every text begins with.
        compute_device: where the model computes.
    """
    total = Sum()
    lengths, order = offsets.diff().sort(descending=True, stable=True)
    first = 0
    while first < len(order):
        longest = int(lengths[first])
        begin = int(offsets[order[first]])
        if model.context is not None and longest > model.context:
            text = tokens[begin : begin + longest]
            total.merge(_windows(model, text, start, compute_device))
            first += 1
            continue
        steps = min(longest, CHUNK)
        last = first + max(1, SCORED // (2 * steps * model.head.out_features))
        rows = order[first:last]
        part = _score_rows(
            model, tokens, offsets[rows], lengths[first:last], start, compute_device
        )
        total.merge(part)
        first = last
    return total


def _score_rows(
    model: LanguageModel,
    tokens: Tensor,
    begins: Tensor,
    lengths: Tensor,
    start: int,
    compute_device: ComputeDevice,
) -> Sum:
    """Score documents side by side, the longest first, the state carried along each."""
    device = compute_device.device
    total = Sum()
    state: State | None = None
    longest = int(lengths[0])
    # one of limited reach is read at once, within its reach
    chunk = longest if model.context is not None else CHUNK
    for at in range(0, longest, chunk):
        steps = torch.arange(at, min(at + chunk, longest))
        left = int((lengths > at).sum())
        if state is not None and left < state.rows:
            state = state.reorder(torch.arange(left, device=device))
        positions = begins[:left, None] + steps
        own = steps < lengths[:left, None]
        targets = tokens[positions.clamp(max=len(tokens) - 1)]
        inputs = tokens[(positions - 1).clamp(min=0, max=len(tokens) - 1)]
        if at == 0:
            inputs[:, 0] = start
        counts = own.sum(1).to(device)
        with compute_device.autocast():
            scores, state = model(inputs.to(device), state, counts)
        total.add(scores, targets.to(device), own.to(device))
    return total


class _Lanes:
    """A text read in lanes side by side, the state carried along each.

    A lane reads ``WARM`` tokens of what stands before it unscored, after the mark that every text
    begins with. What it says of its own first tokens is then compared with what the lane before
    it would have said there, reading on: by so much a token the lanes differ from one pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Tensor,
        start: int,
        compute_device: ComputeDevice,
        count: int,
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.start = start
        self.compute_device = compute_device
        self.count = count
        self.length = -(-len(tokens) // count)
        self.begins = torch.arange(count) * self.length
        # before[p] stands before tokens[p]
        mark = torch.tensor([start])
        self.before = torch.cat([mark, tokens])
        scores_of_step = count * model.head.out_features
        most = SCORED // scores_of_step
        self.chunk = max(1, min(CHUNK, most))

    def score(self) -> tuple[Sum, float]:
        """Score the text.

        Returns:
            What was scored, and by how much the lanes differ from one pass in their first
            ``CHUNK`` tokens, in nats a token: the mean over lanes.
        """
        total = Sum()
        state = self._first_state()
        fresh_nats = torch.empty(0)
        for at in range(0, self.length, self.chunk):
            end = min(at + self.chunk, self.length)
            inputs = self._inputs(self.begins, at, end)
            with self.compute_device.autocast():
                scores, state = self.model(inputs, state)
            targets, own = self._targets(self.begins, at, end)
            total.add(scores, targets, own)
            # the first lane began as one pass does
            if at == 0 and self.count > 1:
                fresh_nats = _nats(scores[1:], targets[1:], own[1:])
        if self.count == 1:
            return total, 0.0
        differences = (fresh_nats - self._nats_reading_on(state)).abs()
        return total, float(differences.mean())

    def _inputs(self, begins: Tensor, at: int, end: int) -> Tensor:
        steps = torch.arange(at, end)
        positions = begins[:, None] + steps
        size = len(self.tokens)
        device = self.compute_device.device
        inside = positions.clamp(max=size)
        return self.before[inside].to(device)

    def _targets(self, begins: Tensor, at: int, end: int) -> tuple[Tensor, Tensor]:
        """Return the tokens at these positions, and which of them are of the lane's own part."""
        size = len(self.tokens)
        device = self.compute_device.device
        steps = torch.arange(at, end)
        first = begins[:, None]
        positions = first + steps
        ends = torch.clamp(first + self.length, max=size)
        own = positions < ends
        inside = positions.clamp(max=size - 1)
        targets = self.tokens[inside]
        return targets.to(device), own.to(device)

    def _first_state(self) -> State:
        """Return the state before each lane's own part."""
        state: State = self.model.initial_state(1)
        if self.count == 1:
            return state
        # the first lane starts fresh; the others first read what stands before them
        warm: State | None = None
        others = self.begins[1:]
        for at in range(-WARM, 0, CHUNK):
            inputs = self._inputs(others, at, at + CHUNK)
            if warm is None:
                inputs = begin_with(inputs, self.start)
            with self.compute_device.autocast():
                _, warm = self.model.read(inputs, warm)
        assert warm is not None
        return type(state).join([state, warm])

    def _nats_reading_on(self, state: State) -> Tensor:
        """Return what the first tokens of each lane cost the lane before it, which reads on.

        The end of each lane but the last is where the next one begins.
        """
        begins = self.begins[1:]
        device = self.compute_device.device
        lanes_before = torch.arange(self.count - 1, device=device)
        handed = state.reorder(lanes_before)
        end = min(self.chunk, self.length)
        inputs = self._inputs(begins, 0, end)
        with self.compute_device.autocast():
            scores, _ = self.model(inputs, handed)
        targets, own = self._targets(begins, 0, end)
        return _nats(scores, targets, own)


def _nats(scores: Tensor, targets: Tensor, own: Tensor) -> Tensor:
    """Return the mean cross entropy of each row (B,) of scores (B, T, V), where ``own`` (B, T)."""
    by_class = scores.transpose(1, 2).float()
    losses = F.cross_entropy(by_class, targets, reduction="none")
    nats = (losses * own).sum(1)
    counts = own.sum(1)
    return nats / counts.clamp(min=1)


def _windows(
    model: LanguageModel, tokens: Tensor, start: int, compute_device: ComputeDevice
) -> Sum:
    """Score a text in overlapping windows of the model's context."""
    assert model.context is not None
    device = compute_device.device
    size = len(tokens)
    total = Sum()
    width = min(model.context, size)
    fresh = max(1, width // 2)  # tokens that each window after the first scores
    last = max(1, size - width + fresh)
    begins = torch.arange(0, last, fresh)
    mark = torch.tensor([start])
    shifted = torch.cat([mark, tokens])
    scores_of_window = width * model.head.out_features
    at_once = max(1, min(32, SCORED // scores_of_window))
    steps = torch.arange(width)
    in_last_half = steps >= width - fresh
    for rows in begins.split(at_once):
        begin = rows[:, None]
        positions = begin + steps
        inside = positions.clamp(max=size - 1)
        before = shifted[inside]
        inputs = begin_with(before, start)
        # the first window scores all that it reads
        is_new = (begin == 0) | in_last_half
        in_text = positions < size
        scored = in_text & is_new
        with compute_device.autocast():
            logits, _ = model(inputs.to(device))
        targets = tokens[inside].to(device)
        total.add(logits, targets, scored.to(device))
    return total
