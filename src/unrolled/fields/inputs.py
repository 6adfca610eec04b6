"""The fields that a model can read, by the names under which they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrolled.fields.frames import Frames
from unrolled.fields.text import Text
from unrolled.fields.text_and_columns import TextAndColumns
from unrolled.fields.vector import Vector
from unrolled.fields.words import Words
from unrolled.fields.words_and_columns import WordsAndColumns

InputField = Text | Words | Vector | Frames | TextAndColumns | WordsAndColumns
INPUTS: dict[str, type[InputField]] = {
    kind.kind: kind
    for kind in (Text, Words, Vector, Frames, TextAndColumns, WordsAndColumns)
}


def read_input(values: dict[str, Any], folder: Path) -> InputField:
    """Read an input field back from plain values and the files in a run folder."""
    return INPUTS[values["kind"]].from_json(values, folder)
