"""The mark before decimals that most columns of a table have."""

from __future__ import annotations

from unrolled.data.numbers import decimal_mark
from unrolled.data.sources import Table


def usual_decimal(table: Table) -> str:
    """Return the mark before decimals in a file, for columns whose own cells do not tell it."""
    marks = set()
    for index in range(len(table.columns)):
        marks.add(decimal_mark([row[index] for row in table.rows], ""))
    marks.discard("")
    if len(marks) == 1:
        return marks.pop()
    # where a comma stands before decimals, a semicolon stands between the fields
    return "," if not marks and table.format.delimiter == ";" else "."
