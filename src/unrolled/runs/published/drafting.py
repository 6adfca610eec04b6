"""A language model of ours as one of a published family: settings, and weights that say the same.

What a family lacks is refused by name, or put exactly into weights that it has. Shapes: V tokens,
W width of the stack, D of the embedding, P positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from unrolled.core.errors import UserError, listed
from unrolled.models import LanguageModel
from unrolled.nn import Attention
from unrolled.nn.positions import sinusoid
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.nn.transformer import Block
from unrolled.runs.published.config import CONFIG, PublishedConfig
from unrolled.runs.published.families import FAMILIES, GPT2, Family, Settings

LINEAR = ("query", "key", "value", "out")


@dataclass(slots=True)
class Draft:
    """A model on its way into a published form.

    Attributes:
        settings: keys under ``model``, all that a family can tell.
        weights: by our names, in fp32; output weights that are the embedding's are left out.
        notes: what was put elsewhere.
    """

    settings: Settings
    weights: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)

    def untie(self) -> None:
        """Give the output weights a table of their own."""
        if self.settings["tie"]:
            self.settings["tie"] = False
            self.weights["head.weight"] = self.weights["embedding.weight"]
            self.notes.append("the output weights get a table of their own")


def draft_of(model: LanguageModel, to: str) -> Draft:
    """Return a model's settings and weights, with what no family has put elsewhere.

    Args:
        model: in evaluation mode, on the CPU.
        to: the name of the format, for messages.

    Raises:
        UserError: it is no stack of attention, or has what cannot be put elsewhere.
    """
    if not isinstance(model.layer, Attention):
        name = type(model.layer).__name__.lower()
        raise UserError(
            f"{to} has attention alone, and this run has layer={name}; onnx has every layer"
        )
    draft = Draft(_settings(model, model.layer), _weights(model))
    _fold_embedding(draft, model)
    if draft.settings["norm"] == "layer":
        _fold_positions(draft, model.layer)
        _repeat_key_heads(draft)
        _add_biases(draft)
        _fold_head_bias(draft)
    elif draft.settings["bias"] and draft.settings["attention_bias"] == "inputs":
        _add_biases(draft)
    if "head.bias" in draft.weights:
        raise UserError(
            "no published family of norm=rms has a bias of the output weights, and this model has "
            "learnt one: train with model.head_bias=false, or export to onnx"
        )
    return draft


def _settings(model: LanguageModel, layer: Attention) -> Settings:
    """Return the keys that published families differ in, as the model has them."""
    block = cast(Block, layer.blocks[0])
    attention = block.attention
    inner = block.feedforward
    norm: Any = block.attention_norm
    bias = inner.out.bias is not None
    inputs, output = layer.variant.biases(bias)
    kinds = {(True, True): "all", (True, False): "inputs", (False, False): "none"}
    return {
        "hidden": layer.output_size,
        "embedding": layer.output_size,
        "layers": len(layer.blocks),
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_size": attention.size,
        "context": layer.context,
        "positions": layer.positions,
        "rotary_base": layer.variant.rotary_base,
        "rotary_scaling": layer.variant.rotary_scaling,
        "norm": "layer" if isinstance(norm, nn.LayerNorm) else "rms",
        "norm_eps": norm.eps,
        "norm_first": block.norm_first,
        "feedforward": inner.kind,
        "feedforward_size": inner.out.in_features,
        "bias": bias,
        "attention_bias": kinds[inputs, output],
        "attention_window": layer.variant.attention_window,
        "query_key_norm": layer.variant.query_key_norm,
        "tie": model.head.weight is model.embedding.weight,
    }


def _weights(model: LanguageModel) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        weights[name] = tensor.detach().to(torch.float32)
    if model.head.weight is model.embedding.weight:
        del weights["head.weight"]
    bias = weights.get("head.bias")
    if bias is not None and not bool(bias.any()):
        del weights["head.bias"]
    return weights


def _fold_embedding(draft: Draft, model: LanguageModel) -> None:
    """Put scale and projection of the embedding into its table."""
    project = cast(Attention, model.layer).project
    scale = model.embedding.scale
    if scale != 1:
        draft.untie()
        draft.weights["embedding.weight"] = draft.weights["embedding.weight"] * scale
        draft.notes.append("the scale of the embedding is put into its table")
    if isinstance(project, nn.Linear):
        weight = draft.weights.pop("layer.project.weight").double()
        bias = draft.weights.pop("layer.project.bias").double()
        table = draft.weights["embedding.weight"].double() @ weight.T + bias
        draft.weights["embedding.weight"] = table.float()
        draft.notes.append("the projection of the embedding is put into its table")


def _fold_positions(draft: Draft, layer: Attention) -> None:
    """Write sinusoids down as a table of positions."""
    if draft.settings["positions"] == "sinusoidal" and layer.context is not None:
        positions = torch.arange(layer.context, device="cpu")
        table = sinusoid(positions[None], layer.output_size)[0]
        draft.weights["layer.place.weight"] = table
        draft.settings["positions"] = "learned"
        draft.notes.append("sinusoids are written down as learned positions")


def _repeat_key_heads(draft: Draft) -> None:
    """Give each attention head a key-value head of its own, equal to that of its group."""
    heads = draft.settings["heads"]
    kv_heads = draft.settings["kv_heads"]
    if heads == kv_heads:
        return
    for number in range(draft.settings["layers"]):
        for part in ("key", "value"):
            for kind in ("weight", "bias"):
                name = f"layer.blocks.{number}.attention.{part}.{kind}"
                if name in draft.weights:
                    grouped = draft.weights[name].unflatten(0, (kv_heads, -1))
                    repeated = grouped.repeat_interleave(heads // kv_heads, 0)
                    draft.weights[name] = repeated.flatten(0, 1)
    draft.settings["kv_heads"] = heads
    draft.notes.append("key-value heads are repeated, one for each head")


def _add_biases(draft: Draft) -> None:
    """Add biases of zero where a family has one and the model none."""
    added = False
    for number in range(draft.settings["layers"]):
        block = f"layer.blocks.{number}."
        parts = [f"attention.{part}" for part in LINEAR]
        for part in (*parts, "feedforward.up", "feedforward.out"):
            rows = draft.weights[f"{block}{part}.weight"].shape[0]
            if f"{block}{part}.bias" not in draft.weights:
                zeros = torch.zeros(rows, dtype=torch.float32, device="cpu")
                draft.weights[f"{block}{part}.bias"] = zeros
                added = True
    draft.settings |= {"bias": True, "attention_bias": "all"}
    if added:
        draft.notes.append("biases that the model does not have are zero")


def _fold_head_bias(draft: Draft) -> None:
    """Put the bias of the output weights into them and the last norm.

    The last norm says g n + b, where the features n (W,) of every step add up to 0. With
    output weights H and their bias c the scores are H (g n + b) + c. A norm of gain and bias 1
    says n + 1, and U (n + 1) with

        U = H g + (H b + c - H g 1) 1' / W

    is the same, since 1' n = 0 and 1' 1 = W.
    """
    bias = draft.weights.pop("head.bias", None)
    if bias is None or "layer.norm.bias" not in draft.weights:
        return
    draft.untie()
    gain = draft.weights["layer.norm.weight"]
    scaled = draft.weights["head.weight"].double() * gain.double()
    shift = (
        draft.weights["head.weight"].double()
        @ draft.weights["layer.norm.bias"].double()
    )
    missing = shift + bias.double() - scaled.sum(1)
    folded = scaled + missing[:, None] / len(gain)
    draft.weights["head.weight"] = folded.float()
    for name in ("layer.norm.weight", "layer.norm.bias"):
        draft.weights[name] = torch.ones_like(gain)
    draft.notes.append(
        "the bias of the output weights is put into them and the last norm"
    )


# ---------------------------------------------------------------------- the family


def family_for(draft: Draft, to: str) -> tuple[Family, Settings]:
    """Return the first family that has all settings of a draft, and its own settings.

    Raises:
        UserError: none has; the message names what the nearest one has otherwise.
    """
    if draft.settings["context"] is None:
        raise UserError(f"{to} needs a limit of positions: set model.context")
    nearest: tuple[int, Family, Settings] | None = None
    for family in FAMILIES.values():
        config = family.config(draft.settings)
        known = family.settings(PublishedConfig(Path(CONFIG), config))
        lacking = _lacking(draft.settings, known)
        if not lacking:
            return family, config
        is_near = nearest is None or len(lacking) < nearest[0]
        # where both are as near, the norm tells which is meant
        if is_near and (family is GPT2) == (draft.settings["norm"] == "layer"):
            nearest = (len(lacking), family, lacking)
    assert nearest is not None
    _, family, lacking = nearest
    names = ", ".join(f"model.{key}={_shown(value)}" for key, value in lacking.items())
    kinds = listed(f"{f.architecture}" for f in FAMILIES.values())
    raise UserError(
        f"no published family ({kinds}) has all settings of this model; nearest is "
        f"{family.architecture}, of {names}: train with these, or export to onnx"
    )


def plain_family(model: LanguageModel) -> Family | None:
    """Return the family that has every weight of a model under a name of its own, if one does.

    Nothing has to be put elsewhere then, so that what is said of a weight here is true there.
    """
    layer = model.layer
    if not isinstance(layer, Attention) or model.embedding.scale != 1:
        return None
    try:
        family, _ = family_for(Draft(_settings(model, layer), {}), "hf")
        for name in model.state_dict():
            # what is expected of rewards is asked for in training alone
            if not name.startswith("value."):
                family.origin(name, bare=False)
    except (UserError, KeyError):
        return None
    return family


def _lacking(settings: Settings, known: Settings) -> Settings:
    """Return what a family has otherwise, as it has it."""
    usual: Settings = {
        "kv_heads": known["heads"],
        "attention_window": None,
        "query_key_norm": False,
        "norm_first": True,
        "bias": False,
        "rotary_base": settings["rotary_base"],
        "rotary_scaling": settings["rotary_scaling"],
    }
    full = usual | known
    if full.get("head_size") is None:
        full["head_size"] = known["hidden"] / known["heads"]
    full.setdefault("attention_bias", "all" if full["bias"] else "none")
    return {key: full[key] for key, value in settings.items() if full[key] != value}


def _shown(value: Any) -> str:
    if isinstance(value, RotaryScaling):
        return value.kind
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return f"{value:g}" if isinstance(value, float) else str(value)
