"""``unrolled evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.load import Tokenizer

RunFolder = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run, or another program's checkpoint."),
]
Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A file with the fields of the training data."),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="data.label=, data.by=, ... of this file; decoding.beam=, ... of the search.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(help="The file whose lines are the answers to those of DATA."),
]
Other = Annotated[
    Path | None,
    typer.Option(
        "--compare",
        metavar="RUN2",
        help="Test the difference from another run; set language models beside each other.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def evaluate(
    run: RunFolder,
    data: Data,
    changes: Changes = None,
    target: Target = None,
    other: Other = None,
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Score a run on a file.

    Examples:

      unrolled evaluate runs/reviews test.csv --json

      unrolled evaluate runs/multi30k-en-de test.en --target test.de --compare runs/other
    """
    from unrolled.cli.answering import say
    from unrolled.core.files import expanded
    from unrolled.core.terminal import clean, json_line, out
    from unrolled.run import load
    from unrolled.runs.evaluate import compare
    from unrolled.runs.evaluate import evaluate as score
    from unrolled.runs.keys import parse

    keys = parse(changes or [])
    path = expanded(run)
    their_path = None if other is None else expanded(other)
    # opened first, so that neither is scored where one of them cannot be
    files = _tokenizers(path, their_path, tokenizer)
    ours = load(path, tokenizer=files[0])
    their_run = None if their_path is None else load(their_path, tokenizer=files[1])
    evaluation = score(ours.scorer(say), ours.recipe, data, keys, say, target)
    scores = evaluation.scores
    notes = [*evaluation.notes]
    if their_run is not None:
        scorer = their_run.scorer(say)
        theirs = score(scorer, their_run.recipe, data, keys, say, target)
        names = (str(run), str(other))
        notes += compare(ours.predictor, evaluation, theirs, names)
    if as_json:
        document = evaluation.document()
        out(json_line({**document, "notes": notes} if notes else document))
        return
    width = max(map(len, scores))
    for name, value in scores.items():
        out(f"{name:<{width}}  {value:.4f}")
    for name, groups in evaluation.by.items():
        out(f"\n{clean(name)}")
        out("\n".join(map(clean, score_lines(groups))))
    for note in notes:
        out(clean(note))


def _tokenizers(
    path: Path, other: Path | None, file: Path | None
) -> tuple[Path | None, Path | None]:
    """Return which of two runs is opened with a tokenizer that was named.

    It is for checkpoints of other programs; of two of them for those that bring none, and for both
    where each brings its own.
    """
    from unrolled.runs.published import brings_tokenizer, is_published

    if file is None or other is None:
        return file, None
    are_published = (is_published(path), is_published(other))
    if not any(are_published):
        # a run says that it has its own
        return file, None
    takes = are_published
    if all(are_published):
        lacks = (not brings_tokenizer(path), not brings_tokenizer(other))
        takes = lacks if any(lacks) else takes
    return file if takes[0] else None, file if takes[1] else None


def score_lines(groups: dict[str, dict[str, float]]) -> list[str]:
    """Return a line of scores for each group of rows, in columns."""
    width = max(map(len, groups))
    lines = []
    for group, scores in groups.items():
        rows, *rest = scores
        cells = [f"{name} {scores[name]:.4f}" for name in rest]
        lines.append(
            f"{group:<{width}}  {'  '.join(cells)}  ({scores[rows]:,.0f} rows)"
        )
    return lines
