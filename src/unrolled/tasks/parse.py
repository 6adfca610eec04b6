"""A tree for a sentence, bracket by bracket (Vinyals et al. 2015; Vaswani et al. 2017, sec. 6.3).

The model reads words and writes their tree: ``(NP`` opens a bracket, ``)`` closes one, and XX
writes the next word. What is decoded is a tree over the words of the sentence, always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import DataError, UsageError, UserError, shown
from unrolled.data.batches import PAD, Batch, BatchSource, Buckets, collate
from unrolled.data.examples import Examples, Ragged
from unrolled.data.schema import Schema
from unrolled.data.sources import Table
from unrolled.data.trees import (
    CLOSE,
    WORD,
    Tree,
    escape,
    linearise,
    parse,
    plain,
    spans_of,
)
from unrolled.decoding.brackets import Alphabet, TreeConstraint
from unrolled.decoding.search import Hypothesis, search
from unrolled.decoding.settings import Search
from unrolled.fields.base import InvalidCell
from unrolled.fields.label import Label
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.words import Words
from unrolled.models import Unaligned
from unrolled.nn import TokenEmbedding
from unrolled.scores.brackets import BracketCounts, Span, match
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    AxisNames,
    Data,
    DefaultSettings,
    Evaluation,
    FileLayout,
    GeneratedTexts,
    Prediction,
    Rows,
    Scores,
    Task,
    label_names,
    locate,
    need_table,
    score_batches,
)
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.step_readers import WrittenSteps
from unrolled.tasks.steps import END as END_NAME
from unrolled.tasks.steps import NOTHING, StepReader
from unrolled.tasks.steps import START as START_NAME
from unrolled.tasks.tag import axis_names_of_words, build_words, fit_words
from unrolled.tasks.unaligned import AROUND, assemble, target_loss
from unrolled.text.tokenizers import Tokenizer
from unrolled.training.objectives import Objective, seq2seq_loss, shifted
from unrolled.training.precision import ComputeDevice

# as in every vocabulary of pieces
START = 2
END = 3
# a word, a bracket that closes, the first that opens
XX = 4
SHUT = 5
OPENS = 6
SEARCHED = 8192  # words of the hypotheses of a batch


@dataclass(frozen=True, slots=True)
class Trees(Examples):
    """Encoded sentences with their trees."""

    trees: tuple[Tree, ...] = ()

    @property
    def answers(self) -> int:
        """One tree a sentence."""
        return len(self.lines)


DEFAULTS = DefaultSettings(
    values={
        "data": {"min_count": 2},
        "model": {"bidirectional": True},
        "training": {"learning_rate": 2e-3, "patience": 4},
    },
    budget=300_000,
    sizes_vocabulary=False,
)


@dataclass(frozen=True, eq=False)
class Parse(Task):
    """Words, read as wholes and by their spelling, and a tree over them.

    Attributes:
        inputs: the words.
        labels: those of brackets.
        run: the most brackets that open without a word between.
        growth: the most tokens of a tree for each of its words.
    """

    name: ClassVar[str] = "parse"
    is_generative: ClassVar[bool] = True
    metric: ClassVar[str] = "f1"
    measures: ClassVar[dict[str, bool]] = {
        "f1": UP,
        "precision": UP,
        "recall": UP,
        "complete": UP,
        "valid": UP,
        "loss": DOWN,
    }

    around: ClassVar[tuple[str, ...]] = (*AROUND, "spelling", "ngrams")
    learns_words: ClassVar[bool] = True
    inputs: Words
    labels: Label
    run: int
    growth: int
    layout: FileLayout

    @property
    def pattern(self) -> str:
        """A sequence for a sequence."""
        return "many to many, unaligned"

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
        """Learn words, their spelling, the labels, and how large trees grow."""
        table = need_table(data)
        answer = schema.answer
        assert answer is not None
        column = schema.text[0] if schema.text else "words"
        probe = Words(column, (), None, recipe.data.max_tokens)
        rows, _ = _read(table, answer, table.columns, recipe.data.on_error, probe)
        trees = [tree for _, tree in rows]
        inputs = fit_words(recipe, column, [list(tree.words) for tree in trees])
        if labels is not None:
            rows, _ = _read(need_table(labels), answer, table.columns, "skip", probe)
        names: list[str] = []
        for _, tree in rows:
            names += [span[0] for span in tree.spans]
        output = Label.fit(answer, names)
        run = 0
        growth = 1
        for tree in trees:
            tokens = linearise(tree)
            run = max(run, _run(tokens))
            growth = max(growth, -(-(len(tokens) - 2) // len(tree.words)))
        return cls(inputs, output, run, growth, FileLayout.of(table))

    def axis_names(self) -> dict[str, AxisNames]:
        """Return the words that are read, and the brackets and words that are written."""
        marks = tuple(f"\0mark {id}" for id in range(OPENS))
        brackets = (*marks, *label_names(self.labels.names).names)
        written = AxisNames(brackets)
        return {
            **axis_names_of_words(self.inputs, "source."),
            "target.weight": AxisNames((*brackets, *self.inputs.texts())),
            "head.weight": written,
            "head.bias": written,
        }

    @property
    def size(self) -> int:
        """Tokens that are written; the ids of words that are read follow them."""
        return OPENS + len(self.labels.names)

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, (self.inputs.column,), (), self.labels.column)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts words into pieces."""
        return self.inputs.tokenizer

    def check_options(
        self, options: AnswerOptions, model: nn.Module | None = None
    ) -> None:
        """Raise UsageError for settings of a search that say nothing of trees."""
        super().check_options(options, model)
        search = options.search
        default = Search()
        for key in ("n_best", "min_length", "max_length", "max_ratio", "max_extra"):
            if getattr(search, key) != getattr(default, key):
                raise UsageError(
                    f"decoding.{key}={getattr(search, key)}: parse writes one tree a sentence, as "
                    "long as trees of so many words grow; leave it out"
                )

    def limits(self, words: Sequence[int]) -> list[int]:
        """Return the most tokens of a tree over so many words, its end mark included."""
        return [self.growth * count + 3 for count in words]

    # ------------------------------------------------------------------ rows to examples

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[Trees, list[DataError]]:
        """Encode the rows of a table with their trees; see the base class."""
        table = need_table(data)
        schema = schema or self.schema
        assert schema.answer is not None
        rows, errors = _read(
            table, schema.answer, self.columns, on_error, self.inputs, self.labels
        )
        if not rows:
            nothing = DataError("no row is left to read", table.path)
            raise errors[0] if errors else nothing
        trees = tuple(tree for _, tree in rows)
        sequences, spellings = self.inputs.encode([list(tree.words) for tree in trees])
        examples = Trees(
            np.array([line for line, _ in rows]),
            sequences,
            targets=Ragged.of([self.ids(tree) for tree in trees]),
            spellings=spellings,
            trees=trees,
        )
        return examples, [*table.skipped, *errors]

    def ids(self, tree: Tree) -> list[int]:
        """Return the tokens of a tree, with the end mark."""
        known = {WORD: XX, CLOSE: SHUT} | {
            f"({name}": OPENS + index for index, name in enumerate(self.labels.names)
        }
        return [*(known[token] for token in linearise(tree)), END]

    def spans(self, ids: Sequence[int], words: int) -> tuple[Span, ...]:
        """Return the brackets of a written tree. Raises UserError where it is none over words."""
        names = {XX: WORD, SHUT: CLOSE}
        tokens = [names.get(i) or f"({self.labels.names[i - OPENS]}" for i in ids]
        if tokens.count(WORD) != words:
            raise UserError(f"the tree holds {tokens.count(WORD)} words of {words}")
        return tuple(spans_of(tokens))

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return an encoder of words, and a decoder that reads brackets and words."""
        config = recipe.model
        longest = self.inputs.max_words
        for key in ("share", "scale_embedding"):
            if getattr(config, key):
                raise UsageError(
                    f"model.{key}=true is for pairs of texts, not for parse"
                )
        # words are dropped where they are read as a source; brackets never are
        target = TokenEmbedding(
            self.size + self.inputs.size,
            config.embedding,
            dropout=config.embedding_dropout,
            std=config.embedding_std,
        )
        longest_tree = None if longest is None else self.limits([longest])[0]
        source = build_words(self.inputs, config)
        return assemble(recipe, source, target, self.size, longest, longest_tree)

    def following(self, batch: Batch) -> Tensor:
        """Return what the decoder reads once each word is written (S, M): the one after it.

        So it knows whose turn it is: whether a bracket opens or closes now hangs on that word.
        """
        return self.size + F.pad(batch.inputs[:, 1:], (0, 1), value=PAD)

    def decoder_inputs(self, batch: Batch) -> Tensor:
        """Return what the decoder reads before each target (B, T)."""
        assert batch.targets is not None
        before = shifted(batch.targets, START)
        is_word = before == XX
        indices = (is_word.cumsum(1) - 1).clamp(0, batch.inputs.shape[1] - 1)
        following = self.following(batch).gather(1, indices)
        return torch.where(is_word, following, before)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each token of the trees, given those before it."""
        smoothing = recipe.training.label_smoothing
        return seq2seq_loss(START, smoothing, self.decoder_inputs)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows of like length."""
        training = recipe.training
        return Buckets(
            examples, training.batch_size, training.batch_tokens, recipe.seed
        )

    # ------------------------------------------------------------------ answers and scores

    @torch.no_grad()
    def write(
        self,
        model: nn.Module,
        examples: Examples,
        compute_device: ComputeDevice,
        settings: Search,
    ) -> list[Hypothesis]:
        """Return the best tree that a search finds for each sentence."""
        unaligned = cast(Unaligned, model)
        device = compute_device.device
        best_of_row = dict[int, Hypothesis]()
        alphabet = Alphabet(XX, SHUT, END, OPENS, self.size)
        for rows in score_batches(examples.lengths, SEARCHED // settings.beam, 64):
            batch = collate(examples, rows).to(device)
            assert batch.lengths is not None
            limits = self.limits(batch.lengths.tolist())
            constraint = TreeConstraint.over(
                alphabet,
                self.following(batch),
                batch.lengths,
                torch.tensor(limits),
                self.run,
            )
            with compute_device.searching():
                state = unaligned.start(batch.inputs, batch.lengths, *batch.extra)
                hypotheses = search(
                    unaligned.stepper(),
                    state,
                    settings,
                    start=START,
                    end=END,
                    limits=limits,
                    constraint=constraint,
                    lengths=batch.lengths.tolist(),
                    device=device,
                )
            for row, best_first in zip(rows.tolist(), hypotheses, strict=True):
                best_of_row[row] = best_first[0]
        return [best_of_row[row] for row in range(len(examples))]

    def scores(
        self, written: Sequence[Hypothesis], trees: Sequence[Tree]
    ) -> dict[str, float]:
        """Return the scores of written trees; one that is no tree has no brackets."""
        total = BracketCounts()
        valid = 0
        for hypothesis, tree in zip(written, trees, strict=True):
            try:
                spans = self.spans(hypothesis.tokens, len(tree.words))
                valid += 1
            except UserError:
                spans = ()
            total += match(tree.spans, spans, tree.tags)
        return {
            "f1": total.f1,
            "precision": total.precision,
            "recall": total.recall,
            "complete": total.complete,
            "valid": valid / max(1, len(trees)),
        }

    def evaluate(
        self,
        model: nn.Module,
        examples: Trees,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Return the scores of labelled brackets, the share of trees, and the loss."""
        hypotheses = self.write(model, examples, compute_device, options.search)
        scores = self._with_loss(model, examples, compute_device, hypotheses)
        sentences = [list(tree.words) for tree in examples.trees]
        pairs = zip(sentences, hypotheses, strict=True)
        written = GeneratedTexts(
            examples.lines,
            [" ".join(words) for words in sentences],
            [[str(tree)] for tree in examples.trees],
            [self._prediction(words, hypothesis).text for words, hypothesis in pairs],
        )
        return Evaluation(scores, written=written)

    def validate(
        self,
        model: nn.Module,
        examples: Trees,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return the same scores of what is written without a search."""
        hypotheses = self.write(model, examples, compute_device, Search(beam=1))
        return self._with_loss(model, examples, compute_device, hypotheses)

    def _with_loss(
        self,
        model: nn.Module,
        examples: Trees,
        compute_device: ComputeDevice,
        hypotheses: Sequence[Hypothesis],
    ) -> Scores:
        loss = target_loss(model, examples, compute_device, self.decoder_inputs)
        return {**self.scores(hypotheses, examples.trees), "loss": loss}

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be parsed, empty where it can."""
        try:
            _words(self.inputs, cells)
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
        """Parse rows of words; more than ``data.max_tokens`` of them are an error."""
        try:
            sentences = [_words(self.inputs, row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        examples = self.inputs.examples(sentences, np.arange(len(rows)))
        hypotheses = self.write(model, examples, compute_device, options.search)
        pairs = zip(sentences, hypotheses, strict=True)
        return [self._prediction(words, hypothesis) for words, hypothesis in pairs]

    def _prediction(self, words: list[str], written: Hypothesis) -> Prediction:
        """Return a tree on one line; the model tells no tags."""
        spans = self.spans(written.tokens, len(words))
        tree = Tree(tuple(words), (WORD,) * len(words), spans)
        details = {
            "words": words,
            "brackets": spans,
            "log_probability": written.log_probability,
        }
        return Prediction(str(tree), math.exp(written.log_probability), details)

    def step_reader(
        self, compute_device: ComputeDevice, options: AnswerOptions = AnswerOptions()
    ) -> StepReader:
        """Return what reads words step by step, and their tree as a search writes it."""

        def best(model: nn.Module, cells: Sequence[Any]) -> tuple[str, Sequence[int]]:
            words = [self.inputs.check(cells)]
            examples = self.inputs.examples(words, np.array([0]))
            (tree,) = self.write(model, examples, compute_device, options.search)
            prediction = self._prediction(words[0], tree)
            return prediction.text, [*tree.tokens, END]

        def prepare(cells: Sequence[Any]) -> Sequence[Any]:
            reason = self.why_not_answerable(cells)
            if reason:
                raise UserError(reason)
            return [_words(self.inputs, cells)]

        return WrittenSteps(
            self.inputs,
            self._token_name,
            best,
            self.decoder_inputs,
            prepare,
        )

    def _token_name(self, id: int) -> str:
        """Return a token of a tree as people write it."""
        if id >= OPENS:
            return f"({self.labels.names[id - OPENS]}"
        # a model may think of marks that a search never writes
        known = {XX: WORD, SHUT: CLOSE, END: END_NAME, START: START_NAME}
        return known.get(id, NOTHING)

    # ------------------------------------------------------------------ the run folder

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "inputs": self.inputs.to_json(),
            "labels": self.labels.to_json(),
            "run": self.run,
            "growth": self.growth,
        }

    def save(self, folder: Path) -> None:
        """Write the words, and the vocabulary that they are spelt with."""
        self.inputs.save(folder)

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        inputs = Words.from_json(values["inputs"], folder)
        labels = Label.from_json(values["labels"])
        return cls(inputs, labels, values["run"], values["growth"], layout)


def _read(
    table: Table,
    column: str,
    columns: list[str],
    on_error: str,
    inputs: Words,
    labels: Label | None = None,
) -> tuple[list[tuple[int, Tree]], list[DataError]]:
    """Return the trees of a table with their lines, and the errors of the other rows.

    Raises:
        DataError: a row is invalid and ``on_error`` is ``stop``.
    """
    (index,) = locate(table, [column], columns)

    def check(row: Sequence[Any]) -> Tree:
        try:
            tree = plain(parse(str(row[index] or "")))
        except UserError as error:
            raise InvalidCell(str(error)) from None
        inputs.check([list(tree.words)])
        if labels is not None:
            for label in dict.fromkeys(span[0] for span in tree.spans):
                labels.check(label)
        return tree

    errors: list[DataError] = []
    rows = valid_rows(numbered(table), table, check, on_error, errors)
    return list(rows), errors


def _words(inputs: Words, row: Sequence[Any]) -> list[str]:
    """Return the words of a row as they stand in a tree. Raises InvalidCell for what is no word."""
    words = [escape(word) for word in inputs.check(row)]
    for word in words:
        if word.split() != [word] or "\x00" in word:
            raise InvalidCell(
                f"{shown(word)} is no word: words hold no blanks, and something else"
            )
    return words


def _run(tokens: Sequence[str]) -> int:
    """Return the most brackets that open without a word between."""
    longest = 0
    run = 0
    for token in tokens:
        if token.startswith("("):
            run += 1
        elif token == WORD:
            run = 0
        longest = max(longest, run)
    return longest
