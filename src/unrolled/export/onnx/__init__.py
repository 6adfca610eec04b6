"""Models as ONNX graphs, which ONNX Runtime runs: any batch, any length, rows of unequal length.

The graph is built from the layers themselves, and not traced: a trace of a loop knows one length.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import nn

from unrolled.core.errors import UserError
from unrolled.core.files import write_json
from unrolled.export.onnx.comparing import compare
from unrolled.export.onnx.models import refuse, translate
from unrolled.export.onnx.page import Description, document, page
from unrolled.export.parity import Difference

__all__ = ["Description", "check_installed", "refuse", "write"]

MODEL = "model.onnx"
LARGEST = 2**31 - 2**20  # bytes that one message of ONNX holds, and with it one file


def write(model: nn.Module, description: Description, folder: Path) -> Difference:
    """Write a model and what its inputs mean into a folder, run it, and compare it with ours.

    Args:
        model: in evaluation mode, on the CPU; not refused.
        description: what its inputs and outputs mean.
        folder: where the files of its fields stand already.

    Raises:
        UserError: ONNX or its runtime is missing, or the weights take more than one file holds.
    """
    check_installed()
    refuse_large(model)
    import onnx
    import onnxruntime

    translation = translate(model)
    proto = translation.graph.model(description.task)
    path = str(folder / MODEL)
    onnx.save_model(proto, path)
    context = getattr(getattr(model, "layer", None), "context", None)
    values = document(description, translation.inputs, translation.outputs, context)
    write_json(folder / "meta.json", values)
    text = page(description, translation.inputs, translation.outputs, context)
    (folder / "README.md").write_text(text, "utf-8")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    return compare(model, translation, session)


def refuse_large(model: nn.Module) -> None:
    """Raise UserError for weights that one file cannot hold, before they are copied."""
    size = 4 * sum(weight.numel() for weight in model.parameters())
    if size > LARGEST:
        raise UserError(
            f"the weights take {size / 1e9:.1f} GB in fp32, and one file of ONNX holds "
            f"{LARGEST / 1e9:.1f}; export a language model to hf or gguf"
        )


def check_installed() -> None:
    """Raise UserError where ONNX or its runtime is missing."""
    try:
        for name in ("onnx", "onnxruntime"):
            importlib.import_module(name)
    except ImportError:
        raise UserError(
            "this needs ONNX and ONNX Runtime: pip install 'unrolled[export]'"
        ) from None
