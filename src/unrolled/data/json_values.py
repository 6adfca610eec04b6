"""JSON to rows: values in bounds, objects whose keys are the columns."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unrolled.core.errors import DataError, UserError, shown
from unrolled.core.files import DEPTH, depth_of, once
from unrolled.data.archives import Origin, too_long
from unrolled.data.lines import DAMAGE, SKIP_HINT, Report, nfc

RARELY = (
    10  # a key that fewer than one object in so many lacks is one that all should have
)


class Keys(NamedTuple):
    """The keys of some objects in the order in which they first stand; some objects lack a few."""

    columns: list[str]
    optional: tuple[str, ...]


def keys_of(lines: Iterable[str]) -> Keys:
    """Return the keys of the objects in some lines; those of an object in them behind a dot.

    A key that one object in ten lacks is optional; where fewer do, something is wrong with those.
    """
    counts: dict[str, int] = {}
    total = 0
    for line in lines:
        try:
            values = json_object(line)
        except UserError:
            continue  # reported with its line when the rows are read
        total += 1
        for key in values:
            counts[key] = counts.get(key, 0) + 1
    few = max(1, total // RARELY)
    optional = tuple(key for key, count in counts.items() if total - count > few)
    return Keys(list(counts), optional)


def json_object(line: str) -> dict[str, Any]:
    """Return the JSON object in a line, the keys of objects in it behind a dot: label.name.

    A comma behind it, as in an array, does not matter. Raises UserError: it is no object.
    """
    value = json_value(without_comma(line))
    if not isinstance(value, dict):
        raise UserError(
            f"a JSON {type(value).__name__} where an object {{...}} is expected"
        )
    return flattened(value)


def without_comma(line: str) -> str:
    """Return a line without the comma behind the value in it."""
    bare = line.rstrip().removesuffix(",").rstrip()
    return bare if bare.endswith(("}", "]")) else line


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object whose objects are taken apart, their keys behind a dot."""
    if not any(isinstance(value, dict) and value for value in values.values()):
        return dict(values)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            inner = flattened(value)
            flat |= {f"{key}.{name}": content for name, content in inner.items()}
        else:
            flat[key] = value
    return flat


def json_value(line: str) -> Any:
    """Return the JSON value in a line, its texts in NFC.

    Raises:
        UserError: it is none, nested too deeply, or holds what is no character.
    """
    try:
        value = json.loads(
            line,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=once,
        )
    except RecursionError:
        raise UserError("JSON nested too deeply; flatten the object") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg}, column {error.colno}"
        raise UserError(f"not valid JSON ({where}); write one object a line") from None
    except ValueError as error:
        raise UserError(f"not valid JSON ({error}); write one object a line") from None
    if depth_of(value) > DEPTH:
        raise UserError("JSON nested too deeply; flatten the object")
    return composed(value) if "\\u" in line else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float | None:
    """Return a number; one too large for a float is missing, since answers are JSON again."""
    number = float(digits)
    return number if math.isfinite(number) else None


def composed(value: Any) -> Any:
    """Return a JSON value with its strings, which escapes may have left decomposed, in NFC.

    Raises:
        UserError: a text holds a NUL or half of a surrogate pair.
    """
    if isinstance(value, str):
        if DAMAGE.search(value):
            raise UserError("no character (a NUL or half of a pair); remove it")
        return nfc(value)
    if isinstance(value, list):
        return [composed(item) for item in value]
    if isinstance(value, dict):
        return {composed(key): composed(item) for key, item in value.items()}
    return value


def json_rows(
    texts: Iterable[tuple[int, str | None]],
    origin: Origin,
    columns: Sequence[str],
    needed: Collection[str] | None,
    report: Report,
    optional: Collection[str] = (),
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (line, values) of each object; a malformed one is reported.

    Args:
        texts: the line on which an object begins and its text, None where it is too long.
        origin: the file.
        columns, needed, optional: see ``json_row``.
        report: takes what is wrong.
    """
    for line, text in texts:
        try:
            if text is None:
                raise UserError(too_long(origin.max_row))
            yield line, json_row(text, columns, needed, optional)
        except UserError as error:
            report(DataError(f"{error}, {SKIP_HINT}", origin.name, line))


def json_row(
    line: str,
    columns: Sequence[str],
    needed: Collection[str] | None,
    optional: Collection[str] = (),
) -> tuple[Any, ...]:
    """Return the values of a line, one a column; those not ``needed`` may be missing, as None.

    Without ``needed`` all are, but for the ``optional`` ones.

    Raises:
        UserError: this is no object, a column is missing, or all are needed and one is new.
    """
    cells = json_object(line)
    for column in columns:
        is_needed = column not in optional if needed is None else column in needed
        if column not in cells and is_needed:
            inner = next((key for key in cells if key.startswith(f"{column}.")), None)
            if inner is not None:
                raise UserError(
                    f"column {shown(column)} holds an object, with {shown(inner)}, where other "
                    "rows hold a value; write one"
                )
            raise UserError(
                f"the key {shown(column)}, which other rows have, is missing; add it"
            )
    extra = [key for key in cells if key not in columns] if needed is None else []
    if extra:
        raise UserError(
            f"the key {shown(extra[0])} is not in the rows before; remove it"
        )
    return tuple(cells.get(column) for column in columns)
