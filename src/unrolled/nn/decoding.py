"""Transformer decoders in the native core: one call a token, and a cache whose keys never move.

Shapes: B rows, S sources, L blocks, K key-value heads, C room for steps, E width of a head, R rows
of the cache, V vocabulary, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self, cast
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from unrolled.nn.attention import CrossAttention, SelfAttention, rotation, sinusoid
from unrolled.nn.dropout import Dropout
from unrolled.nn.embedding import TokenEmbedding
from unrolled.nn.forms import unlike
from unrolled.nn.layer import Layer, checked
from unrolled.nn.memory import DecoderState, Memory
from unrolled.nn.state import AttentionState, Buffer, State
from unrolled.nn.transformer import Attention, Block, FeedForward
from unrolled.ops import mode, native
from unrolled.ops.decoder import Cache, PackedDecoder, Shape, SourceMemory


class DecoderParts(NamedTuple):
    """What is stepped: a layer with ``attend``, and what stands before and after it in a model."""

    embedding: TokenEmbedding
    layer: Layer
    head: nn.Linear


def why_not_native(parts: DecoderParts) -> str | None:
    """Return why the native core cannot step these parts; None when it can."""
    layer = parts.layer
    if not isinstance(layer, Attention) or type(layer).step is not Attention.step:
        return f"{type(layer).__name__} has no native step"
    if layer.memory_size is None:
        return "the layer was built without memory_size, so it reads no source"
    changed = _changed(parts)
    if changed:
        return f"the native core reads weights alone, and there is {changed}"
    if any(part.training for part in parts):
        return "the model is in training; call eval() first"
    weights = [weight for part in parts for weight in part.parameters()]
    kinds = {(weight.dtype, weight.device.type) for weight in weights}
    if kinds != {(torch.float32, "cpu")}:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        return f"the native core packs torch.float32 on cpu, the weights are {found}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast was asked for, and the native core would step in float32"
    if mode() == "reference":
        return "ops.use('reference') was chosen"
    return f"there is no native core: {native.missing()}" if native.missing() else None


_NORMS = (nn.LayerNorm, nn.RMSNorm)
# of a block: what stands under each name, and its products
_ROLES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "attention": (SelfAttention, ("query", "key", "value", "out")),
    "cross": (CrossAttention, ("query", "key", "value", "out")),
    "feedforward": (FeedForward, ("up", "out")),
    "dropout": (Dropout, ()),
}
_BLOCK_NORMS = ("attention_norm", "cross_norm", "feedforward_norm")


def _changed(parts: DecoderParts) -> str:
    """Return what makes these parts say something else than their weights do; empty if nothing.

    The embedding, the input product and learned positions are called as modules, so they may be
    anything.
    """
    layer = cast(Attention, parts.layer)
    blocks = [cast(Block, block) for block in layer.blocks]
    norms: list[Any] = [
        getattr(block, name) for block in blocks for name in _BLOCK_NORMS
    ]
    reasons = [
        unlike(layer, Attention),
        unlike(layer.dropout, Dropout),
        unlike(parts.head, nn.Linear),
        *(unlike(block, Block) for block in blocks),
        *(reason for block in blocks for reason in _changed_parts(block)),
    ]
    if blocks[0].norm_first:
        norms.append(layer.norm)
    else:
        reasons.append(unlike(layer.norm, nn.Identity))
    reasons += [unlike(norm, *_NORMS) for norm in norms]
    reason = next((reason for reason in reasons if reason), "")
    if reason:
        return reason
    if any(norm.weight is None or norm.eps is None for norm in norms):
        return "a norm without weights or without eps"
    if len({(type(norm), norm.eps) for norm in norms}) > 1:
        return "more than one kind of norm, or of its eps"
    if len({_sizes(block) for block in blocks}) > 1:
        return "a block that is built in another way than the first"
    return ""


def _changed_parts(block: Block) -> Iterator[str]:
    """Yield why parts of a block say something else than their weights do, empty where not."""
    for name, (kind, products) in _ROLES.items():
        part = getattr(block, name)
        yield unlike(part, kind)
        for product in products:
            yield unlike(getattr(part, product, part), nn.Linear)
    attention = block.attention
    linears = (attention.query, attention.key, attention.value)
    if len({getattr(linear, "bias", None) is None for linear in linears}) > 1:
        yield "a bias of some of query, key and value alone"


def _sizes(block: Block) -> tuple[object, ...]:
    """Return all that a block of the native core is built by."""
    cross = cast(CrossAttention, block.cross)
    feedforward = block.feedforward
    attention = block.attention.heads, block.attention.kv_heads, cross.heads
    return (*attention, feedforward.out.in_features, feedforward.kind, block.norm_first)


class Rooms:
    """Memory of caches, lent anew when the buffer that had it is gone.

    Pages of new memory cost more than what is written to them.
    """

    def __init__(self) -> None:
        self._lent: list[tuple[Tensor, ReferenceType[Buffer]]] = []

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Return room for keys and for values, float32; what stands there is left over."""
        needed = 2 * math.prod(shape)
        free = [memory for memory, holder in self._lent if holder() is None]
        fitting = [memory for memory in free if needed <= memory.numel() <= 4 * needed]
        if fitting:
            memory = min(fitting, key=Tensor.numel)
        else:  # what is free is too small by now, or far too large
            self._lent = [each for each in self._lent if each[1]() is not None]
            with torch.inference_mode(
                False
            ):  # else it could not be written outside of it
                memory = torch.empty(needed, dtype=torch.float32, device="cpu")
        keys, values = memory[:needed].view(2, *shape).unbind()
        made = Buffer(keys, values, 1)
        self._lent = [each for each in self._lent if each[0] is not memory] + [
            (memory, ref(made))
        ]
        return made


@dataclass(frozen=True, eq=False)
class BeamState(State):
    """Attention's state of rows that share what they read: reordering copies an index and no key.

    Step s of row b stands at index s of row ``origin[b, s]`` of the buffer, and row b itself writes
    into row b. As long as all rows have read as many steps, no row writes where another reads. A
    state that is no longer the newest copies before it writes, as an :class:`AttentionState` does.

    Args:
        buffer: the shared storage (L, R, K, C, E), R at least B.
        origin: (B, C), int32.
        lengths: steps read (B,), int64.
        used: the largest of ``lengths``.
        even: whether all of them are equal.
        turn: which writer of ``buffer`` this state was.
    """

    kind: ClassVar[str] = "beam"
    buffer: Buffer
    origin: Tensor
    lengths: Tensor
    used: int
    even: bool
    turn: int

    @property
    def rows(self) -> int:
        return self.lengths.shape[0]

    @classmethod
    def of(cls, state: AttentionState) -> Self:
        """Return the same state, its keys where they are."""
        rows = state.rows
        room = state.buffer.room
        even = bool((state.lengths == state.used).all())
        origin = torch.arange(rows, dtype=torch.int32, device="cpu")[:, None].repeat(
            1, room
        )
        return cls(state.buffer, origin, state.lengths, state.used, even, state.turn)

    def settled(self) -> AttentionState:
        """Return the same state with the keys of each row in a row of their own."""
        origin = self.origin[:, : self.used].long()
        steps = torch.arange(self.used, device=origin.device)

        def gathered(part: Tensor) -> Tensor:
            found = (
                part[:, origin, :, steps] if self.rows else part[:, :0, :, : self.used]
            )
            return found.permute(2, 0, 3, 1, 4).contiguous() if self.rows else found

        buffer = Buffer(gathered(self.buffer.keys), gathered(self.buffer.values))
        return AttentionState(buffer, self.lengths, self.used)

    def claimed(self, rooms: Rooms) -> Self:
        """Return the same state where it may write its next step; ``rooms`` has the memory."""
        old = self.buffer
        # an inference tensor must not be written outside inference mode
        writable = not self.origin.is_inference() or torch.is_inference_mode_enabled()
        if 0 < self.turn == old.newest and self.used < old.room and writable:
            return self
        settled = self.settled()
        used = self.used
        shape = settled.keys.shape
        buffer = rooms.buffer((*shape[:3], max(2 * used, 32), shape[4]))
        for part, before in (
            (buffer.keys, settled.keys),
            (buffer.values, settled.values),
        ):
            part[:, :, :, :used] = before
            if (
                not self.even
            ):  # rows that are behind leave places that packing takes along
                part[:, :, :, used:] = 0
        return type(self).of(AttentionState(buffer, self.lengths, used, 1))

    def stepped(self) -> Self:
        """Return the state after a step was written into ``buffer`` and ``origin``."""
        self.buffer.newest += 1
        after = self.lengths + 1, self.used + 1, self.even, self.buffer.newest
        return type(self)(self.buffer, self.origin, *after)

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        origin = self.origin.index_select(0, rows)
        lengths = self.lengths.index_select(0, rows)
        used = self.used if self.even else int(lengths.max()) if len(lengths) else 0
        moved = replace(self, origin=origin, lengths=lengths, used=used)
        if self.even and len(rows) <= self.buffer.keys.shape[1]:
            return moved
        return type(self).of(moved.settled())

    def detach(self) -> Self:
        return self

    def to_tensors(self) -> dict[str, Tensor]:
        return self.settled().to_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls.of(AttentionState.from_tensors(tensors))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        return cls.of(AttentionState.join([state.settled() for state in states]))


class _Begun(NamedTuple):
    """A step that the core has yet to take."""

    x: Tensor
    cache: Cache
    source: SourceMemory
    turn: tuple[Tensor, Tensor] | None
    after: Callable[[], DecoderState]


class NativeDecoder:
    """Steps an embedding, a transformer decoder and output weights, one call of the core a token.

    The weights of the blocks and of the head are those of the moment it was made. It says what
    ``layer.step`` and ``head`` say in evaluation, but for the last bits.

    Args:
        parts: what to step.
        precision: of the packed weights: float32, bf16 or int8.

    Raises:
        ValueError: the native core cannot step these parts.
    """

    def __init__(self, parts: DecoderParts, precision: str = "float32") -> None:
        why = why_not_native(parts)
        if why is not None:
            raise ValueError(f"expected parts that the native core steps: {why}")
        self._parts = parts
        self._layer = cast(Attention, parts.layer)
        self._packed = _packed(self._layer, parts.head, precision)
        self._places: tuple[
            Tensor, ...
        ] = ()  # position by position, as far as was asked for
        self._rooms = Rooms()
        # keys of the last memory, new with every one, and the lengths that are read of it
        self._memory: tuple[tuple[Tensor, ...], Tensor, Tensor] | None = None

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
        x, cache, source, turn, after = self._begun(tokens, state)
        return self._packed.step(x, cache, source, turn), after()

    @torch.no_grad()
    def best(
        self, tokens: Tensor, state: State, k: int, banned: Tensor
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
        x, cache, source, turn, after = self._begun(tokens, state)
        k = min(k, self._packed.shape.vocabulary)
        values, best = self._packed.best(x, cache, source, turn, k=k, banned=banned)
        return values, best, after()

    def _begun(self, tokens: Tensor, state: State) -> _Begun:
        """Return what the core is given, and what makes the state after its call."""
        checked(state, DecoderState, "a decoder, which begins with attend")
        told = cast(DecoderState, state)
        inner = told.inner
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
            inner.buffer.keys, inner.buffer.values, inner.lengths, inner.origin
        )
        memory = told.memory if told.memory.gaps else replace(told.memory, gaps=True)

        def after() -> DecoderState:
            return DecoderState(inner.stepped(), memory)

        return _Begun(x, cache, self._source(memory), turn, after)

    def _source(self, memory: Memory) -> SourceMemory:
        """Return what the core reads of a memory: of a source without steps its first, as there."""
        known = self._memory
        lengths = memory.lengths
        if known is None or known[0] is not memory.keys or known[1] is not lengths:
            most = memory.keys[0].shape[2]
            known = memory.keys, lengths, lengths.long().clamp(min=1, max=most)
            self._memory = known
        return SourceMemory(memory.keys, memory.values, known[2], memory.rows)

    def _embedded(
        self, tokens: Tensor, inner: BeamState
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the tokens as vectors with their positions (B, W), or the rotation beside them."""
        layer = self._layer
        lengths = inner.lengths
        x = layer.project(self._parts.embedding(tokens))
        if layer.place is not None:
            return x + layer.place(lengths), None
        if not self._places or len(self._places[0]) <= inner.used:
            at = torch.arange(max(2 * inner.used, 64), device=lengths.device)[None]
            if layer.positions == "rotary":
                cosines, sines = rotation(at, layer.head_size)
                self._places = cosines[0, 0], sines[0, 0]
            else:
                self._places = (sinusoid(at, layer.output_size)[0],)
        here = [part.index_select(0, lengths) for part in self._places]
        return (
            (x, (here[0], here[1]))
            if layer.positions == "rotary"
            else (x + here[0], None)
        )

    def explain(self) -> str:
        """Return one line: what runs."""
        return f"native core: {self._packed.bytes:,} bytes of weights read in a step"


def _packed(layer: Attention, head: nn.Linear, precision: str) -> PackedDecoder:
    first = cast(Block, layer.blocks[0])
    assert first.cross is not None
    norm = cast(nn.LayerNorm | nn.RMSNorm, first.attention_norm)
    shape = Shape(
        layers=len(layer.blocks),
        width=layer.output_size,
        heads=first.attention.heads,
        kv_heads=layer.kv_heads,
        memory_heads=first.cross.heads,
        inner=first.feedforward.out.in_features,
        vocabulary=head.out_features,
        norm="layer" if isinstance(norm, nn.LayerNorm) else "rms",
        feedforward=first.feedforward.kind,
        epsilon=cast(float, norm.eps),
        norm_first=first.norm_first,
    )
    packed = PackedDecoder(shape, precision)
    for at, block in enumerate(layer.blocks):
        for part, weight, bias in _weights(cast(Block, block)):
            packed.load(at, part, weight, bias)
    if not isinstance(layer.norm, nn.Identity):
        last: Any = layer.norm
        packed.load(0, "last_norm", last.weight, getattr(last, "bias", None))
    packed.load(0, "head", head.weight, head.bias)
    return packed


def _weights(block: Block) -> list[tuple[str, Tensor, Tensor | None]]:
    """Return part, weight and bias of all that a block multiplies with."""
    attention = block.attention
    cross = block.cross
    assert cross is not None
    stacked = (attention.query, attention.key, attention.value)
    biased = attention.query.bias is not None
    found: list[tuple[str, Tensor, Tensor | None]] = [
        (
            "self_in",
            torch.cat([linear.weight for linear in stacked]),
            torch.cat([linear.bias for linear in stacked]) if biased else None,
        )
    ]
    single: dict[str, Any] = {
        "self_out": attention.out,
        "cross_in": cross.query,
        "cross_out": cross.out,
        "up": block.feedforward.up,
        "down": block.feedforward.out,
        "self_norm": block.attention_norm,
        "cross_norm": block.cross_norm,
        "feedforward_norm": block.feedforward_norm,
    }
    return found + [
        (n, part.weight, getattr(part, "bias", None)) for n, part in single.items()
    ]
