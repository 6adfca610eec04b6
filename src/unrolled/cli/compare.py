"""``unrolled compare``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unrolled.core.errors import UsageError, shown

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA_OR_RECIPE [KEY=VALUE]... | RUN RUN...",
        help="What is trained, and keys that all runs have; or finished runs.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Names with commas between; by default all that ship."),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=A,B", help="Train with each value of a key. Repeatable."),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time for all of it, such as 10m; each run gets an equal part."),
]
Params = Annotated[
    str | None,
    typer.Option(help="Parameters of each model, such as 1M; model.hidden follows."),
]
Seeds = Annotated[
    int, typer.Option(min=1, max=1000, help="Runs of each layer, with other seeds.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Runs at the same time; by default as the cores allow."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder; studies/compare-NAME by default."),
]
Language = Annotated[
    Literal["auto", "en", "ko"],
    typer.Option(help="Language of the page; auto follows the browser."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

UNITS = {"s": 1, "m": 60, "h": 3600}
SIZES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def compare(
    targets: Words,
    layers: Layers = None,
    vary: Vary = None,
    budget: Budget = None,
    params: Params = None,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    out: Out = None,
    lang: Language = "auto",
    as_json: AsJson = False,
) -> None:
    """Train layers on the same data, at equal time or equal size, and set them side by side.

    What was stopped goes on with the same command. Finished runs are compared by their folders.

    Examples:

      unrolled compare reviews --budget 10m --seeds 2

      unrolled compare reviews.csv --layers gru,lstm --vary data.limit=100,1000,10000

      unrolled compare runs/reviews runs/reviews-lstm
    """
    from unrolled.core.files import expanded
    from unrolled.core.terminal import clean, json_line, note
    from unrolled.core.terminal import out as print_out
    from unrolled.studies.comparison import compare as train_all
    from unrolled.studies.finished import compare_runs, is_run_list

    folder = None if out is None else expanded(out)
    if is_run_list(targets):
        if layers or vary or budget or params or jobs or seeds != 3:
            raise UsageError(
                "finished runs are compared as they are: leave out --layers, --vary, --budget, "
                "--params, --seeds and --jobs"
            )
        findings, folder = compare_runs(targets, folder, lang)
    else:
        target, *words = targets
        findings = train_all(
            target,
            layers=[]
            if layers is None
            else [name.strip() for name in layers.split(",") if name.strip()],
            vary=_varied(vary or []),
            seeds=seeds,
            budget=None if budget is None else read_seconds(budget),
            params=None if params is None else read_size(params),
            out=folder,
            at_once=jobs,
            lang=lang,
            say=note,
            **_keys(words),
        )
    if as_json:
        print_out(json_line(findings.to_json()))
        return
    print_out("\n".join(map(clean, findings.lines())))
    print_out(f"\npage: {clean(str(findings.made['folder']))}/compare.html")


def _keys(words: list[str]) -> dict[str, Any]:
    from unrolled.core.files import expanded
    from unrolled.runs.keys import parse
    from unrolled.runs.published import is_checkpoint

    for word in words:
        if is_checkpoint(expanded(word)):
            raise UsageError(
                f"{shown(word)} is a checkpoint of another program, of which no training is known; "
                "score both by `unrolled evaluate RUN FILE --compare PATH`"
            )
        if "=" not in word:
            raise UsageError(
                f"{shown(word)} is neither key=value nor a finished run, as all must be where "
                "runs are compared"
            )
    return parse(words)


def _varied(words: list[str]) -> dict[str, list[Any]]:
    """Turn ``key=a,b`` words into values by key."""
    from unrolled.runs.keys import parse

    vary: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--vary {shown(word)} is not key=A,B")
        if key in vary:
            raise UsageError(f"--vary names {key} twice; give all its values at once")
        vary[key] = [parse([f"{key}={value}"])[key] for value in text.split(",")]
    return vary


def read_seconds(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``1h30m``. Raises UsageError: it is none of them."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not seconds:
        raise UsageError(f"--budget {shown(text)} is no time; say 90s, 10m or 1h30m")
    return seconds


def read_size(text: str) -> int:
    """Return the number of ``1M``, ``500k`` or ``200000``. Raises UsageError: it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", text.lower().replace(",", ""))
    size = int(float(match[1]) * SIZES[match[2]]) if match else 0
    if not size:
        raise UsageError(f"--params {shown(text)} is no number; say 500k or 1M")
    return size
