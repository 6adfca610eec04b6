"""What a decoder reads of what an encoder has read, and the state that carries it along.

Shapes: S sources, M steps of a source, B rows (several may read one source: beams), L blocks,
K key-value heads, E width of a head, T steps of a chunk, N heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unrolled.nn.state import State, pack, unpack
from unrolled.ops.masking import real_steps


@dataclass(frozen=True, eq=False)
class Memory:
    """Keys and values of S sources, one copy each however many rows read it.

    Args:
        keys: of each of the L blocks (S, K, M, E); none for a decoder without attention.
        values: likewise; their E may differ from that of the keys.
        lengths: real steps of each source (S,), int64.
        rows: the source that each row reads (B,), int64.
        rows_per_source: n where row i reads source i // n, so that the rows of a source stand side
            by side; 0 where they do not.
        gaps: let sources that no row reads stay until they are half of all, for a reader that does
            not mind them: copying the others is dearer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor
    rows: Tensor
    rows_per_source: int
    gaps: bool = False

    @classmethod
    def of(
        cls,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        lengths: Tensor,
    ) -> Self:
        """Return a memory of which every source is read by one row."""
        count = lengths.shape[0]
        rows = torch.arange(count, device=lengths.device)
        return cls(
            keys=tuple(keys),
            values=tuple(values),
            lengths=lengths,
            rows=rows,
            rows_per_source=1,
        )

    def allowed(self, steps: int) -> Tensor | None:
        """Return which of ``steps`` steps of each source are real, bool (S, M); None for all.

        A source without steps may be looked at in its first, which is zero: a softmax needs one.
        """
        full = self.lengths == steps
        if bool(full.all()):
            return None
        return real_steps(self.lengths.clamp(min=1), steps)

    def gather_rows(self, per_source: Tensor) -> Tensor:
        """Return something of each source (S, ...) for each row (B, ...)."""
        if self.rows_per_source == 1:
            return per_source
        return per_source.index_select(0, self.rows)

    def by_row(self) -> Self:
        """Return a memory with a copy for every row: for many steps that would each gather it."""
        if self.rows_per_source == 1:
            return self
        gathered = self._changed(self.gather_rows)
        lengths = self.gather_rows(self.lengths)
        return type(self).of(gathered.keys, gathered.values, lengths)

    def reorder(self, rows: Tensor) -> Self:
        """Return the memory whose row i is row ``rows[i]`` of this one; see ``State.reorder``.

        Keys and values are copied only where sources leave that no row reads any more.
        """
        chosen = self.rows.index_select(0, rows)
        if torch.equal(chosen, self.rows):
            return self
        sources, rows = chosen.unique(return_inverse=True)
        before = len(self.lengths)
        kept = len(sources)
        if self.gaps and before > kept > before // 2:
            return replace(self, rows=chosen, rows_per_source=0)
        memory = self if kept == before else self._take(sources)
        count = _rows_per_source(rows, kept)
        return replace(memory, rows=rows, rows_per_source=count)

    def _take(self, sources: Tensor) -> Self:
        """Return a memory of some of the sources; which row reads which is yet to be said."""
        memory = self._changed(lambda part: part.index_select(0, sources))
        lengths = self.lengths.index_select(0, sources)
        return replace(memory, lengths=lengths)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the memory with the keys and values that ``change`` makes of those of a block."""
        keys = tuple(map(change, self.keys))
        values = tuple(map(change, self.values))
        return replace(self, keys=keys, values=values)

    def detach(self) -> Self:
        """Return the same numbers, cut off from the graph that made them."""
        return self._changed(Tensor.detach)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all of it as named tensors, contiguous and detached."""
        tensors = {"lengths": self.lengths, "rows": self.rows}
        for layer, key in enumerate(self.keys):
            tensors[f"keys.{layer}"] = key
            tensors[f"values.{layer}"] = self.values[layer]
        return {name: part.detach().contiguous() for name, part in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build what :meth:`to_tensors` described."""
        count = sum(name.startswith("keys.") for name in tensors)
        layers = range(count)
        lengths = tensors["lengths"]
        rows = tensors["rows"]
        keys = tuple(tensors[f"keys.{layer}"] for layer in layers)
        values = tuple(tensors[f"values.{layer}"] for layer in layers)
        rows_per_source = _rows_per_source(rows, len(lengths))
        return cls(keys, values, lengths, rows, rows_per_source)

    @classmethod
    def join(cls, memories: Sequence[Self]) -> Self:
        """Set the sources and rows of several memories side by side, in order."""
        sources = 0
        shifted = []
        for memory in memories:
            shifted.append(memory.rows + sources)
            sources += len(memory.lengths)
        rows = torch.cat(shifted)
        all_keys = [memory.keys for memory in memories]
        all_values = [memory.values for memory in memories]
        return cls(
            # block by block, what the memories have of it
            tuple(map(_side_by_side, zip(*all_keys, strict=True))),
            tuple(map(_side_by_side, zip(*all_values, strict=True))),
            torch.cat([memory.lengths for memory in memories]),
            rows,
            _rows_per_source(rows, sources),
        )


def _rows_per_source(rows: Tensor, sources: int) -> int:
    """Return how many rows read each source, 0 where they do not stand in order."""
    read = len(rows)
    if not sources or read % sources:
        return 0
    count = read // sources
    indices = torch.arange(read, device=rows.device)
    # max: a memory may have sources and no rows
    in_order = indices // max(1, count)
    return count if torch.equal(rows, in_order) else 0


def _side_by_side(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the keys or values of one block as one, all as long as the longest."""
    longest = max(part.shape[2] for part in parts)
    padded = []
    for part in parts:
        missing = longest - part.shape[2]
        padded.append(F.pad(part, (0, 0, 0, missing)))
    return torch.cat(padded)


@dataclass(frozen=True, eq=False)
class DecoderState(State):
    """The state of a decoder: what it has written, and the memory that it reads.

    Args:
        inner: the state of its layer.
        memory: what the encoder has read.
        attention_output: what attention made of the last step (B, H), which the next one reads
            (Luong et al. 2015, section 3.3); None where nothing does. Its tensor is named "fed".
    """

    kind: ClassVar[str] = "decoder"
    inner: State
    memory: Memory
    attention_output: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.inner.rows

    def reorder(self, rows: Tensor, keep: bool = True) -> Self:
        output = self.attention_output
        if output is not None:
            output = output.index_select(0, rows)
        inner = self.inner.reorder(rows, keep)
        memory = self.memory.reorder(rows)
        return type(self)(inner, memory, output)

    def detach(self) -> Self:
        output = self.attention_output
        if output is not None:
            output = output.detach()
        inner = self.inner.detach()
        memory = self.memory.detach()
        return type(self)(inner, memory, output)

    def to_tensors(self) -> dict[str, Tensor]:
        inner = pack(self.inner)
        memory = self.memory.to_tensors()
        tensors = {f"inner/{name}": part for name, part in inner.items()}
        tensors |= {f"memory/{name}": part for name, part in memory.items()}
        output = self.attention_output
        if output is not None:
            tensors["fed"] = output.detach().contiguous()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        inner = unpack(_under("inner/", tensors))
        memory = Memory.from_tensors(_under("memory/", tensors))
        return cls(inner, memory, tensors.get("fed"))

    @classmethod
    def join(cls, states: Sequence[Self]) -> Self:
        inners = [state.inner for state in states]
        inner = type(inners[0]).join(inners)
        memories = [state.memory for state in states]
        memory = Memory.join(memories)
        if states[0].attention_output is None:
            return cls(inner, memory)
        outputs = [cast(Tensor, state.attention_output) for state in states]
        return cls(inner, memory, torch.cat(outputs))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
