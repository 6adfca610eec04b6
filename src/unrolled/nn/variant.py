"""In which ways published stacks of attention differ from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from unrolled.nn.rotary_scaling import PLAIN, RotaryScaling

BIASES = ("all", "inputs", "none")


@dataclass(frozen=True, slots=True)
class Variant:
    """What one family of transformers does in another way than the next.

    Args:
        norm_eps: what norms add to the variance; None is 1e-6 of rms and 1e-5 of layer.
        rotary_base: the slowest rotation has a wave of about 2 pi times this (Su et al. 2021).
        rotary_scaling: how rotary positions are stretched.
        head_size: E, where it is not W / heads.
        attention_window: a step looks at so many steps, itself among them (Jiang et al. 2023,
            section 2, of Mistral 7B), and ahead where the layer does; None looks at all.
        query_key_norm: an RMS norm of E features on each query and key, before rotation (Henry et
            al. 2020; so in Qwen3).
        attention_bias: which products of attention have a bias: all, inputs (queries, keys and
            values), or none; None is as in feed-forward.

    Raises:
        ValueError: a number out of bounds, or an unknown name.
    """

    norm_eps: float | None = None
    rotary_base: float = 10000.0
    rotary_scaling: RotaryScaling = PLAIN
    head_size: int | None = None
    attention_window: int | None = None
    query_key_norm: bool = False
    attention_bias: str | None = None

    def __post_init__(self) -> None:
        sizes = {
            "head_size": self.head_size,
            "attention_window": self.attention_window,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(
                    f"expected {name} of at least 1, got {size}; None leaves it out"
                )
        positive = {"rotary_base": self.rotary_base}
        if self.norm_eps is not None:
            positive["norm_eps"] = self.norm_eps
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"expected a positive {name}, got {value}")
        if self.attention_bias not in (None, *BIASES):
            raise ValueError(
                f"expected attention_bias out of {', '.join(BIASES)}, got "
                f"{self.attention_bias!r}"
            )

    def biases(self, bias: bool) -> tuple[bool, bool]:
        """Return whether queries, keys and values have a bias, and whether the output has.

        Args:
            bias: whether feed-forward has.
        """
        kind = self.attention_bias or ("all" if bias else "none")
        return kind != "none", kind == "all"

    def changed(self) -> list[str]:
        """Return the names of what is not as in ``USUAL``."""
        names = [field.name for field in fields(self)]
        return [name for name in names if getattr(self, name) != getattr(USUAL, name)]


USUAL = Variant()
