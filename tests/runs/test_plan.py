"""A run before it starts: its folder and name, keys that mean nothing, and whether it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import SMALL, reviews, write_csv
from unrolled.core.errors import UsageError, UserError
from unrolled.run import train
from unrolled.runs.keys import deep
from unrolled.runs.plan import (
    Request,
    build,
    check_keys,
    check_limits,
    folder_of,
    is_finished,
    make_plan,
    with_files_of,
)
from unrolled.tasks.recipe import Recipe


def recipe(**keys: Any) -> Recipe:
    return Recipe.read(deep(keys))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table in a folder of its own, which the test works in."""
    monkeypatch.chdir(tmp_path)
    return write_csv(tmp_path / "reviews.csv", reviews(60, 6), ("text", "label"))


# ---------------------------------------------------------------------- the folder of a run


def test_a_run_lies_under_its_name_or_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    named = recipe(name="bard")
    assert folder_of("song.txt", named, None) == Path("runs/bard")
    assert folder_of("song.txt", named, "elsewhere") == Path("elsewhere")
    assert folder_of("song.txt", named, Path("a/b")) == Path("a/b")
    assert folder_of("song.txt", named, "~/run") == tmp_path / "run"


def test_a_run_that_is_named_stays_where_it_is(home: SimpleNamespace) -> None:
    run = home.runs["classify"]
    named = recipe(name="other")
    assert folder_of(str(run), named, None) == run
    assert folder_of(str(run), named, "copy") == Path("copy")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../x",
        "/tmp/x",
        "a/b",
        "a\\b",
        "a\nb",
        "a\0b",
        "a" * 101,
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(data: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a folder in runs"):
        make_plan(str(data), {**SMALL, "name": name})
    assert [path.name for path in data.parent.rglob("*")] == ["reviews.csv"]


@pytest.mark.parametrize("out", ["", "a\0b", "a\udcff"])
def test_a_folder_without_a_name_is_refused(data: Path, out: str) -> None:
    with pytest.raises(UsageError, match=r"^out= is .*(name a folder|no UTF-8)"):
        make_plan(str(data), SMALL, out)
    assert [path.name for path in data.parent.rglob("*")] == ["reviews.csv"]


# ---------------------------------------------------------------------- requests and plans


def test_a_request_keeps_the_keys_as_they_were_given(data: Path) -> None:
    request = Request.read(str(data), {"model": {"hidden": 9}, "layer": "lstm"})
    assert request.changes == {"model.hidden": 9, "layer": "lstm"}
    assert (request.recipe.model.hidden, request.recipe.layer) == (9, "lstm")
    assert request.folder == Path("runs/reviews")
    # only a run that is to be resumed may have ended before
    assert request.finished() == ""
    assert Request.read(str(data), {}, resume=True).finished() == ""


def test_a_run_is_finished_as_it_was_requested_and_not_with_other_keys(
    home: SimpleNamespace,
) -> None:
    run = str(home.runs["classify"])
    assert Request.read(run, {}).finished() == ""
    ended = Request.read(run, {}, resume=True).finished()
    assert "at step 60" in ended
    same = Request.read(run, {"training.max_steps": 60}, resume=True)
    assert same.finished() == ended
    more = Request.read(run, {"training.max_steps": 61}, resume=True)
    assert more.finished() == ""


def test_a_plan_writes_nothing_and_says_what_will_be_trained(data: Path) -> None:
    changes = {**SMALL, "training.max_steps": 7, "training.patience": 2}
    plan = make_plan(str(data), changes)
    assert [path.name for path in data.parent.iterdir()] == ["reviews.csv"]
    lines = plan.lines()
    size = sum(parameter.numel() for parameter in plan.model.parameters())
    assert f"model: layer=gru, {size:,} parameters" in lines
    assert "trains until: max_steps 7, or 2 evaluations without progress" in lines
    assert lines[-1] == "run: runs/reviews"
    assert plan.finished == ""


def test_equal_seeds_plan_equal_models(data: Path) -> None:
    first, second, other = (
        make_plan(str(data), {**SMALL, "seed": seed}, dry_run=True).model.state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_folder_that_holds_a_run_is_planned_beside_but_not_written_over(
    home: SimpleNamespace,
) -> None:
    data = str(home.files["classify"])
    run = home.runs["classify"]
    with pytest.raises(UserError, match="resume"):
        make_plan(data, SMALL, run)
    assert make_plan(data, SMALL, run, dry_run=True).folder == run


# ---------------------------------------------------------------------- keys and limits


def test_a_metric_that_the_task_does_not_measure_is_refused(data: Path) -> None:
    task = make_plan(str(data), SMALL).prepared.task
    check_keys(recipe(**{"training.metric": "macro_f1"}), task)
    with pytest.raises(
        UsageError, match=r"training\.metric=bleu: task=classify has .*accuracy"
    ):
        check_keys(recipe(**{"training.metric": "bleu"}), task)


def test_keys_that_the_task_has_no_use_for_are_refused(home: SimpleNamespace) -> None:
    task = make_plan(str(home.files["tag"]), SMALL, dry_run=True).prepared.task
    check_keys(recipe(), task)
    with pytest.raises(UsageError, match=r"training\.pretrain_epochs=1 is for a label"):
        check_keys(recipe(**{"training.pretrain_epochs": 1}), task)


class Steps:
    """A source of batches of which only the number is known."""

    def __init__(self, of_epoch: int) -> None:
        self.of_epoch = of_epoch

    def length(self, epoch: int) -> int:
        return self.of_epoch

    def batch(self, epoch: int, index: int) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(("steps", "refused"), [(10, True), (19, True), (31, False)])
def test_a_run_that_ends_before_it_sees_a_label_is_refused(
    steps: int, refused: bool
) -> None:
    keys = {"training.pretrain_epochs": 2, "training.max_steps": steps}
    source: Any = Steps(10)
    if refused:
        with pytest.raises(UsageError, match="pre-training takes 20 steps"):
            check_limits(recipe(**keys), source)
    else:
        check_limits(recipe(**keys), source)


def test_a_model_beyond_memory_is_an_error_of_one_line(data: Path) -> None:
    task = make_plan(str(data), SMALL).prepared.task

    class Greedy:
        def build(self, recipe: Recipe) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    greedy: Any = Greedy()
    with pytest.raises(UserError, match=r"lower model\.hidden"):
        build(recipe(), greedy)
    built = build(recipe(**SMALL), task)
    assert sum(parameter.numel() for parameter in built.parameters())


# ---------------------------------------------------------------------- whether a run has ended


@pytest.mark.parametrize(
    ("result", "keys", "expected"),
    [
        # nothing was written yet
        (None, {"training.max_steps": 5}, ""),
        # it ended by itself, and goes no further with higher limits
        (
            {"stopped": "no progress", "steps": 3, "seconds": 1.0},
            {"training.max_steps": 500},
            "no progress",
        ),
        (
            {"stopped": "limit", "steps": 5, "seconds": 1.0},
            {"training.max_steps": 6},
            "",
        ),
        (
            {"stopped": "limit", "steps": 6, "seconds": 1.0},
            {"training.max_steps": 6},
            "it reached its limit at step 6",
        ),
        # two epochs of ten steps
        (
            {"stopped": "limit", "steps": 19, "seconds": 1.0},
            {"training.max_epochs": 2},
            "",
        ),
        (
            {"stopped": "limit", "steps": 20, "seconds": 1.0},
            {"training.max_epochs": 2},
            "it reached its limit at step 20",
        ),
        # by the first of two limits
        (
            {"stopped": "limit", "steps": 4, "seconds": 61.0},
            {"training.max_steps": 9, "training.max_minutes": 1},
            "it reached its limit at step 4",
        ),
        (
            {"stopped": "limit", "steps": 4, "seconds": 59.0},
            {"training.max_steps": 9, "training.max_minutes": 1},
            "",
        ),
    ],
)
def test_a_run_has_ended_where_nothing_is_left_of_its_limits(
    tmp_path: Path, result: dict[str, Any] | None, keys: dict[str, Any], expected: str
) -> None:
    if result is not None:
        (tmp_path / "result.json").write_text(json.dumps(result))
    source: Any = Steps(10)
    ended = is_finished(tmp_path, recipe(**keys), source)
    assert ended.startswith(expected)
    assert bool(ended) == bool(expected)


# ---------------------------------------------------------------------- files that are elsewhere


def begun(data: Path, out: str, **changes: Any) -> None:
    keys = {**SMALL, "training.max_steps": 2, **changes}
    train(data.name, out=out, say=lambda line: None, quiet=True, **keys)


@pytest.mark.parametrize("out", ["runs/x", "x"])
def test_a_run_goes_on_from_another_folder(
    data: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    dev = write_csv(data.parent / "dev.csv", reviews(30, 8), ("text", "label"))
    begun(data, out, **{"data.dev": dev.name})
    other = data.parent / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    changes = {"training.max_steps": 4}
    plan = make_plan(str(data.parent / out), changes, resume=True)
    assert plan.recipe.data.train == str(data)
    assert plan.recipe.data.dev == str(dev)
    run = train(
        str(data.parent / out),
        resume=True,
        say=lambda line: None,
        quiet=True,
        **changes,
    )
    assert run.result["steps"] == 4
    assert not list(other.iterdir())


def test_a_run_that_was_moved_with_its_file_goes_on(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data.parent / "deep").mkdir()
    file = data.rename(data.parent / "deep" / data.name)
    keys = {**SMALL, "training.max_steps": 2}
    train("deep/reviews.csv", out="runs/x", say=lambda line: None, quiet=True, **keys)
    machine = data.parent / "machine"
    machine.mkdir()
    (data.parent / "runs").rename(machine / "runs")
    file.rename(machine / data.name)
    monkeypatch.chdir(machine / "runs")
    plan = make_plan("x", {"training.max_steps": 4}, resume=True)
    assert plan.recipe.data.train is not None
    assert Path(plan.recipe.data.train).resolve() == machine / data.name


def test_another_file_of_that_name_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(data, "runs/x")
    other = data.parent / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    write_csv(data, reviews(60, 7), ("text", "label"))
    with pytest.raises(UserError, match="is not the file it was begun with"):
        make_plan(str(data.parent / "runs/x"), {"training.max_steps": 4}, resume=True)
    data.unlink()
    with pytest.raises(UserError, match=r"if it has moved, say where to: data\.train="):
        make_plan(str(data.parent / "runs/x"), {"training.max_steps": 4}, resume=True)


def test_a_file_that_is_there_stays_as_it_is_named(data: Path) -> None:
    named = recipe(**{"data.train": data.name, "data.dev": "nowhere.csv"})
    assert with_files_of(data.parent / "runs" / "x", named) == named
