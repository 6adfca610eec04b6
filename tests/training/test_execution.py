"""The same updates with less memory, or by compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.test_loop import job, language, same, stream
from unrolled.core.errors import UsageError
from unrolled.models import LanguageModel
from unrolled.nn import Attention, LayerConfig, build_decoder, build_layer
from unrolled.training import execution
from unrolled.training.execution import check_execution, checkpoint_activations
from unrolled.training.loop import Trainer, fit
from unrolled.training.objectives import next_token
from unrolled.training.progress import Progress
from unrolled.training.settings import TrainingConfig

ROWS = 3
STEPS = 6


def gradients(layer: Attention, x: Tensor, again: bool) -> list[Tensor]:
    """Return outputs, state and gradients of a pass in two chunks, with the same dropout."""
    layer.checkpoint_activations = again
    layer.zero_grad()
    torch.manual_seed(3)
    inputs = x.clone().requires_grad_()
    first, state = layer.unroll(inputs[:, : STEPS // 2])
    lengths = torch.tensor([3, 1, 2])
    second, state = layer.unroll(inputs[:, STEPS // 2 :], state, lengths)
    state_tensors = list(state.to_tensors().values())
    (first.square().sum() + second.square().sum()).backward()
    grads = [weight.grad for weight in layer.parameters()]
    assert inputs.grad is not None
    tensors = [first, second, *state_tensors, inputs.grad]
    return [part.detach() for part in tensors + [g for g in grads if g is not None]]


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("norm_first", [True, False])
def test_blocks_that_run_again_have_the_same_gradients(
    p: float, norm_first: bool
) -> None:
    layer = Attention(
        5, 8, 3, 2, 1, dropout=p, norm_first=norm_first, positions="sinusoidal"
    ).double()
    x = torch.randn(ROWS, STEPS, 5, dtype=torch.float64)
    plain = gradients(layer, x, again=False)
    again = gradients(layer, x, again=True)
    assert len(plain) == len(again) > 10
    # the same operations on the same numbers
    assert all(map(torch.equal, plain, again))


def test_a_decoders_blocks_run_again_too() -> None:
    config = LayerConfig(hidden=8, layers=2, heads=2, dropout=0.2)
    encoder = build_layer("attention", config.changed(bidirectional=True), 8)
    decoder = build_decoder("attention", config, 8, encoder)
    grads: list[list[Tensor]] = []
    for again in (False, True):
        for layer in (encoder, decoder):
            layer.checkpoint_activations = again
            layer.zero_grad()
        torch.manual_seed(1)
        memory = encoder.read(torch.ones(2, 4, 8))
        state = decoder.attend(memory, torch.tensor([4, 2]))  # type: ignore[attr-defined]
        y, _ = decoder.unroll(torch.ones(2, 3, 8), state)
        y.square().sum().backward()
        weights = [*encoder.parameters(), *decoder.parameters()]
        grads.append([w.grad.clone() for w in weights if w.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 20
    assert all(map(torch.equal, *grads))


def kept_numbers(layer: Attention, x: Tensor, again: bool) -> int:
    """Return how many numbers are kept for the backward pass, weights left out."""
    layer.checkpoint_activations = again
    weights = {weight.data_ptr() for weight in layer.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer.read(x)
    return sum(sizes.values())


def test_of_each_block_only_its_input_is_kept() -> None:
    layers = 8
    layer = Attention(16, 16, layers, 2)
    x = torch.randn(ROWS, 32, 16, requires_grad=True)
    plain = kept_numbers(layer, x, again=False)
    again = kept_numbers(layer, x, again=True)
    # that of the last norm beside them, and what rotates positions
    assert again <= (layers + 4) * x.numel()
    assert plain > 10 * again


def test_nothing_runs_again_where_nothing_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = Attention(8, 8, 1, 2)
    layer.checkpoint_activations = True

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("unrolled.nn.transformer.checkpoint", refuse)
    x = torch.ones(1, 2, 8)
    with torch.no_grad():
        layer.read(x)
    layer.eval().read(x)
    with pytest.raises(AssertionError):
        layer.train().read(x)


def test_layers_without_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="is for layer=attention; recurrent layers"):
        checkpoint_activations(language("lstm"))
    model = language("attention")
    checkpoint_activations(model)
    assert model.layer.checkpoint_activations


@pytest.mark.parametrize("other", ["shard", "checkpoint_activations"])
def test_keys_that_exclude_each_other(other: str) -> None:
    check_execution(TrainingConfig.read({"compile": True}))
    settings = TrainingConfig.read({"compile": True, other: True})
    with pytest.raises(UsageError, match=f"goes without training.{other}=true"):
        check_execution(settings)


# compiled


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile by the tracer alone: a compiler of C++ takes minutes and has tests of its own."""
    torch.compiler.reset()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", partial(real, backend="aot_eager"))
    yield
    torch.compiler.reset()


def dry(name: str, seed: int = 0) -> LanguageModel:
    """Return a model without dropout, of which compiled code draws other numbers."""
    model = language(name, seed)
    for module in model.modules():
        for rate in ("p", "dropout"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return model


def train(
    folder: Path, model: nn.Module, name: str, steps: int, resume: bool, compiled: bool
) -> None:
    carries = name != "attention"
    training = job(
        folder,
        model,
        stream(name),
        next_token(carry_state=carries),
        max_steps=steps,
        learning_rate=0.01,
        compile=compiled,
    )
    fit(training, resume)


@pytest.mark.parametrize("name", ["attention", "gru"])
def test_a_compiled_training_has_the_weights_of_a_plain_one_and_resumes(
    tmp_path: Path, traced: None, name: str
) -> None:
    models = [dry(name), dry(name), dry(name, seed=1)]
    train(tmp_path / "plain", models[0], name, 6, resume=False, compiled=False)
    train(tmp_path / "compiled", models[1], name, 6, resume=False, compiled=True)
    train(tmp_path / "stopped", dry(name), name, 3, False, compiled=True)
    train(tmp_path / "stopped", models[2], name, 6, resume=True, compiled=True)
    assert same(models[1], models[2])
    ours = models[1].state_dict()
    assert ours.keys() == models[0].state_dict().keys()
    for weight, plain in zip(
        ours.values(), models[0].state_dict().values(), strict=True
    ):
        # fp32 sums in another order, six steps of 0.01 each by gradients near zero
        torch.testing.assert_close(weight, plain, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_the_step_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch._inductor.config as inductor_config

    torch.compiler.reset()
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, line: said.append(line))
    training = job(
        tmp_path,
        dry("attention"),
        stream("attention"),
        next_token(carry_state=False),
        max_steps=1,
        compile=True,
    )
    # a compiler that there is not, and no kernel that an earlier one has made
    with inductor_config.patch(
        {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    ):
        trainer = Trainer(training)
    (line,) = said
    assert line.startswith("training.compile: the step cannot be compiled here (")
    assert line.endswith("it runs as it is")
    objective = trainer.updater.objective
    assert isinstance(objective, execution.CompiledObjective)
    assert objective.compiled is None
    batch = training.source.batch(0, 0)
    plain = training.objective(training.model, batch, None)
    assert torch.equal(objective(training.model, batch, None).sum, plain.sum)


def test_a_step_that_fails_to_compile_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(function: object) -> object:
        def call(*arguments: object) -> None:
            raise torch._dynamo.exc.Unsupported("cannot be traced")

        return call

    import torch._dynamo

    monkeypatch.setattr(execution, "_try_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", fails)
    said: list[str] = []
    model = dry("attention")
    plain = next_token(carry_state=False)
    objective = execution.CompiledObjective(plain, torch.device("cpu"), said.append)
    batch = stream("attention").batch(0, 0)
    for _ in range(2):
        loss = objective(model, batch, None)
        assert torch.equal(loss.sum, plain(model, batch, None).sum)
    (line,) = said
    assert "(cannot be traced" in line
