"""Talks as people write them, and what is wrong with those that are none."""

from __future__ import annotations

from typing import Any

import pytest

from unrolled.fields.base import InvalidCell, MissingCell
from unrolled.fields.talks import check_turns, question, talk_of, with_answer
from unrolled.text.turns import Turn

HELLO = (Turn("user", "hi"), Turn("assistant", "hello"))


@pytest.mark.parametrize(
    "cell",
    [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        [
            {"role": "User", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "hello"},
        ],
        "\n\nHuman: hi\n\nAssistant: hello",
    ],
)
def test_talks_are_read_in_every_form(cell: Any) -> None:
    assert talk_of("messages", cell) == HELLO
    assert check_turns(HELLO, answered=True) == HELLO


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            [{"role": "tool", "content": "x"}],
            "turn 1 is of the role 'tool'; say system",
        ),
        ([{"role": "user"}], "turn 1 says None where a text is expected"),
        (["hi"], "turn 1 is 'hi', and no object of role and content"),
        ({"role": "user"}, "a list of messages or a text is expected"),
    ],
)
def test_what_is_no_turn_is_named(cell: Any, message: str) -> None:
    with pytest.raises(InvalidCell, match=message):
        talk_of("messages", cell)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("ua a", "turn 3 is of the assistant where the user speaks"),
        ("a", "turn 1 is of the assistant where the user speaks"),
        ("us", "turn 2 is of the system where the assistant speaks"),
        ("u", "the last turn is of the user, and nothing answers it"),
        ("s", "the talk has no turn"),
        ("", "the talk has no turn"),
    ],
)
def test_turns_out_of_order_are_refused(roles: str, message: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    talk = tuple(Turn(names[role], "x") for role in roles.replace(" ", ""))
    with pytest.raises(InvalidCell, match=message):
        check_turns(talk, answered=True)


def test_empty_turns_are_refused() -> None:
    with pytest.raises(InvalidCell, match="turn 2, of the assistant, is empty"):
        check_turns((HELLO[0], Turn("assistant", " ")), answered=True)
    with pytest.raises(MissingCell):
        talk_of("prompt", None)


def test_what_a_question_is_about_follows_it() -> None:
    talk = question(("instruction", "input"), ("Count.", "a b c"))
    assert talk == (Turn("user", "Count.\n\na b c"),)
    assert question(("instruction", "input"), ("Count.", "")) == (
        Turn("user", "Count."),
    )
    assert with_answer(talk, "output", 3)[-1] == Turn("assistant", "3")


def test_instances_follow_their_instruction() -> None:
    instruction = (Turn("user", "Add."),)
    instances = [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4"}]
    talk = with_answer(instruction, "instances", instances)
    assert [turn.text for turn in talk] == ["Add.\n\n1 2", "3", "2 2", "4"]
    assert [turn.role for turn in talk] == ["user", "assistant"] * 2
    alone = with_answer(instruction, "instances", [{"input": "", "output": "3"}])
    assert [turn.text for turn in alone] == ["Add.", "3"]


@pytest.mark.parametrize("instance", [{"output": 3}, {"input": [1], "output": "3"}])
def test_an_instance_without_texts_is_named(instance: dict[str, Any]) -> None:
    with pytest.raises(InvalidCell, match="instance 1 holds"):
        with_answer((Turn("user", "Add."),), "instances", [instance])
