"""The ``config.json`` of a published checkpoint, read key by key."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unrolled.core.errors import UserError, listed, shown
from unrolled.core.files import CONFIG_BYTES, read_json

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
FULL = "full_attention"
SLIDING = "sliding_attention"
CODE = ("auto_map", "trust_remote_code", "custom_pipelines")
LARGEST = 2**31 - 1
LONGEST = 16 * CONFIG_BYTES  # with the special tokens of a large vocabulary


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """Settings of a model, and the file that they stand in, which errors name.

    Attributes:
        path: the file.
        values: by the keys of ``config.json``.
        names: what the file calls a key otherwise.
    """

    path: Path
    values: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least 1. Raises UserError: it is missing, or none."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise self.refusal(key, "a whole number of at least 1")
        return value

    def whole_or_none(self, key: str) -> int | None:
        """Return such a number, or None where it is null or missing."""
        return None if self.values.get(key) is None else self.whole(key)

    def number(self, key: str, default: float) -> float:
        """Return a positive number. Raises UserError: it is none."""
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self.refusal(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return whether something is so. Raises UserError: it is neither true nor false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def choice(self, key: str, known: Mapping[str, str], default: str) -> str:
        """Return what a word stands for. Raises UserError: it is unknown."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in known:
            raise self.refusal(key, f"one of {', '.join(known)}")
        return known[value]

    def must(self, key: str, value: Any, default: Any) -> None:
        """Raise UserError where a setting has another value than the one that is known here."""
        if self.values.get(key, default) != value:
            raise self.refusal(key, f"{value!r}, since no other is known here")

    def chosen_window(self) -> int | None:
        """Return the sliding window of all blocks, None where they look at all.

        Raises:
            UserError: some blocks have one and others not.
        """
        layers = self.whole("num_hidden_layers")
        kinds = self.values.get("layer_types")
        if kinds is None:
            full = layers
            if self.flag("use_sliding_window", False):
                full = self.values.get("max_window_layers", layers)
            if type(full) is not int:
                raise self.refusal("max_window_layers", "a whole number")
            # the first layers look at all
            kinds = [FULL] if full > 0 else []
            if full < layers:
                kinds = [*kinds, SLIDING]
        if not isinstance(kinds, list):
            raise self.refusal("layer_types", "a list")
        if all(kind == FULL for kind in kinds):
            return None
        if any(kind != SLIDING for kind in kinds):
            raise self.refusal(
                "layer_types", f"{FULL} in all layers, or {SLIDING} in all"
            )
        return self.whole("sliding_window")

    def ids(self, key: str, size: int) -> tuple[int, ...]:
        """Return token ids below ``size``, of a key that holds one, several or none."""
        value = self.values.get(key)
        values = value if isinstance(value, list) else [value]
        return tuple(id for id in values if type(id) is int and 0 <= id < size)

    def refusal(self, key: str, expected: str) -> UserError:
        """Return the error of a key that says something else than what is expected."""
        value = shown(self.values[key]) if key in self.values else "missing"
        name = self.names.get(key, key)
        return UserError(f"{self.path}: {name} is {value}; expected {expected}")


def read_config(folder: Path) -> PublishedConfig:
    """Return the settings of a folder.

    Raises:
        UserError: there is no such file, it asks for code to be run, or for quantized weights.
    """
    config = _read(folder / CONFIG)
    if os.path.lexists(folder / TOKENIZER_CONFIG):
        _read(folder / TOKENIZER_CONFIG)
    if config.values.get("quantization_config"):
        raise UserError(
            f"{config.path}: quantization_config: expected weights of F32, F16 or BF16"
        )
    return config


def _read(path: Path) -> PublishedConfig:
    """Return a file of settings. Raises UserError: it cannot be read, or asks for code."""
    try:
        values = read_json(path, LONGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this file cannot be read ({error})") from None
    code = [key for key in CODE if values.get(key)]
    if code:
        raise UserError(
            f"{path}: {listed(code)} asks for code of the checkpoint to be run, which is "
            "never done here; only architectures that are known can be opened"
        )
    return PublishedConfig(path, values)
