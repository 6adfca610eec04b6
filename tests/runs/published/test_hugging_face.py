"""Folders of Hugging Face against transformers, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unrolled
from unrolled.core.errors import UserError

from .conftest import CASES, Save, add_tokenizer, transformers

IDS = np.random.default_rng(0).integers(0, 99, 40).tolist()
# fp32 on both sides, sums in another order
NEAR = {"rtol": 0, "atol": 1e-4}


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return scores


def change(path: Path, **values: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | values))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, save: Save) -> None:
    model, folder = save(case)
    run = unrolled.load(folder, device="cpu")
    logits = run.logits(IDS)
    assert logits.dtype == torch.float32
    expected = logits_of(model, IDS)
    # random weights must say something for equality to mean anything
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(logits, expected, **NEAR)
    assert run.describe() == {
        "family": CASES[case][0].lower(),
        "parameters": model.num_parameters(),
        "context": 64,
        "vocabulary": 99,
    }


@pytest.mark.parametrize("case", ["gpt2", "mistral", "qwen3", "qwen2-yarn"])
def test_steps_equal_the_whole_pass(case: str, save: Save) -> None:
    _, folder = save(case)
    run = unrolled.load(folder, device="cpu")
    expected = run.logits(IDS)
    state = run.model.initial_state(1)
    rows = []
    with torch.no_grad():
        for id in IDS:
            scores, state = run.model.step(torch.tensor([id]), state)
            rows.append(scores[0])
    torch.testing.assert_close(torch.stack(rows), expected, **NEAR)


def test_shards_of_an_index_are_read(save: Save) -> None:
    model, folder = save("llama", max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    expected = logits_of(model, IDS)
    logits = unrolled.load(folder, device="cpu").logits(IDS)
    torch.testing.assert_close(logits, expected, **NEAR)


def test_a_stack_without_the_prefix_and_with_masks_is_read(save: Save) -> None:
    # the first GPT-2 was published so
    model, folder = save("gpt2")
    path = folder / "model.safetensors"
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(path).items()
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(tensors, path)
    logits = unrolled.load(folder, device="cpu").logits(IDS)
    torch.testing.assert_close(logits, logits_of(model, IDS), **NEAR)


def test_half_precision_is_read_as_fp32(save: Save) -> None:
    model, folder = save("llama")
    model.to(torch.bfloat16).save_pretrained(folder)
    # read anew: ``to`` has rounded the rotations of this one too
    theirs = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    logits = unrolled.load(folder, device="cpu").logits(IDS)
    torch.testing.assert_close(logits, logits_of(theirs, IDS), **NEAR)


def test_older_keys_of_rotary_positions_are_read(save: Save) -> None:
    model, folder = save("qwen2")
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document.pop("rope_parameters")
    document.pop("layer_types")
    document["rope_theta"] = 1e6
    path.write_text(json.dumps(document))
    logits = unrolled.load(folder, device="cpu").logits(IDS)
    torch.testing.assert_close(logits, logits_of(model, IDS), **NEAR)


@pytest.mark.parametrize("case", ["llama-linear", "llama-3.1", "qwen2-yarn"])
def test_older_keys_of_scaled_positions_are_read(case: str, save: Save) -> None:
    model, folder = save(case)
    path = folder / "config.json"
    document = json.loads(path.read_text())
    table = document.pop("rope_parameters")
    document["rope_theta"] = table.pop("rope_theta")
    table["type"] = table.pop("rope_type")
    path.write_text(json.dumps(document | {"rope_scaling": table}))
    run = unrolled.load(folder, device="cpu")
    assert run.recipe.model.rotary_scaling.kind == table["type"]
    torch.testing.assert_close(run.logits(IDS), logits_of(model, IDS), **NEAR)


def test_greedy_text_is_that_of_transformers(save: Save, tmp_path: Path) -> None:
    model, folder = save("gpt2-untied-relu")
    add_tokenizer(folder)
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = library.encode("the cat").ids
    written = model.generate(
        torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0
    )[0].tolist()
    run = unrolled.load(folder, device="cpu")
    text = run.generate("the cat", 20, temperature=0)
    before = library.decode(ids)
    assert text == library.decode(written).removeprefix(before)
    path = tmp_path / "text.txt"
    path.write_text("the dog ran to the cat and sat")
    scores = run.evaluate(path)
    assert set(scores) >= {"loss", "perplexity", "bits_per_byte"}
    # 20 tokens, the mark before them that texts begin with: GPT-2's own is beyond this vocabulary
    targets = library.encode("the dog ran to the cat and sat").ids
    expected = torch.nn.functional.cross_entropy(
        logits_of(model, [0, *targets[:-1]]), torch.tensor(targets)
    )
    assert scores["loss"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("case", ["gpt2", "qwen2"])
def test_vocabulary_and_merges_are_a_tokenizer(case: str, save: Save) -> None:
    _, folder = save(case)
    words = [*"aehnstcATES'.<>|_dofx", "Ġ", "Ċ"]
    merges = ["t h", "a t", "th e"]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|endoftext|>", *(f"[{id}]" for id in range(30))]
    ids = {word: id for id, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    end = ids["<|endoftext|>"]
    entry = {"content": "<extra>", "special": False, "lstrip": False, "rstrip": False}
    entry |= {"single_word": False, "normalized": False}
    settings = {"added_tokens_decoder": {str(len(ids)): entry}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    change(folder / "config.json", eos_token_id=end, bos_token_id=end)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = unrolled.load(folder, device="cpu").task.tokenizer
    assert tokenizer is not None
    assert tokenizer.end_ids == (end,)
    for text in ("the cat's at", "<|endoftext|>that <extra>the", "thE  at'S\n\nAT "):
        assert tokenizer.encode(text) == theirs(text).input_ids
    assert tokenizer.decode(tokenizer.encode("the cat at")) == "the cat at"
    (folder / "merges.txt").write_text("t q\n")
    with pytest.raises(UserError, match=r"vocab\.json: the tokenizer cannot be read"):
        unrolled.load(folder, device="cpu")


def test_how_a_tokenizer_is_made_is_said(save: Save) -> None:
    _, folder = save("llama")
    (folder / "tokenizer.model").write_bytes(b"\x0a")
    run = unrolled.load(folder, device="cpu")
    made = (
        rf"of tokenizer\.model: AutoTokenizer\.from_pretrained\('{folder}'\)\.save_pret"
    )
    with pytest.raises(UserError, match=made):
        run.generate("a", 2)


def test_without_a_tokenizer_logits_are_there_and_text_is_not(save: Save) -> None:
    _, folder = save("gpt2")
    run = unrolled.load(folder, device="cpu")
    with pytest.raises(UserError, match=r"expected tokenizer\.json here"):
        run.generate("a", 2)
    for ids, message in (
        ([], "give a list"),
        ([0.5], "give a list"),
        ([99], "from 0 to 98"),
        ([-1], "from 0 to 98"),
        ([1] * 65, "reads 64 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            run.logits(ids)


def scaled(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": kind, **values}, "rope_parameters": None}


LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}
SCALINGS: list[tuple[dict[str, Any], str]] = [
    (scaled("dynamic", factor=2.0), "rope_type is 'dynamic'; expected one of default"),
    (scaled("longrope", short_factor=[1.0]), "'longrope'; expected one of default"),
    (scaled("linear"), "rope_scaling.factor is missing; expected a positive number"),
    (scaled("linear", factor="2"), "rope_scaling.factor is '2'; expected a positive"),
    (scaled("linear", factor=0.5), "positions are scaled: factor=0.5: .*equal to 1"),
    (scaled("llama3", factor=8.0), "rope_scaling.low_freq_factor is missing"),
    (scaled("llama3", **LLAMA3), "high_frequency_factor above low_frequency_factor"),
    (scaled("yarn", factor=2.0, mscale=0.7), "rope_scaling.mscale is 0.7"),
    (scaled("yarn", factor=2.0, truncate=False), "rope_scaling.truncate is False"),
    ({"rope_scaling": [2.0]}, "rope_scaling is .2.0.; expected a table"),
    ({"rope_scaling": LINEAR}, "rope_scaling is .*leave out one of them"),
    (
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        "rope_parameters.partial_rotary_factor is 0.5",
    ),
    ({"rope_parameters": {"rope_theta": 0}}, "rope_parameters.rope_theta is 0"),
]


@pytest.mark.parametrize(
    ("case", "values", "message"),
    [
        ("llama", {"auto_map": {"AutoModel": "m.M"}}, "auto_map asks for code"),
        ("llama", {"trust_remote_code": True}, "trust_remote_code asks for code"),
        ("llama", {"model_type": "mamba"}, "known are gpt2 .*, llama .*qwen3"),
        ("llama", {"model_type": None}, "model_type is None"),
        ("llama", {"architectures": ["LlamaForTokenClassification"]}, "known are gpt2"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu'"),
        ("llama", {"hidden_size": "wide"}, "hidden_size is 'wide'; expected a whole"),
        ("llama", {"hidden_size": 48}, r"has shape .*; expected"),
        ("llama", {"num_hidden_layers": 2}, "layers.2.*was not expected"),
        ("llama", {"num_hidden_layers": 4}, r"expected also model\.layers\.3"),
        ("llama", {"num_hidden_layers": 2**31 - 1}, "layers, and there are 30 tensors"),
        ("llama", {"num_attention_heads": 5}, "multiple of"),
        ("llama", {"vocab_size": 2**31 - 1}, "has shape .*2147483647"),
        *(("llama", *case) for case in SCALINGS),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "expected False"),
        ("gpt2", {"activation_function": "mish"}, "expected one of gelu_new"),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"] * 2},
            "in all",
        ),
    ],
)
def test_a_config_that_is_not_the_weights_is_refused(
    case: str, values: dict[str, Any], message: str, save: Save
) -> None:
    _, folder = save(case)
    change(folder / "config.json", **values)
    with pytest.raises(UserError, match=message) as caught:
        unrolled.load(folder)
    assert "\n" not in str(caught.value)


def test_code_in_the_tokenizers_config_is_refused(save: Save) -> None:
    _, folder = save("gpt2")
    path = folder / "tokenizer_config.json"
    path.write_text('{"auto_map": {"AutoTokenizer": ["t.T", null]}}')
    with pytest.raises(UserError, match="auto_map asks for code"):
        unrolled.load(folder)


def test_weights_that_are_not_whole_are_refused(save: Save) -> None:
    _, folder = save("llama")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for data in (whole[:-8], whole[:50], b"", b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(UserError, match="no whole file of safetensors"):
            unrolled.load(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"expected weights in model\.safetensors"):
        unrolled.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match="a pickle can run code"):
        unrolled.load(folder)


@pytest.mark.parametrize(
    ("change_tensors", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"expected also model\.norm\.weight"),
        (lambda t: t.update(extra=torch.zeros(2)), "'extra' was not expected"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
            r"'model\.norm\.weight' has shape \[3\]; expected \[24\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(24).int()}),
            "is of type I32; expected one of F32",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.full((24,), torch.nan)}),
            "not finite",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change_tensors: Any, message: str, save: Save
) -> None:
    _, folder = save("llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change_tensors(tensors)
    save_file(tensors, path)
    with pytest.raises(UserError, match=message):
        unrolled.load(folder)


def test_an_index_that_leads_elsewhere_is_refused(save: Save) -> None:
    _, folder = save("llama", max_shard_size="10KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for file, message in (
        ("../other.safetensors", "no file of this folder"),
        ("none.safetensors", "it is missing"),
    ):
        changed = {**index["weight_map"], "model.norm.weight": file}
        path.write_text(json.dumps({**index, "weight_map": changed}))
        with pytest.raises(UserError, match=message):
            unrolled.load(folder)
    path.write_text("[1]")
    with pytest.raises(UserError, match="expected a weight_map"):
        unrolled.load(folder)


def test_another_models_tokenizer_is_refused(save: Save) -> None:
    _, folder = save("gpt2")
    for size, message in ((120, "another model's"), (30, "another model's")):
        add_tokenizer(folder, size)
        with pytest.raises(UserError, match=message):
            unrolled.load(folder)
    (folder / "tokenizer.json").write_text('{"model": {"type": "Odd"}}')
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        unrolled.load(folder)
