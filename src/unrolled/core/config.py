"""The base of typed configs: frozen, strict about keys, with errors that name the nearest key."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from unrolled.core.errors import UsageError, nearest, shown
from unrolled.core.words import either

EXPLAINED = 5  # faulty keys that a message explains


class Config(BaseModel):
    """A frozen group of settings. Unknown keys and values of the wrong type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def read(cls, values: dict[str, Any], where: str = "") -> Self:
        """Build the config from plain values.

        Args:
            values: nested mapping as YAML gives it.
            where: where the values come from, put in front of an error.

        Raises:
            UsageError: a key is unknown (with the nearest valid one) or a value does not fit.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            beginning = f"{where}: " if where else ""
            raise UsageError(beginning + explain(cls, error)) from None

    def changed(self, **values: Any) -> Self:
        """Return a copy with these fields replaced and checked again."""
        return type(self).read({**self.model_dump(), **values})


def keys(config: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key of a config class, those of nested configs included."""
    names: list[str] = []
    for name, field in config.model_fields.items():
        inner = nested(field.annotation)
        if inner:
            names += keys(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def nested(annotation: Any) -> type[BaseModel] | None:
    """Return the config class that a field's annotation names, if it names one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def explain(config: type[BaseModel], error: ValidationError) -> str:
    """Turn pydantic's report into one sentence for each faulty key, of the first five."""
    details = error.errors()
    sentences = [_sentence(config, detail) for detail in details[:EXPLAINED]]
    left_out = len(details) - EXPLAINED
    if left_out > 0:
        sentences.append(f"{left_out:,} more keys are faulty")
    return "; ".join(sentences)


def _sentence(config: type[BaseModel], detail: ErrorDetails) -> str:
    """Return what is wrong with one key, and what to do about it."""
    key = ".".join(str(part) for part in detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        guess = _meant(key, keys(config))
        hint = f"did you mean {guess!r}?" if guess else f"see {all_keys()}"
        return f"unknown key {shown(key)}; {hint}"
    if kind == "model_type" and key:
        return f"{key} is a group of keys: set {key}.KEY=value"
    if kind == "value_error":
        # a validator of ours raised it, in words that are meant for the user
        message = str(detail["ctx"]["error"])
        return f"{key}: {message}" if key else message
    return f"{key}={shown(detail['input'])}: {detail['msg'].lower()}"


def all_keys() -> str:
    """Return where all keys stand."""
    return either("`unrolled train --help`", "docs/keys.md")


def _meant(key: str, known: list[str]) -> str | None:
    """Return the key that an unknown one stands for, or None.

    A key written without its group, "hidden" for "model.hidden", is the usual slip; then come
    initials ("lr" for "learning_rate"), the spelling, and a word of the name ("epochs").
    """
    group, _, leaf = key.lower().rpartition(".")
    # in the group that was named before any other: the sort is stable
    candidates = sorted(known, key=lambda name: name.rpartition(".")[0] != group)
    by_initials: list[str] = []
    by_word: list[str] = []
    for name in candidates:
        last = name.rpartition(".")[2]
        if last == leaf:
            return name
        words = last.split("_")
        initials = "".join(word[0] for word in words)
        if len(leaf) > 1 and initials == leaf:
            by_initials.append(name)
        if len(leaf) > 2 and any(word.startswith(leaf) for word in words):
            by_word.append(name)
    if by_initials:
        return by_initials[0]
    guess = nearest(key, candidates)
    if guess is None and by_word:
        return by_word[0]
    return guess
