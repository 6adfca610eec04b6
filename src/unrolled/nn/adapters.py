"""Adapters: weights of low rank beside frozen ones (LoRA, Hu et al. 2022; DoRA, Liu et al. 2024).

Legend: N rows, I inputs and O outputs of a product, R the rank, P parts of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from unrolled.nn.layer import Layer
from unrolled.nn.recurrent import Recurrent
from unrolled.nn.transformer import FeedForward
from unrolled.ops.derivatives import is_transformed
from unrolled.ops.modes import mode

LOW_RANK = "low_rank"
PARAMETRIZED = "parametrizations."  # before the names of weights of recurrent layers
SHORTEST = 1e-12  # length of a row: one of zeros stays so


class LowRank(nn.Module):
    """What is learnt beside a weight W (O, I): s B A, of rank R (Hu et al. 2022, equation 3).

    With magnitudes m (O,), the rows of W + s B A are brought to the lengths m (Liu et al. 2024,
    equation 5). At first nothing is changed: B is zero, and m are the lengths that rows have.

    Args:
        weight: W.
        rank: R.
        scale: s, which is alpha / R.
        parts: P equal parts of the outputs have a B and an A each, as two products that stand in
            one weight.
        magnitudes: whether lengths of rows are learnt by themselves.

    Attributes:
        down: A of all parts below each other (P R, I).
        up: B (O, R).
        lengths: squares of the lengths of W's rows, where there are magnitudes.
    """

    lengths: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        scale: float,
        parts: int = 1,
        magnitudes: bool = False,
    ) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.rank = rank
        self.scale = scale
        self.parts = parts
        self.down = nn.Parameter(weight.new_empty(parts * rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        for part in self.down.chunk(parts):
            nn.init.kaiming_uniform_(part.detach(), a=math.sqrt(5))
        self.magnitude: nn.Parameter | None = None
        if magnitudes:
            squares = weight.detach().square().sum(1)
            self.register_buffer("lengths", squares)
            self.magnitude = nn.Parameter(squares.sqrt())

    def forward(self, weight: Tensor) -> Tensor:
        """Return W with what was learnt put into it; see ``merged_weight``."""
        return merged_weight(weight, self.down, self.up, self.scale, self.magnitude)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield B (O / P, R) and A (R, I) of each part."""
        ups = self.up.chunk(self.parts)
        downs = self.down.chunk(self.parts)
        yield from zip(ups, downs, strict=True)

    def gains(self, weight: Tensor) -> Tensor:
        """Return what the rows of W + s B A are multiplied with (O,), where there are magnitudes.

        The lengths of its rows are found without making it: that of w + s b A is
        |w|^2 + 2 s b (A w) + s^2 |b A|^2, squared.
        """
        assert self.magnitude is not None
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            mixed: list[Tensor] = []
            rows = weight.chunk(self.parts)
            for (up, down), part in zip(self.pairs(), rows, strict=True):
                twice = 2 * self.scale * (up * (part @ down.T)).sum(1)
                own = self.scale**2 * (up * (up @ (down @ down.T))).sum(1)
                mixed.append(twice + own)
            squares = (self.lengths + torch.cat(mixed)).clamp(min=0)
            lengths = squares.sqrt().clamp(min=SHORTEST)
        return self.magnitude / lengths


def merged_weight(
    weight: Tensor, down: Tensor, up: Tensor, scale: float, magnitude: Tensor | None
) -> Tensor:
    """Return W + s B A (O, I), with rows of the lengths m where there are some.

    That is in the precision of W, whatever autocast computes in.

    Args:
        weight: W.
        down: A of all parts below each other (P R, I).
        up: B (O, R).
        scale: s.
        magnitude: m (O,).
    """
    parts = len(down) // up.shape[1]
    with torch.autocast(weight.device.type, enabled=False):
        changes: list[Tensor] = []
        for part_up, part_down in zip(up.chunk(parts), down.chunk(parts), strict=True):
            changes.append(part_up @ part_down)
        change = changes[0] if parts == 1 else torch.cat(changes)
        merged = torch.add(weight, change, alpha=scale)
        if magnitude is None:
            return merged
        # which is a constant for the gradient (Liu et al. 2024, section 4.3)
        lengths = merged.detach().norm(dim=1).clamp(min=SHORTEST)
        return merged * (magnitude / lengths)[:, None]


class AdaptedLinear(nn.Module):
    """A linear layer whose weight is frozen, with a ``LowRank`` beside it.

    Args:
        linear: whose weight and bias are kept, under their names.
        low_rank: what is learnt.
        dropout: on what the adapter reads.
    """

    def __init__(
        self, linear: nn.Linear, low_rank: LowRank, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self.low_rank = low_rank
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for x (..., I)."""
        low_rank = self.low_rank
        bias = self.bias if low_rank.magnitude is None else None
        y = self._product(x, bias)
        if low_rank.magnitude is None:
            return y
        y = y * low_rank.gains(self.weight).to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        low_rank = self.low_rank
        dropped = self.training and self.dropout > 0
        is_plain = dropped or mode() == "reference" or is_transformed()
        if is_plain or torch.is_autocast_enabled(x.device.type):
            return self._by_torch(x, bias)
        apply: Any = _LowRankProduct.apply
        rows = x.reshape(-1, self.in_features)
        y: Tensor = apply(
            rows,
            self.weight,
            bias,
            low_rank.down,
            low_rank.up,
            low_rank.parts,
            low_rank.scale,
        )
        return y.view(*x.shape[:-1], self.out_features)

    def _by_torch(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the same by operations of torch, which can be differentiated in every way."""
        read = F.dropout(x, self.dropout, self.training)
        changes: list[Tensor] = []
        for up, down in self.low_rank.pairs():
            changes.append(F.linear(F.linear(read, down), up))
        y = F.linear(x, self.weight, bias)
        return y + self.low_rank.scale * torch.cat(changes, -1)

    def extra_repr(self) -> str:
        """Return the sizes, as a linear layer shows them."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, rank={self.low_rank.rank}"

    def merged(self) -> nn.Linear:
        """Return a linear layer that says the same."""
        plain = nn.Linear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            device="meta",
        )
        weight: Tensor = self.low_rank(self.weight).detach()
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = self.bias
        return plain.train(self.training)


class _LowRankProduct(torch.autograd.Function):
    """x W' + b + s (x A') B', added up in place; W has no gradient, and none is computed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        parts: int,
        scale: float,
    ) -> Tensor:
        y = F.linear(x, weight, bias)
        low = x @ down.T
        for out, read, part in zip(
            y.chunk(parts, 1),
            low.chunk(parts, 1),
            up.chunk(parts),
            strict=True,
        ):
            out.addmm_(read, part.T, alpha=scale)
        ctx.save_for_backward(x, weight, down, up, low)
        ctx.parts = parts
        ctx.scale = scale
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, low = ctx.saved_tensors
        d_up = torch.empty_like(up)
        d_low = torch.empty_like(low)
        for out, read, part, d_part, d_read in zip(
            gradient.chunk(ctx.parts, 1),
            low.chunk(ctx.parts, 1),
            up.chunk(ctx.parts),
            d_up.chunk(ctx.parts),
            d_low.chunk(ctx.parts, 1),
            strict=True,
        ):
            torch.mm(out.T, read, out=d_part)
            d_read.copy_(out @ part)
        d_up *= ctx.scale
        d_low *= ctx.scale
        d_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            d_x = gradient @ weight
            d_x.addmm_(d_low, down)
        d_bias = gradient.sum(0) if ctx.needs_input_grad[2] else None
        return d_x, None, d_bias, d_low.T @ x, d_up, None, None


# ---------------------------------------------------------------------- of a model


@dataclass(frozen=True, slots=True)
class Product:
    """A weight of a model that an adapter can stand beside.

    Attributes:
        name: of its module, or of a recurrent weight with its layer's.
        owner: the module that holds it.
        key: its name there: that of a linear layer, or of a recurrent weight.
        parts: products that stand below each other in it.
    """

    name: str
    owner: nn.Module
    key: str
    parts: int

    @property
    def weight_name(self) -> str:
        """Its name among the weights of the model."""
        in_layer = isinstance(self.owner, Recurrent)
        return self.name if in_layer else f"{self.name}.weight"

    @property
    def weight(self) -> Tensor:
        """The weight."""
        part = getattr(self.owner, self.key)
        return cast(Tensor, part if isinstance(part, Tensor) else part.weight)

    @property
    def low_rank(self) -> LowRank | None:
        """What stands beside it, if an adapter does."""
        part = getattr(self.owner, self.key)
        if isinstance(part, AdaptedLinear):
            return part.low_rank
        if not parametrize.is_parametrized(self.owner, self.key):
            return None
        holders: Any = self.owner.parametrizations
        return cast(LowRank, holders[self.key][0])

    def is_called(self, target: str) -> bool:
        """Whether a target means it; see ``ends_with``."""
        return ends_with(self.weight_name, target)


def ends_with(weight_name: str, target: str) -> bool:
    """Whether a target means a weight: by the end of its name, such as query or attention.query.

    Weights of recurrent layers may be named without the number of the layer, such as weight_ih.
    """
    name = weight_name.removesuffix(".weight")
    whole = f".{name}"
    return whole.endswith((f".{target}", f".{target.removesuffix('.weight')}")) or (
        f".{target}_l" in whole
    )


def products(model: nn.Module) -> Iterator[Product]:
    """Yield the weights of a model's layers that an adapter can stand beside, in their order."""
    seen = set[int]()
    for layer_name, layer in model.named_modules():
        if not isinstance(layer, Layer):
            continue
        for owner_name, owner in layer.named_modules(prefix=layer_name):
            if id(owner) in seen:
                continue
            seen.add(id(owner))
            yield from _products_of(owner_name, owner)


def _products_of(name: str, owner: nn.Module) -> Iterator[Product]:
    """Yield those that a module holds itself."""
    if isinstance(owner, AdaptedLinear):
        return
    before = f"{name}." if name else ""
    for key, child in owner.named_children():
        if isinstance(child, nn.Linear | AdaptedLinear):
            gated = isinstance(owner, FeedForward) and owner.gated and key == "up"
            yield Product(before + key, owner, key, 2 if gated else 1)
    if isinstance(owner, Recurrent):
        for direction in owner._layer_directions:
            # the weights of the gates, for inputs and for hidden vectors
            for key in filter(None, direction.names[:2]):
                yield Product(before + key, owner, key, 1)


def adapt(
    product: Product,
    rank: int,
    scale: float,
    magnitudes: bool = False,
    dropout: float = 0.0,
) -> LowRank:
    """Put an adapter beside a weight, which keeps its name and what it says.

    Args:
        product: the weight.
        rank, scale, magnitudes: see :class:`LowRank`.
        dropout: on what an adapter of a linear layer reads.
    """
    low_rank = LowRank(product.weight, rank, scale, product.parts, magnitudes)
    part = getattr(product.owner, product.key)
    if isinstance(part, nn.Linear):
        adapted = AdaptedLinear(part, low_rank, dropout)
        setattr(product.owner, product.key, adapted)
    else:
        parametrize.register_parametrization(product.owner, product.key, low_rank)
    return low_rank


def adapters(model: nn.Module) -> dict[str, LowRank]:
    """Return the adapters of a model by the names of the weights that they stand beside."""
    known: dict[str, LowRank] = {}
    for product in products(model):
        low_rank = product.low_rank
        if low_rank is not None:
            known[product.weight_name] = low_rank
    return known


def freeze_all_but(model: nn.Module, trained: Callable[[str], bool]) -> None:
    """Freeze the weights of an adapted model, but adapters and those of some names."""
    ours = set[int]()
    for low_rank in _low_ranks(model):
        ours.update(map(id, low_rank.parameters()))
    for name, weight in model.named_parameters():
        # what is frozen for another reason stays so
        if not (id(weight) in ours or trained(name)):
            weight.requires_grad_(False)


def _low_ranks(model: nn.Module) -> Iterator[LowRank]:
    for module in model.modules():
        if isinstance(module, LowRank):
            yield module


def is_adapted(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return any(True for _ in _low_ranks(model))


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Run a block with the adapters put into the weights, so that the model is a plain one.

    What steps and packs plain layers does so then. Nothing may be learnt in the block.
    """
    undo = merge(model)
    try:
        yield
    finally:
        with torch.no_grad():
            for step in undo:
                step()


@torch.no_grad()
def merge(model: nn.Module) -> list[Callable[[], None]]:
    """Put the adapters of a model into its weights, and return what brings each of them back."""
    undo: list[Callable[[], None]] = []
    for product in list(products(model)):
        if product.low_rank is not None:
            undo.append(_merge(product))
    return undo


def _merge(product: Product) -> Callable[[], None]:
    """Merge one adapter, and return what brings it back."""
    owner = product.owner
    key = product.key
    part = getattr(owner, key)
    if isinstance(part, AdaptedLinear):
        setattr(owner, key, part.merged())
        return lambda: setattr(owner, key, part)
    low_rank = product.low_rank
    assert low_rank is not None
    holders: Any = owner.parametrizations
    before = holders[key].original.detach().clone()
    parametrize.remove_parametrizations(owner, key, leave_parametrized=True)

    def bring_back() -> None:
        getattr(owner, key).copy_(before)
        parametrize.register_parametrization(owner, key, low_rank)

    return bring_back


@torch.no_grad()
def merged_weights(
    model: nn.Module, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of the plain model that says what an adapted one does.

    Args:
        model: adapted.
        weights: of it, or of what is trained of it; the others are as they are in the model.
    """
    scale = next(low_rank.scale for low_rank in _low_ranks(model))
    return merged_tensors({**model.state_dict(), **weights}, scale)


@torch.no_grad()
def merged_tensors(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the weights of a plain model of those of one with adapters, by their names.

    Args:
        tensors: the state of a model.
        scale: of its adapters.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if f".{LOW_RANK}." not in name and PARAMETRIZED not in name:
            plain[name] = tensor
    for name in tensors:
        for end in (f".{LOW_RANK}.up", ".0.up"):
            if not name.endswith(end):
                continue
            holder = name.removesuffix(end)
            is_linear = LOW_RANK in end
            base = f"{holder}.weight" if is_linear else f"{holder}.original"
            weight_name = base if is_linear else holder.replace(PARAMETRIZED, "")
            own = _below(name.removesuffix("up"), tensors)
            plain[weight_name] = merged_weight(
                tensors[base],
                own["down"],
                own["up"],
                scale,
                own.get("magnitude"),
            )
    return plain


def state_beside(
    model: nn.Module, weights: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return what adapters have learnt, by the names of the weights that they stand beside.

    Args:
        model: adapted.
        weights: of it, or of what is trained of it.
    """
    learnt: dict[str, dict[str, Tensor]] = {}
    for product in products(model):
        if product.low_rank is not None:
            learnt[product.weight_name] = _below(_before(product), weights)
    return learnt


def _below(before: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without that beginning."""
    return {
        name.removeprefix(before): tensor
        for name, tensor in tensors.items()
        if name.startswith(before)
    }


def _before(product: Product) -> str:
    """Return what the names of an adapter's numbers begin with."""
    if isinstance(getattr(product.owner, product.key), AdaptedLinear):
        return f"{product.name}.{LOW_RANK}."
    above = product.name.removesuffix(product.key)
    return f"{above}{PARAMETRIZED}{product.key}.0."
