"""A transformer decoder in the native core: weights packed once, one call a token.

Shapes: B rows, W width, L blocks, N heads of width E, K key-value heads, C room of the cache, S
sources of M steps, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.ops import native
from unrolled.ops.layout import dense, readable
from unrolled.ops.search import MOST

NORMS = ("layer", "rms")
FEEDFORWARDS = ("relu", "gelu", "swiglu")
# of a block, then of the stack; what each is says ``unrolled_part`` in unrolled.h
PARTS = (
    *("self_in", "self_out", "cross_in", "cross_out", "up", "down"),
    *("self_norm", "cross_norm", "feedforward_norm", "last_norm", "head"),
)


class Shape(NamedTuple):
    """What a decoder is.

    Attributes:
        layers, width, heads, kv_heads: L, W, N, K.
        memory_heads: key-value heads of the memory; 0 is a decoder that reads none.
        inner: width of the feed-forward networks.
        vocabulary: V.
        norm, feedforward: out of ``NORMS`` and ``FEEDFORWARDS``.
        epsilon: of the norms.
        norm_first: normalise what a part reads, not the sum it adds to.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    memory_heads: int
    inner: int
    vocabulary: int
    norm: str = "layer"
    feedforward: str = "relu"
    epsilon: float = 1e-5
    norm_first: bool = True


class Cache(NamedTuple):
    """Where keys and values of earlier steps stand, and those of this step are written.

    Attributes:
        keys, values: (L, at least B, K, C, E).
        lengths: steps read before (B,), int64, below C.
        origin: in which row of the cache a step of each row stands (B, C), int32, contiguous; that
            of this step is written; None: its own.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    origin: Tensor | None = None


class SourceMemory(NamedTuple):
    """What is read beside that.

    Attributes:
        keys, values: of each block (S, K', M, E).
        lengths: real steps (S,), int64.
        rows: the source of each row (B,), int64.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    lengths: Tensor
    rows: Tensor


Sizes = tuple[int, ...]


class PackedDecoder:
    """A stack of blocks and output weights; each part is to be loaded before the first step.

    Args:
        shape: what it is.
        precision: of the weights: float32, bf16 or int8.

    Raises:
        ValueError: sizes that do not fit each other, or too little memory.
    """

    def __init__(self, shape: Shape, precision: str = "float32") -> None:
        library: Any = native.library()
        self.shape = shape
        self._library = library
        numbers = native.PRECISIONS[precision], NORMS.index(shape.norm), shape.epsilon
        kind = shape.norm_first, FEEDFORWARDS.index(shape.feedforward)
        self._core: int = library.decoder_new(*numbers, *kind, *shape[:7])
        if not self._core:
            raise ValueError(f"the native core could not make a decoder of {shape}")
        # keys and values of the last memory: it stays the same for many steps
        self._seen: tuple[Any, Any, Tensor, list[Tensor], Sizes] | None = None
        self._logits: Tensor | None = None
        # at the interpreter's end another thread may still be stepping
        weakref.finalize(self, library.decoder_free, self._core).atexit = False

    def load(self, layer: int, part: str, weight: Tensor, bias: Tensor | None) -> None:
        """Pack a copy of some weights.

        Args:
            layer: the block; 0 for parts of the whole stack.
            part: out of ``PARTS``.
            weight, bias: as torch's linear layers and norms have them, fp32 on the CPU.

        Raises:
            ValueError: another shape or precision.
        """
        expected = self._expected(part)
        for given, shape in ((weight, expected), (bias, expected[:1])):
            if given is not None:
                _check(part, given, shape)
        held = dense(weight.detach()), None if bias is None else dense(bias.detach())
        there = [None if tensor is None else tensor.data_ptr() for tensor in held]
        native.check(
            self._library.decoder_load(self._core, layer, PARTS.index(part), *there)
        )

    def _expected(self, part: str) -> tuple[int, ...]:
        width = self.shape.width
        inner = self.shape.inner
        if part.endswith("norm"):
            return (width,)
        if part == "self_in":
            each = width // self.shape.heads
            return (width + 2 * self.shape.kv_heads * each, width)
        if part == "up":
            return (2 * inner if self.shape.feedforward == "swiglu" else inner, width)
        if part == "down":
            return (width, inner)
        return (self.shape.vocabulary if part == "head" else width, width)

    def step(
        self,
        x: Tensor,
        cache: Cache,
        source: SourceMemory | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Read one token of every row; return the scores of the next (B, V).

        They stand until the next step, which writes to the same memory; copy them to keep them.

        Args:
            x: the embedded token and where it stands (B, W).
            cache: read, and written to.
            source: what is read beside it.
            turn: cosines and sines of the rotation (B, E / 2).

        Raises:
            ValueError: something of another shape or precision; no row was read then.
        """
        logits = self._room(x.shape[0])
        there = logits.data_ptr(), logits.shape[1], *(0,) * 5
        self._call(x, cache, source, turn, there)
        return logits[:, : self.shape.vocabulary]

    def best(
        self,
        x: Tensor,
        cache: Cache,
        source: SourceMemory | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
        *,
        k: int,
        banned: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Read one token of every row; return what is likeliest to follow, best first.

        The scores of all tokens are never written: they stay in the caches, a piece at a time.

        Args:
            x, cache, source, turn: see ``step``.
            k: from 1 to 64, and to V.
            banned: tokens that are passed over, int64; the others become no likelier.

        Returns:
            Log-probabilities (B, k), NaN where scores have no bounds, and tokens (B, k), int64.

        Raises:
            ValueError: see ``step``; k or a token out of range.
        """
        rows = x.shape[0]
        if not 1 <= k <= min(MOST, self.shape.vocabulary):
            raise ValueError(
                f"expected k from 1 to {min(MOST, self.shape.vocabulary)}, got {k}"
            )
        _check("banned", banned, (len(banned),), torch.int64)
        values = x.new_empty(rows, k)
        tokens = banned.new_empty(rows, k)
        banned = dense(banned)
        best = k, values.data_ptr(), tokens.data_ptr(), banned.data_ptr(), len(banned)
        self._call(x, cache, source, turn, (0, 0, *best))
        return values, tokens

    def _call(
        self,
        x: Tensor,
        cache: Cache,
        source: SourceMemory | None,
        turn: tuple[Tensor, Tensor] | None,
        there: Sizes,
    ) -> None:
        """Take a step whose scores, or the best of them, are written as ``there`` says."""
        shape = self.shape
        rows = x.shape[0]
        size = shape.width // shape.heads
        _check("x", x, (rows, shape.width))
        room = cache.keys.shape[3]
        in_cache = cache.keys.shape[1]
        for part in cache[:2]:
            _check("cache", part, (shape.layers, in_cache, shape.kv_heads, room, size))
        _check("lengths", cache.lengths, (rows,), torch.int64)
        if cache.origin is not None:
            _check("origin", cache.origin, (rows, room), torch.int32)
            if not cache.origin.is_contiguous():
                raise ValueError("expected origin side by side, got a view; copy it")
        for part in turn or ():
            _check("turn", part, (rows, size // 2))
        if cache.keys.stride() != cache.values.stride() or cache.keys.stride(4) != 1:
            raise ValueError(
                "expected keys and values that stand alike, features side by side"
            )
        memory, sizes = self._memory(source, rows)
        told = x, *(turn or (None, None)), cache.lengths, cache.origin, *memory
        whole = [part if part is None else dense(part) for part in told]
        pointers = [*whole[:3], *cache[:2], *whole[3:], None]
        strides = cache.keys.stride()[:4]
        numbers = (
            torch.get_num_threads(),
            rows,
            sizes[0],
            in_cache,
            room,
            *strides,
            *sizes[1:],
        )
        places = [0 if part is None else part.data_ptr() for part in pointers]
        native.decode(self._core, (*numbers, *places, *there))

    def _room(self, rows: int) -> Tensor:
        """Return memory for logits, the same as before where it is enough.

        Pages of memory that is new at every step cost a sixth of its time. Rows begin with a line
        of the cache, so that they can be written past the caches.
        """
        if self._logits is None or len(self._logits) < rows:
            with torch.inference_mode(
                False
            ):  # what is made inside could not be changed outside
                width = -(-self.shape.vocabulary // 16) * 16
                self._logits = torch.empty(
                    rows, width, dtype=torch.float32, device="cpu"
                )
        return self._logits[:rows]

    def _memory(
        self, source: SourceMemory | None, rows: int
    ) -> tuple[list[Tensor | None], Sizes]:
        """Return what the call is given of a memory, and its sizes."""
        if not self.shape.memory_heads or source is None:
            return [None] * 4, (0,) * 5
        if self._seen is None or self._seen[0] is not source.keys:
            self._seen = source.keys, source.values, *self._places(source)
        elif self._seen[1] is not source.values:
            raise ValueError(
                "expected the values that came with these keys, got others"
            )
        _, _, places, _, sizes = self._seen
        _check("lengths", source.lengths, sizes[:1], torch.int64)
        _check("rows", source.rows, (rows,), torch.int64)
        return [*places, source.lengths, source.rows], sizes

    def _places(self, source: SourceMemory) -> tuple[Tensor, list[Tensor], Sizes]:
        """Return where keys and values stand (2, L), what has to be held for that, and sizes."""
        shape = self.shape
        first = source.keys[0]
        parts = [readable(part) for part in (*source.keys, *source.values)]
        strides = parts[0].stride()
        size = (
            first.shape[0],
            shape.memory_heads,
            first.shape[2],
            shape.width // shape.heads,
        )
        for part in parts:
            _check("memory", part, size)
        if len(source.keys) != shape.layers or len(source.values) != shape.layers:
            raise ValueError(
                f"expected a memory of {shape.layers} blocks, got {len(source.keys)}"
            )
        if strides[3] != 1 or any(part.stride() != strides for part in parts):
            parts = [part.contiguous() for part in parts]
            strides = parts[0].stride()
        addresses = [part.data_ptr() for part in parts]
        places = torch.tensor(addresses, dtype=torch.int64, device="cpu").view(2, -1)
        return places, parts, (size[0], size[2], *strides[:3])

    @property
    def bytes(self) -> int:
        """How many bytes of weights a step reads."""
        return int(self._library.decoder_bytes(self._core))


def _check(
    name: str, given: Tensor, shape: tuple[int, ...], kind: torch.dtype = torch.float32
) -> None:
    if given.shape != shape or given.dtype != kind or not given.is_cpu:
        raise ValueError(
            f"expected {name} of shape {shape} in {kind} on the CPU, got {tuple(given.shape)} in "
            f"{given.dtype} on {given.device}"
        )
