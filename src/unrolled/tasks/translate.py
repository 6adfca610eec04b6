"""Translation: a sentence in one language for a sentence in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unrolled.scores.translation import Comparison, compare, corpus_score
from unrolled.tasks.base import (
    DOWN,
    UP,
    AnswerOptions,
    Evaluation,
    GeneratedTexts,
    Scores,
)
from unrolled.tasks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Translate(Pairs):
    """Sentences, scored by BLEU and chrF as sacrebleu counts them."""

    name: ClassVar[str] = "translate"
    metric: ClassVar[str] = "bleu"
    measures: ClassVar[dict[str, bool]] = {
        "bleu": UP,
        "chrf": UP,
        "loss": DOWN,
        "perplexity": DOWN,
    }
    kind: ClassVar[str] = "bpe"
    grouped: ClassVar[bool] = False

    def measure(
        self,
        written: GeneratedTexts,
        options: AnswerOptions = AnswerOptions(),
        samples: int = 0,
    ) -> tuple[Scores, tuple[str, ...]]:
        """Return BLEU and chrF, and their signatures, after intervals where they were drawn."""
        scored = {
            name: corpus_score(
                written.answers,
                written.references,
                name,
                options.score_tokenizer,
                samples=samples,
            )
            for name in ("bleu", "chrf")
        }
        notes = tuple(map(str, scored.values()))
        return {name: score.value for name, score in scored.items()}, notes

    def compare(
        self, first: Evaluation, second: Evaluation, options: AnswerOptions
    ) -> dict[str, Comparison]:
        """Return whether two models differ by more than chance, from what they wrote.

        A sentence that one of them could not read is left out.
        """
        if first.written is None or second.written is None:
            return super().compare(first, second, options)
        ours = common(first.written, second.written)
        theirs = common(second.written, first.written)
        return {
            name: compare(
                ours.answers,
                theirs.answers,
                ours.references,
                name,
                options.score_tokenizer,
            )
            for name in ("bleu", "chrf")
        }


def common(some: GeneratedTexts, others: GeneratedTexts) -> GeneratedTexts:
    """Return the rows of ``some`` that ``others`` has too."""
    kept = np.flatnonzero(np.isin(some.lines, others.lines)).tolist()
    return GeneratedTexts(
        some.lines[kept],
        [some.sources[row] for row in kept],
        [some.references[row] for row in kept],
        [some.answers[row] for row in kept],
    )
