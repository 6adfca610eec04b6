"""``unrolled chat``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unrolled.cli.generate import MinP, RepetitionPenalty, Seed, Temperature, TopK, TopP

if TYPE_CHECKING:
    from unrolled.runs.talking import Conversation

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run of task=chat.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")]
System = Annotated[
    str, typer.Option(help="What the assistant is to be like, said before the talk.")
]
HELP = """/system TEXT  what the assistant is to be like
/undo         take the last question and its answer back
/reset        forget what was said
/save FILE    write the talk as a line of JSON
/help         show these lines
/quit         end (Ctrl-D ends too, Ctrl-C stops an answer)"""


def chat(
    run: RunFolder,
    max_new_tokens: MaxNewTokens = 256,
    system: System = "",
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.9,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
) -> None:
    """Talk with a model; each line is a question, /help lists what else can be said.

    Example: unrolled chat runs/ko-chat --temperature 0.5
    """
    from unrolled.cli.answering import say
    from unrolled.core.files import expanded
    from unrolled.core.terminal import note
    from unrolled.run import load

    loaded = load(expanded(run), result=False)
    talk = loaded.chat(
        max_new_tokens,
        notice=say,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    talk.set_system(system)
    is_typed = sys.stdin.isatty()
    if is_typed:
        note("each line is a question; /help lists what else can be said")
    while True:
        line = _line(is_typed)
        if line is None:
            return
        if not line.strip():
            continue
        if line.startswith("/"):
            if not _follow(talk, line):
                return
            continue
        _answer(talk, line)


def _line(is_typed: bool) -> str | None:
    """Return the next line, None at the end of the input."""
    from unrolled.core.terminal import out

    try:
        # readline edits, and keeps what was typed before
        line = input("> ") if is_typed else sys.stdin.readline()
    except EOFError:
        out("")
        return None
    except KeyboardInterrupt:
        if not is_typed:
            raise
        out("")
        return ""
    if not is_typed and not line:
        return None
    return line.rstrip("\n")


def _answer(talk: Conversation, line: str) -> None:
    """Print an answer as it is made; Ctrl-C stops it, and not the program."""
    from unrolled.core.terminal import clean_text, out

    pieces = talk.say(line)
    try:
        for piece in pieces:
            out(clean_text(piece), end="", flush=True)
    except KeyboardInterrupt:
        out(" (stopped)", end="")
    finally:
        pieces.close()  # type: ignore[attr-defined]
    out("", flush=True)


def _follow(talk: Conversation, line: str) -> bool:
    """Do what a line asks for; return whether the talk goes on."""
    from unrolled.core.errors import UserError, unknown
    from unrolled.core.files import expanded
    from unrolled.core.terminal import note

    word, _, rest = line[1:].partition(" ")
    rest = rest.strip()

    def undo() -> str:
        return "taken back" if talk.undo() else "nothing was said yet"

    def reset() -> str:
        talk.reset()
        return "forgotten"

    def save() -> str:
        if not rest:
            return "say where: /save FILE"
        talk.save(expanded(rest))
        return f"written: {rest}"

    def set_system() -> str:
        talk.set_system(rest)
        return "noted" if rest else "taken back"

    words: dict[str, Callable[[], str]] = {
        "undo": undo,
        "reset": reset,
        "save": save,
        "system": set_system,
        "help": lambda: HELP,
    }
    if word in ("quit", "exit"):
        return False
    try:
        note(words[word]() if word in words else unknown("command", word, words))
    except UserError as error:
        note(str(error))
    return True
