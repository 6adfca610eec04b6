"""Transformers packed for streams: weights, embeddings and positions as the native core reads them.

Shapes: E width of a head, W width, V tokens, P positions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from unrolled.core.errors import UserError
from unrolled.nn.forms import unlike
from unrolled.nn.packing import changes_of_stack, pack_stack, unsupported_by_core
from unrolled.nn.positions import rotation, sinusoid
from unrolled.nn.stream_parts import StreamParts
from unrolled.nn.transformer import Attention
from unrolled.ops import native
from unrolled.ops.decoder import address

# by which the largest of a block of weights may exceed its scale, which is in fp16
BLOCK_TOPS = {"q8_0": 127, "q4_0": 8}


class NotFinite(UserError, ValueError):
    """Weights hold inf or NaN, or more than the precision that they are packed in can."""


class TransformerParts(StreamParts):
    """A stack of transformer blocks, and what stands before and after it."""

    steps = Attention
    precisions = native.DECODER_PRECISIONS

    @property
    def stack(self) -> Attention:
        """The layer."""
        return cast(Attention, self.layer)

    def weights(self) -> Iterator[Tensor]:
        modules = [part for part in self.modules() if part is not self.dropout]
        return chain.from_iterable(part.parameters() for part in modules)

    def unfit(self) -> Iterator[str]:
        if self.stack.memory_size is not None:
            yield "the layer reads a source, which a stream has not"

    def layer_changes(self) -> Iterator[str]:
        stack = self.stack
        yield from changes_of_stack(stack)
        yield unlike(stack.project, nn.Identity, nn.Linear)
        if stack.position_table is not None:
            yield unlike(
                stack.position_table,
                nn.Embedding,
            )

    def unsupported(self, rows: int) -> Iterator[str]:
        yield from unsupported_by_core(self.stack)


class PositionTables(NamedTuple):
    """What is known of P positions: rows of ``vectors`` (P, W), or of a rotation (P, E/2)."""

    vectors: Tensor | None
    cosines: Tensor | None
    sines: Tensor | None
    size: int

    @classmethod
    def up_to(cls, stack: Attention, count: int) -> PositionTables:
        """Return that of ``count`` positions, or of all there are."""
        table = stack.position_table
        if table is not None:
            vectors = table.weight.detach().clone()
            return cls(vectors.contiguous(), None, None, len(vectors))
        positions = torch.arange(count, device="cpu")[None]
        if stack.positions == "rotary":
            cosines, sines = rotation(
                positions,
                stack.rotary,
            )
            return cls(
                None, cosines[0, 0].contiguous(), sines[0, 0].contiguous(), count
            )
        vectors = sinusoid(positions, stack.output_size)
        return cls(vectors[0].contiguous(), None, None, count)

    def addresses(self) -> tuple[int, int, int]:
        """Return where they stand, 0 for what there is not."""
        return address(self.vectors), address(self.cosines), address(self.sines)


class PackedModel:
    """What the native core reads of a transformer; later changes of its weights are not seen.

    Args:
        parts: what is packed; see ``why_not_native``.
        precision: of the weights: a key of ``native.DECODER_PRECISIONS``.
        positions: how many are to be known.

    Attributes:
        decoder: the stack and its output weights.
        project: a copy of what brings vectors to the width of the stack.
        table: the vectors of all tokens as the stack reads them (V, W); None without an embedding.
        positions: what is known of positions; see ``cover``.

    Raises:
        NotFinite: some of the weights, or too large for the precision.
    """

    @torch.no_grad()
    def __init__(self, parts: TransformerParts, precision: str, positions: int) -> None:
        most = BLOCK_TOPS.get(precision, math.inf) * torch.finfo(torch.half).max
        for part in parts.modules():
            for name, weight in part.named_parameters():
                _check_weight(part, name, weight, most)
        head = cast(nn.Linear | None, parts.head)
        self._stack = parts.stack
        self.decoder = pack_stack(parts.stack, head, precision)
        self.project = copy.deepcopy(parts.stack.project)
        self.table: Tensor | None = None
        embedding: Any = parts.embedding
        if embedding is not None:
            vectors = embedding.weight.detach() * embedding.scale
            # the core reads fp32, whatever autocast would compute in
            with torch.autocast("cpu", enabled=False):
                self.table = self.project(vectors).contiguous()
        self.positions = PositionTables.up_to(parts.stack, positions)

    @torch.no_grad()
    def cover(self, count: int) -> None:
        """See that ``count`` positions are known."""
        if self.positions.size < count:
            # ahead of a text that grows
            ahead = max(count, 2 * self.positions.size)
            self.positions = PositionTables.up_to(self._stack, ahead)


def _check_weight(part: nn.Module, name: str, weight: Tensor, most: float) -> None:
    """Refuse weights that cannot be packed: NotFinite, or numbers beyond ``most``."""
    where = f"in {name} of a {type(part).__name__}"
    if not bool(weight.isfinite().all()):
        raise NotFinite(
            f"expected finite weights, got inf or NaN {where}; go back to a checkpoint before they "
            "became so"
        )
    if most < math.inf and float(weight.abs().max()) > most:
        raise NotFinite(
            f"expected weights up to {most:,.0f}, got larger ones {where}; choose another precision"
        )
