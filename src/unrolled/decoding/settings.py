"""How answers are searched for: the settings that a recipe may set."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from unrolled.core.config import Config
from unrolled.decoding.sampling import Sampling


class Search(Config):
    """How answers are written. ``beam=1`` is greedy; ``sample`` draws instead of searching."""

    beam: int = Field(
        5, ge=1, le=1000, description="hypotheses kept of each source; 1 is greedy"
    )
    n_best: int = Field(
        1,
        ge=1,
        le=5000,
        description="answers to each source; diverse groups may find fewer different ones",
    )
    length_penalty: float = Field(
        0.6,
        ge=0,
        le=100,
        description="alpha: log-probabilities are over ((5 + length) / 6) ** alpha",
    )
    coverage_penalty: float = Field(
        0.0,
        ge=0,
        le=100,
        description="beta: how much an ignored part of the source costs; needs attention",
    )
    patience: float | None = Field(
        1.0,
        gt=0,
        le=1000,
        description="stop a source at beam x patience ended hypotheses, or before where none can "
        "become better; null stops only there",
    )
    min_length: int = Field(
        0, ge=0, le=10**6, description="tokens before an answer may end"
    )
    max_length: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="the most tokens of an answer, its end mark included",
    )
    max_ratio: float = Field(
        1.0,
        ge=0,
        le=100,
        description="the most tokens of an answer: max_ratio x source + max_extra",
    )
    max_extra: int = Field(50, ge=0, le=10_000, description="see max_ratio")
    diverse_groups: int = Field(
        1,
        ge=1,
        le=1000,
        description="share the beam among groups that avoid each other's tokens",
    )
    diversity_penalty: float = Field(
        0.5,
        ge=0,
        le=1e6,
        description="what a token costs for each row of an earlier group that takes it",
    )
    sample: bool = Field(False, description="draw n_best answers instead of searching")
    sampling: Sampling = Field(Sampling(), description="how they are drawn")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.beam % self.diverse_groups:
            raise ValueError(
                f"beam={self.beam} does not divide into diverse_groups={self.diverse_groups}; "
                "make it a multiple"
            )
        if self.n_best > self.beam and not self.sample:
            raise ValueError(
                f"n_best={self.n_best} needs a beam as wide, got beam={self.beam}"
            )
        if self.max_length is not None and self.min_length >= self.max_length:
            raise ValueError(
                f"min_length={self.min_length} leaves no room for an end below "
                f"max_length={self.max_length}"
            )
        return self

    def limit(self, source_length: int) -> int:
        """Return the most tokens of an answer to a source of so many, its end mark included."""
        most = math.floor(self.max_ratio * source_length) + self.max_extra
        return max(1, most if self.max_length is None else min(most, self.max_length))
