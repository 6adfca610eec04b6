"""Pairs of answers by which a model learns to decline what harms, and to answer the rest.

``python -m unrolled.studies.refusals FOLDER`` reads what lies in UNROLLED_DATA: questions by which
people tried to make a model do harm (``hh_rlhf/pairs.jsonl``, Bai et al. 2022; offensive text),
instructions (``self_instruct/seed_tasks.jsonl``) and questions about the world with the sentence
that answers them (``squad/train.jsonl.gz``; its text may not be passed on). It writes
``train.jsonl`` and ``dev.jsonl`` of prompt, chosen and rejected, ``harmful.jsonl`` and
``harmless.jsonl`` of the held-out prompts alone, by which ``evaluate`` gives ``refused``.

The question that a dialogue begins with counts as harmful where an answer in it declines, or where
a word says so; what neither tells is left out. The better answer to it declines, and the other one
is an answer of the dialogue that does not; of all other questions the answer is better than a
refusal.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unrolled.core.errors import UserError
from unrolled.core.files import write_text
from unrolled.data.batches import random
from unrolled.data.lines import nfc
from unrolled.data.sources import Table, read
from unrolled.data.split import hold_out
from unrolled.fields.talks import talk_of
from unrolled.scores.refusals import is_refusal
from unrolled.studies.folders import write_folder
from unrolled.text.turns import USER

SEED = 0
HELD_OUT = 0.15
HARMFUL = 400  # prompts of this kind
HARMLESS = 800
LONGEST = 280  # characters of a prompt or an answer
HARM = re.compile(
    r"\b(?:kill|murder|poison|bombs?|explosives?|weapon|steal|stole|shoplift|rob|drugs?|meth|"
    r"cocaine|heroin|rape|molest|porn|hurt|torture|beat up|strangle|suffocate|smother|stalk|hack|"
    r"counterfeit|fraud|scam|racist|slurs?|prank|revenge|blackmail|kidnap|abuse|suicide|terrorist|"
    r"cuss|swear words?|fake id|launder|smuggle|vandalize|arson|burn down|punch|slap|cheat)\b",
    re.IGNORECASE,
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, I can't help with that. It could hurt someone.",
    "I can't help with that. If someone is in danger, please call for help.",
    "I'm sorry, but I can't assist with that request.",
    "I won't help with that, since it could do harm. I'm glad to help with something else.",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, the better answer and the other one."""

    prompt: str
    chosen: str
    rejected: str
    harmful: bool


def pairs(root: Path) -> list[Pair]:
    """Return pairs of harmful prompts and twice as many of harmless ones, mixed.

    Args:
        root: the folder of the data.

    Raises:
        UserError: a file is not there, or cannot be read.
    """
    harmless = [*_questions(root), *_instructions(root)]
    chosen = [*_some(list(_harmful(root)), HARMFUL), *_some(harmless, HARMLESS)]
    order = random(SEED, 1).permutation(len(chosen))
    return [chosen[index] for index in order]


def _some(rows: Sequence[Pair], count: int) -> list[Pair]:
    by_prompt = {pair.prompt: pair for pair in rows}
    distinct = list(by_prompt.values())
    order = random(SEED, 0).permutation(len(distinct))
    return [distinct[index] for index in order[:count]]


def _refusal(prompt: str) -> str:
    return REFUSALS[sum(prompt.encode()) % len(REFUSALS)]


def _table(path: Path) -> Table:
    table = read(path)
    if not isinstance(table, Table):
        raise UserError(f"{path}: rows of objects are expected")
    return table


def _harmful(root: Path) -> Iterator[Pair]:
    """Yield first questions that were declined, or say that they are harmful."""
    table = _table(root / "hh_rlhf" / "pairs.jsonl")
    for better, worse in zip(
        table.cells("chosen"), table.cells("rejected"), strict=True
    ):
        talks = [talk_of("talk", cell) for cell in (better, worse)]
        first = talks[0][0]
        if first.role != USER or len(first.text) > LONGEST:
            continue
        turns = itertools.chain.from_iterable(talk[1:] for talk in talks)
        said = [turn.text for turn in turns if turn.role != USER]
        declined = any(map(is_refusal, said))
        if not declined and not HARM.search(first.text):
            continue
        followed = [text for text in said if not is_refusal(text) and text]
        if followed:
            worst = followed[-1][:LONGEST]
            yield Pair(first.text, _refusal(first.text), worst, True)


def _instructions(root: Path) -> Iterator[Pair]:
    """Yield instructions with their answers."""
    table = _table(root / "self_instruct" / "seed_tasks.jsonl")
    for instruction, instances in zip(
        table.cells("instruction"), table.cells("instances"), strict=True
    ):
        first = instances[0]
        prompt = "\n\n".join(filter(None, [str(instruction), first["input"]]))
        answer = str(first["output"])
        if len(prompt) <= LONGEST and len(answer) <= LONGEST:
            yield Pair(nfc(prompt), nfc(answer), _refusal(prompt), False)


def _questions(root: Path) -> Iterator[Pair]:
    """Yield a question of every twentieth paragraph, with the sentence that answers it."""
    table = _table(root / "squad" / "train.jsonl.gz")
    contexts = table.cells("context")[::20]
    questions = table.cells("qas")[::20]
    for context, several in zip(contexts, questions, strict=True):
        prompt = str(several[0]["question"]).strip()
        answer = _sentence(str(context), str(several[0]["answers"][0]))
        if answer is not None and not is_refusal(answer):
            yield Pair(nfc(prompt), nfc(answer), _refusal(prompt), False)


def _sentence(context: str, answer: str) -> str | None:
    """Return the sentence of a paragraph that has an answer, None where it is long."""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", context):
        if answer in sentence and len(sentence) <= LONGEST:
            return sentence
    return None


def write(folder: Path, rows: Sequence[Pair]) -> None:
    """Write the pairs to train on, those held out, and their prompts, into a folder that is made.

    Raises:
        UserError: the disk refused a file.
    """
    kept, held = hold_out([pair.prompt for pair in rows], SEED, HELD_OUT)
    for name, chosen in (("train", kept), ("dev", held)):
        some = [rows[index] for index in chosen]
        lines = [
            _line(
                prompt=pair.prompt,
                chosen=pair.chosen,
                rejected=pair.rejected,
            )
            for pair in some
        ]
        write_text(folder / f"{name}.jsonl", "".join(lines))
    for name, harmful in (("harmful", True), ("harmless", False)):
        alike = [rows[index] for index in held if rows[index].harmful == harmful]
        lines = [_line(prompt=pair.prompt) for pair in alike]
        write_text(folder / f"{name}.jsonl", "".join(lines))


def _line(**values: str) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _write_from_data(folder: Path) -> None:
    """Write the pairs of the files in UNROLLED_DATA. Raises UserError: it is not set."""
    root = os.environ.get("UNROLLED_DATA", "")
    if not root:
        raise UserError("set UNROLLED_DATA to the folder that holds hh_rlhf")
    write(folder, pairs(Path(root)))


def main(arguments: list[str]) -> int:
    """Write what the command line requests, and return its exit code."""
    return write_folder(
        "refusals",
        "Write pairs of answers that decline what harms as a folder to train on.",
        arguments,
        _write_from_data,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
