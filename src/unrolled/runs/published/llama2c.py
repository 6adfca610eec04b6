"""Checkpoints of llama2.c, in its first format: seven integers, then all weights in fp32.

Legend: D width, F hidden width of feed-forward, L layers, N heads, K key-value heads, E = D / N,
V tokens, T positions.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.core.errors import UserError
from unrolled.runs.published.config import PublishedConfig
from unrolled.runs.published.weights import Shape, halved

HEADER = struct.Struct("<7i")
LATER_FORMAT = 0x616B3432
KINDS = "a folder of Hugging Face (config.json and safetensors), a GGUF file, or a file of llama2.c"


@dataclass(frozen=True, slots=True)
class Header:
    """D, F, L, N, K, V (below 0 where output weights are not the embedding's) and T."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int

    def is_sound(self) -> bool:
        """Whether all sizes are positive and divide."""
        sizes = (self.dim, self.hidden_dim, self.n_layers, self.n_heads)
        if min(*sizes, self.n_kv_heads, abs(self.vocab_size), self.seq_len) < 1:
            return False
        divides = self.dim % self.n_heads == 0 and self.n_heads % self.n_kv_heads == 0
        return divides and self.dim // self.n_heads % 2 == 0

    def config(self) -> dict[str, Any]:
        """Return the same settings as Llama's ``config.json`` has them."""
        return {
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "max_position_embeddings": self.seq_len,
            "vocab_size": abs(self.vocab_size),
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": self.vocab_size > 0,
            "bos_token_id": 1,
            # a text ends where the next one begins
            "eos_token_id": [1, 2],
        }

    def sections(self) -> list[tuple[str, Shape]]:
        """Return what stands in the file, part by part, in order."""
        width = self.dim
        layers = self.n_layers
        keys = self.n_kv_heads * width // self.n_heads
        half = width // self.n_heads // 2
        by_layer: list[tuple[str, Shape]] = [
            ("input_layernorm", (width,)),
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (keys, width)),
            ("self_attn.v_proj", (keys, width)),
            ("self_attn.o_proj", (width, width)),
            ("post_attention_layernorm", (width,)),
            ("mlp.gate_proj", (self.hidden_dim, width)),
            ("mlp.down_proj", (width, self.hidden_dim)),
            ("mlp.up_proj", (self.hidden_dim, width)),
        ]
        vocabulary: Shape = (abs(self.vocab_size), width)
        sections: list[tuple[str, Shape]] = [("model.embed_tokens.weight", vocabulary)]
        sections += [(name, (layers, *shape)) for name, shape in by_layer]
        sections.append(("model.norm.weight", (width,)))
        # cosines and sines of all positions, which are computed anew
        sections += [(name, (self.seq_len, half)) for name in ("cosines", "sines")]
        if self.vocab_size < 0:
            sections.append(("lm_head.weight", vocabulary))
        return sections


class Llama2cFile:
    """The weights of a file of llama2.c under the names that Llama's checkpoints give them.

    Args:
        path: the file.

    Raises:
        UserError: it is no such file, or is not as long as its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = _header(path)
        self.config = PublishedConfig(path, header.config())
        self.heads = {
            "self_attn.q_proj": header.n_heads,
            "self_attn.k_proj": header.n_kv_heads,
        }
        self.shapes: dict[str, Shape] = {}
        # where each tensor begins, in bytes, and the part that it is of
        self._begins: dict[str, tuple[int, str]] = {}
        at = HEADER.size
        for name, shape in header.sections():
            is_whole = "." in name and name.endswith(".weight")
            if is_whole:
                self.shapes[name] = shape
                self._begins[name] = (at, name)
            elif name not in ("cosines", "sines"):
                size = 4 * math.prod(shape[1:])
                for layer in range(header.n_layers):
                    theirs = f"model.layers.{layer}.{name}.weight"
                    self.shapes[theirs] = shape[1:]
                    self._begins[theirs] = (at + layer * size, name)
            at += 4 * math.prod(shape)

    def read(self, name: str) -> Tensor:
        """Return a tensor in fp32; queries and keys with a feature's partner E/2 further on.

        The file has partners side by side (as Su et al. 2021 write it).
        """
        begin, section = self._begins[name]
        shape = self.shapes[name]
        numbers = np.fromfile(self.path, "<f4", math.prod(shape), offset=begin)
        tensor = torch.from_numpy(numbers.astype(np.float32)).reshape(shape)
        heads = self.heads.get(section)
        return tensor if heads is None else halved(tensor, heads)


def _header(path: Path) -> Header:
    """Return the header of a file whose size it tells."""
    try:
        with path.open("rb") as file:
            start = file.read(HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{path}: this file cannot be read ({error.strerror})"
        ) from None
    header = Header(*HEADER.unpack(start)) if len(start) == HEADER.size else None
    if header is not None and header.dim == LATER_FORMAT:
        raise UserError(
            f"{path}: a later format of llama2.c; expected the first one, which its export.py "
            "writes with --version 0"
        )
    if header is None or not header.is_sound():
        raise UserError(f"{path}: no checkpoint of a known kind; expected {KINDS}")
    numbers = sum(math.prod(shape) for _, shape in header.sections())
    if size != HEADER.size + 4 * numbers:
        raise UserError(
            f"{path}: expected {HEADER.size + 4 * numbers:,} bytes, which the header of a "
            f"checkpoint of llama2.c tells of, got {size:,}; it was cut off, or is of another kind"
        )
    return header
