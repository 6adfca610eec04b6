"""Sequences of numbers end to end: forecasts, labels of steps, labels of sequences."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import unrolled
from conftest import SMALL, Call, write_csv, write_jsonl
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.fields.base import InvalidCell
from unrolled.fields.series import WindowSpec
from unrolled.insight.summary import finish
from unrolled.runs.keys import parse
from unrolled.runs.plan import make_plan
from unrolled.runs.prepare import prepare
from unrolled.runs.prepared import Prepared
from unrolled.runs.recipes import requested
from unrolled.tasks.baselines import Baseline, measured
from unrolled.tasks.classify import Classify
from unrolled.tasks.regress import Regress
from unrolled.tasks.series import one_answer
from unrolled.tasks.tag_frames import FrameTag
from unrolled.training.progress import Progress

assert finish  # what closes a training is part of these runs


def baselines(prepared: Prepared) -> list[Baseline]:
    return measured(prepared.task.baselines(prepared.split))[0]


T = 60
WINDOW = 5
AHEAD = 2
TIME = np.arange(T)
WAVES = np.stack([np.sin(TIME / 3), 20 + 4 * np.cos(TIME / 5)], 1).round(4)
STAMPED = [(f"2024-01-{t:02}", *WAVES[t].tolist()) for t in range(T)]


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "w.csv", STAMPED, ("date", "load", "heat"))


@pytest.fixture
def moves(tmp_path: Path) -> Path:
    """Steps of three people, labelled by the sign of the first number."""
    draw = np.random.default_rng(1)
    rows = []
    for who in "abc":
        values = np.cumsum(draw.normal(size=(30, 2)), 0)
        rows += [
            (who, *v.tolist(), "up" if v[0] > values[:, 0].mean() else "down")
            for v in values
        ]
    return write_csv(tmp_path / "m.csv", rows, ("who", "x", "y", "phase"))


def prepare_file(path: Path, **changes: object) -> Prepared:
    return prepare(
        requested(str(path), {k.replace("__", "."): v for k, v in changes.items()})
    )


def run_of(path: Path, out: Path, **changes: Any) -> unrolled.Run:
    settings = SMALL | {
        "training.max_steps": 12,
        "training.learning_rate": 0.02,
        "data.rows": "steps",
    }
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return unrolled.train(path, out=out, quiet=True, say=lambda text: None, **settings)


def slides(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the windows (N, W, D) whose answer is still in ``values``."""
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=0).swapaxes(
        1, 2
    )
    return windows[: len(values) - WINDOW - AHEAD + 1]


@pytest.mark.parametrize("difference", [False, True])
def test_windows_and_their_answers_are_those_of_numpy(
    waves: Path, difference: bool
) -> None:
    prepared = prepare_file(
        waves, data__window=WINDOW, data__ahead=AHEAD, data__difference=difference
    )
    task = prepared.task
    cut = 54
    assert isinstance(task, Regress)
    assert task.schema.numbers == ("load", "heat")
    train = WAVES[:cut]
    heat = WAVES[:, 1]
    mean = train.mean(0)
    deviation = train.std(0)
    batch, _ = prepared.train.frames.take(np.arange(len(prepared.train)))
    np.testing.assert_allclose(
        batch, (slides(train) - mean) / deviation, rtol=1e-4, atol=1e-5
    )
    ends = np.arange(WINDOW - 1, cut - AHEAD)
    raw = heat[ends + AHEAD] - (heat[ends] if difference else 0)
    np.testing.assert_allclose(
        prepared.train.targets, (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5
    )
    # the last tenth are the answers that are held out; their windows may begin before it
    np.testing.assert_array_equal(prepared.dev.lines, np.arange(cut, T) + 2)
    batch, _ = prepared.dev.frames.take(np.arange(6))
    expected = (slides(WAVES)[-6:] - mean) / deviation
    np.testing.assert_allclose(batch, expected, rtol=1e-4, atol=1e-5)


def test_baselines_are_persistence_and_a_line_over_the_window(waves: Path) -> None:
    settings = {"data__window": WINDOW, "data__ahead": AHEAD}
    plain, changes = (
        {
            b.name: b.scores
            for b in baselines(prepare_file(waves, **settings, data__difference=d))
        }
        for d in (False, True)
    )
    heat = WAVES[:, 1]
    ends = np.arange(54, T) - AHEAD
    kept = np.abs(heat[ends + AHEAD] - heat[ends]).mean()
    assert plain["last value"]["mae"] == pytest.approx(kept, rel=1e-4)
    assert changes["last value"]["mae"] == pytest.approx(kept, rel=1e-4)
    flat = slides(WAVES).reshape(-1, WINDOW * 2)
    goal = heat[WINDOW - 1 + AHEAD :]
    line = LinearRegression().fit(flat[:-6], goal[:-6]).predict(flat[-6:])
    for scores in (plain, changes):
        assert scores["linear regression"]["mae"] == pytest.approx(
            np.abs(line - goal[-6:]).mean(), abs=2e-3
        )
    assert plain["mean"]["mae"] == pytest.approx(
        np.abs(goal[:-6].mean() - goal[-6:]).mean(), 1e-4
    )
    assert "mean" not in changes


LAYERS = [
    {"layer": "none"},
    {"layer": "rnn"},
    {"layer": "lstm"},
    {"layer": "gru"},
    {"layer": "attention", "model.heads": 2},
    {"layer": "gru", "model.bidirectional": True},
]


@pytest.mark.parametrize(
    "layer", LAYERS, ids=lambda layer: "-".join(map(str, layer.values()))
)
def test_every_layer_forecasts_and_a_file_is_answered_like_its_windows(
    waves: Path, tmp_path: Path, cli: Call, layer: dict[str, Any]
) -> None:
    run = run_of(
        waves,
        tmp_path / "r",
        data__window=WINDOW,
        data__ahead=AHEAD,
        data__difference=True,
        **layer,
    )
    windows = [WAVES[end - WINDOW : end].tolist() for end in (WINDOW, 30, T)]
    values = [answer.details["value"] for answer in run.answers(windows)]
    cli("predict", tmp_path / "r", "--file", waves, "-o", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as handle:
        answers = [row["answer"] for row in csv.DictReader(handle)]
    assert len(answers) == T
    assert answers[: WINDOW - 1] == [""] * (WINDOW - 1)
    predictions = [float(answers[end - 1]) for end in (WINDOW, 30, T)]
    assert predictions == pytest.approx(values, rel=1e-4)
    # a longer sequence is answered for its last window
    assert float(run.predict([WAVES.tolist()])[0]) == pytest.approx(
        values[-1], rel=1e-4
    )
    out, _ = cli("predict", tmp_path / "r", json.dumps(windows[1]))
    assert float(out) == pytest.approx(values[1], rel=1e-4)
    # the scores are those of the answers, in the unit of the file
    given = np.array([float(a) for a in answers[WINDOW - 1 : T - AHEAD]])
    errors = np.abs(given - WAVES[WINDOW - 1 + AHEAD :, 1])
    assert run.evaluate(waves)["mae"] == pytest.approx(errors.mean(), rel=1e-3)


def test_what_does_not_fit_says_what_to_do(waves: Path, tmp_path: Path) -> None:
    run = run_of(waves, tmp_path / "r", data__window=WINDOW)
    with pytest.raises(UserError, match="2 steps are given; this model reads 5"):
        run.predict([[[1, 2], [3, 4]]])
    with pytest.raises(UserError, match="a step has 3 numbers; expected 2: load, heat"):
        run.predict([[[1, 2, 3]] * 5])
    with pytest.raises(
        UserError, match="'1, 2' is no sequence of numbers: write a list of steps"
    ):
        run.predict(["1, 2"])
    for row in (
        {"load": [1] * 5, "heat": [2] * 5},
        '{"load": [1,1,1,1,1], "heat": [2,2,2,2,2]}',
    ):
        assert run.predict([row]) == run.predict([[[1, 2]] * 5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 70}, r"w\.csv: no sequence has the steps that data.window and"),
        (
            {"window": 5, "ahead": 0, "numbers": ["heat"], "label": "heat"},
            "data.numbers holds the answer 'heat'",
        ),
        ({"rows": "steps"}, "heat has a value at every step: set data.window=N"),
        (
            {"window": 5, "ahead": 0, "difference": True},
            "data.difference=true adds the forecast",
        ),
        (
            {"window": 5, "sequence": "dat"},
            "there is no column 'dat'; did you mean 'date'",
        ),
        ({"window": 5, "text": "date"}, "the steps of a sequence are numbers"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(
    waves: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        prepare_file(waves, **{f"data__{key}": value for key, value in changes.items()})


def test_settings_of_texts_are_refused_and_so_is_a_reach_that_is_too_short(
    waves: Path,
) -> None:
    def plan(**changes: Any) -> None:
        make_plan(str(waves), {"data.window": 5, **changes}, dry_run=True)

    with pytest.raises(UsageError, match=r"model\.ngrams=2 is for text"):
        plan(**{"model.ngrams": 2})
    with pytest.raises(UsageError, match="reads 4 steps"):
        plan(**{"layer": "attention", "model.context": 4})


def test_tagging_learns_from_pieces_that_cover_every_step_once(moves: Path) -> None:
    prepared = prepare_file(
        moves, task="tag", data__sequence="who", data__dev=str(moves), data__window=8
    )
    source = prepared.task.source(prepared.train, prepared.recipe, torch.nn.Identity())
    pieces = []
    for index in range(source.length(0)):
        batch = source.batch(0, index)
        assert batch.lengths is not None
        assert batch.targets is not None
        for row, size in enumerate(batch.lengths.tolist()):
            pieces.append((batch.inputs[row, :size], batch.targets[row, :size]))
    assert sorted(len(piece) for piece, _ in pieces) == [6] * 3 + [8] * 9
    flat = np.concatenate([piece.numpy() for piece, _ in pieces])
    order = [
        np.flatnonzero((prepared.train.frames.flat == step).all(1))[0] for step in flat
    ]
    assert sorted(order) == list(range(90))
    labels = np.concatenate([labels.numpy() for _, labels in pieces])
    np.testing.assert_array_equal(labels, prepared.train.targets.flat[order])


@pytest.mark.parametrize(
    "layer", LAYERS, ids=lambda layer: "-".join(map(str, layer.values()))
)
def test_every_layer_labels_steps_and_the_scores_are_those_of_the_answers(
    moves: Path, tmp_path: Path, cli: Call, layer: dict[str, Any]
) -> None:
    run = run_of(moves, tmp_path / "r", data__sequence="who", **layer)
    assert isinstance(run.task, FrameTag)
    assert run.result["scored_rows"] == 1
    cli("predict", tmp_path / "r", "--file", moves, "-o", tmp_path / "a.jsonl")
    rows = [
        json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()
    ]
    right = np.mean([row["answer"] == row["phase"] for row in rows])
    assert run.evaluate(moves)["accuracy"] == pytest.approx(right)
    assert {row["answer"] for row in rows} <= {"up", "down"}
    # one person by herself is labelled as among the others
    alone = [[float(row["x"]), float(row["y"])] for row in rows if row["who"] == "b"]
    assert run.predict([alone]) == [
        " ".join(r["answer"] for r in rows if r["who"] == "b")
    ]
    shares = run.answers([alone])[0].details["probabilities"]
    np.testing.assert_allclose(
        shares, [r["probability"] for r in rows if r["who"] == "b"], 1e-4
    )


def test_rows_of_lists_are_read_like_rows_of_steps(moves: Path, tmp_path: Path) -> None:
    with moves.open() as handle:
        rows = list(csv.DictReader(handle))
    whole = [
        {
            "frames": [[float(r["x"]), float(r["y"])] for r in rows if r["who"] == who],
            "phase": [r["phase"] for r in rows if r["who"] == who],
        }
        for who in "abc"
    ]
    lists = write_jsonl(tmp_path / "m.jsonl", whole)
    by_steps = prepare_file(moves, data__sequence="who", data__dev=str(moves))
    by_lists = prepare_file(lists, data__dev=str(lists))
    assert (by_steps.recipe.task, by_lists.recipe.task) == ("tag", "tag")
    assert by_lists.task.schema.numbers == ("frames",)
    np.testing.assert_allclose(
        by_steps.train.frames.flat, by_lists.train.frames.flat, rtol=1e-6
    )
    np.testing.assert_array_equal(
        by_steps.train.targets.flat, by_lists.train.targets.flat
    )
    assert (
        by_steps.train.lengths.tolist()
        == by_lists.train.lengths.tolist()
        == [30, 30, 30]
    )


def test_steps_are_held_out_by_recording(moves: Path) -> None:
    prepared = prepare_file(moves, data__sequence="who", data__holdout=0.4)
    people = [set(part.names) for part in (prepared.train_data, prepared.dev_data)]  # type: ignore[union-attr]
    assert people[0] | people[1] == set("abc")
    assert not people[0] & people[1]
    majority = {b.name: b.scores for b in baselines(prepared)}["most frequent label"]
    labels = [
        [tag for row in part.rows for tag in row[3]]
        for part in (prepared.train_data, prepared.dev_data)  # type: ignore[union-attr]
    ]
    common = max(set(labels[0]), key=labels[0].count)
    assert majority["accuracy"] == pytest.approx(
        labels[1].count(common) / len(labels[1])
    )


def test_a_label_that_only_the_dev_file_has_is_named_with_its_line(
    moves: Path, tmp_path: Path
) -> None:
    lines = moves.read_text().splitlines()
    lines[40] = lines[40].rsplit(",", 1)[0] + ",sideways"
    other = tmp_path / "dev.csv"
    other.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"dev\.csv:41: label 'sideways' was not seen"):
        prepare_file(moves, data__sequence="who", data__dev=str(other))


def test_sequences_with_one_label_each_are_classified_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for name in range(24):
        rising = name % 2
        for t in range(draw.integers(3, 9)):
            rows.append(
                (
                    f"n{name}",
                    round((t if rising else -t) + draw.normal() / 9, 3),
                    rising,
                )
            )
    path = write_csv(tmp_path / "s.csv", rows, ("name", "x", "rising"))
    run = run_of(path, tmp_path / "r", data__sequence="name", training__max_steps=60)
    assert isinstance(run.task, Classify)
    assert run.predict([[0, 1, 2, 3, 4], [0, -1, -2, -3, -4]]) == ["1", "0"]
    assert run.evaluate(path)["accuracy"] == 1
    whole = {name: [r[1] for r in rows if r[0] == name] for name, _, _ in rows}
    lists = [{"x": v, "rising": int(n[1:]) % 2} for n, v in whole.items()]
    again = prepare_file(write_jsonl(tmp_path / "s.jsonl", lists), task="classify")
    assert len(again.train) + len(again.dev) == 24
    flawed = [*rows, ("n0", 1.0, 1)]
    with pytest.raises(DataError, match=r"a sequence has several answers \('0', '1'\)"):
        prepare_file(
            write_csv(tmp_path / "f.csv", flawed, ("name", "x", "rising")),
            task="classify",
            data__sequence="name",
        )


def test_faulty_rows_get_an_empty_answer_when_they_are_skipped(
    moves: Path, tmp_path: Path, cli: Call
) -> None:
    run_of(moves, tmp_path / "r", data__sequence="who", training__max_steps=2)
    lines = moves.read_text().splitlines()
    lines[5] = "a,oops,1.0,up"
    moves.write_text("\n".join(lines))
    _, err = cli("predict", tmp_path / "r", "--file", moves, code=1)
    assert "m.csv:6: column 'x' holds 'oops' where a number is expected" in err
    out, err = cli("predict", tmp_path / "r", "--file", moves, "data.on_error=skip")
    answers = out.split("\n")[:-1]
    assert len(answers) == 90
    assert [i for i, answer in enumerate(answers) if not answer] == [4]
    assert "skipped 1 faulty row; the first:" in err


def test_a_run_is_loaded_and_resumed_as_it_was(waves: Path, tmp_path: Path) -> None:
    settings = {"data__window": WINDOW, "data__difference": True}
    run = run_of(waves, tmp_path / "r", **settings)
    assert unrolled.load(tmp_path / "r").predict([WAVES.tolist()]) == run.predict(
        [WAVES.tolist()]
    )
    longer = unrolled.train(
        tmp_path / "r",
        resume=True,
        quiet=True,
        say=lambda text: None,
        **parse(["training.max_steps=20"]),
    )
    assert longer.result["steps"] == 20
    assert longer.result["task"] == "regress"
    torch.testing.assert_close(
        torch.tensor(longer.evaluate(waves)["mae"]),
        torch.tensor(unrolled.load(tmp_path / "r").evaluate(waves)["mae"]),
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["a", None], r"several answers \('a', None\)"),
        ([None, "a"], r"several answers \(None, 'a'\)"),
        ([], "there is no answer"),
    ],
)
def test_a_step_without_an_answer_is_not_passed_over(
    cell: list[Any], message: str
) -> None:
    goals = one_answer(WindowSpec())
    assert goals(["a", "a"], 2) == ["a"]
    with pytest.raises(InvalidCell, match=message):
        goals(cell, len(cell))


@pytest.mark.parametrize("window", [None, 8])
def test_a_skipped_step_names_the_lines_its_pieces_begin_on(
    moves: Path, tmp_path: Path, window: int | None
) -> None:
    settings = {
        "data.sequence": "who",
        "data.dev": str(moves),
        "data.window": window,
        "task": "tag",
    }
    with Progress(quiet=True) as progress:
        job = make_plan(str(moves), SMALL | settings, tmp_path / "r").job(progress)
    assert job.lines is not None
    count = 3 * len(range(0, 30, window or 30))
    firsts = [
        2 + 30 * who + step for who in range(3) for step in range(0, 30, window or 30)
    ]
    assert job.lines(np.arange(count)) == firsts
    batch = job.source.batch(0, 0)
    lines = moves.read_text().splitlines()
    task: Any = prepare_file(
        moves, **{k.replace(".", "__"): v for k, v in settings.items()}
    ).task
    first = [
        list(map(float, lines[n - 1].split(",")[1:3])) for n in job.lines(batch.rows)
    ]
    scaled = (np.array(first) - task.inputs.means) / task.inputs.deviations
    np.testing.assert_allclose(batch.inputs[:, 0], scaled, rtol=1e-4)


def test_a_run_closes_though_a_scored_sequence_is_too_short_to_answer(
    tmp_path: Path,
) -> None:
    rows = [
        (who, t * 1.5, t % 7) for who in "abc" for t in range(4 if who == "b" else 40)
    ]
    path = write_csv(tmp_path / "s.csv", rows, ("who", "x", "heat"))
    run = run_of(
        path, tmp_path / "r", data__sequence="who", data__window=10, data__label="heat"
    )
    assert run.result["milliseconds_an_answer"] > 0
    assert "median of 2 rows" in run.result["timed"]


def test_a_run_closes_though_scored_rows_are_faulty(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"frames": [[n, 1], ["x" if n % 6 == 5 else 2, n]], "label": "ab"[n % 2]}
        for n in range(36)
    ]
    path = write_jsonl(tmp_path / "s.jsonl", rows)
    settings = {
        "data__rows": "examples",
        "data__on_error": "skip",
        "data__dev": str(path),
    }
    run = run_of(path, tmp_path / "r", **settings)
    assert "median of 30 rows" in run.result["timed"]


def test_another_file_may_name_its_sequences_anew_and_nothing_else(
    moves: Path, tmp_path: Path, cli: Call
) -> None:
    run = run_of(moves, tmp_path / "r", data__sequence="who", layer="lstm")
    text = moves.read_text().split("\n", 1)[1]
    other = tmp_path / "o.csv"
    single = tmp_path / "one.csv"
    other.write_text("person,x,y,phase\n" + text)
    single.write_text(
        "x,y,phase\n" + "".join(line[2:] + "\n" for line in text.split()[30:60])
    )
    settings = {"data.sequence": "person"}
    assert run.evaluate(other, **settings) == run.evaluate(moves)
    answers, _ = cli("predict", tmp_path / "r", "--file", moves)
    assert (
        cli("predict", tmp_path / "r", "--file", other, "data.sequence=person")[0]
        == answers
    )
    alone, _ = cli("predict", tmp_path / "r", "--file", single, "data.sequence=null")
    assert alone.split() == answers.split()[30:60]
    missing = r"o\.csv:1: name the column .* data\.sequence=COLUMN, or say data\.sequence=null"
    for changes in ({}, {"data.sequence": "persn"}):
        with pytest.raises(DataError, match=missing):
            run.evaluate(other, **changes)
    _, err = cli("predict", tmp_path / "r", "--file", other, code=1)
    assert "there is no column 'who'" in err
    for key, value in (
        ("window", 5),
        ("ahead", 2),
        ("difference", True),
        ("rows", "examples"),
    ):
        with pytest.raises(
            UsageError, match=rf"data\.{key} cannot change in a trained run"
        ):
            run.evaluate(moves, **{f"data.{key}": value})
    assert run.evaluate(moves, **{"data.rows": "steps"}) == run.evaluate(moves)


def test_sequences_are_named_for_rows_that_are_steps_alone(tmp_path: Path) -> None:
    rows = [{"x": [n, n + 1], "label": "ab"[n % 2]} for n in range(20)]
    path = write_jsonl(tmp_path / "s.jsonl", rows)
    run = run_of(path, tmp_path / "r", data__rows="examples", data__dev=str(path))
    with pytest.raises(UsageError, match=r"data\.sequence cannot change"):
        run.evaluate(path, **{"data.sequence": "x"})


def warned(path: Path, **changes: Any) -> list[str]:
    return [line for line in prepare_file(path, **changes).lines if "long runs" in line]


def test_rows_that_look_like_steps_are_pointed_out(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    header = ("x", "z", "phase")

    def file(name: str, labels: list[str]) -> Path:
        rows = [(*draw.normal(size=2).round(4).tolist(), label) for label in labels]
        return write_csv(tmp_path / name, rows, header)

    gesture = file(
        "g.csv", [name for _ in range(5) for name in "abc" for _ in range(20)]
    )
    (line,) = warned(gesture)
    assert line.startswith(
        "warning: the values of phase come in long runs, of 20 rows on average"
    )
    assert "data.rows=steps" in line
    assert not warned(gesture, data__rows="examples")
    assert not warned(gesture, data__rows="steps", data__dev=str(gesture))
    kinds = [name for name in "abc" for _ in range(50)]
    assert not warned(file("sorted.csv", kinds))
    assert not warned(file("shuffled.csv", draw.permutation(kinds).tolist()))
    # one label of nearly all rows comes in long runs by chance
    rare = draw.permutation(["a"] * 570 + ["b"] * 30).tolist()
    assert np.mean(np.array(rare[1:]) != np.array(rare[:-1])) < 0.1
    assert not warned(file("rare.csv", rare))
    texts = [(f"text number {n}", "ab"[n // 20 % 2]) for n in range(200)]
    assert not warned(write_csv(tmp_path / "t.csv", texts, ("text", "label")))


@pytest.mark.parametrize("kind", ["labels of steps", "forecasts"])
def test_a_stream_of_rows_as_the_file_has_them_is_refused(
    waves: Path, moves: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "forecasts":
        run = run_of(
            waves,
            tmp_path / "r",
            layer="gru",
            data__window=WINDOW,
            model__pooling="last",
        )
    else:
        run = run_of(moves, tmp_path / "r", layer="gru", data__sequence="who")
    with pytest.raises(ValueError, match=r"numbers that its run has scaled"):
        run.model.stream()
    # the layer, whose numbers are the caller's own affair, is not
    assert run.model.layer.stream().step(torch.zeros(1, 2)).shape == (
        1,
        run.recipe.model.hidden,
    )


def test_lines_of_steps_are_not_answered_one_by_one(
    moves: Path, tmp_path: Path, cli: Call
) -> None:
    run_of(moves, tmp_path / "r", data__sequence="who")
    _, err = cli("predict", tmp_path / "r", "--live", code=2)
    assert "one step of a sequence" in err
    assert "--file FILE" in err
