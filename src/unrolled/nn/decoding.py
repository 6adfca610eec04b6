"""Transformer decoders in the native core: one call a token, and a cache whose keys never move.

Shapes: B rows, S sources, V vocabulary, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from unrolled.nn.beam_state import BeamState
from unrolled.nn.embedding import TokenEmbedding
from unrolled.nn.forms import unlike
from unrolled.nn.layer import Layer, checked
from unrolled.nn.memory import DecoderState, Memory
from unrolled.nn.packing import (
    blocks_of,
    changes_of_stack,
    pack_stack,
    unsupported_by_core,
)
from unrolled.nn.positions import rotation, sinusoid
from unrolled.nn.rooms import Rooms
from unrolled.nn.state import AttentionState, State
from unrolled.nn.stepper import NativeStepper, StepParts, why_not_native
from unrolled.nn.transformer import Attention
from unrolled.ops.decoder import Cache, SourceMemory


@dataclass(frozen=True, eq=False)
class DecoderParts(StepParts):
    """What is stepped: a layer with ``attend``, and what stands before and after it in a model.

    The embedding, the input product and learned positions are called as modules, so they may be
    anything.
    """

    steps = Attention
    heeds_autocast = True
    embedding: TokenEmbedding
    layer: Layer
    head: nn.Linear

    def modules(self) -> tuple[nn.Module, ...]:
        """Return the parts, in the order in which they run."""
        return self.embedding, self.layer, self.head

    def weights(self) -> Iterator[Tensor]:
        modules = self.modules()
        return chain.from_iterable(part.parameters() for part in modules)

    def unfit(self) -> Iterator[str]:
        if cast(Attention, self.layer).memory_size is None:
            yield "the layer was built without memory_size, so it reads no source"

    def changes(self) -> Iterator[str]:
        yield from changes_of_stack(cast(Attention, self.layer))
        yield unlike(self.head, nn.Linear)

    def unsupported(self, rows: int) -> Iterator[str]:
        layer = cast(Attention, self.layer)
        yield from unsupported_by_core(layer)
        heads = blocks_of(layer)[0].attention.heads
        if layer.head_size * heads != layer.output_size:
            yield "the core has one head_size for source and target"
        if any(part.training for part in self.modules()):
            yield "the model is in training; call eval() first"


class _StepCall(NamedTuple):
    """A step that the core has yet to take."""

    x: Tensor
    cache: Cache
    source: SourceMemory
    turn: tuple[Tensor, Tensor] | None
    after: Callable[[], DecoderState]


class _ReadLengths(NamedTuple):
    """The lengths that are read of a memory, which stay the same for many steps."""

    keys: tuple[Tensor, ...]  # of that memory, new with every one
    lengths: Tensor
    clamped: Tensor


class NativeDecoder(NativeStepper[DecoderParts]):
    """Steps an embedding, a transformer decoder and output weights, one call of the core a token.

    The weights of the blocks and of the head are those of the moment it was made, or of the last
    ``refresh``. It says what ``layer.step`` and ``head`` say in evaluation, but for the last bits.

    Args:
        parts: what to step.
        precision: of the packed weights: float32, bf16 or int8.

    Raises:
        ValueError: the native core cannot step these parts.
    """

    noun = "decoder"

    def __init__(self, parts: DecoderParts, precision: str = "float32") -> None:
        why = why_not_native(parts)
        if why is not None:
            raise ValueError(f"expected parts that the native core steps: {why}")
        super().__init__(parts)
        self._layer = cast(Attention, parts.layer)
        self._precision = precision
        self._pack()
        # what is known of positions: position by position, as far as was asked for
        self._positions: tuple[Tensor, ...] = ()
        self._rooms = Rooms()
        self._read: _ReadLengths | None = None

    def _pack(self) -> None:
        head = self._parts.head
        self._packed = pack_stack(self._layer, head, self._precision)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, DecoderState]:
        """Read one token of every row.

        Args:
            tokens: (B,).
            state: what the layer's ``attend`` began; left as it is, to be stepped again if wanted.

        Returns:
            Scores of the next token (B, V), which stand until the next step; and the state after.

        Raises:
            ValueError: a state of another layer, or the layer's context is full.
        """
        x, cache, source, turn, after = self._call(tokens, state)
        scores = self._packed.step(x, cache, source, turn)
        return scores, after()

    @torch.no_grad()
    def best(
        self,
        tokens: Tensor,
        state: State,
        k: int,
        banned: Tensor,
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """Read one token of every row; return the ``k`` likeliest next tokens, best first.

        Args:
            tokens, state: see ``step``.
            k: from 1 to 64; no more than V are returned.
            banned: tokens that are passed over, int64; the others become no likelier.

        Returns:
            Log-probabilities (B, k), NaN where the scores have no bounds; tokens (B, k); and the
            state after.

        Raises:
            ValueError: see ``step``; k or a banned token out of range.
        """
        x, cache, source, turn, after = self._call(tokens, state)
        k = min(k, self._packed.shape.vocabulary)
        values, best = self._packed.best(x, cache, source, turn, k=k, banned=banned)
        return values, best, after()

    def _call(self, tokens: Tensor, state: State) -> _StepCall:
        """Return what the core is given, and what makes the state after its call."""
        checked(state, DecoderState, "a decoder, which begins with attend")
        before = cast(DecoderState, state)
        inner = before.inner
        if not isinstance(inner, BeamState):
            checked(inner, AttentionState, "a decoder with attention")
            inner = BeamState.of(cast(AttentionState, inner))
        if tokens.shape != inner.lengths.shape:
            raise ValueError(
                f"expected tokens of {inner.rows} rows, got {tuple(tokens.shape)}"
            )
        self._layer.check_context(inner.used + 1)
        inner = inner.claimed(self._rooms)
        x, turn = self._embedded(tokens, inner)
        cache = Cache(
            keys=inner.buffer.keys,
            values=inner.buffer.values,
            lengths=inner.lengths,
            origin=inner.origin,
        )
        memory = before.memory
        if not memory.gaps:
            memory = replace(memory, gaps=True)

        def after() -> DecoderState:
            return DecoderState(inner.stepped(), memory)

        return _StepCall(x, cache, self._source(memory), turn, after)

    def _source(self, memory: Memory) -> SourceMemory:
        """Return what the core reads of a memory: of a source without steps its first, as there."""
        keys = memory.keys
        lengths = memory.lengths
        read = self._read
        if read is None or read.keys is not keys or read.lengths is not lengths:
            most = keys[0].shape[2]
            clamped = lengths.long().clamp(min=1, max=most)
            read = _ReadLengths(keys, lengths, clamped)
            self._read = read
        return SourceMemory(keys, memory.values, read.clamped, memory.rows)

    def _embedded(
        self, tokens: Tensor, inner: BeamState
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the tokens as vectors with their positions (B, W), or the rotation beside them."""
        layer = self._layer
        lengths = inner.lengths
        vectors = self._parts.embedding(tokens)
        x = layer.project(vectors)
        table = layer.position_table
        if table is not None:
            return x + table(lengths), None
        if not self._positions or len(self._positions[0]) <= inner.used:
            count = max(2 * inner.used, 64)
            self._positions = self._up_to(count, lengths.device)
        rows = [part.index_select(0, lengths) for part in self._positions]
        if layer.positions == "rotary":
            cosines, sines = rows
            return x, (cosines, sines)
        return x + rows[0], None

    def _up_to(self, count: int, device: torch.device) -> tuple[Tensor, ...]:
        """Return what is known of the first positions: the rotation, or their vectors."""
        layer = self._layer
        positions = torch.arange(count, device=device)[None]
        if layer.positions == "rotary":
            cosines, sines = rotation(positions, layer.rotary)
            return cosines[0, 0], sines[0, 0]
        vectors = sinusoid(positions, layer.output_size)
        return (vectors[0],)

    def explain(self) -> str:
        """Return one line: what runs."""
        return f"native core: {self._packed.bytes:,} bytes of weights read in a step"
