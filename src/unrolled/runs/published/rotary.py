"""Base and scaling of rotary positions, as ``config.json`` tells them, old and new, both ways."""

from __future__ import annotations

import math
from typing import Any

from unrolled.core.errors import UserError
from unrolled.nn.rotary_scaling import KEYS, PLAIN, RotaryScaling
from unrolled.runs.published.config import PublishedConfig

# the older spelling first, which transformers takes where both are there
TABLES = ("rope_scaling", "rope_parameters")
BASE = 10000.0
KINDS = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
NAMES = {
    "factor": "factor",
    "original_context": "original_max_position_embeddings",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}


def rotary_settings(config: PublishedConfig) -> dict[str, Any]:
    """Return keys under ``model``: the base of rotary positions, and how they are stretched.

    Args:
        config: in place of a table it may hold a scaling that another format told.

    Raises:
        UserError: they are of an unknown kind, turn a part of a head, or are not said whole.
    """
    scaling = config.values.get(TABLES[0])
    if isinstance(scaling, RotaryScaling):
        base = config.number("rope_theta", BASE)
        return {"rotary_base": base, "rotary_scaling": scaling}
    table = _table(config)
    for source in (config, table):
        source.must("partial_rotary_factor", 1.0, default=1.0)
    holder = table if "rope_theta" in table.values else config
    return {
        "rotary_base": holder.number("rope_theta", BASE),
        "rotary_scaling": _scaling(config, table),
    }


def _table(config: PublishedConfig) -> PublishedConfig:
    """Return the table of positions, empty where there is none."""
    tables: dict[str, dict[str, Any]] = {}
    for name in TABLES:
        table = config.values.get(name)
        if table and not isinstance(table, dict):
            raise config.refusal(name, "a table")
        if table:
            values = {k: v for k, v in table.items() if v is not None}
            # its name in files of before 2024
            kind = values.pop("type", "default")
            tables[name] = {"rope_type": kind, **values}
    if not tables:
        return PublishedConfig(config.path, {})
    name, first = next(iter(tables.items()))
    for other in tables.values():
        if {**other, "rope_theta": 0} != {**first, "rope_theta": 0}:
            raise config.refusal(
                name, "the same as in rope_parameters: leave out one of them"
            )
    names = {}
    for key in ("rope_type", "rope_theta", *first, *NAMES.values()):
        whole = f"{name}.{key}"
        names[key] = config.names.get(whole, whole)
    return PublishedConfig(config.path, first, names)


def _scaling(config: PublishedConfig, table: PublishedConfig) -> RotaryScaling:
    kind = table.choice("rope_type", KINDS, "default")
    if kind == "none":
        return PLAIN
    factor = table.number("factor", 0.0)
    values: dict[str, Any] = {"kind": kind, "factor": factor}
    if "original_context" in KEYS[kind]:
        values["original_context"] = _original_context(config, table)
    if kind == "llama3":
        for name in ("low_frequency_factor", "high_frequency_factor"):
            values[name] = table.number(NAMES[name], 0.0)
    if kind == "yarn":
        table.must("truncate", True, default=True)
        for name in ("mscale", "mscale_all_dim"):
            table.must(name, None, default=None)
        usual = usual_attention_factor(factor)
        for name, given in (
            ("beta_fast", 32.0),
            ("beta_slow", 1.0),
            ("attention_factor", usual),
        ):
            values[name] = table.number(name, given)
    return checked_scaling(config, values)


def usual_attention_factor(factor: float) -> float:
    """Return by what yarn multiplies queries and keys (Peng et al. 2023, equation 22)."""
    return 0.1 * math.log(max(factor, 1.0)) + 1


def checked_scaling(config: PublishedConfig, values: dict[str, Any]) -> RotaryScaling:
    """Return a scaling. Raises UserError: its numbers are out of bounds."""
    try:
        return RotaryScaling.read(values)
    except UserError as error:
        raise UserError(f"{config.path}: positions are scaled: {error}") from None


def _original_context(config: PublishedConfig, table: PublishedConfig) -> int:
    name = NAMES["original_context"]
    own = config.whole_or_none(name)
    return own or table.whole(name, config.whole("max_position_embeddings"))


def rotary_config(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the way back: base and scaling in the spellings that transformers reads.

    Factors that are listed have no form there; they are left out.
    """
    scaling: RotaryScaling = settings["rotary_scaling"]
    names = {ours: theirs for theirs, ours in KINDS.items()}
    kind = names.get(scaling.kind, "default")
    table: dict[str, Any] = {"rope_type": kind}
    for ours, theirs in NAMES.items():
        value = getattr(scaling, ours)
        if value is not None:
            table[theirs] = value
    base = settings["rotary_base"]
    # transformers reads the last from its version 5 on
    config = {
        "rope_theta": base,
        "rope_parameters": {**table, "rope_theta": base},
    }
    return config if kind == "default" else {**config, "rope_scaling": table}
