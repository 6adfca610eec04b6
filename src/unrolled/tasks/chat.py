"""Chat: a language model that answers, learnt from what assistants said in talks.

Only what the assistant says is learnt, and the token that ends it, so that a tuned model ends its
turns (Ouyang et al. 2022, the first of three steps).
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import IGNORED, BatchSource
from unrolled.data.chat_columns import CHOSEN
from unrolled.data.documents import PackedDocuments
from unrolled.data.schema import Schema
from unrolled.data.sources import Table
from unrolled.decoding.many import WrittenText, write_many
from unrolled.decoding.sampling import Sampling
from unrolled.fields.base import TOKENIZER, InvalidCell
from unrolled.fields.label import Label
from unrolled.fields.rows import numbered, valid_rows
from unrolled.fields.talks import Talk, check_turns, question
from unrolled.fields.text import Text
from unrolled.models import LanguageModel
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
    Shards,
    Split,
    Task,
    need_table,
)
from unrolled.tasks.chat_alignment import (
    AnswerDraws,
    Judge,
    PairBatches,
    refuse_several_processes,
)
from unrolled.tasks.chat_examples import ChatExamples, ChatPairs, Steps
from unrolled.tasks.chat_scores import SEED, AnswerScorer, spaced
from unrolled.tasks.chat_settings import ANSWER, DEFAULTS, LONGEST, chat_defaults
from unrolled.tasks.exchanges import VERIFIED
from unrolled.tasks.language import Language
from unrolled.tasks.recipe import Recipe
from unrolled.tasks.talk_columns import TalkColumns, answers_in
from unrolled.tasks.write_text import hashes
from unrolled.text.published import load_tokenizer
from unrolled.text.tokenizers import Tokenizer
from unrolled.text.turns import ASSISTANT, TURNS, ChatTokenizer, template_of
from unrolled.training.objectives import Objective, answers
from unrolled.training.policies import PolicyObjective, Prompts, prefers
from unrolled.training.precision import ComputeDevice, choose

VALIDATED = 256  # questions that are answered each time a model in training is scored


@dataclass(frozen=True, eq=False)
class Chat(Language):
    """Talks, and an answer to what the user says last.

    Attributes:
        vocabulary: cuts texts, and marks turns.
        text: the columns of talks, or of questions and what they are about.
        answer: the column of answers; None where talks hold them.
        longest: the most tokens of a talk.
        seen: hashes of the answers of training, in order.
        prompt_tokens: how many tokens of a text are a prompt, where texts are gone on from.
    """

    name: ClassVar[str] = "chat"
    reads_documents: ClassVar[bool] = False
    answers_rows: ClassVar[bool] = True
    is_generative: ClassVar[bool] = True
    first_column_suffices: ClassVar[bool] = True
    answers_talks: ClassVar[bool] = True
    untested_score: ClassVar[str | None] = None
    measures: ClassVar[dict[str, bool]] = {
        "loss": DOWN,
        "perplexity": DOWN,
        "exact": UP,
        "ended": UP,
        "distinct": UP,
        "distinct_2": UP,
        "copied": DOWN,
        "ranked_first": UP,
        "reward": UP,
        "kl": DOWN,
        "accuracy": UP,
        "margin": UP,
        "pass_1": UP,
    }

    vocabulary: ChatTokenizer
    answer: str | None
    longest: int
    seen: NDArray[np.uint64]
    prompt_tokens: int | None = None

    @property
    def tokenizer(self) -> ChatTokenizer:
        """What cuts texts into tokens, and marks turns."""
        return self.vocabulary

    @property
    def schema(self) -> Schema:
        """The columns the task was trained on."""
        return Schema(self.name, self.text, answer=self.answer)

    @classmethod
    def default_settings(cls, recipe: Recipe, schema: Schema) -> DefaultSettings:
        """Return the settings for keys that nobody set."""
        return chat_defaults(recipe)

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        schema: Schema,
        data: Data,
        labels: Data | None = None,
        pretrained: Task | None = None,
    ) -> Self:
        """Learn the vocabulary, unless a training begins with one."""
        table = need_table(data)
        read = TalkColumns.of_training(table, schema).talks(table)
        return cls(
            vocabulary=cls._vocabulary(recipe, read, pretrained),
            text=schema.text,
            layout=FileLayout.of(table),
            answer=schema.answer,
            longest=recipe.data.max_tokens or LONGEST,
            seen=np.unique(hashes([turn.text for turn in answers_in(read)])),
            prompt_tokens=recipe.align.prompt_tokens,
        )

    @staticmethod
    def _vocabulary(
        recipe: Recipe, talks: Sequence[Talk], pretrained: Task | None
    ) -> ChatTokenizer:
        """Return what cuts talks: of the run that a training begins with, or learnt from them."""
        template: str | None = recipe.data.template
        known = None if pretrained is None else pretrained.tokenizer
        if isinstance(known, ChatTokenizer):
            if template in (None, known.template.name):
                return known
            known = known.base
        if known is None:
            config = recipe.data
            turns = itertools.chain.from_iterable(talks)
            texts = [turn.text for turn in turns]
            kind = config.tokenizer or DEFAULTS.tokenizer
            known = Tokenizer.fit(kind, texts, config.vocabulary, config.min_count)
        program = getattr(known, "chat_template", "")
        if template is None and program:
            template = template_of(program)
        return ChatTokenizer(known, template or TURNS)

    # ------------------------------------------------------------------ rows to examples

    def encode(
        self, data: Data, on_error: str, schema: Schema | None = None
    ) -> tuple[ChatExamples | ChatPairs, list[DataError]]:
        """Encode the talks of a table; see the base class.

        A file of other columns than those of training is read by its own: talks, questions with
        answers, questions alone, or pairs of answers.
        """
        table = need_table(data)
        columns = TalkColumns.find(table, schema or self.schema, self.columns)
        if columns.is_paired:
            return self._encode_pairs(table, columns, on_error)
        answered = columns.is_answered(table)
        cuts = columns.text[-1].strip().lower() != "prompt"
        cut = self.prompt_tokens if cuts and not answered else None

        def check(cells: Sequence[Any]) -> tuple[Talk, Steps]:
            talk = check_turns(columns.talk(cells), answered)
            if cut is not None:
                talk = self._cut(talk, cut)
            return talk, self._encoded(talk)

        rows, errors = _checked(table, check, on_error)
        lines = np.array([line for line, _ in rows])
        talks, steps = zip(*(row for _, row in rows), strict=True)
        return ChatExamples.of(lines, talks, steps, answered), errors

    def _encode_pairs(
        self, table: Table, columns: TalkColumns, on_error: str
    ) -> tuple[ChatPairs, list[DataError]]:
        def check(cells: Sequence[Any]) -> tuple[tuple[Talk, Steps], ...]:
            talks = columns.pair(cells)
            return tuple((talk, self._encoded(talk, last=True)) for talk in talks)

        rows, errors = _checked(table, check, on_error)
        lines = np.array([line for line, _ in rows])
        sides: list[ChatExamples] = []
        for side in range(2):
            talks, steps = zip(*(row[side] for _, row in rows), strict=True)
            sides.append(ChatExamples.of(lines, talks, steps, answered=True))
        return ChatPairs(*sides), errors

    def _cut(self, talk: Talk, most: int) -> Talk:
        """Return a text cut to its first tokens, which are to be gone on from."""
        *before, last = talk
        ids = self.tokenizer.encode(last.text)[:most]
        # a character may have been cut in two
        text = self.tokenizer.decode(ids).rstrip("\ufffd")
        return (*before, replace(last, text=text))

    def _encoded(self, talk: Talk, last: bool = False) -> Steps:
        """Return what is read at each step of a talk, and what is to be written there.

        Args:
            talk: that ends with an answer, or that is to be answered.
            last: whether the last answer alone is to be written.

        Raises:
            InvalidCell: it has more tokens than are read, or no template for a turn.
        """
        try:
            if talk[-1].role != ASSISTANT:
                ids = self.tokenizer.opening(talk)
                targets: list[int] = []
            elif last:
                ids, targets = self.encoded_last(talk)
            else:
                encoded = self.tokenizer.encode_talk(talk)
                pairs = zip(encoded.ids, encoded.is_answer, strict=True)
                targets = [id if scored else IGNORED for id, scored in pairs][1:]
                ids = encoded.ids[:-1]
        except UserError as error:
            raise InvalidCell(str(error)) from None
        if len(ids) > self.longest:
            raise InvalidCell(
                f"the talk has {len(ids):,} tokens and data.max_tokens is {self.longest:,}: what "
                "ends its answer would be cut off"
            )
        return ids, targets

    # ------------------------------------------------------------------ model and training

    def build(self, recipe: Recipe) -> nn.Module:
        """Return a language model, which reads a whole talk."""
        training = recipe.training.changed(window=self.window(recipe))
        return super().build(recipe.changed(training=training))

    def window(self, recipe: Recipe) -> int:
        """Return how many tokens are read at once: a talk at least."""
        return max(recipe.training.window, self.longest)

    def objective(self, recipe: Recipe, model: nn.Module) -> Objective:
        """Return cross entropy of what the assistant says."""
        return answers(recipe.training.label_smoothing)

    def source(self, examples: Any, recipe: Recipe, model: nn.Module) -> BatchSource:
        """Return talks packed into windows, of which none sees another.

        Raises:
            UserError: there are no answers to learn from.
        """
        if isinstance(examples, ChatPairs):
            raise UsageError(
                "pairs of answers are learnt from with align.method=dpo, or judged with task=reward"
            )
        if not examples.answered:
            raise UserError(
                "these talks end with the user, and hold no answers to learn from; name the column "
                "of answers with data.label"
            )
        documents = examples.documents()
        longest = int(documents.lengths.max())
        settings = recipe.training
        window = max(longest, min(settings.window, documents.size))
        rows = max(1, min(settings.batch_size, documents.size // window))
        start = int(examples.sequences.flat[0])
        return PackedDocuments(documents, rows, window, recipe.seed, start)

    def operations_per_token(self, model: nn.Module, recipe: Recipe) -> float | None:
        """Return those of all weights; unknown where a model also writes and compares."""
        if recipe.align.method != "none":
            return None
        return super().operations_per_token(model, recipe)

    def aligned(
        self, examples: Any, recipe: Recipe, model: nn.Module, options: AnswerOptions
    ) -> tuple[Objective, BatchSource] | None:
        """Return what prefers answers, or learns from rewards; see the base class."""
        settings = recipe.align
        if settings.method == "none":
            return None
        assert options.reference is not None
        training = recipe.training
        device = choose(training.device, training.precision)
        paired = isinstance(examples, ChatPairs)
        if paired != settings.compares:
            kind = "pairs of answers, in the columns chosen and rejected"
            raise UsageError(
                f"align.method={settings.method} learns from "
                f"{kind if settings.compares else 'prompts, and these are ' + kind}"
            )
        if paired:
            reference = options.reference().to(device.device)
            pairs = PairBatches.of(
                examples, training.batch_size, recipe.seed, reference, device
            )
            return prefers(settings), pairs
        if options.reward is None:
            raise UsageError(
                f"align.method={settings.method} learns from rewards; say what an answer earns "
                "with align.reward=exact, numeric, a run, or FILE.py:FUNCTION"
            )
        if settings.reward in VERIFIED and not examples.answered:
            raise UsageError(
                f"align.reward={settings.reward} compares answers with those in the file, and "
                "there are none; name their column with data.label"
            )
        if settings.method != "ppo" and settings.samples < 2:
            raise UsageError(
                f"align.method={settings.method} compares answers to one prompt with each other: "
                "set align.samples to 2 or more"
            )
        refuse_several_processes(settings)
        most = options.search.max_length or ANSWER
        assert isinstance(model, LanguageModel)
        draws = AnswerDraws(
            examples,
            Judge(options.reward, settings, self.tokenizer),
            settings,
            most,
            lambda talk: self.fitting(talk, model.context, most),
            options.reference,
            device,
        )
        banned = self.tokenizer.unwritten_ids
        times = settings.passes * settings.parts
        source = Prompts(examples, training.batch_size, times, recipe.seed)
        return PolicyObjective(settings, draws, most, banned), source

    def check_keys(self, recipe: Recipe) -> None:
        """Raise UsageError for keys that mean nothing to talks."""
        if recipe.training.pretrain_epochs:
            raise UsageError("training.pretrain_epochs is for labels; leave it out")
        self.refuse_ngrams(recipe)
        self.refuse_documents(recipe)
        if recipe.decoding.beam > 1 or recipe.decoding.n_best > 1:
            raise UsageError(
                "an answer of a talk is written greedily, or drawn with decoding.sample=true; "
                "leave decoding.beam and decoding.n_best at 1"
            )

    def refuse_documents(self, recipe: Recipe) -> None:
        """Raise UsageError where talks are to be joined in another way."""
        Task.refuse_documents(self, recipe)

    def check_options(
        self, options: AnswerOptions, model: nn.Module | None = None
    ) -> None:
        """Raise UsageError for options that answers of talks cannot follow."""
        Task.check_options(self, options, model)

    # ------------------------------------------------------------------ scores

    def validate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Scores:
        """Return the scores that are measured while a model trains.

        Those are what the answers given cost; of pairs which answer is preferred; and of a model
        that learns from rewards what some answers of its own earn.
        """
        scorer = AnswerScorer(self, model, compute_device, options)
        if isinstance(examples, ChatPairs):
            return scorer.of_pairs(examples)
        if not options.align.draws:
            return scorer.of_given(examples)
        some = examples.pick(spaced(len(examples), VALIDATED))
        scores = scorer.of_drawn(some)
        if examples.answered:
            written = self.write(model, some.prompts, compute_device, options)
            scores |= scorer.of_written(some, written)
        return scores

    def evaluate(
        self,
        model: nn.Module,
        examples: Any,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> Evaluation:
        """Score the answers given, and those that the model writes; see :class:`AnswerScorer`."""
        scorer = AnswerScorer(self, model, compute_device, options)
        if isinstance(examples, ChatPairs):
            return Evaluation(scorer.of_pairs(examples))
        scores: Scores = {}
        ranked_count = 0
        if examples.answered:
            scores |= scorer.of_given(examples)
            ranked, ranked_count = scorer.ranked(examples)
            scores |= ranked
            scores |= scorer.of_attempts(examples)
        written = self.write(model, examples.prompts, compute_device, options)
        scores |= scorer.of_written(examples, written)
        # of answers that are drawn, where the model has learnt from those
        scores |= scorer.of_drawn(examples)
        generated = GeneratedTexts(
            examples.lines,
            [prompt[-1].text for prompt in examples.prompts],
            [[text] for text in examples.references],
            scorer.texts(examples.prompts, written),
        )
        length = sum(len(text.tokens) for text in written) / len(written)
        ranks = f"; ranked_first is of {ranked_count:,} questions"
        notes = (
            f"{len(written):,} answers were written, of {length:.1f} tokens"
            f"{ranks if 0 < ranked_count < len(examples) else ''}",
            *scorer.changes(examples.prompts, written),
        )
        return Evaluation(scores, written=generated, notes=notes)

    def encoded_last(self, talk: Talk) -> Steps:
        """Return the steps of a talk of which the last answer alone is to be written."""
        ids = self.tokenizer.opening(talk[:-1])
        answer = self.tokenizer.encode_answer(talk[-1].text)
        targets = [IGNORED] * (len(ids) - 1) + answer
        return [*ids, *answer[:-1]], targets

    def write(
        self,
        model: nn.Module,
        prompts: Sequence[Talk],
        compute_device: ComputeDevice,
        options: AnswerOptions,
        sampling: Sampling | None = None,
        seed: int = SEED,
    ) -> list[WrittenText]:
        """Write an answer to each talk: greedily, where neither options nor ``sampling`` differ."""
        assert isinstance(model, LanguageModel)
        search = options.search
        most = search.max_length or ANSWER
        own = search.sampling if search.sample else Sampling(temperature=0.0)
        return write_many(
            model,
            [self.fitting(prompt, model.context, most) for prompt in prompts],
            most,
            sampling or own,
            self.tokenizer.end_id,
            self.tokenizer.unwritten_ids,
            seed,
            compute_device.device,
        )

    def fitting(self, talk: Talk, context: int | None, most: int) -> list[int]:
        """Return the ids of a talk to be answered, without its oldest turns where it is too long.

        What the system says stays. Of a last turn that is too long by itself the end is read.
        """
        ids = self.tokenizer.opening(talk)
        if context is None:
            return ids
        # an answer may be cut short, before what it answers is
        room = max(1, context - min(most, context // 4))
        first = 1 if talk[0].role == "system" else 0
        while len(ids) > room and len(talk) - first > 2:
            talk = (*talk[:first], *talk[first + 2 :])
            ids = self.tokenizer.opening(talk)
        return ids if len(ids) <= room else [ids[0], *ids[-room + 1 :]]

    def describe_answers(self, values: Sequence[Any]) -> str:
        """Say how many answers there are, and how long."""
        return describing.texts(values)

    def describe_examples(self, examples: Any) -> list[str]:
        """Say how many of the scored answers training has, too."""
        if not examples.answered or isinstance(examples, ChatPairs):
            return []
        known = int(np.isin(hashes(examples.references), self.seen).sum())
        if not known:
            return []
        return [
            f"{known:,} of {len(examples):,} scored answers are answers of training, too"
        ]

    def baselines(self, split: Split) -> list[Method]:
        """Score the model that the training began with, where it began with one."""
        reference = split.options.reference
        examples = split.dev
        if reference is None or not isinstance(examples, ChatExamples):
            return []

        def before() -> Scores | None:
            if not examples.answered:
                return None
            device = choose("auto", "fp32")
            model = reference().to(device.device)
            scorer = AnswerScorer(self, model, device, split.options)
            scores = scorer.of_given(examples)
            if split.options.align.draws:
                written = self.write(model, examples.prompts, device, split.options)
                scores |= scorer.of_written(examples, written)
                scores |= scorer.of_attempts(examples)
            return scores

        return [("before the training", before)]

    # ------------------------------------------------------------------ predictions

    def check_rows(self) -> None:
        """Raise nothing: a question is answered."""

    def why_not_answerable(self, cells: Sequence[Any]) -> str:
        """Return why a row cannot be answered, empty where it can."""
        try:
            self._prompt(cells)
        except InvalidCell as error:
            return str(error)
        return ""

    def _prompt(self, cells: Sequence[Any]) -> Talk:
        count = len(self.text)
        if count > 1 and self.text[-1].strip().lower() == CHOSEN:
            # of pairs the better answer stands beside its question
            count -= 1
        talk = question(self.text[:count], cells[:count])
        if talk[-1].role == ASSISTANT:
            talk = talk[:-1]
        return check_turns(talk, answered=False)

    def predict(
        self,
        model: nn.Module,
        rows: Rows,
        compute_device: ComputeDevice,
        options: AnswerOptions = AnswerOptions(),
    ) -> list[Prediction]:
        """Answer the talk, or the question, of each row."""
        try:
            prompts = [self._prompt(row) for row in rows]
        except InvalidCell as error:
            raise UserError(str(error)) from None
        written = self.write(model, prompts, compute_device, options)
        predictions: list[Prediction] = []
        for prompt, text in zip(prompts, written, strict=True):
            answer = self.tokenizer.continued(
                self.tokenizer.opening(prompt), text.tokens
            )
            predictions.append(Prediction(answer, details={"ended": text.ended}))
        return predictions

    # ------------------------------------------------------------------ shards and the run folder

    @classmethod
    def reads_shards(cls, schema: Schema) -> bool:
        """Talks are read whole."""
        return False

    def shard_fields(self) -> tuple[Text, Label | None]:
        """Raise UsageError: talks are read whole."""
        return Task.shard_fields(self)

    def of_shards(self, shards: Shards) -> Any:
        """Raise UsageError: talks are read whole."""
        return Task.of_shards(self, shards)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "text": list(self.text),
            "answer": self.answer,
            "longest": self.longest,
            "prompt_tokens": self.prompt_tokens,
            "seen": base64.b64encode(self.seen.tobytes()).decode(),
        }

    @classmethod
    def from_json(
        cls, values: dict[str, Any], folder: Path, layout: FileLayout
    ) -> Self:
        """Read the fields back."""
        vocabulary = load_tokenizer(folder / TOKENIZER)
        if not isinstance(vocabulary, ChatTokenizer):
            raise ValueError("the tokenizer has no template")
        seen = np.frombuffer(base64.b64decode(values["seen"]), np.uint64)
        return cls(
            vocabulary=vocabulary,
            text=tuple(values["text"]),
            layout=layout,
            answer=values["answer"],
            longest=values["longest"],
            prompt_tokens=values["prompt_tokens"],
            seen=seen,
        )


def _checked(
    table: Table, check: Callable[[Sequence[Any]], Any], on_error: str
) -> tuple[list[tuple[int, Any]], list[DataError]]:
    """Return the rows that can be read, each with its line, and the errors of the others.

    Raises:
        DataError: there is none, or one is faulty and ``on_error`` is ``stop``.
    """
    errors = list(table.skipped)
    rows = list(valid_rows(numbered(table), table, check, on_error, errors))
    if not rows:
        raise DataError("no row is left to read", table.path)
    return rows, errors
