"""An ONNX graph while it is built, node by node.

Shapes: B rows, T steps, D features, I inputs and O outputs of a product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OPSET = 18  # the first with bitwise operators; ONNX Runtime 1.14 and later have it
IR_VERSION = 8  # that of the first release with this opset
INFINITY = float("-inf")
Array = np.ndarray[Any, Any]
Size = int | str


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a graph; operators on it add nodes. A whole number is int64, others are fp32.

    Attributes:
        graph: where it was made.
        name: what nodes call it.
    """

    graph: Graph
    name: str

    def apply(self, kind: str, *others: Operand, **options: Any) -> Value:
        """Add a node that reads this value first, and return its one output."""
        return self.graph.apply(
            kind,
            self,
            *others,
            **options,
        )

    def __add__(self, other: Operand) -> Value:
        return self.apply("Add", other)

    def __sub__(self, other: Operand) -> Value:
        return self.apply("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self.graph.constant(other) - self

    def __mul__(self, other: Operand) -> Value:
        return self.apply("Mul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self.apply("Div", other)

    def __mod__(self, other: Operand) -> Value:
        return self.apply("Mod", other)

    def __matmul__(self, other: Value) -> Value:
        return self.apply("MatMul", other)

    def __and__(self, other: Value) -> Value:
        return self.apply("And", other)

    def __or__(self, other: Value) -> Value:
        return self.apply("Or", other)

    def __xor__(self, other: Value) -> Value:
        return self.apply("BitwiseXor", other)

    def __lt__(self, other: Operand) -> Value:
        return self.apply("Less", other)

    def __le__(self, other: Operand) -> Value:
        return self.apply("LessOrEqual", other)

    def __gt__(self, other: Operand) -> Value:
        return self.apply("Greater", other)

    def __ge__(self, other: Operand) -> Value:
        return self.apply("GreaterOrEqual", other)

    # ------------------------------------------------------------------ shapes

    def size(self, axis: int) -> Value:
        """Return the size of an axis (1,)."""
        return self.apply("Shape", start=axis, end=axis + 1)

    def turned(self, *axes: int) -> Value:
        """Return the axes in another order."""
        return self.apply("Transpose", perm=axes)

    def reshaped(self, *shape: int) -> Value:
        """Return another shape; 0 keeps a size, and -1 is what is left."""
        return self.apply("Reshape", shape)

    def wider(self, *axes: int) -> Value:
        """Return the value with axes of size 1 put in."""
        return self.apply("Unsqueeze", axes)

    def narrower(self, *axes: int) -> Value:
        """Return the value without axes of size 1."""
        return self.apply("Squeeze", axes)

    def part(
        self,
        begin: int,
        end: int,
        axis: int,
    ) -> Value:
        """Return ``[begin:end]`` along an axis."""
        return self.apply(
            "Slice",
            (begin,),
            (end,),
            (axis,),
        )

    def parts(self, *sizes: int) -> list[Value]:
        """Return the features (..., D) in parts of so many."""
        if len(sizes) == 1:
            return [self]
        return self.graph.split_off(
            "Split",
            len(sizes),
            self,
            sizes,
            axis=-1,
        )

    def cast(self, dtype: Any) -> Value:
        """Return the value as another type of number."""
        return self.apply("Cast", to=_type_of(dtype))

    def sum(
        self,
        axis: int,
        keep: bool = False,
    ) -> Value:
        """Return the sum along an axis, which stays with size 1 if asked."""
        return self.apply("ReduceSum", (axis,), keepdims=int(keep))

    # ------------------------------------------------------------------ layers of torch

    def linear(self, module: nn.Linear) -> Value:
        """Return the product (..., O) of features (..., I), and its bias added."""
        product = self.times(module.weight)
        return product if module.bias is None else product + module.bias

    def times(self, weight: Tensor) -> Value:
        """Return features (..., I) times a weight (O, I)."""
        # the runtime turns it once, when it opens the model
        columns = self.graph.weight(weight).turned(1, 0)
        return self @ columns

    def normed(self, module: nn.Module) -> Value:
        """Return features (..., D) normalised by a LayerNorm, an RMSNorm or nothing."""
        if isinstance(module, nn.LayerNorm):
            return self.layer_normed(module.weight, module.bias, module.eps)
        if not isinstance(module, nn.RMSNorm):
            return self
        squares = self * self
        mean = squares.apply("ReduceMean", (-1,), keepdims=1)
        raised = mean + float(module.eps or 0.0)
        root = raised.apply("Sqrt")
        return self / root * module.weight

    def layer_normed(
        self, gain: Tensor, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Value:
        """Return features (..., D) normalised."""
        biases = () if bias is None else (bias,)
        return self.apply(
            "LayerNormalization",
            gain,
            *biases,
            axis=-1,
            epsilon=eps,
        )

    def activated(self, kind: str) -> Value:
        """Return tanh, relu, sigmoid, gelu, gelu-tanh or silu of the value."""
        if kind in ("tanh", "relu", "sigmoid"):
            return self.apply(kind.capitalize())
        if kind == "silu":
            return self * self.apply("Sigmoid")
        if kind == "gelu":
            scaled = self * 0.5**0.5
            curve = scaled.apply("Erf")
        else:
            # Hendrycks and Gimpel (2016), section 2
            square = self * self
            factor = square * 0.044715 + 1.0
            inside = self * factor * (2 / np.pi) ** 0.5
            curve = inside.apply("Tanh")
        half = self * 0.5
        return half * (curve + 1.0)


# what stands where a value is wanted: a weight, a list of whole numbers, or a number
Operand = Value | Tensor | Sequence[int] | float


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
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        # with the tensors, so that no other one gets the identity of one that is gone
        self._parameters: dict[int, tuple[Tensor, Value]] = {}

    def split_off(
        self, kind: str, count: int, *inputs: Operand, **options: Any
    ) -> list[Value]:
        """Add a node and return its first ``count`` outputs."""
        from onnx import helper

        read = [self.value(operand).name for operand in inputs]
        names = [f"{kind.lower()}_{next(self.numbers)}" for _ in range(count)]
        self.nodes.append(
            helper.make_node(
                kind,
                read,
                names,
                **options,
            )
        )
        return [Value(self, name) for name in names]

    def apply(self, kind: str, *inputs: Operand, **options: Any) -> Value:
        """Add a node and return its one output."""
        return self.split_off(
            kind,
            1,
            *inputs,
            **options,
        )[0]

    def value(self, operand: Operand) -> Value:
        """Return what stands for a value as one."""
        if isinstance(operand, Value):
            return operand
        if isinstance(operand, Tensor):
            return self.weight(operand)
        return self.constant(operand)

    def constant(self, number: Any) -> Value:
        """Return numbers, int64 where they are whole and else fp32; equal ones are kept once."""
        array = np.asarray(number)
        is_whole = array.dtype.kind == "i"
        array = array.astype(np.int64 if is_whole else np.float32)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._kept("constant", array)
        return self._constants[key]

    def weight(self, tensor: Tensor) -> Value:
        """Return a weight in fp32; one that stands in two places is kept once."""
        if id(tensor) not in self._parameters:
            array = tensor.detach().to(torch.float32).numpy()
            self._parameters[id(tensor)] = (tensor, self._kept("weight", array))
        return self._parameters[id(tensor)][1]

    def _kept(
        self,
        kind: str,
        array: Array,
    ) -> Value:
        from onnx import numpy_helper

        name = f"{kind}_{next(self.numbers)}"
        self.weights.append(numpy_helper.from_array(array.copy(order="C"), name))
        return Value(self, name)

    def zeros(self, *sizes: Operand) -> Value:
        """Return zeros of a shape whose sizes are values (1,)."""
        return self.joined(sizes, axis=0).apply("ConstantOfShape")

    def joined(
        self,
        parts: Sequence[Operand],
        axis: int = -1,
    ) -> Value:
        """Return parts side by side."""
        if len(parts) == 1:
            return self.value(parts[0])
        return self.apply("Concat", *parts, axis=axis)

    def chosen(
        self,
        condition: Value,
        yes: Operand,
        no: Operand,
    ) -> Value:
        """Return one value where a condition holds, and another elsewhere."""
        return condition.apply("Where", yes, no)

    # ------------------------------------------------------------------ steps

    def positions(self, x: Value) -> Value:
        """Return 0, 1, 2 ... (T,) for x (B, T, ...)."""
        count = x.size(1).narrower(0)
        return self.apply(
            "Range",
            0,
            count,
            1,
        )

    def real_steps(
        self,
        x: Value,
        lengths: Value,
    ) -> Value:
        """Return where a step of x (B, T, ...) is no padding, bool (B, T)."""
        return self.positions(x) < lengths.wider(1)

    def zero_padding(
        self,
        x: Value,
        lengths: Value,
    ) -> Value:
        """Return x (B, T, D) with zeros at padding."""
        mask = self.real_steps(x, lengths).wider(2)
        return self.chosen(mask, x, 0.0)

    # ------------------------------------------------------------------ ends

    def add_input(
        self, name: str, dtype: Any, shape: Sequence[Size] | None = None
    ) -> Value:
        """Add an input of the graph; sizes that vary are names. None is any shape."""
        self.inputs.append(_described(name, dtype, shape))
        return Value(self, name)

    def add_output(
        self, name: str, value: Value, shape: Sequence[Size] | None = None
    ) -> None:
        """Give a value of fp32 out under a name."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value.name], [name]))
        self.outputs.append(_described(name, np.float32, shape))

    def body(self, name: str) -> Any:
        """Return the graph as ONNX has it, for a node that runs it."""
        from onnx import helper

        ends = (self.inputs, self.outputs, self.weights)
        return helper.make_graph(self.nodes, name, *ends)

    def model(self, name: str) -> Any:
        """Return the model as ONNX has it."""
        from onnx import helper

        return helper.make_model(
            self.body(name),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="unrolled",
        )


def _type_of(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _described(
    name: str,
    dtype: Any,
    shape: Sequence[Size] | None,
) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, _type_of(dtype), shape)
