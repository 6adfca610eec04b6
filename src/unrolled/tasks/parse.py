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
from unrolled.data.sources import Document, Table
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
from unrolled.fields.base import InvalidCell, invalid_row
from unrolled.fields.label import Label
from unrolled.fields.words import Words
from unrolled.models import Unaligned
from unrolled.nn import TokenEmbedding
from unrolled.scores.brackets import BracketCounts, Span, match
from unrolled.tasks.base import (
    DOWN,
    UP,
    Evaluation,
    GeneratedTexts,
    Prediction,
    Rows,
    Task,
    locate,
    score_batches,
)
from unrolled.tasks.labelled import need_table
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.tag import build_words, load_words, save_words
from unrolled.tasks.unaligned import assemble, told_loss
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


class Parse(Task):
    """Words, read as wholes and by their spelling, and a tree over them."""

    name: ClassVar[str] = "parse"
    pattern: ClassVar[str] = "many to many, unaligned"
    writes: ClassVar[bool] = True
    metric: ClassVar[str] = "f1"
    measures: ClassVar[dict[str, bool]] = {
        "f1": UP,
        "precision": UP,
        "recall": UP,
        "complete": UP,
        "valid": UP,
        "loss": DOWN,
    }

    search: Search = Search()

    def __init__(self, inputs: Words, labels: Label, run: int, growth: int) -> None:
        """Take the fields, and how large trees grow.

        Args:
            inputs: the words.
            labels: those of brackets.
            run: the most brackets that open without a word between.
            growth: the most tokens of a tree for each of its words.
        """
        self.inputs = inputs
        self.labels = labels
        self.run = run
        self.growth = growth

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Table | Document,
        labels: Table | Document | None = None,
    ) -> Self:
        """Learn words, their spelling, the labels, and how large trees grow."""
        table = need_table(data)
        told = recipe.data
        assert schema.answer is not None
        column = schema.text[0] if schema.text else "words"
        probe = Words(column, (), None, told.max_tokens)
        trees, _ = _read(table, schema.answer, table.columns, told.on_error, probe)
        kind = (told.tokenizer or "chars") if recipe.model.spelling else None
        inputs = Words.fit(
            column,
            [list(tree.words) for tree in trees.values()],
            told.vocabulary,
            told.min_count,
            kind,
            told.max_tokens,
        )
        named = trees
        if labels is not None:
            named, _ = _read(
                need_table(labels), schema.answer, table.columns, "skip", probe
            )
        output = Label.fit(
            schema.answer, [span[0] for tree in named.values() for span in tree.spans]
        )
        written = [(linearise(tree), len(tree.words)) for tree in trees.values()]
        run = max(_run(tokens) for tokens, _ in written)
        growth = max(-(-(len(tokens) - 2) // words) for tokens, words in written)
        return cls(inputs, output, run, max(1, growth))

    @property
    def size(self) -> int:
        """Tokens that are written; the ids of words that are read follow them."""
        return OPENS + len(self.labels.names)

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, (self.inputs.column,), (), self.labels.column)

    def answer_by(self, recipe: Recipe) -> None:
        """Take the search from a recipe. Raises UsageError for what says nothing of trees."""
        search = recipe.decoding
        default = Search()
        for key in ("n_best", "min_length", "max_length", "max_ratio", "max_extra"):
            if getattr(search, key) != getattr(default, key):
                raise UsageError(
                    f"decoding.{key}={getattr(search, key)}: parse writes one tree a sentence, as "
                    "long as trees of so many words grow; leave it out"
                )
        self.search = search

    def limits(self, words: Sequence[int]) -> list[int]:
        """Return the most tokens of a tree over so many words, its end mark included."""
        return [self.growth * count + 3 for count in words]

    # ------------------------------------------------------------------ rows to examples

    def encode(
        self, data: Table | Document, on_error: str, schema: Schema | None = None
    ) -> tuple[Trees, list[DataError]]:
        """Encode the rows of a table with their trees; see the base class."""
        table = need_table(data)
        schema = schema or self.schema
        assert schema.answer is not None
        trees, faults = _read(
            table, schema.answer, self.columns, on_error, self.inputs, self.labels
        )
        if not trees:
            raise (
                faults[0] if faults else DataError("no row is left to read", table.path)
            )
        sequences, spellings = self.inputs.encode(
            [list(tree.words) for tree in trees.values()]
        )
        targets = Ragged.of([self.ids(tree) for tree in trees.values()])
        lines = np.array(list(trees))
        found = tuple(trees.values())
        examples = Trees(
            lines, sequences, targets=targets, spellings=spellings, trees=found
        )
        return examples, [*table.skipped, *faults]

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
        writes = None if longest is None else self.limits([longest])[0]
        source = build_words(self.inputs, config)
        return assemble(recipe, source, target, self.size, longest, writes)

    def following(self, batch: Batch) -> Tensor:
        """Return what the decoder reads once each word is written (S, M): the one after it.

        So it knows whose turn it is: whether a bracket opens or closes now hangs on that word.
        """
        return self.size + F.pad(batch.inputs[:, 1:], (0, 1), value=PAD)

    def fed(self, batch: Batch) -> Tensor:
        """Return what the decoder reads before each target (B, T)."""
        assert batch.targets is not None
        before = shifted(batch.targets, START)
        word = before == XX
        place = (word.cumsum(1) - 1).clamp(0, batch.inputs.shape[1] - 1)
        return torch.where(word, self.following(batch).gather(1, place), before)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of each token of the trees, given those before it."""
        return seq2seq_loss(START, recipe.training.label_smoothing, self.fed)

    def source(
        self, examples: Examples, recipe: Recipe, model: nn.Module
    ) -> BatchSource:
        """Return batches of rows of like length."""
        told = recipe.training
        return Buckets(examples, told.batch_size, told.batch_tokens, recipe.seed)

    # ------------------------------------------------------------------ answers and scores

    @torch.no_grad()
    def write(
        self,
        model: nn.Module,
        examples: Examples,
        place: ComputeDevice,
        settings: Search,
    ) -> list[Hypothesis]:
        """Return the best tree that a search finds for each sentence."""
        writer = cast(Unaligned, model)
        found = dict[int, Hypothesis]()
        alphabet = Alphabet(XX, SHUT, END, OPENS, self.size)
        for rows in score_batches(examples.lengths, SEARCHED // settings.beam, 64):
            batch = collate(examples, rows).to(place.device)
            assert batch.lengths is not None
            limits = self.limits(batch.lengths.tolist())
            constraint = TreeConstraint.over(
                alphabet,
                self.following(batch),
                batch.lengths,
                torch.tensor(limits),
                self.run,
            )
            with place.searching():
                state = writer.start(batch.inputs, batch.lengths, *batch.extra)
                hypotheses = search(
                    writer.stepper(),
                    state,
                    settings,
                    start=START,
                    end=END,
                    limits=limits,
                    constraint=constraint,
                    lengths=batch.lengths.tolist(),
                    device=place.device,
                )
            found |= {
                row: best[0]
                for row, best in zip(rows.tolist(), hypotheses, strict=True)
            }
        return [found[row] for row in range(len(examples))]

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
        self, model: nn.Module, examples: Trees, place: ComputeDevice
    ) -> Evaluation:
        """Return the scores of labelled brackets, the share of trees, and the loss."""
        found = self.write(model, examples, place, self.search)
        scores = self.scores(found, examples.trees) | {
            "loss": told_loss(model, examples, place, self.fed)
        }
        words = [list(tree.words) for tree in examples.trees]
        written = GeneratedTexts(
            examples.lines,
            [" ".join(each) for each in words],
            [[str(tree)] for tree in examples.trees],
            [self._answer(*pair).text for pair in zip(words, found, strict=True)],
        )
        return Evaluation(scores, written=written)

    def watch(
        self, model: nn.Module, examples: Trees, place: ComputeDevice
    ) -> dict[str, float]:
        """Return the same scores of what is written without a search."""
        found = self.write(model, examples, place, Search(beam=1))
        return self.scores(found, examples.trees) | {
            "loss": told_loss(model, examples, place, self.fed)
        }

    def fault(self, cells: Sequence[Any]) -> str:
        """Return what is wrong with a row that is to be parsed, empty where nothing is."""
        try:
            _words(self.inputs, cells)
        except InvalidCell as error:
            return str(error)
        return ""

    def predict(
        self, model: nn.Module, rows: Rows, place: ComputeDevice
    ) -> list[Prediction]:
        """Parse rows of words; more than ``data.max_tokens`` of them are an error."""
        try:
            words = [_words(self.inputs, row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        sequences, spellings = self.inputs.encode(words)
        examples = Examples(np.arange(len(rows)), sequences, spellings=spellings)
        found = self.write(model, examples, place, self.search)
        return [self._answer(*pair) for pair in zip(words, found, strict=True)]

    def _answer(self, words: list[str], written: Hypothesis) -> Prediction:
        """Return a tree on one line; the model tells no tags."""
        spans = self.spans(written.tokens, len(words))
        tree = Tree(tuple(words), (WORD,) * len(words), spans)
        details = {
            "words": words,
            "brackets": spans,
            "log_probability": written.log_probability,
        }
        return Prediction(str(tree), math.exp(written.log_probability), details)

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
        save_words(self.inputs, folder)

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> Self:
        """Read the fields back."""
        inputs = load_words(values["inputs"], folder)
        output = Label(values["labels"]["column"], tuple(values["labels"]["names"]))
        return cls(inputs, output, values["run"], values["growth"])


def _read(
    table: Table,
    column: str,
    columns: list[str],
    on_error: str,
    inputs: Words,
    labels: Label | None = None,
) -> tuple[dict[int, Tree], list[DataError]]:
    """Return the trees of a table by their lines, and what is wrong with the others.

    Raises:
        DataError: a row is faulty and ``on_error`` is ``stop``.
    """
    (place,) = locate(table, [column], columns)
    trees = dict[int, Tree]()
    faults = list[DataError]()
    for row, line in zip(table.rows, table.lines, strict=True):
        try:
            tree = plain(parse(str(row[place] or "")))
            inputs.check([list(tree.words)])
            if labels is not None:
                for label in dict.fromkeys(span[0] for span in tree.spans):
                    labels.check(label)
        except (InvalidCell, UserError) as error:
            fault = invalid_row(InvalidCell(str(error)), *table.position(line))
            if on_error != "skip":
                raise fault from None
            faults.append(fault)
        else:
            trees[line] = tree
    return trees, faults


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
    longest = run = 0
    for token in tokens:
        run = run + 1 if token.startswith("(") else 0 if token == WORD else run
        longest = max(longest, run)
    return longest
