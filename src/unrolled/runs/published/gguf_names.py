"""Names of tensors in GGUF files, as llama.cpp reads them, by the names of our weights.

GPT-2 keeps queries, keys and values below each other in one tensor; the gated feed-forward of the
Llama kind keeps in two tensors what ours has in one.
"""

from __future__ import annotations

from collections.abc import Mapping

BLOCK = "blk.{}."
KINDS = (".weight", ".bias")
Names = Mapping[str, tuple[str, ...]]

OUTER: Names = {
    "embedding": ("token_embd",),
    "layer.place": ("position_embd",),
    "layer.norm": ("output_norm",),
    "head": ("output",),
}
_SHARED: Names = {
    "attention_norm": ("attn_norm",),
    "feedforward_norm": ("ffn_norm",),
    "attention.out": ("attn_output",),
    "feedforward.out": ("ffn_down",),
}
_GPT2: Names = {
    **_SHARED,
    "attention.query": ("attn_qkv",),
    "attention.key": ("attn_qkv",),
    "attention.value": ("attn_qkv",),
    "feedforward.up": ("ffn_up",),
}
_LLAMA: Names = {
    **_SHARED,
    "attention.query": ("attn_q",),
    "attention.key": ("attn_k",),
    "attention.value": ("attn_v",),
    "attention.query_norm": ("attn_q_norm",),
    "attention.key_norm": ("attn_k_norm",),
    "feedforward.up": ("ffn_gate", "ffn_up"),
}
# what stands in a block, by the name of an architecture
INNER: Mapping[str, Names] = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
# where llama.cpp turns neighbours by one angle, and others features half a head apart
INTERLEAVED = ("llama",)
