"""The Python API: train, load, predict, evaluate, generate."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import unrolled
from conftest import SMALL, reviews
from unrolled.core import digests
from unrolled.core.errors import UsageError, UserError
from unrolled.data.batches import Batch, Buckets


def test_train_returns_a_run_that_load_gives_again(
    home: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    run = unrolled.train(
        home.files["classify"],
        out=tmp_path / "r",
        layer="rnn",
        seed=4,
        say=lines.append,
        quiet=True,
        model={"hidden": 6, "embedding": 8},
        **{"training.max_steps": 4, "training.precision": "fp32"},
    )
    assert capsys.readouterr() == ("", "")
    assert any(line.startswith("model: layer=rnn, ") for line in lines)
    assert repr(run) == f"Run({str(tmp_path / 'r')!r}, task=classify, layer=rnn)"
    assert (run.recipe.layer, run.recipe.seed, run.recipe.model.hidden) == ("rnn", 4, 6)
    assert run.result["steps"] == 4
    again = unrolled.load(tmp_path / "r")
    rows = [text for text, _ in reviews(20, 2)]
    assert again.answers(rows) == run.answers(rows)


@pytest.mark.parametrize("kind", ["classify", "regress", "vectors", "tag", "language"])
def test_two_loads_answer_alike(home: SimpleNamespace, kind: str) -> None:
    first = unrolled.load(home.runs[kind])
    second = unrolled.load(home.runs[kind])
    if kind == "language":
        assert first.generate("row", 30, seed=5) == second.generate("row", 30, seed=5)
        return
    row = {"classify": "a lovely film", "tag": "the dog runs"}.get(kind, "3, 21")
    assert first.answers([row]) == second.answers([row])


def test_resume_of_a_finished_run_returns_it(home: SimpleNamespace) -> None:
    lines: list[str] = []
    run = unrolled.train(home.runs["vectors"], resume=True, say=lines.append)
    assert "is finished" in lines[0]
    assert len(lines) == 1
    assert run.predict(["7, 6"]) == unrolled.load(home.runs["vectors"]).predict(
        ["7, 6"]
    )


def test_a_run_in_python_is_refused_like_on_the_command_line(
    home: SimpleNamespace,
) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        unrolled.train(home.files["vectors"], out=home.runs["vectors"])
    with pytest.raises(UsageError, match=r"did you mean 'model\.hidden'"):
        unrolled.train(home.files["vectors"], hidden=4)


def test_streamed_text_is_the_text(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["language"])
    options = {"seed": 3, "temperature": 0.7, "top_k": 5, "stop": ["stream"]}
    pieces = list(run.stream("row ", 50, **options))
    assert "".join(pieces) == run.generate("row ", 50, **options)
    assert len(pieces) > 3


@pytest.mark.parametrize(
    "option", [{"temprature": 1}, {"temperature": -1}, {"top_p": 2}]
)
def test_a_wrong_way_to_sample_is_refused(
    home: SimpleNamespace, option: dict[str, float]
) -> None:
    with pytest.raises(UsageError, match=r"temperature|top_p"):
        unrolled.load(home.runs["language"]).generate("row", 3, **option)


def test_a_recipe_key_named_like_an_argument_is_told_as_unknown(
    home: SimpleNamespace,
) -> None:
    from unrolled.run import start

    with pytest.raises(UsageError, match="unknown key 'out'"):
        start(home.files["vectors"], {"out": "x"})


def test_the_path_of_a_run_may_be_a_text(home: SimpleNamespace) -> None:
    run = unrolled.load(str(home.runs["vectors"]))
    assert run.folder == home.runs["vectors"]
    assert SMALL["training.threads"] == run.recipe.training.threads


def test_the_order_of_samples_is_the_same_with_any_number_of_threads(
    home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: dict[int, list[list[int]]] = {1: [], 2: []}
    plain = Buckets.batch
    for threads, read in orders.items():

        def noted(source: Buckets, epoch: int, index: int, read: Any = read) -> Batch:
            batch = plain(source, epoch, index)
            read.append(batch.rows.tolist())
            return batch

        monkeypatch.setattr(Buckets, "batch", noted)
        changes = {**SMALL, "training.threads": threads, "training.max_steps": 12}
        unrolled.train(
            home.files["classify"], out=tmp_path / str(threads), quiet=True, **changes
        )
    torch.set_num_threads(1)
    assert len(orders[1]) == 12
    assert orders[1] == orders[2]


def test_another_process_reads_a_run_once_the_first_has_written_it(
    home: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it meets files of the run that are being replaced, and their older digests."""
    from unrolled.runs import train
    from unrolled.runs.plan import Request
    from unrolled.training.parallel import ProcessGroup

    events: list[str] = []

    class Second(ProcessGroup):
        def barrier(self) -> None:
            events.append("barrier")

    def fit(*arguments: Any) -> None:
        events.append("fit")

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(train.runs, "load", lambda folder: events.append("load"))
    target = str(home.files["classify"])
    keys = {**SMALL, "training.max_steps": 1}
    request = Request.read(target, keys, tmp_path / "run")
    nothing: Any = None  # the first process alone looks at the data and finishes
    train.train_request(Second(1, 2), request, print, True, nothing, nothing)
    assert events == ["barrier", "fit", "barrier", "load"]


def test_a_model_that_is_put_in_the_place_of_the_own_one_answers(
    home: SimpleNamespace,
) -> None:
    run = unrolled.load(home.runs["regress"])
    before = run.predict([(3, 21)])
    model = copy.deepcopy(run.model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    run.model = model
    assert run.predict([(3, 21)]) != before


@pytest.mark.parametrize("layer", ["gru", "attention"])
def test_logits_are_what_the_model_says(layer: str, tmp_path: Path) -> None:
    path = tmp_path / "song.txt"
    path.write_text("row your boat\ngently down the stream\n" * 20)
    changes = {"model.heads": 2, "model.query_key_norm": True}
    run = unrolled.train(
        path,
        out=tmp_path / "run",
        quiet=True,
        layer=layer,
        **SMALL,
        **{"training.max_steps": 5},
        **(changes if layer == "attention" else {}),
    )
    logits = unrolled.load(run.folder, device="cpu").logits([4, 5, 6])
    with torch.no_grad():
        expected, _ = run.model.unroll(torch.tensor([[4, 5, 6]]))
    torch.testing.assert_close(logits, expected[0])
    # the step says so too, natively where it can
    stepper = run.model.stepper()
    state = run.model.initial_state(1)
    with torch.no_grad():
        for index, id in enumerate((4, 5, 6)):
            scores, state = stepper.step(torch.tensor([id]), state)
            torch.testing.assert_close(scores[0], expected[0, index])
    assert run.describe()["family"] == layer
    assert run.describe()["vocabulary"] == logits.shape[1]


@pytest.mark.parametrize("layer", ["lstm", "attention"])
def test_texts_side_by_side_are_those_of_their_seeds(
    layer: str, tmp_path: Path
) -> None:
    path = tmp_path / "song.txt"
    path.write_text("row your boat\ngently down the stream\n" * 20)
    changes = {"model.heads": 2} if layer == "attention" else {}
    run = unrolled.train(
        path,
        out=tmp_path / "run",
        quiet=True,
        layer=layer,
        **SMALL,
        **{"training.max_steps": 30},
        **changes,
    )
    run = unrolled.load(run.folder, device="cpu")
    prompts = ["row your", "row", "row your", ""]
    texts = run.texts(prompts, 30, seed=4, temperature=0.7, stop=["\n"])
    alone = [
        run.generate(prompt, 30, seed=4 + number, temperature=0.7, stop=["\n"])
        for number, prompt in enumerate(prompts)
    ]
    assert texts == alone
    # packed weights are kept for the next texts, but not in another precision
    with run.predictor.stepping(many=True) as first:
        pass
    run.texts(prompts, 3, seed=4)
    with run.predictor.stepping(many=True) as again:
        assert again is first
    if first.path != "torch":
        with run.predictor.stepping("bf16", many=True) as other:
            assert other.precision == "bf16"
        scores = {}
        for precision in ("float32", "bf16"):
            with run.predictor.stepping(precision) as stepper:
                _, state = stepper.read_prompt(torch.tensor([[4, 5]]))
                after, _ = stepper.step(torch.tensor([6]), state)
                scores[precision] = after.clone()
        assert not torch.equal(scores["float32"], scores["bf16"])
    said: list[str] = []
    run.texts(["ü"] * 3, 2, seed=1, notice=said.append)
    assert len(said) == 1
    with pytest.raises(UsageError, match="one text at a time"):
        run.texts(prompts, 3, draft="ngram")


def test_logits_are_of_language_models(home: SimpleNamespace) -> None:
    run = unrolled.load(home.runs["classify"], device="cpu")
    assert run.describe()["vocabulary"] is None
    with pytest.raises(UsageError, match="this run answers rows"):
        run.logits([1])


@pytest.mark.parametrize("biased", [True, False])
def test_a_language_run_with_a_key_of_translators_loads(
    biased: bool, tmp_path: Path
) -> None:
    """Older versions heeded model.head_bias in translators alone; now it is heeded."""
    path = tmp_path / "song.txt"
    path.write_text("row your boat\ngently down the stream\n" * 20)
    run = unrolled.train(
        path,
        out=tmp_path / "run",
        quiet=True,
        layer="gru",
        **SMALL,
        **{"training.max_steps": 3, "model.head_bias": biased},
    )
    assert (run.model.head.bias is not None) is biased
    if biased:
        config = (run.folder / "config.yaml").read_text("utf-8")
        assert "head_bias: true" in config
        changed = config.replace("head_bias: true", "head_bias: false")
        digests.replace_text(run.folder, "config.yaml", changed)
    assert unrolled.load(run.folder).generate("row", 3, seed=1)
