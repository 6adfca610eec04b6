"""A look inside: numbers compared with other libraries and with loops, for every kind of run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from conftest import LOOKS, SMALL, Call, write_csv, write_jsonl
from unrolled.core.errors import UsageError, UserError
from unrolled.insight import held_out
from unrolled.insight.held_out import LEFT_OUT
from unrolled.insight.inside import Inside, parse_hold
from unrolled.insight.trace import Trace
from unrolled.ops import reference
from unrolled.ops.recording import Hold
from unrolled.run import Run, load, train

INPUTS: dict[str, Any] = {
    "classify": "lovely film number 7 great",
    "regress": (3, 24),
    "vectors": (4, 6),
    "tag": "the cat eats fish",
    "language": "row your boat\ngently",
}
# probabilities come from float32 passes of two kinds, the native core's and the equations'
CLOSE = 2e-5


def trace_of(run: Run, row: Any, **options: Any) -> Trace:
    return run.inspect(row, **options).traces[0]


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory, home: SimpleNamespace) -> Run:
    """A classifier of one LSTM layer, read forward, that answers from the last step."""
    return train(
        home.files["classify"],
        out=tmp_path_factory.mktemp("lstm") / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL
        | {
            "layer": "lstm",
            "model.bidirectional": False,
            "model.pooling": "last",
            "data.tokenizer": "words",
            "training.max_steps": 60,
            "training.learning_rate": 0.02,
        },
    )


@pytest.mark.parametrize("kind", list(INPUTS))
def test_every_kind_of_run_can_be_looked_into(kind: str, home: SimpleNamespace) -> None:
    run = load(home.runs[kind])
    trace = trace_of(run, INPUTS[kind])
    steps = len(trace.tokens)
    for layer in trace.layers:
        for array in (layer.state | layer.gates).values():
            assert array.shape == (steps, layer.size)
        assert layer.gradient_norms is not None
        assert layer.gradient_norms.shape == (steps,)
    assert trace.attributions is not None
    assert trace.attributions.integrated_gradients.shape == (steps,)
    assert trace.attributions.leave_one_out.shape == (steps,)
    scale = max(1.0, abs(trace.explained.probability))
    assert trace.attributions.completeness_gap < 2e-3 * scale
    if run.task.answers_rows:
        (prediction,) = run.answers([INPUTS[kind]])
        assert trace.answer == prediction.text
        if trace.explained.is_value:
            assert trace.explained.probability == pytest.approx(
                float(prediction.details["value"]), 1e-4
            )
    values = json.loads(json.dumps(trace.to_json(), allow_nan=False))
    assert values["tokens"] == list(trace.tokens)
    assert len(values["gradient_norms"]) == steps


def test_gates_equal_those_of_the_reference(lstm: Run) -> None:
    trace = trace_of(lstm, INPUTS["classify"])
    (layer,) = trace.layers
    assert layer.cell == "lstm"
    assert set(layer.gates) == {"input", "forget", "output", "candidate"}
    assert set(layer.state) == {"h", "c"}
    model: Any = lstm.model
    steps = lstm.task.step_reader(lstm.compute_device).read(
        model, (INPUTS["classify"],)
    )
    weights = reference.Weights(*model.layer.all_weights[0])
    with torch.no_grad():
        x = model.embedding(steps.batch.inputs)
        zeros = torch.zeros(1, layer.size)
        _, _, seen = reference.unroll("lstm", x, (zeros, zeros), weights)
    for name, array in (layer.state | layer.gates).items():
        np.testing.assert_allclose(array, seen[name][0].numpy(), rtol=0, atol=1e-6)


def test_predictions_after_each_step_are_those_of_beginnings(lstm: Run) -> None:
    text = INPUTS["classify"]
    trace = trace_of(lstm, text)
    words = text.split()
    for end in range(1, len(words) + 1):
        (prediction,) = lstm.answers([" ".join(words[:end])])
        best = trace.predictions[end - 1].outcomes[0]
        assert best.name == prediction.text
        assert best.probability == pytest.approx(prediction.probability, abs=CLOSE)


def test_leaving_a_word_out_is_answering_without_it(lstm: Run) -> None:
    text = INPUTS["classify"]
    trace = trace_of(lstm, text)
    assert trace.attributions is not None
    words = text.split()
    label = trace.explained.outcome
    (whole,) = lstm.answers([text])
    for index in range(len(words)):
        (without,) = lstm.answers([" ".join(words[:index] + words[index + 1 :])])
        change = (
            whole.details["probabilities"][label]
            - without.details["probabilities"][label]
        )
        seen = float(trace.attributions.leave_one_out[index])
        assert seen == pytest.approx(change, abs=CLOSE)


def test_integrated_gradients_equal_captums(lstm: Run) -> None:
    trace = trace_of(lstm, INPUTS["classify"])
    model: Any = lstm.model
    steps = lstm.task.step_reader(lstm.compute_device).read(
        model, (INPUTS["classify"],)
    )
    vectors = model.embedding(steps.batch.inputs).detach()
    weights = reference.Weights(*model.layer.all_weights[0])
    size = model.layer.hidden_size

    def probabilities(vectors: Tensor) -> Tensor:
        zeros = torch.zeros(len(vectors), size)
        y, _, _ = reference.unroll("lstm", vectors, (zeros, zeros), weights)
        return model.head(y[:, -1]).softmax(-1)

    expected, gap = IntegratedGradients(probabilities).attribute(
        vectors,
        target=trace.explained.index,
        n_steps=200,
        return_convergence_delta=True,
    )
    assert trace.attributions is not None
    np.testing.assert_allclose(
        trace.attributions.integrated_gradients,
        expected.sum(-1)[0].detach().numpy(),
        rtol=0,
        atol=max(1e-4, abs(float(gap))),
    )


def test_gradient_norms_equal_autograds(lstm: Run) -> None:
    trace = trace_of(lstm, INPUTS["classify"])
    model: Any = lstm.model
    steps = lstm.task.step_reader(lstm.compute_device).read(
        model, (INPUTS["classify"],)
    )
    x = model.embedding(steps.batch.inputs).detach()[0]
    weights = reference.Weights(*model.layer.all_weights[0])
    size = model.layer.hidden_size
    state = (torch.zeros(1, size), torch.zeros(1, size))
    states: list[Tensor] = []
    for step in x:
        a = reference.from_input("lstm", step[None], weights)
        state, _ = reference.lstm_step(a, state, weights)
        states.append(state[0])
    loss = -model.head(states[-1]).log_softmax(-1)[0, trace.explained.index]
    norms = [
        float(g.norm()) for g in torch.autograd.grad(loss, states, retain_graph=True)
    ]
    np.testing.assert_allclose(trace.gradient_norms, norms, rtol=1e-3, atol=1e-7)
    squares = np.zeros(len(states))
    for unit in range(size):
        gradients = torch.autograd.grad(states[-1][0, unit], states, retain_graph=True)
        squares += [float(g.square().sum()) for g in gradients]
    np.testing.assert_allclose(
        trace.state_gradient_norms, np.sqrt(squares), rtol=1e-4, atol=1e-7
    )


def test_a_held_gate_equals_a_loop_by_hand(lstm: Run) -> None:
    trace = trace_of(lstm, INPUTS["classify"], hold=["forget=0", "unit:3=0.5"])
    model: Any = lstm.model
    steps = lstm.task.step_reader(lstm.compute_device).read(
        model, (INPUTS["classify"],)
    )
    x = model.embedding(steps.batch.inputs).detach()[0].double()
    w = [part.detach().double() for part in model.layer.all_weights[0]]
    h = torch.zeros(model.layer.hidden_size, dtype=torch.float64)
    hidden = []
    for step in x:
        summed = w[0] @ step + w[2] + w[1] @ h + w[3]
        i, _, g, o = summed.chunk(4)
        # the forget gate is shut: nothing of the cell before is kept
        h = o.sigmoid() * (i.sigmoid() * g.tanh()).tanh()
        h[3] = 0.5
        hidden.append(h.clone())
    (layer,) = trace.layers
    np.testing.assert_allclose(
        layer.state["h"], torch.stack(hidden).numpy(), rtol=0, atol=1e-5
    )
    assert (layer.gates["forget"] == 0).all()
    head = model.head
    scores = head.weight.double() @ hidden[-1] + head.bias.double()
    expected = float(scores.detach().softmax(-1)[trace.explained.index])
    assert trace.explained.probability == pytest.approx(expected, abs=CLOSE)
    assert trace.holds == ("forget=0", "h:3=0.5")
    assert trace.unheld == trace_of(lstm, INPUTS["classify"]).predictions


def test_ngrams_and_columns_have_their_share(tmp_path: Path) -> None:
    rows = [
        (
            f"{word} thing number {n}",
            size,
            kind,
            "yes" if (word == "fine") == (size > 5) else "no",
        )
        for n, (word, size, kind) in enumerate(
            [
                (w, s, k)
                for w in ("fine", "poor")
                for s in range(1, 11)
                for k in ("a", "b")
            ]
            * 3
        )
    ]
    path = write_csv(tmp_path / "mixed.csv", rows, ("text", "size", "kind", "label"))
    run = train(
        path,
        out=tmp_path / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL | {"model.ngrams": 3, "training.max_steps": 40},
    )
    trace = trace_of(run, {"text": "fine thing number 3", "size": 8, "kind": "a"})
    shares = trace.attributions
    assert shares is not None
    assert set(shares.columns) == {"size", "kind"}
    total = float(shares.integrated_gradients.sum()) + sum(shares.columns.values())
    difference = trace.explained.probability - shares.baseline
    assert abs(total - difference) == pytest.approx(shares.completeness_gap, abs=1e-5)
    assert shares.completeness_gap < 1e-3
    # the sum of n-grams is what they add
    model: Any = run.model
    steps = run.task.step_reader(run.compute_device).read(
        model, ("fine thing number 3", 8, "a")
    )
    row, count = steps.batch.extra[1:]
    with torch.no_grad():
        _, _, added = model.ngrams.contributions(row[0])
        torch.testing.assert_close(added.sum(0), model.ngrams(row, count)[0])


def test_what_is_written_is_looked_into_on_both_sides(mirror: SimpleNamespace) -> None:
    run = load(mirror.run)
    trace = trace_of(run, "a b c d")
    (prediction,) = run.answers(["a b c d"])
    assert trace.answer == prediction.text
    over = {layer.over for layer in trace.layers}
    assert over == {"input", "written"}
    (attention,) = [part for part in trace.attention if part.kind == "source"]
    assert attention.weights.shape == (1, len(trace.written), len(trace.tokens))
    np.testing.assert_allclose(attention.weights.sum(-1), 1.0, atol=1e-5)
    run.adjust(alignment=True)
    (aligned,) = run.answers(["a b c d"])
    for source, written in aligned.details["alignment"]:
        weights = attention.weights[0, written, :-1]
        assert int(weights.argmax()) == source
    best = trace.predictions[0].outcomes[0]
    assert trace.explained.outcome == best.name == trace.written[0]


def test_a_decoder_of_attention_looks_at_what_it_wrote_and_at_its_source(
    mirror: SimpleNamespace, tmp_path: Path
) -> None:
    small = {name: value for name, value in SMALL.items() if name != "model.ngrams"}
    run = train(
        mirror.source,
        out=tmp_path / "run",
        quiet=True,
        say=lambda line: None,
        **small
        | LOOKS
        | {
            "task": "translate",
            "data.train_target": str(mirror.target),
            "data.tokenizer": "whitespace",
            "data.max_tokens": 20,
            "layer": "attention",
            "model.heads": 2,
            "training.max_steps": 5,
            "decoding.max_length": 6,
        },
    )
    trace = trace_of(run, "a b c d")
    read = len(trace.tokens)
    written = len(trace.written)
    shapes = {part.kind: part.weights.shape[1:] for part in trace.attention}
    assert shapes == {
        "self": (read, read),
        "written": (written, written),
        "source": (written, read),
    }
    assert (tmp_path / "run" / "inside.html").exists()


def test_a_forecast_of_a_change_adds_the_value_of_each_step(tmp_path: Path) -> None:
    values = [(day, 100 + 3 * day + day % 2) for day in range(80)]
    path = write_csv(tmp_path / "series.csv", values, ("a", "y"))
    run = train(
        path,
        out=tmp_path / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL
        | {
            "data.rows": "steps",
            "data.label": "y",
            "data.window": 8,
            "data.difference": True,
            "training.max_steps": 60,
            "training.learning_rate": 0.02,
        },
    )
    steps = [list(map(float, row)) for row in values[-8:]]
    trace = trace_of(run, steps)
    (prediction,) = run.answers([steps])
    assert trace.answer == prediction.text
    for step in trace.predictions[3:]:
        # what comes next is a few above the value of that step
        assert step.outcomes[0].probability == pytest.approx(
            values[-8 + step.step][1] + 3, abs=4
        )


def test_looking_inside_needs_no_gradients_of_its_caller(lstm: Run) -> None:
    expected = trace_of(lstm, INPUTS["classify"]).gradient_norms
    with torch.no_grad():
        np.testing.assert_array_equal(
            trace_of(lstm, INPUTS["classify"]).gradient_norms, expected
        )


def test_steps_of_numbers_with_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        numbers = generator.normal(size=(12, 2)).round(3)
        tags = ["up" if a > 0 else "down" for a in numbers[:, 0]]
        rows.append({"frames": numbers.tolist(), "tags": tags})
    path = write_jsonl(tmp_path / "frames.jsonl", rows)
    run = train(
        path,
        out=tmp_path / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL | {"training.max_steps": 80, "training.learning_rate": 0.02},
    )
    trace = trace_of(run, rows[0]["frames"])
    assert trace.numbers is not None
    np.testing.assert_allclose(trace.numbers, rows[0]["frames"], atol=1e-5)
    assert trace.columns == ("frames", "frames")
    (prediction,) = run.answers([rows[0]["frames"]])
    assert trace.answer == prediction.text
    assert ">frames<" in Inside((trace,), "x").to_html()


def test_columns_next_to_steps_have_their_share(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        kinds = generator.choice(["NOUN", "VERB"], size=4).tolist()
        tags = ["N" if kind == "NOUN" else "V" for kind in kinds]
        words = generator.choice(["run", "play", "walk"], size=4).tolist()
        rows.append({"tokens": words, "pos": kinds, "tags": tags})
    path = write_jsonl(tmp_path / "tags.jsonl", rows)
    run = train(
        path,
        out=tmp_path / "run",
        quiet=True,
        say=lambda line: None,
        **SMALL
        | {
            "data.categories": ["pos"],
            "data.text": "tokens",
            "data.label": "tags",
            "training.max_steps": 80,
            "training.learning_rate": 0.02,
        },
    )
    row = {"tokens": rows[0]["tokens"], "pos": rows[0]["pos"]}
    trace = trace_of(run, row, at=2)
    (prediction,) = run.answers([row])
    assert trace.answer == prediction.text
    shares = trace.attributions
    assert shares is not None
    assert set(shares.columns) == {"pos"}
    # only what stands next to a word tells its tag
    assert abs(shares.columns["pos"]) > 0.8 * abs(
        float(shares.integrated_gradients.sum())
    )
    assert shares.completeness_gap < 1e-3
    assert trace.explained.step == 1


def test_long_inputs_are_shown_by_units_and_spans(home: SimpleNamespace) -> None:
    run = load(home.runs["language"])
    trace = trace_of(run, "row your boat\n" * 90)
    assert len(trace.tokens) > 1000
    assert trace.attributions is not None
    spans = trace.attributions.spans
    assert spans[0][0] == 0
    assert spans[-1][1] == len(trace.tokens)
    assert len(spans) == len(trace.attributions.integrated_gradients) <= 64
    assert trace.attributions.completeness_gap < 2e-3
    assert any("random directions" in notice for notice in trace.notices)
    shown = trace_of(run, "row your boat\n", units=[3, 1])
    assert shown.layers[0].units == (1, 3)
    whole = trace_of(run, "row your boat\n").layers[0]
    np.testing.assert_array_equal(
        shown.layers[0].state["h"], whole.state["h"][:, [1, 3]]
    )


def test_a_model_without_hidden_layers_has_no_gradients_of_states(
    tmp_path: Path, home: SimpleNamespace
) -> None:
    changes = SMALL | LOOKS | {"training.max_steps": 3, "model.layers": 0}
    run = train(
        home.files["vectors"], out=tmp_path / "run", quiet=True, say=str, **changes
    )
    assert (run.folder / "inside.html").exists()
    trace = trace_of(run, (3, 4))
    assert trace.predictions
    assert trace.gradient_norms is None


def test_holds_are_read() -> None:
    assert parse_hold("forget=0") == Hold("forget", 0.0)
    assert parse_hold("unit:17=1.0") == Hold("h", 1.0, 17)
    assert parse_hold("layer 2.update:3=-0.5") == Hold("update", -0.5, 3, "layer 2")
    for wrong in ("forget", "forget=x", "unit=1", "=1", "forget:x=1", "forget=nan"):
        with pytest.raises(UsageError, match="--hold"):
            parse_hold(wrong)


def test_mistakes_are_said_in_one_line(home: SimpleNamespace, lstm: Run) -> None:
    classify = INPUTS["classify"]
    for options, words in (
        ({"hold": ["reset=0"]}, "there is no gate 'reset'"),
        ({"hold": ["forget:99=0"]}, "it has 8 units, 0 to 7"),
        ({"hold": ["layer 7.forget=0"]}, "there is no layer 'layer 7'"),
        ({"units": [8]}, "layer 1 has 8 units, 0 to 7"),
        ({"at": 1}, "--at is for models with an output at each step"),
    ):
        with pytest.raises(UsageError, match=words):
            lstm.inspect(classify, **options)
    with pytest.raises(UserError, match="the text is empty"):
        lstm.inspect(" ")
    with pytest.raises(UserError, match="input 2: the text is empty"):
        lstm.inspect(classify, "")
    with pytest.raises(UserError, match="expected rooms, area"):
        load(home.runs["regress"]).inspect((1,))
    with pytest.raises(UsageError, match="a language model reads one"):
        load(home.runs["language"]).inspect({"text": "row"})
    with pytest.raises(UsageError, match="there are steps 1 to"):
        load(home.runs["language"]).inspect("row", at=99)


def test_the_command_writes_a_page_or_json(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    run = home.runs["classify"]
    out, _ = cli("inspect", run, INPUTS["classify"], "--json")
    values = json.loads(out)
    assert {
        "tokens",
        "layers",
        "predictions",
        "attributions",
        "gradient_norms",
    } <= values.keys()
    directions = [layer["direction"] for layer in values["layers"]]
    assert directions == ["forward", "backward"]
    out, _ = cli("inspect", run, "great film", "awful film", "--json")
    assert [value["input"] for value in json.loads(out)] == ["great film", "awful film"]
    page = tmp_path / "inside.html"
    out, _ = cli("inspect", run, "great film", "awful film", "-o", page)
    assert "2 inputs" in out
    assert "great film" in page.read_text("utf-8")
    cli("inspect", run, "great film", "-o", page)
    other = tmp_path / "mine.html"
    other.write_text("<p>mine</p>", "utf-8")
    _, err = cli("inspect", run, "great film", "-o", other, code=1)
    assert "no page of unrolled inspect" in err
    assert other.read_text("utf-8") == "<p>mine</p>"
    _, err = cli("inspect", run, "great", "--units", "a", code=2)
    assert "--units" in err
    _, err = cli("inspect", run, "great", "--lang", "fr", code=2)
    assert "choose auto, en or ko" in err


def test_equal_inputs_give_equal_pages(home: SimpleNamespace) -> None:
    run = load(home.runs["classify"])
    pages = {run.inspect("great film").to_html() for _ in range(2)}
    assert len(pages) == 1


def test_a_notebook_draws_the_page(home: SimpleNamespace) -> None:
    inside = load(home.runs["classify"]).inspect("great film")
    html = inside._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert "<script" not in html


def test_every_training_looks_into_held_out_rows(home: SimpleNamespace) -> None:
    for kind, folder in home.runs.items():
        assert LEFT_OUT not in home.said[kind]
        page = (folder / "inside.html").read_text("utf-8")
        assert page.count("<section data-trace=") == 3
        assert 'href="inside.html"' in (folder / "report.html").read_text("utf-8")


def test_a_training_does_not_fail_for_want_of_a_picture(
    home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no picture today")

    monkeypatch.setattr(held_out, "inspect_rows", fail)
    said: list[str] = []
    run = train(
        home.files["classify"],
        out=tmp_path / "run",
        quiet=True,
        say=said.append,
        **SMALL | LOOKS | {"training.max_steps": 2},
    )
    assert f"{LEFT_OUT} ('no picture today')" in said
    assert run.result["scores"]
    assert "inside.html" not in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_columns_that_decide_matter_most(home: SimpleNamespace) -> None:
    report = (home.runs["regress"] / "report.html").read_text("utf-8")
    assert "Which columns mattered" in report
    # a price is 10 a room and 2 a square metre: rooms spread it by 70, areas by 14
    assert report.index(">rooms<") < report.index(">area<")
