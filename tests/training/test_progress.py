"""What a training shows and logs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from unrolled.training.progress import MetricsLog, Progress, duration, read_metrics


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (75, "1m15s"),
        (3599.6, "1h00m"),
        (7384, "2h03m"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0, tensorboard=False)
    log.add(3, "train", {"loss": 0.5})
    assert read_metrics(path) == [{"step": 3, "kind": "train", "loss": 0.5}]
    log.close()


def test_numbers_that_json_lacks_are_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m", 0, tensorboard=False)
    log.add(1, "dev", {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    log.close()
    assert (tmp_path / "m").read_text() == '{"step": 1, "kind": "dev", "d": 1.0}\n'


def test_a_resumed_log_drops_later_lines_and_a_cut_one(tmp_path: Path) -> None:
    path = tmp_path / "m"
    log = MetricsLog(path, 0, tensorboard=False)
    for step in (2, 4, 4, 6):
        log.add(step, "train", {"loss": float(step)})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 7, "kind"')
    log = MetricsLog(path, 4, tensorboard=False)
    log.add(5, "train", {"loss": 5.0})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4, 5]


def test_a_run_from_the_start_begins_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text('{"step": 0, "kind": "train"}\n{"step": 2, "kind": "train"}\n')
    MetricsLog(path, 0, tensorboard=False).close()
    assert path.read_text() == ""


def test_no_log_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none") == []


def test_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(every=-1.0) as progress:
        progress.update(20, 0.5, 1.25, 12_345.6, 75)
        progress.update(40, 1.0, 1.0, 10.0, None)
        progress.say("step 40  [dev]")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "step 20  loss 1.2500  12,346 tokens/s  1m15s left",
        "step 40  loss 1.0000  10 tokens/s",
        "step 40  [dev]",
    ]


def test_what_is_read_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(every=-1.0, unit="images") as progress:
        progress.update(2, 0.5, 1.25, 21.4, None)
    assert capsys.readouterr().err == "step 2  loss 1.2500  21 images/s\n"


def test_lines_come_at_most_as_often_as_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(every=3600.0) as progress:
        progress.shown = -1e9
        for step in range(5):
            progress.update(step, 0.1, 1.0, 1.0, None)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True, every=-1.0) as progress:
        progress.update(1, 0.5, 1.0, 1.0, 1.0)
        progress.say("x")
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_a_terminal_gets_a_bar_and_lines_that_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as progress:
        assert progress.bar is not None
        progress.update(20, 0.5, 1.25, 100.0, 75)
        assert progress.bar.tasks[0].completed == 0.5
        assert "1m15s left" in progress.bar.tasks[0].description
        progress.say("step 20  [dev] stays")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "step 20  [dev] stays" in shown.err


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path / "m", 0, tensorboard=True)
    log.add(3, "train", {"loss": 0.5})
    log.add(4, "dev", {"accuracy": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = {tag: events.Scalars(tag)[0] for tag in events.Tags()["scalars"]}
    assert {tag: (e.step, e.value) for tag, e in read.items()} == {
        "train/loss": (3, 0.5),
        "dev/accuracy": (4, 0.25),
    }
