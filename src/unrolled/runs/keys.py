"""Dotted keys of a recipe: ``key.sub=value`` words, and mappings flat and nested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from unrolled.core.config import nested
from unrolled.core.errors import UsageError, shown
from unrolled.core.terminal import as_json
from unrolled.core.yaml import load_yaml
from unrolled.tasks.recipe import Recipe


def parse(words: Iterable[str]) -> dict[str, Any]:
    """Turn ``key.sub=value`` words into a flat mapping.

    The value of a key that takes text is the text as typed, since YAML reads a column ``no`` as
    false and ``12:30`` as 750; lists, quoted text and the values of other keys are read as YAML.

    Raises:
        UsageError: a word has no ``=``, or its value is not YAML.
    """
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{shown(word)} is not key=value")
        try:
            changes[key] = _value(text, _kinds(_annotation(key)))
        except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-01
            raise UsageError(
                f"{shown(word)}: the value is not readable; quote it"
            ) from None
    return changes


def words(changes: Mapping[str, Any]) -> list[str]:
    """Return ``key=value`` words for dotted keys, from which ``parse`` reads the same values."""
    return [
        f"{key}={_written(value, _kinds(_annotation(key)))}"
        for key, value in changes.items()
    ]


def _written(value: Any, kinds: set[Any]) -> str:
    if value is None:
        return "null" if NoneType in kinds else ""
    if isinstance(value, str) and (str in kinds or Literal in kinds):
        quoted = not value or value == "null" or value[0] in "[{\"'" or "\n" in value
        return as_json(value) if quoted else value
    # one line, texts in quotes and what cannot be printed escaped: YAML reads JSON
    return as_json(value)


def _value(text: str, kinds: set[Any]) -> Any:
    """Return the value of a key that takes ``kinds``."""
    if not text or (text == "null" and NoneType in kinds):
        return None
    if str in kinds and int in kinds and text.isdecimal():
        return int(text)
    if str in kinds and text[0] not in "[{\"'":
        return text
    if str in kinds or (list[str] in kinds and text[0] == "["):
        return load_yaml(text, leave_words=True)
    value = load_yaml(text)
    # YAML 1.1 reads 1e-3 as text
    return _as_number(value) if isinstance(value, str) else value


def _annotation(key: str) -> Any:
    """Return the annotation of a dotted key of a recipe, None where there is no such key."""
    *groups, leaf = key.split(".")
    config: Any = Recipe
    for group in groups:
        field = config.model_fields.get(group)
        config = nested(field.annotation) if field else None
        if config is None:
            return None
    field = config.model_fields.get(leaf)
    return field.annotation if field else None


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows; a choice of words is text."""
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, inner))
    if origin is Literal:
        return {type(choice) for choice in inner}
    if origin is Annotated:
        return _kinds(inner[0])
    return {annotation}


def _as_number(text: str) -> str | float:
    try:
        return float(text) if "e" in text.lower() else text
    except ValueError:
        return text


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping of dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and not _holds_mapping(prefix + key):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _holds_mapping(key: str) -> bool:
    """Whether the value of a key is a mapping of names that are no keys."""
    return any(get_origin(kind) is dict for kind in _kinds(_annotation(key)))


def deep(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested mappings, the inverse of ``flat``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *groups, leaf = key.split(".")
        inner = result
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UsageError(
                    f"unknown key {shown(key)}; {shown(group)} is not a group of keys"
                )
        inner[leaf] = value
    return result
