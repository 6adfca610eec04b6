"""The architectures that are known: their settings in ours, and the names of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unrolled.core.errors import UserError, listed, shown
from unrolled.runs.published.config import FULL, SLIDING, PublishedConfig
from unrolled.runs.published.rotary import rotary_config, rotary_settings
from unrolled.runs.published.weights import Shape, WeightOrigin

LAYER = "layer.blocks."
Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        name: its ``model_type``.
        architecture: the class that has a language model's head, as ``architectures`` says it.
        settings: makes keys under ``model`` of its settings.
        config: makes its settings of keys under ``model``, as far as it has them; ``settings``
            says which those are.
        prefix: before all names but those of the head; a checkpoint of the bare stack lacks it.
        block: before the names of one block, its number in braces.
        outer: where weights beside the blocks stand, by our names.
        inner: where those of a block stand, by our names in it.
        buffers: endings of names that are no weights: masks and rotations.
    """

    name: str
    architecture: str
    settings: Callable[[PublishedConfig], Settings]
    config: Callable[[Settings], Settings]
    prefix: str
    block: str
    outer: Mapping[str, WeightOrigin]
    inner: Mapping[str, WeightOrigin]
    buffers: tuple[str, ...] = ()

    def origin(self, name: str, bare: bool) -> WeightOrigin:
        """Return where a weight stands.

        Args:
            name: ours, in the state of a language model.
            bare: whether names lack the prefix.
        """
        prefix = "" if bare else self.prefix
        if name.startswith(LAYER):
            number, _, rest = name.removeprefix(LAYER).partition(".")
            return self.inner[rest].prefixed(prefix + self.block.format(number))
        origin = self.outer[name]
        return origin if name == "head.weight" else origin.prefixed(prefix)

    def expected(
        self, ours: Mapping[str, Shape], bare: bool
    ) -> Iterator[tuple[str, Shape]]:
        """Yield the names and shapes of all tensors that weights of ours are made of."""
        for name, shape in ours.items():
            origin = self.origin(name, bare)
            for theirs in origin.names:
                yield theirs, origin.shape(shape)


# ---------------------------------------------------------------------- GPT-2

GELUS = {
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu": "gelu",
    "relu": "relu",
}


def _gpt2(config: PublishedConfig) -> Settings:
    """Radford et al. (2019): learned positions, LayerNorm before each part, biases everywhere."""
    config.must("scale_attn_weights", True, default=True)
    config.must("scale_attn_by_inverse_layer_idx", False, default=False)
    config.must("add_cross_attention", False, default=False)
    width = config.whole("n_embd", 768)
    return {
        "hidden": width,
        "embedding": width,
        "layers": config.whole("n_layer", 12),
        "heads": config.whole("n_head", 12),
        "context": config.whole("n_positions", 1024),
        "positions": "learned",
        "norm": "layer",
        "norm_eps": config.number("layer_norm_epsilon", 1e-5),
        "feedforward": config.choice("activation_function", GELUS, "gelu_new"),
        "feedforward_size": config.whole_or_none("n_inner") or 4 * width,
        "bias": True,
        "tie": config.flag("tie_word_embeddings", True),
    }


def _gpt2_config(settings: Settings) -> Settings:
    names = {kind: name for name, kind in reversed(GELUS.items())}
    return {
        "n_embd": settings["hidden"],
        "n_layer": settings["layers"],
        "n_head": settings["heads"],
        "n_positions": settings["context"],
        "layer_norm_epsilon": settings["norm_eps"],
        "activation_function": names.get(settings["feedforward"], "gelu_new"),
        "n_inner": settings["feedforward_size"],
        "tie_word_embeddings": settings["tie"],
    }


def _transposed(name: str, part: int = 0, parts: int = 1) -> WeightOrigin:
    return WeightOrigin((name,), True, part, parts)


def _plain(name: str, part: int = 0, parts: int = 1) -> WeightOrigin:
    return WeightOrigin((name,), False, part, parts)


_GPT2_INNER = {
    "attention.out.weight": _transposed("attn.c_proj.weight"),
    "attention.out.bias": _plain("attn.c_proj.bias"),
    "feedforward.up.weight": _transposed("mlp.c_fc.weight"),
    "feedforward.up.bias": _plain("mlp.c_fc.bias"),
    "feedforward.out.weight": _transposed("mlp.c_proj.weight"),
    "feedforward.out.bias": _plain("mlp.c_proj.bias"),
    "attention_norm.weight": _plain("ln_1.weight"),
    "attention_norm.bias": _plain("ln_1.bias"),
    "feedforward_norm.weight": _plain("ln_2.weight"),
    "feedforward_norm.bias": _plain("ln_2.bias"),
}
for _part, _name in enumerate(("query", "key", "value")):
    _GPT2_INNER |= {
        f"attention.{_name}.weight": _transposed("attn.c_attn.weight", _part, 3),
        f"attention.{_name}.bias": _plain("attn.c_attn.bias", _part, 3),
    }
GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    _gpt2,
    _gpt2_config,
    "transformer.",
    "h.{}.",
    {
        "embedding.weight": _plain("wte.weight"),
        "layer.place.weight": _plain("wpe.weight"),
        "layer.norm.weight": _plain("ln_f.weight"),
        "layer.norm.bias": _plain("ln_f.bias"),
        "head.weight": _plain("lm_head.weight"),
    },
    _GPT2_INNER,
    (".attn.bias", ".attn.masked_bias"),
)

# ---------------------------------------------------------------------- the Llama kind


def _llama_kind(config: PublishedConfig) -> Settings:
    """Touvron et al. (2023): RMSNorm, rotary positions, SwiGLU, grouped queries, no biases."""
    config.must("hidden_act", "silu", default="silu")
    config.must("rope_interleaved", False, default=False)
    width = config.whole("hidden_size")
    heads = config.whole("num_attention_heads")
    return {
        "hidden": width,
        "embedding": width,
        "layers": config.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": config.whole_or_none("num_key_value_heads") or heads,
        "head_size": config.whole_or_none("head_dim"),
        "context": config.whole("max_position_embeddings"),
        "positions": "rotary",
        **rotary_settings(config),
        "norm": "rms",
        "norm_eps": config.number("rms_norm_eps", 1e-6),
        "feedforward": "swiglu",
        "feedforward_size": config.whole("intermediate_size"),
        "tie": config.flag("tie_word_embeddings", False),
    }


def _llama_kind_config(settings: Settings) -> Settings:
    return {
        "hidden_act": "silu",
        "hidden_size": settings["hidden"],
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": settings["heads"],
        "num_key_value_heads": settings["kv_heads"],
        "head_dim": settings["head_size"],
        "max_position_embeddings": settings["context"],
        **rotary_config(settings),
        "rms_norm_eps": settings["norm_eps"],
        "intermediate_size": settings["feedforward_size"],
        "tie_word_embeddings": settings["tie"],
    }


def _llama(config: PublishedConfig) -> Settings:
    """Also SmolLM and others that call themselves Llama."""
    return _llama_kind(config) | {
        "bias": config.flag("mlp_bias", False),
        "attention_bias": _bias(config),
    }


def _llama_config(settings: Settings) -> Settings:
    return _llama_kind_config(settings) | {
        "mlp_bias": settings["bias"],
        "attention_bias": settings["attention_bias"] == "all",
    }


MISTRAL_WINDOW = 4096  # Jiang et al. (2023), table 1


def _mistral(config: PublishedConfig) -> Settings:
    """Jiang et al. (2023): every step looks at the last ``sliding_window`` alone."""
    window: int | None = MISTRAL_WINDOW
    # null is none, and a key that is not there is what the paper has
    if "sliding_window" in config.values:
        window = config.whole_or_none("sliding_window")
    return _llama_kind(config) | {"attention_window": window}


def _mistral_config(settings: Settings) -> Settings:
    window = settings["attention_window"]
    return _llama_kind_config(settings) | {"sliding_window": window}


def _qwen2(config: PublishedConfig) -> Settings:
    """Yang et al. (2024): queries, keys and values have biases."""
    return _llama_kind(config) | {
        "attention_bias": "inputs",
        "attention_window": config.chosen_window(),
    }


def _qwen3(config: PublishedConfig) -> Settings:
    """Yang et al. (2025): norms of queries and keys, heads of a width of their own."""
    return _llama_kind(config) | {
        "attention_bias": _bias(config),
        "attention_window": config.chosen_window(),
        "head_size": config.whole("head_dim", 128),
        "query_key_norm": True,
    }


def _qwen_config(settings: Settings) -> Settings:
    window = settings["attention_window"]
    layers = settings["layers"]
    return _llama_kind_config(settings) | {
        "attention_bias": settings["attention_bias"] == "all",
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": layers if window is None else 0,
        "layer_types": [FULL if window is None else SLIDING] * layers,
    }


def _bias(config: PublishedConfig) -> str:
    return "all" if config.flag("attention_bias", False) else "none"


_LLAMA_INNER = {
    "attention_norm.weight": _plain("input_layernorm.weight"),
    "feedforward_norm.weight": _plain("post_attention_layernorm.weight"),
    "attention.query_norm.weight": _plain("self_attn.q_norm.weight"),
    "attention.key_norm.weight": _plain("self_attn.k_norm.weight"),
}
for _kind in ("weight", "bias"):
    _gate = f"mlp.gate_proj.{_kind}"
    _up = f"mlp.up_proj.{_kind}"
    _LLAMA_INNER |= {
        f"attention.query.{_kind}": _plain(f"self_attn.q_proj.{_kind}"),
        f"attention.key.{_kind}": _plain(f"self_attn.k_proj.{_kind}"),
        f"attention.value.{_kind}": _plain(f"self_attn.v_proj.{_kind}"),
        f"attention.out.{_kind}": _plain(f"self_attn.o_proj.{_kind}"),
        f"feedforward.up.{_kind}": WeightOrigin((_gate, _up)),
        f"feedforward.out.{_kind}": _plain(f"mlp.down_proj.{_kind}"),
    }
_LLAMA_OUTER = {
    "embedding.weight": _plain("embed_tokens.weight"),
    "layer.norm.weight": _plain("norm.weight"),
    "head.weight": _plain("lm_head.weight"),
}


def _of_llama_kind(
    name: str,
    architecture: str,
    settings: Callable[[PublishedConfig], Settings],
    config: Callable[[Settings], Settings],
) -> Family:
    return Family(
        name,
        architecture,
        settings,
        config,
        "model.",
        "layers.{}.",
        _LLAMA_OUTER,
        _LLAMA_INNER,
        (".rotary_emb.inv_freq",),
    )


LLAMA = _of_llama_kind("llama", "LlamaForCausalLM", _llama, _llama_config)
FAMILIES = {
    family.name: family
    for family in (
        GPT2,
        LLAMA,
        _of_llama_kind("mistral", "MistralForCausalLM", _mistral, _mistral_config),
        _of_llama_kind("qwen2", "Qwen2ForCausalLM", _qwen2, _qwen_config),
        _of_llama_kind("qwen3", "Qwen3ForCausalLM", _qwen3, _qwen_config),
    )
}


def family_of(config: PublishedConfig) -> Family:
    """Return the family of a config. Raises UserError: it is none that is known."""
    known = ", ".join(f"{f.name} ({f.architecture})" for f in FAMILIES.values())
    name = config.values.get("model_type")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise UserError(
            f"{config.path}: model_type is {shown(name)}, which is unknown here; known are {known}"
        )
    classes = config.values.get("architectures") or [family.architecture]
    if classes != [family.architecture]:
        names = listed(map(str, classes)) if isinstance(classes, list) else "no list"
        raise UserError(
            f"{config.path}: architectures is {names}, which is unknown here; known are {known}"
        )
    return family
