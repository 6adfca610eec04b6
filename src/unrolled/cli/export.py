"""``unrolled export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrolled.cli.load import Tokenizer


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, or another program's checkpoint."
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="hf, gguf, onnx or ctranslate2."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The folder; RUN/export/FORMAT by default."
        ),
    ] = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Write a run in another program's format, compared with the run before it is kept.

    hf: language models over attention of the kind of GPT-2, Llama, Mistral and Qwen, for
    transformers; gguf: the same for llama.cpp. onnx: language models, labels, values and tags over
    any layer, for ONNX Runtime. ctranslate2: texts written from texts over attention.

    Examples:

      unrolled export runs/reviews --to onnx -o reviews-onnx

      unrolled export stories260K.bin --tokenizer tok512.bin --to hf -o stories
    """
    from unrolled.core.files import expanded
    from unrolled.run import load
    from unrolled.runs.exporting import check_format

    check_format(to)
    loaded = load(expanded(run), "cpu", result=False, tokenizer=tokenizer)
    loaded.export(to, output)
