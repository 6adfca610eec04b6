"""One to many: a sentence that says what an image shows.

Shapes: I images, R captions, T pieces of a caption, M places of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import nn

from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import BatchSource
from unrolled.data.examples import Examples, Ragged
from unrolled.data.image_batches import ImageBatches
from unrolled.data.schema import Schema
from unrolled.fields.base import InvalidCell
from unrolled.fields.image import Image
from unrolled.fields.text import Text
from unrolled.nn.image_settings import build_encoder
from unrolled.scores.captions import CiderD, caption_scores
from unrolled.scores.ptb import ptb_tokens
from unrolled.tasks import describing
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    GeneratedTexts,
    Method,
    Prediction,
    Rows,
    Scores,
    Split,
    Task,
    locate,
    need_table,
)
from unrolled.tasks.caption_writing import CaptionRewards, ImageSources, reward_of
from unrolled.tasks.image_rows import (
    begin_encoder,
    changes_of,
    pixels_of,
    read_rows,
    with_features,
)
from unrolled.tasks.one_to_many import TARGET, OneToManyTask
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.unaligned import loss_of_batches
from unrolled.tasks.writing import unwritten
from unrolled.text.published import load_tokenizer
from unrolled.training.objectives import Objective, rewarded, seq2seq_loss
from unrolled.training.parallel import world
from unrolled.training.precision import ComputeDevice, choose
from unrolled.training.rollouts import Rollouts

SCORED = 32  # images that are read at once while the loss is measured
LONGEST = 60  # pieces of a caption, where nobody says otherwise
TYPICAL = 300  # training captions among which the most typical one is looked for
DEFAULTS = DefaultSettings(
    values={
        "data": {"max_tokens": LONGEST, "min_count": 4},
        "model": {
            "hidden": 512,
            "embedding": 256,
            "embedding_dropout": 0.3,
            "head_dropout": 0.4,
        },
        "encoder": {"crop": 0.15, "flip": True, "colour": 0.2},
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "label_smoothing": 0.1,
            "patience": 4,
            "average": "ema",
            "ema_decay": 0.99,
        },
        "decoding": {"beam": 5},
    },
    budget=600_000,
    tokenizer="words",
    sizes_vocabulary=False,
)


@dataclass(frozen=True, slots=True)
class CaptionExamples(Examples):
    """Images with their captions: a row a caption, ``names`` of the I images, texts of R rows."""

    names: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Caption(OneToManyTask):
    """Images, and a sentence for each.

    Attributes:
        inputs: the field of images.
        output: the field of captions.
        longest: the most pieces of a caption, its end mark included.
    """

    name: ClassVar[str] = "caption"
    metric: ClassVar[str] = "cider_d"
    measures: ClassVar[dict[str, bool]] = {
        "bleu_1": UP,
        "bleu_2": UP,
        "bleu_3": UP,
        "bleu_4": UP,
        "rouge_l": UP,
        "cider_d": UP,
        "loss": DOWN,
        "perplexity": DOWN,
    }
    rewards: ClassVar[tuple[str, ...]] = ("cider_d",)
    source_name: ClassVar[str] = "an image"
    inputs: Image
    output: Text
    longest: int
    layout: FileLayout

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(
            self.name, answer=self.output.columns[0], images=self.inputs.columns
        )

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
        """Learn the vocabulary of captions from training rows."""
        table = need_table(data)
        config = recipe.data
        answer = schema.answer or ""
        texts = [readable(cell) for cell in table.cells(answer) if cell]
        tokenizer = cls.fit_tokenizer(config, texts, DEFAULTS.tokenizer, pretrained)
        return cls(
            Image(schema.images[0], recipe.encoder.size, recipe.encoder.fit),
            Text((answer,), tokenizer, None),
            config.max_tokens or LONGEST,
            FileLayout.of(table),
        )

    # ------------------------------------------------------------------ rows to examples

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[CaptionExamples, list[Any]]:
        """Read the images of a table and encode their captions; see the base class."""
        table = need_table(data)
        known = schema or self.schema
        names = (known.images[0], known.answer or "")
        image, answer = locate(table, names, self.columns)

        def check(cells: tuple[Any, ...]) -> str:
            (text,) = self.output.check([cells[answer]])
            if not text.strip():
                raise InvalidCell(f"column {self.output.columns[0]!r} is empty")
            return text

        rows = read_rows(self.inputs, table, image, check, on_error)
        ids = self.output.encode([(readable(text),) for text in rows.values])
        examples = CaptionExamples(
            rows.lines,
            images=rows.images,
            targets=Ragged.of(self.cut(ids)),
            names=rows.names,
            references=tuple(rows.values),
        )
        return examples, rows.errors

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return what reads an image, and the decoder that writes."""
        return self.build_for(build_encoder(recipe.encoder), recipe)

    def begin(self, model: nn.Module, recipe: Recipe) -> None:
        """Give what reads images the weights that ``encoder.weights`` names."""
        begin_encoder(cast(Any, model).source, recipe.encoder)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each piece of a caption, given those before it.

        Of captions that the model has drawn it is what they earn; see :class:`CaptionRewards`.
        """
        start = self.tokenizer.bos_id
        data_loss = seq2seq_loss(start, recipe.training.label_smoothing)
        return rewarded(data_loss, start, unwritten(self.tokenizer))

    def source(
        self, examples: CaptionExamples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of ``training.batch_size`` images, each with all its captions.

        With ``training.reward`` they come with captions that the model draws, later on.
        """
        read = with_features(model, examples)
        training = recipe.training
        changes = changes_of(recipe.encoder)
        batches = ImageBatches(read, training.batch_size, recipe.seed, changes)
        if training.reward == "none":
            return batches
        if world().size > 1:
            # each would draw by the statistics that its own batch norms keep
            raise UsageError(
                f"training.reward={training.reward} is for one process; start it without torchrun"
            )
        assert examples.images is not None
        rewards = CaptionRewards(
            model,
            self.tokenizer,
            self.longest,
            reward_of(examples.images, examples.references),
            examples.images.rows,
            choose(training.device, training.precision),
        )
        return Rollouts(batches, training.reward_after, recipe.seed, rewards.roll_out)

    # ------------------------------------------------------------------ scores

    def loss(
        self, model: nn.Module, examples: Examples, compute_device: ComputeDevice
    ) -> float:
        """Return the mean cross entropy of caption pieces in nats, given those before each."""
        batches = ImageBatches(examples, SCORED, 0).in_order()
        return loss_of_batches(model, batches, compute_device, self.decoder_inputs)

    def evaluate(
        self,
        model: nn.Module,
        examples: CaptionExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return the loss of the captions given, and the scores of those that are written."""
        examples = with_features(model, examples, compute_device)
        loss = self.loss(model, examples, compute_device)
        written = self.write(model, examples, compute_device, options)
        scores = caption_scores(written.answers, written.references)
        distinct = len(set(written.answers))
        notes = (
            f"{len(written.answers):,} images, {distinct:,} different captions written; BLEU, "
            "ROUGE-L and CIDEr-D over words as the Penn Treebank cuts them",
        )
        all_scores = {
            **scores,
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
        }
        return Evaluation(all_scores, written=written, notes=notes)

    def write(
        self,
        model: nn.Module,
        examples: CaptionExamples,
        compute_device: ComputeDevice,
        options: AnswerOptions,
    ) -> GeneratedTexts:
        """Return a caption for each image, beside those it has."""
        assert examples.images is not None
        groups = [rows for rows in examples.images.by_image() if rows]
        first = [rows[0] for rows in groups]
        images = examples.images.pick(np.array(first))
        predictions = self.written(model, ImageSources(images), compute_device, options)
        numbers = images.rows.tolist()
        return GeneratedTexts(
            examples.lines[first],
            [examples.names[number] for number in numbers],
            [[examples.references[row] for row in rows] for rows in groups],
            [prediction.text for prediction in predictions],
        )

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say how many captions there are, and how long."""
        return describing.texts(values)

    def baselines(self, split: Split) -> list[Method]:
        """Say of every image what is most typical of the training captions."""

        def one_caption() -> Scores:
            dev = cast(CaptionExamples, split.dev)
            train = cast(CaptionExamples, split.train)
            assert dev.images is not None
            groups = [rows for rows in dev.images.by_image() if rows]
            references = [[dev.references[row] for row in rows] for rows in groups]
            caption = typical(train)
            return caption_scores([caption] * len(references), references)

        return [("one caption for all", one_caption)]

    # ------------------------------------------------------------------ predictions

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, empty where it can."""
        try:
            pixels_of(self.inputs, cells[:1])
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
        """Write a caption for the image of each row."""
        try:
            images = pixels_of(self.inputs, [row[0] for row in rows])
        except InvalidCell as error:
            raise UserError(str(error)) from None
        return self.written(model, ImageSources(images), compute_device, options)

    def sources_of(self, cells: Sequence[Any]) -> ImageSources:
        """Return the image of one row. Raises InvalidCell: it cannot be read."""
        return ImageSources(pixels_of(self.inputs, cells[:1]))

    # ------------------------------------------------------------------ the run folder

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        tokenizer = load_tokenizer(folder / TARGET)
        output = Text(tuple(values["output"]["columns"]), tokenizer, None)
        return cls(Image.from_json(values["inputs"]), output, values["longest"], layout)


def readable(text: Any) -> str:
    """Return a caption as it is learnt: its words in lower case, without marks at its end."""
    return " ".join(ptb_tokens(str(text)))


def typical(examples: CaptionExamples) -> str:
    """Return the caption, among some, that is most like the others by CIDEr-D."""
    step = max(1, len(examples.references) // TYPICAL)
    captions = list(examples.references[::step][:TYPICAL])
    scorer = CiderD([captions])
    scores = scorer.scores(captions, [0] * len(captions))
    return captions[int(np.argmax(scores))]
