"""What is said of the images or the clips of a table: which column, and for which task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unrolled.core.errors import DataError
from unrolled.data.column_names import LABEL_NAMES
from unrolled.data.columns import Column, named_column
from unrolled.data.sources import Table

# names of what is said of an image, and of what is asked about it
CAPTIONS = ("caption", "captions", "description", "sentence")
QUESTIONS = ("question", "questions", "query")
SENTENCE = 3  # words of a cell, on average, that is no name
Chosen = dict[str, Any]  # what a schema is made of


def choose_clips(
    table: Table, columns: Sequence[Column], named: tuple[str, ...], label: str | None
) -> Chosen:
    """Choose the labels of the frames of clips.

    Args:
        table: the rows.
        columns: what they look like.
        named, label: the columns of clips and labels that the user named.

    Raises:
        DataError: there are no labels.
    """
    clips = named or tuple(c.name for c in columns if c.clips)[:1]
    lists = [c.name for c in columns if c.lists]
    answer = label or next(iter(lists), None)
    if answer is None:
        raise DataError(
            "there is no label for each frame: give them as labels (N, T) in the file",
            table.path,
        )
    return {"task": "label-frames", "answer": answer, "images": clips}


def choose_images(
    table: Table,
    columns: Sequence[Column],
    named: tuple[str, ...],
    text: tuple[str, ...],
    label: str | None,
) -> Chosen:
    """Choose what is said of images: a text, an answer to a question, or a label.

    Args:
        table: the rows.
        columns: what they look like.
        named, text, label: the columns of images, questions and answers that the user named.

    Raises:
        DataError: no column can be what is said.
    """
    images = named or tuple(c.name for c in columns if c.images)[:1]
    others = [c for c in columns if c.filled and not (c.images or c.name in images)]
    question = named_column(QUESTIONS, others)
    answer = label or _answer([c for c in others if c.name not in text], question)
    if answer is None:
        raise DataError(
            "no column says anything of the images; name the one to learn with "
            f"data.label=COLUMN (columns: {', '.join(table.columns)})",
            table.path,
        )
    if not text and question is not None and question.name != answer:
        text = (question.name,)
    said = next(c for c in columns if c.name == answer)
    # sentences that hardly repeat are written, word by word
    is_written = not said.are_kinds and said.words >= SENTENCE
    task = "answer-image" if is_written else "ask-image"
    if not text:
        # folders of images are labels however many, and however few images each holds
        folders = table.format.kind == "folder"
        labels = folders or (said.are_kinds and said.words < SENTENCE)
        task = "classify" if labels else "caption"
    return {"task": task, "text": text, "answer": answer, "images": images}


def _answer(columns: Sequence[Column], question: Column | None) -> str | None:
    """Return the column to predict: by its name, else the last that is no question."""
    able = [c for c in columns if c is not question]
    named = named_column((*CAPTIONS, *LABEL_NAMES), able)
    if named is None and able:
        named = able[-1]
    return None if named is None else named.name
