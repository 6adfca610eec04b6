"""A transformer in the native core: weights packed once, one call a token or a chunk of them.

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
FEEDFORWARDS = ("relu", "gelu", "swiglu", "gelu-tanh")
# of a block, then of the stack; what each is says ``unrolled_part`` in unrolled.h
PARTS = (
    *("self_in", "self_out", "cross_in", "cross_out", "up", "down"),
    *("self_norm", "cross_norm", "feedforward_norm", "last_norm", "head"),
    *("query_norm", "key_norm"),
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
        size: E; None is W / N.
        window: a step looks at so many, itself among them; None at all before it.
        head_epsilon: of the norms of queries and keys, which are loaded where there are some.
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
    size: int | None = None
    window: int | None = None
    head_epsilon: float = 1e-6

    @property
    def head_size(self) -> int:
        """E. Raises ValueError: it is not given, and heads do not divide the width."""
        if self.size is not None:
            return self.size
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"the native core could not make a decoder of {self}: heads do not divide width"
            )
        return self.width // self.heads


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


class _MemoryAddresses(NamedTuple):
    """What the core is told of a memory, which stays the same for many steps.

    Attributes:
        keys, values: the sequences it was made from, by which it is known again.
        addresses: where the keys and values of each block begin (2, L), int64.
        tensors: what the addresses point into, held so that they stay valid.
        sizes: S, M and three strides, as ``DECODING`` has them.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    addresses: Tensor
    tensors: list[Tensor]
    sizes: Sizes


class PackedDecoder:
    """A stack of blocks and output weights; each part is to be loaded before the first step.

    Args:
        shape: what it is.
        precision: of the weights: a key of ``native.DECODER_PRECISIONS``.

    Raises:
        ValueError: sizes that do not fit each other, or too little memory.
    """

    def __init__(self, shape: Shape, precision: str = "float32") -> None:
        library: Any = native.library()
        self.shape = shape
        self._library = library
        self._core = native.new_decoder(
            precision=native.DECODER_PRECISIONS[precision],
            norm=NORMS.index(shape.norm),
            norm_first=shape.norm_first,
            feedforward=FEEDFORWARDS.index(shape.feedforward),
            epsilon=shape.epsilon,
            head_epsilon=shape.head_epsilon,
            layers=shape.layers,
            width=shape.width,
            heads=shape.heads,
            size=shape.head_size,
            kv_heads=shape.kv_heads,
            memory_heads=shape.memory_heads,
            inner=shape.inner,
            vocabulary=shape.vocabulary,
            window=shape.window or 0,
        )
        if not self._core:
            raise ValueError(f"the native core could not make a decoder of {shape}")
        self._last_memory: _MemoryAddresses | None = None
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
        expected = self._weight_shape(part)
        _check(part, weight, expected)
        if bias is not None:
            _check(part, bias, expected[:1])
        # both variables hold copies, where these are made, until they are packed
        weight = dense(weight.detach())
        bias = None if bias is None else dense(bias.detach())
        message = self._library.decoder_load(
            self._core,
            layer,
            PARTS.index(part),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
        )
        native.check(message)

    def _weight_shape(self, part: str) -> Sizes:
        shape = self.shape
        width = shape.width
        inner = shape.inner
        queries = shape.heads * shape.head_size
        if part in ("query_norm", "key_norm"):
            return (shape.head_size,)
        if part.endswith("norm"):
            return (width,)
        if part == "self_in":
            return (queries + 2 * shape.kv_heads * shape.head_size, width)
        if part in ("self_out", "cross_out"):
            return (width, queries)
        if part == "cross_in":
            return (queries, width)
        if part == "up":
            # swiglu multiplies two projections of one input
            return (2 * inner if shape.feedforward == "swiglu" else inner, width)
        if part == "down":
            return (width, inner)
        return (shape.vocabulary, width)

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
        logits = self._logits_for(x.shape[0])
        no_best = (0,) * 5
        all_rows = (0, 0)
        outputs = (logits.data_ptr(), logits.shape[1], *all_rows, *no_best)
        self._call(x, cache, source, turn, outputs)
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
        most = min(MOST, self.shape.vocabulary)
        if not 1 <= k <= most:
            raise ValueError(f"expected k from 1 to {most}, got {k}")
        _check("banned", banned, (len(banned),), torch.int64)
        values = x.new_empty(rows, k)
        tokens = banned.new_empty(rows, k)
        banned = dense(banned)
        best = (
            k,
            values.data_ptr(),
            tokens.data_ptr(),
            banned.data_ptr(),
            len(banned),
        )
        no_logits = (0, 0, 0, 0)
        self._call(x, cache, source, turn, (*no_logits, *best))
        return values, tokens

    def _check_step(
        self, x: Tensor, cache: Cache, turn: tuple[Tensor, Tensor] | None
    ) -> None:
        """Refuse what would be read or written out of bounds."""
        shape = self.shape
        rows = x.shape[0]
        head_width = shape.head_size
        _check("x", x, (rows, shape.width))
        cache_rows = cache.keys.shape[1]
        room = cache.keys.shape[3]
        expected = (shape.layers, cache_rows, shape.kv_heads, room, head_width)
        _check("cache", cache.keys, expected)
        _check("cache", cache.values, expected)
        _check("lengths", cache.lengths, (rows,), torch.int64)
        if cache.origin is not None:
            _check("origin", cache.origin, (rows, room), torch.int32)
            if not cache.origin.is_contiguous():
                raise ValueError("expected origin side by side, got a view; copy it")
        for part in turn or ():
            _check("turn", part, (rows, head_width // 2))
        if cache.keys.stride() != cache.values.stride() or cache.keys.stride(4) != 1:
            raise ValueError(
                "expected keys and values that stand alike, features side by side"
            )

    def _call(
        self,
        x: Tensor,
        cache: Cache,
        source: SourceMemory | None,
        turn: tuple[Tensor, Tensor] | None,
        outputs: Sizes,
    ) -> None:
        """Take a step whose scores, or the best of them, are written to ``outputs``.

        These are the fields of ``DECODING`` from logits to the banned ids.
        """
        self._check_step(x, cache, turn)
        rows = x.shape[0]
        memory, memory_sizes = self._memory(source, rows)
        sources, *steps_and_strides = memory_sizes
        numbers = (
            torch.get_num_threads(),
            rows,
            sources,
            cache.keys.shape[1],
            cache.keys.shape[3],
            *cache.keys.stride()[:4],
            *steps_and_strides,
        )
        inputs = (x, *(turn or (None, None)))
        state = (cache.lengths, cache.origin)
        # these hold copies, where they are made, until the core has read them
        dense_inputs = [part if part is None else dense(part) for part in inputs]
        dense_state = [part if part is None else dense(part) for part in state]
        dense_memory = [part if part is None else dense(part) for part in memory]
        embedded, *rotation = map(address, dense_inputs)
        no_table = (0, 0, 0, 0)
        a_row_each = 0
        no_own = 0
        no_y = 0  # what the head reads is not needed here
        no_pages = (0, 0, 0)
        call = native.decoding(
            (
                *numbers,
                *(embedded, *no_table, *rotation, a_row_each),
                # the cache is written in place: a copy of it would be lost
                *(address(cache.keys), address(cache.values)),
                *map(address, dense_state),
                no_own,
                *map(address, dense_memory),
                *(no_y, *outputs, *no_pages),
            )
        )
        native.decode(self._core, call)

    def run(self, call: bytes) -> None:
        """Take a step whose fields were packed by ``native.decoding``."""
        native.decode(self._core, call)

    def _logits_for(self, rows: int) -> Tensor:
        """Return memory for logits, the same as before where it is enough.

        Pages of memory that is new at every step cost a sixth of its time. Rows begin with a line
        of the cache, so that they can be written past the caches.
        """
        if self._logits is None or len(self._logits) < rows:
            # what is made in inference mode could not be changed outside of it
            with torch.inference_mode(False):
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
        memory = self._last_memory
        if memory is None or memory.keys is not source.keys:
            memory = self._addresses(source)
            self._last_memory = memory
        elif memory.values is not source.values:
            raise ValueError(
                "expected the values that came with these keys, got others"
            )
        _check("lengths", source.lengths, memory.sizes[:1], torch.int64)
        _check("rows", source.rows, (rows,), torch.int64)
        keys, values = memory.addresses
        return [keys, values, source.lengths, source.rows], memory.sizes

    def _addresses(self, source: SourceMemory) -> _MemoryAddresses:
        """Return where the keys and values of a memory stand."""
        shape = self.shape
        sources = source.keys[0].shape[0]
        steps = source.keys[0].shape[2]
        expected = (sources, shape.memory_heads, steps, shape.head_size)
        tensors = [readable(part) for part in (*source.keys, *source.values)]
        for tensor in tensors:
            _check("memory", tensor, expected)
        if len(source.keys) != shape.layers or len(source.values) != shape.layers:
            raise ValueError(
                f"expected a memory of {shape.layers} blocks, got {len(source.keys)}"
            )
        strides = tensors[0].stride()
        # the core takes one set of strides for all blocks
        if strides[3] != 1 or any(tensor.stride() != strides for tensor in tensors):
            tensors = [tensor.contiguous() for tensor in tensors]
            strides = tensors[0].stride()
        pointers = [tensor.data_ptr() for tensor in tensors]
        addresses = torch.tensor(pointers, dtype=torch.int64, device="cpu")
        return _MemoryAddresses(
            source.keys,
            source.values,
            addresses.view(2, -1),
            tensors,
            (sources, steps, *strides[:3]),
        )

    @property
    def bytes(self) -> int:
        """How many bytes of weights a step reads."""
        return int(self._library.decoder_bytes(self._core))


def address(tensor: Tensor | None) -> int:
    """Return where a tensor stands, 0 (NULL) for none."""
    return 0 if tensor is None else tensor.data_ptr()


def _check(
    name: str, tensor: Tensor, shape: Sizes, dtype: torch.dtype = torch.float32
) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_cpu:
        raise ValueError(
            f"expected {name} of shape {shape} in {dtype} on the CPU, got "
            f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}"
        )
