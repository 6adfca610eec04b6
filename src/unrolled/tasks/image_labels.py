"""A label for an image, alone or with a question about it: what the two tasks share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.data.batches import BatchSource
from unrolled.data.examples import Examples
from unrolled.data.image_batches import ImageBatches
from unrolled.fields.image import Image
from unrolled.fields.label import Label
from unrolled.scores import accuracy, confusion_counts, macro_f1
from unrolled.tasks import describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    AxisNames,
    ClassPredictions,
    Evaluation,
    Method,
    Prediction,
    Scores,
    Split,
    Task,
    label_names,
    likeliest_labels,
)
from unrolled.tasks.image_rows import begin_encoder, changes_of, with_features
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.weights import weights_of
from unrolled.training.objectives import Objective, classes
from unrolled.training.precision import ComputeDevice

SCORED = 64  # images that are read at once


class ImageLabels(Task):
    """A label for each row that names an image."""

    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, bool]] = {"accuracy": UP, "macro_f1": UP, "loss": DOWN}
    inputs: Image
    output: Label

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels to choose from."""
        return self.output.names

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the labels of the output weights."""
        labels = label_names(self.output.names)
        return {"head.weight": labels, "head.bias": labels}

    @abstractmethod
    def image_source(self, model: nn.Module) -> nn.Module:
        """Return what reads images in a model: an ``ImageEncoder``."""

    def begin(self, model: nn.Module, recipe: Recipe) -> None:
        """Give what reads images the weights that ``encoder.weights`` names."""
        encoder: Any = self.image_source(model)
        begin_encoder(encoder, recipe.encoder)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy, labels weighed as the recipe says."""
        weights = weights_of(recipe, self.output.names)
        return classes(recipe.training.label_smoothing, weights)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of ``training.batch_size`` images, each with all its rows."""
        read = with_features(self.image_source(model), examples)
        changes = changes_of(recipe.encoder)
        return ImageBatches(read, recipe.training.batch_size, recipe.seed, changes)

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, examples: Examples, compute_device: ComputeDevice
    ) -> Tensor:
        """Return the scores of labels for each row (N, C)."""
        read = with_features(self.image_source(model), examples, compute_device)
        outputs = torch.empty(len(read), len(self.output.names))
        for cpu_batch in ImageBatches(read, SCORED, 0).in_order():
            batch = cpu_batch.to(compute_device.device)
            with compute_device.autocast():
                scores = model(batch.inputs, batch.lengths, *batch.extra)
            outputs[torch.from_numpy(batch.rows)] = scores.float().cpu()
        return outputs

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return accuracy, macro F1 and the mean cross entropy in nats."""
        outputs = self.outputs(model, examples, compute_device).double()
        truth = np.asarray(examples.targets)
        loss = float(F.cross_entropy(outputs, torch.from_numpy(truth)))
        likeliest = outputs.softmax(-1).max(-1)
        predicted = likeliest.indices.numpy()
        confusion = confusion_counts(truth, predicted, len(self.output.names))
        scores = {
            "accuracy": accuracy(confusion),
            "macro_f1": macro_f1(confusion),
            "loss": loss,
        }
        rows = np.arange(len(truth))
        judged = ClassPredictions(rows, truth, predicted, likeliest.values.numpy())
        return Evaluation(scores, confusion=confusion, judged=judged)

    def predictions(self, outputs: Tensor) -> list[Prediction]:
        """Return the likeliest label with its probability, and all probabilities as details."""
        return likeliest_labels(self.output.names, outputs)

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say which labels there are, and how often."""
        return describing.labels(values)

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent label."""

        def most_frequent() -> Scores:
            counts = np.bincount(split.train.targets, minlength=len(self.output.names))
            truth = np.asarray(split.dev.targets)
            predicted = np.full(len(truth), int(counts.argmax()))
            confusion = confusion_counts(truth, predicted, len(self.output.names))
            return {"accuracy": accuracy(confusion), "macro_f1": macro_f1(confusion)}

        return [("most frequent label", most_frequent)]
