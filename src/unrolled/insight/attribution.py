"""Which inputs mattered: integrated gradients, and what changes where a step is left out.

Legend: T steps, D numbers of a step, F features of other columns, N rows read together, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.data.batches import Batch
from unrolled.insight.trace import Attributions, Explained, Floats, spans_of
from unrolled.ops.recording import LONG
from unrolled.tasks.steps import CHARACTERS, FEATURES, Steps, joined

if TYPE_CHECKING:
    from unrolled.insight.tracing import Looker

POINTS = (16, 64, 256)  # of the quadrature, until the gap is small
POINTS_LONG = (16, 64)
NODES = 4  # of Gauss and Legendre's rule in each part of the way
GRID = 33  # points at which it is seen where the number changes
GAP = 1e-3
READ = 1 << 16  # steps that are read together
SPANS = 64  # that are left out one by one, of a long input
Doubles = NDArray[np.float64]


def attribute(looker: Looker, steps: Steps, explained: Explained) -> Attributions:
    """Return how much each step, and each other column, added to the number that is explained."""
    path = _Path(looker, steps, explained)
    points = POINTS if len(steps) <= LONG else POINTS_LONG
    baseline = float(path.grid_values[0])
    difference = float(path.grid_values[-1]) - baseline
    bound = GAP * (max(abs(difference), 1e-9) if looker.reader.are_values else 1.0)
    for count in points:
        shares = path.integrate(count)
        gap = abs(shares.total - difference)
        if gap <= bound:
            break
    spans = spans_of(len(steps), len(steps) if len(steps) <= LONG else SPANS)
    each = shares.steps
    is_long = len(steps) > LONG
    if is_long:
        each = np.array([each[first:end].sum() for first, end in spans])
    return Attributions(
        integrated_gradients=each.astype(np.float32),
        leave_one_out=_leave_out(path, spans),
        baseline=baseline,
        completeness_gap=gap,
        columns=shares.columns,
        points=count,
        spans=tuple(spans) if is_long else (),
    )


@dataclass(frozen=True)
class _Shares:
    """What was integrated: by step (T,), and by column, which may be parts of the steps."""

    steps: Doubles
    columns: dict[str, float]
    total: float


class _Path:
    """The straight way from an input of zeros to the input itself.

    What is scaled is what the layer reads (the vectors of tokens, or numbers), the features of
    other columns, and what n-grams add to the scores.
    """

    def __init__(self, looker: Looker, steps: Steps, explained: Explained) -> None:
        self.looker = looker
        self.steps = steps
        self.explained = explained
        model = looker.model
        self.embedding = looker.reader.embedding(model)
        self.ngrams = looker.reader.ngrams(model)
        seen: dict[nn.Module, Tensor] = {}
        modules = (
            [self.embedding] if self.ngrams is None else [self.embedding, self.ngrams]
        )
        with ExitStack() as stack, torch.no_grad():
            for module in modules:
                handle = module.register_forward_hook(
                    lambda module, inputs, output: seen.update({module: output})
                )
                stack.callback(handle.remove)
            looker.reader.read_features(model, steps.batch)
        self.vectors = seen[self.embedding].detach()
        self.added = None if self.ngrams is None else seen[self.ngrams].detach()
        self.features = steps.extra(FEATURES)
        self.grid = np.linspace(0, 1, GRID)
        self.grid_values = self._values(self.grid)

    def _values(self, alphas: Doubles) -> Doubles:
        """Return the number that is explained at some points of the way, (N,)."""
        values: list[Tensor] = []
        rows = max(1, READ // len(self.steps))
        for chunk in torch.tensor(alphas, dtype=torch.float32).split(rows):
            with torch.no_grad():
                values.append(self._read(chunk, []))
        joint: Doubles = torch.cat(values).double().cpu().numpy()
        return joint

    def _rule(self, count: int) -> tuple[Doubles, Doubles]:
        """Return ``count`` points of the way and their weights, more where the number changes.

        Each part of the way has ``NODES`` points of Gauss and Legendre's rule; parts are cut so
        that the number, as seen on the grid, changes alike in each.
        """
        changes = np.abs(np.diff(self.grid_values))
        # where it hardly changes there are points too
        passed = np.cumsum(changes + changes.sum() / GRID + 1e-12)
        passed = np.concatenate([[0.0], passed])
        parts = max(1, count // NODES)
        cuts = np.interp(np.linspace(0, passed[-1], parts + 1), passed, self.grid)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        lengths = np.diff(cuts)[:, None]
        points = cuts[:-1, None] + lengths * (nodes + 1) / 2
        return points.ravel(), (lengths * weights / 2).ravel()

    def _read(self, alphas: Tensor, leaves: list[Tensor]) -> Tensor:
        """Return the numbers at some points (N,), and what was scaled for them in ``leaves``."""
        count = len(alphas)
        looker = self.looker
        batch = self.steps.repeated(count)

        def scaled(whole: Tensor) -> Tensor:
            shape = (count, *[1] * (whole.dim() - 1))
            leaf = alphas.to(whole).reshape(shape) * whole
            leaf = leaf.requires_grad_(torch.is_grad_enabled())
            leaves.append(leaf)
            return leaf

        with ExitStack() as stack:
            stack.enter_context(replaced(self.embedding, scaled(self.vectors)))
            if self.ngrams is not None and self.added is not None:
                stack.enter_context(replaced(self.ngrams, scaled(self.added)))
            if self.features is not None:
                extras = list(batch.extra)
                extras[self.steps.roles.index(FEATURES)] = scaled(self.features)
                batch = replace(batch, extra=tuple(extras))
            stack.enter_context(looker.held())
            features = looker.reader.read_features(looker.model, batch)
            at = -1 if self.explained.step is None else self.explained.step
            probabilities = looker.probabilities(features, self.steps, at)
        return probabilities[:, self.explained.index]

    def numbers(self, batch: Batch, step: int) -> Doubles:
        """Return the number that is explained for rows of a batch, at a step, (N,)."""
        looker = self.looker
        with torch.no_grad(), looker.held():
            features = looker.reader.read_features(looker.model, batch)
            values = looker.probabilities(features, self.steps, step)
        return values[:, self.explained.index].double().cpu().numpy()

    def needs(self, first: int, end: int) -> bool:
        """Whether steps cannot be left out: all there are, or the one whose label is explained."""
        if not self.steps.are_tokens:
            return False
        step = self.explained.step
        own = (
            self.looker.reader.labels_steps and step is not None and first <= step < end
        )
        return own or end - first == len(self.steps)

    def without_vectors(self, first: int, end: int) -> float:
        """Return the number that is explained where the vectors of some steps are zero."""
        vectors = self.vectors.clone()
        vectors[:, first:end] = 0
        step = -1 if self.explained.step is None else self.explained.step
        with replaced(self.embedding, vectors):
            return float(self.numbers(self.steps.batch, step)[0])

    def integrate(self, count: int) -> _Shares:
        """Return the integral of gradients by a rule of ``count`` points."""
        points, weights = self._rule(count)
        alphas = torch.tensor(points, dtype=torch.float32)
        rows = max(1, READ // len(self.steps))
        sums: list[Tensor] = []
        for chunk in torch.arange(count).split(rows):
            leaves: list[Tensor] = []
            with torch.enable_grad():
                values = self._read(alphas[chunk], leaves)
                gradients = torch.autograd.grad(values.sum(), leaves)
            scale = torch.tensor(weights[chunk.numpy()], dtype=torch.float64)
            parts = [torch.tensordot(scale, g.double(), 1) for g in gradients]
            sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        return self._shares(sums)

    def _shares(self, means: list[Tensor]) -> _Shares:
        """Return the shares of steps and columns, given the mean gradients of what was scaled."""
        vectors = (means[0] * self.vectors[0].double()).numpy()
        columns: dict[str, float] = {}
        count = len(self.steps)
        if vectors.ndim == 1 or not self.steps.are_tokens:
            by_feature = vectors.reshape(-1, vectors.shape[-1]).sum(0)
            columns = _by_name(self.steps.features, by_feature)
        shares = vectors.reshape(count, -1).sum(1)
        total = float(shares.sum())
        rest = means[1:]
        if self.ngrams is not None:
            by_step = self._of_ngrams(rest.pop(0))
            shares = shares + by_step
            total += float(by_step.sum())
        if self.features is not None:
            by_feature = (rest.pop(0) * self.features[0].double()).numpy()
            columns = _by_name(self.steps.features, by_feature)
            total += float(by_feature.sum())
        return _Shares(shares, columns, total)

    def _of_ngrams(self, mean: Tensor) -> Doubles:
        """Return what n-grams add, by the steps (T,) of whose characters they are made."""
        assert self.ngrams is not None
        characters = self.steps.extra(CHARACTERS)
        assert characters is not None
        row = characters[0]
        with torch.no_grad():
            first, sizes, vectors = self.ngrams.contributions(row)
        added = (vectors.double() @ mean).numpy()
        by_character = np.zeros(len(row))
        pairs = zip(first.tolist(), sizes.tolist(), added.tolist(), strict=True)
        for begin, size, value in pairs:
            by_character[begin : begin + size] += value / size
        return _by_step(by_character, self.steps)


def _by_name(names: Sequence[str], values: Doubles) -> dict[str, float]:
    """Return the sums of values by their names."""
    sums: dict[str, float] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        sums[name] = sums.get(name, 0.0) + value
    return sums


def _by_step(by_character: Doubles, steps: Steps) -> Doubles:
    """Return what characters add by the steps (T,) that hold them.

    A character of no step, as a blank between words, is of the step after it.
    """
    owners = np.full(len(by_character), -1)
    for step in reversed(range(len(steps.spans))):
        begin, end = steps.spans[step]
        owners[begin:end] = step
    shares = np.zeros(len(steps))
    owner = len(steps) - 1
    for index in reversed(range(len(owners))):
        owner = owners[index] if owners[index] >= 0 else owner
        shares[owner] += by_character[index]
    return shares


@contextmanager
def replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let a module say ``output``, whatever it reads."""
    handle = module.register_forward_hook(lambda module, inputs, before: output)
    try:
        yield
    finally:
        handle.remove()


def _leave_out(path: _Path, spans: Sequence[tuple[int, int]]) -> Floats:
    """Return the number that is explained, less what it is without each span of steps."""
    steps = path.steps
    explained = path.explained
    differences = np.zeros(len(spans), dtype=np.float32)
    # spans whose removal leaves equally many steps are left out side by side
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (first, end) in enumerate(spans):
        if path.needs(first, end):
            differences[index] = explained.probability - path.without_vectors(
                first, end
            )
            continue
        step = _step_without(path, first, end)
        groups.setdefault((end - first, step), []).append(index)
    for (_, step), indices in groups.items():
        rows = max(1, READ // len(steps))
        for begin in range(0, len(indices), rows):
            chunk = indices[begin : begin + rows]
            batch = joined([steps.without(*spans[index]) for index in chunk])
            without = path.numbers(batch, step)
            differences[chunk] = explained.probability - without
    return differences


def _step_without(path: _Path, first: int, end: int) -> int:
    """Return the step whose output is explained once the steps from ``first`` are left out."""
    at = path.explained.step
    if at is None:
        return -1
    removed = max(0, min(end, at + 1) - first)
    if path.looker.reader.writes or not path.steps.are_tokens:
        removed = 0
    return max(0, at - removed)
