"""Optimizers over two groups of weights: matrices, which decay, and the rest, which do not."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer

from unrolled.nn.layer import Layer
from unrolled.training import sharding
from unrolled.training.freezing import Depths, rate_factors
from unrolled.training.settings import TrainingConfig

Groups = list[dict[str, Any]]
# where torch looks whether a function is marked as none to compile
_MARK = "__dynamo_disable"


def build_optimizer(
    model: nn.Module,
    settings: TrainingConfig,
    depths: Depths = (),
) -> torch.optim.Optimizer:
    """Return the optimizer that a recipe names.

    AdamW (Loshchilov and Hutter 2019); SGD with Nesterov momentum; Adafactor (Shazeer and Stern
    2018), whose learning rate is a share of a weight matrix's own size; Muon (Jordan et al. 2024,
    scaled to AdamW's learning rates as in Liu et al. 2025) for the matrices of layers, with AdamW
    for embeddings, output weights and the rest.

    Biases, norms and embeddings of any rank below two are left out of the weight decay. Each group
    has a ``rate_factor``, which the learning rate is multiplied with: that of ``rate_factors`` for
    what ``depths`` name, and 1 for all other weights.
    """
    if not settings.compile:
        _leave_compiler_out()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    trained = list(named.values())
    by_name = rate_factors(depths, settings.layer_decay)
    factors = {id(p): by_name.get(name, 1.0) for name, p in named.items()}
    rate = settings.learning_rate
    decay = settings.weight_decay
    if settings.optimizer == "muon":
        inner = _inner_matrices(model)
        rest = [p for p in trained if id(p) not in inner]
        matrices = [p for p in trained if id(p) in inner]
        hidden = _groups(matrices, decay, factors)
        return MuonAndAdamW(hidden, _groups(rest, decay, factors), settings)
    groups = _groups(trained, decay, factors)
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        nesterov = momentum > 0
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    return _adamw(groups, settings)


def update(optimizer: torch.optim.Optimizer) -> None:
    """Make one update, as ``optimizer.step()`` does.

    What torch wraps around a step imports its compiler, which takes longer than many a training;
    it is left off as long as nobody has imported that, and nobody has hooks around a step.
    """
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    if "torch._dynamo" in sys.modules or any(hooks):
        optimizer.step()
        return
    step = inspect.unwrap(type(optimizer).step)
    with torch.no_grad():
        step(optimizer)


def _leave_compiler_out() -> None:
    """Let optimizers be made and cleared without importing torch's compiler.

    It would be imported to mark some methods as none that it compiles. That is put off until
    somebody has imported it.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(torch.optim.Optimizer, name)
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and _MARK not in vars(inner):
            setattr(inner, _MARK, _put_off(inner))


def _put_off(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is marked once torch's compiler is there."""

    def call(*arguments: Any, **named: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            # torch marks it itself at the next call
            vars(inner).pop(_MARK, None)
        return inner(*arguments, **named)

    return call


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon over some groups of weights and AdamW over others, as one optimizer.

    Either works on its part of this one's groups and state, so that both are saved as one.
    """

    def __init__(self, hidden: Groups, rest: Groups, settings: TrainingConfig) -> None:
        self.muon = None
        self.adamw = None
        groups: Groups = []
        if hidden:
            self.muon = torch.optim.Muon(
                hidden,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
            groups += self.muon.param_groups
        if rest:
            self.adamw = _adamw(rest, settings)
            groups += self.adamw.param_groups
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one update; a closure is not called."""
        muon_groups: Groups = []
        adamw_groups: Groups = []
        for group in self.param_groups:
            # steps of Newton and Schulz, which only Muon makes
            if "ns_steps" in group:
                muon_groups.append(group)
            else:
                adamw_groups.append(group)
        if self.muon is not None:
            self._step(self.muon, muon_groups)
        if self.adamw is not None:
            self._step(self.adamw, adamw_groups)

    def _step(self, inner: torch.optim.Optimizer, groups: Groups) -> None:
        # anew each time: loading a state replaces both
        inner.state = self.state
        inner.param_groups = groups
        update(inner)


def to_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Groups]:
    """Return what an optimizer keeps of each weight, as ``NUMBER.NAME``, and its settings."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for number, slots in state["state"].items():
        for name, slot in slots.items():
            if slot is not None:
                tensors[f"{number}.{name}"] = slot
    kept: Groups = []
    for group in state["param_groups"]:
        settings = {name: value for name, value in group.items() if name != "params"}
        kept.append(settings)
    return tensors, kept


def from_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], kept: Groups
) -> None:
    """Give an optimizer what ``to_tensors`` returned."""
    parameters: list[Tensor] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, slot in tensors.items():
        number, name = key.split(".", 1)
        weight = parameters[int(number)]
        if slot.shape == weight.shape:
            slot = sharding.like(weight, slot)
        of_weight = slots.setdefault(int(number), {})
        of_weight[name] = slot
    groups: Groups = []
    current = optimizer.state_dict()["param_groups"]
    for now, then in zip(current, kept, strict=True):
        groups.append({**now, **then, "params": now["params"]})
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _groups(
    parameters: list[nn.Parameter], decay: float, factors: Mapping[int, float]
) -> Groups:
    """Return groups of equal factor and decay, the largest factor first.

    Args:
        parameters: the weights.
        decay: of matrices.
        factors: of the learning rate, by the ids of weights.
    """
    groups: Groups = []
    for factor in sorted(set(factors.values()), reverse=True):
        alike = [p for p in parameters if factors[id(p)] == factor]
        matrices = [p for p in alike if p.dim() >= 2]
        rest = [p for p in alike if p.dim() < 2]
        for weights, decay_of_group in ((matrices, decay), (rest, 0.0)):
            if weights:
                group = {
                    "params": weights,
                    "weight_decay": decay_of_group,
                    "rate_factor": factor,
                }
                groups.append(group)
    return groups


def _adamw(groups: Groups, settings: TrainingConfig) -> torch.optim.AdamW:
    parameters: list[nn.Parameter] = []
    for group in groups:
        parameters += group["params"]
    # one pass over memory in place of a dozen
    fused = all(
        parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()
        for parameter in parameters
    )
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-8,
        fused=fused,
    )


def _inner_matrices(model: nn.Module) -> set[int]:
    """Return the ids of the matrices of layers, tables of positions left out."""
    inside = set[int]()
    tables = set[int]()
    for layer in model.modules():
        if not isinstance(layer, Layer):
            continue
        for parameter in layer.parameters():
            if parameter.dim() == 2:
                inside.add(id(parameter))
        for module in layer.modules():
            if isinstance(module, nn.Embedding):
                tables.update(map(id, module.parameters()))
    return inside - tables
