"""Tables of text, as the pages show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unrolled.insight.words import Phrase, both

Cell = object  # text, or a phrase


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text, for the templates' ``table``; the first cell of a row names the row."""

    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    css: str = ""
    caption: Cell = ""

    @property
    def label(self) -> Phrase:
        """What the table is called where it is not seen."""
        if self.caption:
            return both(self.caption)
        names = [both(cell) for cell in self.head if cell]
        joint = Markup(", ")
        return Phrase(
            joint.join(name.en for name in names), joint.join(name.ko for name in names)
        )
