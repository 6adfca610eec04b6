"""Opens streams: over layers and models, by the native core where it can, else by torch.

Shapes: B rows, D input features (or one token id a row), H outputs, L layers.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from unrolled.nn.attention_stream import AttentionStream
from unrolled.nn.dropout import LockedDropout
from unrolled.nn.embedding import ScaledNumbers, TokenEmbedding
from unrolled.nn.forms import unlike
from unrolled.nn.layer import Layer, checked
from unrolled.nn.packed_model import TransformerParts
from unrolled.nn.recurrent import GRU, LSTM, RNN, Recurrent
from unrolled.nn.state import State
from unrolled.nn.stepper import NativeStepper, why_not_native
from unrolled.nn.stream import Stream
from unrolled.nn.stream_parts import StreamParts, stream_room
from unrolled.nn.transformer import Attention
from unrolled.ops import native
from unrolled.ops.layout import dense

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Stage(NamedTuple):
    """A recurrent layer (w_ih, w_hh, b_ih, b_hh), or without a cell a linear one (w, -, b, -)."""

    cell: str | None
    residual: bool
    weights: tuple[Tensor | None, ...]


class RecurrentParts(StreamParts):
    """A chain of recurrent layers, and what stands before and after it."""

    steps = Recurrent

    def stages(self) -> list[_Stage]:
        """Return what the core runs one after the other."""
        layer = self.layer
        assert isinstance(layer, Recurrent)
        stages = []
        for index in range(layer.num_layers):
            names = [f"{name}_l{index}" for name in _WEIGHTS]
            weights = tuple(getattr(layer, name, None) for name in names)
            residual = layer.residual and index > 0
            stages.append(_Stage(layer.cell, residual, weights))
        if self.head is not None:
            head: Any = self.head
            weights = (head.weight, None, head.bias, None)
            stages.append(_Stage(None, False, weights))
        return stages

    def weights(self) -> list[Tensor | None]:
        weights: list[Tensor | None] = []
        for stage in self.stages():
            weights += stage.weights
        if self.embedding is not None:
            embedding: Any = self.embedding
            weights.append(embedding.weight)
        return weights

    def layer_changes(self) -> Iterator[str]:
        yield unlike(self.layer, GRU, LSTM, RNN)
        for child in self.layer.children():
            yield unlike(child, LockedDropout)

    def unsupported(self, rows: int) -> Iterator[str]:
        layer = cast(Recurrent, self.layer)
        settings: dict[str, Any] = {
            "proj_size": layer.proj_size,
            "layer_norm": layer.layer_norm,
            "zoneout": layer.zoneout,
            # the rows of a narrower last layer do not lie side by side in the state
            "last_size for several rows": layer.last_size and rows > 1,
        }
        lacking = [name for name, setting in settings.items() if setting]
        if lacking:
            yield f"the native core has no {', '.join(lacking)}"


class _NativeStream(NativeStepper[RecurrentParts], Stream):
    """Steps by the native core."""

    native = True
    noun = "stream"

    def __init__(self, parts: RecurrentParts, batch: int, precision: str) -> None:
        NativeStepper.__init__(self, parts)
        Stream.__init__(self, *stream_room(parts, batch))
        library: Any = native.library()
        self._library = library
        self._run = library.stream_step
        self.precision = precision
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
        """Tell the core which stages there are, and where their states stand."""
        core = self._core
        library = self._library
        table = self._table
        if table is not None:
            tokens, width = table.shape
            vectors = table.data_ptr()
            native.check(library.stream_embedding(core, tokens, width, vectors))
        state = self._state.to_tensors()
        for index, (cell, residual, weights) in enumerate(self._parts.stages()):
            w_ih, w_hh, *_ = weights
            assert w_ih is not None
            size, inputs = w_ih.shape
            if cell is None or w_hh is None:
                native.check(library.stream_linear(core, inputs, size))
                continue
            hidden = w_hh.shape[1]
            pointers = [part[index].data_ptr() for part in state.values()]
            h = pointers[0]
            c = pointers[1] if len(pointers) > 1 else None
            kind = native.CELLS[cell]
            native.check(
                library.stream_layer(core, kind, inputs, hidden, h, c, residual)
            )
        output = self.output.data_ptr()
        native.check(library.stream_output(core, output))

    def _read_table(self) -> Tensor | None:
        """Return a copy of the vectors of all tokens as the embedding says them."""
        embedding: Any = self._parts.embedding
        if embedding is None:
            return None
        table: Tensor = embedding.weight.detach() * embedding.scale
        return table.contiguous()

    def _load_weights(self) -> None:
        for index, stage in enumerate(self._parts.stages()):
            weights = [None if w is None else dense(w.detach()) for w in stage.weights]
            addresses = [None if w is None else w.data_ptr() for w in weights]
            native.check(self._library.stream_load(self._core, index, *addresses))

    def _pack(self) -> None:
        fresh = self._read_table()
        if self._table is not None and fresh is not None:
            self._table.copy_(fresh)  # where it stands: the core has a pointer to it
        self._load_weights()

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
        expected = _shapes(own)
        got = _shapes(new)
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

    @property
    def bytes(self) -> int:
        return int(self._library.stream_bytes(self._core))

    def explain(self) -> str:
        return f"native core: {self.precision} weights, {self.bytes:,} bytes of them read in a step"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class _TorchStream(Stream):
    """Steps by ``layer.step`` of a copy, with the same interface; each takes memory."""

    native = False

    def __init__(self, parts: StreamParts, batch: int, why: str) -> None:
        super().__init__(*stream_room(parts, batch))
        self._parts = parts
        self._batch = batch
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
        parts = self._copy
        if hasattr(parts.model, "step"):
            y, self._state = cast(Any, parts.model).step(x, self._state)
            return self.output.copy_(y)
        read = x if parts.embedding is None else parts.embedding(x)
        y, self._state = parts.layer.step(read, self._state)
        y = y if parts.dropout is None else parts.dropout(y)
        y = y if parts.head is None else parts.head(y)
        return self.output.copy_(y)

    def load(self, state: State) -> None:
        checked(state, type(self._state), type(self._parts.layer).__name__)
        if state.rows != self._batch:
            raise ValueError(
                f"expected a state of {self._batch} rows, as many as the stream's, got "
                f"{state.rows}; state.reorder picks rows"
            )
        tensors = state.to_tensors()
        copied = {name: tensor.clone() for name, tensor in tensors.items()}
        self._state = type(state).from_tensors(copied)

    @torch.no_grad()
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        fresh = self._parts.layer.initial_state(self._batch)
        if rows is not None:
            picked = torch.arange(self._batch, device=self.output.device)
            picked[rows] += self._batch
            both = type(fresh).join([self._state, fresh])
            fresh = both.reorder(picked)
        self._state = fresh

    def refresh(self) -> None:
        self._parts = self._parts.now()
        self._copy = copy.deepcopy(self._parts, _computed(self._parts))
        for part in self._copy.modules():
            part.eval()
        if self._copy.model is not None:
            self._copy.model.eval()

    @property
    def bytes(self) -> int:
        weights = set(self._copy.layer.parameters())
        if self._copy.head is not None:
            weights.update(self._copy.head.parameters())
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def explain(self) -> str:
        return f"torch, a call of step at a time: {self._why}"


def _computed(parts: StreamParts) -> dict[int, Any]:
    """Return what ``deepcopy`` is to take for tensors that a graph computed, which it refuses.

    Pruned and normed weights are such: their hooks compute them anew at each call of the copy.
    """
    modules = parts.modules()
    if parts.model is not None:
        modules.append(parts.model)
    copies: dict[int, Any] = {}
    for module in modules:
        for child in module.modules():
            for attribute in vars(child).values():
                if isinstance(attribute, Tensor) and not attribute.is_leaf:
                    copies[id(attribute)] = attribute.detach().clone()
    return copies


def parts_class(layer: Layer) -> type[StreamParts]:
    """Return what says which parts of a model with this layer a stream runs."""
    return TransformerParts if isinstance(layer, Attention) else RecurrentParts


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
    parts = parts_class(model.layer).of_model(model, kind)
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


def open_stream(layer: Layer, batch: int = 1, precision: str = "float32") -> Stream:
    """Return a stream over a layer.

    Args:
        layer: any causal layer.
        batch: B.
        precision: of the weights in the native core; see :meth:`Layer.stream`.

    Raises:
        ValueError: the layer reads both ways, or a setting is out of range.
    """
    return _opened(parts_class(layer)(layer), batch, precision)


def _opened(parts: StreamParts, batch: int, precision: str) -> Stream:
    layer = parts.layer
    if not layer.causal:
        raise ValueError(
            "expected a layer that reads forward only, got one that also reads backward: a stream "
            "has no later steps to read; build with bidirectional=False"
        )
    if precision not in parts.precisions:
        known = ", ".join(parts.precisions)
        raise ValueError(
            f"expected a precision out of {known}, got {precision!r}; choose one"
        )
    if batch < 1:
        raise ValueError(
            f"expected a batch of at least 1, got {batch}; give a positive number"
        )
    why = why_not_native(parts, batch)
    # what is made inside inference mode could not be changed outside
    with torch.inference_mode(False):
        if why is None and isinstance(parts, TransformerParts):
            return AttentionStream(parts, batch, precision)
        if why is None:
            return _NativeStream(cast(RecurrentParts, parts), batch, precision)
        if precision != "float32":
            warnings.warn(f"no step with weights in {precision}: {why}", stacklevel=4)
        return _TorchStream(parts, batch, why)
