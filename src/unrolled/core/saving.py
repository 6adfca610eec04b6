"""Values as they are saved, such that what was saved before there was a field is still equal."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

# of a dataclass's field that older versions did not have: it is saved where it is not its default
LATER = {"later": True}


def as_saved(value: Any) -> Any:
    """Return a dataclass, and those in it, as plain values without later fields at their default.

    So digests of what older versions wrote stay what they were.
    """
    if isinstance(value, list | tuple):
        return type(value)(as_saved(item) for item in value)
    if not is_dataclass(value):
        return value
    saved: dict[str, Any] = {}
    for field in fields(value):
        content = getattr(value, field.name)
        if field.metadata.get("later") and content == field.default:
            continue
        saved[field.name] = as_saved(content)
    return saved
