"""Recipes of published language models: their sizes, one step of their shape, and their jobs."""

from __future__ import annotations

import random
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from unrolled.cli.main import app
from unrolled.models import LanguageModel
from unrolled.runs.plan import make_plan
from unrolled.runs.recipes import requested, shipped
from unrolled.tasks.language import Language
from unrolled.training.loop import Trainer
from unrolled.training.progress import Progress, SilentLog

# weights in all, as published: Radford et al. 2019 (table 2, counted from the released weights),
# and Zhang et al. 2024 (TinyLlama); tokens of a step
MODELS = {
    "gpt2-124m": (124_439_808, 491_520),
    "llama-1b": (1_100_048_384, 2_097_152),
}
# the same shape, a 48th as wide
NARROW: dict[str, dict[str, Any]] = {
    "gpt2-124m": {"model.hidden": 48, "model.embedding": 48},
    "llama-1b": {
        "model.hidden": 64,
        "model.embedding": 64,
        "model.feedforward_size": 176,
    },
}
DEPLOY = Path(__file__).parents[2] / "deploy"


class Vocabulary:
    """As many tokens as a recipe asks for."""

    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_published_number_of_weights(name: str) -> None:
    recipe = requested(name, {})
    task = Language(Vocabulary(recipe.data.vocabulary), (), None)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = task.build(recipe)
    assert isinstance(model, LanguageModel)
    weights, tokens = MODELS[name]
    assert sum(weight.numel() for weight in model.parameters()) == weights
    training = recipe.training
    assert training.batch_size * training.accumulate * training.window == tokens
    assert training.window == model.context
    assert training.shard
    # 6 N and 12 L W T, N without what is looked up: all but the tables of positions and of tokens,
    # which GPT-2 has as output weights, too, and without biases and norms
    config = recipe.model
    width = config.hidden
    attention = 12 * config.layers * width * training.window
    operations = model.operations_per_token(training.window)
    matrices = {
        "gpt2-124m": 12 * 12 * width**2 + 50_257 * width,
        "llama-1b": 22 * (2 * width**2 + 2 * width * 256 + 3 * width * 5632)
        + 32_000 * width,
    }
    assert operations == 6 * matrices[name] + attention
    assert task.operations_per_token(model, recipe) == operations
    # frozen weights have no gradient, and how long they are frozen is not counted
    frozen = training.changed(unfreeze=1.0)
    assert task.operations_per_token(model, recipe.changed(training=frozen)) is None


@pytest.mark.parametrize("name", MODELS)
def test_one_step_of_the_shape_on_made_up_text(name: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    words = [f"w{number}" for number in range(200)]
    lines = [" ".join(draw.choices(words, k=30)) for _ in range(120)]
    text = tmp_path / "made.txt"
    text.write_text("\n".join(lines) + "\n")
    changes = {
        "data.train": str(text),
        "data.holdout": 0.1,
        "data.vocabulary": 300,
        "training.device": "cpu",
        "training.threads": 1,
        "training.batch_size": 2,
        "training.accumulate": 2,
        "training.window": 64,
        "model.context": 64,
        **NARROW[name],
    }
    plan = make_plan(name, changes, tmp_path / "run")
    trainer = Trainer(plan.job(Progress(quiet=True)))
    before = {name: p.detach().clone() for name, p in plan.model.named_parameters()}
    plan.model.train()
    for _ in range(2):  # the first is the warm-up's, whose learning rate is 0
        trainer.step(SilentLog())
    assert trainer.position.tokens == 2 * 2 * 2 * 64
    moved = {
        name
        for name, p in plan.model.named_parameters()
        if not torch.equal(p, before[name])
    }
    # all but biases of keys, to which a softmax is blind
    blind = {name for name in before if name.endswith("attention.key.bias")}
    assert before.keys() - moved <= blind
    assert trainer.state.is_finite()


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", MODELS)
def test_a_job_runs_a_verb_and_resumes_from_its_volume(name: str) -> None:
    claim, job = documents(name)
    assert (job["apiVersion"], job["kind"]) == (
        "trainer.kubeflow.org/v1alpha1",
        "TrainJob",
    )
    spec = job["spec"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    trainer = spec["trainer"]
    assert trainer["command"] == ["torchrun"]
    words = trainer["args"][trainer["args"].index("unrolled") :]
    assert shlex.join(words) == (
        f"unrolled train {name} --out /work/runs/{name} --resume"
    )
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {option for p in verbs[words[1]].params for option in p.opts}
    assert {"--out", "--resume"} <= options
    assert name in shipped()
    # rows of a batch are dealt out evenly
    processes = trainer["numNodes"] * trainer["numProcPerNode"]
    assert requested(name, {}).training.batch_size % processes == 0
    gpus = trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert int(gpus) == trainer["numProcPerNode"]
    # what is written lies in the volume that is claimed
    (override,) = spec["podTemplateOverrides"]
    assert override["targetJobs"] == [{"name": "node"}]
    volumes = {v["name"]: v for v in override["spec"]["volumes"]}
    (container,) = override["spec"]["containers"]
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    claimed = volumes[mounts["/work"]]["persistentVolumeClaim"]["claimName"]
    assert claimed == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
