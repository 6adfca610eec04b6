"""GGUF files, llama.cpp's: settings and tokenizer in the header, weights in many types.

The header is read within the bounds of the file (``gguf_header``), and the package ``gguf`` turns
blocks of quantized numbers into fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.core.errors import UserError, shown
from unrolled.runs.published.config import PublishedConfig
from unrolled.runs.published.families import FAMILIES, Family
from unrolled.runs.published.gguf_header import GgufHeader, read_header
from unrolled.runs.published.gguf_names import (
    BLOCK,
    INNER,
    INTERLEAVED,
    KINDS,
    OUTER,
    Names,
)
from unrolled.runs.published.gguf_rotary import FACTORS, with_scaling
from unrolled.runs.published.weights import Shape, WeightOrigin, halved

ARCHITECTURE = "general.architecture"
EMBEDDING = "token_embd.weight"
OUTPUT = "output.weight"
# keys of config.json, by those after the name of the architecture; all have to be there
LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
# those that may be there
OPTIONAL_KEYS = {
    "attention.head_count_kv": "num_key_value_heads",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
}
# what computes otherwise, and what leaves everything as it is
OTHERWISE: Mapping[str, Any] = {
    "expert_count": 0,
    "attention.causal": True,
    "attention.scale": 0.0,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
    "use_parallel_residual": False,
}
# a text ends at each of them
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


class GgufFile:
    """The weights of a GGUF file under the names that it gives them, and what it says of them.

    Args:
        path: the file.

    Attributes:
        architecture: the name of it in the file.
        config: its settings as ``config.json`` has them.
        family: its architecture, with names as GGUF has them.

    Raises:
        UserError: it is damaged, one part of several, or of an architecture that is unknown.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        self.shapes: dict[str, Shape] = {
            name: tensor.shape for name, tensor in self.header.tensors.items()
        }
        name = _architecture(path, self.header)
        config = _config(path, self.header, name)
        if name != "gpt2":
            config = with_scaling(config, self.metadata, self.shapes, self.read)
        self.config = config
        self.family = named_family(name, self.config)
        self.architecture = name

    @property
    def metadata(self) -> Mapping[str, Any]:
        """All keys of the header."""
        return self.header.metadata

    def read(self, name: str) -> Tensor:
        """Return a tensor in fp32. Raises UserError: the file ends before it."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        stored = self.header.tensors[name]
        count = stored.rows * stored.row_bytes
        try:
            data = np.fromfile(self.path, np.uint8, count, offset=stored.begin)
        except OSError as error:
            raise UserError(
                f"{self.path}: {shown(name)} cannot be read ({error.strerror})"
            ) from None
        if len(data) < count:
            raise UserError(f"{self.path}: {shown(name)} is not whole: it was cut off")
        rows = data.reshape(stored.rows, stored.row_bytes)
        if stored.type == "F64":
            numbers = rows.view("<f8").astype(np.float32)
        else:
            numbers = dequantize(rows, GGMLQuantizationType[stored.type])
        tensor = torch.from_numpy(np.ascontiguousarray(numbers)).reshape(stored.shape)
        if name == FACTORS:
            return tensor
        heads = turned_heads(name, self.architecture, self.config.values)
        return halved(tensor, heads) if heads else tensor


def turned_heads(name: str, architecture: str, values: Mapping[str, Any]) -> int:
    """Return the heads of a tensor whose rows stand otherwise in the file, 0 for all others.

    Args:
        name: of the tensor, as the file has it.
        architecture: of the file.
        values: settings by the keys of ``config.json``.
    """
    part = name.split(".")[-2]
    if architecture not in INTERLEAVED or part not in ("attn_q", "attn_k"):
        return 0
    heads: int = values["num_attention_heads"]
    if part == "attn_k":
        heads = values.get("num_key_value_heads") or heads
    return heads


def _architecture(path: Path, header: GgufHeader) -> str:
    """Return the name of an architecture that is known. Raises UserError: it is another one."""
    parts = header.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise UserError(
            f"{path}: one part of {shown(parts)}; put them together with llama-gguf-split --merge"
        )
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise UserError(f"{path}: general.type is {shown(kind)}; expected 'model'")
    name = header.metadata.get(ARCHITECTURE)
    if not isinstance(name, str) or name not in INNER:
        raise UserError(
            f"{path}: {ARCHITECTURE} is {shown(name)}, which is unknown here; known are "
            f"{', '.join(INNER)}"
        )
    return name


def _config(path: Path, header: GgufHeader, architecture: str) -> PublishedConfig:
    """Return the settings. Raises UserError: one is missing, or asks for what is unknown here."""
    metadata = header.metadata
    keys = GPT2_KEYS if architecture == "gpt2" else LLAMA_KEYS
    missing = [key for key in keys if f"{architecture}.{key}" not in metadata]
    if missing:
        raise UserError(f"{path}: expected also the key {architecture}.{missing[0]}")
    for key, usual in OTHERWISE.items():
        value = metadata.get(f"{architecture}.{key}", usual)
        if value != usual:
            raise UserError(
                f"{path}: {architecture}.{key} is {shown(value)}; expected {usual}, since no other "
                "is known here"
            )
    values: dict[str, Any] = {}
    names = {}
    for theirs, ours in (keys | OPTIONAL_KEYS).items():
        name = f"{architecture}.{theirs}"
        names[ours] = name
        if name in metadata:
            values[ours] = metadata[name]
    values |= _of_tensors(path, header)
    for key in ("bos_token_id", *ENDS):
        names[key] = f"tokenizer.ggml.{key}"
    values["bos_token_id"] = metadata.get(names["bos_token_id"])
    values["eos_token_id"] = [metadata.get(names[key]) for key in ENDS]
    config = PublishedConfig(path, values, names)
    if architecture != "gpt2":
        _add_heads(config, values, metadata, architecture)
    return config


def _of_tensors(path: Path, header: GgufHeader) -> dict[str, Any]:
    """Return the settings that the tensors tell: vocabulary, biases, output weights."""
    embedding = header.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(
            f"{path}: expected the tensor {EMBEDDING}, of a row for each token"
        )
    tensors = header.tensors
    return {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": OUTPUT not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
    }


def _add_heads(
    config: PublishedConfig,
    values: dict[str, Any],
    metadata: Mapping[str, Any],
    architecture: str,
) -> None:
    """Put in how wide heads are, and how many there are of keys.

    Raises:
        UserError: they are no whole numbers, or only a part of a head is turned.
    """
    heads = config.whole("num_attention_heads")
    values["num_key_value_heads"] = config.whole("num_key_value_heads", heads)
    width = config.whole("hidden_size")
    usual = width // heads
    sizes = {}
    for key in ("attention.key_length", "attention.value_length"):
        sizes[key] = metadata.get(f"{architecture}.{key}", usual)
    size = sizes["attention.key_length"]
    sizes["rope.dimension_count"] = metadata.get(
        f"{architecture}.rope.dimension_count", size
    )
    for key, value in sizes.items():
        if type(value) is not int or value < 1 or value != size:
            raise UserError(
                f"{config.path}: {architecture}.{key} is {shown(value)}; expected the "
                f"{shown(size)} features of a head"
            )
    if size * heads != width or architecture == "qwen3":
        values["head_dim"] = size


def _origins(names: Names) -> dict[str, WeightOrigin]:
    """Return where weights and biases stand; those that share a tensor stand in it in order."""
    origins: dict[str, WeightOrigin] = {}
    for ours, theirs in names.items():
        sharing = [other for other in names if names[other] == theirs]
        part = sharing.index(ours)
        for kind in KINDS:
            whole = tuple(name + kind for name in theirs)
            origins[ours + kind] = WeightOrigin(whole, part=part, parts=len(sharing))
    return origins


def named_family(architecture: str, config: PublishedConfig) -> Family:
    """Return an architecture with the names that GGUF has.

    Raises:
        UserError: it has a window, and is not of the kind that may have one.
    """
    kind = architecture
    if config.values.get("sliding_window"):
        # GGUF calls Mistral a Llama
        if architecture != "llama":
            config.must("sliding_window", 0, default=0)
        kind = "mistral"
    return replace(
        FAMILIES[kind],
        prefix="",
        block=BLOCK,
        outer=_origins(OUTER),
        inner=_origins(INNER[architecture]),
        # they are read before weights are
        buffers=(FACTORS,) if architecture == "llama" else (),
    )
