"""BLEU and chrF of translations, by sacrebleu. Scores are out of 100, as papers give them.

Legend: N answers, K counts that sacrebleu keeps of an answer (matched n-grams, lengths).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

TOKENIZERS = (
    "13a",
    "none",
    "char",
    "intl",
    "zh",
    "ja-mecab",
    "ko-mecab",
)  # none of them downloads
EXTRAS = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}
SEED = 12345  # sacrebleu's own, which its signatures show
Name = Literal["bleu", "chrf"]
Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """A score of a corpus.

    ``mean`` is that of the bootstrap's resamples and ``margin`` half of what 95 % of them span
    (Koehn 2004); both are None where none were drawn.
    """

    name: str
    value: float
    signature: str
    mean: float | None = None
    margin: float | None = None

    def __str__(self) -> str:
        around = (
            "" if self.margin is None else f" ({self.mean:.2f} ± {self.margin:.2f})"
        )
        return f"{self.name} {self.value:.2f}{around}  {self.signature}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems over the same sources.

    ``p`` is how often chance alone makes a difference as large as theirs.
    """

    first: Score
    second: Score
    p: float


def corpus_score(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    name: Name = "bleu",
    tokenizer: str = "13a",
    *,
    lowercase: bool = False,
    samples: int = 0,
) -> Score:
    """Score N answers, each against its right ones.

    Args:
        answers: what a system wrote, N texts.
        references: the right answers of each, N lists of one or more.
        name: bleu (Papineni et al. 2002), or chrf (Popović 2015; characters, whatever tokenizer).
        tokenizer: sacrebleu's; ``none`` for text that is tokenised already.
        lowercase: compare in lower case.
        samples: of the bootstrap; 0 draws none. sacrebleu takes 1,000.

    Raises:
        UsageError: an unknown tokenizer, or one that is not installed.
        ValueError: no answer, as many references as answers are not given, or an answer has none.
    """
    metric = _metric(name, tokenizer, lowercase)
    counts = _counts(metric, answers, references)
    value = _value(metric, counts.sum(0))
    if not samples:
        return _score(metric, value)
    drawn = [
        _value(metric, weights @ counts)
        for weights in _resamples(len(answers), samples)
    ]
    metric.n_bootstrap = samples
    metric.seed = str(SEED)
    return _score(metric, value, drawn)


def compare(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[Sequence[str]],
    name: Name = "bleu",
    tokenizer: str = "13a",
    *,
    lowercase: bool = False,
    samples: int = 1000,
) -> Comparison:
    """Tell whether two systems differ by more than chance: the paired bootstrap (Koehn 2004).

    Args:
        first, second: what they wrote to the same sources, N texts each.
        references: the right answers, as ``corpus_score`` takes them, and so the rest.

    Raises:
        UsageError, ValueError: as ``corpus_score``.
    """
    metric = _metric(name, tokenizer, lowercase)
    one, other = (_counts(metric, answers, references) for answers in (first, second))
    values = [_value(metric, each.sum(0)) for each in (one, other)]
    metric.n_bootstrap = samples
    metric.seed = str(SEED)
    drawn = np.array(
        [
            [_value(metric, weights @ each) for each in (one, other)]
            for weights in _resamples(len(first), samples)
        ]
    )
    gaps = np.abs(drawn[:, 1] - drawn[:, 0])
    gaps -= gaps.mean()
    scores = [
        _score(metric, value, list(d)) for value, d in zip(values, drawn.T, strict=True)
    ]
    larger = int((gaps > abs(values[0] - values[1])).sum())
    return Comparison(scores[0], scores[1], (larger + 1) / (samples + 1))


def _metric(name: Name, tokenizer: str, lowercase: bool) -> Metric:
    if tokenizer not in TOKENIZERS:
        raise UsageError(unknown("tokenizer of scores", tokenizer, TOKENIZERS))
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if name == "chrf":
        return CHRF(lowercase=lowercase)
    try:
        # force: text that looks tokenised is no mistake of the one who chose the tokenizer
        return BLEU(lowercase=lowercase, tokenize=tokenizer, force=True)
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"the tokenizer {tokenizer!r} is not installed ({str(error).strip()}); pip install "
            f"'{EXTRAS.get(tokenizer, 'sacrebleu')}'"
        ) from None


def _counts(
    metric: Metric, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> Counts:
    """Return what sacrebleu counts in each answer (N, K)."""
    if not answers or len(answers) != len(references) or not all(references):
        raise ValueError(
            f"expected answers and as many lists of right ones, got {len(answers)} answers and "
            f"{len(references)} lists, {sum(not right for right in references)} of them empty"
        )
    most = max(map(len, references))
    streams = [
        [right[i] if i < len(right) else None for right in references]
        for i in range(most)
    ]
    counted = metric._extract_corpus_statistics(answers, streams)  # type: ignore[arg-type]
    return np.array(counted, dtype=np.float64)


def _value(metric: Metric, counts: Counts) -> float:
    return float(metric._compute_score_from_stats(counts.tolist()).score)


def _resamples(count: int, samples: int) -> Iterator[Counts]:
    """Yield how often each answer is drawn (N,): what sacrebleu draws, without holding it all."""
    generator = np.random.default_rng(SEED)
    for _ in range(samples):
        yield np.bincount(generator.choice(count, count), minlength=count).astype(
            np.float64
        )


def _score(metric: Metric, value: float, drawn: Sequence[float] = ()) -> Score:
    signature = metric.get_signature()
    name = "BLEU" if type(metric).__name__ == "BLEU" else "chrF2"
    if not len(drawn):
        return Score(name, value, signature.format())
    spread = np.sort(drawn)
    cut = len(spread) // 40  # 2.5 % at each end
    margin = 0.5 * float(spread[-1 - cut] - spread[cut])
    return Score(name, value, signature.format(), float(spread.mean()), margin)
