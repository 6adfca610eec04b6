"""A label at every frame of video: a network reads each frame, and a layer carries the state along.

Shapes: T frames, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from unrolled.core.errors import DataError, UserError
from unrolled.data.batches import IGNORED, BatchSource, Buckets
from unrolled.data.clips import Clip, NumberedLabel
from unrolled.data.examples import Examples, FrameSpans, Ints, Ragged
from unrolled.data.frame_store import FrameStore
from unrolled.data.image_batches import ClipBatches
from unrolled.data.labelled_clips import SegmentLabels
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell, MissingCell, invalid_row
from unrolled.fields.clips import Clips
from unrolled.fields.label import Label
from unrolled.models import Aligned
from unrolled.nn import build_layer
from unrolled.nn.image_encoder import STRETCH, PooledImages
from unrolled.nn.image_settings import build_encoder
from unrolled.tasks import baselines
from unrolled.tasks.base import (
    AnswerOptions,
    Data,
    DefaultSettings,
    FileLayout,
    Method,
    Prediction,
    Rows,
    Scores,
    Split,
    Task,
    locate,
    need_table,
)
from unrolled.tasks.image_rows import begin_encoder, changes_of
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import TaggedSteps
from unrolled.tasks.steps import StepReader
from unrolled.tasks.tag import ScoredSteps
from unrolled.tasks.tag_frames import SegmentTagger, every_label, of_segments
from unrolled.training.precision import ComputeDevice

DEFAULTS = DefaultSettings(
    values={
        "model": {
            "bidirectional": True,
            "hidden": 192,
            "input_dropout": 0.2,
            "head_dropout": 0.4,
        },
        "encoder": {"crop": 0.15, "flip": True, "colour": 0.2},
        "training": {
            "batch_size": 8,
            "learning_rate": 1e-3,
            "label_smoothing": 0.1,
            "patience": 6,
            "average": "ema",
            "ema_decay": 0.99,
        },
    },
    budget=20_000,
    sizes_vocabulary=False,
)


@dataclass(frozen=True, eq=False)
class LabelFrames(SegmentTagger):
    """Clips of video, and a label for each of their frames.

    Attributes:
        inputs, output: the fields of clips and labels.
        names: of the labels that the training file holds as numbers, for files without names.
    """

    name: ClassVar[str] = "label-frames"
    around: ClassVar[tuple[str, ...]] = ()
    learns_words: ClassVar[bool] = False
    inputs: Clips
    output: Label
    layout: FileLayout
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        return DEFAULTS

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the size of frames and the labels from training rows."""
        table = need_table(data)
        named = table if labels is None else need_table(labels)
        answer = schema.answer or ""
        names: list[Any] = []
        for cell in named.cells(answer):
            names += cell if isinstance(cell, list) else str(cell or "").split()
        output = Label.fit(answer, names, optional=True)
        if len(output.names) < 2:
            raise DataError(f"column {answer!r} holds one label alone", table.path)
        column = schema.images[0]
        try:
            inputs = Clips.fit(column, table.cells(column), recipe.encoder.size)
        except InvalidCell as error:
            raise DataError(str(error), table.path) from None
        return cls(inputs, output, FileLayout.of(table), _names_of_numbers(names))

    @property
    def clips(self) -> Clips:
        """The field of clips."""
        return self.inputs

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(
            self.name, answer=self.output.column, images=self.inputs.columns, clips=True
        )

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Read the clips of a table with their labels; frames without one are not scored."""
        table = need_table(data)
        known = schema or self.schema
        names = (known.images[0], known.answer or "")
        clip_index, answer_index = locate(table, names, self.columns)
        errors = list(table.skipped)
        lines: list[int] = []
        store = FrameStore()
        targets: list[list[int]] = []
        for line, row in zip(table.lines, table.rows, strict=True):
            before = len(store)
            try:
                clip = self.inputs.check(row[clip_index])
                count = self.inputs.read_into(store, clip)
                answers = _labels_of_frames(row[answer_index], clip)
                names_of_frames = every_label(answers, count)
                # without a label a frame is read and not scored
                targets.append([self._target(name) for name in names_of_frames])
                lines.append(line)
            except InvalidCell as error:
                store.cut(before)
                invalid = invalid_row(error, *table.position(line))
                if on_error != "skip":
                    raise invalid from None
                errors.append(invalid)
        if not lines:
            raise DataError("no row is left to read", table.path)
        lengths = [len(row) for row in targets]
        examples = self.inputs.stored(store, lengths, np.array(lines))
        return replace(examples, targets=Ragged.of(targets)), errors

    def build(self, recipe: Recipe) -> nn.Module:
        """Return what reads frames, a layer over them, and output weights."""
        config = recipe.model
        field = self.inputs
        settings = recipe.encoder.changed(size=max(field.height, field.width, 8))
        encoder = build_encoder(settings)
        pooled = PooledImages(
            encoder, field.height, field.width, config.hidden, config.head_dropout
        )
        layer = build_layer(recipe.layer, config, pooled.output_size)
        return Aligned(pooled, layer, len(self.output.names), config.head_dropout)

    def begin(self, model: nn.Module, recipe: Recipe) -> None:
        """Give what reads frames the weights that ``encoder.weights`` names."""
        pooled = cast(PooledImages, cast(Aligned, model).embedding)
        begin_encoder(pooled.encoder, recipe.encoder)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of clips, or of pieces of ``data.window`` frames, of like length."""
        size = recipe.data.window
        if size is not None:
            examples = _pieces(examples, size)
        training = recipe.training
        buckets = Buckets(
            examples, training.batch_size, training.batch_tokens, recipe.seed
        )
        return ClipBatches(buckets, changes_of(recipe.encoder))

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a clip cannot be answered; else nothing."""
        try:
            clip = self.inputs.check(cells[0])
            # all of them: a clip may break off later on
            if not sum(map(len, self.inputs.stretches(clip))):
                return f"{clip} has no frames"
        except InvalidCell as error:
            return str(error)
        return ""

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Label every frame of each clip."""
        store = FrameStore()
        try:
            lengths = [
                self.inputs.read_into(store, self.inputs.check(row[0])) for row in rows
            ]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = self.inputs.stored(store, lengths, np.arange(len(rows)))
        probabilities = self.probabilities(model, examples, compute_device)
        return [self.prediction(row) for row in probabilities]

    def scored(
        self,
        model: nn.Module,
        examples: Examples,
        rows: Ints,
        compute_device: ComputeDevice,
    ) -> ScoredSteps:
        """Return the scores of labels; frames are read a stretch at a time."""
        aligned = cast(Aligned, model)
        assert examples.clips is not None
        with compute_device.autocast():
            of_stretches = [
                aligned.embedding(frames.to(compute_device.device))
                for frames in examples.clips.stretches(rows, STRETCH)
            ]
            lengths = torch.from_numpy(examples.lengths[rows])
            vectors = pad_sequence(
                torch.cat(of_stretches).split(lengths.tolist()),
                batch_first=True,
            )
            outputs = aligned.of_vectors(vectors, lengths.to(compute_device.device))
        targets = None
        if isinstance(examples.targets, Ragged):
            targets, _ = examples.targets.take(rows, IGNORED)
            targets = targets.to(compute_device.device)
        return ScoredSteps(outputs.float(), targets)

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads a clip frame by frame."""
        return TaggedSteps(self.inputs, self.output.names)

    def baselines(self, split: Split) -> list[Method]:
        """The most frequent label."""

        def most_frequent() -> Scores:
            return of_segments(
                baselines.one_label(split, len(self.output.names))
            ).scores

        return [("most frequent label", most_frequent)]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        inputs = {"kind": self.inputs.kind, **self.inputs.to_json()}
        return {
            "inputs": inputs,
            "output": self.output.to_json(),
            "names": {str(number): name for number, name in self.names.items()},
        }

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = Clips.from_json(values["inputs"])
        names = {int(number): name for number, name in values["names"].items()}
        return cls(inputs, Label.from_json(values["output"]), layout, names)

    def _target(self, cell: Any) -> int:
        """Return the class of a frame; IGNORED where it has no label. Raises InvalidCell."""
        if isinstance(cell, NumberedLabel) and not cell.is_named:
            cell = self.names.get(cell.number, cell)
        try:
            return self.output.check(cell)
        except MissingCell:
            return IGNORED


def _labels_of_frames(cell: Any, clip: Clip) -> Any:
    """Return the labels of frames that a cell holds, or those of its stretches of time.

    Raises:
        InvalidCell: the stretches are not of the clip.
    """
    if not isinstance(cell, SegmentLabels):
        return cell
    try:
        return cell.of_frames(clip)
    except (OSError, ValueError) as error:
        raise InvalidCell(str(error)) from None


def _names_of_numbers(labels: Sequence[Any]) -> dict[int, str]:
    """Return what the numbers of labels stand for, in their order."""
    names: dict[int, str] = {}
    for label in labels:
        if isinstance(label, NumberedLabel):
            names[label.number] = str(label)
    return dict(sorted(names.items()))


def _pieces(examples: Examples, size: int) -> Examples:
    """Return clips cut into pieces of ``size`` frames, the last of each what is left."""
    clips = examples.clips
    assert clips is not None
    assert isinstance(examples.targets, Ragged)
    starts: list[int] = []
    lengths: list[int] = []
    lines: list[int] = []
    for line, start, length in zip(
        examples.lines.tolist(),
        clips.starts.tolist(),
        clips.lengths.tolist(),
        strict=True,
    ):
        for first in range(0, length, size):
            starts.append(start + first)
            lengths.append(min(size, length - first))
            lines.append(line)
    # targets stand one after another as the frames do
    offsets = np.append(np.array(starts, dtype=np.int64), len(examples.targets.flat))
    return Examples(
        np.array(lines),
        clips=FrameSpans(clips.pixels, np.array(starts), np.array(lengths)),
        targets=Ragged(examples.targets.flat, offsets),
    )
