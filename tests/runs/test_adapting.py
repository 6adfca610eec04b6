"""Training by adapters: what is kept of it, how it goes on, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import unrolled
from conftest import SMALL, reviews, write_csv
from unrolled.core.errors import UsageError, UserError
from unrolled.nn.adapters import adapters
from unrolled.runs.plan import Plan, make_plan
from unrolled.runs.published.adapters import CONFIG, WEIGHTS, AdapterFolder
from unrolled.training.averaging import snapshot

# shapes come from the run that is begun with
BARE: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith("model.")},
    # to write texts takes longer than such a training
    "report.samples": False,
    "training.max_steps": 4,
    "training.batch_size": 4,
    "training.window": 24,
    "training.learning_rate": 0.02,
    "training.schedule": "constant",
}
EXACT: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}  # sums of fp32 in another order
SHAPES: dict[str, dict[str, Any]] = {
    "attention": {"model.heads": 2, "model.layers": 2},
    "gru": {"model.layers": 2},
    "lstm": {},
}
ADAPTED = {"adapter.rank": 2}


def trained(
    file: Path, folder: Path, lines: list[str] | None = None, **keys: Any
) -> Any:
    changes = {**BARE, **keys}
    say: list[str] = [] if lines is None else lines
    return unrolled.train(file, out=folder, quiet=True, say=say.append, **changes)


def planned(file: Path, folder: Path, **keys: Any) -> Plan:
    return make_plan(str(file), {**BARE, **keys}, out=folder, dry_run=True)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def learnt(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter" / WEIGHTS)


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Tables, and a language model of each layer over texts of one of them."""
    home = tmp_path_factory.mktemp("adapting")
    texts = write_csv(
        home / "texts.csv", [(text,) for text, _ in reviews(60, 9)], ("text",)
    )
    labels = write_csv(home / "reviews.csv", reviews(60, 1), ("text", "label"))
    for layer, shape in SHAPES.items():
        keys: dict[str, Any] = {
            "model.hidden": 8,
            "model.embedding": 8,
            "data.tokenizer": "chars",
        }
        keys |= {"task": "language", "layer": layer, **shape}
        trained(texts, home / layer, **keys)
    return SimpleNamespace(home=home, texts=texts, labels=labels)


def keys_of(at: SimpleNamespace, layer: str = "attention") -> dict[str, Any]:
    return {"task": "language", "model.init": str(at.home / layer), **ADAPTED}


def going_on(folder: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """Return keys of a training that begins with the adapters of a run."""
    return {**keys, "adapter.rank": 0, "adapter.init": str(folder)}


@pytest.fixture(scope="module")
def run(at: SimpleNamespace) -> SimpleNamespace:
    """A run of attention trained by adapters beside some weights, in one go."""
    lines: list[str] = []
    folder = at.home / "adapted"
    keys = keys_of(at) | {"adapter.targets": ["query", "feedforward.up"]}
    keys |= {"training.max_steps": 6, "training.checkpoint_every": 3}
    keys |= {"training.evaluate_every": 6}
    made = trained(at.texts, folder, lines, **keys)
    said = "\n".join(lines)
    return SimpleNamespace(folder=folder, keys=keys, made=made, said=said)


IDS = torch.tensor([[5, 9, 7, 11, 6]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model.eval()(IDS)[0]
    return scores


# ---------------------------------------------------------------------- what is kept


def test_a_run_keeps_the_plain_model_and_the_adapters(
    run: SimpleNamespace, at: SimpleNamespace
) -> None:
    before = weights_of(at.home / "attention")
    after = weights_of(run.folder)
    assert set(after) == set(before)
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    blocks = [f"layer.blocks.{number}." for number in (0, 1)]
    kinds = ("attention.query.weight", "feedforward.up.weight")
    assert set(changed) == {block + kind for block in blocks for kind in kinds}
    names = {path.name for path in (run.folder / "adapter").iterdir()}
    assert names == {CONFIG, WEIGHTS}
    config = json.loads((run.folder / "adapter" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(at.home / "attention")
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    assert "adapters: rank 2 beside 4 weights; " in run.said
    assert "trained whole" not in run.said


def test_the_plain_weights_are_those_with_what_the_adapters_say(
    run: SimpleNamespace, at: SimpleNamespace
) -> None:
    folder = AdapterFolder.open(run.folder / "adapter")
    before = weights_of(at.home / "attention")
    after = weights_of(run.folder)
    block = "model.layers.1."
    query = folder.adapters[block + "self_attn.q_proj"]
    parts = [folder.adapters[f"{block}mlp.{part}_proj"] for part in ("gate", "up")]
    name = "layer.blocks.1.attention.query.weight"
    change = 2 * query.up @ query.down
    assert change.abs().max() > 1e-3
    torch.testing.assert_close(after[name], before[name] + change, **EXACT)
    name = "layer.blocks.1.feedforward.up.weight"
    change = 2 * torch.cat([part.up @ part.down for part in parts])
    torch.testing.assert_close(after[name], before[name] + change, **EXACT)


def test_an_adapted_run_is_an_ordinary_one(
    run: SimpleNamespace, at: SimpleNamespace
) -> None:
    loaded = unrolled.load(run.folder)
    assert torch.equal(logits(loaded.model), logits(run.made.model))
    base = unrolled.load(at.home / "attention")
    assert not torch.allclose(logits(loaded.model), logits(base.model), atol=1e-3)
    assert not adapters(loaded.model)
    written = loaded.generate("a ", 5, temperature=0)
    assert written == run.made.generate("a ", 5, temperature=0)
    assert loaded.evaluate(at.texts)["loss"] > 0
    again = planned(at.texts, at.home / "next", **{"model.init": str(run.folder)})
    assert not again.transfer.drawn if again.transfer else False
    assert_equal(dict(again.model.state_dict()), weights_of(run.folder))


@pytest.mark.parametrize("average", ["ema", "last"])
@pytest.mark.parametrize("layer", SHAPES)
def test_layers_learn_by_adapters_also_averaged(
    layer: str, average: str, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = keys_of(at, layer) | {"training.average": average}
    keys |= {"training.evaluate_every": 2, "training.ema_decay": 0.5}
    trained(at.texts, tmp_path / "run", **keys)
    before = weights_of(at.home / layer)
    after = weights_of(tmp_path / "run")
    assert set(after) == set(before)
    # the same weights, by the adapters alone
    init = going_on(tmp_path / "run", keys_of(at, layer))
    begun = planned(at.texts, tmp_path / "next", **init)
    plain = unrolled.load(tmp_path / "run").model
    assert not torch.allclose(
        logits(plain), logits(unrolled.load(at.home / layer).model), atol=1e-3
    )
    torch.testing.assert_close(logits(begun.model), logits(plain), **EXACT)


@pytest.mark.parametrize("layer", ["attention", "gru"])
def test_lengths_are_learnt_by_themselves(
    layer: str, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = keys_of(at, layer) | {"adapter.magnitudes": True}
    made = trained(at.texts, tmp_path / "run", **keys)
    config = json.loads((tmp_path / "run" / "adapter" / CONFIG).read_text())
    assert config["use_dora"] is True
    lengths = [key for key in learnt(tmp_path / "run") if "magnitude" in key]
    assert len(lengths) == len(config["target_modules"])
    init = going_on(tmp_path / "run", keys_of(at, layer))
    begun = planned(at.texts, tmp_path / "next", **init)
    assert begun.recipe.adapter.magnitudes
    torch.testing.assert_close(logits(begun.model), logits(made.model), **EXACT)


def test_dropout_is_on_what_adapters_read(at: SimpleNamespace, tmp_path: Path) -> None:
    said = []
    for dropout in (0.0, 0.5):
        keys = keys_of(at) | {"adapter.dropout": dropout}
        folder = tmp_path / f"{dropout}"
        trained(at.texts, folder, **keys)
        config = json.loads((folder / "adapter" / CONFIG).read_text())
        assert config["lora_dropout"] == dropout
        said.append(weights_of(folder))
    assert any(not torch.equal(said[0][name], said[1][name]) for name in said[0])


# ---------------------------------------------------------------------- how it goes on


def resumed(folder: Path, **keys: Any) -> None:
    said: list[str] = []
    changes: dict[str, Any] = {"training.max_steps": 6, **keys}
    say = said.append
    unrolled.train(folder, out=folder, resume=True, quiet=True, say=say, **changes)


@pytest.mark.parametrize("moved", [False, True])
def test_a_resume_gives_equal_bits(
    moved: bool, run: SimpleNamespace, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = {**run.keys, "training.max_steps": 3}
    base = tmp_path / "base"
    if moved:
        shutil.copytree(at.home / "attention", base)
        keys |= {"model.init": str(base)}
    trained(at.texts, tmp_path / "run", **keys)
    if moved:
        # a checkpoint holds the weights that stay as they are, too
        shutil.rmtree(base)
    resumed(tmp_path / "run")
    assert_equal(weights_of(tmp_path / "run"), weights_of(run.folder))
    assert_equal(learnt(tmp_path / "run"), learnt(run.folder))


@pytest.mark.parametrize("layer", ["gru", "attention"])
def test_lengths_and_recurrent_adapters_are_resumed_to_the_bit(
    layer: str, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = keys_of(at, layer) | {
        "adapter.magnitudes": True,
        "adapter.dropout": 0.1,
        "training.average": "ema",
        "training.max_steps": 6,
        "training.evaluate_every": 6,
        "training.checkpoint_every": 2,
    }
    trained(at.texts, tmp_path / "whole", **keys)
    trained(at.texts, tmp_path / "parts", **{**keys, "training.max_steps": 2})
    resumed(tmp_path / "parts")
    assert_equal(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))
    assert_equal(learnt(tmp_path / "parts"), learnt(tmp_path / "whole"))


def test_adapters_are_gone_on_with(
    run: SimpleNamespace, at: SimpleNamespace, tmp_path: Path
) -> None:
    init = going_on(run.folder, keys_of(at))
    begun = planned(at.texts, tmp_path / "next", **init)
    names = set(adapters(begun.model))
    blocks = [f"layer.blocks.{number}." for number in (0, 1)]
    kinds = ("attention.query.weight", "feedforward.up.weight")
    assert names == {block + kind for block in blocks for kind in kinds}
    settings = begun.recipe.adapter
    assert (settings.rank, settings.scale, settings.magnitudes) == (2, 2, False)
    assert begun.adaptation is not None
    assert_equal(adapters_of(begun), learnt(run.folder))
    task = begun.prepared.task
    dev = begun.prepared.dev
    scores = task.validate(begun.model.eval(), dev, begun.compute_device)
    logged = (run.folder / "metrics.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in logged][-1]
    assert last["kind"] == "dev"
    assert scores["loss"] == pytest.approx(last["loss"], rel=1e-5)
    trained(at.texts, tmp_path / "next", **init)
    assert set(learnt(tmp_path / "next")) == set(learnt(run.folder))


def adapters_of(plan: Plan) -> dict[str, Tensor]:
    """Return the tensors that a run would keep of its adapters now."""
    assert plan.adaptation is not None
    plan.folder.mkdir(parents=True, exist_ok=True)
    plan.adaptation.keep(plan.folder, snapshot(plan.model))
    tensors = learnt(plan.folder)
    shutil.rmtree(plan.folder)
    return tensors


def test_what_went_on_is_resumed_to_the_bit(
    run: SimpleNamespace, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = going_on(run.folder, run.keys)
    del keys["adapter.targets"]
    trained(at.texts, tmp_path / "whole", **keys)
    trained(at.texts, tmp_path / "parts", **{**keys, "training.max_steps": 3})
    resumed(tmp_path / "parts")
    assert_equal(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))
    assert_equal(learnt(tmp_path / "parts"), learnt(tmp_path / "whole"))


@pytest.mark.parametrize(
    "change",
    [
        {"adapter.rank": 4},
        {"adapter.alpha": 64.0},
        {"adapter.rank": 2, "adapter.alpha": 64.0},
        {"adapter.magnitudes": True},
        {"adapter.targets": ["query"]},
    ],
)
def test_keys_that_the_adapters_begun_with_tell_are_theirs_or_refused(
    change: dict[str, Any], run: SimpleNamespace, at: SimpleNamespace, tmp_path: Path
) -> None:
    init = going_on(run.folder, keys_of(at))
    said = ""
    expected = logits(unrolled.load(run.folder).model)
    model = logits(planned(at.texts, tmp_path / "next", **init).model)
    try:
        begun = planned(at.texts, tmp_path / "next", **{**init, **change})
        model = logits(begun.model)
    except UserError as error:
        said = str(error)
    torch.testing.assert_close(model, expected, **EXACT)
    assert said == "" or "adapter" in said


# ---------------------------------------------------------------------- other tasks


def labelled(at: SimpleNamespace, layer: str = "attention") -> dict[str, Any]:
    return keys_of(at, layer) | {"task": "classify", "model.ngrams": 0}


@pytest.mark.parametrize("layer", ["attention", "gru"])
def test_what_is_drawn_anew_is_trained_whole(
    layer: str, at: SimpleNamespace, tmp_path: Path
) -> None:
    lines: list[str] = []
    begun = planned(at.labels, tmp_path / "run", **labelled(at, layer))
    drawn = {name: part.clone() for name, part in begun.model.state_dict().items()}
    made = trained(at.labels, tmp_path / "run", lines, **labelled(at, layer))
    assert "  trained whole: head.weight, head.bias" in lines
    after = weights_of(tmp_path / "run")
    for name in ("head.weight", "head.bias"):
        assert not torch.equal(after[name], drawn[name])
        kept = learnt(tmp_path / "run")[f"base_model.model.{name}"]
        assert torch.equal(kept, after[name])
    assert torch.equal(after["embedding.weight"], drawn["embedding.weight"])
    config = json.loads((tmp_path / "run" / "adapter" / CONFIG).read_text())
    assert config["modules_to_save"] == ["head"]
    loaded = unrolled.load(tmp_path / "run")
    assert loaded.predict(["a lovely film"]) == made.predict(["a lovely film"])


@pytest.mark.parametrize("layer", ["attention", "gru"])
def test_a_classifier_goes_on_from_its_adapters_and_its_head(
    layer: str, at: SimpleNamespace, tmp_path: Path
) -> None:
    trained(at.labels, tmp_path / "run", **labelled(at, layer))
    init = going_on(tmp_path / "run", labelled(at, layer))
    begun = planned(at.labels, tmp_path / "next", **init)
    plain = weights_of(tmp_path / "run")
    state = begun.model.state_dict()
    for name in ("head.weight", "head.bias"):
        assert torch.equal(state[name], plain[name]), name


# ---------------------------------------------------------------------- what is refused


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model.init": None, "layer": "gru"}, "name the run or checkpoint"),
    ({"adapter.rank": 0, "adapter.alpha": 4.0}, r"adapter\.alpha needs adapters"),
    ({"adapter.rank": 0, "adapter.targets": ["out"]}, r"adapter\.targets needs"),
    ({"adapter.rank": 0, "adapter.magnitudes": True}, r"adapter\.magnitudes needs"),
    ({"adapter.rank": 0, "adapter.dropout": 0.1}, r"adapter\.dropout needs adapters"),
    ({"adapter.targets": ["quary"]}, "no weight is called 'quary'; did you mean query"),
    (
        {"adapter.targets": ["query", "atention.out"]},
        r"'atention\.out'; did you mean attention\.out",
    ),
    ({"adapter.targets": []}, r"adapter\.targets"),
    ({"training.unfreeze": 1}, r"training\.unfreeze is for weights that are trained"),
    ({"training.layer_decay": 0.5}, r"training\.layer_decay is for weights"),
    ({"training.shard": True}, r"training\.shard"),
    ({"adapter.init": "nowhere"}, rf"adapter\.init='nowhere': there is no {CONFIG}"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_keys_that_do_not_go_together_are_refused(
    change: dict[str, Any], message: str, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = {**keys_of(at), **change}
    with pytest.raises(UsageError, match=message):
        planned(at.texts, tmp_path / "run", **keys)
    assert not (tmp_path / "run").exists()


def test_a_run_without_adapters_is_not_gone_on_with(
    at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = going_on(at.home / "gru", keys_of(at))
    with pytest.raises(
        UsageError, match=r"or a run that was trained with adapter\.rank"
    ):
        planned(at.texts, tmp_path / "run", **keys)


def test_adapters_of_another_layer_are_refused(
    run: SimpleNamespace, at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = going_on(run.folder, keys_of(at, "gru"))
    message = "this model has no such product; it has layer.weight_ih_l0"
    with pytest.raises(UserError, match=message):
        planned(at.texts, tmp_path / "run", **keys)


def test_a_resume_keeps_the_adapters_that_it_was_begun_with(
    at: SimpleNamespace, tmp_path: Path
) -> None:
    trained(at.texts, tmp_path / "run", **keys_of(at))
    with pytest.raises(UserError, match=r"adapter\.rank was 2 and is now 3"):
        resumed(tmp_path / "run", **{"adapter.rank": 3})


def test_weights_that_are_named_are_trained_beside_those_of_a_folder(
    at: SimpleNamespace, tmp_path: Path
) -> None:
    before = {**keys_of(at), "adapter.whole": ["head"]}
    trained(at.texts, tmp_path / "before", **before)
    keys = {**going_on(tmp_path / "before", keys_of(at)), "adapter.whole": ["norm"]}
    plan = planned(at.texts, tmp_path / "run", **keys)
    assert plan.adaptation is not None
    whole = plan.adaptation.whole
    assert "head.weight" in whole
    assert any(name.endswith("norm.weight") for name in whole)
    assert plan.recipe.adapter.whole == list(plan.adaptation.settings.whole or [])


def test_weights_that_are_named_without_adapters_are_refused(
    at: SimpleNamespace, tmp_path: Path
) -> None:
    keys = {"model.init": str(at.home / "attention"), "adapter.whole": ["head"]}
    with pytest.raises(UserError, match=r"adapter\.whole needs adapters"):
        planned(at.texts, tmp_path / "run", **keys)
