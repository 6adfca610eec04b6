"""Language models of documents apart: losses, scores, resumes and refusals."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SMALL, reviews, write_csv, write_jsonl

import unrolled
from unrolled.core.errors import UsageError
from unrolled.data.batches import IGNORED
from unrolled.data.documents import DocumentLanes, PackedDocuments
from unrolled.models import LanguageModel
from unrolled.runs import shard_files
from unrolled.runs.prepare import prepare
from unrolled.runs.recipes import requested
from unrolled.tasks.base import AnswerOptions
from unrolled.tasks.language import Language
from unrolled.training.precision import choose

CPU = choose("cpu", "fp32")
APART = AnswerOptions(documents="apart")
LAYERS = ["gru", "lstm", "mingru", "none", "attention"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [{"text": text} for text, _ in reviews(40, 1)]
    rows += [{"text": "one long text, longer than any window " * 4}, {"text": ""}]
    return write_jsonl(tmp_path / "texts.jsonl", rows)


def prepared(path: Path, layer: str, **changes: Any) -> tuple[Any, LanguageModel]:
    keys = {
        **SMALL,
        "layer": layer,
        "data.documents": "apart",
        "training.window": 64,
        "training.batch_size": 4,
        **changes,
    }
    ready = prepare(requested(str(path), keys))
    torch.manual_seed(0)
    model = ready.task.build(ready.recipe).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)  # far from even guesses
    return ready, model


def nats_alone(task: Language, model: LanguageModel, ids: list[int]) -> float:
    """Return the nats of a text read by itself, from the mark on."""
    before = torch.tensor([[task.tokenizer.start_id, *ids[:-1]]])
    scores = model(before)[0][0].double().log_softmax(-1)
    return -float(scores[torch.arange(len(ids)), torch.tensor(ids)].sum())


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_an_epoch_costs_what_its_documents_cost_alone(texts: Path, layer: str) -> None:
    ready, model = prepared(texts, layer, **{"training.batch_size": 1})
    task = ready.task
    source = task.source(ready.train, ready.recipe, model)
    kind = PackedDocuments if layer == "attention" else DocumentLanes
    assert isinstance(source, kind)
    objective = task.objective(ready.recipe, model)
    total = 0.0
    carry = None
    for index in range(source.length(0)):
        loss = objective(model, source.batch(0, index), carry)
        carry = loss.carry
        total += float(loss.sum)
    expected = 0.0
    stream = ready.train
    if isinstance(source, PackedDocuments):
        begins, _ = source.plan(0)
        spans = zip(begins, source._slots.lengths, strict=True)
        cut = [(begin, begin + length) for begin, length in spans]
        assert len(cut) > len(stream.offsets) - 1  # one document has several pieces
    else:
        cut = list(zip(stream.offsets, stream.offsets[1:], strict=False))
    for first, last in cut:
        expected += nats_alone(task, model, stream.tokens[first:last].tolist())
    assert total == pytest.approx(expected, rel=1e-5)  # sums in fp32


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_scores_are_those_of_each_document_alone(
    texts: Path, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.tasks.language_scores.CHUNK", 16)
    ready, model = prepared(
        texts, layer, **{"data.dev": str(texts), "training.window": 256}
    )
    stream = ready.dev
    total = sum(
        nats_alone(ready.task, model, stream.tokens[first:last].tolist())
        for first, last in zip(stream.offsets, stream.offsets[1:], strict=False)
    )
    scores = ready.task.evaluate(model, stream, CPU, APART).scores
    rows = [json.loads(line)["text"] for line in texts.read_text("utf-8").splitlines()]
    count = sum(len(text) + 1 for text in rows)  # characters, and an end mark a row
    size = sum(len(text.encode()) for text in rows)
    assert len(stream.tokens) == count
    assert scores["loss"] == pytest.approx(total / count, rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    bits = total / math.log(2) / size
    assert scores["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    joined = ready.task.evaluate(model, stream, CPU).scores
    if layer != "none":  # which sees one token back either way
        assert abs(joined["loss"] - scores["loss"]) > 1e-4


def test_one_longer_than_the_reach_is_scored_as_a_text_by_itself(texts: Path) -> None:
    ready, model = prepared(texts, "attention", **{"data.dev": str(texts)})
    stream = ready.dev
    long = int(np.diff(stream.offsets).argmax())
    first, last = stream.offsets[long : long + 2]
    assert last - first > 64
    alone = type(stream)(stream.tokens[first:last], 1, 0)
    by_itself = ready.task.evaluate(model, alone, CPU).scores["loss"]
    offsets = stream.offsets[long : long + 2]
    apart = type(stream)(stream.tokens, 1, 0, offsets)
    scores = ready.task.evaluate(model, apart, CPU, APART).scores
    assert scores["loss"] == pytest.approx(by_itself, rel=1e-6)


@pytest.mark.parametrize("layer", ["lstm", "attention"])
def test_a_resume_goes_on_to_the_bit(texts: Path, tmp_path: Path, layer: str) -> None:
    keys: dict[str, Any] = {
        **SMALL,
        "layer": layer,
        "data.documents": "apart",
        "model.dropout": 0.2,
        "model.layers": 2,
        "training.window": 64,
        "training.batch_size": 2,
        "training.schedule": "constant",
        "training.warmup_steps": 0,
        "training.checkpoint_every": 3,
        "report.samples": False,
    }

    def trained(name: str, steps: int, resume: bool = False) -> Any:
        return unrolled.train(
            texts,
            out=tmp_path / name,
            quiet=True,
            resume=resume,
            say=lambda text: None,
            **{**keys, "training.max_steps": steps},
        )

    straight = trained("a", 13)
    trained("b", 5)
    resumed = trained("b", 13, resume=True)
    pairs = zip(
        straight.model.state_dict().values(),
        resumed.model.state_dict().values(),
        strict=True,
    )
    assert all(torch.equal(first, second) for first, second in pairs)
    ready = prepare(straight.recipe)
    source = ready.task.source(ready.train, straight.recipe, straight.model)
    # it stopped within an epoch, and ended in a later one
    assert source.length(0) > 5
    assert source.length(0) < 13
    scores = straight.evaluate(texts)
    assert {"loss", "perplexity", "bits_per_byte"} <= scores.keys()


def test_evaluate_tells_scores_by_name_and_reads_apart_by_choice(
    texts: Path, tmp_path: Path, cli: Callable[..., tuple[str, str]]
) -> None:
    out = tmp_path / "run"
    keys = {**SMALL, "training.max_steps": 2, "report.samples": False}
    unrolled.train(texts, out=out, quiet=True, say=lambda text: None, **keys)

    def scores_of(*changes: str) -> dict[str, float]:
        output, _ = cli("evaluate", out, texts, *changes, "--json")
        return dict(json.loads(output))

    joined = scores_of()
    assert set(joined) == {"loss", "perplexity", "bits_per_byte", "accuracy"}
    apart = scores_of("data.documents=apart")
    assert apart["loss"] != joined["loss"]
    assert apart["perplexity"] == pytest.approx(math.exp(apart["loss"]))


def test_where_nothing_can_be_apart(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("row your boat\n" * 30)
    with pytest.raises(UsageError, match=r"data.documents=apart is for rows of text"):
        unrolled.train(text, out=tmp_path / "a", **{**SMALL, "data.documents": "apart"})
    table = write_csv(tmp_path / "r.csv", reviews(30, 1), ("text", "label"))
    with pytest.raises(
        UsageError, match=r"data.documents=apart is for a language model"
    ):
        unrolled.train(
            table, out=tmp_path / "b", **{**SMALL, "data.documents": "apart"}
        )
    with pytest.raises(UsageError, match="joined"):
        unrolled.train(text, out=tmp_path / "c", **{"data.documents": "apar"})


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("layer", ["gru", "attention"])
def test_shards_give_the_batches_and_the_parts_of_reading_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layer: str
) -> None:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_files, "processors", lambda: 1)
    draw = random.Random(1)
    rows = [(text, f"film{draw.randrange(20)}") for text, _ in reviews(90, 2)]
    path = tmp_path / f"r.{kind}"
    if kind == "csv":
        write_csv(path, rows, ("text", "film"))
    elif kind == "jsonl":
        write_jsonl(path, [{"text": text, "film": film} for text, film in rows])
    else:
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        names, films = zip(*rows, strict=True)
        columns = pa.table({"text": names, "film": films})
        parquet.write_table(columns, path, row_group_size=7)
    keys = {"task": "language", "data.text": "text", "data.group": "film"}
    whole, model = prepared(path, layer, **keys, **{"data.shards": "never"})
    mapped, _ = prepared(path, layer, **keys, **{"data.shards": "always"})
    assert mapped.dev_data.rows == whole.dev_data.rows
    assert mapped.dev.offsets.tolist() == whole.dev.offsets.tolist()
    assert mapped.train.offsets.tolist() == whole.train.offsets.tolist()
    films_kept = {row[1] for row in whole.train_data.rows}
    assert films_kept.isdisjoint(row[1] for row in whole.dev_data.rows)
    mine, theirs = (r.task.source(r.train, r.recipe, model) for r in (mapped, whole))
    assert mine.length(1) == theirs.length(1)
    for index in range(theirs.length(1)):
        first = mine.batch(1, index)
        second = theirs.batch(1, index)
        assert first.inputs.equal(second.inputs)
        assert first.targets.equal(second.targets)
        assert (first.targets != IGNORED).any()
    assert any("by the hash of film" in line for line in mapped.lines)
