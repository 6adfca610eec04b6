"""The run folder: what stands in it, what comes back, and what is said of a damaged one."""

from __future__ import annotations

import gc
import json
import os
import pickle
import pickletools
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

import unrolled
from unrolled.core.errors import UserError
from unrolled.runs import folder as runs
from unrolled.runs.recipes import as_yaml, requested
from unrolled.training import checkpoints

KINDS = ["classify", "regress", "vectors", "tag", "language"]
FILES = {
    "config.yaml",
    "fields.json",
    "model.safetensors",
    "metrics.jsonl",
    "checkpoints",
    "result.json",
    "README.md",
    "report.html",
    "inside.html",
    "digests.json",
}


@pytest.fixture
def copy(home: SimpleNamespace, tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        return Path(shutil.copytree(home.runs[kind], tmp_path / kind))

    return copied


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_holds_what_the_docstring_says(home: SimpleNamespace, kind: str) -> None:
    folder = home.runs[kind]
    numbers = kind in ("regress", "vectors")
    more = (set() if numbers else {"tokenizer.json"}) | (
        {"words.json"} if kind == "tag" else set()
    )
    assert {p.name for p in folder.iterdir()} == FILES | more
    for name in FILES | {"tokenizer.json", "words.json"}:
        assert name.split(".")[0] in str(runs.__doc__)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_run_is_a_pickle(home: SimpleNamespace, kind: str) -> None:
    for path in home.runs[kind].rglob("*"):
        if path.is_dir():
            continue
        assert path.suffix in (
            ".yaml",
            ".json",
            ".jsonl",
            ".safetensors",
            ".md",
            ".html",
        ), path
        with path.open("rb") as handle, pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(handle))


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_config_resolves_to_itself(home: SimpleNamespace, kind: str) -> None:
    recipe = runs.read_recipe(home.runs[kind])
    assert requested(str(home.runs[kind]), {}) == recipe
    assert yaml.safe_load(as_yaml(recipe)) == recipe.model_dump(mode="json")
    assert recipe.task == {"vectors": "regress"}.get(kind, kind)
    assert recipe.training.threads == 1
    assert recipe.training.precision == "fp32"


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_run_answers_as_before(
    home: SimpleNamespace, copy: Callable[[str], Path], kind: str
) -> None:
    here = runs.load(home.runs[kind])
    there = runs.load(copy(kind))
    assert not there.model.training
    for name, weight in here.model.state_dict().items():
        assert torch.equal(weight, there.model.state_dict()[name])
    assert there.task.to_json() == here.task.to_json()
    assert (there.task.columns, there.task.format) == (
        here.task.columns,
        here.task.format,
    )
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
    assert [line["step"] for line in logged if line["kind"] == "train"] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]
    dev = [line for line in logged if line["kind"] == "dev"]
    assert dev[-1]["step"] == 60
    result = json.loads((home.runs["classify"] / "result.json").read_text("utf-8"))
    assert max(line["accuracy"] for line in dev) == result["scores"]["accuracy"]


DAMAGE = [
    (
        "model.safetensors",
        lambda data: data[: len(data) // 2],
        "these weights do not fit the run",
    ),
    ("model.safetensors", lambda data: b"", "these weights do not fit the run"),
    ("model.safetensors", None, "no weights yet; train it on with resume=True"),
    ("fields.json", lambda data: data[:-20], "this run cannot be read"),
    ("fields.json", lambda data: b"{}", "this run cannot be read"),
    (
        "fields.json",
        lambda data: data.replace(b'"format": 1', b'"format": 99'),
        "newer version",
    ),
    ("fields.json", None, "this run cannot be read"),
    ("tokenizer.json", lambda data: data[: len(data) // 2], "tokenizer.json"),
    ("tokenizer.json", None, "tokenizer.json"),
    ("config.yaml", lambda data: b"layer: [", "this is not YAML"),
    ("config.yaml", lambda data: b"layer: nope\n", "there is no layer 'nope'"),
    ("config.yaml", None, "this is not a run (it has no config.yaml)"),
    ("result.json", lambda data: data[:9], "not readable"),
]


@pytest.mark.parametrize(("name", "harm", "message"), DAMAGE)
def test_a_damaged_file_is_one_line_that_names_it(
    copy: Callable[[str], Path],
    name: str,
    harm: Callable[[bytes], bytes] | None,
    message: str,
) -> None:
    folder = copy("classify")
    path = folder / name
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        runs.load(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("classify")
    config = (folder / "config.yaml").read_text("utf-8")
    (folder / "config.yaml").write_text(
        config.replace("hidden: 8", "hidden: 16"), "utf-8"
    )
    with pytest.raises(UserError, match="these weights do not fit the run"):
        runs.load(folder)


def test_a_run_that_is_not_there_is_answered_with_the_nearest(
    home: SimpleNamespace,
) -> None:
    with pytest.raises(
        UserError, match=r"there is no such run; did you mean '.*/classify'\?"
    ):
        runs.load(home.runs["classify"].with_name("clasify"))


# files from elsewhere: refused before they cost memory, and never run

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(
    header: bytes | dict[str, object], data: bytes = b"", length: int = 0
) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (length or len(encoded)).to_bytes(8, "little") + encoded + data


HEADERS = {
    "length": safetensors(b"{}", length=2**63),
    "overlap": safetensors({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
    "hole": safetensors({"a": F32, "b": F32 | {"data_offsets": [12, 20]}}, bytes(20)),
    "twice": safetensors(b'{"a": 1, "a": 2}'),
    "shape-overflow": safetensors({"a": F32 | {"shape": [2**62, 4]}}, bytes(8)),
    "negative-shape": safetensors({"a": F32 | {"shape": [-2]}}, bytes(8)),
    "more-than-it-holds": safetensors({"a": F32 | {"shape": [10**6]}}, bytes(8)),
    "many": safetensors(
        {f"t{i}": F32 | {"shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    ),
    "many-within-the-limit": safetensors(
        {f"t{i}": F32 | {"shape": [0], "data_offsets": [0, 0]} for i in range(40_000)}
    ),
    "deep": safetensors(b'{"a":' + b"[" * 100_000),
    "no-table": safetensors(b"[1]"),
}


@pytest.mark.parametrize("attack", HEADERS)
def test_a_hostile_header_is_refused_at_once(
    copy: Callable[[str], Path], attack: str
) -> None:
    folder = copy("vectors")
    (folder / "model.safetensors").write_bytes(HEADERS[attack])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    gc.freeze()  # the objects of other tests, which are no part of what is timed
    try:
        with pytest.raises(UserError, match="these weights do not fit the run"):
            runs.load(folder)
    finally:
        gc.unfreeze()
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints"])
def test_a_pickle_under_another_name_is_never_run(
    copy: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = copy("vectors")
    canary = tmp_path / "canary"
    data = pickle.dumps(Payload(canary))
    path = folder / name
    if name == "checkpoints":  # the state of the optimizer, its sums made to match
        checkpoint, _ = checkpoints.newest(path)
        assert checkpoint is not None
        path = path / f"step-{checkpoint.step}" / checkpoints.TENSORS
        manifest = json.loads((path.parent / checkpoints.MANIFEST).read_text())
        import hashlib

        manifest["files"][checkpoints.TENSORS] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        (path.parent / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    path.write_bytes(data)
    with pytest.raises(UserError):
        runs.load(folder, "best" if name == "model.safetensors" else "last")
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hidden: 8", "hidden: 100000000000"),
        ("hidden: 8", "hidden: 60000"),
        ("hidden: 8", "hidden: -8"),
        ("layers: 1", "layers: 1000000000"),
        ("layer: gru", "layer: os.system"),
        ("layer: gru", "layer: gru\nauto_map: evil.Model"),
        ("layer: gru", "layer: !!python/object/apply:os.system ['true']"),
    ],
)
def test_a_hostile_config_is_refused_before_anything_is_allocated(
    copy: Callable[[str], Path], old: str, new: str
) -> None:
    folder = copy("classify")
    config = (folder / "config.yaml").read_text("utf-8")
    assert old in config
    (folder / "config.yaml").write_text(config.replace(old, new, 1), "utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(UserError):
        runs.load(folder)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_link_that_leads_out_of_a_run_is_refused(
    copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy("classify")
    secret = tmp_path / "secret.json"
    (folder / "fields.json").rename(secret)
    (folder / "fields.json").symlink_to(secret)
    with pytest.raises(
        UserError, match=r"fields\.json: a link that leads out of the run"
    ):
        runs.load(folder)
    # a link to the folder itself is the user's own, and so is one within it
    (folder / "fields.json").unlink()
    secret.rename(folder / "inner.json")
    (folder / "fields.json").symlink_to("inner.json")
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert runs.load(link).task.name == "classify"


# versions

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "run-format-1"


def test_a_run_of_format_1_answers_as_it_did_and_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(FORMAT_1, tmp_path / "old"))
    monkeypatch.chdir(folder)
    recorded = json.loads((folder / "expected.json").read_text())
    run = unrolled.load("run")
    for answer, expected in zip(
        run.answers(recorded["rows"]), recorded["answers"], strict=True
    ):
        assert answer.details["probabilities"] == pytest.approx(
            expected["probabilities"], rel=1e-4
        )
    unrolled.train(
        "run",
        resume=True,
        quiet=True,
        say=lambda text: None,
        **{"training.max_steps": 10},
    )
    lines = [
        json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    losses = [[line["step"], line["loss"]] for line in lines if line["kind"] == "train"]
    for ours, theirs in zip(losses, recorded["losses_to_step_10"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


# the disk


def test_weights_saved_over_a_file_that_is_mapped_leave_its_values(
    tmp_path: Path,
) -> None:
    runs.save_weights(tmp_path, {"a": torch.ones(5000)})
    mapped = load_file(tmp_path / "model.safetensors")
    runs.save_weights(tmp_path, {"a": torch.zeros(9)})
    assert torch.equal(mapped["a"], torch.ones(5000))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], torch.zeros(9))


FULL = """
import resource, sys, torch
from pathlib import Path
from unrolled.core.errors import UserError
from unrolled.runs import folder
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    folder.save_weights(Path(sys.argv[1]), {"a": torch.zeros(9000)})
except UserError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_told_by_the_name_of_the_file(
    tmp_path: Path,
) -> None:
    runs.save_weights(tmp_path, {"a": torch.ones(3)})
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    path = tmp_path / "model.safetensors"
    assert done.stdout.startswith(f"{path}: this file could not be written ("), (
        done.stderr
    )
    assert ".tmp" not in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "digests.json"}
    assert torch.equal(load_file(path)["a"], torch.ones(3))
