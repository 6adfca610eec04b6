"""Streams: one step at a time in production, with weights packed once and no memory taken a step.

Shapes: B rows, D input features (or one token id a row), H outputs, L layers.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn

from unrolled.nn.dropout import Dropout, LockedDropout
from unrolled.nn.embedding import ScaledNumbers, TokenEmbedding
from unrolled.nn.forms import unlike
from unrolled.nn.layer import Layer, checked
from unrolled.nn.recurrent import GRU, LSTM, RNN, Recurrent
from unrolled.nn.state import State
from unrolled.ops import mode, native
from unrolled.ops.layout import dense

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class StreamParts(NamedTuple):
    """What a stream runs: a layer alone, or with what stands before and after it in a model.

    Attributes:
        layer: what carries the state.
        embedding, dropout, head: what a model runs before and after it, if any.
        model: the model, whose own ``step``, if it has one, runs its hooks.
        kind: the class of models that run these parts one after the other.
    """

    layer: Layer
    embedding: nn.Module | None = None
    dropout: nn.Module | None = None
    head: nn.Module | None = None
    model: nn.Module | None = None
    kind: type[nn.Module] = nn.Module


class _Stage(NamedTuple):
    """A recurrent layer (w_ih, w_hh, b_ih, b_hh), or without a cell a linear one (w, -, b, -)."""

    cell: str | None
    residual: bool
    weights: tuple[Tensor | None, ...]


def _stages(parts: StreamParts) -> list[_Stage]:
    layer = parts.layer
    found = []
    assert isinstance(layer, Recurrent)
    for index in range(layer.num_layers):
        weights = tuple(getattr(layer, f"{name}_l{index}", None) for name in _WEIGHTS)
        found.append(_Stage(layer.cell, layer.residual and index > 0, weights))
    if parts.head is not None:
        head: Any = parts.head
        found.append(_Stage(None, False, (head.weight, None, head.bias, None)))
    return found


def _layout(parts: StreamParts) -> list[Any]:
    """Return what the native core relies on when weights are packed again, weight by weight."""
    weights = [w for stage in _stages(parts) for w in stage.weights]
    embedding: Any = parts.embedding
    weights += [] if embedding is None else [embedding.weight]
    return [None if w is None else (w.shape, w.dtype, w.device.type) for w in weights]


def why_not_native(parts: StreamParts, batch: int) -> str | None:
    """Return why the native core cannot step these parts for B rows; None when it can."""
    layer = parts.layer
    if not isinstance(layer, Recurrent) or type(layer).step is not Recurrent.step:
        return f"{type(layer).__name__} has no native step"
    changed = _changed(parts)
    if changed:
        return f"the native core reads weights alone, and there is {changed}"
    asked = {
        name: getattr(layer, name) for name in ("proj_size", "layer_norm", "zoneout")
    }
    # the rows of a narrower last layer do not lie side by side in the state
    asked["last_size for several rows"] = layer.last_size and batch > 1
    lacking = [name for name, value in asked.items() if value]
    if lacking:
        return f"the native core has no {', '.join(lacking)}"
    kinds = {told[1:] for told in _layout(parts) if told is not None}
    if kinds != {(torch.float32, "cpu")}:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        return f"the native core packs torch.float32 on cpu, the weights are {found}"
    if mode() == "reference":
        return "ops.use('reference') was chosen"
    return f"there is no native core: {native.missing()}" if native.missing() else None


def _changed(parts: StreamParts) -> str:
    """Return what makes these parts say something else than their weights do; empty if nothing."""
    kinds: list[tuple[nn.Module | None, tuple[type[nn.Module], ...]]] = [
        (parts.layer, (GRU, LSTM, RNN)),
        (parts.embedding, (TokenEmbedding,)),
        (parts.dropout, (nn.Dropout, Dropout)),
        (parts.head, (nn.Linear,)),
        (parts.model, (parts.kind,)),
    ]
    inner = (parts.layer, parts.embedding)
    kinds += [
        (child, (LockedDropout,))
        for part in inner
        if part is not None
        for child in part.children()
    ]
    reasons = [unlike(module, *known) for module, known in kinds if module is not None]
    return next((reason for reason in reasons if reason), "")


class Stream(ABC):
    """Reads one step of B sequences at a time; made by ``stream`` of a layer or a model.

    The weights are those of the moment it was made, or of the last :meth:`refresh`: a later change
    is not seen. Everything runs as in evaluation, without dropout and without gradients. One thread
    at a time may use a stream.

    Attributes:
        native: whether a step is one call of the native core, which takes no memory.
        precision: of the weights; in the native core float32, bf16 or int8, and states float32.
        input: (B, D), or int64 ids (B,): what ``step()`` without an argument reads.
        output: (B, H): what every step returns.
    """

    native: bool
    precision: str

    def __init__(self, parts: StreamParts, batch: int) -> None:
        layer, embedding, _, head, *_ = self._parts = parts
        modules = [part for part in parts[:4] if isinstance(part, nn.Module)]
        first = next((w for part in modules for w in part.parameters()), None)
        kind = torch.float32 if first is None else first.dtype
        device = None if first is None else first.device
        width = (
            layer.output_size
            if head is None
            else _width(head, layer.output_size, kind, device)
        )
        self.output = torch.zeros(batch, width, dtype=kind, device=device)
        if embedding is not None:
            self.input = torch.zeros(batch, dtype=torch.int64, device=device)
        else:
            self.input = torch.zeros(batch, layer.input_size, dtype=kind, device=device)
        self._shape = self.input.shape
        self._dtype = self.input.dtype
        self._batch = batch
        self._state = layer.initial_state(batch)

    @abstractmethod
    def step(self, x: Tensor | None = None) -> Tensor:
        """Read one step of every row.

        Args:
            x: (B, D) in the precision of ``input``, or int64 token ids (B,); ``input`` as it stands
                when not given, which is then not checked.

        Returns:
            ``output``, always the same tensor: its numbers stand until the next step.

        Raises:
            ValueError: another shape, precision or device, or no such token; no row was read.
        """

    @property
    def state(self) -> State:
        """The state after the last step; a native stream's next step changes it in place.

        Assigning is :meth:`load`.
        """
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self.load(state)

    @abstractmethod
    def load(self, state: State) -> None:
        """Go on from a copy of ``state``, which ``unroll`` or another stream may have made.

        Raises:
            ValueError: it is not a state of this layer for B rows.
        """

    @abstractmethod
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Put rows back to the state before the first step: all of them, or those of an index."""

    @abstractmethod
    def refresh(self) -> None:
        """Take the weights as they are now.

        Raises:
            ValueError: they have other shapes than when the stream was made, or moved elsewhere.
        """

    @property
    @abstractmethod
    def bytes(self) -> int:
        """How many bytes of weights a step reads, the embedding aside."""

    @abstractmethod
    def explain(self) -> str:
        """Return one line: which path runs, and why."""

    def _refuse(self, x: Tensor) -> NoReturn:
        got = (
            f"{tuple(x.shape)}, {x.dtype}, on {x.device}"
            if isinstance(x, Tensor)
            else type(x)
        )
        raise ValueError(
            f"expected x of shape {tuple(self._shape)}, {self._dtype}, on {self.input.device}, got "
            f"{got}; a step reads one step of every row, batch= sets how many there are"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stream cannot be copied or pickled; make another, and load its state"
        )


class _Native(Stream):
    """Steps by the native core."""

    native = True

    def __init__(self, parts: StreamParts, batch: int, precision: str) -> None:
        super().__init__(parts, batch)
        library: Any = native.library()
        self._library = library
        self._run = library.stream_step
        self.precision = precision
        self._packed = _layout(parts)
        self._table = self._read_table()
        # with numpy's hold on it nobody can resize or free what the core has pointers to
        held = (self.input, self.output, *self._state.to_tensors().values())
        self._held = [tensor.numpy() for tensor in held]
        self._core: int = library.stream_new(batch, native.PRECISIONS[precision])
        if not self._core:
            raise MemoryError(
                f"the native core could not make a stream of {batch} rows: too little memory"
            )
        # at the interpreter's end another thread may still be stepping
        weakref.finalize(self, library.stream_free, self._core).atexit = False
        self._address = self.input.data_ptr()
        self._build()
        self._load_weights()

    def _build(self) -> None:
        core = self._core
        library = self._library
        table = self._table
        if table is not None:
            native.check(library.stream_embedding(core, *table.shape, table.data_ptr()))
        for index, (cell, residual, (w_ih, w_hh, *_)) in enumerate(
            _stages(self._parts)
        ):
            assert w_ih is not None
            if cell is None or w_hh is None:
                native.check(library.stream_linear(core, w_ih.shape[1], w_ih.shape[0]))
                continue
            h, *c = (
                part[index].data_ptr() for part in self._state.to_tensors().values()
            )
            sizes = native.CELLS[cell], w_ih.shape[1], w_hh.shape[1]
            native.check(
                library.stream_layer(core, *sizes, h, c[0] if c else None, residual)
            )
        native.check(library.stream_output(core, self.output.data_ptr()))

    def _read_table(self) -> Tensor | None:
        """Return a copy of the vectors of all tokens as the embedding says them."""
        embedding: Any = self._parts.embedding
        if embedding is None:
            return None
        table: Tensor = embedding.weight.detach() * embedding.scale
        return table.contiguous()

    def _load_weights(self) -> None:
        for index, stage in enumerate(_stages(self._parts)):
            weights = [None if w is None else dense(w.detach()) for w in stage.weights]
            addresses = [None if w is None else w.data_ptr() for w in weights]
            native.check(self._library.stream_load(self._core, index, *addresses))

    def step(self, x: Tensor | None = None) -> Tensor:
        if x is None:
            address = self._address
        elif x.shape == self._shape and x.dtype is self._dtype and x.is_cpu:
            whole = x.is_contiguous() and not x.is_neg()
            address = x.data_ptr() if whole else self._copied(x)
        else:
            self._refuse(x)
        message = self._run(self._core, address)
        if message is not None:
            native.check(message)
        return self.output

    @torch.no_grad()
    def _copied(self, x: Tensor) -> int:
        self.input.copy_(x)
        return self._address

    @torch.no_grad()
    def load(self, state: State) -> None:
        checked(state, type(self._state), type(self._parts.layer).__name__)
        own = self._state.to_tensors()
        new = state.to_tensors()
        expected, got = (
            {k: tuple(t.shape) for k, t in each.items()} for each in (own, new)
        )
        if expected != got:
            raise ValueError(
                f"expected a state of shapes {expected} (layers, batch, size), got {got}; pass a "
                "state of this layer, of as many rows as the stream"
            )
        for name, part in own.items():
            part.copy_(new[name])

    @torch.no_grad()
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        for part in self._state.to_tensors().values():
            part[:, slice(None) if rows is None else rows] = 0

    def refresh(self) -> None:
        self._parts = _parts_now(self._parts)
        changed = _changed(self._parts)
        if changed or _layout(self._parts) != self._packed:
            raise ValueError(
                "expected weights of the shapes, precision and device that the stream was made "
                f"with, got {changed or 'others'}; make another stream"
            )
        fresh = self._read_table()
        if self._table is not None and fresh is not None:
            self._table.copy_(fresh)
        self._load_weights()

    @property
    def bytes(self) -> int:
        return int(self._library.stream_bytes(self._core))

    def explain(self) -> str:
        return f"native core: {self.precision} weights, {self.bytes:,} bytes of them read in a step"


class _Torch(Stream):
    """Steps by ``layer.step`` of a copy, with the same interface; each takes memory."""

    native = False

    def __init__(self, parts: StreamParts, batch: int, why: str) -> None:
        super().__init__(parts, batch)
        self._why = why
        self.precision = str(self.output.dtype).removeprefix("torch.")
        self.refresh()

    @torch.no_grad()
    def step(self, x: Tensor | None = None) -> Tensor:
        x = self.input if x is None else x
        if (
            x.shape != self._shape
            or x.dtype is not self._dtype
            or x.device != self.input.device
        ):
            self._refuse(x)
        layer, embedding, dropout, head, model, _ = self._copy
        if hasattr(model, "step"):
            y, self._state = cast(Any, model).step(x, self._state)
            return self.output.copy_(y)
        read = x if embedding is None else embedding(x)
        y, self._state = layer.step(read, self._state)
        y = y if dropout is None else dropout(y)
        return self.output.copy_(y if head is None else head(y))

    def load(self, state: State) -> None:
        checked(state, type(self._state), type(self._parts.layer).__name__)
        if state.rows != self._batch:
            raise ValueError(
                f"expected a state of {self._batch} rows, as many as the stream's, got "
                f"{state.rows}; state.reorder picks rows"
            )
        copied = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
        self._state = type(state).from_tensors(copied)

    @torch.no_grad()
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        fresh = self._parts.layer.initial_state(self._batch)
        if rows is not None:
            picked = torch.arange(self._batch, device=self.output.device)
            picked[rows] += self._batch
            fresh = type(fresh).join([self._state, fresh]).reorder(picked)
        self._state = fresh

    def refresh(self) -> None:
        self._parts = _parts_now(self._parts)
        self._copy = copy.deepcopy(self._parts, _computed(self._parts))
        for part in self._copy:
            if isinstance(part, nn.Module):
                part.eval()

    @property
    def bytes(self) -> int:
        read = (self._copy.layer, self._copy.head)
        weights = {w for part in read if part is not None for w in part.parameters()}
        return sum(w.numel() * w.element_size() for w in weights)

    def explain(self) -> str:
        return f"torch, a call of step at a time: {self._why}"


def _computed(parts: StreamParts) -> dict[int, Any]:
    """Return what ``deepcopy`` is to take for tensors that a graph computed, which it refuses.

    Pruned and normed weights are such: their hooks compute them anew at each call of the copy.
    """
    modules = [part for part in parts if isinstance(part, nn.Module)]
    tensors = [
        value
        for module in modules
        for child in module.modules()
        for value in vars(child).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return {id(tensor): tensor.detach().clone() for tensor in tensors}


def open_model_stream(
    model: Any, kind: type[nn.Module], batch: int = 1, precision: str = "float32"
) -> Stream:
    """Return a stream over a model of embedding, layer, dropout and head.

    Args:
        model: with these four attributes; its own ``step``, if it has one, runs its hooks.
        kind: the class that says how they follow each other; a subclass may say otherwise.
        batch, precision: see :func:`open_stream`.

    Raises:
        ValueError: see :func:`open_stream`; the model is changed in a way that no step of it would
            show, or reads numbers that its run scales.
    """
    parts = model_parts(model, kind)
    changed = unlike(model, kind)
    if changed and not hasattr(model, "step"):
        raise ValueError(
            f"expected a plain {kind.__name__}, got {changed}, which no step of a stream would "
            "run; change a part of it: embedding, layer, dropout or head"
        )
    embedding = parts.embedding
    if isinstance(embedding, ScaledNumbers):
        raise ValueError(
            "expected a model that reads numbers as they are; this one reads numbers that its run "
            "has scaled, and a stream of the rows of a file would answer wrong: give whole "
            "sequences to run.predict, or scaled numbers to a stream of model.layer"
        )
    if embedding is not None and not isinstance(embedding, TokenEmbedding):
        raise ValueError(
            f"expected an embedding of tokens, got {type(embedding).__name__}, which reads more "
            "than one id a step; stream the layer, and give it the vectors"
        )
    return _opened(parts, batch, precision)


def model_parts(model: Any, kind: type[nn.Module]) -> StreamParts:
    """Return what a stream over a model of this kind runs."""
    embedding = None if type(model.embedding) is nn.Identity else model.embedding
    return StreamParts(model.layer, embedding, model.dropout, model.head, model, kind)


def _parts_now(parts: StreamParts) -> StreamParts:
    """Return the parts of the same model as they are now, some of them perhaps replaced."""
    return parts if parts.model is None else model_parts(parts.model, parts.kind)


def _width(head: nn.Module, size: int, dtype: torch.dtype, device: Any) -> int:
    """Return how many outputs a head of any class has, for ``size`` features."""
    if isinstance(head, nn.Linear):
        return head.out_features
    with torch.no_grad():
        scores: Tensor = head(torch.zeros(1, size, dtype=dtype, device=device))
    return scores.shape[-1]


def open_stream(layer: Layer, batch: int = 1, precision: str = "float32") -> Stream:
    """Return a stream over a layer.

    Args:
        layer: any causal layer.
        batch: B.
        precision: of the weights in the native core: float32, bf16 or int8.

    Raises:
        ValueError: the layer reads both ways, or a setting is out of range.
    """
    return _opened(StreamParts(layer), batch, precision)


def _opened(parts: StreamParts, batch: int, precision: str) -> Stream:
    layer = parts.layer
    if not layer.causal:
        raise ValueError(
            "expected a layer that reads forward only, got one that also reads backward: a stream "
            "has no later steps to read; build with bidirectional=False"
        )
    if precision not in native.PRECISIONS:
        known = ", ".join(native.PRECISIONS)
        raise ValueError(
            f"expected a precision out of {known}, got {precision!r}; choose one"
        )
    if batch < 1:
        raise ValueError(
            f"expected a batch of at least 1, got {batch}; give a positive number"
        )
    why = why_not_native(parts, batch)
    with torch.inference_mode(
        False
    ):  # what is made inside could not be changed outside
        if why is None:
            return _Native(parts, batch, precision)
        if precision != "float32":
            warnings.warn(f"no step with weights in {precision}: {why}", stacklevel=4)
        return _Torch(parts, batch, why)
