"""BLEU and chrF: sacrebleu's numbers, signatures, intervals and comparisons."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from unrolled.core.errors import UsageError
from unrolled.scores import translation
from unrolled.scores.translation import compare, corpus_score

TEXT = "the cat sat on a mat, and didn't see 3.5 dogs run past ."
WORDS = TEXT.split()


def texts(seed: int, count: int = 60) -> tuple[list[str], list[str], list[list[str]]]:
    """Return answers of a good and of a poor system, and one to three right ones each."""
    drawn = random.Random(seed)
    right = [drawn.choices(WORDS, k=drawn.randint(4, 12)) for _ in range(count)]

    def spoil(words: list[str], rate: float) -> str:
        return " ".join(
            drawn.choice(WORDS) if drawn.random() < rate else w for w in words
        )

    references = [
        [" ".join(words), *(spoil(words, 0.3) for _ in range(drawn.randint(0, 2)))]
        for words in right
    ]
    return [spoil(w, 0.2) for w in right], [spoil(w, 0.35) for w in right], references


def streams(references: list[list[str]]) -> list[list[Any]]:
    return [
        [right[i] if i < len(right) else None for right in references] for i in range(3)
    ]


def test_a_perfect_corpus_has_100_and_an_alien_one_0() -> None:
    same = ["the cat sat on the mat", "it did not see the dog"]
    for name in ("bleu", "chrf"):
        assert corpus_score(
            same, [[text] for text in same], name
        ).value == pytest.approx(100)
        assert corpus_score(["qqqq", "zzz"], [[text] for text in same], name).value == 0


def test_bleu_of_a_hand_worked_case() -> None:
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 quadruples match; equally long
    ours = corpus_score(["a b c d x e"], [["a b c d y e"]], tokenizer="none")
    assert ours.value == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # a third shorter: the brevity penalty is exp(1 - 6 / 4)
    short = corpus_score(["a b c d"], [["a b c d y e"]], tokenizer="none")
    assert short.value == pytest.approx(100 * 2.718281828459045 ** (1 - 6 / 4))


@pytest.mark.parametrize("tokenizer", ["13a", "none", "char", "intl", "zh"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_and_signatures_are_sacrebleus(tokenizer: str, lowercase: bool) -> None:
    good, _, references = texts(1)
    good[0] = good[0].upper()
    metrics = {"bleu": BLEU(lowercase=lowercase, tokenize=tokenizer, force=True)}
    metrics["chrf"] = CHRF(lowercase=lowercase)
    for name, metric in metrics.items():
        theirs = metric.corpus_score(good, streams(references), n_bootstrap=50)
        ours = corpus_score(
            good, references, name, tokenizer, lowercase=lowercase, samples=50
        )
        assert ours.value == pytest.approx(theirs.score, abs=1e-9)
        assert ours.mean == pytest.approx(theirs._mean, abs=1e-5)
        assert ours.margin == pytest.approx(theirs._ci, abs=1e-5)
        assert ours.signature == metric.get_signature().format()
        assert str(ours).startswith(
            f"{theirs.name} {theirs.score:.2f} ({theirs._mean:.2f} ± "
        )


def test_one_reference_without_an_interval_gives_the_usual_signature() -> None:
    ours = corpus_score(["the cat sat ."], [["the cat sat ."]])
    assert ours.margin is None
    assert ours.signature.startswith(
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"
    )
    assert str(ours) == f"BLEU 100.00  {ours.signature}"


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_paired_bootstrap_is_sacrebleus(name: Any) -> None:
    good, poor, references = texts(2)
    metric = BLEU(tokenize="13a", force=True) if name == "bleu" else CHRF()
    test = PairedTest(
        [("poor", poor), ("good", good)], {name: metric}, streams(references), "bs", 200
    )
    signatures, scores = test()
    ours = compare(poor, good, references, name, samples=200)
    theirs = next(key for key in scores if key != "System")
    baseline, system = scores[theirs]
    assert ours.p == pytest.approx(system.p_value)
    assert [ours.first.value, ours.second.value] == pytest.approx(
        [baseline.score, system.score]
    )
    assert [ours.second.mean, ours.second.margin] == pytest.approx(
        [system.mean, system.ci], 1e-5
    )
    assert ours.second.signature == signatures[theirs].format()


@pytest.mark.parametrize("seed", ["7", "none"])
def test_the_seed_is_fixed_and_the_environment_left_alone(
    seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poor, references = texts(4, 20)

    def scored() -> tuple[object, object]:
        return (
            corpus_score(good, references, samples=20),
            compare(good, poor, references, samples=20),
        )

    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    expected = scored()
    assert "SACREBLEU_SEED" not in os.environ
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    assert scored() == expected
    assert os.environ["SACREBLEU_SEED"] == seed
    # also after an error
    with pytest.raises(ZeroDivisionError), translation._fixed_seed():
        raise ZeroDivisionError
    assert os.environ["SACREBLEU_SEED"] == seed


def test_a_large_corpus_draws_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    good, _, references = texts(5, 10)
    monkeypatch.setattr(translation, "DRAWN", 1_500)
    assert "|bs:140|" in corpus_score(good, references, samples=140).signature
    assert "|bs:150|" in corpus_score(good, references, samples=200).signature
    monkeypatch.setattr(translation, "DRAWN", 999)
    unbounded = corpus_score(good, references, samples=200)
    assert unbounded == corpus_score(good, references)
    assert compare(good, good, references, samples=200).p == pytest.approx(1 / 101)


def test_comparing_tells_a_better_system_from_an_equal_one() -> None:
    good, poor, references = texts(3)
    # equal on average: each is the better one on half of the sources
    half = [
        (g, p) if i % 2 else (p, g)
        for i, (g, p) in enumerate(zip(good, poor, strict=True))
    ]
    first = [g for g, _ in half]
    second = [p for _, p in half]
    assert compare(good, poor, references, samples=300).p < 0.05
    assert compare(first, second, references, samples=300).p > 0.05
    assert compare(good, good, references, samples=30).p == pytest.approx(1 / 31)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean '13a'"):
        corpus_score(["a"], [["a"]], tokenizer="13")
    with pytest.raises(UsageError, match="flores200"):  # sacrebleu would download it
        corpus_score(["a"], [["a"]], tokenizer="flores200")
    with pytest.raises(UsageError, match=r"pip install 'sacrebleu\[ja\]'"):
        corpus_score(["a"], [["a"]], tokenizer="ja-mecab")
    for answers, references in (([], []), (["a"], []), (["a", "b"], [["a"], []])):
        with pytest.raises(ValueError, match=f"{len(answers)} answers"):
            corpus_score(answers, references)


def test_sacrebleu_is_imported_when_something_is_scored() -> None:
    code = (
        "import sys, unrolled.scores.translation; sys.exit('sacrebleu' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
