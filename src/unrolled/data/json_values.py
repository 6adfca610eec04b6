"""JSON to rows: values in bounds, objects whose keys are the columns."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from unrolled.core.errors import DataError, UserError, shown
from unrolled.core.files import DEPTH, depth_of, once
from unrolled.data.archives import Origin, too_long
from unrolled.data.lines import DAMAGE, SKIP_HINT, Report, nfc


def json_columns(lines: Sequence[str]) -> list[str]:
    """Return the keys of the objects in some lines, in the order in which they first stand."""
    columns: dict[str, None] = {}
    for line in lines:
        try:
            columns.update(dict.fromkeys(json_object(line)))
        except UserError:
            continue  # reported with its line when the rows are read
    return list(columns)


def json_object(line: str) -> dict[str, Any]:
    """Return the JSON object in a line; see ``json_value``. Raises UserError: it is none."""
    value = json_value(line)
    if not isinstance(value, dict):
        raise UserError(
            f"a JSON {type(value).__name__} where an object {{...}} is expected"
        )
    return value


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
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (line, values) of each object; a malformed one is reported.

    Args:
        texts: the line on which an object begins and its text, None where it is too long.
        origin: the file.
        columns, needed: see ``json_row``.
        report: takes what is wrong.
    """
    for line, text in texts:
        try:
            if text is None:
                raise UserError(too_long(origin.max_row))
            yield line, json_row(text, columns, needed)
        except UserError as error:
            report(DataError(f"{error}, {SKIP_HINT}", origin.name, line))


def json_row(
    line: str, columns: Sequence[str], needed: Collection[str] | None
) -> tuple[Any, ...]:
    """Return the values of a line, one a column; those not ``needed`` may be missing, as None.

    Raises:
        UserError: this is no object, a column is missing, or all are needed and one is new.
    """
    cells = json_object(line)
    for column in columns:
        if column not in cells and (needed is None or column in needed):
            raise UserError(
                f"the key {shown(column)}, which other rows have, is missing; add it"
            )
    if needed is None and len(cells) > len(columns):
        extra = next(key for key in cells if key not in columns)
        raise UserError(f"the key {shown(extra)} is not in the rows before; remove it")
    return tuple(cells.get(column) for column in columns)
