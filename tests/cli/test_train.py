"""``unrolled train``: what it says, what it writes, and what --resume does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import SMALL, reviews, write_csv

Call = Callable[..., tuple[str, str]]
KEYS = [f"{key}={value}" for key, value in SMALL.items()]
KINDS = ["classify", "regress", "vectors", "tag", "language"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "reviews.csv", reviews(60, 6), ("text", "label"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_dry_run_says_everything_and_writes_nothing(
    cli: Call, tmp_path: Path
) -> None:
    before = snapshot(tmp_path)
    out, err = cli("train", "reviews.csv", "layer=lstm", "--dry-run")
    assert snapshot(tmp_path) == before
    assert err == ""
    summary, resolved = out.split("\n# the resolved recipe\n")
    assert "reviews.csv: comma-separated, header, UTF-8, 60 rows" in summary
    assert re.search(r"model: layer=lstm, [\d,]{5,} parameters", summary)
    assert "run: runs/reviews" in summary
    recipe = yaml.safe_load(resolved)
    assert (recipe["layer"], recipe["task"], recipe["data"]["label"]) == (
        "lstm",
        "classify",
        "label",
    )
    assert not (tmp_path / "runs").exists()


def test_without_out_a_run_goes_to_runs_and_its_name(cli: Call, tmp_path: Path) -> None:
    out, _ = cli("train", "reviews.csv", *KEYS, "training.max_steps=2")
    assert (tmp_path / "runs" / "reviews" / "model.safetensors").exists()
    assert "report: runs/reviews/report.html" in out


@pytest.mark.parametrize("kind", KINDS)
def test_training_says_scores_baselines_and_more(
    home: SimpleNamespace, kind: str
) -> None:
    said = home.said[kind]
    result = json.loads((home.runs[kind] / "result.json").read_text("utf-8"))
    held = re.split(r"held out, [\d,]+ \w+(?:, [\d,]+ labels)?:", said)[1]
    for key, value in result["scores"].items():
        assert f"{key} {value:.4f}" in held
    assert result["baselines"]
    for baseline in result["baselines"]:
        assert baseline["name"] in held
    assert len(said.split("next:\n")[1].splitlines()) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_command_to_type_next_works(
    cli: Call, home: SimpleNamespace, kind: str
) -> None:
    first = shlex.split(home.said[kind].split("next:\n")[1].splitlines()[0])
    assert first[0] == "unrolled"
    out, _ = cli(*first[1:])
    assert out.strip() or kind == "language"


def test_the_row_to_type_next_is_written_as_the_file_writes_rows(
    cli: Call, tmp_path: Path
) -> None:
    rows = [(f"good, {n}", f'say "{n}"', "ab"[n % 2]) for n in range(60)]
    write_csv(tmp_path / "two.csv", rows, ("title", "body", "label"))
    out, _ = cli(
        "train", "two.csv", "data.text=[title, body]", *KEYS, "training.max_steps=2"
    )
    words = shlex.split(out.split("next:\n")[1].splitlines()[0])
    assert cli(*words[1:])[0].strip() in ("a", "b")


@pytest.mark.parametrize(
    ("ours", "says"),
    [(0.02, "The baseline wins: n-gram logistic regression"), (None, "As good as")],
)
def test_a_baseline_that_wins_is_said(cli: Call, ours: float | None, says: str) -> None:
    more = ["training.learning_rate=1e-9"] if ours else ["training.learning_rate=0.02"]
    steps = 2 if ours else 150
    out, _ = cli(
        "train",
        "reviews.csv",
        *KEYS,
        *more,
        f"training.max_steps={steps}",
        "data.holdout=.3",
    )
    assert says in out
    assert ("Train longer, or use the baseline." in out) == bool(ours)


def test_a_small_file_trained_without_options_is_learnt(cli: Call) -> None:
    out, _ = cli("train", "reviews.csv", *KEYS)
    accuracy = float(re.findall(r"this model \(gru\) +accuracy ([\d.]+)", out)[0])
    majority = float(re.findall(r"majority class +accuracy ([\d.]+)", out)[0])
    assert accuracy > majority
    assert accuracy >= 0.9


def test_an_existing_run_is_refused_with_a_command_that_resumes_it(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    words = ["reviews.csv", *KEYS, "training.max_steps=3", "--out", tmp_path / "my run"]
    cli("train", *words)
    before = snapshot(tmp_path / "my run")
    _, err = cli("train", *words, code=1)
    match = re.search(r"unrolled (train .* --resume)", err)
    assert match is not None
    out, _ = cli(*shlex.split(match[1]))
    assert "is finished" in out
    assert snapshot(tmp_path / "my run") == before


def test_resume_starts_a_run_that_is_not_there(cli: Call, tmp_path: Path) -> None:
    out, _ = cli(
        "train",
        "reviews.csv",
        *KEYS,
        "training.max_steps=3",
        "--resume",
        "--out",
        "new",
    )
    assert "trained 3 steps" in out
    assert (tmp_path / "new" / "result.json").exists()


def test_a_finished_run_is_left_as_it_is(cli: Call, tmp_path: Path) -> None:
    words = ["train", "reviews.csv", *KEYS, "training.max_steps=3"]
    cli(*words)
    before = snapshot(tmp_path / "runs")
    out, _ = cli(*words, "--resume")
    assert out.startswith("runs/reviews is finished: it reached its limit at step 3")
    assert snapshot(tmp_path / "runs") == before


@pytest.mark.parametrize("again", [["reviews.csv", *KEYS], ["runs/reviews"]])
def test_a_run_that_ended_by_itself_is_left_as_it_is(
    cli: Call, again: list[str]
) -> None:
    cli(
        "train",
        "reviews.csv",
        *KEYS,
        "training.patience=1",
        "training.learning_rate=1e-9",
        "training.evaluate_every=2",
        "training.max_epochs=9",
    )
    words = [*again]
    if again[0] == "reviews.csv":
        words += [
            "training.patience=1",
            "training.learning_rate=1e-9",
            "training.evaluate_every=2",
        ]
    assert (
        "is finished: no progress in 1 evaluations"
        in cli("train", *words, "--resume")[0]
    )


def test_a_raised_limit_goes_on(cli: Call, tmp_path: Path) -> None:
    # the warm-up follows from a limit below it, and must not count as a changed key
    words = ["train", "reviews.csv", *KEYS, "training.checkpoint_every=5"]
    cli(*words, "training.max_steps=10")
    for target, steps in ((words[1:], 20), (["runs/reviews"], 90)):
        out, _ = cli("train", *target, f"training.max_steps={steps}", "--resume")
        assert f"trained {steps} steps" in out
    logged = (tmp_path / "runs/reviews/metrics.jsonl").read_text().splitlines()
    steps_seen = [json.loads(line)["step"] for line in logged if '"train"' in line]
    assert steps_seen == sorted(set(steps_seen))
    assert steps_seen[-1] == 90


def test_a_run_without_limits_goes_on_with_the_words_it_was_begun_with(
    home: SimpleNamespace, cli: Call, tmp_path: Path
) -> None:
    words = ["train", "reviews.csv", *KEYS, "training.checkpoint_every=5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unrolled", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        if (
            list(tmp_path.glob("runs/reviews/checkpoints/step-*"))
            or process.poll() is not None
        ):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (tmp_path / "runs/reviews/result.json").exists()
    out, _ = cli(*words, "--resume")
    killed = load_file(tmp_path / "runs/reviews/model.safetensors")
    whole, _ = cli(*words, "--out", "whole")
    never = load_file(tmp_path / "whole/model.safetensors")
    assert all(torch.equal(killed[name], never[name]) for name in never)
    ended = [re.findall(r"trained \d+ steps", text) for text in (out, whole)]
    assert ended[0] == ended[1] != []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.hidden=9", "model.hidden was 8 and is now 9"),
        ("layer=lstm", "layer was 'gru' and is now 'lstm'"),
        ("seed=5", "seed was 0 and is now 5"),
        (
            "training.learning_rate=0.5",
            "training.learning_rate was 0.002 and is now 0.5",
        ),
    ],
)
def test_a_changed_key_is_refused_by_name(cli: Call, change: str, message: str) -> None:
    words = ["train", "reviews.csv", *KEYS, "training.max_steps=3"]
    cli(*words)
    for target in (words, ["train", "runs/reviews"]):
        _, err = cli(*target, change, "--resume", code=1)
        assert f"runs/reviews cannot be resumed with other settings: {message}" in err
        assert "Only limits (training.max_steps, " in err


def test_changed_data_is_refused(cli: Call, tmp_path: Path) -> None:
    words = ["train", "reviews.csv", *KEYS, "training.max_steps=3"]
    cli(*words)
    with (tmp_path / "reviews.csv").open("a") as handle:
        handle.write("one more,good\n")
    # what is finished stays finished, whatever became of the file
    assert "is finished" in cli(*words, "--resume")[0]
    _, err = cli(*words, "training.max_steps=5", "--resume", code=1)
    assert (
        "reviews.csv is not the file it was begun with; restore it, or choose another"
        in err
    )


def test_a_finished_run_stays_finished_without_its_data(
    cli: Call, tmp_path: Path
) -> None:
    words = ["train", "reviews.csv", *KEYS, "training.max_steps=3"]
    cli(*words)
    (tmp_path / "reviews.csv").rename(tmp_path / "moved.csv")
    assert "is finished" in cli("train", "runs/reviews", "--resume")[0]


def test_a_dry_run_may_stand_beside_a_run(cli: Call) -> None:
    words = ["train", "reviews.csv", *KEYS, "training.max_steps=3"]
    cli(*words)
    assert "# the resolved recipe" in cli(*words, "--dry-run")[0]


def test_a_start_that_is_refused_leaves_no_folder(cli: Call, tmp_path: Path) -> None:
    wrong = ["train", "anthem", "layer=attention", "training.carry=true", "--out", "c"]
    assert "training.carry" in cli(*wrong, code=2)[1]
    assert not (tmp_path / "c").exists()


def test_a_label_that_falls_only_into_our_own_held_out_part_is_no_fault(
    cli: Call, tmp_path: Path
) -> None:
    rows = [(f"text {n}", f"c{n % 2}") for n in range(80)]
    rows += [(f"rare {n}", f"r{n}") for n in range(40)]
    write_csv(tmp_path / "rare.csv", rows, ("text", "label"))
    out, _ = cli("train", "rare.csv", *KEYS, "training.max_steps=2")
    assert "42 labels" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.ngrams=2", "layer=none"],
            "model.ngrams=2 is for a label or value of a text",
        ),
        (
            ["training.pretrain_epochs=1"],
            "training.pretrain_epochs=1 is for a label or value",
        ),
    ],
)
def test_keys_that_mean_nothing_to_a_task_are_refused(
    cli: Call, words: list[str], message: str
) -> None:
    assert message in cli("train", "anthem", *words, code=2)[1]


def test_a_run_that_ends_in_pretraining_is_refused(cli: Call) -> None:
    words = [
        "train",
        "reviews.csv",
        *KEYS,
        "training.pretrain_epochs=2",
        "training.max_steps=2",
    ]
    assert "before it sees a label" in cli(*words, code=2)[1]


def test_rows_longer_than_a_layer_can_read_are_refused_before_training(
    cli: Call,
) -> None:
    words = ["train", "reviews.csv", *KEYS, "layer=attention", "model.context=32"]
    assert "set data.max_tokens to 32 or less" in cli(*words, code=2)[1]


def test_equal_seeds_give_equal_weights_and_others_not(
    cli: Call, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cli(
            "train",
            "reviews.csv",
            *KEYS,
            "training.max_steps=6",
            "--seed",
            seed,
            "--out",
            name,
        )
    first, same, other = (load_file(tmp_path / n / "model.safetensors") for n in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    # another seed holds out other rows, so the vocabulary may differ too
    assert any(
        first[name].shape != other[name].shape
        or not torch.equal(first[name], other[name])
        for name in first
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data.label=lable"], 2, "there is no column 'lable'; did you mean 'label'?"),
        (["task=tag"], 1, "reviews.csv:2: "),
        (["task=regress"], 1, "column 'label' holds no number"),
        (["layer=attention", "model.hidden=30"], 2, "multiple of heads"),
        (["training.metric=f1"], 2, "task=classify has accuracy, macro_f1, loss"),
        (
            ["training.device=cuda:99"],
            2,
            "training.device=cuda:99: no such device here",
        ),
        (["data.encoding=foo"], 2, "data.encoding='foo': there is no such encoding"),
        (["model.heads=2"], 2, "layer gru has no setting 'heads'"),
        (["data.dev=nope.csv"], 1, "nope.csv: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    cli: Call, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    _, err = cli("train", "reviews.csv", *words, code=code)
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_copied_run_goes_on_from_its_own_folder(cli: Call, tmp_path: Path) -> None:
    cli("train", "reviews.csv", *KEYS, "training.max_steps=3")
    shutil.copytree(tmp_path / "runs" / "reviews", tmp_path / "copy")
    out, _ = cli("train", "copy", "training.max_steps=5", "--resume")
    assert "trained 5 steps" in out
    assert json.loads((tmp_path / "runs/reviews/result.json").read_text())["steps"] == 3
