"""The command line with runs that write texts: files of any length, one line for each line."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import unrolled as package
from conftest import Call
from unrolled.cli import answering
from unrolled.core import digests
from unrolled.data.archives import MAX_ROW
from unrolled.runs import file_predictions

BAD = {
    1: b"",
    3: b"a " * 50_000,
    4: b"a\x00b",
    6: b"a \xff b",
    7: b"x" * (MAX_ROW + 5),
    8: b"b " * 20,
}


def faulty(path: Path) -> Path:
    """Write nine lines, six of them bad, the last without an end."""
    lines = [
        BAD.get(number, b"a, b") if number in BAD else b"a b c" for number in range(9)
    ]
    lines.append(b"d e")
    path.write_bytes(b"\n".join(lines))
    return path


def test_every_line_has_a_line_whatever_is_wrong_with_it(
    cli: Call, mirror: SimpleNamespace, tmp_path: Path
) -> None:
    path = faulty(tmp_path / "in.txt")
    output = tmp_path / "out.txt"
    out, err = cli("predict", mirror.run, "--file", path, "-o", output)
    expected = ["" if number in BAD else "c b a" for number in range(9)] + ["e d"]
    assert output.read_text().split("\n") == [*expected, ""]
    assert not out
    assert "skipped 6 faulty rows; the first: " in err
    assert "in.txt:2: column 'source' is empty" in err
    out, _ = cli("predict", mirror.run, "--file", path)
    assert out.split("\n") == [*expected, ""]


def test_lines_with_commas_are_no_table(
    cli: Call, mirror: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a,b\nc,d\ne,a\n" * 4)
    out, _ = cli("predict", mirror.run, "--file", path)
    assert len(out.splitlines()) == 12


def test_chunks_change_no_answer(
    cli: Call, mirror: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(mirror.source.read_text().splitlines(keepends=True)[:60]))
    whole, _ = cli("predict", mirror.run, "--file", path)
    monkeypatch.setattr(file_predictions, "LINES", 7)
    assert cli("predict", mirror.run, "--file", path)[0] == whole
    monkeypatch.setattr(file_predictions, "CHARACTERS", 10)
    assert cli("predict", mirror.run, "--file", path)[0] == whole


def test_memory_does_not_grow_with_the_file(
    mirror: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = package.load(mirror.run)
    monkeypatch.setattr(file_predictions, "LINES", 8)
    run.adjust(beam=1)
    peaks = []
    for count in (16, 160):
        path = tmp_path / f"{count}.txt"
        path.write_text("a b\n" * count + "\n" * 20 * count)
        tracemalloc.start()
        answering.answer_file(run, path, {}, tmp_path / "out.txt", False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len((tmp_path / "out.txt").read_text().splitlines()) == 21 * count
    assert peaks[1] < 1.5 * peaks[0] + 50_000


def test_tables_are_read_by_their_names(
    cli: Call, mirror: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    output = tmp_path / "out.csv"
    path.write_text("id,source\n1,a b\n2,\n3,c d e\n")
    _, err = cli("predict", mirror.run, "--file", path, "-o", output)
    with output.open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["id", "source", "answer", "probability"]
    assert [row[2] for row in rows[1:]] == ["b a", "", "e d c"]
    assert "in.csv:3: column 'source' is empty" in err
    named = tmp_path / "in.txt"
    named.write_text("id\ttext\n1\ta b\n2\tc d\n")
    out, _ = cli("predict", mirror.run, "--file", named, "data.text=text")
    assert out.splitlines() == ["b a", "d c"]


def test_json_holds_alignment_and_the_other_answers(
    cli: Call, mirror: SimpleNamespace, tmp_path: Path
) -> None:
    out, _ = cli(
        "predict", mirror.run, "a zebra", "--json", "--set", "decoding.n_best=2"
    )
    answer = json.loads(out)
    assert (answer["input"], answer["answer"]) == ("a zebra", "zebra a")
    assert answer["alignment"] == [[1, 0], [0, 1]]
    assert len(answer["n_best"]) == 2
    path = tmp_path / "in.txt"
    output = tmp_path / "out.jsonl"
    path.write_text("a b\n\n")
    cli("predict", mirror.run, "--file", path, "--set", "decoding.beam=1", "-o", output)
    first, second = map(json.loads, output.read_text().splitlines())
    assert first["alignment"] == [[1, 0], [0, 1]]
    assert second == {"source": "", "answer": ""}


def test_live_lines_are_answered_and_counted(mirror: SimpleNamespace) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "unrolled", "predict", str(mirror.run), "--live"],
        input="a b\n\nc d\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert completed.stdout == "b a\n\nd c\n"
    assert "line 2: column 'source' is empty" in completed.stderr


def test_what_an_answer_holds_is_asked_for(cli: Call, mirror: SimpleNamespace) -> None:
    assert cli("predict", mirror.run, "a b", "--begin", "e e")[0].startswith("e e")
    assert "b" not in cli("predict", mirror.run, "a b", "--ban", "b")[0]
    assert "d e" in cli("predict", mirror.run, "a b", "--require", "d e")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "decoding.beams=2"], "did you mean 'beam'"),
        (["--set", "model.hidden=2"], "only keys under decoding"),
        (["--set", "decoding.n_best=9"], "needs a beam as wide"),
        (["--require", "a Q"], "'a Q' cannot be asked for"),
        (["--begin", "Q"], "'Q' cannot be asked for"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    cli: Call, mirror: SimpleNamespace, words: list[str], message: str
) -> None:
    assert message in cli("predict", mirror.run, "a b", *words, code=2)[1]


def test_other_runs_have_no_search(cli: Call, home: SimpleNamespace) -> None:
    words = ["predict", home.runs["classify"], "a film", "--set", "decoding.beam=2"]
    assert "searches for no answers" in cli(*words, code=2)[1]
    words = [
        "evaluate",
        home.runs["classify"],
        home.files["classify"],
        "decoding.beam=2",
    ]
    assert "decoding.beam is for runs that write texts" in cli(*words, code=2)[1]


def test_two_files_are_scored_with_signature_and_test(
    cli: Call, mirror: SimpleNamespace, tmp_path: Path
) -> None:
    files = tmp_path / "a.src", tmp_path / "a.tgt"
    for path, whole in zip(files, (mirror.source, mirror.target), strict=True):
        path.write_text("".join(whole.read_text().splitlines(keepends=True)[:80]))
    words = ["evaluate", mirror.run, files[0], "--target", files[1]]
    out, _ = cli(*words)
    scores = dict(line.split() for line in out.splitlines()[:4])
    assert float(scores["bleu"]) > 90
    assert "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:none|smooth:exp" in out
    report = json.loads(
        cli(*words, "--json", "decoding.beam=1", "data.score_tokenizer=13a")[0]
    )
    assert "tok:13a" in report["notes"][0]
    out, _ = cli(*words, "--compare", mirror.run)
    assert out.count("no difference") == 2
    # the same weights, kept from ending: worse on every line
    worse = tmp_path / "worse"
    shutil.copytree(mirror.run, worse)
    config = yaml.safe_load((worse / "config.yaml").read_text())
    config["decoding"]["min_length"] = 8
    digests.replace_text(worse, "config.yaml", yaml.safe_dump(config))
    out, _ = cli(*words, "--compare", worse)
    assert "no difference" not in out
    assert out.count("paired bootstrap") == 2
    assert all(float(value) < 0.05 for value in re.findall(r"p = ([\d.]+)", out))
    run = package.load(mirror.run)
    assert run.evaluate(files[0], target=files[1])["bleu"] == pytest.approx(
        float(scores["bleu"]), abs=1e-4
    )


def test_what_cannot_be_scored_is_said(
    cli: Call, mirror: SimpleNamespace, home: SimpleNamespace, tmp_path: Path
) -> None:
    short = tmp_path / "short.tgt"
    short.write_text("a\n")
    _, err = cli("evaluate", mirror.run, mirror.source, "--target", short, code=1)
    assert f"1,500 lines, but {short} has 1" in err
    _, err = cli("evaluate", mirror.run, mirror.source, code=1)
    assert "--target FILE" in err
    classify = home.runs["classify"], home.files["classify"]
    _, err = cli("evaluate", *classify, "--target", short, code=2)
    assert "a target file is for pairs of texts, not for classify" in err
    _, err = cli("evaluate", *classify, "--compare", classify[0], code=2)
    assert "runs are compared in translation" in err


def test_drawn_answers_are_repeated_by_their_seed_alone(
    cli: Call, mirror: SimpleNamespace
) -> None:
    words = ["predict", mirror.run, *["a b c d e"] * 8, "--set", "decoding.sample=true"]
    words += ["--set", "decoding.sampling.temperature=3"]
    outputs = [
        cli(*words, *more)[0]
        for more in (["--seed", 1], ["--seed", 1], ["--seed", 2], [], [])
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs)) == 4
