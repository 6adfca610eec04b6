"""The run folder: what stands in it, what comes back, and what is said of a damaged one."""

from __future__ import annotations

import json
import pickletools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from unrolled.core.errors import UserError
from unrolled.tasks import folder as runs
from unrolled.tasks.recipe import as_yaml, resolve
from unrolled.training import checkpoints

KINDS = ["classify", "regress", "vectors", "tag", "language"]
FILES = {
    "config.yaml", "fields.json", "model.safetensors", "metrics.jsonl", "checkpoints",
    "result.json", "README.md", "report.html",
}  # fmt: skip


@pytest.fixture
def copy(home: SimpleNamespace, tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        return Path(shutil.copytree(home.runs[kind], tmp_path / kind))

    return copied


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_holds_what_the_docstring_says(home: SimpleNamespace, kind: str) -> None:
    folder = home.runs[kind]
    numbers = kind in ("regress", "vectors")
    assert {p.name for p in folder.iterdir()} == FILES | (set() if numbers else {"tokenizer.json"})
    for name in FILES | {"tokenizer.json"}:
        assert name.split(".")[0] in str(runs.__doc__)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_run_is_a_pickle(home: SimpleNamespace, kind: str) -> None:
    for path in home.runs[kind].rglob("*"):
        if path.is_dir():
            continue
        assert path.suffix in (".yaml", ".json", ".jsonl", ".safetensors", ".md", ".html"), path
        with path.open("rb") as handle, pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(handle))


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_config_resolves_to_itself(home: SimpleNamespace, kind: str) -> None:
    recipe = runs.read_recipe(home.runs[kind])
    assert resolve(str(home.runs[kind]), {}) == recipe
    assert yaml.safe_load(as_yaml(recipe)) == recipe.model_dump(mode="json")
    assert recipe.task == {"vectors": "regress"}.get(kind, kind)
    assert recipe.training.threads == 1
    assert recipe.training.precision == "fp32"


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_run_answers_as_before(
    home: SimpleNamespace, copy: Callable[[str], Path], kind: str
) -> None:
    here, there = runs.load(home.runs[kind]), runs.load(copy(kind))
    assert not there.model.training
    for name, weight in here.model.state_dict().items():
        assert torch.equal(weight, there.model.state_dict()[name])
    assert there.task.to_json() == here.task.to_json()
    assert (there.task.columns, there.task.format) == (here.task.columns, here.task.format)
    assert there.result == here.result


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_holds_the_best_weights(home: SimpleNamespace, kind: str) -> None:
    newest, _ = checkpoints.newest(home.runs[kind] / "checkpoints")
    assert newest is not None
    model = runs.load(home.runs[kind]).model.state_dict()
    best = newest.group("best")
    assert set(best) == set(model)
    assert all(torch.equal(best[name], model[name]) for name in model)


def test_metrics_are_whole_lines_in_the_order_of_steps(home: SimpleNamespace) -> None:
    text = (home.runs["classify"] / "metrics.jsonl").read_text("utf-8")
    logged = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in logged if line["kind"] == "train"] == [10, 20, 30, 40, 50, 60]
    dev = [line for line in logged if line["kind"] == "dev"]
    assert dev[-1]["step"] == 60
    result = json.loads((home.runs["classify"] / "result.json").read_text("utf-8"))
    assert max(line["accuracy"] for line in dev) == result["scores"]["accuracy"]


DAMAGE = [
    ("model.safetensors", lambda data: data[: len(data) // 2], "these weights do not fit the run"),
    ("model.safetensors", lambda data: b"", "these weights do not fit the run"),
    ("model.safetensors", None, "no weights yet; train it on with --resume"),
    ("fields.json", lambda data: data[:-20], "this run cannot be read"),
    ("fields.json", lambda data: b"{}", "this run cannot be read"),
    ("fields.json", lambda data: data.replace(b'"format": 1', b'"format": 99'), "newer version"),
    ("fields.json", None, "this run cannot be read"),
    ("tokenizer.json", lambda data: data[: len(data) // 2], "tokenizer.json"),
    ("tokenizer.json", None, "tokenizer.json"),
    ("config.yaml", lambda data: b"layer: [", "this is not YAML"),
    ("config.yaml", lambda data: b"layer: nope\n", "there is no layer 'nope'"),
    ("config.yaml", None, "this is not a run (it has no config.yaml)"),
    ("result.json", lambda data: data[:9], "not readable"),
]


@pytest.mark.parametrize(("name", "harm", "told"), DAMAGE)
def test_a_damaged_file_is_one_line_that_names_it(
    copy: Callable[[str], Path],
    name: str,
    harm: Callable[[bytes], bytes] | None,
    told: str,
) -> None:
    folder = copy("classify")
    path = folder / name
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        runs.load(folder)
    assert told in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("classify")
    config = (folder / "config.yaml").read_text("utf-8")
    (folder / "config.yaml").write_text(config.replace("hidden: 8", "hidden: 16"), "utf-8")
    with pytest.raises(UserError, match="these weights do not fit the run"):
        runs.load(folder)


def test_a_run_that_is_not_there_is_answered_with_the_nearest(home: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"there is no such run; did you mean '.*/classify'\?"):
        runs.load(home.runs["classify"].with_name("clasify"))
