"""GGUF files as llama.cpp's converter writes them: models of transformers, by the package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

LLAMA = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LLAMA_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2 = {
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f.weight": "output_norm.weight",
    "transformer.ln_f.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}
GPT2_BLOCK = {
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
Type = gguf.GGMLQuantizationType


def their_name(name: str, is_gpt2: bool) -> str:
    """Return the name that llama.cpp gives a weight of transformers."""
    outer, inner = (GPT2, GPT2_BLOCK) if is_gpt2 else (LLAMA, LLAMA_BLOCK)
    if name in outer:
        return outer[name]
    parts = name.split(".")
    kind = parts[-1]
    module = ".".join(parts[3:-1])
    return f"blk.{parts[2]}.{inner[module]}.{kind}"


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Return rows of queries or keys as llama.cpp wants them of a Llama: partners side by side."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    model: Any,
    kind: Type = Type.F32,
    keys: dict[str, Any] | None = None,
    tokens: list[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Write a model, and return its weights as they are after quantization, by their names.

    Args:
        path: of the file.
        model: of transformers.
        kind: how matrices are stored.
        keys: more metadata, in place of what is written else.
        tokens: of a tokenizer.
    """
    config = model.config
    name = "llama" if config.model_type == "mistral" else config.model_type
    writer = gguf.GGUFWriter(path, name)
    values = settings(config, name)
    for key, value in (values | (keys or {})).items():
        add(writer, key, value)
    if tokens is not None:
        writer.add_token_list(tokens)
    stored: dict[str, torch.Tensor] = {}
    for ours, parameter in model.named_parameters():
        theirs = their_name(ours, name == "gpt2")
        is_transposed = name == "gpt2" and ".h." in ours and parameter.dim() == 2
        heads = turned_heads(theirs, config) if name == "llama" else 0
        rows = parameter.detach().numpy()
        if is_transposed:
            rows = rows.T
        if heads:
            rows = interleaved(rows, heads)
        data, stored_kind = packed(np.ascontiguousarray(rows), kind)
        writer.add_tensor(theirs, data, raw_dtype=stored_kind)
        numbers = gguf.quants.dequantize(data, stored_kind)
        if heads:
            numbers = side_by_side(numbers, heads)
        if is_transposed:
            numbers = numbers.T
        stored[ours] = torch.from_numpy(np.array(numbers, dtype=np.float32))
    if name == "llama" and config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(model))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def divisors(model: Any) -> NDArray[np.float32]:
    """Return how many times slower each pair of features is turned than without scaling."""
    rotary = model.model.rotary_emb
    config = model.config
    plain, _ = rotary.compute_default_rope_parameters(config)
    slower = plain / rotary.inv_freq
    return np.asarray(slower.numpy(), np.float32)


def turned_heads(name: str, config: Any) -> int:
    """Return the heads of queries or keys, 0 of all else."""
    part = name.split(".")[-2]
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return heads.get(part, 0)


def side_by_side(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo ``interleaved``."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def packed(rows: NDArray[Any], kind: Type) -> tuple[NDArray[Any], Type]:
    """Return a weight as it is stored, and how; vectors stay in fp32."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if rows.ndim < 2 or rows.shape[-1] % block:
        kind = Type.F32
    if kind.name in ("Q4_K", "Q6_K"):
        return random_blocks(rows, kind), kind
    return gguf.quants.quantize(rows, kind), kind


def random_blocks(rows: NDArray[Any], kind: Type) -> NDArray[Any]:
    """Return blocks of small numbers: the package gguf takes these apart and makes none."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(rows.size)
    blocks = generator.integers(0, 256, (rows.size // block, size), dtype=np.uint8)
    # the halves that scale all of a block
    scale = np.array([0.0008], np.float16).view(np.uint8)
    positions = (0, 2) if kind.name == "Q4_K" else (size - 2,)
    for position in positions:
        blocks[:, position : position + 2] = scale
    return blocks.reshape(rows.shape[0], -1)


def settings(config: Any, name: str) -> dict[str, Any]:
    if name == "gpt2":
        return {
            "gpt2.context_length": config.n_positions,
            "gpt2.embedding_length": config.n_embd,
            "gpt2.feed_forward_length": config.n_inner or 4 * config.n_embd,
            "gpt2.block_count": config.n_layer,
            "gpt2.attention.head_count": config.n_head,
            "gpt2.attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    size = getattr(config, "head_dim", None)
    size = size or config.hidden_size // config.num_attention_heads
    rotary = config.rope_parameters
    scaling: dict[str, Any] = {}
    if rotary["rope_type"] in ("linear", "yarn"):
        scaling = {
            f"{name}.rope.scaling.type": rotary["rope_type"],
            f"{name}.rope.scaling.factor": float(rotary["factor"]),
        }
    if rotary["rope_type"] == "yarn":
        context = rotary["original_max_position_embeddings"]
        scaling[f"{name}.rope.scaling.original_context_length"] = context
        scaling[f"{name}.rope.scaling.yarn_beta_fast"] = float(rotary["beta_fast"])
    return {
        **scaling,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.attention.head_count": config.num_attention_heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{name}.attention.key_length": size,
        f"{name}.attention.value_length": size,
        f"{name}.rope.dimension_count": size,
        f"{name}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{name}.vocab_size": config.vocab_size,
    }


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Put in a key of metadata by the type of its value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
