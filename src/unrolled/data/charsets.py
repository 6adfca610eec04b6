"""How a file's bytes become characters: told by a mark, by the bytes themselves, or by the user."""

from __future__ import annotations

import codecs
import re

from unrolled.core.errors import UsageError, nearest, shown
from unrolled.data.archives import BROKEN, Origin

SAMPLE = 1 << 20  # bytes looked at together
ENOUGH = 256  # bytes beyond ASCII that tell an encoding
_MOST = 16 * SAMPLE  # ... looked for in this many after the first
_BOMS = (  # the UTF-32 marks first: one of them starts with a UTF-16 mark
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = (
    "cp949",
    "shift_jis",
    "euc_jp",
    "gb18030",
    "big5",
    "cp1251",
    "latin-1",
    "cp1252",
)
_ASCII = bytes(range(128))
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff\ue000-\uf8ff]")


def check_encoding(name: str) -> str:
    """Return the codec's own name. Raises UsageError when there is no such text encoding."""
    try:
        info = codecs.lookup(name)
        "".encode(name)  # refuses codecs that are no text encodings, such as base64
    except (LookupError, ValueError):
        known = [
            "utf-8",
            "utf-16",
            "utf-32",
            "cp949",
            "euc-kr",
            "latin-1",
            "shift_jis",
            "gb18030",
        ]
        guess = nearest(name, known)
        hint = (
            f"did you mean {guess!r}?"
            if guess
            else f"for example {', '.join(known[:5])}"
        )
        raise UsageError(
            f"data.encoding={shown(name)}: there is no such encoding; {hint}"
        ) from None
    return info.name


def encoding_of(origin: Origin) -> str:
    """Return the encoding of a file: a byte order mark's, else what its bytes tell, else "utf-8".

    UTF-16 shows in ASCII characters with a zero beside them. CP949 (Korean Windows) is taken where
    UTF-8 does not fit, the bytes decode strictly, and nearly all characters are the everyday
    Hangul of KS X 1001: other encodings read as CP949 give rare syllables and Chinese characters.
    The first bytes beyond ASCII are looked at, wherever they stand.
    """
    start, sample, whole = _sample(origin)
    mark = next((name for bom, name in _BOMS if start.startswith(bom)), None)
    if mark is not None:
        return mark
    if b"\0" in start:
        return _utf16(start, whole) or "utf-8"
    if _decoded(sample, "utf-8", whole) is not None:
        return "utf-8"
    korean = _decoded(sample, "cp949", whole)
    return "cp949" if korean is not None and _is_korean(korean) else "utf-8"


def candidates(origin: Origin) -> list[str]:
    """Return the encodings other than UTF-8 in which the first bytes beyond ASCII decode."""
    _, sample, whole = _sample(origin)
    # letters with accents stand alone between others; those of Asia come in pairs of bytes
    alone = len(re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", sample))
    western = alone * 2 > len(sample.translate(None, _ASCII))
    tried = _OTHERS[::-1] if western else _OTHERS
    return [name for name in tried if _decoded(sample, name, whole) is not None][:4]


def _sample(origin: Origin) -> tuple[bytes, bytes, bool]:
    """Return the first bytes, those from the first beyond ASCII on, and whether these are all."""
    try:
        with origin.open() as raw:
            start = sample = raw.read(SAMPLE)
            while (
                sample.isascii() and b"\0" not in start and (sample := raw.read(SAMPLE))
            ):
                pass
            more = sample
            while (
                more
                and len(sample) < _MOST
                and len(sample.translate(None, _ASCII)) < ENOUGH
            ):
                more = raw.read(SAMPLE)
                sample += more
            return start, sample, not raw.read(1)
    except BROKEN as error:
        raise origin.broken(error) from None


def _decoded(data: bytes, encoding: str, whole: bool) -> str | None:
    """Return bytes as text, None where they are not; unless ``whole`` a last character may lack."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(data, whole)
    except UnicodeDecodeError:
        return None


def _utf16(start: bytes, whole: bool) -> str | None:
    fitting = []
    for name, zeros, letters in (
        ("utf-16-le", start[1::2], start[::2]),
        ("utf-16-be", start[::2], start[1::2]),
    ):
        ascii_characters = sum(
            not zero and 8 < letter < 127
            for zero, letter in zip(zeros, letters, strict=False)
        )
        text = _decoded(start, name, whole)
        enough = ascii_characters >= max(3, len(start) // 64)
        if text is not None and enough and not _CONTROL.search(text):
            fitting.append((ascii_characters, name))
    return max(fitting)[1] if fitting else None


def _is_korean(text: str) -> bool:
    beyond = [c for c in text if ord(c) > 127]
    hangul = [c for c in beyond if "가" <= c <= "힣"]
    # KS X 1001 has the 2,350 syllables in use; CP949 adds those that hardly occur
    everyday = sum(all(byte > 0xA0 for byte in c.encode("cp949")) for c in hangul)
    odd = len(hangul) - everyday + sum("\u3400" <= c <= "\u9fff" for c in beyond)
    return everyday * 2 >= len(beyond) and odd * 10 <= everyday
