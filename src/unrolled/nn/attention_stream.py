"""Streams over attention: the whole stack of blocks in one call of the native core a token.

Shapes: B rows, T steps of a chunk, L blocks, K key-value heads, C room for steps, E width of a
head, D input, W width, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.nn.layer import checked
from unrolled.nn.packed_model import PackedModel, TransformerParts
from unrolled.nn.state import AttentionState, Buffer, State
from unrolled.nn.stepper import NativeStepper
from unrolled.nn.stream import Stream
from unrolled.nn.stream_parts import stream_room
from unrolled.ops import native
from unrolled.ops.decoder import address

# steps that a new cache has room for, of a few rows and of many, which take longer to clear
FIRST_ROOM = 64
FIRST_ROOM_OF_MANY = 16
MANY = 64  # rows
CHUNK = 256  # rows of tokens that are read at once


class AttentionStream(
    NativeStepper[TransformerParts],
    Stream,
):
    """Steps a stack of attention, its embedding and output weights by the native core.

    States that it hands out are as those of ``unroll``: they stay what they are when the stream
    goes on.

    Args:
        parts: what is streamed; see ``why_not_native``.
        batch: B.
        precision: of the packed weights: a key of ``native.DECODER_PRECISIONS``.
    """

    native = True
    reads_chunks = True
    noun = "stream"

    def __init__(
        self,
        parts: TransformerParts,
        batch: int,
        precision: str,
    ) -> None:
        NativeStepper.__init__(self, parts)
        Stream.__init__(self, *stream_room(parts, batch))
        self.precision = precision
        self._rows = batch
        self._lengths = torch.zeros(batch, dtype=torch.int64, device="cpu")
        self._held = self.input.numpy(), self.output.numpy(), self._lengths.numpy()
        self._threads = 0
        self._current: AttentionState | None = None
        # whether somebody may have a state, or views of it, in the present room
        self._is_shared = False
        # the tokens of a single row, where they are known from the first on
        self._ids: list[int] | None = None
        # room is taken at the first step: a state that is loaded before it has its own
        empty = cast(AttentionState, self._state)
        self._buffer = empty.buffer
        self._turn = 0
        self._used = 0
        self._pack()
        self._ids = [] if self._knows_ids else None

    # ---- weights ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _pack(self) -> None:
        """Pack the weights; where they cannot be, the stream stays as it was.

        Raises:
            NotFinite: some of them.
        """
        room = max(FIRST_ROOM, self._buffer.room)
        self._model = PackedModel(self._parts, self.precision, room)
        self._packed = self._model.decoder
        self._table = self._model.table
        self._call = b""
        # keys that other weights made are not those of the next text
        self._ids = None

    # ---- state -----------------------------------------------------------------------------------

    def _begin(self, state: AttentionState) -> None:
        """Go on from a copy of a state."""
        self._lengths.copy_(state.lengths)
        self._used = state.used
        self._ids = [] if self._knows_ids and not state.used else None
        self._claim(state.keys, state.values)

    def _claim(self, keys: Tensor, values: Tensor, steps: int = 1) -> None:
        """Take room of one's own for ``steps`` more, beginning with these (L, B, K, S, E)."""
        used = self._used
        layers, rows, heads, _, size = keys.shape
        first = FIRST_ROOM if rows < MANY else FIRST_ROOM_OF_MANY
        room = max(2 * used, used + steps, first)
        context = self._parts.stack.context
        if context is not None:
            room = min(room, max(context, used + steps))
        buffer = _new_buffer((layers, rows, heads, room, size))
        for new, old in ((buffer.keys, keys), (buffer.values, values)):
            new[:, :, :, :used] = old[:, :, :, :used]
            # rows that are behind leave steps unwritten, which packing a state takes along
            new[:, :, :, used:] = 0
        self._buffer = buffer
        self._turn = buffer.newest
        self._is_shared = False
        self._call = b""
        self._model.cover(room)

    def _ready(self, steps: int) -> None:
        """See that ``steps`` more can be read, and that nobody else writes where they will stand.

        Raises:
            ValueError: the layer's context is full; nothing has changed then.
        """
        buffer = self._buffer
        self._parts.stack.check_context(self._used + steps)
        if self._used + steps > buffer.room or not buffer.is_newest(self._turn):
            with torch.no_grad():
                self._claim(
                    buffer.keys,
                    buffer.values,
                    steps,
                )

    def _advanced(self, steps: int) -> None:
        """Note that every row has read so many steps."""
        self._lengths += steps
        self._used += steps
        self._buffer.newest += 1
        self._turn = self._buffer.newest
        self._current = None

    @property
    def state(self) -> State:
        if self._current is None:
            lengths = self._lengths.clone()
            self._current = AttentionState(
                self._buffer, lengths, self._used, self._turn
            )
            self._is_shared = True
        return self._current

    @state.setter
    def state(self, state: State) -> None:
        self.load(state)

    @torch.no_grad()
    def load(self, state: State) -> None:
        checked(state, AttentionState, type(self._parts.layer).__name__)
        given = cast(AttentionState, state)
        is_own = given.buffer is self._buffer and given.turn == self._turn
        if is_own and self._buffer.is_newest(self._turn):
            # as it is, or shortened
            self._lengths.copy_(given.lengths)
            self._used = given.used
            self._current = given
            self._is_shared = True
            if self._ids is not None:
                del self._ids[given.used :]
            return
        own = self._buffer.keys
        expected = (own.shape[0], self._rows, own.shape[2], own.shape[4])
        keys = given.keys
        got = (keys.shape[0], given.rows, keys.shape[2], keys.shape[4])
        if expected != got:
            raise ValueError(
                f"expected a state of {expected} (layers, rows, heads, size), got {got}; pass a "
                "state of this layer, of as many rows as the stream"
            )
        self._begin(given)
        self._current = None

    @torch.no_grad()
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        self._lengths[slice(None) if rows is None else rows] = 0
        self._used = int(self._lengths.max())
        self._part()
        # none may have been chosen
        if not self._used:
            self._ids = [] if self._knows_ids else None

    @property
    def _knows_ids(self) -> bool:
        return self._rows == 1 and self._table is not None

    def _part(self) -> None:
        """Go on in room of one's own where states that were handed out keep their steps."""
        self._current = None
        if self._is_shared:
            self._claim(self._buffer.keys, self._buffer.values)

    # ---- steps -----------------------------------------------------------------------------------

    def step(self, x: Tensor | None = None) -> Tensor:
        if x is not None:
            if x.shape != self._shape or x.dtype is not self._dtype or not x.is_cpu:
                self._refuse(x)
            with torch.no_grad():
                self.input.copy_(x)
        self._ready(1)
        threads = torch.get_num_threads()
        if not self._call or self._threads != threads:
            self._threads = threads
            self._call = self._packed_call(
                self._inputs(self.input), self.output, self._rows
            )
        if self._table is None:
            self._put_vectors()
        self._packed.run(self._call)
        self._advanced(1)
        if self._ids is not None:
            self._ids.append(int(self.input))
        return self.output

    @torch.no_grad()
    def begin(self, x: Tensor) -> Tensor:
        if self._ids is None:
            return super().begin(x)
        self._check_chunk(x)
        shared = 0
        # one has to be read, for its scores
        for old, new in zip(self._ids, x[0, :-1].tolist(), strict=False):
            if old != new:
                break
            shared += 1
        self._lengths.fill_(shared)
        self._used = shared
        self._part()
        del self._ids[shared:]
        return self.read(x[:, shared:])

    def _check_chunk(self, x: Tensor) -> None:
        """Refuse what are no tokens of all rows, before anything is read."""
        fits = x.dim() == 2 and len(x) == self._rows and x.shape[1] > 0
        if not fits or x.dtype is not self._dtype or not x.is_cpu:
            self._refuse(x)
        tokens = 0 if self._table is None else len(self._table)
        if int(x.min()) < 0 or int(x.max()) >= tokens:
            raise ValueError("the native core: a token is not in the vocabulary")

    def read(self, x: Tensor) -> Tensor:
        if self._table is None or self._parts.head is None:
            return super().read(x)
        self._check_chunk(x)
        self._parts.stack.check_context(self._used + x.shape[1])
        for chunk in x.split(max(1, CHUNK // self._rows), 1):
            score_at = torch.full(chunk.shape, -1, device="cpu")
            score_at[:, -1] = torch.arange(self._rows, device="cpu")
            self._read_chunk(chunk, score_at, self.output)
        return self.output

    def read_each(self, x: Tensor) -> Tensor:
        if self._table is None or self._parts.head is None:
            return super().read_each(x)
        self._check_chunk(x)
        self._parts.stack.check_context(self._used + x.shape[1])
        said: list[Tensor] = []
        for chunk in x.split(max(1, CHUNK // self._rows), 1):
            output = self.output.new_empty(
                *chunk.shape,
                self.output.shape[1],
            )
            score_at = torch.arange(chunk.numel(), device="cpu")
            self._read_chunk(chunk, score_at, output)
            said.append(output)
        return torch.cat(said, 1)

    @torch.no_grad()
    def _read_chunk(self, tokens: Tensor, score_at: Tensor, output: Tensor) -> None:
        """Read T steps of every row (B, T) in one call, a step a row of it.

        Args:
            tokens: (B, T).
            score_at: where the scores of each stand in ``output``, -1: nowhere.
            output: of as many rows of scores.
        """
        steps = tokens.shape[1]
        self._ready(steps)
        self._threads = torch.get_num_threads()
        self._call = b""
        own = torch.arange(self._rows, device="cpu").repeat_interleave(steps)
        lengths = self._lengths[:, None] + torch.arange(steps, device="cpu")
        ids = tokens.contiguous()
        call = self._packed_call(
            self._inputs(ids), output, len(own), lengths, own, score_at
        )
        self._packed.run(call)
        self._advanced(steps)
        if self._ids is not None:
            self._ids += tokens[0].tolist()

    @torch.no_grad()
    def _put_vectors(self) -> None:
        """Bring vectors to the width of the stack, where the core reads them."""
        if self._vectors is not self.input:
            with torch.autocast("cpu", enabled=False):
                self._vectors.copy_(self._model.project(self.input))

    def _inputs(self, x: Tensor) -> tuple[int, int, int, int]:
        """Return the fields x, ids, table and tokens for what is read."""
        if self._table is not None:
            return 0, x.data_ptr(), self._table.data_ptr(), len(self._table)
        self._vectors = x
        if not isinstance(self._model.project, nn.Identity):
            # what is made in inference mode could not be changed outside of it
            with torch.inference_mode(False):
                width = self._parts.stack.output_size
                self._vectors = torch.empty(
                    len(x), width, dtype=torch.float32, device="cpu"
                )
        return self._vectors.data_ptr(), 0, 0, 0

    def _packed_call(
        self,
        inputs: tuple[int, int, int, int],
        output: Tensor,
        rows: int,
        lengths: Tensor | None = None,
        own: Tensor | None = None,
        score_at: Tensor | None = None,
    ) -> bytes:
        """Return a call of the core; what has addresses in it must be held until it is made."""
        keys = self._buffer.keys
        values = self._buffer.values
        lengths = self._lengths if lengths is None else lengths
        scores = output.data_ptr()
        has_head = self._parts.head is not None
        width = output.shape[-1]
        no_memory = (0, 0, 0, 0)
        no_best = (0, 0, 0, 0, 0)
        no_pages = (0, 0, 0)
        return native.decoding(
            (
                *(self._threads, rows, 0, keys.shape[1], keys.shape[3]),
                *keys.stride()[:4],
                *no_memory,  # its steps and strides
                *inputs,
                *self._model.positions.addresses(),
                self._model.positions.size,
                *(keys.data_ptr(), values.data_ptr(), lengths.data_ptr()),
                *(0, address(own)),  # no origin
                *no_memory,
                0 if has_head else scores,
                scores if has_head else 0,
                width if has_head else 0,
                *(output.numel() // width, address(score_at)),
                *no_best,
                *no_pages,
            )
        )

    @property
    def bytes(self) -> int:
        return self._packed.bytes

    def explain(self) -> str:
        if not self._buffer.room:
            with torch.no_grad():
                self._claim(self._buffer.keys, self._buffer.values)
        keys = self._buffer.keys
        cache = 2 * keys.numel() * keys.element_size()
        return (
            f"native core: {self.precision} weights, {self.bytes:,} bytes of them read in a step; "
            f"a cache of {cache:,} bytes for {self._buffer.room} steps"
        )


def _new_buffer(shape: tuple[int, ...]) -> Buffer:
    """Return room for keys and for values, in fp32; what stands there is left over."""
    # what is made in inference mode could not be changed outside of it
    with torch.inference_mode(False):
        keys = torch.empty(shape, dtype=torch.float32, device="cpu")
        return Buffer(keys, torch.empty_like(keys), 1)
