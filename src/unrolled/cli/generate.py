"""``unrolled generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def generate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a language model's run.")
    ],
    prompt: Annotated[
        str, typer.Option(help="The text to go on from; empty starts anew.")
    ] = "",
    max_new_tokens: Annotated[
        int, typer.Option(min=0, help="The most tokens written.")
    ] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 always takes the likeliest token.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw from the k likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens that sum to p.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from tokens at least p times as likely as the likeliest."
        ),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 avoids what was said.")
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="Equal seeds give equal texts; without one they differ.",
        ),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document.")
    ] = False,
) -> None:
    """Write on from a prompt, printed as it is made.

    Example: unrolled generate runs/shakespeare-lstm --prompt "ROMEO:" --temperature 0.8 --seed 1
    """
    import secrets

    from unrolled.cli.answering import say
    from unrolled.core.files import expanded
    from unrolled.core.terminal import clean_text, json_line, out
    from unrolled.run import load

    pieces = load(expanded(run), result=False).stream(
        prompt,
        max_new_tokens,
        seed=secrets.randbits(63) if seed is None else seed,
        stop=stop or [],
        notice=say,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    if as_json:
        out(json_line({"prompt": prompt, "text": "".join(pieces)}))
        return
    for piece in pieces:
        out(clean_text(piece), end="", flush=True)
    out("")
