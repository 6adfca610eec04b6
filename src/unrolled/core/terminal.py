"""What a person sees: text without control characters, on streams that may be shut or full."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import IO, Any

# what moves the cursor, rings, hides, turns the direction of writing or begins a new line
_C0 = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_TURNS = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_LINE = re.compile(f"[{_C0}\n{_TURNS}\ud800-\udfff]")
_TEXT = re.compile(f"[{_C0}{_TURNS}\ud800-\udfff]")
# JSON escapes those below 0x20 by itself
_JSON = re.compile(f"[\x7f-\x9f{_TURNS}\ud800-\udfff]")


def clean(text: str) -> str:
    """Return text that stays one line and commands no terminal: what would is escaped."""
    return _LINE.sub(_escaped, text)


def clean_text(text: str) -> str:
    """Return the same with line ends kept."""
    return _TEXT.sub(_escaped, text)


def _escaped(character: re.Match[str]) -> str:
    code = ord(character.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def as_json(value: Any) -> str:
    """Return one line of JSON: no NaN, and nothing in it that a terminal would obey.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _JSON.sub(lambda character: f"\\u{ord(character.group()):04x}", text)


def json_line(value: Any) -> str:
    """Return ``as_json`` such that standard output can hold it: all of it escaped if need be."""
    text = as_json(value)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(value, allow_nan=False)
    return text


def out(text: str, end: str = "\n", flush: bool = False) -> None:
    """Print on standard output; what its encoding lacks is escaped."""
    stream = sys.stdout
    try:
        print(text, end=end, flush=flush)
    except UnicodeEncodeError:
        name = stream.encoding or "ascii"
        print(text.encode(name, "backslashreplace").decode(name), end=end, flush=flush)


def open_missing_streams() -> None:
    """Put the null device where standard input, output or error is closed.

    Else the next file that is opened would become one of them.
    """
    for number, name, mode in (
        (0, "stdin", "r"),
        (1, "stdout", "w"),
        (2, "stderr", "w"),
    ):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def show_everything() -> None:
    """Let the standard streams replace what their encoding lacks, in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def note(text: str) -> None:
    """Print a line on standard error; one that cannot be printed is no reason to end the work."""
    stream: IO[str] | None = sys.stderr
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        print(clean(text), file=stream, flush=True)


def is_terminal(stream: IO[str] | None) -> bool:
    """Say whether somebody looks at a stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False
