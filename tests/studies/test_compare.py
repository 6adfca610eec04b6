"""``compare``: trained apart, resumed, equal in time or size; what is wrong is one clear line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser

import unrolled
from conftest import reviews, write_csv
from insight.browsing import MODES, check, chromium, opened
from unrolled import studies
from unrolled.cli.compare import read_seconds, read_size
from unrolled.core.errors import UsageError
from unrolled.studies.running import WorkerJob, run_workers
from unrolled.studies.trials import Study, unused
from unrolled.studies.worker import WorkerRequest

Call = Callable[..., tuple[str, str]]
SMALL = [
    *("model.hidden=8", "model.embedding=8", "model.ngrams=0", "training.threads=1"),
    *("training.precision=fp32", "training.learning_rate=0.02"),
]
STEPS = "training.max_steps=40"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("data")
    return write_csv(at / "reviews.csv", reviews(300, 1, 0.1), ("text", "label"))


@pytest.fixture(scope="module")
def study(data: Path) -> SimpleNamespace:
    """Two layers with two seeds, compared once for the tests that look at them."""
    out = data.parent / "study"
    words = ["compare", data, *SMALL, STEPS, "--layers", "none,gru", "--seeds", 2]
    command = [sys.executable, "-m", "unrolled", *words, "-o", out]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    return SimpleNamespace(out=out, words=words, text=done.stdout, said=done.stderr)


def test_a_comparison_is_one_table_and_one_page(study: SimpleNamespace) -> None:
    document = json.loads((study.out / "compare.json").read_text("utf-8"))
    rows = document["rows"]
    assert [(row["layer"], row["seed"]) for row in rows] == [
        ("none", 0),
        ("gru", 0),
        ("none", 1),
        ("gru", 1),
    ]
    for row in rows:
        run = unrolled.load(study.out / "runs" / row["run"])
        assert run.recipe.layer == row["layer"]
        assert run.recipe.seed == row["seed"]
        assert row["score"] == run.result["scores"]["accuracy"]
        assert row["parameters"] == sum(p.numel() for p in run.model.parameters())
        assert row["seconds"] == run.result["seconds"]
        assert row["steps"] == 40
        assert 50 < row["memory"] < 4000
    assert document["metric"] == "accuracy"
    names = [baseline["name"] for baseline in document["baselines"]]
    assert names[0] == "majority class (seed 0)"
    for entry in document["summary"]:
        low, high = entry["interval"]
        assert low <= entry["score"] <= high
        assert entry["sampling"]
        assert f"{entry['score']:.4f}" in study.text
    assert "order of the layers" in study.text
    assert len(study.said.splitlines()) == 4


def test_finished_runs_are_not_trained_again(cli: Call, study: SimpleNamespace) -> None:
    runs = sorted((study.out / "runs").glob("*/model.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in runs]
    out, err = cli(*study.words, "-o", study.out, "--json")
    assert [path.stat().st_mtime_ns for path in runs] == stamps
    assert json.loads(out) == json.loads((study.out / "compare.json").read_text())
    assert err == "4 of 4 runs are there already\n"


def test_layers_of_a_seed_are_scored_on_the_same_rows(study: SimpleNamespace) -> None:
    rows = json.loads((study.out / "compare.json").read_text())["rows"]
    counts: dict[int, set[int]] = {}
    for row in rows:
        counts.setdefault(row["seed"], set()).add(row["scored_rows"])
    assert all(len(numbers) == 1 for numbers in counts.values())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("name", MODES)
def test_a_browser_finds_nothing_wrong_with_the_page(
    browser: Browser, study: SimpleNamespace, name: str
) -> None:
    check(browser, study.out / "compare.html", MODES[name])


def test_the_page_is_in_both_languages(
    browser: Browser, study: SimpleNamespace
) -> None:
    with opened(browser, study.out / "compare.html", MODES["korean"]) as page:
        assert "층 비교" in page.get_by_role("heading", level=1).inner_text()
        assert page.locator("svg.chart circle").count() == 4
        page.get_by_role("button", name="English").click()
        assert "Layers compared" in page.get_by_role("heading", level=1).inner_text()


def test_more_labels_are_scored_on_the_same_rows(cli: Call, data: Path) -> None:
    out = data.parent / "limits"
    words = ["compare", data, *SMALL, STEPS, "--layers", "gru", "--seeds", 1]
    text, _ = cli(*words, "--vary", "data.limit=60,150,300", "-o", out, "--json")
    document = json.loads(text)
    rows = document["rows"]
    assert [row["data.limit"] for row in rows] == [60, 150, 300]
    # those that the largest one holds out, of which the others have trained on none
    assert len({row["scored_rows"] for row in rows}) == 1
    largest = unrolled.load(out / "runs" / rows[2]["run"])
    assert rows[2]["score"] == largest.result["scores"]["accuracy"]
    smallest = unrolled.load(out / "runs" / rows[0]["run"])
    assert smallest.result["scored_rows"] < rows[0]["scored_rows"]
    (growth,) = document["growth"]
    assert (growth["rows"], growth["more"]) == (300, 300)
    assert growth["low"] <= growth["middle"] <= growth["high"]
    page = (out / "compare.html").read_text("utf-8")
    assert "accuracy by data.limit" in page


def test_models_of_equal_size_have_about_as_many_parameters(
    cli: Call, data: Path
) -> None:
    keys = [word for word in SMALL if not word.startswith("model.hidden")]
    out = data.parent / "sizes"
    words = ["compare", data, *keys, "training.max_steps=2", "--seeds", 1]
    layers = ["--layers", "rnn,lstm,attention"]
    text, _ = cli(*words, *layers, "--params", "30k", "-o", out, "--json")
    for row in json.loads(text)["rows"]:
        assert row["parameters"] == pytest.approx(30_000, rel=0.08)
    document = json.loads((out / "study.json").read_text())
    widths = [value["model.hidden"] for value in document["changes"].values()]
    assert widths[0] > widths[1]  # four gates take more than one


def test_a_budget_is_divided(cli: Call, data: Path) -> None:
    out = data.parent / "budget"
    words = ["compare", data, *SMALL, "--layers", "none,gru", "--seeds", 1, "-o", out]
    began = time.monotonic()
    text, err = cli(*words, "--budget", "90s", "--jobs", 2, "--json")
    took = time.monotonic() - began
    document = json.loads(text)
    trained = document["made"]["seconds_each"]
    assert 1 <= trained < 90
    for row in document["rows"]:
        run = unrolled.load(out / "runs" / row["run"])
        assert run.recipe.training.max_minutes == pytest.approx(trained / 60)
        assert run.result["stopped"] == "limit"
        # the update in which the time runs out is still made
        assert row["seconds"] == pytest.approx(trained, abs=5)
    assert took > trained
    assert err.startswith("2 runs, 2 at a time: each is trained for ")


def test_a_stopped_comparison_goes_on_where_it_was(data: Path) -> None:
    out = data.parent / "stopped"
    keys = [*SMALL, "training.max_steps=800", "training.checkpoint_every=20"]
    words = ["compare", data, *keys, "--layers", "gru", "--seeds", 1, "-o", out]
    command = [sys.executable, "-m", "unrolled", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    checkpoints = out / "runs" / "gru-seed-0" / "checkpoints"
    while not (checkpoints.is_dir() and list(checkpoints.glob("step-*"))):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert b"Traceback" not in err
    assert b"stopped; the same command goes on with what is in" in err
    log = out / "done" / "gru-seed-0.log"
    assert not (out / "runs" / "gru-seed-0" / "result.json").exists()
    lines = out / "runs" / "gru-seed-0" / "metrics.jsonl"
    before = lines.read_text().splitlines()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "gru" in done.stdout
    # it went on: what was logged before still stands
    assert lines.read_text().splitlines()[: len(before) - 1] == before[:-1]
    assert "Traceback" not in log.read_text()


def test_a_run_that_crashes_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    rows = [(f"a {n}" if n % 2 else f"b {n}", "xy"[n % 2]) for n in range(60)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label"))
    plugin = tmp_path / "cells.py"
    plugin.write_text(
        "import os\n"
        "from unrolled import nn\n"
        "def step(a, state, w, extras):\n"
        "    os.kill(os.getpid(), 9)\n"
        "nn.add_cell('deadly', step, 1)\n"
    )
    command = [sys.executable, "-m", "unrolled", "compare", path, "--plugin", plugin]
    command += [*SMALL, "training.max_steps=2", "--layers", "gru,deadly", "--seeds", 1]
    command += ["-o", tmp_path / "out", "--json"]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    gru, deadly = json.loads(done.stdout)["rows"]
    assert gru["score"] is not None
    assert deadly["score"] is None
    assert "ended by SIGKILL" in deadly["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "gru,lsmt"], "there is no layer 'lsmt'; did you mean 'lstm'?"),
        (["--layers", "gru,gru"], "--layers names gru twice"),
        (["--vary", "modle.hidden=1,2"], "did you mean 'model.hidden'?"),
        (["--vary", "layer=gru,rnn"], "'layer' cannot be varied: --layers does"),
        (["--vary", "data.label=a,b"], "runs would be scored on other rows"),
        (["--vary", "model.hidden=8"], "--vary model.hidden has one value"),
        (["--vary", "model.hidden=8,8"], "has a value twice"),
        (["--vary", "model.hidden"], "is not key=A,B"),
        (["--vary", "model.hidden=8,x"], "model.hidden='x'"),
        (["--budget", "1s"], "--budget 1s is too small for an update of each"),
        (["--budget", "10"], "--budget '10' is no time; say 90s, 10m or 1h30m"),
        (
            ["--budget", "5m", "--vary", "training.max_steps=1,2"],
            "--budget says how long each run is trained",
        ),
        (["--params", "x"], "--params 'x' is no number; say 500k or 1M"),
        (["--params", "1M", "model.hidden=3"], "--params chooses model.hidden"),
        (["--params", "12"], "--params 12 is too small for layer none"),
        (["nothing"], "'nothing' is neither key=value nor a finished run"),
        (["hidden=3"], "did you mean 'model.hidden'?"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(
    cli: Call, data: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    code = 2
    out = tmp_path / "out"
    _, err = cli("compare", data, *words, "-o", out, code=code)
    assert message in err
    assert not out.exists()


def test_a_folder_with_something_else_is_refused(
    cli: Call, study: SimpleNamespace, data: Path, tmp_path: Path
) -> None:
    words = ["compare", data, "--layers", "gru", "-o"]
    _, err = cli(*words, study.out / "runs" / "gru-seed-0", code=2)
    assert "holds other files, and no study" in err
    _, err = cli(*study.words, "model.layers=2", "-o", study.out, code=2)
    assert "holds another study: model.layers was not given and is 2" in err
    words = [word if word != "none,gru" else "none" for word in study.words]
    _, err = cli(*words, "-o", study.out, code=2)
    assert "layers was ['none', 'gru'] and is ['none']" in err


def test_limits_of_a_text_need_a_file_of_held_out_lines(
    cli: Call, home: SimpleNamespace, tmp_path: Path
) -> None:
    words = ["compare", home.files["language"], "--vary", "data.limit=10,20,30"]
    _, err = cli(*words, "-o", tmp_path / "out", code=2)
    assert "the end is held out: give data.dev=FILE" in err


def test_a_setting_that_a_layer_lacks_stands_at_its_default() -> None:
    changes = {"model.bidirectional": True, "model.zoneout": 0.1}
    assert unused("linear", changes, "none") == {
        "model.bidirectional": False,
        "model.zoneout": 0.0,
    }
    assert unused("linear", changes, "attention") == {"model.zoneout": 0.0}
    assert unused("linear", changes, "gru") == {}


def test_names_of_runs_are_names_of_folders_and_differ() -> None:
    vary = {"decoding.sampling.temperature": [0.5], "model.hidden": [3, 4]}
    trials = Study("linear", {}, ["none"], vary, 2).trials()
    names = [trial.name for trial in trials]
    assert names[0] == "none-temperature-0.5-hidden-3-seed-0"
    assert len(set(names)) == 4
    assert [trial.seed for trial in trials] == [0, 0, 1, 1]
    first = Study("linear", {"seed": 7}, ["none"], {}, 2).trials()
    assert [trial.seed for trial in first] == [7, 8]


def test_finished_runs_stand_side_by_side(
    cli: Call, study: SimpleNamespace, tmp_path: Path
) -> None:
    runs = [study.out / "runs" / name for name in ("none-seed-0", "gru-seed-0")]
    text, _ = cli("compare", *runs, "-o", tmp_path / "out", "--json")
    document = json.loads(text)
    assert [row["layer"] for row in document["rows"]] == ["none", "gru"]
    for row, run in zip(document["rows"], runs, strict=True):
        result = json.loads((run / "result.json").read_text())
        assert row["score"] == result["scores"]["accuracy"]
    assert document["made"]["notes"] == []
    assert (tmp_path / "out" / "compare.html").exists()
    other = study.out / "runs" / "gru-seed-1"
    text, _ = cli("compare", runs[1], other, "-o", tmp_path / "other", "--json")
    (note,) = json.loads(text)["made"]["notes"]
    assert "scored on other held-out rows" in note
    assert "seed=1" in note


def test_runs_on_other_data_are_refused(
    cli: Call, study: SimpleNamespace, home: SimpleNamespace, tmp_path: Path
) -> None:
    run = study.out / "runs" / "gru-seed-0"
    _, err = cli("compare", run, home.runs["regress"], "-o", tmp_path / "a", code=2)
    assert "is scored by rmse and" in err
    _, err = cli("compare", run, home.runs["classify"], "-o", tmp_path / "a", code=2)
    assert "were scored on other data (train)" in err
    assert not (tmp_path / "a").exists()


def test_python_has_the_same(study: SimpleNamespace, data: Path) -> None:
    said: list[str] = []
    keys = {word.partition("=")[0]: word.partition("=")[2] for word in [*SMALL, STEPS]}
    numbers = {
        "training.precision": "fp32",
        "training.learning_rate": 0.02,
        "training.max_steps": 40,
    }
    changes = {
        key: numbers.get(key, int(value) if value.isdigit() else value)
        for key, value in keys.items()
    }
    findings = studies.compare(
        data,
        layers=["none", "gru"],
        seeds=2,
        out=study.out,
        say=said.append,
        **changes,
    )
    assert said == ["4 of 4 runs are there already"]
    assert findings.to_json() == json.loads((study.out / "compare.json").read_text())
    with pytest.raises(UsageError, match="seeds= is 0"):
        studies.compare(data, seeds=0)


def test_a_worker_that_is_refused_writes_why(tmp_path: Path) -> None:
    request = WorkerRequest(str(tmp_path / "nothing.csv"), {}, str(tmp_path / "run"))
    results: list[dict[str, Any]] = []
    job = WorkerJob("refused", request, tmp_path / "done")
    run_workers([job], 1, lambda job, result: results.append(result))
    (result,) = results
    assert result["exit_code"] == 2
    assert "there is no recipe and no file" in result["error"]


HOG = """
import subprocess, sys
held = bytearray(600 << 20)
held[::4096] = b"x" * len(held[::4096])
code = "from unrolled.studies.worker import peak_memory; {more}print(peak_memory())"
for more in ("", "held = b'x' * (300 << 20); del held; "):
    command = [sys.executable, "-c", code.format(more=more)]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
"""


def test_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOG], capture_output=True, text=True, check=True
    )
    little, much = map(float, done.stdout.split())
    assert little < 300
    assert 290 < much - little < 320


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5m", 30), ("1h", 3600)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10", "10x", "10m!", "0s", "-1m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        read_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1M", 10**6), ("500k", 500_000), ("1.5m", 1_500_000), ("7", 7)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert read_size(text) == size
