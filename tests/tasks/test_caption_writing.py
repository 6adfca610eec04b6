"""Captions drawn while a model learns: what they are, what they earn, how it learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from unrolled.core.errors import UserError
from unrolled.data.batches import IGNORED, Batch
from unrolled.data.image_batches import ImageBatches
from unrolled.data.sources import read
from unrolled.decoding.settings import Search
from unrolled.scores.captions import CiderD
from unrolled.studies.sort_of_clevr import write
from unrolled.tasks.base import AnswerOptions
from unrolled.tasks.caption_writing import END_WORD, CaptionRewards, reward_of
from unrolled.training.precision import ComputeDevice
from unrolled.training.progress import read_metrics

KEYS: dict[str, Any] = {
    "model.hidden": 16,
    "model.embedding": 8,
    "encoder.size": 24,
    "training.batch_size": 4,
    "training.threads": 1,
    "training.precision": "fp32",
    "report.inside": False,
}
CPU = ComputeDevice(torch.device("cpu"), "fp32", "")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of captions, and a run on it."""
    folder = tmp_path_factory.mktemp("captions")
    data = folder / "data"
    write(data, 12, 4, 0, True)
    keys = {**KEYS, "training.max_steps": 30}
    return data, unrolled.train(data, out=folder / "run", quiet=True, **keys)


def rewards_of(data: Path, run: Any) -> tuple[CaptionRewards, Any]:
    examples, _ = run.task.encode(read(data), "stop")
    rewards = CaptionRewards(
        run.model,
        run.task.tokenizer,
        run.task.longest,
        reward_of(examples.images, examples.references),
        examples.images.rows,
        CPU,
    )
    return rewards, examples


def texts_of(batch: Batch, run: Any) -> list[str]:
    texts = []
    tokenizer = run.task.tokenizer
    assert batch.targets is not None
    for row in batch.targets.tolist():
        tokens = [token for token in row if token != IGNORED]
        finished = tokens[-1] == tokenizer.eos_id
        text = tokenizer.decode(tokens[:-1] if finished else tokens)
        texts.append(f"{text} {END_WORD}" if finished else text)
    return texts


def test_each_drawn_caption_is_scored_by_its_image(captioned: tuple[Path, Any]) -> None:
    data, run = captioned
    rewards, examples = rewards_of(data, run)
    source = ImageBatches(examples, 3, 0)
    batch = source.batch(0, 1)
    drawn = rewards.roll_out(batch, seed=7)
    assert len(drawn.rows) == len(batch.rows)
    assert torch.equal(drawn.extra[0], batch.extra[0])
    assert run.model.training
    run.model.eval()
    # by every image's own captions, worked out again
    table = read(data)
    by_image: dict[int, list[str]] = {}
    for row, (_, caption) in enumerate(table.rows):
        image = int(examples.images.rows[row])
        by_image.setdefault(image, []).append(f"{caption} {END_WORD}")
    scorer = CiderD([by_image[image] for image in sorted(by_image)])
    images = examples.images.rows[batch.rows]
    texts = texts_of(drawn, run)
    expected = scorer.scores(texts, images.tolist())
    assert drawn.rewards is not None
    np.testing.assert_allclose(drawn.rewards[:, 0], expected, rtol=1e-5, atol=1e-6)
    # all captions of an image are compared with the one written greedily
    options = AnswerOptions(search=Search(beam=1))
    cells = [table.rows[row][:1] for row in batch.rows]
    answers = run.task.predict(run.model, cells, CPU, options)
    greedy = [answer.text for answer in answers]
    compared = scorer.scores([f"{text} {END_WORD}" for text in greedy], images.tolist())
    np.testing.assert_allclose(drawn.rewards[:, 1], compared, rtol=1e-5, atol=1e-6)


def test_draws_follow_from_their_seed_alone(captioned: tuple[Path, Any]) -> None:
    data, run = captioned
    rewards, examples = rewards_of(data, run)
    batch = ImageBatches(examples, 4, 0).batch(0, 0)
    torch.manual_seed(1)
    first = rewards.roll_out(batch, seed=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    # nothing else draws otherwise because captions were drawn
    assert torch.equal(torch.rand(1), after)
    again = rewards.roll_out(batch, seed=3)
    other = rewards.roll_out(batch, seed=4)
    run.model.eval()
    assert first.targets is not None
    assert again.targets is not None
    assert torch.equal(first.targets, again.targets)
    assert texts_of(first, run) != texts_of(other, run)


def test_training_goes_on_from_cross_entropy_to_rewards(
    captioned: tuple[Path, Any], tmp_path: Path
) -> None:
    data, run = captioned
    keys: dict[str, Any] = {
        **KEYS,
        "model.init": str(run.folder),
        "training.reward": "cider_d",
        "training.reward_after": 1,
        "training.max_epochs": 3,
        "training.log_every": 1,
        "training.schedule": "constant",
        "training.evaluate_every": 1,
    }
    whole = unrolled.train(data, out=tmp_path / "whole", quiet=True, **keys)
    lines = read_metrics(whole.folder / "metrics.jsonl")
    rewarded = [
        line["step"] for line in lines if line["kind"] == "train" and "reward" in line
    ]
    # three batches of the twelve images that are learnt from make an epoch
    assert rewarded == [4, 5, 6, 7, 8, 9]
    first = {**keys, "training.max_epochs": 2}
    unrolled.train(data, out=tmp_path / "run", quiet=True, **first)
    resumed = unrolled.train(
        data, out=tmp_path / "run", resume=True, quiet=True, **keys
    )
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, whole.model.state_dict()[name]), name


def test_a_reward_is_refused_where_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "good film,yes\nbad film,no\n" * 20)
    with pytest.raises(
        UserError, match=r"training\.reward=cider_d is for task=caption"
    ):
        unrolled.train(
            path, out=tmp_path / "run", quiet=True, **{"training.reward": "cider_d"}
        )
