"""``unrolled generate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unrolled.cli.load import Tokenizer

if TYPE_CHECKING:
    from unrolled.run import Run

RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A language model's run, or another program's checkpoint.",
    ),
]
Prompt = Annotated[str, typer.Option(help="The text to go on from; empty starts anew.")]
MaxNewTokens = Annotated[int, typer.Option(min=0, help="The most tokens written.")]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 always takes the likeliest token.")
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Draw from the k likeliest tokens.")
]
TopP = Annotated[
    float | None, typer.Option(help="Draw from the likeliest tokens that sum to p.")
]
MinP = Annotated[
    float | None,
    typer.Option(help="Draw from tokens at least p times as likely as the likeliest."),
]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1 avoids what was said.")]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="Equal seeds give equal texts; without one they differ.",
    ),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="End before this text; may be repeated.")
]
JsonSchema = Annotated[
    str | None,
    typer.Option(metavar="JSON|FILE", help="A JSON schema that the text follows."),
]
Grammar = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A grammar that it follows, as Lark or GBNF."),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="RUN|ngram",
        help="Guess tokens by a smaller run, or by what stood before, and check them at once: as "
        "likely a text, sooner.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="float32|bf16|int8|q8_0|q4_0",
        help="In what the weights are read: fewer bits are sooner and less exact.",
    ),
]
Count = Annotated[
    int,
    typer.Option(
        min=1,
        max=10_000,
        help="How many texts, written side by side, of the seed and those after it.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document, with the tokens; of several texts one a line, with the seed "
        "and without tokens.",
    ),
]


def generate(
    run: RunFolder,
    prompt: Prompt = "",
    max_new_tokens: MaxNewTokens = 200,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    json_schema: JsonSchema = None,
    grammar: Grammar = None,
    draft: Draft = None,
    precision: Precision = "float32",
    count: Count = 1,
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Write on from a prompt, printed as it is made.

    Example: unrolled generate runs/shakespeare-lstm --prompt "ROMEO:" --temperature 0.8 --seed 1
    """
    import secrets

    from unrolled.cli.answering import say
    from unrolled.core.files import expanded
    from unrolled.core.terminal import clean_text, json_line, out
    from unrolled.run import load
    from unrolled.runs.generate import NGRAM

    loaded = load(expanded(run), result=False, tokenizer=tokenizer)
    options: dict[str, Any] = {
        "seed": secrets.randbits(63) if seed is None else seed,
        "stop": stop or [],
        "notice": say,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "json_schema": json_schema,
        "grammar": grammar,
        "draft": draft,
        "precision": precision,
    }
    if draft is not None and draft != NGRAM:
        options["draft"] = load(expanded(Path(draft)), result=False)
    if count > 1:
        _write_several(loaded, prompt, max_new_tokens, count, options, as_json)
        return
    if as_json:
        text, choices = loaded.choices(prompt, max_new_tokens, **options)
        tokens = [choice.to_json() for choice in choices]
        out(json_line({"prompt": prompt, "text": text, "tokens": tokens}))
        return
    for piece in loaded.stream(prompt, max_new_tokens, **options):
        out(clean_text(piece), end="", flush=True)
    out("")


def _write_several(
    loaded: Run,
    prompt: str,
    max_new_tokens: int,
    count: int,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Print several texts, each with its seed."""
    from unrolled.core.errors import UsageError
    from unrolled.core.terminal import clean_text, json_line, out
    from unrolled.runs.generate import following_seed

    if options.pop("draft") is not None:
        raise UsageError("--draft is for one text at a time; leave it or --count out")
    texts = loaded.texts([prompt] * count, max_new_tokens, **options)
    for number, text in enumerate(texts):
        seed = following_seed(options["seed"], number)
        if as_json:
            out(json_line({"prompt": prompt, "seed": seed, "text": text}))
        else:
            out(f"--- seed {seed}")
            out(clean_text(text))
