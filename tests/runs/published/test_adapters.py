"""Adapters in folders of PEFT: what it writes is read, and what ours writes is read by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import UserError
from unrolled.models import LanguageModel
from unrolled.nn import GRU, TokenEmbedding
from unrolled.nn.adapters import adapt, adapters, freeze_all_but, merged, products
from unrolled.runs.adapting import Adaptation, adapted, with_adapter_settings
from unrolled.runs.published import open_published
from unrolled.runs.published.adapters import (
    CONFIG,
    WEIGHTS,
    AdapterFolder,
    AdapterNames,
)
from unrolled.tasks.recipe import Recipe
from unrolled.training.averaging import snapshot

from .conftest import Save
from .test_writing import GPT2, LLAMA, gpt

pytest.importorskip("transformers")
# of versions of PEFT and transformers that are not of one time
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
NEAR = {"atol": 2e-5, "rtol": 1e-4}  # fp32 on both sides, sums in another order
RANK = 2
LLAMA_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
LLAMA_NETWORK = ["gate_proj", "up_proj", "down_proj"]
ALL = LLAMA_PROJECTIONS + LLAMA_NETWORK
# GPT-2 keeps its products the other way round
GPT2_ALL = ["c_attn", "c_proj", "c_fc"]
THEIRS = [
    ("llama", ALL),
    ("llama", ["q_proj", "up_proj"]),
    ("llama", ["gate_proj"]),
    ("qwen2", ALL),
    ("gpt2", GPT2_ALL),
    ("gpt2", ["c_attn"]),
]
# both parts of what is one product here, or none
THEIR_LENGTHS = [
    ("llama", ALL),
    ("llama", ["o_proj", "up_proj", "gate_proj"]),
    ("qwen2", LLAMA_PROJECTIONS),
    ("gpt2", GPT2_ALL),
]


def recipe_of(folder: Path, **keys: Any) -> Recipe:
    settings = {"init": str(folder), **keys}
    recipe = Recipe.model_validate({"adapter": settings, "model": {"init": "base"}})
    return with_adapter_settings(recipe, folder)


def taken(base: Path, folder: Path) -> Adaptation:
    """Return a checkpoint with the adapters of a folder, as a training begins with them."""
    model = open_published(base).model.eval()
    return adapted(model, recipe_of(folder), [], folder, begins=True)


def drawn(model: nn.Module) -> None:
    """Draw what adapters learn, so that they say something."""
    with torch.no_grad():
        for low_rank in adapters(model).values():
            for weight in low_rank.parameters():
                weight.mul_(1 + 0.2 * torch.rand_like(weight))
            nn.init.normal_(low_rank.up, std=0.2)


def put_beside(
    model: nn.Module, targets: list[str] | None, magnitudes: bool = False
) -> Adaptation:
    """Put adapters beside some products of a model."""
    names = AdapterNames.of(model)
    for product in list(products(model)):
        if targets is None or any(map(product.is_called, targets)):
            adapt(product, RANK, 1.5, magnitudes)
    freeze_all_but(model, lambda name: False)
    drawn(model)
    return Adaptation(model, names, "base", (), 0.0)


def kept(adaptation: Adaptation, run: Path) -> Path:
    """Write adapters as a run keeps them; return their folder."""
    run.mkdir()
    adaptation.keep(run, snapshot(adaptation.model))
    return run / "adapter"


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model(ids)[0]
    return scores


def ids_below(size: int) -> Tensor:
    return torch.randint(0, size, (2, 9))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


# ---------------------------------------------------------------------- beside PEFT


def given(
    base: nn.Module, folder: Path, targets: list[str], **settings: Any
) -> nn.Module:
    """Return a model of transformers with adapters of PEFT that say something, and save them."""
    peft = pytest.importorskip("peft")
    is_gpt2 = "c_attn" in targets or "c_fc" in targets
    options: dict[str, Any] = {
        "r": RANK,
        "lora_alpha": 5,
        "target_modules": targets,
        "fan_in_fan_out": is_gpt2,
        "task_type": "CAUSAL_LM",
        **settings,
    }
    model: nn.Module = peft.get_peft_model(base, peft.LoraConfig(**options))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.2)
            if "magnitude" in name or "modules_to_save" in name:
                weight.mul_(1 + 0.2 * torch.rand_like(weight))
    save_theirs(model, folder)
    return model.eval()


def save_theirs(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


def their_logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model(ids).logits
    return scores


@pytest.mark.parametrize(
    ("case", "targets", "magnitudes"),
    [
        *[(*theirs, False) for theirs in THEIRS],
        *[(*theirs, True) for theirs in THEIR_LENGTHS],
    ],
)
def test_what_peft_wrote_says_the_same_here(
    case: str, targets: list[str], magnitudes: bool, save: Save, tmp_path: Path
) -> None:
    base, folder = save(case)
    ids = ids_below(99)
    plain = their_logits(base, ids)
    theirs = given(base, tmp_path / "theirs", targets, use_dora=magnitudes)
    expected = their_logits(theirs, ids)
    assert (expected - plain).abs().max() > 0.01
    model = taken(folder, tmp_path / "theirs").model
    torch.testing.assert_close(logits(model, ids), expected, **NEAR)
    with merged(model):
        torch.testing.assert_close(logits(model, ids), expected, **NEAR)


def test_lengths_of_half_a_product_are_refused(save: Save, tmp_path: Path) -> None:
    base, folder = save("llama")
    given(base, tmp_path / "theirs", ["up_proj"], use_dora=True)
    message = r"parts of layer\.blocks\.0\.feedforward\.up .* of different kinds"
    with pytest.raises(UserError, match=message):
        taken(folder, tmp_path / "theirs")


OURS: list[tuple[str, list[str] | None]] = [
    ("llama", None),
    ("llama", ["feedforward.up", "query"]),
    ("qwen2", None),
    ("gpt2", None),
    ("gpt2", ["query", "value"]),
    ("gpt2", ["key", "feedforward.out"]),
]


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize(("case", "targets"), OURS)
def test_what_ours_wrote_says_the_same_in_peft(
    case: str,
    targets: list[str] | None,
    magnitudes: bool,
    save: Save,
    tmp_path: Path,
) -> None:
    peft = pytest.importorskip("peft")
    base, folder = save(case)
    ids = ids_below(99)
    model = open_published(folder).model.eval()
    plain = logits(model, ids)
    adaptation = put_beside(model, targets, magnitudes)
    expected = logits(model, ids)
    assert (expected - plain).abs().max() > 0.01
    beside = kept(adaptation, tmp_path / "run")
    theirs = peft.PeftModel.from_pretrained(base, beside).eval()
    torch.testing.assert_close(their_logits(theirs, ids), expected, **NEAR)


UPDATED = [
    ("llama", ALL),
    ("qwen2", ["v_proj", "down_proj", "up_proj", "gate_proj"]),
    # of c_attn three products here have an A of their own
    ("gpt2", ["c_proj", "c_fc"]),
]


def learn(model: nn.Module, scores: Callable[[Tensor], Tensor], ids: Tensor) -> float:
    """Make three updates by AdamW; return the loss before the last."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 0.01, eps=1e-5, weight_decay=0.0)
    loss = torch.zeros(())
    for _ in range(3):
        said = scores(ids)[:, :-1].flatten(0, 1)
        loss = F.cross_entropy(said, ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize(("case", "targets"), UPDATED)
def test_updates_are_those_of_peft(
    case: str, targets: list[str], magnitudes: bool, save: Save, tmp_path: Path
) -> None:
    base, folder = save(case)
    ids = ids_below(99)
    theirs = given(base, tmp_path / "theirs", targets, use_dora=magnitudes)
    before = load_file(tmp_path / "theirs" / WEIGHTS)
    adaptation = taken(folder, tmp_path / "theirs")
    ours = adaptation.model
    loss = learn(ours, lambda ids: ours(ids)[0], ids)
    expected = learn(theirs, lambda ids: theirs(ids).logits, ids)
    assert loss == pytest.approx(expected, rel=1e-4)
    save_theirs(theirs, tmp_path / "after")
    after = load_file(tmp_path / "after" / WEIGHTS)
    written = load_file(kept(adaptation, tmp_path / "run") / WEIGHTS)
    assert set(written) == set(after)
    for name, tensor in after.items():
        assert (tensor - before[name]).abs().max() > 0.01, name
        torch.testing.assert_close(written[name], tensor, atol=2e-4, rtol=0, msg=name)


@pytest.mark.parametrize("pattern", ["q_proj", "layers.1.self_attn.q_proj"])
def test_a_scale_of_some_modules_is_heeded(
    pattern: str, save: Save, tmp_path: Path
) -> None:
    base, _ = save("llama")
    given(
        base,
        tmp_path / "theirs",
        ["q_proj", "v_proj"],
        rank_pattern={pattern: 4},
        alpha_pattern={pattern: 6},
    )
    folder = AdapterFolder.read(tmp_path / "theirs")
    scales = {name: (part.rank, part.scale) for name, part in folder.adapters.items()}
    query = "model.layers.{}.self_attn.q_proj"
    usual = (RANK, 5 / RANK)
    assert scales[query.format(1)] == (4, 6 / 4)
    first = (4, 6 / 4) if pattern == "q_proj" else usual
    assert scales[query.format(0)] == first
    assert scales["model.layers.1.self_attn.v_proj"] == usual
    with pytest.raises(UserError, match="several ranks or scales"):
        recipe_of(tmp_path / "theirs")


def test_a_pattern_of_peft_is_heeded_or_refused(save: Save, tmp_path: Path) -> None:
    base, _ = save("llama")
    pattern = {r"layers\.[12]\.self_attn\.q_proj": 40}
    given(base, tmp_path / "theirs", ["q_proj"], alpha_pattern=pattern)
    try:
        read = AdapterFolder.read(tmp_path / "theirs")
    except UserError as error:
        assert "alpha_pattern" in str(error)
        return
    scales = [part.scale for _, part in sorted(read.adapters.items())]
    assert scales == [5 / RANK, 40 / RANK, 40 / RANK]


def test_weights_that_peft_trained_whole_are_taken_or_refused(
    save: Save, tmp_path: Path
) -> None:
    base, folder = save("llama")
    ids = ids_below(99)
    options = {"modules_to_save": ["lm_head"]}
    theirs = given(base, tmp_path / "theirs", ["q_proj"], **options)
    assert "lm_head.weight" in AdapterFolder.read(tmp_path / "theirs").whole
    try:
        model = taken(folder, tmp_path / "theirs").model
    except UserError as error:
        assert "lm_head" in str(error)
        return
    expected = their_logits(theirs, ids)
    torch.testing.assert_close(logits(model, ids), expected, **NEAR)


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


@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("name", MODELS)
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
    # of c_attn all parts have one there
    assert set(adapters(again)) >= set(adapters(model))
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
    folder = AdapterFolder.read(beside)
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
    said = refusal(beside)
    assert str(beside) in said
    assert f"there is no {CONFIG} in that folder" in said
    with pytest.raises(UserError, match=f"expected {CONFIG} in this folder"):
        AdapterFolder.read(beside)


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
