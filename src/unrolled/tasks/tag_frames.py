"""A label at every step of a sequence of numbers: frames of video, rows of sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from unrolled.core.errors import DataError
from unrolled.data.batches import BatchSource, collate
from unrolled.data.examples import Examples, Ragged, Spans
from unrolled.data.schema import Schema
from unrolled.data.sources import Document, Table
from unrolled.fields.base import InvalidCell
from unrolled.fields.frames import Frames
from unrolled.fields.label import Label
from unrolled.models import Aligned
from unrolled.nn import ScaledNumbers
from unrolled.tasks import series
from unrolled.tasks.base import Prediction, Rows, score_batches
from unrolled.tasks.labelled import need_table
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.tag import Tag
from unrolled.training.precision import ComputeDevice


def every_label(cell: Any, steps: int) -> list[Any]:
    """Return the labels of a sequence, one a step. Raises InvalidCell."""
    # a step may be without a label, which is named when the rows are encoded
    tags = cell if isinstance(cell, list) else str(cell or "").split()
    if len(tags) != steps:
        raise InvalidCell(f"{steps} steps but {len(tags)} labels")
    return tags


class FrameTag(Tag):
    """Steps of numbers, and a label for each."""

    inputs: Frames  # type: ignore[assignment]

    def __init__(self, inputs: Frames, output: Label) -> None:
        super().__init__(inputs, output)  # type: ignore[arg-type]

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn the scales and the labels from training rows."""
        table = need_table(data)
        named = table if labels is None else need_table(labels)
        output = Label.fit(
            schema.answer or "", series.answers_in(named, schema, every_label)
        )
        if len(output.names) < 2:
            raise DataError(
                f"column {schema.answer!r} holds one label alone", table.path
            )
        return cls(series.fit_frames(recipe, schema, table), output)

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        told = self.inputs
        return Schema(
            self.name, (), told.columns, self.output.column, True, told.reading.steps
        )

    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[Examples, list[DataError]]:
        """Encode the sequences of a table with their labels; see the base class."""
        table = need_table(data)
        skip = on_error == "skip"
        examples, found, skipped = series.encode(
            self.inputs,
            self.output,
            table,
            schema or self.schema,
            self.columns,
            skip,
            every_label,
        )
        ends = np.cumsum(examples.lengths)
        targets = Ragged(np.array(found, dtype=np.int32), np.concatenate([[0], ends]))
        return replace(examples, targets=targets), skipped

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an aligned model over the numbers themselves."""
        layer = series.build_reader(recipe, self.inputs)
        return Aligned(
            ScaledNumbers(), layer, len(self.output.names), recipe.model.head_dropout
        )

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of sequences, or of pieces of ``data.window`` steps, of like length."""
        size = recipe.data.window
        if size is not None:
            assert examples.frames is not None
            assert isinstance(examples.targets, Ragged)
            ends = np.cumsum(examples.lengths)
            cuts = [
                np.arange(a, b, size)
                for a, b in zip(ends - examples.lengths, ends, strict=True)
            ]
            starts = np.concatenate(cuts)
            lines = examples.frames.lines
            offsets = np.append(starts, ends[-1])
            examples = Examples(
                starts if lines is None else lines[starts],
                frames=Spans(examples.frames.flat, starts, np.diff(offsets), lines),
                targets=Ragged(examples.targets.flat, offsets),
            )
        return super().source(examples, recipe, model)

    @torch.no_grad()
    def _shares(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Tensor]:
        """Return the probabilities of labels at each step of each row, (T, C)."""
        parts = [series.asked(self.inputs, row) for row in rows]
        examples = Examples(
            np.arange(len(rows)), frames=series.spans(parts, self.inputs.reading)
        )
        found: dict[int, Tensor] = {}
        for chosen in score_batches(examples.lengths):
            batch = collate(examples, chosen).to(place.device)
            with place.autocast():
                scores = model(batch.inputs, batch.lengths)
            for row, share in zip(
                chosen.tolist(), scores.float().softmax(-1).cpu(), strict=True
            ):
                found[row] = share[: len(parts[row])]
        return [found[i] for i in range(len(rows))]

    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Label every step of each row, a row being the cells of ``schema.inputs``."""
        return [self._told(share) for share in self._shares(model, rows, place)]

    def _told(self, share: Tensor) -> Prediction:
        best = share.max(-1)
        tags = [self.output.names[i] for i in best.indices.tolist()]
        details = {"tags": tags, "probabilities": best.values.tolist()}
        return Prediction(" ".join(tags), float(best.values.mean()), details)

    def each_step(
        self, model: nn.Module, cells: Sequence[Any], place: ComputeDevice
    ) -> list[Prediction]:
        """Return the label of every step of a sequence, with its probability."""
        found = self.predict(model, [tuple(cells)], place)[0].details
        pairs = zip(found["tags"], found["probabilities"], strict=True)
        return [Prediction(tag, share) for tag, share in pairs]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        inputs = {"kind": "frames", **self.inputs.to_json()}
        return {"inputs": inputs, "output": self.output.to_json()}

    def save(self, folder: Path) -> None:
        """Write nothing: numbers need no vocabulary."""

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        output = Label(values["output"]["column"], tuple(values["output"]["names"]))
        return cls(Frames.from_json(values["inputs"]), output)
