"""Modules that can be called in several forms, each of which runs the module's hooks.

torch runs hooks where a module is called and nowhere else, and much stands on them: pruning and
weight norms make the weights in one, FSDP gathers them in one. A method that reads a module's
weights past a call would see stale ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules import module as torch_module


def has_hooks(module: nn.Module) -> bool:
    """Say whether calling the module does more than its ``forward``."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def unlike(module: nn.Module, *kinds: type[nn.Module]) -> str:
    """Say why a module may compute something else than its kind does; empty when it does that.

    Args:
        module: any.
        kinds: what it may be; subclasses are something else.
    """
    if type(module) not in kinds:
        known = "" if len(kinds) > 3 else f", not a plain {' or '.join(k.__name__ for k in kinds)}"
        return f"a {type(module).__name__}{known}"
    if has_hooks(module):
        return f"a {type(module).__name__} with hooks"
    return f"a {type(module).__name__} with another forward" if "forward" in vars(module) else ""


class Forms(nn.Module):
    """A module whose ``forms``, methods beside ``forward``, run its hooks as a call does.

    Hooks see the arguments of the form and what it returns, and with ``with_kwargs`` its name as
    ``form``. A form must not call another of its own module: hooks would run twice. The method
    without hooks is ``type(module).NAME.__wrapped__``.

    Attributes:
        forms: their names; each class that defines one has it made so.
    """

    forms: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in cls.forms:
            if name in cls.__dict__:
                setattr(cls, name, _with_hooks(cls.__dict__[name]))
        if "forward" in cls.__dict__:
            setattr(cls, "forward", _in_forms(cls.__dict__["forward"]))  # noqa: B010


def _with_hooks(method: Callable[..., Any]) -> Callable[..., Any]:
    name = method.__name__

    @functools.wraps(method)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if has_hooks(self):
            return self(*args, form=name, **kwargs)
        return method(self, *args, **kwargs)

    return call


def _in_forms(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(self: nn.Module, *args: Any, form: str | None = None, **kwargs: Any) -> Any:
        if form is None:
            return forward(self, *args, **kwargs)
        return getattr(type(self), form).__wrapped__(self, *args, **kwargs)

    return call
