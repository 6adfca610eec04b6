"""The comparison of an exported model with ours, without any other program."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.conftest import transformer
from unrolled.core.errors import UserError
from unrolled.export import ctranslate2, export, onnx
from unrolled.export.parity import BATCHES, Difference, Ids, compare, score
from unrolled.models import LanguageModel, Unaligned
from unrolled.nn import GRU, TokenEmbedding
from unrolled.runs.published.writing import difference_of
from unrolled.text.tokenizers import BOS, EOS, Tokenizer


class Echo:
    """Says what a model says, off by something where it scores, or where it writes."""

    def __init__(
        self, model: Unaligned, scoring: float = 0.0, writing: float = 0.0
    ) -> None:
        self.model = model
        self.scoring = scoring
        self.writing = writing
        self.sizes: list[tuple[int, int]] = []

    def score(self, sources: Ids, targets: Ids) -> list[list[float]]:
        self.sizes.append((len(sources), max(map(len, sources))))
        scores = score(self.model, sources, [[*target, EOS] for target in targets])
        scores[-1][-1] += self.scoring
        return scores

    def write(self, sources: Ids, most: int) -> list[tuple[list[int], float]]:
        answers = [[BOS] * most for _ in sources]
        scores = score(self.model, sources, answers)
        return [
            (answer, sum(values) + self.writing * most)
            for answer, values in zip(answers, scores, strict=True)
        ]


def test_the_largest_difference_is_found_wherever_it_is() -> None:
    model = transformer(20)
    same = Echo(model)
    assert compare(model, same, 20, 20).largest == 0.0
    assert same.sizes == list(BATCHES)
    for off in (Echo(model, scoring=0.25), Echo(model, writing=-0.25)):
        assert compare(model, off, 20, 20).largest == pytest.approx(0.25)
    assert math.isnan(compare(model, Echo(model, scoring=math.nan), 20, 20).largest)


def test_texts_keep_within_what_a_model_reads() -> None:
    model = transformer(20, context=8)
    echo = Echo(model)
    assert compare(model, echo, 20, 20).lengths == (1, 7)
    assert max(longest for _, longest in echo.sizes) == 7


def test_score_is_that_of_the_softmax_token_by_token() -> None:
    model = transformer(12)
    sources = [[4, 5, 6], [7]]
    targets = [[8, 9, EOS], [10]]
    scores = score(model, sources, targets)
    assert [len(row) for row in scores] == [3, 1]
    with torch.no_grad():
        state = model.start(torch.tensor([[4, 5, 6, EOS]]), torch.tensor([4]))
        for before, token, value in zip(
            [BOS, 8, 9], targets[0], scores[0], strict=True
        ):
            logits, state = model.step(torch.tensor([before]), state)
            assert float(logits.log_softmax(-1)[0, token]) == pytest.approx(
                value, abs=1e-5
            )


@pytest.mark.parametrize("largest", [2e-4, math.nan])
def test_a_model_that_disagrees_leaves_nothing(largest: float, tmp_path: Path) -> None:
    def wrong(folder: Path) -> Difference:
        (folder / "model.bin").write_text("wrong", "utf-8")
        return Difference(largest, 10, (1, 5))

    with pytest.raises(UserError, match="says something else"):
        export("wrong", wrong, tmp_path / "out", lambda line: None)
    assert not list(tmp_path.iterdir())


def test_a_difference_within_its_own_tolerance_is_none(tmp_path: Path) -> None:
    def near(folder: Path) -> Difference:
        (folder / "model.bin").write_text("near", "utf-8")
        return Difference(5e-4, 10, (1, 5), tolerance=1e-3)

    export("near", near, tmp_path / "out", lambda line: None)
    assert (tmp_path / "out" / "model.bin").is_file()

    def far(folder: Path) -> Difference:
        return Difference(2e-3, 10, (1, 5), tolerance=1e-3)

    with pytest.raises(UserError, match=r"by up to 0\.002, more than 0\.001; "):
        export("far", far, tmp_path / "other", lambda line: None)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_large_scores_may_differ_by_a_share_of_the_largest(scale: float) -> None:
    torch.manual_seed(3)
    model = LanguageModel(TokenEmbedding(9, 6), GRU(6, 5), 9, bias=False).eval()
    with torch.no_grad():
        model.head.weight.mul_(scale)

    def other(ids: torch.Tensor) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            scores: np.ndarray[Any, Any] = model(ids)[0].numpy()
        return scores + 1e-3

    difference = difference_of(model, [other], 8, ())
    assert difference.largest == pytest.approx(1e-3, rel=0.05)
    shares = [float(np.abs(other(ids) - 1e-3).max()) for ids in all_ids(9, 8)]
    assert difference.tolerance == pytest.approx(max(1e-4, 1e-5 * max(shares)))
    assert (difference.largest <= difference.tolerance) is (scale > 1)


def all_ids(vocabulary: int, longest: int) -> list[torch.Tensor]:
    """Return the random tokens on which scores are compared."""
    generator = np.random.default_rng(0)
    return [
        torch.from_numpy(generator.integers(0, vocabulary, (rows, min(most, longest))))
        for rows, most in BATCHES
    ]


def test_notes_are_said_before_the_comparison(tmp_path: Path) -> None:
    lines = list[str]()

    def right(folder: Path) -> Difference:
        (folder / "model.bin").write_text("right", "utf-8")
        return Difference(0.0, 10, (1, 5), "outputs", "step", ("by the way",))

    export("right", right, tmp_path / "out", lines.append)
    assert lines[0] == "by the way"
    assert "10 outputs differ by at most 0.0e+00 (inputs of 1 to 5 steps" in lines[1]
    assert (tmp_path / "out" / "model.bin").is_file()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    def never(folder: Path) -> Difference:
        raise AssertionError

    (tmp_path / "mine").write_text("x", "utf-8")
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UserError, match="is there already"):
            export("right", never, out)
    with pytest.raises(UserError, match="could not be written"):
        export("right", never, tmp_path / "mine" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_missing_program_is_said_with_how_to_get_it(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = transformer(tokenizer.size)
    with pytest.raises(UserError, match=r"pip install 'unrolled\[export\]'"):
        ctranslate2.write(model, tokenizer, tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"pip install 'unrolled\[export\]'"):
        onnx.check_installed()
    assert not list(tmp_path.iterdir())
