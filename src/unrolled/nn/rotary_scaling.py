"""Rotary positions that are stretched over more steps than a model was first trained on."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from unrolled.core.config import Config
from unrolled.core.errors import listed

# what each kind is told by, all of it
KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "original_context",
        "low_frequency_factor",
        "high_frequency_factor",
    ),
    "yarn": (
        "factor",
        "original_context",
        "beta_fast",
        "beta_slow",
        "attention_factor",
    ),
    "factors": ("factors",),
}
LEAST = 1e-3
MOST = 1e6


class RotaryScaling(Config):
    """How rotary positions are stretched over more steps than a model was first trained on."""

    kind: Literal["none", "linear", "llama3", "yarn", "factors"] = Field(
        "none",
        description="attention: linear (Chen et al. 2023), llama3 (Llama 3.1), yarn (Peng et al. "
        "2023), or a list of factors; each needs the keys that name it",
    )
    factor: float | None = Field(
        None,
        ge=1,
        le=MOST,
        description="linear, llama3, yarn: waves become so many times as long",
    )
    original_context: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="llama3, yarn: positions that the model was first trained on",
    )
    low_frequency_factor: float | None = Field(
        None,
        ge=LEAST,
        le=MOST,
        description="llama3: waves that fit fewer times into `original_context` are stretched "
        "whole; 1 in Llama 3.1",
    )
    high_frequency_factor: float | None = Field(
        None,
        ge=LEAST,
        le=MOST,
        description="llama3: waves that fit more often stay as they are, those between are "
        "stretched in part; 4 in Llama 3.1",
    )
    beta_fast: float | None = Field(
        None,
        ge=LEAST,
        le=MOST,
        description="yarn: waves that turn more often in `original_context` stay as they are; 32 "
        "in the paper",
    )
    beta_slow: float | None = Field(
        None,
        ge=LEAST,
        le=MOST,
        description="yarn: waves that turn less often are stretched whole; 1 in the paper",
    )
    attention_factor: float | None = Field(
        None,
        ge=LEAST,
        le=MOST,
        description="yarn: queries and keys are multiplied by it; 0.1 ln(`factor`) + 1 in the "
        "paper",
    )
    factors: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        max_length=2**15,
        description="factors: how many times as long each wave becomes, from the fastest",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [name for name in type(self).model_fields if name != "kind"]
        given = [name for name in names if getattr(self, name) is not None]
        missing = [name for name in KEYS[self.kind] if name not in given]
        spare = [name for name in given if name not in KEYS[self.kind]]
        if missing:
            raise ValueError(f"kind={self.kind} needs also {listed(missing)}")
        if spare:
            raise ValueError(
                f"kind={self.kind} has no {listed(spare)}; leave it out, or choose another kind"
            )
        self._check_order("low_frequency_factor", "high_frequency_factor")
        self._check_order("beta_slow", "beta_fast")
        if any(not LEAST <= factor <= MOST for factor in self.factors or ()):
            raise ValueError(f"expected factors from {LEAST:g} to {MOST:,.0f}")
        return self

    def _check_order(self, lower: str, higher: str) -> None:
        low = getattr(self, lower)
        high = getattr(self, higher)
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"expected {higher} above {lower}, got {high:g} and {low:g}"
            )

    def divisors(self, size: int, base: float) -> tuple[float, ...]:
        """Return how many times as long the wave of each pair of features becomes (E/2,).

        Args:
            size: E, the width of a head.
            base: of rotary positions.

        Returns:
            nothing where waves stay as they are.

        Raises:
            ValueError: there are more or fewer ``factors`` than pairs.
        """
        pairs = len(range(0, size, 2))
        if self.factors is not None:
            if len(self.factors) != pairs:
                raise ValueError(
                    f"expected {pairs:,} factors of rotary_scaling, one for each pair of features "
                    f"of a head, got {len(self.factors):,}"
                )
            return self.factors
        if self.factor is None:
            return ()
        portions = [1.0] * pairs
        if self.kind == "llama3":
            portions = self._llama3_portions(size, base)
        if self.kind == "yarn":
            portions = self._yarn_portions(size, base)
        # frequencies, and not waves, are mixed
        return tuple(1 / (1 - portion + portion / self.factor) for portion in portions)

    def _llama3_portions(self, size: int, base: float) -> list[float]:
        """Return the part of each frequency that is stretched, as Llama 3.1 computes it."""
        low = self.low_frequency_factor or 1.0
        high = self.high_frequency_factor or 1.0
        portions = []
        for feature in range(0, size, 2):
            wave = 2 * math.pi * base ** (feature / size)
            times = (self.original_context or 1) / wave
            portions.append(_clipped((high - times) / (high - low)))
        return portions

    def _yarn_portions(self, size: int, base: float) -> list[float]:
        """Return the same of Peng et al. (2023, section 3.2), over whole pairs of features."""
        context = self.original_context or 1
        bounds = []
        for turns in (self.beta_fast or 1.0, self.beta_slow or 1.0):
            fits = math.log(context / (turns * 2 * math.pi))
            bounds.append(size * fits / (2 * math.log(base)))
        first = max(math.floor(bounds[0]), 0)
        last = min(math.ceil(bounds[1]), size - 1)
        # a step where the two are one
        width = last - first or 1e-3
        return [_clipped((pair - first) / width) for pair in range(size // 2)]


def _clipped(portion: float) -> float:
    return min(max(portion, 0.0), 1.0)


PLAIN = RotaryScaling()
