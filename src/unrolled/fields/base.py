"""What fields share: cells that do not fit, numbers in bounds, and their scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import DataError, shown
from unrolled.data.units import FACTORS, amount

LARGEST = 1e30  # of a number that is read: scores square it, in float32 at times


FAR = 1e15  # deviations from the mean, of a number that is read


# the files of a run folder that belong to its fields
TOKENIZER = "tokenizer.json"
WORDS = "words.json"


class InvalidCell(Exception):
    """A cell that cannot be encoded; whoever knows the file and the line turns it into an error."""


class MissingCell(InvalidCell):
    """A cell that holds no value, for which its row is left out and not refused."""


class LeftOut(DataError):
    """A row that was left out since it lacks a value."""


def invalid_row(error: InvalidCell, path: str, line: int) -> DataError:
    """Return the error for a row, with where it stands and what to do."""
    if isinstance(error, MissingCell):
        return LeftOut(str(error), path, line)
    return DataError(f"{error}; mend the row, or set data.on_error=skip", path, line)


def is_plain(cell: Any) -> bool:
    """Whether a cell is one value, or empty, and no list or object of several."""
    return cell is None or isinstance(cell, str | int | float)


def scale_of(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and deviations (D,) of the columns of ``values`` (N, D), N at least 1.

    What never changes has deviation 1: it tells nothing, and its rounding must not be blown up.
    """
    means = values.mean(0)
    deviations = values.std(0)
    return means, np.where(deviations > 1e-9 * np.abs(means), deviations, 1.0)


def read_number(column: str, cell: Any, decimal: str = ".", unit: str = "") -> float:
    """Return the number in a cell. Raises InvalidCell: there is none, or one that is too large."""
    value = amount(cell, decimal, unit)
    if value is None:
        of_unit = f" in {unit}" if unit not in ("", FACTORS) else ""
        raise InvalidCell(
            f"column {column!r} holds {shown(cell)} where a number{of_unit} is expected"
        )
    if abs(value) > LARGEST:
        raise InvalidCell(
            f"column {column!r} holds {shown(cell)}, which is more than {LARGEST:g}; if it marks a "
            "missing value, leave the row out"
        )
    return value


def scaled(column: str, value: float, mean: float, deviation: float) -> float:
    """Return a number in deviations from the mean. Raises InvalidCell: it is out of proportion."""
    deviations = (value - mean) / deviation
    if abs(deviations) > FAR:
        raise InvalidCell(
            f"column {column!r} holds {value:g}, out of all proportion to the numbers of training "
            f"(about {mean:g}, give or take {deviation:g})"
        )
    return deviations
