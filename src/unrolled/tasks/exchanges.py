"""What is judged: a talk, an answer to it, and the rewards that follow from the answer alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unrolled.data.numbers import number
from unrolled.fields.talks import Talk


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer to be judged.

    Attributes:
        prompt: the turns before it.
        answer: what was written.
        reference: the right answer, where one is known, else empty.
        continues: whether the answer goes on from the prompt, as one text.
    """

    prompt: Talk
    answer: str
    reference: str = ""
    continues: bool = False

    @property
    def text(self) -> str:
        """What a reader of single texts judges: the answer, with the prompt where it goes on."""
        return self.prompt[-1].text + self.answer if self.continues else self.answer


# what answers earn, one number each
Reward = Callable[[Sequence[Exchange]], list[float]]


def is_exact(answer: str, reference: str) -> bool:
    """Whether an answer is the right one, blanks aside."""
    return " ".join(answer.split()) == " ".join(reference.split())


def is_numerically_right(answer: str, reference: str) -> bool:
    """Whether the last number in an answer is that of the right one.

    Marks between thousands do not matter, nor does what stands around the number.
    """
    expected = last_number(reference)
    return expected is not None and last_number(answer) == expected


def last_number(text: str) -> float | None:
    """Return the last number that stands in a text, None where there is none."""
    for word in reversed(text.replace("=", " ").split()):
        value = number(word.strip(".,;:!?$%()[]\"'"), ".")
        if value is not None:
            return value
    return None


def exact(exchanges: Sequence[Exchange]) -> list[float]:
    """Return 1 for each answer that is the right one, else 0."""
    return [
        float(is_exact(exchange.answer, exchange.reference)) for exchange in exchanges
    ]


def numeric(exchanges: Sequence[Exchange]) -> list[float]:
    """Return 1 for each answer whose last number is right, else 0."""
    return [
        float(is_numerically_right(exchange.answer, exchange.reference))
        for exchange in exchanges
    ]


# rewards that are checked by the right answer
VERIFIED: dict[str, Reward] = {"exact": exact, "numeric": numeric}
