"""Exports to GGUF: read back by the package, by transformers and by ourselves; what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import unrolled
from conftest import Call
from unrolled.core.errors import UserError
from unrolled.models import LanguageModel
from unrolled.nn import GRU, Attention, TokenEmbedding
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.nn.variant import Variant
from unrolled.runs.published import open_published, write_gguf
from unrolled.runs.published.gguf_header import read_header
from unrolled.text.gguf import DOCUMENT, PREFIX, cut_by, gguf_tokenizer
from unrolled.text.gguf_writing import metadata_of
from unrolled.text.published import PublishedTokenizer
from unrolled.text.tokenizers import Tokenizer

from .conftest import Save, add_tokenizer, transformers
from .test_llama2c import MODEL, WORDS, needs_stories

TEXTS = ["the cat sat on the mat, and the dog ran to the man. It was 12 o'clock!\n"] * 4
# fp32 on both sides, sums in another order
NEAR = {"rtol": 0, "atol": 1e-4}
GPT2: dict[str, Any] = {
    "positions": "learned",
    "norm": "layer",
    "feedforward": "gelu-tanh",
    "bias": True,
}
# transformers takes 1,024 positions and heads of 128 features as given there, whatever a file says
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "context": 1024},
    "llama": {"kv_heads": 2},
    "qwen2": {"kv_heads": 2, "variant": Variant(attention_bias="inputs")},
    "qwen3": {"kv_heads": 2, "variant": Variant(query_key_norm=True, head_size=128)},
}


def language_model(size: int, **settings: Any) -> LanguageModel:
    torch.manual_seed(2)
    layer = Attention(16, 16, 2, 4, **{"context": 24, **settings})
    model = LanguageModel(TokenEmbedding(size, 16), layer, size).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    if settings.get("norm") != "layer":
        torch.nn.init.zeros_(model.head.bias)
    return model


def exported(
    folder: Path, kind: str = "bpe", **settings: Any
) -> tuple[LanguageModel, Tokenizer]:
    tokenizer = Tokenizer.fit(kind, TEXTS, 280)
    model = language_model(tokenizer.size, **settings)
    folder.mkdir()
    difference = write_gguf(model, tokenizer)(folder)
    assert difference.largest <= 1e-4
    return model, tokenizer


@pytest.mark.parametrize("architecture", SETTINGS)
def test_transformers_reads_what_is_written(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    model, tokenizer = exported(folder, **SETTINGS[architecture])
    path = folder / "model.gguf"
    field = gguf.GGUFReader(path).fields["general.architecture"]
    assert field.contents() == architecture
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.float32
    )
    ids = np.random.default_rng(0).integers(0, tokenizer.size, 20).tolist()
    rows = torch.tensor([ids])
    with torch.no_grad():
        scores, _ = model(rows)
        expected = theirs(rows).logits
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(scores, expected, **NEAR)
    logits = unrolled.load(path, device="cpu").logits(ids)
    torch.testing.assert_close(logits, expected[0], **NEAR)


LLAMA3 = RotaryScaling(
    kind="llama3",
    factor=8.0,
    original_context=8,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
)
YARN: dict[str, Any] = {
    "kind": "yarn",
    "factor": 4.0,
    "original_context": 8,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
}
SCALINGS = {
    "linear": RotaryScaling(kind="linear", factor=4.0),
    "llama3": LLAMA3,
    "yarn": RotaryScaling(**YARN, attention_factor=0.1 * math.log(4) + 1),
    "factors": RotaryScaling(kind="factors", factors=(1.0, 3.5)),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_positions_go_there_and_back(kind: str, tmp_path: Path) -> None:
    variant = Variant(rotary_base=50.0, rotary_scaling=SCALINGS[kind])
    model, tokenizer = exported(tmp_path / "out", kv_heads=2, variant=variant)
    path = tmp_path / "out" / "model.gguf"
    again = unrolled.load(path, device="cpu")
    ids = np.random.default_rng(0).integers(0, tokenizer.size, 24).tolist()
    with torch.no_grad():
        scores, _ = model(torch.tensor([ids]))
    torch.testing.assert_close(again.logits(ids), scores[0], **NEAR)
    said = again.recipe.model.rotary_scaling
    is_listed = kind in ("llama3", "factors")
    assert said.kind == ("factors" if is_listed else kind)
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert ("rope_freqs.weight" in tensors) is is_listed
    # written once more it is the same
    (tmp_path / "more").mkdir()
    write_gguf(again.model, tokenizer)(tmp_path / "more")
    more = unrolled.load(tmp_path / "more" / "model.gguf", device="cpu")
    assert more.recipe.model.rotary_scaling == said


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
def test_tokenizers_say_the_same(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _, ours = exported(folder, kind)
    theirs = open_published(folder / "model.gguf").task.tokenizer
    assert theirs is not None
    metadata = dict(read_header(folder / "model.gguf").metadata)
    # what llama.cpp reads, without the whole document
    metadata.pop(DOCUMENT)
    document = gguf_tokenizer(metadata)
    plain = PublishedTokenizer(document, ours.size, ours.start_id, ours.end_ids)
    for text in ("the cat", "  dog ran\n\nto", "12 o'clock!", "a"):
        assert theirs.beginning(text) == ours.beginning(text)
        assert plain.beginning(text) == ours.beginning(text)
        assert plain.decode(ours.encode(text)) == text
    assert theirs.end_ids == ours.end_ids


def test_what_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    bpe = Tokenizer.fit("bpe", TEXTS, 280)
    relu = language_model(bpe.size, **(GPT2 | {"feedforward": "relu"}))
    window = language_model(bpe.size, variant=Variant(attention_window=5))
    wide = RotaryScaling(**YARN, attention_factor=2.0)
    yarn = language_model(bpe.size, variant=Variant(rotary_scaling=wide))
    normed = Variant(query_key_norm=True, rotary_scaling=LLAMA3)
    qwen = language_model(bpe.size, variant=normed)
    torch.manual_seed(1)
    recurrent = LanguageModel(TokenEmbedding(280, 8), GRU(8, 8), bpe.size).eval()
    for model, message in (
        (relu, "model.feedforward=gelu-tanh alone"),
        (yarn, "attention_factor of 1.13863 alone, and this model has 2"),
        (qwen, "rotary_scaling.kind=llama3 in a Llama alone, and this is a qwen3"),
        (window, "model.attention_window=5"),
        (recurrent, "gguf has attention alone, and this run has layer=gru"),
    ):
        with pytest.raises(UserError, match=message):
            write_gguf(model, bpe)
    for kind in ("unigram", "words", "whitespace", "jamo"):
        tokenizer = Tokenizer.fit(kind, TEXTS, 60)
        model = language_model(tokenizer.size)
        with pytest.raises(UserError, match=f"gguf has no data.tokenizer={kind}"):
            write_gguf(model, tokenizer)


@needs_stories
def test_stories_go_there_and_back(cli: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("--tokenizer", WORDS)
    said, _ = cli("export", MODEL, *given, "--to", "gguf", "-o", out)
    assert "gguf beside ours" in said
    path = out / "model.gguf"
    said, _ = cli("load", path, "--json")
    assert json.loads(said) == {
        "family": "llama",
        "parameters": 260_032,
        "context": 512,
        "vocabulary": 512,
    }
    said, _ = cli("generate", path, "--temperature", 0, "--max-new-tokens", 5)
    assert said == "Once upon a time,\n"
    said, err = cli(
        "generate", path, "--prompt", "a b " * 300, "--max-new-tokens", 1, "--seed", 1
    )
    assert "512" in err
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time, there was a girl.")
    scores = [
        json.loads(cli("evaluate", file, text, *extra, "--json")[0])
        for file, extra in ((MODEL, given), (path, ()))
    ]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-5)


@needs_stories
def test_verbs_say_what_they_can(cli: Call, tmp_path: Path, save: Save) -> None:
    said, _ = cli("doctor", MODEL, "--tokenizer", WORDS, "--json")
    document = json.loads(said)
    assert document["problem"] == document["warning"] == 0
    assert {check["name"] for check in document["checks"]} == {
        "weights",
        "tokenizer",
        "looking ahead",
        "step by step",
    }
    _, folder = save("qwen3")
    said, _ = cli("doctor", folder)
    assert "warning  tokenizer" in said
    add_tokenizer(folder)
    said, _ = cli("doctor", folder, "--tokenizer", folder / "tokenizer.json")
    assert "qwen3" in said
    _, err = cli("predict", MODEL, "a", "--tokenizer", WORDS, code=2)
    assert "unrolled generate" in err
    _, err = cli("compare", MODEL, MODEL, code=2)
    assert "unrolled evaluate RUN FILE --compare PATH" in err
    _, err = cli("train", MODEL, code=2)
    assert "is a checkpoint of another program and is no data" in err
    _, err = cli("train", folder, "--resume", code=2)
    assert "holds no state of a training" in err
    _, err = cli("doctor", MODEL, "seed=1", code=2)
    assert "leave out keys" in err


def test_what_llama_cpp_would_cut_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = Tokenizer.fit("bpe", TEXTS, 280)
    document = {**ours.document, "pre_tokenizer": cut_by("gpt-2")}
    published = PublishedTokenizer(document, ours.size, ours.start_id, ours.end_ids)
    model = language_model(ours.size)

    def written(tokenizer: Tokenizer, **changed: Any) -> None:
        def changed_metadata(*arguments: Any) -> tuple[dict[str, Any], list[str]]:
            metadata, notes = metadata_of(*arguments)
            # the whole document beside them says the right thing still
            return {
                **metadata,
                **{f"{PREFIX}{key}": changed[key] for key in changed},
            }, notes

        module = "unrolled.runs.published.gguf_writing.metadata_of"
        monkeypatch.setattr(module, changed_metadata)
        folder = tmp_path / f"{tokenizer.kind}-{'-'.join(changed)}"
        folder.mkdir()
        write_gguf(model, tokenizer)(folder)

    merges = [" ".join(pair) for pair in ours.document["model"]["merges"]]
    for tokenizer in (ours, published):
        written(tokenizer)
        with pytest.raises(UserError, match=r"llama\.cpp would cut the text"):
            written(tokenizer, merges=merges[:1])
        with pytest.raises(UserError, match=r"not written .*expected tokenizer\.ggml"):
            written(tokenizer, tokens=["same"] * ours.size)
    # ours has a rule of its own, and the page says so
    written(ours, pre="qwen2")
    assert "'s, 't" in (tmp_path / "bpe-pre" / "README.md").read_text()
    with pytest.raises(UserError, match=r"llama\.cpp would cut the text"):
        written(published, pre="qwen2")
