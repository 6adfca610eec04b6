"""Writes sentences of a small English and their German.

    python tools/course/pairs.py EN DE [COUNT]

Line n of one file is the translation of line n of the other. Articles and endings follow the gender
of the noun and its case, so words cannot be exchanged one by one.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

NOUNS = {
    "dog": ("Hund", "m"),
    "king": ("König", "m"),
    "tree": ("Baum", "m"),
    "moon": ("Mond", "m"),
    "cat": ("Katze", "f"),
    "queen": ("Königin", "f"),
    "flower": ("Blume", "f"),
    "lamp": ("Lampe", "f"),
    "horse": ("Pferd", "n"),
    "child": ("Kind", "n"),
    "house": ("Haus", "n"),
    "book": ("Buch", "n"),
}
ADJECTIVES = {
    "old": "alt",
    "small": "klein",
    "big": "groß",
    "young": "jung",
    "beautiful": "schön",
    "strange": "seltsam",
    "quiet": "still",
    "new": "neu",
}
VERBS = {
    "sees": "sieht",
    "finds": "findet",
    "seeks": "sucht",
    "knows": "kennt",
    "paints": "malt",
}
ARTICLES = {  # the subject's, and the object's: article and the ending of the adjective
    "m": (("der", "e"), ("einen", "en")),
    "f": (("die", "e"), ("eine", "e")),
    "n": (("das", "e"), ("ein", "es")),
}


def clause(draw: random.Random) -> tuple[str, str]:
    """Return a clause in both languages."""
    subject = draw.choice([*NOUNS])
    thing = draw.choice([*NOUNS])
    first = draw.choice([*ADJECTIVES])
    second = draw.choice([*ADJECTIVES])
    verb = draw.choice([*VERBS])
    article = "an" if second[0] in "aeiou" else "a"
    english = f"the {first} {subject} {verb} {article} {second} {thing}"
    (who, gender) = NOUNS[subject]
    (what, other) = NOUNS[thing]
    the, ending = ARTICLES[gender][0]
    a, last = ARTICLES[other][1]
    german = f"{the} {ADJECTIVES[first]}{ending} {who} {VERBS[verb]} "
    return english, f"{german}{a} {ADJECTIVES[second]}{last} {what}"


def sentence(draw: random.Random) -> tuple[str, str]:
    """Return a sentence of one to four clauses in both languages."""
    clauses = [clause(draw) for _ in range(draw.randint(1, 4))]
    return " and ".join(en for en, _ in clauses), " und ".join(de for _, de in clauses)


def main(english: str, german: str, count: str = "6000") -> None:
    """Write the two files; another count draws other sentences."""
    draw = random.Random(int(count))
    pairs = [sentence(draw) for _ in range(int(count))]
    for side, name in enumerate((english, german)):
        Path(name).write_text("".join(f"{pair[side]}\n" for pair in pairs), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
