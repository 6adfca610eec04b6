"""An ONNX graph while it is built, node by node. A value is its name.

Shapes: B rows, T steps, D features, I inputs and O outputs of a product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OPSET = 18  # the first with bitwise operators; ONNX Runtime 1.14 and later have it
IR_VERSION = 8  # that of the first release with this opset
INFINITY = float("-inf")


class Graph:
    """Nodes in order, weights, inputs and outputs.

    Args:
        numbers: what tells the names of values apart; that of the graph around, in a body.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        self.numbers = itertools.count() if numbers is None else numbers
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        # with the tensors, so that no other one gets the identity of one that is gone
        self._parameters: dict[int, tuple[Tensor, str]] = {}

    # ------------------------------------------------------------------ values

    def split_off(
        self, kind: str, count: int, *inputs: str, **options: Any
    ) -> list[str]:
        """Add a node and return its first ``count`` outputs; an empty input is left out."""
        from onnx import helper

        names = [f"{kind.lower()}_{next(self.numbers)}" for _ in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, **options))
        return names

    def apply(self, kind: str, *inputs: str, **options: Any) -> str:
        """Add a node and return its one output."""
        return self.split_off(kind, 1, *inputs, **options)[0]

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return a constant; equal ones are kept once."""
        array = np.asarray(value, dtype=dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._kept("constant", array)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """Return a list of whole numbers, such as axes or a shape."""
        return self.constant(values, np.int64)

    def weight(self, tensor: Tensor) -> str:
        """Return a weight in fp32; one that stands in two places is kept once."""
        if id(tensor) not in self._parameters:
            array = tensor.detach().to(torch.float32).numpy()
            self._parameters[id(tensor)] = (tensor, self._kept("weight", array))
        return self._parameters[id(tensor)][1]

    def _kept(self, kind: str, array: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        name = f"{kind}_{next(self.numbers)}"
        self.weights.append(numpy_helper.from_array(array.copy(order="C"), name))
        return name

    # ------------------------------------------------------------------ ends

    def add_input(
        self, name: str, dtype: Any, shape: Sequence[int | str] | None
    ) -> str:
        """Add an input of the graph; sizes that vary are names. None is any shape."""
        self.inputs.append(_described(name, dtype, shape))
        return name

    def add_output(
        self,
        name: str,
        value: str,
        shape: Sequence[int | str] | None,
        dtype: Any = np.float32,
    ) -> None:
        """Give a value out under a name."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(_described(name, dtype, shape))

    def body(self, name: str) -> Any:
        """Return the graph as ONNX has it, for a node that runs it."""
        from onnx import helper

        return helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, self.weights
        )

    def model(self, name: str) -> Any:
        """Return the model as ONNX has it, checked."""
        import onnx
        from onnx import helper

        model = helper.make_model(
            self.body(name),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="unrolled",
        )
        # past 2 GB a message cannot be checked in memory, only run
        if model.ByteSize() < 2**31:
            onnx.checker.check_model(model)
        return model

    # ------------------------------------------------------------------ layers of torch

    def linear(self, x: str, module: nn.Linear) -> str:
        """Return the product (..., O) of x (..., I)."""
        bias = None if module.bias is None else self.weight(module.bias)
        return self.product(x, self.weight(module.weight), bias)

    def product(self, x: str, weight: str, bias: str | None) -> str:
        """Return x (..., I) times a weight (O, I), and its bias (O,) added."""
        # the runtime transposes once, when it opens the model
        turned = self.apply("Transpose", weight, perm=[1, 0])
        y = self.apply("MatMul", x, turned)
        return y if bias is None else self.apply("Add", y, bias)

    def norm(self, x: str, module: nn.Module) -> str:
        """Return x (..., D) normalised by a LayerNorm, an RMSNorm or nothing."""
        if isinstance(module, nn.LayerNorm):
            return self.layer_norm(x, module.weight, module.bias, module.eps)
        if not isinstance(module, nn.RMSNorm):
            return x
        squares = self.apply("Mul", x, x)
        mean = self.apply("ReduceMean", squares, self.ints(-1), keepdims=1)
        raised = self.apply("Add", mean, self.constant(module.eps))
        root = self.apply("Sqrt", raised)
        scaled = self.apply("Div", x, root)
        return self.apply("Mul", scaled, self.weight(module.weight))

    def layer_norm(
        self, x: str, gain: Tensor, bias: Tensor | None, eps: float = 1e-5
    ) -> str:
        """Return x (..., D) normalised over its features."""
        inputs = [x, self.weight(gain)]
        if bias is not None:
            inputs.append(self.weight(bias))
        return self.apply("LayerNormalization", *inputs, axis=-1, epsilon=eps)

    def activation(self, x: str, kind: str) -> str:
        """Return tanh, relu, sigmoid, gelu, gelu-tanh or silu of x."""
        if kind in ("tanh", "relu", "sigmoid"):
            names = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}
            return self.apply(names[kind], x)
        if kind == "silu":
            return self.apply("Mul", x, self.apply("Sigmoid", x))
        if kind == "gelu":
            scaled = self.apply("Mul", x, self.constant(0.5**0.5))
            curve = self.apply("Erf", scaled)
        else:
            curve = self.apply("Tanh", self._inside_tanh(x))
        half = self.apply("Mul", x, self.constant(0.5))
        return self.apply("Mul", half, self.apply("Add", curve, self.constant(1.0)))

    def _inside_tanh(self, x: str) -> str:
        """Return sqrt(2/pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016, section 2)."""
        square = self.apply("Mul", x, x)
        part = self.apply("Mul", square, self.constant(0.044715))
        factor = self.apply("Add", part, self.constant(1.0))
        grown = self.apply("Mul", x, factor)
        return self.apply("Mul", grown, self.constant((2 / np.pi) ** 0.5))

    # ------------------------------------------------------------------ shapes

    def size(self, x: str, axis: int) -> str:
        """Return the size of an axis (1,)."""
        return self.apply("Shape", x, start=axis, end=axis + 1)

    def zeros(self, *sizes: str) -> str:
        """Return zeros of a shape whose sizes are values (1,)."""
        return self.apply("ConstantOfShape", self.joined(*sizes, axis=0))

    def joined(self, *parts: str, axis: int = -1) -> str:
        """Return parts side by side."""
        return self.apply("Concat", *parts, axis=axis)

    def part(self, x: str, begin: int, end: int, axis: int) -> str:
        """Return ``x[begin:end]`` along an axis."""
        bounds = (self.ints(begin), self.ints(end), self.ints(axis))
        return self.apply("Slice", x, *bounds)

    def parts(self, x: str, sizes: Sequence[int]) -> list[str]:
        """Return the features of x (..., D) in parts of so many."""
        if len(sizes) == 1:
            return [x]
        return self.split_off("Split", len(sizes), x, self.ints(*sizes), axis=-1)

    def reshape(self, x: str, *shape: int) -> str:
        """Return x in another shape; 0 keeps a size, and -1 is what is left."""
        return self.apply("Reshape", x, self.ints(*shape))

    def positions(self, x: str, axis: int = 1) -> str:
        """Return 0, 1, 2 ... along an axis (T,)."""
        size = self.apply("Squeeze", self.size(x, axis), self.ints(0))
        zero = self.constant(0, np.int64)
        return self.apply("Range", zero, size, self.constant(1, np.int64))

    def real_steps(self, x: str, lengths: str) -> str:
        """Return where a step of x (B, T, ...) is no padding, bool (B, T)."""
        rows = self.apply("Unsqueeze", lengths, self.ints(1))
        return self.apply("Less", self.positions(x), rows)

    def zero_padding(self, x: str, real: str) -> str:
        """Return x (B, T, D) with zeros where a step is not ``real`` (B, T)."""
        mask = self.apply("Unsqueeze", real, self.ints(2))
        return self.apply("Where", mask, x, self.constant(0.0))


def _described(name: str, dtype: Any, shape: Sequence[int | str] | None) -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
