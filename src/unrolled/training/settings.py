"""The keys under ``training``."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field, field_validator

from unrolled.core.config import Config
from unrolled.core.errors import nearest, shown

LIMITS = ("max_steps", "max_minutes", "max_epochs")
# how the same updates are computed, which a resume may change
EXECUTION = ("shard", "checkpoint_activations", "compile")
DEVICE = re.compile(r"auto|cpu(:0)?|(cuda|mps|xpu)(:[0-9]{1,3})?")
WEIGHTS = 1e-6, 1e6  # of a label, at least and at most


def _is_weight(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 < float(value) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False


class TrainingConfig(Config):
    """How a model is trained. A step is one update of the weights."""

    max_steps: int | None = Field(
        None, ge=1, le=10**12, description="stop after this many steps"
    )
    max_epochs: int | None = Field(
        None, ge=1, le=10**6, description="stop after this many passes over the data"
    )
    max_minutes: float | None = Field(
        None,
        gt=1e-6,
        le=10**7,
        description="stop after this time; 10 when no limit at all is given",
    )
    pretrain_epochs: int = Field(
        0,
        ge=0,
        le=10**4,
        description="many to one: first passes that guess tokens, without the labels",
    )
    batch_size: int = Field(
        64, ge=1, le=2**31 - 1, description="rows (or lanes of one text) in a batch"
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="at most this many tokens in a batch, padding included",
    )
    accumulate: int = Field(
        1, ge=1, le=10**6, description="batches summed into one step"
    )
    window: int = Field(
        128, ge=1, le=2**31 - 1, description="tokens of a window of one long text"
    )
    carry: bool | None = Field(
        None,
        description="carry the state across windows; by default where a layer's reach has no limit",
    )
    reset: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of carried windows that start from a fresh state",
    )
    optimizer: Literal["adamw", "sgd", "adafactor", "muon"] = Field(
        "adamw",
        description="update rule; muon moves the matrices of layers and leaves the rest to adamw",
    )
    learning_rate: float = Field(2e-3, gt=0, le=1000, description="peak learning rate")
    beta1: float = Field(
        0.9, ge=0, lt=1, description="AdamW: decay of the mean gradient"
    )
    beta2: float = Field(
        0.99, ge=0, lt=1, description="AdamW: decay of the mean squared gradient"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD, Muon: momentum")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="model.init: a layer's learning rate is this share of the one above it, the "
        "embedding's the least; what was drawn anew has the whole rate (Howard and Ruder 2018 "
        "take 0.385)",
    )
    unfreeze: float | None = Field(
        None,
        gt=0,
        le=10**6,
        description="model.init: epochs, such as 1 or 0.5, after which one more layer is trained, "
        "from the top down; what was drawn anew is from the first step (Howard and Ruder 2018); "
        "by default all are at once",
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1000, description="decay of matrices; not of biases or norms"
    )
    clip: float | None = Field(
        1.0, gt=0, le=1e12, description="largest norm of the gradient"
    )
    spike: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="skip a batch whose loss is this many standard deviations above the running "
        "mean, and above twice that mean; by default none is",
    )
    max_skips: int = Field(
        10,
        ge=0,
        le=10**6,
        description="steps in a row that may be skipped because loss or gradient is not finite or "
        "spikes (and a tenth of all steps), before the run goes back or ends",
    )
    rollbacks: int = Field(
        2,
        ge=0,
        le=100,
        description="after too many skips: how often to go back to the last checkpoint with half "
        "the learning rate before the run ends",
    )
    schedule: Literal["constant", "cosine", "linear", "noam", "plateau"] = Field(
        "cosine", description="course of the learning rate after the warm-up"
    )
    warmup_steps: int = Field(
        50, ge=0, le=10**12, description="steps in which the learning rate rises from 0"
    )
    final_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description="share of the peak learning rate at the end of cosine and linear",
    )
    plateau_patience: int = Field(
        1,
        ge=0,
        le=10**9,
        description="plateau: evaluations without progress before a cut",
    )
    plateau_factor: float = Field(
        0.5, gt=0, lt=1, description="plateau: factor of a cut"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="probability spread over all classes"
    )
    reward: Literal["none", "cider_d"] = Field(
        "none",
        description="caption: after cross entropy, learn from what the model writes by itself: "
        "a caption that is drawn counts by how much more of this score it earns than the one "
        "written greedily (Rennie et al. 2017)",
    )
    reward_after: int = Field(
        0,
        ge=0,
        le=10**6,
        description="reward: first passes that learn from the data by cross entropy",
    )
    label_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None,
        description="weights of labels in the loss, {name: weight}; balanced: rare labels weigh "
        "as much as frequent ones in all",
    )
    candidates: int | None = Field(
        None,
        ge=2,
        le=2**31 - 1,
        description="language model: tokens compared at each step of training, half of them the "
        "most frequent; by default the whole vocabulary",
    )
    activation: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="language model: weight of the squared outputs of the layer",
    )
    slowness: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="language model: weight of the squared steps between its outputs",
    )
    average: Literal["none", "ema", "last", "asgd"] = Field(
        "none", description="average the weights that are kept"
    )
    average_after: int = Field(
        5,
        ge=1,
        le=10**9,
        description="asgd: averaging begins when the dev score is worse than the best of all but "
        "this many last evaluations",
    )
    ema_decay: float = Field(
        0.999, gt=0, lt=1, description="ema: share of the old average kept a step"
    )
    average_last: int = Field(
        5, ge=1, le=1000, description="last: how many evaluations' weights are averaged"
    )
    evaluate_every: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="steps between evaluations; by default an epoch",
    )
    patience: int | None = Field(
        None, ge=1, le=10**9, description="evaluations without progress before stopping"
    )
    metric: str | None = Field(
        None, description="the dev score that chooses `best`; by default the task's"
    )
    stop_at: float | None = Field(
        None,
        ge=0,
        le=1e12,
        description="stop when the score that chooses `best` is as good as this",
    )
    checkpoint_every: int = Field(
        500, ge=1, le=10**12, description="steps between checkpoints"
    )
    keep: int = Field(2, ge=1, le=10**6, description="checkpoints kept")
    log_every: int = Field(
        20, ge=1, le=10**12, description="steps between lines of metrics.jsonl"
    )
    shard: bool = Field(
        False,
        description="several processes: divide weights, gradients and the optimizer's state among "
        "them (FSDP2), for models that take more memory than one GPU has",
    )
    checkpoint_activations: bool = Field(
        False,
        description="layer=attention: keep of each block only what it reads, and compute the rest "
        "again in the backward pass (Chen et al. 2016): less memory, a third more work",
    )
    compile: bool = Field(
        False,
        description="compile the training step with torch.compile, where a compiler is at hand",
    )
    tensorboard: bool = Field(
        False, description="also write TensorBoard events (extra `tensorboard`)"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the processor computes in it, else fp32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, mps")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads; by default as many as torch takes",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        if not DEVICE.fullmatch(name):
            raise ValueError(
                f"{shown(name)} is no device; say auto, cpu, cuda, cuda:0 or mps"
            )
        return name

    @field_validator("label_weights", mode="before")
    @classmethod
    def _weights(cls, weights: Any) -> Any:
        if weights is None or weights == "balanced":
            return weights
        if not isinstance(weights, dict):
            guess = nearest(weights, ["balanced"]) if isinstance(weights, str) else None
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise ValueError(
                f"{shown(weights)} is neither balanced nor {{LABEL: WEIGHT, ...}}{hint}"
            )
        # YAML reads a label such as 0 or true as a number or a truth value
        named: dict[str, Any] = {}
        for label, weight in weights.items():
            name = str(label)
            named[name.lower() if isinstance(label, bool) else name] = weight
        for name, weight in named.items():
            if not _is_weight(weight):
                raise ValueError(
                    f"the weight of {shown(name)} is not a number above 0: {shown(weight)}"
                )
        least, most = WEIGHTS
        for name, weight in named.items():
            if not least <= float(weight) <= most:
                raise ValueError(
                    f"the weight of {shown(name)} is not from {least:g} to {most:g}: "
                    f"{shown(weight)}"
                )
        return named

    @property
    def warmup(self) -> int:
        """Steps of the warm-up; a run that would end in it takes a tenth of its steps instead."""
        if self.max_steps is not None and self.max_steps <= self.warmup_steps:
            return self.max_steps // 10
        return self.warmup_steps

    @property
    def bounded(self) -> bool:
        """Whether any limit is given."""
        return any(getattr(self, name) is not None for name in LIMITS)
