"""Typed configs refuse what they do not know, and say what was meant."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError, model_validator

from unrolled.core.config import Config, keys
from unrolled.core.errors import UsageError


class Inner(Config):
    hidden: int = Field(8, ge=1)
    rate: float = 0.5


class Outer(Config):
    name: str = "run"
    model: Inner = Inner()

    @model_validator(mode="after")
    def _no_bad_name(self) -> Outer:
        if self.name == "bad":
            raise ValueError("bad is no name")
        return self


def test_keys_are_dotted() -> None:
    assert keys(Outer) == ["name", "model.hidden", "model.rate"]


def test_values_are_read_and_nested() -> None:
    read = Outer.read({"model": {"hidden": 3}})
    assert read == Outer(name="run", model=Inner(hidden=3, rate=0.5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "x"}, "unknown key 'nmae'; did you mean 'name'?"),
        (
            {"model": {"hiden": 3}},
            "unknown key 'model.hiden'; did you mean 'model.hidden'?",
        ),
        ({"hidden": 3}, "unknown key 'hidden'; did you mean 'model.hidden'?"),
        ({"qqqq": 3}, "unknown key 'qqqq'; see docs/keys.md"),
        (
            {"model": {"hidden": 0}},
            "model.hidden=0: input should be greater than or equal to 1",
        ),
        (
            {"model": {"rate": float("nan")}},
            "model.rate=nan: input should be a finite number",
        ),
        ({"name": "bad"}, "bad is no name"),
    ],
)
def test_faults_are_sentences(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Outer.read(values)
    assert str(caught.value) == message


def test_every_fault_is_named_and_so_is_the_place() -> None:
    with pytest.raises(UsageError) as caught:
        Outer.read({"nmae": "x", "model": {"hidden": "many"}}, "my.yaml")
    first, second = str(caught.value).removeprefix("my.yaml: ").split("; ", 1)
    assert str(caught.value).startswith("my.yaml: ")
    assert first.startswith("model.hidden='many': ")
    assert second == "unknown key 'nmae'; did you mean 'name'?"


def test_a_config_is_frozen_and_changed_checks_again() -> None:
    config = Inner()
    with pytest.raises(ValidationError, match="frozen"):
        config.hidden = 3  # type: ignore[misc]
    assert config.changed(hidden=4) == Inner(hidden=4)
    assert config.hidden == 8
    with pytest.raises(UsageError, match=r"hidden=0: input should be greater"):
        config.changed(hidden=0)
