"""Modules that can be called in several forms, each of which runs the module's hooks.

torch runs hooks where a module is called and nowhere else, and much stands on them: pruning and
weight norms make the weights in one, FSDP gathers them in one. A method that reads a module's
weights past a call would see stale ones.
"""

from __future__ import annotations

import functools
import threading
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
        known = (
            ""
            if len(kinds) > 3
            else f", not a plain {' or '.join(k.__name__ for k in kinds)}"
        )
        return f"a {type(module).__name__}{known}"
    if has_hooks(module):
        return f"a {type(module).__name__} with hooks"
    for name in vars(module):
        if callable(getattr(type(module), name, None)):
            return f"a {type(module).__name__} with another {name}"
    return ""


def overrides(module: nn.Module, base: type[nn.Module], name: str) -> bool:
    """Say whether a method of ``base`` is another one in this module, by its class or set on it."""
    return name in vars(module) or getattr(type(module), name) is not getattr(
        base, name
    )


class _Call:
    """A form that is to run or, once torch has called ``forward``, runs."""

    def __init__(self, module: nn.Module, form: str) -> None:
        self.module = module
        self.form = form
        self.begun = False


class _Calls(threading.local):
    """The forms under way in this thread, of modules with hooks, the innermost last."""

    def __init__(self) -> None:
        self.stack: list[_Call] = []


_calls = _Calls()


def _runs(module: nn.Module) -> bool:
    """Say whether a form of the module runs already, its hooks with it."""
    return any(call.begun and call.module is module for call in _calls.stack)


class Forms(nn.Module):
    """A module whose ``forms``, methods beside ``forward``, run its hooks as a call does.

    Hooks see the arguments of the form and what it returns. They run once: a form that calls
    another of its own module, or that of the class above, calls it plainly. The method without
    hooks is ``type(module).NAME.__wrapped__``.

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
        if not has_hooks(self) or _runs(self):
            return method(self, *args, **kwargs)
        # not an argument: hooks before a call may give others in place of all of them
        _calls.stack.append(_Call(self, name))
        try:
            return self(*args, **kwargs)
        finally:
            _calls.stack.pop()

    return call


def _in_forms(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        newest = _calls.stack[-1] if _calls.stack else None
        if newest is not None and newest.module is self and not newest.begun:
            newest.begun = True
            return getattr(type(self), newest.form).__wrapped__(self, *args, **kwargs)
        if not has_hooks(self) or _runs(self):
            return forward(self, *args, **kwargs)
        called = _Call(self, "forward")
        called.begun = True
        _calls.stack.append(called)
        try:
            return forward(self, *args, **kwargs)
        finally:
            _calls.stack.pop()

    return call
