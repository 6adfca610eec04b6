"""Columns of a table as features: each number, category or date becomes a few numbers.

What a feature is follows from training rows alone, so that a row by itself is encoded alike.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self

import numpy as np

from unrolled.core.errors import UserError, shown
from unrolled.core.saving import LATER, as_saved
from unrolled.data.columns import label, spelling
from unrolled.data.date_styles import CLOCK, DATE, read_styled, style_of
from unrolled.data.dates import EPOCH, is_day_first
from unrolled.data.numbers import is_missing
from unrolled.fields.base import (
    LARGEST,
    InvalidCell,
    MissingCell,
    is_plain,
    read_number,
    scaled,
)
from unrolled.fields.number import Number

Missing = Literal["median", "mean", "drop", "error"]
Features = tuple[float, ...]
DAY = 86_400  # seconds
DAYS_OF_YEAR = 365.25
# the parts of a date, in the order of their features, with how many these are
PARTS = {"year": 1, "season": 2, "weekday": 7, "hour": 2}
# those that come round, with the seconds of a round
ROUNDS = {"season": DAYS_OF_YEAR * DAY, "weekday": 7.0 * DAY, "hour": float(DAY)}
FARTHEST = 3.0  # deviations
RARE = 2  # rows of a category with fewer are as one that was never seen


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A number, scaled to mean 0 and deviation 1, and a flag where it was missing.

    Attributes:
        scale: the name of the column, and how its numbers are scaled.
        fill: what stands in for a number that is missing; None: its row is refused.
        flagged: whether some number of training was missing.
        dropped: whether a row without a number is left out rather than refused.
    """

    kind: ClassVar[str] = "number"
    scale: Number
    fill: float | None = None
    flagged: bool = False
    dropped: bool = False

    @property
    def name(self) -> str:
        """The column."""
        return self.scale.column

    @property
    def width(self) -> int:
        """How many features it is."""
        return 1 + self.flagged

    @classmethod
    def fit(
        cls,
        name: str,
        cells: Sequence[Any],
        decimal: str | None,
        missing: Missing,
        usual: str = ".",
        unit: str = "",
    ) -> Self:
        """Learn the scale, and what stands in for a missing number."""
        scale = Number.fit(name, cells, decimal, usual=usual, unit=unit)
        if missing in ("drop", "error"):
            return cls(scale, dropped=missing == "drop")
        numbers = [scale.read(cell) for cell in cells]
        known = [v for v in numbers if v is not None and abs(v) <= LARGEST]
        fill = np.median(known) if missing == "median" else np.mean(known)
        return cls(scale, float(fill), flagged=None in numbers)

    def encode(self, cell: Any, training: bool) -> Features:
        """Return the features of a cell; what is neither number nor missing is for training alone.

        Raises:
            InvalidCell: there is no number, and nothing to stand in for it.
        """
        value = self.scale.read(cell)
        if value is not None:
            features = self.scale.check(cell)
            return (features, 0.0) if self.flagged else (features,)
        if self.fill is None or not (training or is_missing(cell)):
            if self.dropped:
                raise MissingCell(f"column {self.name!r} holds no number")
            read_number(self.name, cell, self.scale.decimal, self.scale.unit)
        assert self.fill is not None
        filled = scaled(self.name, self.fill, self.scale.mean, self.scale.deviation)
        return (filled, 1.0) if self.flagged else (filled,)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the column back."""
        scale = Number.from_json(values["scale"])
        return cls(scale, values["fill"], values["flagged"], values["dropped"])

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {
            "scale": self.scale.to_json(),
            "fill": self.fill,
            "flagged": self.flagged,
            "dropped": self.dropped,
        }


@dataclass(frozen=True, slots=True)
class CategoryColumn:
    """One of some kinds: a feature for each, 1 where it is this one; all 0 for an unseen kind.

    The weights behind a feature are the embedding of its kind.
    """

    kind: ClassVar[str] = "category"
    name: str
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many features it is."""
        return len(self.names)

    @classmethod
    def fit(cls, name: str, cells: Sequence[Any]) -> Self:
        """Learn the kinds that occur ``RARE`` times or more."""
        counts = Counter(spelling(label(cell)) for cell in cells if is_plain(cell))
        names = sorted(kind for kind, count in counts.items() if count >= RARE)
        if not names:
            raise UserError(
                f"column {name!r} holds no value twice; leave it out of data.categories"
            )
        return cls(name, tuple(names))

    def encode(self, cell: Any, training: bool) -> Features:
        """Return the features of a cell. Raises InvalidCell: it holds a list or an object."""
        if not is_plain(cell):
            raise InvalidCell(
                f"column {self.name!r} holds {shown(cell)} where a category is expected"
            )
        kind = spelling(label(cell))
        return _one_hot(self.names, kind)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the column back."""
        return cls(values["name"], tuple(values["names"]))

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {"name": self.name, "names": list(self.names)}


@functools.lru_cache(maxsize=1 << 12)
def _one_hot(names: tuple[str, ...], kind: str) -> Features:
    return tuple(float(kind == name) for name in names)


@dataclass(frozen=True, slots=True)
class DateColumn:
    """A date by its parts: year, season, day of the week, and the hour where times are given.

    Season and hour are angles, so that December is next to January; a missing date is all zeros
    but for its flag. Of the date of a step in time the year is not read, which later steps do not
    share, and of the other parts ``rounds`` alone: those that came round in training.
    """

    kind: ClassVar[str] = "date"
    name: str
    day_first: bool
    year: float
    years: float
    has_time: bool
    rounds: tuple[str, ...] | None = field(default=None, metadata=LATER)
    style: str = field(default=DATE, metadata=LATER)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are read, of ``PARTS``."""
        if self.rounds is not None:
            return self.rounds
        return tuple(part for part in PARTS if part != "hour" or self.has_time)

    @property
    def width(self) -> int:
        """How many features it is: those of its parts, and the flag."""
        return sum(PARTS[part] for part in self.parts) + 1

    @classmethod
    def fit(
        cls,
        name: str,
        cells: Sequence[Any],
        day_first: bool | None,
        of_steps: bool = False,
    ) -> Self:
        """Learn how dates are written, the order of day and month, and which years there are.

        Of the steps of sequences it learns which parts come round.

        Raises:
            UserError: there is no date.
        """
        if day_first is None:
            day_first = is_day_first(cells)
        style = style_of(cells) or DATE
        dates = [read_styled(cell, style, day_first) for cell in cells]
        known = [seconds for seconds in dates if seconds is not None]
        if not known:
            raise UserError(f"column {name!r} holds no date")
        years = np.array([_year(seconds) for seconds in known])
        mean = float(years.mean())
        deviation = float(years.std()) or 1.0
        has_time = any(seconds % DAY for seconds in known)
        column = cls(name, day_first, mean, deviation, has_time, style=style)
        if style == CLOCK:
            # a time of day is of no day
            return replace(column, rounds=("hour",))
        return replace(column, rounds=_rounds(known)) if of_steps else column

    def encode(self, cell: Any, training: bool) -> Features:
        """Return the features of a cell. Raises InvalidCell: it holds something else."""
        seconds = read_styled(cell, self.style, self.day_first)
        if seconds is None:
            if not (training or is_missing(cell)):
                raise InvalidCell(
                    f"column {self.name!r} holds {shown(cell)} where a date is expected"
                )
            return (*[0.0] * (self.width - 1), 1.0)
        features: list[float] = []
        date = EPOCH + timedelta(seconds=seconds)
        for part in self.parts:
            features += self._features(part, seconds, date)
        return (*features, 0.0)

    def _features(self, part: str, seconds: float, date: datetime) -> list[float]:
        """Return the features of one of ``PARTS``."""
        if part == "year":
            years = (_year(seconds) - self.year) / self.years
            # years far from those of training tell nothing more
            return [max(-FARTHEST, min(FARTHEST, years))]
        if part == "season":
            day_of_year = date.timetuple().tm_yday - 1
            return _angle(day_of_year / DAYS_OF_YEAR)
        if part == "weekday":
            today = date.weekday()
            return [float(today == weekday) for weekday in range(7)]
        return _angle(seconds % DAY / DAY)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read the column back."""
        rounds = values.get("rounds")
        kept = values | {"rounds": None if rounds is None else tuple(rounds)}
        return cls(**kept)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return as_saved(self)


FeatureColumn = NumberColumn | CategoryColumn | DateColumn
KINDS: dict[str, type[FeatureColumn]] = {
    kind.kind: kind for kind in (NumberColumn, CategoryColumn, DateColumn)
}


def _angle(turn: float) -> list[float]:
    """Return a part of a whole turn as the two coordinates of a point on a circle."""
    angle = math.tau * turn
    return [math.sin(angle), math.cos(angle)]


def _rounds(dates: Sequence[float]) -> tuple[str, ...]:
    """Return the parts that came round twice or more over dates of steps, in seconds.

    What a step is as long as, or nearly so, tells nothing: the day of the week of a month's first.
    """
    moments = np.unique(dates)
    if len(moments) < 2:
        return ()
    step = float(np.median(np.diff(moments)))
    length = float(moments[-1] - moments[0]) + step
    return tuple(
        part
        for part, seconds in ROUNDS.items()
        if length >= 2 * seconds and 2 * step <= seconds
    )


def _year(seconds: float) -> float:
    """Return the year of a date, with its part of the year as decimals."""
    return 1970 + seconds / (DAY * DAYS_OF_YEAR)


def old_columns(values: dict[str, Any]) -> list[FeatureColumn]:
    """Return the columns of a run from before there were other columns than of numbers."""
    scales = zip(values["columns"], values["means"], values["deviations"], strict=True)
    return [
        NumberColumn(Number(name, mean, deviation, False))
        for name, mean, deviation in scales
    ]


def old_values(columns: Sequence[FeatureColumn]) -> dict[str, Any] | None:
    """Return what ``old_columns`` takes; None for columns that it does not make."""
    scales: list[Number] = []
    for column in columns:
        if not isinstance(column, NumberColumn):
            return None
        scales.append(column.scale)
    values = {
        "columns": tuple(scale.column for scale in scales),
        "means": tuple(scale.mean for scale in scales),
        "deviations": tuple(scale.deviation for scale in scales),
    }
    return values if old_columns(values) == list(columns) else None
