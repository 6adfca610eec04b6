"""GRU and LSTM against ONNX Runtime: one step of one row, and a sequence of a batch.

ONNX Runtime reads and writes through bound buffers here, which costs it least; the state goes to
and fro between two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.layers import common
from benchmarks.layers.common import CELLS, Options, Tensors, Work
from benchmarks.layers.streaming import SIZES, STEPS, outputs

TARGET = 1.5
SEQUENCE = (64, 16)  # T, B
# torch's gates in the order of ONNX: update, reset, candidate; input, output, forget, candidate
ORDER = {"gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
SAME = 1e-4  # ONNX Runtime's error, relative in the norm: another gate order would be off by 1
WIDTHS = (6, 6, 10, 4, 9, 9, 6, 8)


def model(cell: str, layer: nn.Module, steps: int, rows: int) -> bytes:
    """Return a layer of torch's as an ONNX model that takes x and its state, and gives both anew.

    A model of one step has no outputs but the state.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = dict(layer.named_parameters())
    hidden = weights["weight_hh_l0"].shape[1]

    def ordered(name: str) -> np.ndarray[Any, Any]:
        gates = weights[name].detach().chunk(CELLS[cell][2])
        return torch.cat([gates[index] for index in ORDER[cell]]).numpy()

    arrays = {
        "W": ordered("weight_ih_l0")[None],
        "R": ordered("weight_hh_l0")[None],
        "B": np.concatenate([ordered("bias_ih_l0"), ordered("bias_hh_l0")])[None],
    }
    state = ["h", "c"][: 1 + (cell == "lstm")]
    extra = {"linear_before_reset": 1} if cell == "gru" else {}
    node = helper.make_node(
        cell.upper(),
        ["x", "W", "R", "B", "", *state],
        ["y" if steps > 1 else "", *(f"{name}_new" for name in state)],
        hidden_size=hidden,
        **extra,
    )
    kind = TensorProto.FLOAT
    width = weights["weight_ih_l0"].shape[1]

    def tensor_info(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    y = [tensor_info("y", steps, 1, rows, hidden)] if steps > 1 else []
    graph = helper.make_graph(
        [node],
        cell,
        [
            tensor_info("x", steps, rows, width),
            *(tensor_info(name, 1, rows, hidden) for name in state),
        ],
        [*y, *(tensor_info(f"{name}_new", 1, rows, hidden) for name in state)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return bytes(made.SerializeToString())


class Session:
    """A model with its buffers: ``x`` and ``y`` are arrays, ``work`` reads on from the state."""

    def __init__(
        self, cell: str, layer: nn.Module, steps: int, rows: int, threads: int
    ) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model(cell, layer, steps, rows),
            settings,
            providers=["CPUExecutionProvider"],
        )
        shapes = {
            argument.name: argument.shape for argument in self.session.get_inputs()
        }
        shapes |= {
            argument.name: argument.shape for argument in self.session.get_outputs()
        }
        # the runtime keeps the memory of these arrays
        self.arrays = {
            name: np.zeros(shape, np.float32) for name, shape in shapes.items()
        }
        wrap = onnxruntime.OrtValue.ortvalue_from_numpy
        values = {name: wrap(array) for name, array in self.arrays.items()}
        self.values = values
        self.there = True
        self.bindings = [
            self.bind(values, old, new) for old, new in (("", "_new"), ("_new", ""))
        ]

    def bind(self, values: dict[str, Any], old: str, new: str) -> Any:
        """Return a binding that reads the state from one set of buffers and writes the other."""
        binding = self.session.io_binding()
        for argument in self.session.get_inputs():
            name = argument.name if argument.name == "x" else argument.name + old
            binding.bind_ortvalue_input(argument.name, values[name])
        for argument in self.session.get_outputs():
            name = (
                argument.name
                if argument.name == "y"
                else argument.name.removesuffix("_new") + new
            )
            binding.bind_ortvalue_output(argument.name, values[name])
        return binding

    def feed(self, x: Tensor) -> None:
        """Write the input (T, B, D)."""
        self.values["x"].update_inplace(x.numpy())

    def step(self) -> None:
        """Run once, from the state that the last call left."""
        self.session.run_with_iobinding(self.bindings[0 if self.there else 1])
        self.there = not self.there

    def whole(self) -> None:
        """Run once from zeros."""
        self.session.run_with_iobinding(self.bindings[0])

    def read(self, name: str) -> Tensor:
        """Return a copy of an output: ``y``, or ``h`` that the last step wrote."""
        if name == "h":
            name = "h_new" if not self.there else "h"
        return torch.from_numpy(self.values[name].numpy().copy())


def check(what: str, theirs: Tensors, exact: Tensors) -> None:
    """Refuse when ONNX Runtime computes something else than torch."""
    off = common.error(theirs["y"], exact["y"])
    if not off <= SAME:
        common.refuse(
            f"{what}: ONNX Runtime is off by {off:.1e}, so it runs another equation"
        )


def one_step(cell: str, hidden: int, what: str) -> dict[str, Work]:
    """Return a step of a stream and of a session, after comparing ``STEPS`` of them."""
    layer, beside, double = common.twins(cell, hidden, hidden)
    x = torch.randn(STEPS, 1, hidden)
    exact = {"y": double(x.double())[0]}
    stream = layer.stream(batch=1)
    session = Session(cell, beside, 1, 1, 1)

    def follow(frame: Tensor) -> Tensor:
        session.feed(frame[None])
        session.step()
        return session.read("h")[0]

    with common.at_work(what, "step"):
        ours = outputs(stream.step, x)
    check(what, outputs(follow, x), exact)
    common.compare(what, ours, {"y": beside(x)[0]}, exact, "float32")
    return {"ours": partial(stream.step, x[0]), "onnx": session.step}


def sequence(cell: str, hidden: int, threads: int, what: str) -> dict[str, Work]:
    """Return reading x (T, B, D) by our layer and a session, after comparing them."""
    steps, rows = SEQUENCE
    layer, beside, double = common.twins(cell, hidden, hidden)
    x = torch.randn(steps, rows, hidden)
    exact = {"y": double(x.double())[0]}
    session = Session(cell, beside, steps, rows, threads)
    session.feed(x)
    session.whole()
    check(what, {"y": session.read("y")[:, 0]}, exact)
    with common.at_work(what, "forward"):
        ours = {"y": layer(x)[0]}
    common.compare(what, ours, {"y": beside(x)[0]}, exact, "float32")
    read: Callable[[Tensor], object] = layer
    return {"ours": partial(read, x), "onnx": session.whole}


def run(options: Options) -> Any:
    """Measure both forms at every size, or say how to install what is missing."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        print(f"left out: {error}; pip install onnx onnxruntime")
        return {"left out": str(error)}
    print(
        f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}; us; bound buffers"
    )
    common.line(WIDTHS, "cell", "H", "form", "thr", "us", "onnx", "ratio", "target")
    lines = []
    cases = [
        ("one step", 1),
        *((f"{SEQUENCE[0]} x {SEQUENCE[1]}", count) for count in (1, 2)),
    ]
    for cell in ORDER:
        for hidden in SIZES[:2] if options.quick else SIZES:
            for form, threads in cases:
                what = f"{cell} of {hidden} beside ONNX Runtime, {form}"
                with torch.inference_mode(), common.threads_of(threads):
                    single = form == "one step"
                    works = (
                        one_step(cell, hidden, what)
                        if single
                        else sequence(cell, hidden, threads, what)
                    )
                    times = common.take_turns(works, options)
                seconds = common.medians(times)
                faster = common.ratio(times, "onnx", "ours")
                common.line(
                    WIDTHS,
                    cell,
                    hidden,
                    form,
                    threads,
                    f"{seconds['ours'] * 1e6:.1f}",
                    f"{seconds['onnx'] * 1e6:.1f}",
                    f"{faster:.2f}",
                    common.against(faster, TARGET),
                )
                lines.append(
                    {
                        "cell": cell,
                        "hidden": hidden,
                        "form": form,
                        "threads": threads,
                        "us": seconds["ours"] * 1e6,
                        "onnx_us": seconds["onnx"] * 1e6,
                        "ratio": faster,
                        "target": TARGET,
                    }
                )
    return {"onnxruntime": onnxruntime.__version__, "rows": lines}
