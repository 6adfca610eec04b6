"""Integrated gradients (Sundararajan et al. 2017): along the straight path from zeros to an input.

Legend: T steps, D numbers of a step, F features of other columns, N rows read together, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.data.batches import Batch
from unrolled.insight.looker import Looker
from unrolled.insight.trace import Explained
from unrolled.tasks.steps import CHARACTERS, FEATURES, InputSteps

NODES = 4  # of Gauss and Legendre's rule in each part of the path
READ = 1 << 16  # steps that are read together
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """What was integrated: by step (T,), by column, which may be parts of the steps, and in all."""

    steps: Doubles
    columns: dict[str, float]
    total: float


class StraightPath:
    """The straight path from an input of zeros to the input itself.

    What is scaled is what the layer reads (the vectors of tokens, or numbers), the features of
    other columns, and what n-grams add to the scores.

    Args:
        looker: the model.
        steps: the input.
        explained: the number that is explained.
        grid: points at which it is seen where that number changes.

    Attributes:
        baseline: the number that is explained, for the input of zeros.
        difference: that of the input less the baseline.
    """

    def __init__(
        self,
        looker: Looker,
        steps: InputSteps,
        explained: Explained,
        grid: int,
    ) -> None:
        self.looker = looker
        self.steps = steps
        self.explained = explained
        model = looker.model
        self.embedding = looker.reader.embedding(model)
        self.ngrams = looker.reader.ngrams(model)
        self.features = steps.extra(FEATURES)
        modules = [self.embedding]
        if self.ngrams is not None:
            modules.append(self.ngrams)
        outputs = self._outputs_of(modules)
        self.vectors = outputs[self.embedding]
        self.added = None if self.ngrams is None else outputs[self.ngrams]
        self.grid = np.linspace(0, 1, grid)
        self.grid_values = self._values(self.grid)
        self.baseline = float(self.grid_values[0])
        self.difference = float(self.grid_values[-1]) - self.baseline

    @property
    def _step(self) -> int:
        """The step of the output that is explained."""
        step = self.explained.step
        return -1 if step is None else step

    def _outputs_of(self, modules: Sequence[nn.Module]) -> dict[nn.Module, Tensor]:
        """Return what some modules say to the input."""
        outputs: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[module] = output.detach()

        with ExitStack() as stack, torch.no_grad():
            for module in modules:
                handle = module.register_forward_hook(keep)
                stack.callback(handle.remove)
            self.looker.reader.read_features(self.looker.model, self.steps.batch)
        return outputs

    def _values(self, alphas: Doubles) -> Doubles:
        """Return the number that is explained at some points of the path, (N,)."""
        values: list[Tensor] = []
        rows = max(1, READ // len(self.steps))
        points = torch.tensor(alphas, dtype=torch.float32)
        for chunk in points.split(rows):
            with torch.no_grad():
                values.append(self._read(chunk, []))
        joint: Doubles = torch.cat(values).double().cpu().numpy()
        return joint

    def _read(self, alphas: Tensor, leaves: list[Tensor]) -> Tensor:
        """Return the numbers at some points (N,), and what was scaled for them in ``leaves``."""
        count = len(alphas)
        looker = self.looker
        batch = self.steps.repeated(count)

        def scaled(whole: Tensor) -> Tensor:
            ones = [1] * (whole.dim() - 1)
            leaf = alphas.to(whole).reshape(count, *ones) * whole
            leaf.requires_grad_(torch.is_grad_enabled())
            leaves.append(leaf)
            return leaf

        with ExitStack() as stack:
            vectors = scaled(self.vectors)
            stack.enter_context(replaced(self.embedding, vectors))
            if self.ngrams is not None and self.added is not None:
                added = scaled(self.added)
                stack.enter_context(replaced(self.ngrams, added))
            if self.features is not None:
                extras = list(batch.extra)
                index = self.steps.roles.index(FEATURES)
                extras[index] = scaled(self.features)
                batch = replace(batch, extra=tuple(extras))
            stack.enter_context(looker.held())
            features = looker.reader.read_features(looker.model, batch)
            probabilities = looker.probabilities(features, self.steps, self._step)
        return probabilities[:, self.explained.index]

    def _rule(self, count: int) -> tuple[Doubles, Doubles]:
        """Return ``count`` points of the path and their weights, more where the number changes.

        Each part of the path has ``NODES`` points of Gauss and Legendre's rule; parts are cut so
        that the number, as seen on the grid, changes alike in each.
        """
        steps = np.diff(self.grid_values)
        changes = np.abs(steps)
        # where it hardly changes there are points too
        passed = np.cumsum(changes + changes.sum() / len(self.grid) + 1e-12)
        passed = np.concatenate([[0.0], passed])
        parts = max(1, count // NODES)
        even_changes = np.linspace(0, passed[-1], parts + 1)
        cuts = np.interp(even_changes, passed, self.grid)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        lengths = np.diff(cuts)[:, None]
        points = cuts[:-1, None] + lengths * (nodes + 1) / 2
        scaled_weights = lengths * weights / 2
        return points.ravel(), scaled_weights.ravel()

    def numbers(self, batch: Batch, step: int) -> Doubles:
        """Return the number that is explained for rows of a batch, at a step, (N,)."""
        looker = self.looker
        with torch.no_grad(), looker.held():
            features = looker.reader.read_features(looker.model, batch)
            values = looker.probabilities(features, self.steps, step)
        chosen = values[:, self.explained.index]
        numbers: Doubles = chosen.double().cpu().numpy()
        return numbers

    def without_vectors(
        self,
        first: int,
        end: int,
    ) -> float:
        """Return the number that is explained where the vectors of some steps are zero."""
        vectors = self.vectors.clone()
        vectors[:, first:end] = 0
        with replaced(self.embedding, vectors):
            numbers = self.numbers(self.steps.batch, self._step)
        return float(numbers[0])

    def integrate(self, count: int) -> Shares:
        """Return the integral of gradients by a rule of ``count`` points."""
        points, weights = self._rule(count)
        alphas = torch.tensor(points, dtype=torch.float32)
        rows = max(1, READ // len(self.steps))
        means: list[Tensor] = []
        for chunk in torch.arange(len(alphas)).split(rows):
            leaves: list[Tensor] = []
            with torch.enable_grad():
                values = self._read(alphas[chunk], leaves)
                gradients = torch.autograd.grad(values.sum(), leaves)
            scale = torch.tensor(weights[chunk.numpy()])
            parts = [
                torch.tensordot(
                    scale,
                    g.double(),
                    1,
                )
                for g in gradients
            ]
            if means:
                pairs = zip(
                    means,
                    parts,
                    strict=True,
                )
                parts = [mean + part for mean, part in pairs]
            means = parts
        return self._shares(means)

    def _shares(self, means: list[Tensor]) -> Shares:
        """Return the shares of steps and columns, given the mean gradients of what was scaled."""
        of_vectors, *others = means
        vectors = of_vectors * self.vectors[0].double()
        numbers = vectors.numpy()
        columns: dict[str, float] = {}
        if not self.steps.are_tokens:
            by_feature = numbers.reshape(-1, numbers.shape[-1]).sum(0)
            columns = _by_name(self.steps.features, by_feature)
        shares = numbers.reshape(len(self.steps), -1).sum(1)
        if self.ngrams is not None:
            shares = shares + self._of_ngrams(others.pop(0))
        total = float(shares.sum())
        if self.features is not None:
            products = others.pop(0) * self.features[0].double()
            by_feature = products.reshape(-1, products.shape[-1]).sum(0)
            columns = _by_name(self.steps.features, by_feature.numpy())
            if products.dim() == 2:
                # what stands next to each step is a part of it
                shares = shares + products.sum(1).numpy()
            total += float(products.sum())
        return Shares(
            shares,
            columns,
            total,
        )

    def _of_ngrams(self, mean: Tensor) -> Doubles:
        """Return what n-grams add, by the steps (T,) of whose characters they are made."""
        characters = self.steps.extra(CHARACTERS)
        assert self.ngrams is not None
        assert characters is not None
        row = characters[0]
        with torch.no_grad():
            first, sizes, vectors = self.ngrams.contributions(row)
        added = vectors.double() @ mean
        by_character = np.zeros(len(row))
        for begin, size, value in zip(
            first.tolist(),
            sizes.tolist(),
            added.tolist(),
            strict=True,
        ):
            by_character[begin : begin + size] += value / size
        shares = np.zeros(len(self.steps))
        np.add.at(shares, self.steps.owners(len(row)), by_character)
        return shares


def _by_name(names: Sequence[str], values: Doubles) -> dict[str, float]:
    """Return the sums of values by their names."""
    sums: dict[str, float] = {}
    for name, value in zip(
        names,
        values.tolist(),
        strict=True,
    ):
        sums[name] = sums.get(name, 0.0) + value
    return sums


@contextmanager
def replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let a module say ``output``, whatever it reads."""

    def put_in(
        module: nn.Module,
        inputs: object,
        before: object,
    ) -> Tensor:
        return output

    handle = module.register_forward_hook(put_in)
    try:
        yield
    finally:
        handle.remove()
