"""BLEU and chrF of translations, by sacrebleu. Scores are out of 100, as papers give them.

Legend: N answers, R references of an answer at most.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unrolled.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

# none of them downloads
TOKENIZERS = ("13a", "none", "char", "intl", "zh", "ja-mecab", "ko-mecab")
EXTRAS = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}
# answers of all resamples together: sacrebleu draws them at once, and holds up to 80 bytes of each
DRAWN = 4_000_000
FEWEST = 100  # resamples that are drawn: 2.5 % of them are two
Name = Literal["bleu", "chrf"]
Streams = list[Any]  # R lists of N texts, None where an answer has fewer references


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
        interval = ""
        if self.margin is not None:
            interval = f" ({self.mean:.2f} ± {self.margin:.2f})"
        return f"{self.name} {self.value:.2f}{interval}  {self.signature}"


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
        samples: of the bootstrap; 0 draws none. sacrebleu takes 1,000. Fewer are drawn of more than
            ``DRAWN`` / ``samples`` answers, as the signature then says, and none of more than
            ``DRAWN`` / ``FEWEST``.

    Raises:
        UsageError: an unknown tokenizer, or one that is not installed.
        ValueError: no answer, as many references as answers are not given, or an answer has none.
    """
    metric = _metric(name, tokenizer, lowercase)
    _check(answers, references)
    streams = _streams(references)
    if samples and len(answers) * FEWEST <= DRAWN:
        ((score, _),) = _bootstrap(metric, [answers], streams, samples)
        return score
    scored = metric.corpus_score(answers, streams)
    signature = metric.get_signature().format()
    return Score(scored.name, float(scored.score), signature)


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

    Of more than ``DRAWN`` / ``samples`` answers fewer resamples are drawn, ``FEWEST`` at least,
    whose memory then grows with the answers.

    Args:
        first, second: what they wrote to the same sources, N texts each.
        references: the right answers, as ``corpus_score`` takes them, and so the rest.

    Raises:
        UsageError, ValueError: as ``corpus_score``.
    """
    metric = _metric(name, tokenizer, lowercase)
    _check(first, references)
    _check(second, references)
    streams = _streams(references)
    scores = _bootstrap(metric, [first, second], streams, samples)
    (first_score, _), (second_score, p) = scores
    assert p is not None
    return Comparison(first_score, second_score, float(p))


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


def _check(answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not answers or len(answers) != len(references) or not all(references):
        raise ValueError(
            f"expected answers and as many lists of right ones, got {len(answers)} answers and "
            f"{len(references)} lists, {sum(not right for right in references)} of them empty"
        )


def _streams(references: Sequence[Sequence[str]]) -> Streams:
    most = max(map(len, references))
    return [
        [right[i] if i < len(right) else None for right in references]
        for i in range(most)
    ]


_seed_lock = threading.Lock()


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Let sacrebleu draw from its own seed, 12345: it follows SACREBLEU_SEED where that is set.

    It has no argument for a seed. The variable is put back, and a lock keeps threads from taking
    it away twice.
    """
    with _seed_lock:
        seed = os.environ.pop("SACREBLEU_SEED", None)
        try:
            yield
        finally:
            if seed is not None:
                os.environ["SACREBLEU_SEED"] = seed


def _bootstrap(
    metric: Metric, systems: list[Sequence[str]], streams: Streams, samples: int
) -> list[tuple[Score, float | None]]:
    """Return the score of each system with its interval, and the p of all but the first."""
    from sacrebleu.significance import PairedTest

    samples = min(samples, max(FEWEST, DRAWN // len(systems[0])))
    named = [(str(index), answers) for index, answers in enumerate(systems)]
    with _fixed_seed():
        test = PairedTest(named, {"metric": metric}, streams, "bs", samples)
        signatures, columns = test()
    # beside the column of the systems' names there is one, under the metric's own name
    ((name, signature),) = signatures.items()
    results: list[Any] = columns[name]
    text = signature.format()
    scores = [
        Score(name, float(row.score), text, float(row.mean), float(row.ci))
        for row in results
    ]
    return [(score, row.p_value) for score, row in zip(scores, results, strict=True)]
