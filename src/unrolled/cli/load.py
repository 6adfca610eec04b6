"""``unrolled load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The vocabulary of another program's checkpoint, where it is not beside it.",
    ),
]


def load(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A run, a folder of Hugging Face, a GGUF file, or a file of llama2.c.",
        ),
    ],
    tokenizer: Tokenizer = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document.")
    ] = False,
) -> None:
    """Open a checkpoint, of another program too, and say what it is.

    GPT-2, Llama, Mistral, Qwen2 and Qwen3 (safetensors, config.json, tokenizer.json; or GGUF), and
    llama2.c. Nothing in a folder is executed. generate, evaluate, inspect, export and doctor take
    PATH, too.

    Examples:

      unrolled load SmolLM2-135M

      unrolled load stories260K.bin --tokenizer tok512.bin --json
    """
    from unrolled.core.files import expanded
    from unrolled.core.terminal import clean, json_line, out
    from unrolled.run import load as open_run

    described = open_run(expanded(path), tokenizer=tokenizer).describe()
    if as_json:
        out(json_line(described))
        return
    width = max(map(len, described))
    for name, value in described.items():
        text = "no limit" if value is None else value
        shown = f"{text:,}" if isinstance(text, int) else clean(str(text))
        out(f"{name:<{width}}  {shown}")
