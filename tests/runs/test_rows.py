"""Rows of any kind are answered with numbers, or it is said what is wrong with them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings

import unrolled
from conftest import SMALL, Call, reviews, write_csv, write_jsonl
from fields.cells import nested
from unrolled.core import terminal
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.core.files import Watched
from unrolled.runs import prepared

KINDS = ["classify", "regress", "vectors", "tag"]
drawn = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.fixture(scope="module")
def loaded(home: SimpleNamespace) -> dict[str, unrolled.Run]:
    return {kind: unrolled.load(home.runs[kind]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@drawn
@given(row=nested)
def test_any_row_is_answered_or_it_is_said_why_not(
    loaded: dict[str, unrolled.Run], kind: str, row: Any
) -> None:
    run = loaded[kind]
    answer = run.predictor.predict_one(row)
    if isinstance(answer, str):
        with pytest.raises(UserError) as caught:
            run.answers([row])
        assert "\n" not in terminal.clean(answer)
        assert len(str(caught.value)) < 3000
        return
    assert isinstance(answer.text, str)
    assert finite(answer.details)
    assert answer.probability is None or 0 <= answer.probability <= 1
    if kind in ("regress", "vectors"):
        assert math.isfinite(float(answer.text))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_by_itself_is_one_row(loaded: dict[str, unrolled.Run], kind: str) -> None:
    texts = {
        "classify": "a good film",
        "regress": "3,21",
        "vectors": "7,6",
        "tag": "a b c",
    }
    run = loaded[kind]
    assert run.predict(texts[kind]) == run.predict([texts[kind]])
    names = run.task.schema.inputs
    row = dict(zip(names, (3, 21) if len(names) == 2 else ("a b",), strict=True))
    assert run.predict(row) == run.predict([row])
    for wrong in (b"bytes", 5, None):
        with pytest.raises(UsageError, match="give a list of rows"):
            run.predict(wrong)  # type: ignore[arg-type]


def test_a_row_of_more_than_a_megabyte_is_refused_until_it_is_asked_for(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    run = unrolled.load(home.runs["classify"])
    began = time.monotonic()
    for row in ("x" * 1_000_001, ["x" * 1_000_001], {"text": "x" * 1_000_001}):
        with pytest.raises(
            UserError, match=r"more than 1,000,000 bytes; raise data\.max_row"
        ):
            run.predict([row])
    assert run.predict(["good " * 200_000]) == ["good"]
    assert time.monotonic() - began < 20
    long = [("good film " * 120_000, "good"), *reviews(60, 6)]
    path = write_csv(tmp_path / "long.csv", long, ("text", "label"))
    with pytest.raises(DataError, match=r"data\.max_row"):
        run.evaluate(path)
    assert run.evaluate(path, **{"data.max_row": 2_000_000})["accuracy"] > 0


# numbers


@pytest.mark.parametrize("huge", [1e300, 1.7976931348623157e308, -1e31])
@pytest.mark.parametrize("column", ["x", "y"])
def test_a_sentinel_is_named_with_its_line(
    tmp_path: Path, huge: float, column: str
) -> None:
    rows = [{"x": float(n), "y": float(2 * n)} for n in range(90)]
    rows[41][column] = huge
    path = tmp_path / "t.csv"
    write_csv(path, [(row["x"], row["y"]) for row in rows], ("x", "y"))
    with pytest.raises(
        DataError, match=rf"t\.csv:43: column '{column}' holds .* more than 1e\+30"
    ):
        unrolled.train(
            path, out=tmp_path / "run", quiet=True, say=lambda text: None, **SMALL
        )
    assert not (tmp_path / "run").exists()
    # left out, the rest is trained on, and every number that is written is one
    changes = {**SMALL, "data.on_error": "skip", "training.max_steps": 5}
    run = unrolled.train(
        path, out=tmp_path / "run", quiet=True, say=lambda text: None, **changes
    )
    assert finite(run.result)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert finite(json.loads(line, parse_constant=lambda name: pytest.fail(name)))


def test_a_row_out_of_all_proportion_is_no_score(tmp_path: Path) -> None:
    rows = [(n, 2 * n) for n in range(90)]
    path = write_csv(tmp_path / "t.csv", rows, ("x", "y"))
    changes = {**SMALL, "training.max_steps": 5}
    run = unrolled.train(
        path, out=tmp_path / "run", quiet=True, say=lambda text: None, **changes
    )
    other = write_csv(tmp_path / "o.csv", [(1, 2), (1e29, 3)], ("x", "y"))
    with pytest.raises(UserError, match=r"o\.csv:3: .*out of all proportion"):
        run.evaluate(other)


# words


@pytest.mark.parametrize(
    "tags", [["N", ["V"]], ["N", None], ["N", {"a": 1}], {"a": "N"}, True]
)
def test_a_tag_that_is_none_is_named_with_its_line(tmp_path: Path, tags: Any) -> None:
    rows = [{"words": [f"a{n}", "b"], "tags": ["N", "V"]} for n in range(60)]
    rows[7]["tags"] = tags
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    changes = {**SMALL, "training.max_steps": 2, "task": "tag"}
    with pytest.raises(DataError, match=r"t\.jsonl:8: column 'tags' holds"):
        unrolled.train(
            path, out=tmp_path / "a", quiet=True, say=lambda text: None, **changes
        )
    changes["data.on_error"] = "skip"
    run = unrolled.train(
        path, out=tmp_path / "b", quiet=True, say=lambda text: None, **changes
    )
    assert run.task.output.names == ("N", "V")  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [["good"], {"a": "good"}])
def test_a_label_that_is_an_object_is_named_with_its_line(
    tmp_path: Path, value: Any
) -> None:
    rows = [{"text": text, "label": label} for text, label in reviews(60, 6)]
    rows[7]["label"] = value
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    keys = {**SMALL, "data.label": "label", "task": "classify", "training.max_steps": 2}
    with pytest.raises(DataError, match=r"t\.jsonl:8: column 'label' holds"):
        unrolled.train(
            path, out=tmp_path / "a", quiet=True, say=lambda text: None, **keys
        )


# what is asked of the caller


@pytest.mark.parametrize(
    "given", [[{"text": "a", "label": "b"}] * 300, {"a": 1}, None, 5, "", b"x"]
)
def test_what_is_no_path_is_said_to_be_none(home: SimpleNamespace, given: Any) -> None:
    run = unrolled.load(home.runs["classify"])
    calls: dict[str, Callable[[], Any]] = {
        "target": lambda: unrolled.train(given),
        "out": lambda: unrolled.train(home.files["classify"], out=given or 5),
        "data": lambda: run.evaluate(given),
        "folder": lambda: unrolled.load(given),
    }
    for name, call in calls.items():
        with pytest.raises(UserError) as caught:
            call()
        assert name in str(caught.value), caught.value
        assert "--" not in str(caught.value)
        assert len(str(caught.value)) < 300


# files that change while they are read


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one\n")
    (tmp_path / "new").write_text("one\n")
    changes: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "more": lambda: path.write_text("two and more\n"),
        "as many bytes": lambda: path.write_text("two and MORE\n"),
        "another file": lambda: (tmp_path / "new").replace(path),
        "the date set back": lambda: (path.write_text("two\n"), os.utime(path, (1, 1))),
        "gone": path.unlink,
    }
    for name, change in changes.items():
        for watched in (path, tmp_path) if name != "nothing" else (path,):
            seen = Watched(watched)
            if watched == path:
                change()
            assert seen.changed() == (watched == path and name != "nothing"), name
    path.write_text("a file of a folder\n")
    seen = Watched(tmp_path)
    path.write_text("one of other bytes\n")
    assert seen.changed()


def test_rows_of_one_file_and_the_hash_of_another_are_never_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(tmp_path / "t.csv", reviews(60, 6), ("text", "label"))
    other = write_csv(tmp_path / "o.csv", reviews(60, 7), ("text", "label"))
    original = prepared.read

    def swap(*rest: Any, **more: Any) -> Any:
        result = original(*rest, **more)
        other.replace(path)
        return result

    monkeypatch.setattr(prepared, "read", swap)
    with pytest.raises(UserError, match="changed while"):
        unrolled.train(
            path, out=tmp_path / "r", quiet=True, say=lambda text: None, **SMALL
        )
    assert not (tmp_path / "r").exists()


# the caller


def test_the_callers_random_numbers_and_threads_are_his_own(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    import random

    import numpy as np
    import torch

    def state() -> tuple[Any, ...]:
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_rng_state().tolist(),
        )

    torch.set_num_threads(2)
    try:
        before = state()
        changes = {**SMALL, "training.max_steps": 2, "training.threads": 1}
        run = unrolled.train(
            home.files["classify"],
            out=tmp_path / "r",
            quiet=True,
            say=lambda text: None,
            **changes,
        )
        run.predict(["a good film"])
        unrolled.load(home.runs["language"]).generate("row", 5, temperature=1.0, seed=3)
        with pytest.raises(UserError):
            unrolled.train(home.files["classify"], out=tmp_path / "r", **changes)
        assert state() == before
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("limit", "epochs"), [({"max_epochs": 1}, 1), ({"max_epochs": 2}, 2)]
)
def test_epochs_that_were_read_are_counted(
    home: SimpleNamespace, tmp_path: Path, limit: dict[str, int], epochs: int, cli: Call
) -> None:
    changes = {**SMALL, **{f"training.{name}": value for name, value in limit.items()}}
    for kind in ("classify", "language"):
        out = tmp_path / kind
        run = unrolled.train(
            home.files[kind], out=out, quiet=True, say=lambda text: None, **changes
        )
        assert run.result["epochs"] == epochs


def test_another_training_file_leaves_the_dev_files_of_its_recipe_out(
    tmp_path: Path, cli: Call
) -> None:
    song = tmp_path / "song.txt"
    song.write_text(
        "row row row your boat gently down the stream\n" * 40, encoding="utf-8"
    )
    out, _ = cli("train", "anthem", f"data.train={song}", "--dry-run")
    assert "held out" in out
    resolved = out.split("# the resolved recipe")[1]
    assert "anthem" not in resolved.split("data:")[1].split("model:")[0]
    assert "data.dev" in out.split("# the resolved recipe")[0]  # it is said


@pytest.mark.parametrize(
    "default", ["float64", "bfloat16", "meta", "no_grad", "inference"]
)
def test_the_callers_defaults_of_torch_change_nothing(
    home: SimpleNamespace, tmp_path: Path, default: str
) -> None:
    import torch

    changes = {**SMALL, "training.max_steps": 3}

    def everything(out: Path) -> list[Any]:
        options: dict[str, Any] = {"quiet": True, "say": lambda text: None}
        answers: list[Any] = []
        for kind in ("classify", "regress", "language"):
            unrolled.train(home.files[kind], out=out / kind, **options, **changes)
            run = unrolled.load(out / kind)
            answers.append(run.evaluate(home.files[kind]))
            if kind != "language":
                answers.append(
                    unrolled.load(home.runs[kind]).evaluate(home.files[kind])
                )
        answers.append(unrolled.load(home.runs["classify"]).predict(["a good film"]))
        return [*answers, run.generate("row", 5, temperature=1.0, seed=3)]

    expected = everything(tmp_path / "plain")
    with contextlib.ExitStack() as stack:
        if default in ("no_grad", "inference"):
            stack.enter_context(
                torch.no_grad() if default == "no_grad" else torch.inference_mode()
            )
        elif default == "meta":
            stack.callback(torch.set_default_device, None)
            torch.set_default_device("meta")
        else:
            stack.callback(torch.set_default_dtype, torch.float32)
            torch.set_default_dtype(getattr(torch, default))
        assert everything(tmp_path / "other") == expected
        if default in ("float64", "bfloat16"):
            assert torch.get_default_dtype() == getattr(torch, default)
    assert torch.is_grad_enabled()
    for kind in (
        "classify",
        "regress",
        "language",
    ):  # what was trained so loads everywhere
        unrolled.load(tmp_path / "other" / kind)


def test_defaults_are_given_back_by_the_last_of_several_threads() -> None:
    import torch

    from unrolled.training.precision import torch_defaults

    torch.set_default_dtype(torch.float64)
    try:
        first = torch_defaults()
        second = torch_defaults()
        with contextlib.ExitStack() as stack:
            first.__enter__()
            stack.enter_context(second)
            first.__exit__(None, None, None)
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


class Columns:
    """What pandas and polars have in common: columns by name, in an order of their own."""

    def __init__(self, **columns: list[Any]) -> None:
        self.values = columns

    @property
    def columns(self) -> list[str]:
        return list(self.values)

    def __getitem__(self, name: str) -> list[Any]:
        return self.values[name]

    def __iter__(self) -> Any:
        return iter(self.values)


class Named(NamedTuple):
    rooms: int
    area: float


def test_what_names_its_cells_is_read_by_the_names(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["regress"])
    names = run.task.schema.inputs
    assert sorted(names) == ["area", "rooms"]
    rows = [{"area": 50.0, "rooms": 2}, {"area": 80.0, "rooms": 4}]
    expected = run.predict(rows)
    assert run.predict(Columns(rooms=[2, 4], area=[50.0, 80.0])) == expected
    assert run.predict(Columns(area=[50.0, 80.0], rooms=[2, 4])) == expected
    assert run.predict([Named(row["rooms"], row["area"]) for row in rows]) == expected
    text = unrolled.load(home.runs["classify"])
    name = text.task.schema.inputs[0]
    texts = ["a good film", "awful", "좋아요"]
    assert text.predict(Columns(**{name: texts})) == text.predict(texts)
    with pytest.raises(UserError, match="has no"):
        text.predict(Columns(other=texts))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_new_tokens", {"max_new_tokens": "x"}),
        ("max_new_tokens", {"max_new_tokens": 2.5}),
        ("max_new_tokens", {"max_new_tokens": -1}),
        ("seed", {"seed": 2**70}),
        ("seed", {"seed": -1}),
        ("stop", {"stop": 5}),
        ("stop", {"stop": ["a", 5]}),
    ],
)
def test_a_wrong_argument_is_named(
    home: SimpleNamespace, name: str, options: Any
) -> None:
    run = unrolled.load(home.runs["language"])
    with pytest.raises(UsageError, match=rf"^{name} is "):
        run.generate("row", **options)
    with pytest.raises(UsageError, match="device=meta"):
        unrolled.load(home.runs["language"], device="meta")


@pytest.mark.parametrize("words", [{"banned": 5}, {"required": [5]}, {"begin": 5}])
def test_words_that_are_none_are_named(mirror: SimpleNamespace, words: Any) -> None:
    run = unrolled.load(mirror.run)
    with pytest.raises(UsageError, match=rf"^{next(iter(words))} is "):
        run.adjust(**words)


def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    from unrolled.core.yaml import load_yaml
    from unrolled.data.sources import read

    path = tmp_path / "d.jsonl"
    rows = [
        '{"text": "a", "label": "x"}',
        '{"text": "b", "label": "a", "label": "x"}',
    ] * 3
    path.write_text("\n".join(rows), "utf-8")
    with pytest.raises(
        DataError, match=r"d\.jsonl:2: .*the key 'label' stands there twice"
    ):
        read(path)
    for text in ("seed: 1\nseed: 2\n", "a:\n  b: 1\n  b: 2\n", "{a: 1, a: 1}"):
        with pytest.raises(ValueError, match="stands there twice"):
            load_yaml(text)


def test_an_array_of_no_dimensions_is_refused(home: SimpleNamespace) -> None:
    import numpy as np

    run = unrolled.load(home.runs["classify"])
    with pytest.raises(UsageError, match="give a list of rows"):
        run.predict(np.array("x"))
    with pytest.raises(UserError, match="is no row"):
        run.predict([np.array(3.0)])


def test_an_inner_object_of_a_row_is_named_behind_a_dot(tmp_path: Path) -> None:
    lines = [
        json.dumps({"review": {"body": text}, "label": label})
        for text, label in reviews(40, 3)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    run = unrolled.train(
        path,
        out=tmp_path / "r",
        quiet=True,
        say=lambda line: None,
        **{"training.max_steps": 3},
        **SMALL,
    )
    assert run.task.schema.inputs == ("review.body",)
    inner = {"review": {"body": "a good film"}}
    forms = [inner, {"review.body": "a good film"}, json.dumps(inner)]
    assert len(set(map(str, run.answers(forms)))) == 1
