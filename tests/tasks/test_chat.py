"""Talks from a file to answers: what is learnt, how answers end, what is scored and aligned."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import unrolled
from conftest import SMALL, write_csv, write_jsonl
from unrolled.core.errors import DataError, UsageError, UserError
from unrolled.data.batches import IGNORED
from unrolled.data.sources import read
from unrolled.decoding.many import WrittenText
from unrolled.runs import folder as runs
from unrolled.runs.plan import make_plan
from unrolled.tasks.chat import Chat
from unrolled.tasks.chat_alignment import Judge
from unrolled.tasks.chat_examples import ChatExamples, ChatPairs
from unrolled.tasks.exchanges import Exchange
from unrolled.text.turns import Turn
from unrolled.training import checkpoints
from unrolled.training.alignment import AlignConfig

Call = Callable[..., tuple[str, str]]
NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4"}
KEYS: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if key != "model.ngrams"},
    "data.tokenizer": "chars",
    "data.max_tokens": 40,
    "decoding.max_length": 12,
}
LEARN: dict[str, Any] = {
    **KEYS,
    "layer": "gru",
    "model.hidden": 48,
    "model.embedding": 24,
    "model.head_dropout": 0.0,
    "training.max_steps": 500,
    "training.learning_rate": 0.01,
    "training.batch_size": 8,
    "training.window": 60,
    "training.evaluate_every": 250,
}


def questions(path: Path, count: int = 80) -> Path:
    """Write questions whose answers follow from a word in them."""
    words = list(NUMBERS)
    rows = []
    for number in range(count):
        word = words[number % 4]
        rows.append((f"{number}: say {word}", f"{NUMBERS[word]} is it"))
    return write_csv(path, rows, ("Q", "A"))


def trained(path: Path, folder: Path, **keys: Any) -> Any:
    return unrolled.train(
        path, out=folder, quiet=True, say=lambda text: None, **{**KEYS, **keys}
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model that has learnt to answer."""
    at = tmp_path_factory.mktemp("chat")
    data = questions(at / "questions.csv")
    run = trained(data, at / "run", task="chat", **LEARN)
    return SimpleNamespace(at=at, data=data, run=run, folder=at / "run")


# ---------------------------------------------------------------------- answers


def test_a_tuned_model_answers_and_ends_its_turns(home: SimpleNamespace) -> None:
    scores = home.run.evaluate(home.data)
    assert scores["ended"] == 1.0
    assert scores["exact"] == 1.0
    assert scores["copied"] == 1.0
    assert scores["loss"] < 0.1
    (answer,) = home.run.answers(["99: say three"])
    assert answer.text == "3 is it"
    assert answer.details == {"ended": True}


@pytest.mark.parametrize("layer", ["rnn", "lstm", "mingru", "attention"])
def test_every_layer_learns_to_answer(
    layer: str, home: SimpleNamespace, tmp_path: Path
) -> None:
    keys = {
        **LEARN,
        "layer": layer,
        "training.max_steps": 40,
        "training.evaluate_every": 20,
    }
    if layer == "attention":
        keys |= {"model.heads": 2, "model.embedding": 48}
    run = trained(home.data, tmp_path / layer, task="chat", **keys)
    assert run.evaluate(home.data)["loss"] < 2.0


def test_a_batch_answers_as_its_rows_do_alone(home: SimpleNamespace) -> None:
    rows = ["1: say one", "2: say two and four", "three", "4: say four"]
    together = home.run.predict(rows)
    assert together == [home.run.predict([row])[0] for row in rows]


def test_the_loss_is_that_of_the_answers_alone(home: SimpleNamespace) -> None:
    task = home.run.task
    model = home.run.model
    assert isinstance(task, Chat)
    examples, _ = task.encode(read(home.data), "stop")
    nats = count = 0.0
    for row in range(len(examples)):
        talk = (*examples.prompts[row], Turn("assistant", examples.references[row]))
        encoded = task.tokenizer.encode_talk(talk)
        logits, _ = model(torch.tensor([encoded.ids[:-1]]))
        targets = torch.tensor(encoded.ids[1:])
        said = torch.tensor(encoded.is_answer[1:])
        nats += F.cross_entropy(logits[0][said], targets[said], reduction="sum").item()
        count += int(said.sum())
    assert home.run.evaluate(home.data)["loss"] == pytest.approx(nats / count, rel=1e-5)


def test_the_training_loss_is_that_of_talks_by_themselves(
    home: SimpleNamespace,
) -> None:
    keys = {**LEARN, "model.head_dropout": 0.0, "training.batch_size": 3}
    plan = make_plan(str(home.data), {**keys, "task": "chat"}, home.at / "planned")
    assert isinstance(plan.prepared.train, ChatExamples)
    total = count = 0.0
    for index in range(plan.source.length(0)):
        loss = plan.objective(plan.model, plan.source.batch(0, index), None)
        total += loss.sum.item()
        count += int(loss.count)
    scorer = plan.prepared.task.validate
    alone = scorer(plan.model.eval(), plan.prepared.train, plan.compute_device)
    assert count == int((plan.prepared.train.targets.flat != IGNORED).sum())
    # packed rows are summed in another order
    assert total / count == pytest.approx(alone["loss"], rel=1e-4)


def test_equal_questions_are_never_on_two_sides(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [(f"q{number % 30}", f"a{number}") for number in range(90)]
    path = write_csv(tmp_path / "twice.csv", rows, ("Q", "A"))
    plan = make_plan(str(path), {**LEARN, "task": "chat"}, tmp_path / "run")
    sides = [
        {prompt[-1].text for prompt in part.prompts}
        for part in (plan.prepared.train, plan.prepared.dev)
    ]
    assert not sides[0] & sides[1]


# ---------------------------------------------------------------------- files


FORMS: dict[str, dict[str, Any]] = {
    "messages": {
        "messages": [
            {"role": "system", "content": "short"},
            {"role": "user", "content": "say one"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "say two"},
            {"role": "assistant", "content": "2"},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "say two"},
            {"from": "gpt", "value": "2"},
        ]
    },
    "completions": {"prompt": "say two", "completion": "2"},
    "alpaca": {"instruction": "say", "input": "two", "output": "2"},
}


@pytest.mark.parametrize("form", FORMS)
def test_talks_are_told_by_their_columns(form: str, tmp_path: Path) -> None:
    rows = [
        json.loads(json.dumps(FORMS[form]).replace("two", f"two {n}"))
        for n in range(40)
    ]
    path = write_jsonl(tmp_path / "talks.jsonl", rows)
    run = trained(
        path,
        tmp_path / "run",
        **{"training.max_steps": 3, "training.evaluate_every": 3},
    )
    assert run.task.name == "chat"
    scores = run.evaluate(path)
    assert {"loss", "perplexity", "exact", "ended", "distinct_2", "copied"} <= set(
        scores
    )
    assert isinstance(run.predict(["say two"])[0], str)


def test_a_run_reads_files_of_other_columns(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n}: say two", "completion": "2 is it"} for n in range(20)]
    path = write_jsonl(tmp_path / "completions.jsonl", rows)
    assert home.run.evaluate(path)["exact"] == 1.0
    talks = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]
    messages = write_jsonl(tmp_path / "messages.jsonl", talks)
    first = home.run.evaluate(path)
    assert home.run.evaluate(messages) == pytest.approx(first)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"messages": [{"role": "assistant", "content": "x"}]}],
            "talks.jsonl:41: turn 1 is of the assistant where the user speaks",
        ),
        (
            [
                {
                    "messages": [
                        {"role": "user", "content": "x"},
                        {"role": "assistant", "content": ""},
                    ]
                }
            ],
            "talks.jsonl:41: turn 2, of the assistant, is empty",
        ),
        (
            [
                {
                    "messages": [
                        {"role": "user", "content": "x" * 50},
                        {"role": "assistant", "content": "y"},
                    ]
                }
            ],
            "talks.jsonl:41: the talk has 54 tokens and data.max_tokens is 40",
        ),
    ],
)
def test_faulty_talks_are_named_or_skipped(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    good = [
        json.loads(json.dumps(FORMS["sharegpt"]).replace("two", f"x{n}"))
        for n in range(40)
    ]
    talks = [
        {
            "messages": [
                {"role": "user", "content": row["conversations"][0]["value"]},
                {"role": "assistant", "content": "2"},
            ]
        }
        for row in good
    ]
    path = write_jsonl(tmp_path / "talks.jsonl", talks + rows)
    keys = {**KEYS, "training.max_steps": 2, "seed": 0}
    with pytest.raises(DataError, match=message):
        make_plan(str(path), keys, tmp_path / "run")
    plan = make_plan(str(path), {**keys, "data.on_error": "skip"}, tmp_path / "run")
    assert any("skipped 1 faulty row" in line for line in plan.lines())


def test_talks_without_answers_are_not_learnt_from(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "q.csv", [(f"q {n}", n) for n in range(40)], ("question", "id")
    )
    with pytest.raises(UserError, match="hold no answers to learn from"):
        make_plan(str(path), {**KEYS, "task": "chat"}, tmp_path / "run")


def test_a_search_is_refused(home: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"leave decoding\.beam"):
        make_plan(
            str(home.data),
            {**KEYS, "task": "chat", "decoding.beam": 4},
            tmp_path / "run",
        )


def test_only_talks_are_aligned(home: SimpleNamespace, tmp_path: Path) -> None:
    keys = {**KEYS, "task": "rewrite", "align.method": "dpo"}
    with pytest.raises(
        UsageError, match=r"align\.method=dpo is for task=chat, not for rewrite"
    ):
        make_plan(str(home.data), keys, tmp_path / "run")


# ---------------------------------------------------------------------- a talk


def test_a_talk_goes_on_and_is_taken_back(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    talk = home.run.chat(12, temperature=0.0)
    assert "".join(talk.say("7: say four")) == "4 is it"
    assert [turn.role for turn in talk.turns] == ["user", "assistant"]
    first = talk.turns
    list(talk.say("8: say two"))
    assert talk.undo()
    assert talk.turns == first
    talk.save(tmp_path / "talk.jsonl")
    (line,) = (tmp_path / "talk.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["messages"][1] == {
        "role": "assistant",
        "content": "4 is it",
    }
    talk.set_system("be short")
    talk.reset()
    assert [turn.role for turn in talk.turns] == ["system"]
    assert not talk.undo()


def test_what_was_written_of_an_answer_is_the_answer(home: SimpleNamespace) -> None:
    talk = home.run.chat(12, temperature=0.0)
    pieces = talk.say("7: say four")
    begun = next(pieces) + next(pieces)
    pieces.close()
    assert talk.turns[-1].text == begun


def test_the_oldest_turns_are_left_out_of_a_long_talk(
    tmp_path: Path, home: SimpleNamespace
) -> None:
    keys = {**LEARN, "layer": "attention", "model.heads": 2, "model.embedding": 48}
    keys |= {"training.max_steps": 2, "data.max_tokens": 30, "training.window": 30}
    run = trained(home.data, tmp_path / "run", task="chat", **keys)
    said: list[str] = []
    talk = run.chat(6, notice=said.append, temperature=0.0)
    for number in range(4):
        list(talk.say(f"{number}: say one"))
    assert said
    assert "the oldest turns are left out" in said[0]


def test_a_run_that_does_not_chat_says_so(tmp_path: Path) -> None:
    path = tmp_path / "song.txt"
    path.write_text("row your boat\n" * 60)
    keys = {**SMALL, "training.max_steps": 2}
    run = unrolled.train(
        path, out=tmp_path / "run", quiet=True, say=lambda text: None, **keys
    )
    with pytest.raises(
        UsageError, match="was trained to language, and answers no talk"
    ):
        run.chat()


def test_the_command_talks(
    cli: Call, home: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = tmp_path / "said.jsonl"
    lines = f"7: say four\n\n/undo\n/undo\n/sav\n/save {where}\n/quit\nlost\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    out, err = cli("chat", home.folder, "--temperature", "0")
    assert out == "4 is it\n"
    assert "taken back" in err
    assert "nothing was said yet" in err
    assert "did you mean 'save'" in err
    assert where.exists()


# ---------------------------------------------------------------------- pairs of answers


def pairs(path: Path) -> Path:
    rows = []
    for number in range(60):
        rows.append(
            {"prompt": f"{number}: say one", "chosen": "1 is it", "rejected": "2 is it"}
        )
    return write_jsonl(path, rows)


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_pairs_move_a_model_to_the_better_answer(
    method: str, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = pairs(tmp_path / "pairs.jsonl")
    keys = {
        "task": "chat",
        "model.init": str(home.folder),
        "align.method": method,
        "training.max_steps": 12,
        "training.learning_rate": 0.003,
        "training.evaluate_every": 6,
    }
    run = trained(path, tmp_path / "run", **keys)
    scores = run.evaluate(path)
    assert isinstance(run.task.encode(read(path), "stop")[0], ChatPairs)
    assert scores["accuracy"] > 0.9
    assert scores["margin"] > 0
    before = home.run.evaluate(path)
    assert math.isfinite(before["margin"])
    # it still answers talks
    assert {"loss", "ended"} <= set(run.evaluate(home.data))


def test_pairs_are_needed_for_preferences(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    keys = {**KEYS, "task": "chat", "model.init": str(home.folder)}
    with pytest.raises(UsageError, match="learns from pairs of answers"):
        make_plan(str(home.data), {**keys, "align.method": "dpo"}, tmp_path / "run")
    path = pairs(tmp_path / "pairs.jsonl")
    changes = {**keys, "align.method": "grpo", "align.reward": "exact"}
    with pytest.raises(UsageError, match="learns from prompts, and these are pairs"):
        make_plan(str(path), changes, tmp_path / "run")


def test_equal_answers_are_no_pair(tmp_path: Path) -> None:
    rows = [
        {
            "chosen": f"\n\nHuman: {n}\n\nAssistant: yes",
            "rejected": "\n\nHuman: x\n\nAssistant: no",
        }
        for n in range(30)
    ]
    rows += [{"chosen": row["chosen"], "rejected": row["chosen"]} for row in rows]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match="both answers are the same"):
        make_plan(str(path), KEYS, tmp_path / "run")


def test_a_model_that_judges_learns_from_pairs(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    path = pairs(tmp_path / "pairs.jsonl")
    keys = {
        "training.max_steps": 60,
        "training.learning_rate": 0.01,
        "training.evaluate_every": 30,
    }
    run = trained(path, tmp_path / "run", **keys)
    assert run.task.name == "reward"
    scores = run.evaluate(path)
    assert scores["accuracy"] == 1.0
    assert scores["accuracy_low"] < 1.0 <= scores["accuracy_high"] + 1e-9
    exchanges = [
        Exchange((Turn("user", "5: say one"),), text) for text in ("1 is it", "2 is it")
    ]
    better, worse = run.task.rewards_of(
        run.model, exchanges, run.predictor.compute_device
    )
    assert better > worse
    row = {"prompt": "5: say one", "chosen": "1 is it"}
    assert float(run.predict([row])[0]) == pytest.approx(better, abs=1e-3)


# ---------------------------------------------------------------------- rewards


def prompts(path: Path, count: int = 60) -> Path:
    rows = [{"prompt": f"{n}: say one", "completion": "1 is it"} for n in range(count)]
    return write_jsonl(path, rows)


def aligned(method: str, home: SimpleNamespace) -> dict[str, Any]:
    return {
        **KEYS,
        "task": "chat",
        "model.init": str(home.folder),
        "align.method": method,
        "align.reward": "exact",
        "align.samples": 4,
        "align.temperature": 1.5,
        "training.max_steps": 6,
        "training.batch_size": 8,
        "training.evaluate_every": 3,
        "training.log_every": 1,
    }


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo"])
def test_rewards_are_learnt_from(
    method: str, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    run = trained(path, tmp_path / "run", **aligned(method, home))
    scores = run.evaluate(path)
    assert {"reward", "kl", "distinct_2", "exact", "ended"} <= set(scores)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    train = [line for line in logged if line["kind"] == "train"]
    assert {"reward", "kl", "entropy", "length", "clipped"} <= set(train[0])
    # nothing has moved yet
    assert train[0]["kl"] == pytest.approx(0, abs=1e-4)
    questions_alone = write_jsonl(
        tmp_path / "asked.jsonl", [{"prompt": f"{n}: say one"} for n in range(9)]
    )
    alone = run.evaluate(questions_alone)
    assert {"kl", "distinct_2"} <= set(alone)
    assert "loss" not in alone


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_training_is_resumed_to_the_bit_inside_a_rollout(
    method: str, home: SimpleNamespace, tmp_path: Path
) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    keys = aligned(method, home) | {
        "align.passes": 2,
        "align.parts": 2,
        "align.kl_target": 1.0 if method == "ppo" else None,
        "align.clip": 0.05,
        "training.checkpoint_every": 1,
        "training.schedule": "constant",
        "training.evaluate_every": 100,
        "training.learning_rate": 0.01,
    }
    trained(path, tmp_path / "whole", **keys)
    # two of the four updates by one rollout
    trained(path, tmp_path / "parts", **{**keys, "training.max_steps": 2})
    unrolled.train(
        tmp_path / "parts",
        out=tmp_path / "parts",
        resume=True,
        quiet=True,
        say=lambda text: None,
        **{"training.max_steps": 6},
    )
    ends = [
        checkpoints.newest(tmp_path / name / runs.CHECKPOINTS)[0]
        for name in ("whole", "parts")
    ]
    first, second = (checkpoint.group("model") for checkpoint in ends)
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_a_reward_may_be_ones_own(home: SimpleNamespace, tmp_path: Path) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    own = tmp_path / "own.py"
    own.write_text(
        "def short(exchanges):\n    return [-len(e.answer) for e in exchanges]\n"
    )
    keys = aligned("grpo", home) | {"align.reward": f"{own}:short"}
    run = trained(path, tmp_path / "run", **keys)
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads(logged.splitlines()[0])["reward"] < 0
    # the settings of a run are no reason to run code
    said: list[str] = []
    assert "reward" not in run.evaluate(path, notice=said.append)
    assert "is code, which the settings of a run do not run" in said[0]
    again = {"out": tmp_path / "run", "resume": True, "quiet": True}
    with pytest.raises(UsageError, match="name it anew"):
        unrolled.train(tmp_path / "run", **again, **{"training.max_steps": 8})
    more = {"training.max_steps": 8, "align.reward": f"{own}:short"}
    unrolled.train(tmp_path / "run", say=lambda text: None, **again, **more)
    keys |= {"align.reward": f"{own}:long"}
    with pytest.raises(UsageError, match="has no function 'long'"):
        make_plan(str(path), keys, tmp_path / "other")
    own.write_text(
        "def short(exchanges):\n    return [float('nan') for e in exchanges]\n"
    )
    keys |= {"align.reward": f"{own}:short"}
    with pytest.raises(UserError, match="short gave a reward that is not finite"):
        trained(path, tmp_path / "third", **keys)


def test_a_reward_may_be_a_run(home: SimpleNamespace, tmp_path: Path) -> None:
    rows = [(f"{n % 2 + 1} is it", ("bad", "good")[n % 2]) for n in range(60)]
    data = write_csv(tmp_path / "rated.csv", rows, ("text", "label"))
    keys = {**SMALL, "training.max_steps": 60, "training.learning_rate": 0.02}
    unrolled.train(
        data, out=tmp_path / "judge", quiet=True, say=lambda text: None, **keys
    )
    path = prompts(tmp_path / "prompts.jsonl")
    keys = aligned("rloo", home) | {
        "align.reward": str(tmp_path / "judge"),
        "align.label": "good",
    }
    run = trained(path, tmp_path / "run", **keys)
    assert 0 <= run.evaluate(path)["reward"] <= 1
    with pytest.raises(UsageError, match=r"align\.label: .*did you mean 'good'"):
        make_plan(str(path), {**keys, "align.label": "goo"}, tmp_path / "other")
    with pytest.raises(
        UsageError, match=r"align\.reward=nowhere: there is no such run"
    ):
        make_plan(str(path), {**keys, "align.reward": "nowhere"}, tmp_path / "other")
    with pytest.raises(UsageError, match="say what an answer earns"):
        make_plan(str(path), {**keys, "align.reward": None}, tmp_path / "other")


def test_length_and_repetition_may_cost(home: SimpleNamespace) -> None:
    tokenizer = home.run.task.tokenizer
    settings = AlignConfig(unended="nothing", repetition=0.5)
    judge = Judge(lambda exchanges: [1.0] * len(exchanges), settings, tokenizer)
    letters = tokenizer.encode("ababab")
    written = [
        WrittenText(letters[:2], ended=True),
        WrittenText(letters, ended=True),
        WrittenText(letters[:2], ended=False),
    ]
    talk = (Turn("user", "x"),)
    rewards = judge.earned([talk] * 3, [""] * 3, written)
    # five pairs, of which two differ
    torch.testing.assert_close(rewards, torch.tensor([1.0, 1 - 0.5 * 3 / 5, 0.0]))


def test_texts_are_gone_on_from_by_their_first_tokens(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [(n, f"it is {n % 7} or so") for n in range(40)]
    path = write_csv(tmp_path / "texts.csv", rows, ("id", "text"))
    own = tmp_path / "own.py"
    own.write_text(
        "def short(exchanges):\n    return [-len(e.answer) for e in exchanges]\n"
    )
    keys = aligned("rloo", home) | {
        "data.text": "text",
        "data.template": "plain",
        "align.prompt_tokens": 5,
        "align.reward": f"{own}:short",
    }
    plan = make_plan(str(path), keys, tmp_path / "run")
    assert {len(prompt[-1].text) for prompt in plan.prepared.train.prompts} == {5}


def test_attempts_tell_sharper_from_better(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    path = prompts(tmp_path / "prompts.jsonl", 30)
    keys = aligned("grpo", home) | {"align.attempts": 4}
    run = trained(path, tmp_path / "run", **keys)
    scores = run.evaluate(path)
    assert 0 <= scores["pass_1"] <= scores["pass_4"] <= 1


def test_seen_answers_are_saved(home: SimpleNamespace) -> None:
    again = unrolled.load(home.folder)
    assert np.array_equal(again.task.seen, home.run.task.seen)


def test_prompts_without_answers_are_not_compared_with_them(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{n}: say one"} for n in range(40)]
    path = write_jsonl(tmp_path / "prompts.jsonl", rows)
    with pytest.raises(UsageError, match="compares answers with those in the file"):
        make_plan(str(path), aligned("grpo", home), tmp_path / "run")
    path = prompts(tmp_path / "answered.jsonl")
    keys = aligned("grpo", home) | {"align.samples": 1}
    with pytest.raises(UsageError, match=r"set align\.samples to 2 or more"):
        make_plan(str(path), keys, tmp_path / "run")


def test_pairs_say_what_they_are_for(tmp_path: Path) -> None:
    path = pairs(tmp_path / "pairs.jsonl")
    with pytest.raises(UsageError, match=r"with align\.method=dpo, or judged"):
        make_plan(str(path), {**KEYS, "task": "chat"}, tmp_path / "run")


def test_a_long_question_beside_long_answers_is_not_ranked(tmp_path: Path) -> None:
    rows = [("q" * 30, "a")] + [(f"q{n}", f"{n}" + "b" * 30) for n in range(40)]
    path = write_csv(tmp_path / "long.csv", rows, ("Q", "A"))
    keys = {**LEARN, "layer": "attention", "model.heads": 2, "model.embedding": 48}
    keys |= {
        "training.max_steps": 2,
        "training.evaluate_every": 2,
        "training.window": 40,
    }
    keys["data.header"] = True
    run = trained(path, tmp_path / "run", task="chat", **keys)
    assert "ranked_first" in run.evaluate(path)


def test_the_better_answers_alone_are_talks(tmp_path: Path) -> None:
    rows = [
        {
            "chosen": f"\n\nHuman: {n}?\n\nAssistant: yes",
            "rejected": f"\n\nHuman: {n}?\n\nAssistant: no",
        }
        for n in range(40)
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    keys = {**KEYS, "task": "chat", "data.text": "chosen"}
    plan = make_plan(str(path), keys, tmp_path / "run")
    assert set(plan.prepared.train.references) == {"yes"}
    assert make_plan(str(path), KEYS, tmp_path / "other").recipe.task == "reward"
