"""GGUF files against transformers, and what is refused of them."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import unrolled
from conftest import Call
from unrolled.core.errors import UserError
from unrolled.runs.published.gguf_header import PLAIN, QUANTIZED, read_header

from .conftest import CASES, Save, add_tokenizer, transformers
from .gguf_files import Type, write_gguf

IDS = np.random.default_rng(0).integers(0, 99, 40).tolist()
# fp32 on both sides, sums in another order
NEAR = {"rtol": 0, "atol": 1e-4}
# llama.cpp knows no other activation for a GPT-2, and windows of Mistral alone
KNOWN = [
    case
    for case in CASES
    if case not in ("gpt2-untied-relu", "mistral", "qwen2-window")
]
TINY: dict[str, Any] = {
    "vocab_size": 7,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8,
}


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return scores


def drawn(kind: str, **settings: Any) -> Any:
    """Return a model of transformers with weights of which each has an effect."""
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(**settings)
    class_name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, drawn("Llama", **TINY))
    return path


@pytest.mark.parametrize("case", KNOWN)
def test_logits_equal_transformers(case: str, save: Save, tmp_path: Path) -> None:
    model, _ = save(case)
    path = tmp_path / "model.gguf"
    write_gguf(path, model)
    run = unrolled.load(path, device="cpu")
    expected = logits_of(model, IDS)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(run.logits(IDS), expected, **NEAR)
    family = "llama" if case == "mistral-whole" else CASES[case][0].lower()
    assert run.describe() == {
        "family": family,
        "parameters": model.num_parameters(),
        "context": 64,
        "vocabulary": 99,
    }


def test_a_window_of_mistral_is_kept(save: Save, tmp_path: Path) -> None:
    model, _ = save("mistral")
    path = tmp_path / "model.gguf"
    write_gguf(path, model, keys={"llama.attention.sliding_window": 7})
    run = unrolled.load(path, device="cpu")
    torch.testing.assert_close(run.logits(IDS), logits_of(model, IDS), **NEAR)
    assert run.describe()["family"] == "mistral"


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 2,
}
FACTORS = "rope_freqs.weight"


def test_factors_of_a_tensor_and_of_a_key_are_multiplied(
    save: Save, tmp_path: Path
) -> None:
    model, _ = save("llama-3.1")
    path = tmp_path / "model.gguf"
    write_gguf(path, model, keys={"llama.rope.scaling.factor": 2.0})
    run = unrolled.load(path, device="cpu")
    assert run.recipe.model.rotary_scaling.kind == "factors"
    with torch.no_grad():
        model.model.rotary_emb.inv_freq /= 2
    torch.testing.assert_close(run.logits(IDS), logits_of(model, IDS), **NEAR)


def test_factors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    model = drawn("Llama", **TINY, rope_parameters=LLAMA3)
    write_gguf(path, model)
    whole = path.read_bytes()
    # one dimension of two numbers, and then one of none
    row = FACTORS.encode() + struct.pack("<IQ", 1, 2)
    assert row in whole
    path.write_bytes(whole.replace(row, row[:-8] + struct.pack("<Q", 1)))
    with pytest.raises(
        UserError, match=r"rope_freqs.* has shape \[1\]; expected \[2\]"
    ):
        unrolled.load(path, device="cpu")
    numbers = next(
        t for t in gguf.GGUFReader(_put(path, whole)).tensors if t.name == FACTORS
    )
    begin = int(numbers.data_offset)
    path.write_bytes(whole[:begin] + struct.pack("<f", -1) + whole[begin + 4 :])
    with pytest.raises(UserError, match="positions are scaled: expected factors from"):
        unrolled.load(path, device="cpu")
    write_gguf(path, model, keys={"llama.rope.scaling.type": "yarn"})
    with pytest.raises(UserError, match="yarn; expected one of them"):
        unrolled.load(path, device="cpu")


def _put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "kind",
    ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K"],
)
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_quantized_weights_are_those_of_the_package(
    family: str, kind: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        **TINY,
        "vocab_size": 40,
        "hidden_size": 256,
        "intermediate_size": 256,
    }
    if family == "GPT2":
        settings = {
            "vocab_size": 40,
            "n_embd": 256,
            "n_inner": 256,
            "n_layer": 1,
            "n_head": 4,
            "n_positions": 8,
        }
    model = drawn(family, **settings)
    path = tmp_path / "model.gguf"
    stored = write_gguf(path, model, Type[kind])
    assert kind in {tensor.type for tensor in read_header(path).tensors.values()}
    run = unrolled.load(path, device="cpu")
    model.load_state_dict(stored, strict=False)
    model.tie_weights()
    ids = [3, 39, 0, 7, 7, 12]
    expected = logits_of(model, ids)
    assert float(expected.std()) > 0.1
    # logits are some tens here
    scale = max(1.0, float(expected.abs().max()) / 10)
    torch.testing.assert_close(run.logits(ids), expected, rtol=0, atol=1e-4 * scale)


def test_all_types_that_are_read_are_taken_apart_by_the_package() -> None:
    for name in (*PLAIN, *QUANTIZED):
        if name == "F64":
            continue
        block, size = gguf.GGML_QUANT_SIZES[Type[name]]
        numbers = gguf.quants.dequantize(np.zeros((2, size), np.uint8), Type[name])
        assert numbers.shape == (2, block)


def test_doubles_are_read(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "doubles.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    reader = gguf.GGUFReader(tiny)
    for key, field in reader.fields.items():
        if key.startswith("llama."):
            value = field.contents()
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.astype(np.float64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = [1, 2, 3]
    runs = [unrolled.load(file, device="cpu") for file in (tiny, path)]
    torch.testing.assert_close(runs[0].logits(ids), runs[1].logits(ids), rtol=0, atol=0)


def test_a_model_without_tokenizer_says_what_is_missing(
    tiny: Path, cli: Call, tmp_path: Path
) -> None:
    out, _ = cli("load", tiny, "--json")
    assert json.loads(out)["vocabulary"] == 7
    _, err = cli("generate", tiny, code=1)
    assert "it holds no tokenizer" in err
    assert "--tokenizer" in err
    add_tokenizer(tmp_path, 7)
    given = ("--tokenizer", tmp_path / "tokenizer.json")
    cli("generate", tiny, *given, "--max-new-tokens", 3, "--seed", 1)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "falcon"}, "'falcon', which is unknown here"),
        ({"split.count": 3}, "one part of 3"),
        ({"general.alignment": 3}, "general.alignment is 3; expected a power of two"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        (
            {"llama.rope.scaling.type": "yarn"},
            "rope.scaling.factor is 0; expected a positive number",
        ),
        (
            {"llama.rope.scaling.type": "longrope"},
            "type is 'longrope'; expected one of none, linear, yarn",
        ),
        ({"llama.rope.scaling.factor": 0.5}, "positions are scaled: factor=0.5"),
        ({"llama.rope.scaling.factor": "4"}, "rope.scaling.factor is '4'"),
        (
            {"llama.rope.scaling.attn_factor": 2.0},
            "rope.scaling.attn_factor is 2.0; expected 1.0",
        ),
        ({"llama.rope.scaling.alpha": 2.0}, "rope.scaling.alpha. is not known here"),
        ({"llama.rope.dimension_count": 2}, "expected the 4 features of a head"),
        ({"llama.attention.value_length": 8}, "expected the 4 features of a head"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8; expected 0"),
        ({"llama.expert_count": [8, 8]}, "llama.expert_count is a list of 2 numbers"),
        ({"llama.attention.head_count": [2, 2]}, "head_count is a list of 2 numbers"),
        (
            {"llama.attention.head_count": 3},
            r"attn_q.weight. has shape \[8, 8\]; expected \[12, 8\]",
        ),
        ({"llama.attention.head_count": 0}, "head_count is 0; expected a whole number"),
        ({"llama.embedding_length": 12}, "by its settings|multiple|features"),
        ({"llama.block_count": 2}, "expected also blk.1.attn_q.weight"),
        ({"llama.block_count": 1_000_000}, "1,000,000 layers, and there are"),
        ({"llama.feed_forward_length": 2**31 - 1}, "by its settings|more than"),
        ({"llama.context_length": "long"}, "llama.context_length is 'long'"),
        ({"llama.rope.freq_base": 0.0}, "llama.rope.freq_base is 0.0"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert'.*known are"),
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.tokens is None"),
        ({"tokenizer.huggingface.json": "{}"}, "expected a tokenizer.json"),
        ({"tokenizer.huggingface.json": "["}, "no tokenizer can be read"),
    ],
)
def test_settings_that_are_not_known_are_refused(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    keys = dict(keys)
    model = drawn("Llama", **TINY)
    architecture = keys.pop("general.architecture", None)
    write_gguf(path, model, keys=keys)
    if architecture:
        data = path.read_bytes()
        old = struct.pack("<Q", 5) + b"llama"
        new = struct.pack("<Q", len(architecture)) + architecture.encode()
        path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        unrolled.load(path, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_key_or_a_tensor_that_is_missing_is_named(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    whole = tiny.read_bytes()
    for old, new, message in (
        (b"llama.block_count", b"llama.block_kount", "the key llama.block_count"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_x.weight", "did it mean blk.0.attn_q"),
        (b"token_embd.weight", b"token_embx.weight", "expected the tensor token_embd"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_v.weight", "stands there twice"),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=message):
            unrolled.load(path, device="cpu")


def header(*parts: bytes, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


NAME = text("general.name")
ROW = text("w") + struct.pack("<I", 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF", "'version' takes 4 bytes"),
        (header(version=1), "GGUF version 1; expected version 2 or 3"),
        (
            b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
            "version 3 of big-endian machines",
        ),
        (header(tensors=2**60), "it tells of 1,152,921,504,606,846,976 tensors"),
        (header(keys=2**16 + 1), "it tells of 65,537 keys"),
        (header(struct.pack("<Q", 2**62), bytes(9), keys=1), "takes 4,611"),
        (header(NAME, struct.pack("<I", 99), keys=1), "is of type 99"),
        (
            header(NAME, struct.pack("<IIQ", 9, 8, 2**40), keys=1),
            "has 1,099,511,627,776 texts",
        ),
        (
            header(NAME, struct.pack("<IIQ", 9, 4, 2**40), keys=1),
            "'general.name' takes 4,398",
        ),
        (header(NAME, struct.pack("<IIQ", 9, 9, 1), keys=1), "a list of lists"),
        (
            header(NAME, struct.pack("<IQ", 8, 1), b"\xff", keys=1),
            "no text in UTF-8",
        ),
        (
            header(*(NAME + struct.pack("<II", 4, 1),) * 2, keys=2),
            "'general.name' stands there twice",
        ),
        (
            header(text("w"), struct.pack("<I", 9), bytes(80), tensors=1),
            "9 dimensions",
        ),
        (
            header(ROW, struct.pack("<QIQ", 4, 0, 0), tensors=1),
            r"\[4\] \(F32\) ends at byte",
        ),
        (
            header(ROW, struct.pack("<QIQ", 2**62, 0, 0), tensors=1),
            "ends at byte 18,446",
        ),
        (
            header(ROW, struct.pack("<QIQ", 0, 0, 0), bytes(64), tensors=1),
            r"of shape \[0\]",
        ),
        (
            header(ROW, struct.pack("<QIQ", 4, 0, 1), bytes(64), tensors=1),
            "expected a multiple of 32",
        ),
        (
            header(ROW, struct.pack("<QIQ", 4, 26, 0), bytes(64), tensors=1),
            "is of type I32; expected one of F32",
        ),
        (
            header(ROW, struct.pack("<QIQ", 4, 77, 0), bytes(64), tensors=1),
            "is of type 77",
        ),
        (
            header(ROW, struct.pack("<QIQ", 4, 8, 0), bytes(64), tensors=1),
            "expected a multiple of 32, of which Q8_0 is made",
        ),
        (
            header(
                ROW,
                struct.pack("<QIQ", 4, 0, 0),
                text("v"),
                struct.pack("<IQIQ", 1, 4, 0, 0),
                bytes(64),
                tensors=2,
            ),
            "begins inside another tensor",
        ),
        (header(), "general.architecture is None"),
    ],
)
def test_headers_that_are_not_whole_are_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        unrolled.load(path, device="cpu")
    assert "\n" not in str(caught.value)


def opened(path: Path, data: bytes) -> None:
    """Open what may be damaged; it is refused or is a model, and nothing else."""
    path.write_bytes(data)
    try:
        run = unrolled.load(path, device="cpu")
    except UserError:
        return
    assert run.logits([0]).shape[0] == 1


def test_a_file_cut_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    # the last tensor is padded
    for size in [*range(0, 1500, 23), *range(1500, len(whole) - 32, 211)]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError):
            unrolled.load(path, device="cpu")


def test_damaged_headers_are_refused_in_little_memory(
    tiny: Path, tmp_path: Path
) -> None:
    whole = tiny.read_bytes()
    end = whole.index(b"output_norm") + 64
    generator = np.random.default_rng(7)
    path = tmp_path / "damaged.gguf"
    opened(path, whole)
    tracemalloc.start()
    try:
        for _ in range(50):
            damaged = bytearray(whole)
            for at in generator.integers(0, end, generator.integers(1, 4)):
                damaged[at] = generator.integers(0, 256)
            opened(path, bytes(damaged))
        # the file has some 5 kB, and a message its share
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
