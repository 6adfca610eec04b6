"""What stands in run folders is what the training wrote, and what is not a run's is left alone.

The files, keys, names and kinds of links are drawn from what the package itself says of them, so
that a new one is covered when it comes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unrolled
from conftest import SMALL, reviews, write_csv
from unrolled.checks import examine
from unrolled.core import digests
from unrolled.core.errors import UsageError, UserError
from unrolled.runs import folder as runs
from unrolled.runs.keys import flat
from unrolled.tasks.recipe import Recipe
from unrolled.training.progress import Progress
from unrolled.training.settings import LIMITS

KINDS = ["classify", "regress", "vectors", "tag", "language"]
QUICK = {**SMALL, "training.max_steps": 4, "training.checkpoint_every": 2}
drawn = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def train(target: Any, **options: Any) -> unrolled.Run:
    return unrolled.train(target, quiet=True, say=lambda text: None, **options)


@pytest.fixture
def copy(home: SimpleNamespace, tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return Path(shutil.copytree(home.runs[kind], tmp_path / kind))

    return copied


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classify of four steps, which may go on."""
    at = tmp_path_factory.mktemp("stopped")
    data = write_csv(at / "reviews.csv", reviews(60, 6), ("text", "label"))
    train(data, out=at / "run", **QUICK)
    return at / "run"


def snapshot(folder: Path) -> dict[str, Any]:
    """Return what stands in a folder, links as links."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where something hangs, as reading a pipe does."""

    def late(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# digests


@pytest.mark.parametrize("kind", KINDS)
@drawn
@given(data=st.data())
def test_a_changed_bit_of_any_file_that_is_read_is_refused(
    copy: Callable[[str], Path], kind: str, data: st.DataObject
) -> None:
    folder = copy(kind)
    names = [name for name in runs.READ if (folder / name).exists()]
    assert set(names) == set(json.loads((folder / "digests.json").read_text())["files"])
    path = folder / data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    offset = data.draw(st.integers(0, len(content) - 1))
    content[offset] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        unrolled.load(folder)
    # a layer or a size that cannot be is said by the model's parts, of the file it stands in
    assert str(folder) in str(caught.value) or path.name == "config.yaml"
    with pytest.raises(UserError):
        train(folder, resume=True)


@pytest.mark.parametrize("name", ["README.md", "report.html", "metrics.jsonl"])
def test_files_for_people_may_be_changed(
    copy: Callable[[str], Path], name: str
) -> None:
    folder = copy("classify")
    (folder / name).write_text("mine\n", encoding="utf-8")
    assert unrolled.load(folder).predict(["a good film"])
    (folder / name).unlink()
    assert unrolled.load(folder).predict(["a good film"])


def test_answers_need_no_result(copy: Callable[[str], Path], cli: Any) -> None:
    folder = copy("classify")
    before = cli("predict", folder, "a good film")
    (folder / "result.json").write_text("{", encoding="utf-8")
    assert cli("predict", folder, "a good film") == before
    with pytest.raises(UserError, match=r"result\.json"):
        unrolled.load(folder)


def test_a_run_without_its_digests_is_an_old_one_or_refused(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("classify")
    (folder / "digests.json").unlink()
    with pytest.raises(UserError, match=r"digests\.json: this file is missing"):
        unrolled.load(folder)
    # fields of a version that kept none
    fields = json.loads((folder / "fields.json").read_text())
    del fields["digests"]
    (folder / "fields.json").write_text(json.dumps(fields))
    capsys.readouterr()
    assert unrolled.load(folder).predict(["a good film"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "keeps no digests" in line


def test_weights_of_no_number_are_refused_in_every_run(
    copy: Callable[[str], Path],
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy("classify")
    weights = load_file(folder / "model.safetensors")
    for value in (float("nan"), float("inf"), float("-inf")):
        for name in weights:
            changed = {key: tensor.clone() for key, tensor in weights.items()}
            changed[name].view(-1)[-1] = value
            save_file(changed, folder / "model.safetensors")
            forget(folder)
            with pytest.raises(UserError, match="not finite"):
                unrolled.load(folder)


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int8, torch.float64, torch.bfloat16]
)
def test_weights_of_another_type_are_refused(
    copy: Callable[[str], Path], dtype: torch.dtype
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy("classify")
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name].to(dtype)}, folder / "model.safetensors")
    forget(folder)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        unrolled.load(folder)


def forget(folder: Path) -> None:
    """Make a run one of a version that kept no digests."""
    (folder / "digests.json").unlink(missing_ok=True)
    fields = json.loads((folder / "fields.json").read_text())
    fields.pop("digests", None)
    (folder / "fields.json").write_text(json.dumps(fields))


# what a run was begun with


def others(key: str, value: Any) -> list[Any]:
    """Return values that a key might be changed to, whatever they say."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, max(0, value - 1), 0]
    if isinstance(value, float):
        return [value / 2, value + 0.125, value * 2, 0.5]
    if isinstance(value, list):
        return [[], ["text"]]
    if key in ("layer", "training.optimizer", "model.pooling", "training.schedule"):
        names = [
            "gru",
            "lstm",
            "sgd",
            "adamw",
            "mean",
            "max",
            "last",
            "constant",
            "cosine",
        ]
        return [name for name in names if name != value]
    if value is None:
        return [1, 0.5, "text", True]
    return []


def keys_of(folder: Path) -> list[str]:
    return list(flat(yaml.safe_load((folder / "config.yaml").read_text("utf-8"))))


KEYS = list(flat(Recipe().model_dump()))


@pytest.mark.parametrize("key", KEYS)
def test_a_key_edited_between_stop_and_resume_is_refused_by_name(
    stopped: Path, tmp_path: Path, key: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    group, _, leaf = key.rpartition(".")
    section = config
    for name in group.split(".") if group else []:
        section = section[name]
    value = section[leaf]
    whole = deepcopy(config)
    before = snapshot(folder)
    tried = 0
    for other in others(key, value):
        section[leaf] = other
        text = yaml.safe_dump(config, allow_unicode=True)
        try:
            recipe = Recipe.read(yaml.safe_load(text))
        except UsageError:
            continue  # no value of this key
        if flat(recipe.model_dump())[key] == flat(Recipe.read(whole).model_dump())[key]:
            continue
        (folder / "config.yaml").write_text(text, "utf-8")
        raised = leaf in LIMITS and (
            other is None or (value is not None and other > value)
        )
        if raised:
            continue  # what a limit is for
        with pytest.raises(UserError) as caught:
            train(folder, resume=True)
        tried += 1
        assert leaf in str(caught.value), caught.value
    after = snapshot(folder)
    assert {name for name in before if before[name] != after.get(name)} <= {
        "config.yaml"
    }


def test_the_edits_that_were_believed_are_refused(
    stopped: Path, tmp_path: Path
) -> None:
    for key, value in (("seed", 7), ("data.holdout", 0.4), ("layer", "lstm")):
        folder = Path(shutil.copytree(stopped, tmp_path / key))
        config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        group, _, leaf = key.rpartition(".")
        (config[group] if group else config)[leaf] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
        with pytest.raises(UserError, match=rf"{key} was .* and is now"):
            train(folder, resume=True)


def test_a_raised_limit_and_a_moved_file_are_not_refused(
    stopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    moved = Path(shutil.copy(stopped.parent / "reviews.csv", tmp_path / "moved.csv"))
    run = train(
        folder, resume=True, **{"training.max_steps": 6, "data.train": str(moved)}
    )
    assert run.result["steps"] == 6
    # the other bytes under the same name are
    write_csv(moved, reviews(60, 7), ("text", "label"))
    with pytest.raises(
        UserError, match=r"moved\.csv is not the file it was begun with"
    ):
        train(folder, resume=True, **{"training.max_steps": 8})


@pytest.mark.parametrize("name", ["fields.json", "tokenizer.json"])
def test_fields_edited_between_stop_and_resume_are_refused(
    stopped: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    path = folder / name
    text = path.read_text("utf-8")
    path.write_text(
        text.replace("bad", "dab") if name == "fields.json" else text + "\n", "utf-8"
    )
    assert path.read_text("utf-8") != text
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        train(folder, resume=True, **{"training.max_steps": 6})
    # also where whoever edited them made the digests fit
    recorded = json.loads((folder / "digests.json").read_text())
    recorded["files"][name] = [digests.sha256(path)]
    (folder / "digests.json").write_text(json.dumps(recorded))
    if name == "fields.json":
        with pytest.raises(UserError, match="not those that it was begun with"):
            train(folder, resume=True, **{"training.max_steps": 6})


# folders of others


@drawn
@given(data=st.data())
def test_a_folder_of_anything_else_is_refused_and_left_as_it_is(
    stopped: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "project"
    shutil.rmtree(folder, ignore_errors=True)
    own = sorted(runs.KNOWN)
    strange = [
        "notes.txt",
        ".x.tmp",
        ".model.safetensors.x1.tmp",
        "checkpoints/step-1/a",
        "src/a.py",
    ]
    names = data.draw(
        st.lists(st.sampled_from([*own, *strange]), min_size=1, unique=True)
    )
    for name in names:
        path = folder / name
        if name in runs.FOLDERS:
            path = path / "kept"
        if path.parent.is_file() or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        # an empty lock is one that a full disk left
        least = b"x" if name in runs.LOCKS else b""
        path.write_bytes(least + data.draw(st.binary(max_size=8)))
    before = snapshot(folder)
    # config.yaml beside fields.json is a run, whatever stands in them
    refused = r"no part of a run|holds a run already|this run cannot be read"
    with pytest.raises(UserError, match=refused):
        train(stopped.parent / "reviews.csv", out=folder, **QUICK)
    assert snapshot(folder) == before


@pytest.mark.parametrize("table", ['{"a": 1}', '{"format": 1, "files": {}}'])
def test_a_table_of_digests_makes_no_run_of_other_files(
    stopped: Path, tmp_path: Path, table: str
) -> None:
    folder = tmp_path / "project"
    (folder / ".saving").mkdir(parents=True)
    for name in ("README.md", "metrics.jsonl", ".saving/x"):
        (folder / name).write_text("precious", "utf-8")
    (folder / "digests.json").write_text(table, "utf-8")
    before = snapshot(folder)
    with pytest.raises(UserError, match=r"no part of a run|cannot be read"):
        train(stopped.parent / "reviews.csv", out=folder, **QUICK)
    assert snapshot(folder) == before


def test_a_trained_run_that_lost_its_settings_is_not_written_over(
    stopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    (folder / "config.yaml").unlink()
    before = snapshot(folder)
    with pytest.raises(UserError, match="no part of a run"):
        train(stopped.parent / "reviews.csv", out=folder, **QUICK)
    assert snapshot(folder) == before


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_run_without_checkpoints_is_not_trained_from_its_beginning(
    stopped: Path, tmp_path: Path, how: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    if how == "emptied":
        (folder / "checkpoints").mkdir()
    before = snapshot(folder)
    with pytest.raises(UserError, match="no checkpoint left"):
        train(folder, resume=True, **{"training.max_steps": 6})
    assert snapshot(folder) == before
    assert unrolled.load(folder).predict(["good"])


def test_settings_that_are_a_link_are_not_read(stopped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    secret = tmp_path / "secret.yaml"
    secret.write_text("password: 1234\n", "utf-8")
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(secret)
    for go in (
        lambda: train(folder),
        lambda: train(folder, resume=True),
        lambda: examine(str(folder), {}),
    ):
        with pytest.raises(UserError, match="leads out of the run") as caught:
            go()
        assert "password" not in str(caught.value)


def test_a_folder_that_is_no_utf8_is_refused_before_the_training(
    stopped: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"e15\xff")
    with pytest.raises(UsageError, match="no UTF-8"):
        train(stopped.parent / "reviews.csv", out=tmp_path / name, **QUICK)
    data = tmp_path / os.fsdecode(b"d\xff.csv")
    shutil.copy(stopped.parent / "reviews.csv", data)
    train(data, out=tmp_path / "run", **QUICK)
    assert "udcff" in (tmp_path / "run" / "README.md").read_text("utf-8")
    for label in (b"l\xff", b"m"):
        (tmp_path / "texts" / os.fsdecode(label)).mkdir(parents=True)
        (tmp_path / "texts" / os.fsdecode(label) / "1.txt").write_text("good", "utf-8")
    with pytest.raises(UserError, match=r"folder is its label, and is no UTF-8"):
        train(tmp_path / "texts", out=tmp_path / "other", **QUICK)


# links, pipes and devices

STRANGE = ["a link out", "a link to nothing", "a link to a device", "a pipe"]


def verbs(folder: Path, data: Path) -> dict[str, Callable[[], Any]]:
    return {
        "load": lambda: unrolled.load(folder),
        "resume": lambda: train(folder, resume=True, **{"training.max_steps": 6}),
        "train": lambda: train(data, out=folder, **QUICK),
        "examine": lambda: examine(str(folder), {}),
    }


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("name", sorted(runs.KNOWN - {"export", "tensorboard"}))
def test_what_is_no_file_of_the_run_is_refused_unopened(
    stopped: Path, tmp_path: Path, name: str, what: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    outside = tmp_path / "outside"
    path = folder / name
    if path.is_dir():
        shutil.move(path, outside)
    elif path.exists():
        path.rename(outside)
    else:
        outside.write_text("precious\n", encoding="utf-8")
    if what == "a pipe":
        os.mkfifo(path)
    else:
        targets = {"a link out": outside, "a link to nothing": tmp_path / "gone"}
        path.symlink_to(targets.get(what, Path("/dev/zero")))
    kept = outside.read_bytes() if outside.is_file() else snapshot(outside)
    for verb, call in verbs(folder, stopped.parent / "reviews.csv").items():
        with within(20), pytest.raises(UserError) as caught:
            call()
        assert name in str(caught.value) or verb == "train", (verb, caught.value)
        assert path.is_symlink() or what == "a pipe"
    assert kept == (outside.read_bytes() if outside.is_file() else snapshot(outside))
    assert not (tmp_path / "gone").exists()


def test_a_step_that_is_a_link_is_refused(stopped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (folder / "checkpoints" / "step-1").symlink_to(outside)
    with pytest.raises(UserError, match="step-1"):
        train(folder, resume=True, **{"training.max_steps": 6})
    assert (outside / "precious").read_text() == "x"


# a folder that is lost under its training


class Meddling(Progress):
    """Does something after the third step."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.meddle = meddle
        self.done = False

    def update(self, step: int, *rest: Any) -> None:
        super().update(step, *rest)
        if step >= 3 and not self.done:
            self.done = True
            self.meddle()


@pytest.mark.parametrize(
    "how", ["deleted", "begun anew", "moved", "its lock taken away"]
)
def test_a_training_ends_when_its_folder_is_no_longer_its_own(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = tmp_path / "run"
    other = tmp_path / "moved"
    data = stopped.parent / "reviews.csv"
    after: dict[str, Any] = {}

    def meddle() -> None:
        if how == "moved":
            folder.rename(other)
        elif how == "its lock taken away":
            (folder / ".lock").unlink()
        else:
            shutil.rmtree(folder)
        if how == "begun anew":
            shutil.copytree(stopped, folder)
        after.update(snapshot(other if how == "moved" else folder))

    monkeypatch.setattr(
        "unrolled.runs.train.Progress", lambda *rest, **more: Meddling(meddle)
    )
    with pytest.raises(UserError, match=r"run") as caught:
        train(data, out=folder, **{**QUICK, "training.max_steps": 40})
    assert str(folder) in str(caught.value)
    # nothing was written since
    files = snapshot(other if how == "moved" else folder)
    lines = [name for name in files if files[name] != after.get(name)]
    assert set(lines) <= {"metrics.jsonl"}, lines
    assert set(files) == set(after) or how == "deleted"
    if how == "deleted":
        assert not folder.exists()


def test_a_folder_that_is_being_trained_is_refused(
    stopped: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    messages: list[str] = []
    from unrolled.core.locks import locked

    with locked(folder):

        def go_on() -> None:
            with pytest.raises(UserError) as caught:
                train(folder, resume=True, **{"training.max_steps": 6})
            messages.append(str(caught.value))

        thread = threading.Thread(target=go_on)
        thread.start()
        thread.join()
    assert str(folder) in messages[0]


# what a kill leaves


@pytest.mark.parametrize("name", sorted({*runs.READ, *runs.SHOWN}))
def test_what_was_half_written_is_removed_when_a_run_goes_on(
    stopped: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    rest = [folder / f".{name}.ab12cd.tmp", folder / digests.SAVING / name]
    rest.append(folder / "checkpoints" / ".step-9.tmp" / "tensors.safetensors")
    for path in rest:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    mine = folder / ".mine.tmp"
    mine.mkdir()
    run = train(folder, resume=True, **{"training.max_steps": 6})
    assert run.result["steps"] == 6
    assert not any(path.exists() for path in rest)
    assert mine.is_dir()  # not known to be ours


@pytest.mark.parametrize("name", ["step-²", "step-", "step-1x", "step--1", "step-٣"])
def test_a_name_that_is_no_step_is_no_checkpoint(
    stopped: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    (folder / "checkpoints" / name).mkdir()
    run = train(folder, resume=True, **{"training.max_steps": 6})
    assert run.result["steps"] == 6
    assert (folder / "checkpoints" / name).is_dir()


@pytest.mark.parametrize(
    "tail",
    [
        b'{"step": 5, "ki',
        b"\0" * 40,
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"step": "5"}\n',
        b"7\n",
    ],
)
def test_a_torn_or_strange_tail_of_the_metrics_is_cut(
    stopped: Path, tmp_path: Path, tail: bytes
) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    train(folder, resume=True, **{"training.max_steps": 6})
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == 6


def test_bytes_of_a_huge_file_are_not_read(copy: Callable[[str], Path]) -> None:
    folder = copy("classify")
    for name in ("fields.json", "digests.json", "config.yaml"):
        path = folder / name
        whole = path.read_bytes()
        with path.open("wb") as file:
            file.truncate(1 << 40)  # a terabyte that takes no place
        with within(20), pytest.raises(UserError, match=name.replace(".", r"\.")):
            unrolled.load(folder)
        path.write_bytes(whole)
