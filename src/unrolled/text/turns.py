"""Talks as token ids: a template says by which tokens the turns of a talk are told apart.

The template ``turns`` adds tokens of its own to any vocabulary. No text is cut into them, so that
nobody who writes to a model can speak in another role. Other templates are those of published
checkpoints; what is no known one is refused, since a template of a file would have to be executed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.core.errors import UsageError, UserError, listed, unknown
from unrolled.text.documents import added_token
from unrolled.text.streams import TextStream
from unrolled.text.tokenizers import Tokenizer

SYSTEM = "system"
USER = "user"
ASSISTANT = "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)
END = "<|end|>"
# what the own tokens of ``turns`` are called, in the order of their ids behind the vocabulary
OWN = (*(f"<|{role}|>" for role in ROLES), END)
TURNS = "turns"
PLAIN = "plain"
KIND = "chat"  # what a saved tokenizer with a template is told by


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A token that stands for itself; an empty name is the token that ends a text."""

    name: str


Part = str | Mark


@dataclass(frozen=True, slots=True)
class Template:
    """What stands around turns.

    Attributes:
        name: as ``data.template`` has it.
        opening: what stands before a turn of each role; roles that are not there cannot speak.
        closing: what stands behind it; that of the assistant begins with what ends an answer.
        starts: whether a talk begins with the token that a text begins with.
    """

    name: str
    opening: Mapping[str, tuple[Part, ...]]
    closing: Mapping[str, tuple[Part, ...]]
    starts: bool = True

    @property
    def marks(self) -> set[str]:
        """The names of its tokens."""
        groups = [*self.opening.values(), *self.closing.values()]
        parts = itertools.chain.from_iterable(groups)
        return {part.name for part in parts if isinstance(part, Mark) and part.name}


def _known() -> dict[str, Template]:
    own = {role: (Mark(f"<|{role}|>"),) for role in ROLES}
    chatml = {role: (Mark("<|im_start|>"), f"{role}\n") for role in ROLES}
    header = Mark("<|start_header_id|>")
    llama = {role: (header, role, Mark("<|end_header_id|>"), "\n\n") for role in ROLES}
    alpaca: dict[str, tuple[Part, ...]] = {
        SYSTEM: (),
        USER: ("### Instruction:\n",),
        ASSISTANT: ("### Response:\n",),
    }
    templates = [
        Template(
            TURNS,
            own,
            {SYSTEM: (), USER: (), ASSISTANT: (Mark(END),)},
        ),
        Template(
            PLAIN,
            {USER: (), ASSISTANT: ()},
            {USER: (), ASSISTANT: (Mark(""),)},
        ),
        Template(
            "chatml",
            chatml,
            dict.fromkeys(ROLES, (Mark("<|im_end|>"), "\n")),
            starts=False,
        ),
        Template(
            "llama",
            llama,
            dict.fromkeys(ROLES, (Mark("<|eot_id|>"),)),
        ),
        Template(
            "alpaca",
            alpaca,
            {SYSTEM: ("\n\n",), USER: ("\n\n",), ASSISTANT: (Mark(""), "\n\n")},
        ),
    ]
    return {template.name: template for template in templates}


TEMPLATES = _known()


# what the programs say by which checkpoints mark turns, and which template that is
SAID = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama": ("<|start_header_id|>", "<|eot_id|>"),
    "alpaca": ("### Instruction", "### Response"),
}


def template_of(program: str) -> str:
    """Return the name of the template that a checkpoint's own program writes; it is not run.

    Raises:
        UsageError: it is none that is known.
    """
    for name, said in SAID.items():
        if all(mark in program for mark in said):
            return name
    raise UsageError(
        f"the chat template of the checkpoint is none that is known ({listed(SAID)}), and no "
        f"program of a file is run: choose one with data.template, such as {TURNS}"
    )


@dataclass(frozen=True, slots=True)
class EncodedTalk:
    """The T tokens of a talk, and which of them an assistant has to write.

    Attributes:
        ids: T ids.
        is_answer: whether each belongs to what the assistant says, or ends it; T truth values.
    """

    ids: list[int]
    is_answer: list[bool]


class ChatTokenizer(Tokenizer):
    """A vocabulary with a template, which may add tokens to it.

    As a tokenizer of texts it is the one that it was made of: a prompt is a turn of the user.

    Args:
        base: cuts texts.
        template: the name of one of ``TEMPLATES``.

    Raises:
        UsageError: there is no such template, or the vocabulary lacks its tokens.
    """

    def __init__(self, base: Tokenizer, template: str = TURNS) -> None:
        if template not in TEMPLATES:
            raise UsageError(unknown("template", template, TEMPLATES))
        self.kind = base.kind
        self._backend = None
        self.pad_id = base.pad_id
        self.unk_id = base.unk_id
        self.bos_id = base.bos_id
        self.base = base
        self.template = TEMPLATES[template]
        self.own = OWN if template == TURNS else ()
        # as other programs read it: our own texts are cut by the base alone
        self.document = _with_tokens(base, self.own)
        self._ids = self._ids_of_marks()
        self._plain = base.without_specials()
        self.eos_id = self.end_id

    def _ids_of_marks(self) -> dict[str, int]:
        """Return the id of each mark of the template."""
        end = self.base.end_ids
        ids = {"": end[0] if end else self.base.eos_id}
        if self.own:
            first = self.base.size
            return ids | {name: first + index for index, name in enumerate(self.own)}
        for name in sorted(self.template.marks):
            id = self.base.id_of(name)
            if id is None:
                raise UsageError(
                    f"data.template={self.template.name} needs the token {name}, which the "
                    f"vocabulary lacks; say data.template={TURNS}, which adds its own"
                )
            ids[name] = id
        return ids

    # ------------------------------------------------------------------ talks

    def encode_talk(self, turns: Sequence[Turn]) -> EncodedTalk:
        """Return the tokens of a whole talk, those of the answers marked.

        Raises:
            UserError: the template knows no such role.
        """
        talk = EncodedTalk([], [])
        if self.template.starts:
            self._add(talk, [self._start()])
        for turn in turns:
            opening = self._opening_of(turn.role)
            closing = self.template.closing[turn.role]
            if turn.role == ASSISTANT:
                self._add_parts(talk, opening)
                self._add(talk, self.encode_answer(turn.text), True)
                self._add_parts(talk, closing[1:])
            else:
                self._add_parts(talk, (*opening, turn.text, *closing))
        return talk

    def encode_answer(self, text: str) -> list[int]:
        """Return what the assistant writes to say a text, what ends it included."""
        return [*self._encode_plainly(text, first=False), self.end_id]

    def opening(self, turns: Sequence[Turn]) -> list[int]:
        """Return the tokens of a talk in which the assistant speaks next."""
        talk = self.encode_talk(turns)
        self._add_parts(talk, self._opening_of(ASSISTANT))
        return talk.ids

    def _opening_of(self, role: str) -> tuple[Part, ...]:
        if role not in self.template.opening:
            known = ", ".join(self.template.opening)
            raise UserError(
                f"a turn of the role {role!r}; data.template={self.template.name} has {known}"
            )
        return self.template.opening[role]

    def _add_parts(self, talk: EncodedTalk, parts: Iterable[Part]) -> None:
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            self._add(talk, self._encode_plainly(text, first=not talk.ids))
            text = ""
            self._add(talk, [self._ids[part.name]])
        self._add(talk, self._encode_plainly(text, first=len(talk.ids) < 2))

    @staticmethod
    def _add(talk: EncodedTalk, ids: Sequence[int], is_answer: bool = False) -> None:
        talk.ids.extend(ids)
        talk.is_answer.extend([is_answer] * len(ids))

    def _encode_plainly(self, text: str, first: bool) -> list[int]:
        """Return the ids of a text, whatever tokens it spells."""
        if not text:
            return []
        ids: list[int] = self._plain.encode_array(text, first).tolist()
        return ids

    def _start(self) -> int:
        return self.base.beginning("")[0]

    @property
    def end_id(self) -> int:
        """What ends an answer."""
        end = self.template.closing[ASSISTANT][0]
        assert isinstance(end, Mark)
        return self._ids[end.name]

    # ------------------------------------------------------------------ a tokenizer

    @property
    def size(self) -> int:
        return self.base.size + len(self.own)

    @property
    def start_id(self) -> int:
        return self.opening([])[0] if self.template.starts else self._first_mark()

    def _first_mark(self) -> int:
        (first, *_) = self.template.opening[USER]
        assert isinstance(first, Mark)
        return self._ids[first.name]

    @property
    def end_ids(self) -> tuple[int, ...]:
        return (self.end_id,)

    @property
    def unwritten_ids(self) -> tuple[int, ...]:
        others = {*self._ids.values()} - {self.end_id}
        known = {*self.base.unwritten_ids, *self.base.end_ids} - {self.end_id}
        return tuple(sorted(others | known))

    def beginning(self, text: str) -> list[int]:
        return self.opening([Turn(USER, text)])

    def encode_many(
        self, texts: Sequence[str], most: int | None = None
    ) -> list[list[int]]:
        return self._plain.encode_many(texts, most)

    def encode_array(self, text: str, first: bool = True) -> NDArray[np.int32]:
        return self._plain.encode_array(text, first)

    @property
    def saved(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "template": self.template.name,
            "base": self.base.kind,
            "tokenizer": self.base.saved,
        }

    def texts(self) -> list[str]:
        return [*self.base.texts(), *(f"\0{name}" for name in self.own)]

    def pieces(self) -> list[bytes]:
        return [*self.base.pieces(), *(b"" for _ in self.own)]

    def decode(self, ids: Iterable[int]) -> str:
        known = range(self.base.size)
        return self.base.decode([id for id in ids if id in known])

    def stream(self) -> TextStream:
        return self.base.stream()

    def stream_after(self, ids: Sequence[int]) -> TextStream:
        known = range(self.base.size)
        if ids and ids[-1] not in known:
            return self.base.stream()  # a turn begins
        return self.base.stream_after([id for id in ids if id in known])

    def token(self, id: int) -> str:
        own = id - self.base.size
        return self.own[own] if own >= 0 else self.base.token(id)

    def spans(self, text: str) -> list[tuple[int, int]]:
        return self.base.spans(text)

    def unknown(self, ids: Iterable[int]) -> int:
        return self.base.unknown(ids)


def _with_tokens(base: Tokenizer, names: Sequence[str]) -> dict[str, Any]:
    """Return the document of a vocabulary with special tokens behind its own."""
    if not names:
        return base.document
    tokens = list(base.document.get("added_tokens") or [])
    for id, name in enumerate(names, base.size):
        tokens.append(added_token(id, name, special=True))
    return {**base.document, "added_tokens": tokens}
