"""The keys under ``adapter``: what is learnt beside weights that stay as they are."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from unrolled.core.config import Config


class AdapterConfig(Config):
    """Adapters of low rank beside the weights of ``model.init``."""

    rank: int = Field(
        0,
        ge=0,
        le=2**16,
        description="learn products of this rank beside frozen weights (LoRA, Hu et al. 2022); 0 "
        "trains the weights themselves",
    )
    alpha: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="what is learnt counts alpha / rank; by default twice the rank",
    )
    targets: list[str] | None = Field(
        None,
        description="the weights that have one, by the ends of their names, such as [query, value] "
        "or [attention.out]; by default all products of the layer",
    )
    whole: list[str] | None = Field(
        None,
        description="weights that are trained themselves, by the ends of their names, such as "
        "[head]; what was drawn anew always is",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout on what adapters of linear layers read",
    )
    magnitudes: bool = Field(
        False,
        description="also learn the length of each row by itself (DoRA, Liu et al. 2024)",
    )
    init: str | None = Field(
        None,
        description="begin with the adapters in this folder, as PEFT writes them; rank, alpha, "
        "targets, magnitudes and whole are theirs",
    )

    @field_validator("targets", "whole", mode="before")
    @classmethod
    def _several(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names

    @property
    def adapts(self) -> bool:
        """Whether adapters are learnt."""
        return self.rank > 0 or self.init is not None

    @property
    def scale(self) -> float:
        """What products are multiplied with."""
        if self.alpha is None or not self.rank:
            return 2.0
        return self.alpha / self.rank
