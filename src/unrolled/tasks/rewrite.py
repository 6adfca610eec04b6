"""Rewriting: a word for a word, such as its sounds, its spelling in another script, its past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unrolled.scores.edits import Symbols, symbol_error_rate, word_error_rate
from unrolled.tasks.base import DOWN, AnswerOptions, GeneratedTexts, Scores
from unrolled.tasks.pairs import Pairs

SYMBOL = 3  # characters of a symbol: of words that are longer the characters are what is written


@dataclass(frozen=True, eq=False)
class Rewrite(Pairs):
    """Words, scored by the share that is wrong. A word may have several right answers.

    Targets that are symbols with blanks between, such as phonemes, are cut at the blanks; the
    rate of wrong characters is then that of wrong symbols.
    """

    name: ClassVar[str] = "rewrite"
    metric: ClassVar[str] = "wer"
    measures: ClassVar[dict[str, bool]] = {
        "wer": DOWN,
        "cer": DOWN,
        "loss": DOWN,
        "perplexity": DOWN,
    }
    kind: ClassVar[str] = "chars"
    grouped: ClassVar[bool] = True

    @classmethod
    def target_kind(cls, kind: str, texts: Sequence[str]) -> str:
        """Return ``whitespace`` for targets that are symbols with blanks between them."""
        counts = [len(text.split()) for text in texts]
        symbols = sum(counts)
        length = sum(len("".join(text.split())) for text in texts)
        spelt = symbols >= 2 * len(texts) and length <= SYMBOL * symbols
        return "whitespace" if spelt else kind

    def measure(
        self,
        written: GeneratedTexts,
        options: AnswerOptions = AnswerOptions(),
        samples: int = 0,
    ) -> tuple[Scores, tuple[str, ...]]:
        """Return the share of wrong answers, and of wrong characters or symbols in them."""
        symbols = self.output.tokenizer.kind == "whitespace"

        def cut(text: str) -> Symbols:
            return text.split() if symbols else text

        answers = [cut(text) for text in written.answers]
        references = [[cut(text) for text in right] for right in written.references]
        what = "symbols" if symbols else "characters"
        several = sum(len(set(right)) > 1 for right in written.references)
        notes = (
            f"wer: share of {len(answers):,} answers that equal no right one; cer: wrong {what}, "
            "from the nearest right answer",
            f"{several:,} of them have several right answers",
        )
        scores = {
            "wer": word_error_rate(answers, references),
            "cer": symbol_error_rate(answers, references),
        }
        return scores, notes
