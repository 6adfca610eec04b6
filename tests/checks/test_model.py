"""Checks of the model: each is silent on what ships and finds the fault that is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import write_csv
from unrolled.checks import CHECKS, Context, Finding, ask, examine, learning
from unrolled.data.batches import IGNORED, Batch, BatchSource
from unrolled.studies.sort_of_clevr import write as write_pictures
from unrolled.training.loop import Trainer

from .conftest import Ask

Plan = Callable[..., Context]


@pytest.fixture
def classifier(home: SimpleNamespace, plan: Plan) -> Context:
    return plan(home.files["classify"])


@pytest.fixture
def writer(home: SimpleNamespace, plan: Plan) -> Context:
    return plan(home.files["language"])


def problem(finding: Finding | None, *texts: str) -> None:
    assert finding is not None
    assert finding.status == "problem", finding
    for text in texts:
        assert text in finding.message


def hooked(module: nn.Module, changed: Callable[..., Any]) -> None:
    """Change what a module gives back."""
    module.register_forward_hook(changed)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("classify", None),
        ("regress", None),
        ("vectors", None),
        ("tag", "attention"),
        ("language", "lstm"),
        ("language", "attention"),
    ],
)
def test_no_model_that_ships_has_a_problem(
    home: SimpleNamespace, plan: Plan, kind: str, layer: str | None
) -> None:
    changes = {} if layer is None else {"layer": layer, "data__max_tokens": 64}
    if layer == "attention" and kind != "language":
        changes["model__context"] = 64
    context = plan(home.files[kind], **changes)
    findings = list(ask(CHECKS, context))
    assert [f for f in findings if f.status == "problem"] == []
    assert {"batch of one", "reach of the loss", "stop and resume"} <= {
        f.name for f in findings
    }


def test_what_has_no_steps_is_not_padded(plan: Plan, find: Ask, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 12, 4, 0, True)
    rows = [(("warm", "cold")[n % 2], f"a {n} b") for n in range(40)]
    table = write_csv(tmp_path / "texts.csv", rows, ("weather", "text"))
    contexts = [
        plan(tmp_path / "pictures", encoder__size=24),
        plan(table, task="write", data__label="text"),
    ]
    for context in contexts:
        assert find("padding", context) is None
        finding = find("batch of one", context)
        assert finding is not None
        assert finding.status == "ok"


def test_a_model_that_reads_both_ways_has_no_step(
    home: SimpleNamespace, plan: Plan
) -> None:
    context = plan(home.files["classify"], model__bidirectional=True)
    names = [f.name for f in ask(CHECKS, context) if f.status != "problem"]
    assert "step by step" not in names
    assert "looking ahead" not in names
    assert "padding" in names


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention", "mean-max"])
def test_a_pooling_that_reads_padding(
    home: SimpleNamespace, plan: Plan, find: Ask, pooling: str
) -> None:
    context = plan(home.files["classify"], model__pooling=pooling)
    assert find("padding", context).status == "ok"  # type: ignore[union-attr]

    def careless(pool: nn.Module, given: Any, made: Any) -> Any:
        return given[0].mean(1).repeat(1, made.shape[1] // given[0].shape[2])

    hooked(context.model.pooling, careless)
    problem(find("padding", context), "change with the padding")


def test_gradients_that_come_from_padding(classifier: Context, find: Ask) -> None:
    class Leak(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient + 0.1

    assert find("padding", classifier).status == "ok"  # type: ignore[union-attr]
    hooked(classifier.model.embedding, lambda m, i, made: Leak.apply(made))
    problem(find("padding", classifier), "gradients change")


def test_rows_that_look_at_each_other(
    classifier: Context, writer: Context, find: Ask
) -> None:
    assert find("batch of one", classifier).status == "ok"  # type: ignore[union-attr]
    assert find("batch of one", writer).status == "ok"  # type: ignore[union-attr]
    hooked(classifier.model, lambda m, i, made: made - made.mean(0))
    problem(find("batch of one", classifier))
    hooked(writer.model, lambda m, i, made: (made[0] - made[0].mean(0), made[1]))
    problem(find("batch of one", writer))


def test_a_model_that_sees_the_future(writer: Context, find: Ask) -> None:
    assert find("looking ahead", writer).status == "ok"  # type: ignore[union-attr]
    hooked(writer.model, lambda m, i, made: (made[0] + made[0].roll(-1, 1), made[1]))
    problem(find("looking ahead", writer), "after them")


def test_a_layer_that_sees_the_future(
    home: SimpleNamespace, plan: Plan, find: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = plan(home.files["classify"], model__bidirectional=False)
    assert find("looking ahead", classifier).status == "ok"  # type: ignore[union-attr]
    unroll = type(classifier.model.layer).unroll

    def peeking(self: Any, x: Any, *rest: Any) -> Any:
        return unroll(self, x + 0.01 * x.mean(1, keepdim=True), *rest)

    monkeypatch.setattr(type(classifier.model.layer), "unroll", peeking)
    problem(find("looking ahead", classifier))


@pytest.mark.parametrize("who", ["layer", "model"])
def test_a_step_that_is_another_model(
    writer: Context, find: Ask, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    assert find("step by step", writer).status == "ok"  # type: ignore[union-attr]
    reader: Any = writer.model if who == "model" else writer.model.layer
    step = type(reader).step

    def louder(self: Any, x: Any, state: Any) -> Any:
        output, state = step(self, x, state)
        return 1.01 * output, state

    monkeypatch.setattr(type(reader), "step", louder)
    problem(find("step by step", writer), "full pass")


def test_weights_that_no_gradient_reaches(classifier: Context, find: Ask) -> None:
    name = "reach of the loss"
    assert find(name, classifier).status == "ok"  # type: ignore[union-attr]
    classifier.model.head.bias.requires_grad_(False)
    finding = find(name, classifier)
    assert finding is not None
    assert (finding.status, finding.where) == ("warning", "head.bias")
    assert "frozen" in finding.message
    classifier.model.head.bias.requires_grad_(True)
    hooked(classifier.model.embedding, lambda m, i, made: made.detach())
    finding = find(name, classifier)
    problem(finding, "1 of ", "cut off")
    assert finding is not None
    assert finding.where == "embedding.weight"


def test_weights_without_a_say(home: SimpleNamespace, plan: Plan, find: Ask) -> None:
    # a vector is one step, so that nothing is ever carried
    finding = find("reach of the loss", plan(home.files["vectors"], layer="gru"))
    assert finding is not None
    assert finding.status == "warning"
    assert "zero" in finding.message


def test_a_first_loss_that_is_too_high_or_too_low(writer: Context, find: Ask) -> None:
    assert find("loss against a guess", writer).status == "ok"  # type: ignore[union-attr]
    size = writer.model.head.out_features

    def leaking(module: Any, given: Any, made: Any) -> Any:
        targets = torch.nn.functional.one_hot(given[0].roll(-1, 1), size)
        return 9.0 * targets, made[1]

    hooked(writer.model, leaking)
    problem(find("loss against a guess", writer), "before training")


def test_first_answers_that_are_too_sure(writer: Context, find: Ask) -> None:
    with torch.no_grad():
        writer.model.head.weight.mul_(200)
    finding = find("loss against a guess", writer)
    assert finding is not None
    assert finding.status == "warning"


def test_a_run_that_has_learnt_nothing(home: SimpleNamespace, find: Ask) -> None:
    context = examine(str(home.runs["language"]), {})
    finding = find("loss against a guess", context)
    assert context.trained
    assert finding is not None
    assert finding.status == "ok"
    assert "after training" in finding.message
    with torch.no_grad():
        context.model.head.weight.zero_()
        context.model.head.bias.zero_()
    problem(find("loss against a guess", context))


def test_an_end_that_is_not_trained(
    writer: Context, find: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("end of texts", writer).status == "ok"  # type: ignore[union-attr]
    task: Any = writer.task
    true = task.objective
    end = task.tokenizer.eos_id

    def endless(task: Any, recipe: Any, model: Any) -> Any:
        inner = true(recipe, model)

        def objective(model: Any, batch: Batch, carry: Any) -> Any:
            assert batch.targets is not None
            kept = batch.targets.masked_fill(batch.targets == end, IGNORED)
            return inner(model, replace(batch, targets=kept), carry)

        return objective

    monkeypatch.setattr(type(task), "objective", endless)
    fresh = Context(writer.plan, writer.model)
    problem(find("end of texts", fresh), "leaves it out")


def test_targets_without_any_end(writer: Context, find: Ask) -> None:
    source: Any = writer.plan.source
    tokenizer = writer.task.tokenizer
    assert tokenizer is not None
    bare = replace(source, tokens=source.tokens[source.tokens != tokenizer.eos_id])
    context = replace(writer, plan=replace(writer.plan, source=bare))
    problem(find("end of texts", context), "no end mark")


def test_a_run_that_has_not_learnt_to_stop(
    tmp_path: Path, plan: Plan, find: Ask
) -> None:
    lines = [(f"row your boat {i}",) for i in range(60)]
    context = plan(write_csv(tmp_path / "lines.csv", lines, ("text",)), task="language")
    assert find("end of texts", context).status == "ok"  # type: ignore[union-attr]
    finding = find("end of texts", replace(context, trained=True))
    assert finding is not None
    assert finding.status == "warning"
    assert "probability" in finding.message


def test_a_model_that_cannot_learn(
    classifier: Context, find: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("rows by heart", classifier).status == "ok"  # type: ignore[union-attr]
    monkeypatch.setattr(learning, "TRIES", 10)
    hooked(classifier.model.pooling, lambda m, i, made: 0 * made)
    classifier.model.head.bias.requires_grad_(False)
    problem(find("rows by heart", classifier), "goes from")


@dataclass(frozen=True)
class Wandering:
    """A source whose batches depend on how many were taken, not on where the run stands."""

    source: BatchSource
    taken: list[int]

    def length(self, epoch: int) -> int:
        return self.source.length(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        self.taken.append(index)
        return self.source.batch(0, len(self.taken) % self.source.length(0))


def test_a_source_that_does_not_go_on_where_it_stopped(
    classifier: Context, find: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Any = classifier.task
    source = task.source
    assert find("stop and resume", classifier).status == "ok"  # type: ignore[union-attr]
    monkeypatch.setattr(
        type(task), "source", lambda task, *given: Wandering(source(*given), [])
    )
    problem(find("stop and resume", classifier), "are not 5 steps")


def test_a_checkpoint_that_forgets_the_optimizer(
    writer: Context, find: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("stop and resume", writer).status == "ok"  # type: ignore[union-attr]
    restore = Trainer.restore

    def forgetful(self: Trainer, checkpoint: Any) -> None:
        restore(self, checkpoint)
        self.state.optimizer.state.clear()

    monkeypatch.setattr(Trainer, "restore", forgetful)
    problem(find("stop and resume", writer), "tensors differ")


def test_checks_leave_model_and_random_state_alone(classifier: Context) -> None:
    before = {k: v.clone() for k, v in classifier.model.state_dict().items()}
    random = torch.get_rng_state()
    list(ask(CHECKS, classifier))
    assert all(
        torch.equal(v, before[k]) for k, v in classifier.model.state_dict().items()
    )
    assert all(p.grad is None for p in classifier.model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_that_cannot_be_run_is_a_finding(classifier: Context) -> None:
    def broken(module: Any, given: Any, made: Any) -> Any:
        raise RuntimeError("sizes do not fit")

    hooked(classifier.model, broken)
    findings = {f.name: f for f in ask(CHECKS, classifier)}
    assert "sizes do not fit" in findings["padding"].message
    assert findings["rows in both parts"].message


def test_few_rows_are_of_unequal_length(classifier: Context) -> None:
    batch = classifier.batch(8)
    assert batch.lengths is not None
    assert len(np.unique(batch.inputs.numpy(), axis=0)) == 8
    assert len(set(batch.lengths.tolist())) > 1
