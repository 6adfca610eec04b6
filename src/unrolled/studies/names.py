"""Names by language: first and last names in the script of each language.

The names are lists of a package (MIT licence): ``pip install faker``, which draws made-up people
from them; here nothing is drawn. ``python -m unrolled.studies.names FOLDER`` writes names.csv to
train on, and about a tenth of the names as names-held-out.csv: those of beginnings that are chosen
by their hash. No name stands in both, whatever its language, and no other form of it, which who has
learnt names by heart could tell.

Chinese and Japanese are left out: their lists are of characters that hardly come again.
"""

from __future__ import annotations

import csv
import importlib
import io
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from unrolled.core.errors import UserError
from unrolled.core.files import write_text
from unrolled.data.lines import nfc
from unrolled.data.split import hold_out
from unrolled.studies.folders import write_folder

SEED = 0  # of what is held out
HELD_OUT = 0.1  # share of the beginnings whose names are scored on
BEGINNING = 5  # letters by which a name and its other forms are told: Иванов, Иванова
TRAIN_FILE = "names.csv"
HELD_FILE = "names-held-out.csv"
COLUMNS = ("language", "name")
PACKAGE = "faker.providers.person"
INSTALL = "the names come with a package: pip install faker"
LANGUAGES = {
    "Arabic": "ar_AA",
    "Armenian": "hy_AM",
    "Bulgarian": "bg_BG",
    "Czech": "cs_CZ",
    "Dutch": "nl_NL",
    "English": "en_US",
    "Finnish": "fi_FI",
    "French": "fr_FR",
    "Georgian": "ka_GE",
    "German": "de_DE",
    "Greek": "el_GR",
    "Hebrew": "he_IL",
    "Hindi": "hi_IN",
    "Icelandic": "is_IS",
    "Italian": "it_IT",
    "Korean": "ko_KR",
    "Polish": "pl_PL",
    "Russian": "ru_RU",
    "Spanish": "es_ES",
    "Swedish": "sv_SE",
    "Tamil": "ta_IN",
    "Thai": "th_TH",
    "Turkish": "tr_TR",
    "Ukrainian": "uk_UA",
}
LISTS = (
    "first_names_female",
    "first_names_male",
    "first_names",
    "last_names_female",
    "last_names_male",
    "last_names",
    "unisex_last_names",
)
MARKS = " -'’"  # that stand in names beside letters

Name = tuple[str, str]  # a language, and a name in it


def names() -> list[Name]:
    """Return the distinct names of each language, in order.

    Raises:
        UserError: the package is not installed, or has no such list.
    """
    rows: list[Name] = []
    for language, locale in LANGUAGES.items():
        distinct = sorted(set(_names_of(locale)))
        rows += [(language, name) for name in distinct]
    return rows


def _names_of(locale: str) -> Iterator[str]:
    """Yield what the lists of a locale hold and is made of letters."""
    try:
        module = importlib.import_module(f"{PACKAGE}.{locale}")
    except ModuleNotFoundError:
        raise UserError(INSTALL) from None
    for name in LISTS:
        # tuples of names, or how often each is given, by the name
        for entry in getattr(module.Provider, name, ()):
            if isinstance(entry, str) and _is_name(entry):
                yield nfc(" ".join(entry.split()))


def _is_name(entry: str) -> bool:
    """Whether an entry is a name, without remarks behind it."""
    kinds = {unicodedata.category(letter)[0] for letter in entry if letter not in MARKS}
    return "L" in kinds and kinds <= {"L", "M"}


def write(folder: Path, rows: Sequence[Name]) -> None:
    """Write the names to train on and those held out into a folder, which is made.

    Raises:
        UserError: the disk refused a file.
    """
    keys = [name.casefold()[:BEGINNING] for _, name in rows]
    kept, held = hold_out(keys, SEED, HELD_OUT)
    for file, chosen in ((TRAIN_FILE, kept), (HELD_FILE, held)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows[row] for row in chosen)
        write_text(folder / file, text.getvalue())


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    return write_folder(
        "names",
        "Write names of people by language as a folder to train on.",
        arguments,
        lambda folder: write(folder, names()),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
