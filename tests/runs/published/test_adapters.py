"""Adapters in folders of PEFT: what it writes is read, and what ours writes is read by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from unrolled.core.errors import UserError
from unrolled.nn.adapters import adapt, adapters, freeze_all_but, merged, products
from unrolled.runs.adapting import Adaptation, adapted
from unrolled.runs.published import open_published
from unrolled.runs.published.adapters import (
    WEIGHTS,
    AdapterFolder,
    AdapterNames,
)
from unrolled.tasks.recipe import Recipe
from unrolled.training.adapting import AdapterConfig
from unrolled.training.averaging import snapshot

from .conftest import Save

pytest.importorskip("transformers")
# of versions of PEFT and transformers that are not of one time
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
NEAR: dict[str, Any] = {
    "atol": 2e-5,
    "rtol": 1e-4,
}  # fp32 on both sides, sums in another order
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
    return Recipe.model_validate({"adapter": settings, "model": {"init": "base"}})


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
    return Adaptation(model, names, "base", (), AdapterConfig())


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


# lengths of some rows of what is one weight there are refused
WITH_LENGTHS = [case for case in OURS if case[0] != "gpt2" or case[1] is None]


@pytest.mark.parametrize(
    ("case", "targets", "magnitudes"),
    [
        *[(*ours, False) for ours in OURS],
        *[(*ours, True) for ours in WITH_LENGTHS],
    ],
)
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
    base, saved = save("llama")
    ids = ids_below(99)
    theirs = given(
        base,
        tmp_path / "theirs",
        ["q_proj", "v_proj"],
        rank_pattern={pattern: 4},
        alpha_pattern={pattern: 6},
    )
    expected = their_logits(theirs, ids)
    folder = AdapterFolder.open(tmp_path / "theirs")
    scales = {name: (part.rank, part.scale) for name, part in folder.adapters.items()}
    query = "model.layers.{}.self_attn.q_proj"
    usual = (RANK, 5 / RANK)
    assert scales[query.format(1)] == (4, 6 / 4)
    first = (4, 6 / 4) if pattern == "q_proj" else usual
    assert scales[query.format(0)] == first
    assert scales["model.layers.1.self_attn.v_proj"] == usual
    # of one rank and scale here
    adaptation = taken(saved, tmp_path / "theirs")
    torch.testing.assert_close(logits(adaptation.model, ids), expected, **NEAR)
    assert adaptation.settings.rank == max(RANK, 4)


def test_a_pattern_of_peft_is_heeded_or_refused(save: Save, tmp_path: Path) -> None:
    base, _ = save("llama")
    pattern = {r"layers\.[12]\.self_attn\.q_proj": 40}
    given(base, tmp_path / "theirs", ["q_proj"], alpha_pattern=pattern)
    reason = ""
    scales: list[float] = []
    try:
        read = AdapterFolder.open(tmp_path / "theirs")
        scales += [part.scale for _, part in sorted(read.adapters.items())]
    except UserError as error:
        reason = str(error)
    assert "alpha_pattern" in reason or scales == [5 / RANK, 40 / RANK, 40 / RANK]


def test_weights_that_peft_trained_whole_are_taken_or_refused(
    save: Save, tmp_path: Path
) -> None:
    base, folder = save("llama")
    ids = ids_below(99)
    options = {"modules_to_save": ["lm_head"]}
    theirs = given(base, tmp_path / "theirs", ["q_proj"], **options)
    assert "lm_head.weight" in AdapterFolder.open(tmp_path / "theirs").whole
    said = their_logits(theirs, ids)
    reason = ""
    try:
        said = logits(taken(folder, tmp_path / "theirs").model, ids)
    except UserError as error:
        reason = str(error)
    torch.testing.assert_close(said, their_logits(theirs, ids), **NEAR)
    assert reason == "" or "lm_head" in reason
