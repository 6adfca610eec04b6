"""The patterns as ONNX graphs: what each reads and gives, by name.

Shapes: B batch, T time, U words that differ, C pieces or characters, H hidden, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn

from unrolled.core.errors import UserError
from unrolled.export.onnx.graph import Graph, Size, Value
from unrolled.export.onnx.parts import (
    embed,
    pool,
    read_layer,
    refuse_buckets,
    spell,
    sum_ngrams,
)
from unrolled.export.plain import refuse_changed
from unrolled.models import Aligned, LanguageModel, ManyToOne, OneToOne
from unrolled.nn import Attention, Layer, NGrams, SpelledWords, TokenEmbedding
from unrolled.nn.image_encoder import PooledImages
from unrolled.nn.recurrent import Recurrent

PATTERNS = (LanguageModel, ManyToOne, Aligned, OneToOne)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output.

    Attributes:
        name: by which it is given.
        dtype: int64 or float32.
        shape: sizes; those that vary are names.
        meaning: in words.
        least, below: between what ids and lengths lie; a name is that size of the call, itself
            included. 0: any number.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[Size, ...]
    meaning: str
    least: int = 0
    below: Size = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "type": np.dtype(self.dtype).name,
            "shape": list(self.shape),
            "meaning": self.meaning,
        }


@dataclass(frozen=True, slots=True)
class Translation:
    """A model as a graph, with its inputs in the order in which ours takes them."""

    graph: Graph
    inputs: list[Port]
    outputs: list[Port]


def refuse(model: nn.Module) -> None:
    """Raise UserError for a model that has no counterpart here."""
    if not isinstance(model, PATTERNS):
        raise UserError(
            "onnx has models that answer rows and language models; export one that writes an "
            "answer to a text with ctranslate2"
        )
    refuse_changed(model, "onnx")
    for module in model.modules():
        if isinstance(module, NGrams):
            refuse_buckets(module)
        if isinstance(module, Attention) and module.memory_size is not None:
            raise UserError(
                "onnx has no decoder that looks at a source; use ctranslate2"
            )


def translate(model: nn.Module) -> Translation:
    """Return a model, which was not refused, as a graph."""
    builder = _Builder()
    if isinstance(model, LanguageModel):
        builder.language_model(model)
    elif isinstance(model, ManyToOne):
        builder.many_to_one(model)
    elif isinstance(model, Aligned):
        builder.aligned(model)
    else:
        builder.one_to_one(cast(OneToOne, model))
    return Translation(builder.graph, builder.inputs, builder.outputs)


class _Builder:
    """Adds a model's inputs, parts and outputs to a graph."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []

    def _input(
        self,
        name: str,
        dtype: type[np.generic],
        shape: tuple[Size, ...],
        meaning: str,
        least: int = 0,
        below: Size = 0,
    ) -> Value:
        self.inputs.append(Port(name, dtype, shape, meaning, least, below))
        return self.graph.add_input(name, dtype, shape)

    def _output(
        self, name: str, value: Value, shape: tuple[Size, ...], meaning: str
    ) -> None:
        self.outputs.append(Port(name, np.float32, shape, meaning))
        self.graph.add_output(name, value, shape)

    def _tokens(
        self,
        embedding: TokenEmbedding,
        meaning: str,
    ) -> Value:
        shape = ("batch", "time")
        return self._input("tokens", np.int64, shape, meaning, 0, embedding.size)

    def _lengths(
        self,
        of: str,
        name: str,
        counted: str,
        rows: str = "batch",
    ) -> Value:
        meaning = f"how many {counted} of each row are real; padding stands behind them"
        return self._input(name, np.int64, (rows,), meaning, 1, of)

    def language_model(self, model: LanguageModel) -> None:
        """Add tokens, lengths and a state, scores of the next token and the state after."""
        graph = self.graph
        tokens = self._tokens(model.embedding, "ids of tokens")
        lengths = self._lengths("time", "lengths", "tokens")
        states = self._states(model.layer)
        x = embed(graph, model.embedding, tokens)
        steps, after = read_layer(graph, model.layer, x, lengths, states or None)
        scores = steps.linear(model.head)
        shape = ("batch", "time", model.head.out_features)
        self._output("logits", scores, shape, "scores of the token after each")
        if states:
            for index, value in enumerate(after):
                port = self.inputs[2 + index]
                name = port.name.replace("state", "next")
                self._output(name, value, port.shape, f"{port.name} of the next call")

    def _states(self, layer: Layer) -> tuple[Value, ...]:
        """Add the state of a recurrent layer as inputs; another layer has none here."""
        if not isinstance(layer, Recurrent):
            return ()
        count = layer.num_layers * layer.directions
        values: list[Value] = []
        for name, size in zip(
            ("state_h", "state_c"), layer.state_sizes(), strict=False
        ):
            shape = (count, "batch", size)
            meaning = "what was read before; zeros before a text"
            values.append(self._input(name, np.float32, shape, meaning))
        return tuple(values)

    def _steps(
        self, embedding: TokenEmbedding | nn.Identity, layer: Layer
    ) -> tuple[Value, Value]:
        """Add the inputs of a reader of sequences: vectors of steps, and lengths."""
        if isinstance(embedding, TokenEmbedding):
            tokens = self._tokens(embedding, "ids of tokens")
            lengths = self._lengths("time", "lengths", "tokens")
            return embed(self.graph, embedding, tokens), lengths
        shape = ("batch", "time", layer.input_size)
        meaning = "numbers at each step, scaled"
        steps = self._input("steps", np.float32, shape, meaning)
        return steps, self._lengths("time", "lengths", "steps")

    def many_to_one(self, model: ManyToOne) -> None:
        """Add a reader of sequences, other columns and n-grams, and outputs for each row."""
        graph = self.graph
        x, lengths = self._steps(model.embedding, model.layer)
        steps, _ = read_layer(graph, model.layer, x, lengths)
        pooled = pool(graph, model.pooling, steps, lengths)
        if model.columns is not None:
            width = model.columns.input_size
            meaning = "what other columns say, as numbers"
            features = self._input("features", np.float32, ("batch", width), meaning)
            said = self._of_vectors(model.columns, features)
            pooled = graph.joined([pooled, said, features])
        outputs = pooled.linear(model.head)
        if model.ngrams is not None:
            # 0x110000 code points there are
            points = ("code_points", np.int64, ("batch", "characters"))
            code_points = self._input(*points, "code points of the text", 1, 0x110000)
            counts = self._lengths("characters", "code_point_counts", "code points")
            added = sum_ngrams(graph, model.ngrams, code_points, counts)
            outputs = outputs + added
        self._answers(outputs, ("batch", model.head.out_features))

    def _of_vectors(
        self,
        layer: Layer,
        vectors: Value,
    ) -> Value:
        """Return what a layer says (B, H) of one step (B, D)."""
        steps = vectors.wider(1)
        ones = self.graph.zeros(vectors.size(0)).cast(np.int64) + 1
        said, _ = read_layer(self.graph, layer, steps, ones)
        return said.narrower(1)

    def _answers(
        self,
        outputs: Value,
        shape: tuple[Size, ...],
    ) -> None:
        is_value = shape[-1] == 1
        name = "values" if is_value else "logits"
        meaning = "scaled values" if is_value else "scores of the labels"
        self._output(name, outputs, shape, meaning)

    def aligned(self, model: Aligned) -> None:
        """Add a reader of sequences, and outputs at each step."""
        graph = self.graph
        embedding = model.embedding
        if isinstance(embedding, SpelledWords):
            x, lengths = self._words(embedding, model.features)
        elif isinstance(embedding, PooledImages):
            raise UserError(
                "onnx has no models that read images or frames yet; the layer above them can be "
                "streamed by run.model.layer.stream()"
            )
        else:
            x, lengths = self._steps(embedding, model.layer)
            if model.features:
                x = graph.joined([x, self._beside(model.features)])
        steps, _ = read_layer(graph, model.layer, x, lengths)
        shape = ("batch", "time", model.head.out_features)
        self._answers(steps.linear(model.head), shape)

    def _beside(self, features: int) -> Value:
        shape = ("batch", "time", features)
        meaning = "what other columns say of each word, as numbers"
        return self._input("features", np.float32, shape, meaning)

    def _words(
        self,
        words: SpelledWords,
        features: int,
    ) -> tuple[Value, Value]:
        """Add the inputs of words that are spelt; return their vectors, and lengths."""
        tokens = self._tokens(words.words, "ids of words")
        lengths = self._lengths("time", "lengths", "words")
        beside = self._beside(features) if features else None
        spelling = ("words", "pieces")
        meaning = "ids of the pieces of each word that differs"
        pieces = self._input(
            "pieces", np.int64, spelling, meaning, 0, words.pieces.size
        )
        counts = self._lengths("pieces", "piece_counts", "pieces", "words")
        meaning = "which of the words that differ each word is"
        shape = ("batch", "time")
        indices = self._input("word_indices", np.int64, shape, meaning, 0, "words")
        x = spell(self.graph, words, tokens, pieces, counts, indices)
        return x if beside is None else self.graph.joined([x, beside]), lengths

    def one_to_one(self, model: OneToOne) -> None:
        """Add a vector and its outputs."""
        shape = ("batch", model.layer.input_size)
        meaning = "what the columns say, as numbers, scaled"
        vectors = self._input("vectors", np.float32, shape, meaning)
        said = self._of_vectors(model.layer, vectors)
        outputs = said.linear(model.head)
        self._answers(outputs, ("batch", model.head.out_features))
