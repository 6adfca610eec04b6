"""The keys under ``align``: what a model learns from beside the answers that it is given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unrolled.core.config import Config

PREFERENCES = ("dpo", "ipo")
ROLLOUTS = ("ppo", "grpo", "rloo")


class AlignConfig(Config):
    """How a chat model is aligned: by pairs of answers, or by what its own answers earn."""

    method: Literal["none", "dpo", "ipo", "ppo", "grpo", "rloo"] = Field(
        "none",
        description="none learns the answers given; dpo and ipo prefer one of two answers "
        "(Rafailov et al. 2023, Azar et al. 2023); ppo, grpo and rloo learn from rewards of what "
        "the model writes (Schulman et al. 2017, Shao et al. 2024, Ahmadian et al. 2024)",
    )
    reward: str | None = Field(
        None,
        description="what an answer earns: exact or numeric compare it with the one given; a run "
        "that judges or classifies; or FILE.py:FUNCTION of your own, which is code, and runs",
    )
    label: str | None = Field(
        None,
        description="reward of a run that classifies: the label whose probability is earned; by "
        "default the last one",
    )
    beta: float = Field(
        0.1,
        ge=0,
        le=1000,
        description="how much it costs to leave the model that the training begins with: of dpo "
        "and ipo, of the KL term of grpo, of the KL penalty in the rewards of ppo and rloo",
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="ppo: nats a text by which it may differ; beta is adapted to it (Ziegler et "
        "al. 2019)",
    )
    samples: int = Field(
        8, ge=1, le=1024, description="grpo, rloo: answers drawn for each prompt"
    )
    passes: int = Field(
        1, ge=1, le=100, description="how often what was drawn is learnt from"
    )
    parts: int = Field(
        1,
        ge=1,
        le=1024,
        description="updates of a pass, each by a part of what was drawn",
    )
    clip: float = Field(
        0.2,
        gt=0,
        le=10,
        description="how far the probability of a token may move before it earns no more",
    )
    unbiased: bool = Field(
        False,
        description="grpo: neither lengths nor deviations of rewards weigh (Dr. GRPO, Liu et al. "
        "2025)",
    )
    credit: Literal["text", "branch"] = Field(
        "text",
        description="grpo: all tokens of an answer have its advantage, or branch: those at which "
        "answers to a prompt part, by what each way earned",
    )
    discount: float = Field(1.0, ge=0, le=1, description="ppo: gamma of later rewards")
    trace: float = Field(
        0.95,
        ge=0,
        le=1,
        description="ppo: lambda of generalised advantages (Schulman et al. 2016)",
    )
    value_weight: float = Field(
        0.5, ge=0, le=100, description="ppo: weight of the loss of the values"
    )
    entropy_weight: float = Field(
        0.0, ge=0, le=10, description="how much the entropy of the next token earns"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="dpo: share of pairs taken to be the wrong way round",
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="by which answers are drawn"
    )
    prompt_tokens: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="texts that are no prompts: their first tokens are the prompt",
    )
    unended: Literal["judged", "nothing"] = Field(
        "judged",
        description="what an answer earns that does not end itself: what it says is judged, or "
        "nothing, whatever it says, so that length earns nothing",
    )
    repetition: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="how much is taken off for the share of an answer that repeats itself, in "
        "pairs of tokens",
    )
    attempts: int = Field(
        0,
        ge=0,
        le=1024,
        description="evaluate: answers drawn for each question beside the likeliest one; pass_1 is "
        "the share that is right, pass_K that of questions with a right one among them",
    )

    @property
    def draws(self) -> bool:
        """Whether the model learns from what it writes."""
        return self.method in ROLLOUTS

    @property
    def compares(self) -> bool:
        """Whether it learns from pairs of answers."""
        return self.method in PREFERENCES
