"""Rotary positions that are stretched, in GGUF files, both ways.

llama.cpp has keys for a linear scaling and for yarn, and for Llama 3.1 the divisors of all
frequencies (E/2,) as a tensor; E is the width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from unrolled.core.errors import UserError, shown
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.runs.published.config import PublishedConfig
from unrolled.runs.published.rotary import checked_scaling
from unrolled.runs.published.weights import Shape

FACTORS = "rope_freqs.weight"
# of config.json, by those after the name of the architecture
SCALING_KEYS = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
# what says nothing of how scores are computed, or leaves them
WITHOUT_EFFECT: Mapping[str, Any] = {
    "rope.scaling.finetuned": None,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}
OLD_FACTOR = "rope.scale_linear"
KINDS = ("none", "linear", "yarn")
# what is a tensor there
LISTED = ("llama3", "factors")


def with_scaling(
    config: PublishedConfig,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    read: Callable[[str], Tensor],
) -> PublishedConfig:
    """Return settings with the scaling of positions that a file tells.

    Args:
        config: without it.
        metadata: all keys of the file.
        shapes: of its tensors.
        read: returns one.

    Raises:
        UserError: it is of an unknown kind, or its tensor is of another shape.
    """
    architecture = metadata["general.architecture"]
    names = dict(config.names)
    table: dict[str, Any] = {}
    for theirs, ours in SCALING_KEYS.items():
        name = f"{architecture}.{theirs}"
        names[f"rope_scaling.{ours}"] = name
        if name in metadata:
            table[ours] = metadata[name]
    _refuse_unknown(config, metadata, architecture)
    old = metadata.get(f"{architecture}.{OLD_FACTOR}", 0)
    factor = table.setdefault("factor", old)
    kind = table.setdefault("rope_type", "linear")
    is_plain = kind == "none" or (kind == "linear" and factor in (0, 1))
    values = dict(config.values)
    if not is_plain:
        values["rope_scaling"] = table
    if architecture == "llama" and FACTORS in shapes:
        if kind == "yarn":
            raise UserError(
                f"{config.path}: {FACTORS} beside {names['rope_scaling.rope_type']} yarn; "
                "expected one of them"
            )
        alone = {"factor": 1.0 if is_plain else factor}
        named = {"factor": names["rope_scaling.factor"]}
        whole = PublishedConfig(config.path, alone, named).number("factor", 1.0)
        values["rope_scaling"] = _listed(config, shapes[FACTORS], read, whole)
    return PublishedConfig(config.path, values, names)


def _refuse_unknown(
    config: PublishedConfig, metadata: Mapping[str, Any], architecture: str
) -> None:
    """Raise UserError for a key of scaling that computes in a way that is not known."""
    for name, value in metadata.items():
        key = name.removeprefix(f"{architecture}.")
        if key in SCALING_KEYS or not key.startswith("rope.scal"):
            continue
        if key not in WITHOUT_EFFECT and key != OLD_FACTOR:
            raise UserError(f"{config.path}: {shown(name)} is not known here")
        usual = WITHOUT_EFFECT.get(key)
        if usual is not None and value != usual:
            raise UserError(
                f"{config.path}: {name} is {shown(value)}; expected {usual}, since no other is "
                "known here"
            )
    name = f"{architecture}.rope.scaling.type"
    kind = metadata.get(name, "linear")
    if kind not in KINDS:
        raise UserError(
            f"{config.path}: {name} is {shown(kind)}; expected one of {', '.join(KINDS)}"
        )


def _listed(
    config: PublishedConfig,
    shape: Shape,
    read: Callable[[str], Tensor],
    factor: float,
) -> RotaryScaling:
    """Return the factors of a tensor, each times the one that a key says."""
    heads = config.whole("num_attention_heads")
    size = config.whole("head_dim", config.whole("hidden_size") // heads)
    expected = (size // 2,)
    if shape != expected:
        raise UserError(
            f"{config.path}: {FACTORS} has shape {list(shape)}; expected {list(expected)} by its "
            "settings"
        )
    factors = [value * factor for value in read(FACTORS).tolist()]
    return checked_scaling(config, {"kind": "factors", "factors": factors})


def scaling_metadata(scaling: RotaryScaling, architecture: str) -> dict[str, Any]:
    """Return the keys of a scaling; none where it is a tensor's."""
    if scaling.kind not in KINDS or scaling.kind == "none":
        return {}
    prefix = f"{architecture}.rope.scaling"
    values: dict[str, Any] = {f"{prefix}.type": scaling.kind}
    values[f"{prefix}.factor"] = scaling.factor
    if scaling.kind == "yarn":
        values |= {
            f"{prefix}.original_context_length": scaling.original_context,
            f"{prefix}.yarn_beta_fast": scaling.beta_fast,
            f"{prefix}.yarn_beta_slow": scaling.beta_slow,
        }
    return values
