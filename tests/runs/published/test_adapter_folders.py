"""Folders of adapters without PEFT: what is written is read back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unrolled.core.errors import UserError
from unrolled.models import LanguageModel
from unrolled.nn import GRU, TokenEmbedding
from unrolled.nn.adapters import adapters
from unrolled.runs.adapting import adapted
from unrolled.runs.published.adapters import CONFIG, WEIGHTS, AdapterFolder
from unrolled.tasks.recipe import Recipe

from .test_adapters import NEAR, RANK, ids_below, kept, logits, put_beside, recipe_of
from .test_writing import GPT2, LLAMA, gpt


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


# ---------------------------------------------------------------------- read back

GPT2_KEYS = {**GPT2, "bias": True, "tie": True, "head_bias": False}
MODELS: dict[str, tuple[dict[str, Any], list[str] | None]] = {
    "llama": (LLAMA, None),
    "llama, some": (LLAMA, ["value", "feedforward.up"]),
    "gpt2": (GPT2_KEYS, None),
    "gpt2, inputs": (GPT2_KEYS, ["query", "key", "value"]),
    "gpt2, one part": (GPT2_KEYS, ["key"]),
    "gpt2, two parts": (GPT2_KEYS, ["query", "value", "feedforward.out"]),
    # no published family has both
    "names of ours": ({**LLAMA, "positions": "learned"}, None),
}


def made(name: str) -> LanguageModel:
    return gpt(30, **MODELS[name][0])


# lengths are learnt of all rows of what is one weight there, or of none
WITH_LENGTHS = [name for name in MODELS if "part" not in name]


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("targets", [["query"], ["query", "value"]])
def test_lengths_of_some_rows_of_one_weight_are_refused(
    targets: list[str], magnitudes: bool
) -> None:
    settings = {"rank": 2, "targets": targets, "magnitudes": magnitudes}
    recipe = Recipe.model_validate({"adapter": settings, "model": {"init": "base"}})
    begun = partial(adapted, made("gpt2"), recipe, [], Path("run"), True)
    if magnitudes:
        with pytest.raises(UserError, match="name all of query, key and value"):
            begun()
    else:
        assert adapters(begun().model)


@pytest.mark.parametrize(
    ("name", "magnitudes"),
    [
        *[(name, False) for name in MODELS],
        *[(name, True) for name in WITH_LENGTHS],
    ],
)
def test_what_was_written_is_read_back(
    name: str, magnitudes: bool, tmp_path: Path
) -> None:
    model = made(name)
    ids = ids_below(30)
    plain = logits(model, ids)
    adaptation = put_beside(model, MODELS[name][1], magnitudes)
    expected = logits(model, ids)
    assert not torch.allclose(expected, plain, atol=1e-2)
    beside = kept(adaptation, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    merged_model = made(name)
    merged_model.load_state_dict(weights, strict=False)
    torch.testing.assert_close(logits(merged_model, ids), expected, **NEAR)
    again = made(name)
    adapted(again, recipe_of(beside), [], beside, begins=True)
    assert set(adapters(again)) == set(adapters(model))
    torch.testing.assert_close(logits(again, ids), expected, **NEAR)


def test_recurrent_layers_are_kept_by_our_names(tmp_path: Path) -> None:
    def language() -> LanguageModel:
        torch.manual_seed(2)
        return LanguageModel(TokenEmbedding(9, 6), GRU(6, 5), 9).eval()

    model = language()
    beside = kept(put_beside(model, ["weight_hh"]), tmp_path / "run")
    tensors = load_file(beside / WEIGHTS)
    start = "base_model.model.layer.weight_hh_l0"
    assert set(tensors) == {f"{start}.lora_A.weight", f"{start}.lora_B.weight"}
    again = language()
    adapted(again, recipe_of(beside), [], beside, begins=True)
    ids = ids_below(9)
    torch.testing.assert_close(logits(again, ids), logits(model, ids), **NEAR)


def test_settings_say_what_peft_needs_to_know(tmp_path: Path) -> None:
    beside = kept(put_beside(made("gpt2"), ["key", "out"]), tmp_path / "run")
    config = json.loads((beside / CONFIG).read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "base"
    assert config["fan_in_fan_out"] is True
    assert config["r"] == RANK
    assert config["lora_alpha"] == pytest.approx(1.5 * RANK)
    assert config["use_dora"] is False
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_proj")
    blocks = [f"transformer.h.{number}." for number in (0, 1)]
    names = {block + part for block in blocks for part in parts}
    assert set(config["target_modules"]) == names
    tensors = load_file(beside / WEIGHTS)
    up = tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert up.shape == (48, RANK)
    # queries and values have none
    assert not up[:16].any()
    assert not up[32:].any()
    assert up[16:32].any()


def test_parts_of_a_product_have_ranks_side_by_side(tmp_path: Path) -> None:
    model = made("gpt2")
    beside = kept(put_beside(model, ["query", "value"]), tmp_path / "run")
    config = json.loads((beside / CONFIG).read_text())
    assert config["lora_alpha"] / config["r"] == pytest.approx(1.5)
    folder = AdapterFolder.open(beside)
    joined = folder.adapters["transformer.h.0.attn.c_attn"]
    assert joined.rank == 2 * RANK
    assert joined.scale == pytest.approx(1.5)
    ours = adapters(model)
    change = joined.up @ joined.down
    for part, kind in enumerate(("query", "key", "value")):
        low_rank = ours.get(f"layer.blocks.0.attention.{kind}.weight")
        expected = torch.zeros(16, 16)
        if low_rank is not None:
            expected = (low_rank.up @ low_rank.down).detach()
        torch.testing.assert_close(change.chunk(3)[part], expected)


# ---------------------------------------------------------------------- what is refused


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with adapters beside all products of a small stack."""
    return kept(put_beside(made("llama"), None), tmp_path / "run")


def changed(folder: Path, **settings: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refusal(folder: Path) -> str:
    """Return why a training does not begin with the adapters of a folder."""
    with pytest.raises(UserError) as error:
        adapted(made("llama"), recipe_of(folder), [], folder, begins=True)
    return str(error.value)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected 'LORA'"),
    ({"peft_type": None}, "peft_type is None; expected 'LORA'"),
    ({"use_rslora": True}, "use_rslora is True; expected False"),
    ({"bias": "all"}, "bias is 'all'; expected 'none'"),
    ({"lora_bias": True}, "lora_bias is True; expected False"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices is [1]"),
    ({"lora_alpha": "much"}, "lora_alpha is 'much'; expected a positive number"),
    ({"lora_alpha": 0}, "lora_alpha is 0; expected a positive number"),
    ({"alpha_pattern": 3}, "alpha_pattern is 3; expected numbers by the names"),
    ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
    ({"lora_dropout": "x"}, "lora_dropout"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_that_are_not_known_are_refused(
    settings: dict[str, Any], message: str, beside: Path
) -> None:
    changed(beside, **settings)
    said = refusal(beside)
    assert said.startswith(f"{beside / CONFIG}: ")
    assert message in said


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_settings_that_are_none_are_refused(content: str, beside: Path) -> None:
    (beside / CONFIG).write_text(content)
    assert str(beside / CONFIG) in refusal(beside)


def test_a_folder_without_settings_is_refused(beside: Path) -> None:
    (beside / CONFIG).unlink()
    assert f"there is no {CONFIG} in that folder" in refusal(beside)
    with pytest.raises(UserError, match=f"expected {CONFIG} in this folder"):
        AdapterFolder.open(beside)


def test_weights_that_are_not_there_or_not_whole_are_refused(beside: Path) -> None:
    path = beside / WEIGHTS
    content = path.read_bytes()
    for size in (len(content) - 4, 40, 4, 0):
        path.write_bytes(content[:size])
        said = refusal(beside)
        assert said.startswith(f"{path}: no whole file of safetensors"), size
    path.unlink()
    assert refusal(beside).startswith(f"{path}: expected this file of weights")


START = "base_model.model.model.layers.1."
DOWN = START + "self_attn.q_proj.lora_A.weight"
UP = START + "self_attn.q_proj.lora_B.weight"


def lacks_down(tensors: dict[str, Tensor]) -> None:
    del tensors[DOWN]


def lacks_up(tensors: dict[str, Tensor]) -> None:
    del tensors[UP]


def ranks_differ(tensors: dict[str, Tensor]) -> None:
    tensors[UP] = torch.zeros(16, RANK + 1)


def is_a_vector(tensors: dict[str, Tensor]) -> None:
    tensors[DOWN] = torch.zeros(16)


def reads_more(tensors: dict[str, Tensor]) -> None:
    tensors[DOWN] = torch.zeros(RANK, 17)


def says_more(tensors: dict[str, Tensor]) -> None:
    tensors[UP] = torch.zeros(20, RANK)


def is_elsewhere(tensors: dict[str, Tensor]) -> None:
    for name in (DOWN, UP):
        tensors[name.replace("layers.1", "layers.7")] = tensors.pop(name)


def is_of_the_embedding(tensors: dict[str, Tensor]) -> None:
    name = "base_model.model.model.embed_tokens"
    tensors[f"{name}.lora_A.weight"] = torch.zeros(RANK, 16)
    tensors[f"{name}.lora_B.weight"] = torch.zeros(30, RANK)


def has_other_names(tensors: dict[str, Tensor]) -> None:
    tensors[DOWN.removeprefix("base_model.")] = tensors.pop(DOWN)


def holds_nothing(tensors: dict[str, Tensor]) -> None:
    tensors.clear()


def has_whole_numbers(tensors: dict[str, Tensor]) -> None:
    tensors[DOWN] = torch.zeros(RANK, 16, dtype=torch.int64)


DAMAGES: list[tuple[Callable[[dict[str, Tensor]], None], str]] = [
    (lacks_down, "'model.layers.1.self_attn.q_proj' lacks lora_A"),
    (lacks_up, "'model.layers.1.self_attn.q_proj' lacks lora_B"),
    (ranks_differ, "shapes [2, 16] and [16, 3], which do not go together"),
    (is_a_vector, "shapes [16] and [16, 2], which do not go together"),
    (reads_more, "is for a product of shape [16, 17], and here it is [16, 16]"),
    (says_more, "is for a product of shape [20, 16], and here it is [16, 16]"),
    (is_elsewhere, "this model has no such product; it has layer.blocks.0"),
    (is_of_the_embedding, "'model.embed_tokens' has an adapter there"),
    (has_other_names, "is no name that PEFT gives; expected base_model.model."),
    (holds_nothing, "it holds no adapters"),
    (has_whole_numbers, "is of type I64; expected one of F32"),
]


@pytest.mark.parametrize(
    ("damage", "message"),
    DAMAGES,
    ids=[damage.__name__ for damage, _ in DAMAGES],
)
def test_tensors_that_do_not_fit_are_refused(
    damage: Callable[[dict[str, Tensor]], None], message: str, beside: Path
) -> None:
    rewritten(beside, damage)
    said = refusal(beside)
    assert said.startswith(f"{beside / WEIGHTS}: ")
    assert message in said


LENGTHS = DOWN.replace("lora_A.weight", "lora_magnitude_vector")


def are_too_few(tensors: dict[str, Tensor]) -> None:
    tensors[LENGTHS] = torch.ones(15)


def are_one_for_all(tensors: dict[str, Tensor]) -> None:
    tensors[LENGTHS] = torch.ones(1)


def are_missing_once(tensors: dict[str, Tensor]) -> None:
    del tensors[LENGTHS]


def are_all_missing(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        if "magnitude" in name:
            del tensors[name]


@pytest.mark.parametrize(
    "damage", [are_too_few, are_one_for_all, are_missing_once, are_all_missing]
)
def test_lengths_that_do_not_fit_are_refused(
    damage: Callable[[dict[str, Tensor]], None], tmp_path: Path
) -> None:
    beside = kept(put_beside(made("llama"), None, magnitudes=True), tmp_path / "run")
    rewritten(beside, damage)
    assert str(beside) in refusal(beside)
