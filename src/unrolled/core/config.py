"""The base of typed configs: frozen, strict about keys, with errors that name the nearest key."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from unrolled.core.errors import UsageError, nearest, shown
from unrolled.core.words import either


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
            raise UsageError(
                (f"{where}: " if where else "") + explain(cls, error)
            ) from None

    def changed(self, **values: Any) -> Self:
        """Return a copy with these fields replaced and checked again."""
        return type(self).read({**self.model_dump(), **values})


def keys(config: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key of a config class, those of nested configs included."""
    found: list[str] = []
    for name, field in config.model_fields.items():
        inner = nested(field.annotation)
        found += keys(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found


def nested(annotation: Any) -> type[BaseModel] | None:
    """Return the config class that a field's annotation names, if it names one."""
    return (
        annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel)
        else None
    )


def explain(config: type[BaseModel], error: ValidationError) -> str:
    """Turn pydantic's report into one sentence for each faulty key, of the first five."""
    sentences = []
    found = error.errors()
    for item in found[:5]:
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            guess = _meant(key, keys(config))
            hint = f"did you mean {guess!r}?" if guess else f"see {all_keys()}"
            sentences.append(f"unknown key {shown(key)}; {hint}")
        elif item["type"] == "model_type" and key:
            sentences.append(f"{key} is a group of keys: set {key}.KEY=value")
        elif item["type"] == "value_error":
            sentences.append(
                f"{key}: {item['ctx']['error']}" if key else str(item["ctx"]["error"])
            )
        else:
            sentences.append(f"{key}={shown(item['input'])}: {item['msg'].lower()}")
    if len(found) > 5:
        sentences.append(f"{len(found) - 5:,} more keys are faulty")
    return "; ".join(sentences)


def all_keys() -> str:
    """Return where all keys stand."""
    return either("`unrolled train --help`", "docs/keys.md")


def _meant(key: str, known: list[str]) -> str | None:
    """Return the key that an unknown one stands for, or None.

    A key written without its group, "hidden" for "model.hidden", is the usual slip; then come
    initials ("lr" for "learning_rate"), the spelling, and a word of the name ("epochs").
    """
    group, _, leaf = key.lower().rpartition(".")
    # in the group that was named before any other
    known = sorted(known, key=lambda k: k.rpartition(".")[0] != group)
    words = {k: k.rpartition(".")[2].split("_") for k in known}
    same = [k for k in known if "_".join(words[k]) == leaf]
    initials = [
        k for k in known if len(leaf) > 1 and "".join(w[0] for w in words[k]) == leaf
    ]
    partly = [
        k for k in known if len(leaf) > 2 and any(w.startswith(leaf) for w in words[k])
    ]
    return (
        next(iter([*same, *initials]), None)
        or nearest(key, known)
        or next(iter(partly), None)
    )
