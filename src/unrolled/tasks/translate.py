"""Translation: a sentence in one language for a sentence in another."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from unrolled.scores.translation import Comparison, compare, corpus_score
from unrolled.tasks.base import DOWN, UP, GeneratedTexts
from unrolled.tasks.pairs import Pairs
from unrolled.tasks.recipe import Recipe


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
    score_tokenizer: str = "13a"

    def answer_by(self, recipe: Recipe) -> None:
        """Take how answers are looked for and how they are cut into words to be scored."""
        super().answer_by(recipe)
        self.score_tokenizer = recipe.data.score_tokenizer

    def measure(
        self, written: GeneratedTexts, samples: int = 0
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return BLEU and chrF, and their signatures, after intervals where they were drawn."""
        scored = {
            name: corpus_score(
                written.answers,
                written.references,
                name,
                self.score_tokenizer,
                samples=samples,
            )
            for name in ("bleu", "chrf")
        }
        notes = tuple(map(str, scored.values()))
        return {name: score.value for name, score in scored.items()}, notes

    def compare(
        self, first: GeneratedTexts, second: GeneratedTexts
    ) -> dict[str, Comparison]:
        """Tell whether two models differ by more than chance, from what they wrote.

        A sentence that one of them could not read is left out.
        """
        ours = common(first, second)
        theirs = common(second, first)
        return {
            name: compare(
                ours.answers,
                theirs.answers,
                ours.references,
                name,
                self.score_tokenizer,
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
