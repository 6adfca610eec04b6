"""Models in the format of CTranslate2, run by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unrolled
from conftest import SMALL, Call, write_jsonl
from export.conftest import TEXTS, transformer
from unrolled.core.errors import UserError
from unrolled.decoding.search import search
from unrolled.decoding.settings import Search
from unrolled.export import ctranslate2 as format
from unrolled.export import export
from unrolled.export.parity import Difference
from unrolled.models import Unaligned
from unrolled.nn import GRU, Attention, RecurrentDecoder
from unrolled.nn.attending import input_width
from unrolled.nn.variant import Variant
from unrolled.text.tokenizers import BOS, EOS, Tokenizer

ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")

ORIGINAL = {
    "positions": "sinusoidal",
    "norm": "layer",
    "feedforward": "relu",
    "bias": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "original": {**ORIGINAL, "norm_first": False},
    "pre-norm": ORIGINAL,
    "rotary, rms, swiglu": {},
    "biases of swiglu": {"bias": True},
    "rms, post-norm": {"norm_first": False},
    "learned positions, gelu": {
        "positions": "learned",
        "feedforward": "gelu",
        "context": 30,
    },
    "grouped heads": {"kv_heads": 2},
    "one key head, sinusoids": {**ORIGINAL, "kv_heads": 1},
    "narrow embedding": {**ORIGINAL, "embedding": 12},
    "no bias of the output": {"head_bias": False},
}


def export_to(
    folder: Path,
    model: Unaligned,
    source: Tokenizer,
    target: Tokenizer,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    def write(building: Path) -> Difference:
        return format.write(model, source, target, building)

    export("ctranslate2", write, folder, say)


def written(model: Unaligned, tokenizer: Tokenizer, folder: Path) -> Any:
    export_to(folder, model, tokenizer, tokenizer)
    return ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_says_what_ours_says(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = transformer(tokenizer.size, **VARIANTS[name])
    tmp_path.joinpath("x").mkdir()
    comparison = format.write(model, tokenizer, tokenizer, tmp_path / "x")
    assert comparison.largest < 1e-5
    assert comparison.count > 500


def test_two_vocabularies_stand_beside_the_model(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    target = Tokenizer.fit("chars", TEXTS)
    lines = list[str]()
    model = transformer(tokenizer.size, target=target.size, embedding=16)
    export_to(tmp_path / "x", model, tokenizer, target, lines.append)
    assert "differ by at most" in lines[0]
    assert str(tmp_path / "x") in lines[1]
    assert Tokenizer.load(tmp_path / "x" / "tokenizer.json").digest == tokenizer.digest
    assert Tokenizer.load(tmp_path / "x" / "target.json").digest == target.digest
    words = json.loads((tmp_path / "x" / "target_vocabulary.json").read_text("utf-8"))
    assert words[:4] == ["<pad>", "<unk>", "<bos>", "<eos>"]
    assert len(words) == target.size
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_it_writes_what_greedy_search_writes(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = transformer(tokenizer.size)
    source = [*tokenizer.encode(TEXTS[0]), EOS]
    state = model.start(torch.tensor([source]), torch.tensor([len(source)]))
    (ours,) = search(model, state, Search(beam=1), start=BOS, end=EOS, limits=[12])
    tokens = [tokenizer.document["model"]["vocab"], source[:-1]]
    spelt = {id: token for token, id in tokens[0].items()}
    results = written(model, tokenizer, tmp_path / "x").translate_batch(
        [[spelt[id] for id in tokens[1]]],
        beam_size=1,
        max_decoding_length=12,
        min_decoding_length=0,
    )
    assert results[0].hypotheses[0] == [spelt[id] for id in ours[0].tokens]
    assert len(ours[0].tokens) > 2


def test_its_attention_is_our_alignment(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = transformer(tokenizer.size, **ORIGINAL)
    ids = tokenizer.encode(TEXTS[1])
    spelt = {id: token for token, id in tokenizer.document["model"]["vocab"].items()}
    (result,) = written(model, tokenizer, tmp_path / "x").translate_batch(
        [[spelt[id] for id in ids]],
        beam_size=1,
        max_decoding_length=6,
        return_attention=True,
    )
    back = [
        tokenizer.document["model"]["vocab"][token] for token in result.hypotheses[0]
    ]
    with torch.no_grad():
        ours = model.align(
            torch.tensor([[*ids, EOS]]),
            torch.tensor([len(ids) + 1]),
            torch.tensor([[BOS, *back[:-1]]]),
        )
    theirs = np.array(result.attention[0])[:, : len(ids)]
    assert np.abs(ours[0, :, : len(ids)].numpy() - theirs).max() < 1e-5


def test_the_page_beside_it_can_be_followed(
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    translator = written(transformer(tokenizer.size), tokenizer, tmp_path / "x")
    page = (tmp_path / "x" / "README.md").read_text("utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "x")
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    vocabulary = tokenizer.document["model"]["vocab"]
    spelt = {id: token for token, id in vocabulary.items()}
    results = translator.translate_batch(
        [[spelt[id] for id in tokenizer.encode("a text")]],
        beam_size=5,
        disable_unk=True,
    )
    ids = [vocabulary[token] for token in results[0].hypotheses[0]]
    assert capsys.readouterr().out == tokenizer.decode(ids) + "\n"
    assert ids


def test_a_wrong_conversion_is_noticed_and_removed(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformer(tokenizer.size, **ORIGINAL)
    right = format.sinusoid

    def sines_first(at: Any, width: int) -> Any:  # as other programs order them
        positions = right(at, width)
        return torch.cat([positions[..., 0::2], positions[..., 1::2]], -1)

    monkeypatch.setattr(format, "sinusoid", sines_first)
    with pytest.raises(
        UserError, match="not written, for this ctranslate2 model says something"
    ):
        export_to(tmp_path / "x", model, tokenizer, tokenizer)
    assert not list(tmp_path.iterdir())


def test_what_ctranslate2_lacks_is_refused(tokenizer: Tokenizer) -> None:
    size = tokenizer.size
    reads = transformer(size)
    recurrent = GRU(16, 16, bidirectional=True)
    width = input_width(16, 16, 16, "additive", False)
    decoder = RecurrentDecoder(GRU(width, 16), 16, 16, "additive", False, 0)
    mixed = Unaligned(reads.source, reads.encoder, reads.target, decoder, size)
    for model in (
        Unaligned(reads.source, recurrent, reads.target, reads.decoder, size),
        mixed,
    ):
        with pytest.raises(UserError, match=r"layer=attention without model\.decoder"):
            format.refuse(model)
    with pytest.raises(UserError, match="bidirectional=true"):
        format.refuse(transformer(size, causal=True))
    for name, settings in {
        "query_key_norm": {"variant": Variant(query_key_norm=True)},
        "feedforward": {"feedforward": "gelu-tanh"},
    }.items():
        options: dict[str, Any] = settings
        encoder = Attention(16, 16, bidirectional=True, **options)
        other = Unaligned(reads.source, encoder, reads.target, reads.decoder, size)
        with pytest.raises(UserError, match=f"no model of model.{name} is exported"):
            format.refuse(other)
    some = Unaligned(reads.source, reads.encoder, reads.target, reads.decoder, size - 1)
    with pytest.raises(UserError, match="this model some alone"):
        format.refuse(some)


def test_the_command_exports_a_run(cli: Call, tmp_path: Path) -> None:
    rows = [{"from": text, "to": text[::-1]} for text in TEXTS * 4]
    changes = SMALL | {
        "task": "rewrite",
        "layer": "attention",
        "model.heads": 2,
        "model.bidirectional": True,
        "data.text": "from",
        "data.label": "to",
        "training.max_steps": 1,
    }
    folder = tmp_path / "run"
    unrolled.train(
        write_jsonl(tmp_path / "pairs.jsonl", rows),
        out=folder,
        quiet=True,
        say=lambda line: None,
        **changes,
    )
    out, _ = cli("export", folder, "--to", "ctranslate2")
    assert out.count("\n") == 2
    assert ctranslate2.contains_model(str(folder / "export" / "ctranslate2"))
    _, message = cli("export", folder, "--to", "ctranslate2", code=1)
    assert "is there already" in message
    unrolled.load(folder).export("ctranslate2", tmp_path / "other", lambda line: None)
    assert (tmp_path / "other" / "model.bin").is_file()
