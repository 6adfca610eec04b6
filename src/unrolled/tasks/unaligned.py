"""What the tasks of the unaligned pattern share: the model from a recipe, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.data.batches import IGNORED, Batch, collate
from unrolled.data.examples import Examples
from unrolled.data.schema import Schema
from unrolled.models import EncoderDecoder, Unaligned
from unrolled.nn import (
    Layer,
    SpelledWords,
    TokenEmbedding,
    build_decoder,
    build_layer,
    with_context,
)
from unrolled.nn.build import LayerConfig, refuse_unused, settings_of
from unrolled.nn.softmax import head_cross_entropy
from unrolled.tasks.base import AxisNames, check_reach, score_batches
from unrolled.tasks.recipe import ModelConfig, Recipe
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.precision import ComputeDevice

# keys of the model around the layer that reads
AROUND = (
    "tie",
    "share",
    "scale_embedding",
    "head_bias",
    "decoder",
    "decoder_layers",
    "attention",
    "input_feeding",
)
SCORED = 4096  # padded steps that are read at once while the loss is measured


def columns_of_pair(schema: Schema) -> tuple[str, str]:
    """Return the columns of source and target."""
    if len(schema.text) != 1 or schema.answer is None:
        raise UsageError(
            f"task={schema.task} reads one column (data.text) and answers with another"
        )
    return schema.text[0], schema.answer


def axis_names_of_tokens(read: Tokenizer, written: Tokenizer) -> dict[str, AxisNames]:
    """Return the tokens of both embeddings of a model, and of its output weights."""
    names = ("target.weight", "head.weight", "head.bias")
    outputs = AxisNames(tuple(written.texts()))
    inputs = AxisNames(tuple(read.texts()))
    return {"source.weight": inputs, **dict.fromkeys(names, outputs)}


def assemble(
    recipe: Recipe,
    source: TokenEmbedding | SpelledWords,
    target: TokenEmbedding,
    outputs: int,
    longest_source: int | None,
    longest_answer: int | None,
) -> Unaligned:
    """Return encoder and decoder between two embeddings.

    Args:
        recipe: its layer reads, and ``model.decoder`` writes.
        source, target: what turns tokens into vectors on either side.
        outputs: tokens that are written.
        longest_source, longest_answer: the most tokens of either side, which a layer of limited
            reach is built for.

    Raises:
        UsageError: settings that do not go together.
    """
    config = recipe.model
    writer = config.decoder or recipe.layer
    refuse_unused(config, *dict.fromkeys((recipe.layer, writer)))
    encoder_config, decoder_config = _configs(recipe.layer, writer, config)
    if longest_source is not None and longest_answer is not None:
        encoder_config = with_context(recipe.layer, encoder_config, longest_source)
        decoder_config = with_context(writer, decoder_config, longest_answer)
    encoder = build_layer(recipe.layer, encoder_config, source.width)
    check_reach(encoder, recipe)
    decoder = build_decoder(
        writer,
        decoder_config,
        target.width,
        encoder,
        config.attention,
        config.input_feeding,
    )
    check_writer(decoder, writer, longest_answer)
    try:
        model = Unaligned(
            source,
            encoder,
            target,
            decoder,
            outputs,
            config.head_dropout,
            config.tie,
            config.head_bias,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if recipe.decoding.coverage_penalty and not model.attends:
        raise UsageError(
            "decoding.coverage_penalty needs a model that attends to its source: set it to 0, or "
            "model.attention"
        )
    return model


def _configs(
    reader: str, writer: str, config: ModelConfig
) -> tuple[LayerConfig, LayerConfig]:
    """Return the settings of encoder and decoder, without what another layer alone reads."""
    layers = config.decoder_layers or config.layers
    decoder = settings_of(writer, config, bidirectional=False, layers=layers)
    if writer == reader:
        return config, decoder
    return settings_of(reader, config), decoder


def check_writer(decoder: Layer, name: str, longest: int | None) -> None:
    """Raise UsageError where an answer can be longer than the decoder can read back."""
    context = decoder.context
    if context is not None and (longest is None or longest > context):
        length = "any number" if longest is None else longest
        raise UsageError(
            f"layer={name} writes {context} tokens (model.context) and an answer may "
            f"have {length}: raise model.context, or set data.max_tokens lower"
        )


def target_loss(
    model: nn.Module,
    examples: Examples,
    compute_device: ComputeDevice,
    decoder_inputs: Callable[[Batch], Tensor],
) -> float:
    """Return the mean cross entropy of target tokens in nats, each given those before it.

    Args:
        model: an ``Unaligned`` model in evaluation mode.
        examples: with targets.
        compute_device: where the model computes.
        decoder_inputs: gives what the decoder reads for the targets of a batch (B, T).
    """
    chosen = score_batches(examples.reach, SCORED)
    batches = (collate(examples, rows) for rows in chosen)
    return loss_of_batches(model, batches, compute_device, decoder_inputs)


@torch.no_grad()
def loss_of_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    compute_device: ComputeDevice,
    decoder_inputs: Callable[[Batch], Tensor],
) -> float:
    """Return what ``target_loss`` does of an ``EncoderDecoder``, over batches that are given."""
    decoding = cast(EncoderDecoder, model)
    total = 0.0
    count = 0
    for processor_batch in batches:
        batch = processor_batch.to(compute_device.device)
        assert batch.targets is not None
        assert batch.lengths is not None
        inputs = decoder_inputs(batch)
        with compute_device.autocast():
            read = decoding.read(batch.inputs, batch.lengths, inputs, *batch.extra)
            real = batch.targets != IGNORED
            targets = batch.targets[real]
            total += float(head_cross_entropy(decoding.head, read[real], targets))
        count += int(real.sum())
    return total / max(1, count)
