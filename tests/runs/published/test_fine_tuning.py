"""Checkpoints of other programs that a training begins with."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import unrolled
from conftest import SMALL, Call, reviews, write_csv
from unrolled.core.errors import DataError, UserError
from unrolled.runs.plan import make_plan
from unrolled.text.published import PublishedTokenizer, load_tokenizer
from unrolled.text.tokenizers import Tokenizer

from .conftest import Save, add_tokenizer
from .test_llama2c import DATA, MODEL, needs_stories

BARE = {key: value for key, value in SMALL.items() if not key.startswith("model.")}
TEXT = "the cat sat on the mat and the dog ran to the man "


def settings(folder: Path) -> dict[str, Any]:
    return {
        **BARE,
        "model.init": str(folder),
        "training.max_steps": 2,
        "training.window": 16,
        "training.batch_size": 2,
        # to write texts takes longer than such a training
        "report.samples": False,
    }


@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen3"])
def test_all_weights_of_a_folder_are_taken(
    case: str, save: Save, tmp_path: Path
) -> None:
    _, folder = save(case)
    add_tokenizer(folder)
    before = unrolled.load(folder, device="cpu")
    (tmp_path / "text.txt").write_text(TEXT * 20)
    made = make_plan(str(tmp_path / "text.txt"), settings(folder), out=tmp_path / "run")
    assert not made.transfer.drawn
    assert not made.transfer.unused
    for name, weight in before.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], weight), name
    assert made.model.head.bias is None
    variants = ("norm_eps", "query_key_norm", "attention_bias", "rotary_base", "tie")
    for key in (*variants, "context", "heads", "kv_heads", "head_size"):
        assert getattr(made.recipe.model, key) == getattr(before.recipe.model, key)
    assert made.recipe.data.tokenizer == "published"


def test_a_folder_is_trained_on_and_needed_no_more(
    save: Save, tmp_path: Path, cli: Call
) -> None:
    _, folder = save("qwen3")
    add_tokenizer(folder)
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 20)
    before = unrolled.load(folder, device="cpu")
    out = tmp_path / "run"
    run = unrolled.train(text, out=out, quiet=True, **settings(folder))
    shutil.rmtree(folder)
    loaded = unrolled.load(out, device="cpu")
    ids = before.task.tokenizer.encode("the cat sat")
    assert loaded.task.tokenizer.encode("the cat sat") == ids
    assert torch.equal(loaded.logits(ids), run.logits(ids))
    assert not torch.equal(loaded.logits(ids), before.logits(ids))
    written = loaded.generate("the cat", 8, temperature=0)
    assert written == run.generate("the cat", 8, temperature=0)
    scores, _ = cli("evaluate", out, text, "--json")
    assert json.loads(scores)["loss"] > 0
    # and it is one to begin with
    made = make_plan(str(text), settings(out), out=tmp_path / "next")
    assert not made.transfer.drawn
    assert made.prepared.task.tokenizer.digest == loaded.task.tokenizer.digest


def test_a_folder_is_put_to_use_for_labels(save: Save, tmp_path: Path) -> None:
    _, folder = save("gpt2")
    add_tokenizer(folder)
    file = write_csv(tmp_path / "reviews.csv", reviews(40, 1), ("text", "label"))
    changes = {**BARE, "model.init": str(folder), "training.max_steps": 2}
    changes |= {"model.ngrams": 0}
    run = unrolled.train(file, out=tmp_path / "run", quiet=True, **changes)
    # as long as its positions reach
    assert run.recipe.data.max_tokens == 64
    assert len(run.predict(["a lovely film"])) == 1
    loaded = unrolled.load(tmp_path / "run", device="cpu")
    assert loaded.predict(["a lovely film"]) == run.predict(["a lovely film"])


def test_a_checkpoint_without_a_tokenizer_is_refused(
    save: Save, tmp_path: Path
) -> None:
    _, folder = save("gpt2")
    (tmp_path / "text.txt").write_text(TEXT * 20)
    with pytest.raises(UserError, match=r"expected tokenizer.json here"):
        make_plan(
            str(tmp_path / "text.txt"),
            {**BARE, "model.init": str(folder)},
            out=tmp_path / "run",
        )


@needs_stories
def test_stories_are_begun_with_from_the_folder_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNROLLED_DATA", str(MODEL.parent.parent))
    text = "Once upon a time, there was a fox.\n" * 40
    (tmp_path / "text.txt").write_text(text)
    changes = settings(Path("stories260k/stories260K.bin"))
    made = make_plan(str(tmp_path / "text.txt"), changes, out=tmp_path / "run")
    before = unrolled.load(MODEL, device="cpu")
    assert not made.transfer.drawn
    for name, weight in before.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], weight), name
    read = made.prepared.train.tokens.tolist()
    assert before.task.tokenizer.decode(read) == text[: int(0.9 * len(text))]


# ---------------------------------------------------------------------- tokenizers


@needs_stories
def test_a_published_tokenizer_is_read_back_as_it_was(tmp_path: Path) -> None:
    tokenizer = unrolled.load(MODEL, device="cpu").task.tokenizer
    tokenizer.save(tmp_path / "tokenizer.json")
    back = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(back, PublishedTokenizer)
    assert back.saved == tokenizer.saved
    for name in ("size", "start_id", "end_ids", "eos_id", "digest"):
        assert getattr(back, name) == getattr(tokenizer, name)
    text = (DATA / "greedy.txt").read_text()
    assert back.encode(text) == tokenizer.encode(text)
    assert back.decode(back.encode(text)) == text
    # a text that goes on after a line end begins with no blank of its own
    lines = text.splitlines(keepends=True)
    parts = [
        back.encode_array(line, first=number == 0).tolist()
        for number, line in enumerate(lines)
    ]
    assert list(itertools.chain.from_iterable(parts)) == back.encode(text)


@needs_stories
def test_ids_stand_for_the_same_texts_in_all_kinds() -> None:
    texts = unrolled.load(MODEL, device="cpu").task.tokenizer.texts()
    assert len(texts) == 512
    assert texts[1] == "\0<eos>"  # a text ends where the next one begins
    assert texts[3 + ord("\n")] == "\n"
    assert texts[3 + 0xEA].encode("utf-8", "surrogateescape") == b"\xea"
    assert {" the", "e", " Lily"} <= set(texts)


def test_byte_pairs_stand_for_their_text(save: Save) -> None:
    _, folder = save("gpt2")
    own = add_tokenizer(folder, size=80)
    published = unrolled.load(folder, device="cpu").task.tokenizer
    assert published.texts()[:80] != own.texts()[:80]  # no special of ours is its mark
    assert published.texts()[10:80] == own.texts()[10:80]
    assert len(set(published.texts())) == 99


@pytest.mark.parametrize(
    ("kind", "token"),
    [("unigram", " film"), ("bpe", " film"), ("words", " film"), ("chars", "f")],
)
def test_texts_of_our_own_kinds(kind: str, token: str) -> None:
    texts = ["a film, a film and a film"] * 3
    tokenizer = Tokenizer.fit(kind, texts, 300)
    ours = tokenizer.texts()
    assert ours[:4] == ["\0<pad>", "\0<unk>", "\0<bos>", "\0<eos>"]
    assert len(ours) == len(set(ours)) == tokenizer.size
    id = ours.index(token)
    assert token.strip() in tokenizer.decode([id])


@pytest.mark.parametrize(
    "change",
    [
        {"size": "512"},
        {"ends": [512]},
        {"start": -1},
        {"ends": None},
        {"document": {}},
        {"document": {"model": {"type": "Bigram"}}},
    ],
)
def test_what_is_no_saved_tokenizer_is_refused(
    save: Save, tmp_path: Path, change: dict[str, Any]
) -> None:
    _, folder = save("gpt2")
    add_tokenizer(folder)
    saved = unrolled.load(folder, device="cpu").task.tokenizer.saved
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**saved, **change}))
    with pytest.raises(DataError, match="no tokenizer of a run"):
        load_tokenizer(path)
