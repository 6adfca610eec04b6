"""What captions and texts for labels share: a text that is written from something without steps.

Shapes: R texts, T pieces of a text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.data.batches import Batch
from unrolled.decoding.search import Hypothesis
from unrolled.fields.conditions import Conditions
from unrolled.fields.image import Image
from unrolled.fields.text import Text
from unrolled.models import OneToMany
from unrolled.nn import (
    Attention,
    RecurrentDecoder,
    TokenEmbedding,
    build_decoder,
    with_context,
)
from unrolled.nn.build import settings_of
from unrolled.tasks.base import (
    AnswerOptions,
    AxisNames,
    Prediction,
    Scores,
    Task,
    build_embedding,
)
from unrolled.tasks.recipe import DataConfig, Recipe
from unrolled.tasks.step_readers import Write, WrittenSteps, piece_names
from unrolled.tasks.steps import StepReader
from unrolled.tasks.unaligned import check_writer
from unrolled.tasks.writing import SourceBatches, best_of, refuse_unknown, write
from unrolled.text.tokenizers import KINDS, Tokenizer
from unrolled.training.objectives import shifted
from unrolled.training.precision import ComputeDevice

TARGET = "target.json"


class OneToManyTask(Task):
    """A source of one step, or of none, and a text for it.

    Attributes:
        inputs: the field of sources.
        output: the field of texts.
        longest: the most pieces of a text, its end mark included.
        source_name: what a person calls a source.
    """

    is_generative: ClassVar[bool] = True
    around: ClassVar[tuple[str, ...]] = (
        "tie",
        "head_bias",
        "attention",
        "input_feeding",
    )
    source_name: ClassVar[str]
    inputs: Image | Conditions
    output: Text
    longest: int

    @property
    def pattern(self) -> str:
        """A sequence for a source."""
        return "one to many"

    @property
    def reads_sequences(self) -> bool:
        """A source has no steps."""
        return False

    @property
    def tokenizer(self) -> Tokenizer:
        """What cuts texts into pieces."""
        return self.output.tokenizer

    @staticmethod
    def fit_tokenizer(
        config: DataConfig, texts: Sequence[str], default: str, pretrained: Task | None
    ) -> Tokenizer:
        """Return what cuts texts: that of another run, else one learnt from them."""
        kind = config.tokenizer if config.tokenizer in KINDS else default
        known = pretrained and pretrained.tokenizer
        return known or Tokenizer.fit(kind, texts, config.vocabulary, config.min_count)

    def cut(self, texts: Sequence[list[int]]) -> list[list[int]]:
        """Return the pieces of texts, those of longer ones cut so that an end mark stands last."""
        end = self.tokenizer.eos_id
        return [
            [*ids[: self.longest - 1], end] if len(ids) > self.longest else ids
            for ids in texts
        ]

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the tokens of the embedding and of the output weights."""
        names = AxisNames(tuple(self.tokenizer.texts()))
        weights = ("target.weight", "head.weight", "head.bias")
        return dict.fromkeys(weights, names)

    def check_options(
        self, options: AnswerOptions, model: nn.Module | None = None
    ) -> None:
        """Raise UsageError for options that cannot be followed."""
        constraints = options.constraints
        if constraints.alignment:
            raise UsageError(
                f"{self.source_name} has no words to align; leave out the alignment"
            )
        if options.search.coverage_penalty:
            raise UsageError(
                "decoding.coverage_penalty is for sources whose every word is to be said, and "
                f"{self.source_name} has none; leave it out"
            )
        refuse_unknown(self.tokenizer, constraints)

    def build_for(self, source: nn.Module, recipe: Recipe) -> OneToMany:
        """Return a source, and the decoder that writes from it."""
        target, decoder = self.build_writer(recipe)
        config = recipe.model
        try:
            return OneToMany(
                source,
                config.hidden,
                target,
                decoder,
                self.tokenizer.size,
                config.head_dropout,
                config.tie,
                config.head_bias,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def build_writer(
        self, recipe: Recipe
    ) -> tuple[TokenEmbedding, Attention | RecurrentDecoder]:
        """Return the embedding of pieces that are written, and the decoder that reads them."""
        config = recipe.model
        target = build_embedding(self.output.tokenizer.size, config)
        settings = settings_of(recipe.layer, config, bidirectional=False)
        settings = with_context(recipe.layer, settings, self.longest)
        decoder = build_decoder(
            recipe.layer,
            settings,
            target.width,
            config.hidden,
            config.attention,
            config.input_feeding,
        )
        check_writer(decoder, recipe.layer, self.longest)
        return target, decoder

    def decoder_inputs(self, batch: Batch) -> Tensor:
        """Return what the decoder reads before each target (R, T)."""
        assert batch.targets is not None
        return shifted(batch.targets, self.tokenizer.bos_id)

    # ------------------------------------------------------------------ what is written

    def validate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return the scores of what is written without a search, at a fraction of its time."""
        search = options.search.changed(
            beam=1, n_best=1, diverse_groups=1, sample=False
        )
        greedy = replace(options, search=search)
        return self.evaluate(model, examples, compute_device, greedy).scores

    @abstractmethod
    def sources_of(self, cells: Sequence[Any]) -> SourceBatches:
        """Return the source of one row that is to be answered."""

    def hypotheses(
        self,
        model: nn.Module,
        sources: SourceBatches,
        compute_device: ComputeDevice,
        options: AnswerOptions,
        seed: int | None = None,
    ) -> list[list[Hypothesis]]:
        """Return what a search writes for each source, best first."""
        return write(
            model,
            self.tokenizer,
            sources,
            options.search,
            compute_device,
            constraints=options.constraints,
            seed=seed,
        )

    def written(
        self,
        model: nn.Module,
        sources: SourceBatches,
        compute_device: ComputeDevice,
        options: AnswerOptions,
        seed: int | None = None,
    ) -> list[Prediction]:
        """Return the text of each source."""
        decode = self.tokenizer.decode
        return [
            best_of([(decode(answer.tokens), {}) for answer in answers], answers)
            for answers in self.hypotheses(
                model, sources, compute_device, options, seed
            )
        ]

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads a source, and its text as a search writes it."""
        names = piece_names(self.tokenizer)
        best = self.best_ids(compute_device, options)
        return WrittenSteps(self.inputs, names, best, self.decoder_inputs)

    def best_ids(self, compute_device: ComputeDevice, options: AnswerOptions) -> Write:
        """Return what writes a text for cells: the text, and its pieces with the end mark."""
        tokenizer = self.tokenizer

        def best(model: nn.Module, cells: Sequence[Any]) -> tuple[str, Sequence[int]]:
            sources = self.sources_of(cells)
            (answers,) = self.hypotheses(model, sources, compute_device, options)
            tokens = answers[0].tokens
            return tokenizer.decode(tokens), [*tokens, tokenizer.eos_id]

        return best

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": {"kind": self.inputs.kind, **self.inputs.to_json()},
            "output": self.output.to_json(),
            "longest": self.longest,
        }

    def save(self, folder: Path) -> None:
        """Write the vocabulary."""
        self.output.save(folder, TARGET)
