"""Tiny checkpoints as transformers writes them, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unrolled.text.tokenizers import Tokenizer

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2: dict[str, Any] = {
    "vocab_size": 99,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
}
# what positions beyond the first 16 are read by
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "original_max_position_embeddings": 16,
}
# the kind, and settings that differ from one checkpoint to the next
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied-relu": (
        "GPT2",
        {
            **GPT2,
            "tie_word_embeddings": False,
            "activation_function": "relu",
            "n_inner": 30,
            "layer_norm_epsilon": 1e-3,
        },
    ),
    "llama": ("Llama", GROUPED),
    "llama-biased": (
        "Llama",
        {**GROUPED, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-3},
    ),
    "smollm": (
        "Llama",
        {**GROUPED, "tie_word_embeddings": True, "rope_theta": 100000.0, "head_dim": 8},
    ),
    "llama-linear": ("Llama", {**GROUPED, "rope_parameters": LINEAR}),
    "llama-3.1": ("Llama", {**GROUPED, "head_dim": 16, "rope_parameters": LLAMA3}),
    "qwen2-yarn": ("Qwen2", {**GROUPED, "head_dim": 16, "rope_parameters": YARN}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 7}),
    "mistral-whole": ("Mistral", {**GROUPED, "sliding_window": None}),
    "qwen2": ("Qwen2", {**GROUPED, "rope_theta": 1e6}),
    "qwen2-window": (
        "Qwen2",
        {
            **GROUPED,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 0,
        },
    ),
    "qwen3": (
        "Qwen3",
        {**GROUPED, "head_dim": 10, "tie_word_embeddings": True},
    ),
}
Save = Callable[..., tuple[Any, Path]]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return what makes a model of transformers by a case, saves it, and returns both."""

    def saved(case: str, **options: Any) -> tuple[Any, Path]:
        kind, settings = CASES[case]
        torch.manual_seed(3)
        config = getattr(transformers, f"{kind}Config")(**settings)
        class_name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
        # what looks at all keys in fp32, however long
        config._attn_implementation = "eager"
        model = getattr(transformers, class_name)(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
        folder = tmp_path / case
        model.save_pretrained(folder, **options)
        return model, folder

    return saved


def add_tokenizer(folder: Path, size: int = 80) -> Tokenizer:
    """Put a tokenizer of byte pairs into a folder, as the library ``tokenizers`` saves it."""
    text = "the cat sat on the mat and the dog ran to the man "
    tokenizer = Tokenizer.fit("bpe", [text] * 3, 300)
    document = json.loads(json.dumps(tokenizer.document))
    vocabulary = document["model"]["vocab"]
    kept = {token: id for token, id in vocabulary.items() if id < size}
    document["model"]["vocab"] = kept
    document["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return tokenizer
