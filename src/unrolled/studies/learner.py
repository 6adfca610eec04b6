"""One model of any layer that learns one memory task, and how it is scored.

It is the package's own: the layer of the table, the pattern models, the update of the training
loop. What the loop does around an update, dev parts, checkpoints and a folder, has no meaning
where every batch is new and a training takes seconds, so updates are made one after another here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unrolled.data.batches import IGNORED, Batch
from unrolled.models import Aligned, ManyToOne
from unrolled.nn import Layer, Pooling, ScaledNumbers, TokenEmbedding, build_layer
from unrolled.nn.build import LayerConfig, settings_of, uses
from unrolled.studies.memory_tasks import TOLERANCE, MemoryTask
from unrolled.training.job import TrainingJob
from unrolled.training.objectives import classes, values
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import Progress
from unrolled.training.schedules import factor
from unrolled.training.settings import TrainingConfig
from unrolled.training.state import TrainingState
from unrolled.training.update import Updater

PARAMETERS = 20_000  # of every model, at most and nearly
EMBEDDING = 32
HEADS = 2
STEP = 4  # widths are its multiples
WIDEST = 2048
ROWS = 32  # sequences in a batch
CHECK_EVERY = 25  # updates
CHECKED = 128  # sequences that say whether a task is solved
SCORED = 256  # sequences that the accuracy is of
SOLVED = 0.99
TRAIN, CHECK, SCORE = range(3)  # the streams of sequences, none of which meets another
Weights = dict[str, Tensor]
SETTINGS = TrainingConfig(
    learning_rate=3e-3,
    weight_decay=0.0,
    schedule="constant",
    warmup_steps=20,
    precision="fp32",
    device="cpu",
)


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a training came to.

    Attributes:
        accuracy: on sequences that were never seen; of sums the share within 0.04.
        updates: made.
        stopped: ``solved``, ``updates`` or ``time``.
        seconds: of training and scoring.
        parameters: weights of the model.
        hidden: the width of its layer.
    """

    accuracy: float
    updates: int
    stopped: str
    seconds: float
    parameters: int
    hidden: int


class Generated:
    """Batches of a task that are drawn as they are asked for: one epoch without end."""

    def __init__(self, task: MemoryTask, delay: int, seed: int) -> None:
        self.task = task
        self.delay = delay
        self.seed = seed

    def length(self, epoch: int) -> int:
        """Return more batches than any training reads."""
        return 2**62

    def batch(self, epoch: int, index: int) -> Batch:
        """Return one batch; equal arguments give equal batches."""
        key = (self.seed, TRAIN, self.delay, epoch, index)
        return self.task.batch(ROWS, self.delay, *key)


def build_model(task: MemoryTask, layer: str, hidden: int) -> Aligned | ManyToOne:
    """Return a model of a task over a layer of that width, with random weights.

    Layers whose gates or weights see no state get two stacked, the others one: a single ``none``,
    ``mingru`` or ``attention`` block cannot combine what it has read with what it reads.
    """
    embedding: TokenEmbedding | nn.Identity = ScaledNumbers()
    width = 2
    if task.vocabulary:
        embedding = TokenEmbedding(task.vocabulary, EMBEDDING)
        width = EMBEDDING
    stacked = 1 if "weight_drop" in uses(layer) else 2
    config = settings_of(layer, LayerConfig(hidden=hidden, layers=stacked, heads=HEADS))
    reader = build_layer(layer, config, width)
    if task.at_every_step:
        return Aligned(embedding, reader, task.outputs)
    pooling = Pooling("last", reader.output_size, reader.reverse_size)
    return ManyToOne(embedding, reader, pooling, task.outputs)


def count_parameters(model: nn.Module) -> int:
    """Return how many weights a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def fitting_width(task: MemoryTask, layer: str, parameters: int = PARAMETERS) -> int:
    """Return the largest width, a multiple of 4, at which a model has at most ``parameters``."""
    low = 1
    high = WIDEST // STEP
    while low < high:
        middle = (low + high + 1) // 2
        size = count_parameters(build_model(task, layer, STEP * middle))
        if size <= parameters:
            low = middle
        else:
            high = middle - 1
    return STEP * low


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Return the share of right answers: classes, or values within ``TOLERANCE``."""
    model.eval()
    outputs: Tensor = model(batch.inputs, None)
    model.train()
    targets = batch.targets
    assert targets is not None
    if targets.is_floating_point():
        right = (outputs.squeeze(-1) - targets).abs() <= TOLERANCE
    else:
        scored = targets != IGNORED
        right = (outputs.argmax(-1) == targets)[scored]
    return float(right.double().mean())


def score(
    model: nn.Module, task: MemoryTask, delay: int, rows: int, *key: int
) -> float:
    """Return the accuracy on ``rows`` fresh sequences, read ``ROWS`` at a time."""
    parts = range(rows // ROWS)
    scores = [accuracy(model, task.batch(ROWS, delay, *key, part)) for part in parts]
    return sum(scores) / len(scores)


def learn(
    task: MemoryTask,
    layer: str,
    delay: int,
    seed: int,
    updates: int,
    seconds: float,
    begin: Weights | None = None,
) -> tuple[TrainingOutcome, Weights]:
    """Train a model until it has solved the task, or updates or time are used up.

    At least one update is made. Equal arguments, versions and threads give equal bits wherever the
    time was enough.

    Args:
        task, layer, delay: what is learnt, by what, and over how many steps.
        seed: of the first weights and of all sequences.
        updates, seconds: the most of either.
        begin: weights to begin with, such as those of a shorter delay; None draws them.

    Returns:
        The outcome, and the weights.
    """
    began = time.monotonic()
    hidden = fitting_width(task, layer)
    torch.manual_seed(seed)
    model = build_model(task, layer, hidden)
    if begin is not None:
        model.load_state_dict(begin)
    updater = _updater(model, task, Generated(task, delay, seed))
    stopped = "updates"
    made = 0
    while made < updates:
        before = time.monotonic()
        _update(updater, made)
        # a third of an update is its forward pass, of which the score takes some
        reserve = (time.monotonic() - before) / 3 * SCORED / ROWS
        made += 1
        if made % CHECK_EVERY == 0:
            key = (seed, CHECK, delay, made)
            if score(model, task, delay, CHECKED, *key) >= SOLVED:
                stopped = "solved"
                break
        if time.monotonic() - began + reserve >= seconds:
            stopped = "time"
            break
    reached = score(model, task, delay, SCORED, seed, SCORE, delay)
    elapsed = time.monotonic() - began
    size = count_parameters(model)
    outcome = TrainingOutcome(reached, made, stopped, elapsed, size, hidden)
    return outcome, dict(model.state_dict())


def _updater(model: nn.Module, task: MemoryTask, source: Generated) -> Updater:
    """Return what makes the updates of a model; nothing of it is written anywhere."""
    job = TrainingJob(
        model=model,
        objective=classes() if task.vocabulary else values(),
        source=source,
        settings=SETTINGS,
        compute_device=ComputeDevice(torch.device("cpu"), "fp32", "as asked"),
        seed=source.seed,
        folder=Path(),
        metric="accuracy",
        higher=True,
        evaluate=None,
        keep_best=lambda weights: None,
        progress=Progress(quiet=True),
    )
    model.train()
    return Updater(job, TrainingState(job))


def _update(updater: Updater, index: int) -> None:
    rate = SETTINGS.learning_rate * factor(SETTINGS, index, 0.0, 0)
    for group in updater.state.optimizer.param_groups:
        group["lr"] = rate
    accumulated = updater.accumulate(range(index, index + 1))
    updater.update(accumulated.losses)


def layer_of(task: MemoryTask, layer: str) -> Layer:
    """Return the layer of the model that learns a task, for what is timed of it alone."""
    torch.manual_seed(0)
    return build_model(task, layer, fitting_width(task, layer)).layer
