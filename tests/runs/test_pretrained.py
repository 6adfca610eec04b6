"""Training that begins with another run: what is taken, from where, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks import pretraining
from safetensors.torch import load_file
from torch import Tensor

import unrolled
from conftest import SMALL, Call, mirrored, reviews, sentences, write_csv, write_jsonl
from unrolled.core.errors import UsageError, UserError
from unrolled.nn import LayerConfig
from unrolled.runs import folder as runs
from unrolled.runs.begun import read_before, read_transfer
from unrolled.runs.plan import make_plan
from unrolled.runs.pretrained import Pretrained, Transfer, located, take
from unrolled.text.tokenizers import Tokenizer

# shapes come from the run that is begun with
BARE = {key: value for key, value in SMALL.items() if not key.startswith("model.")}
# to write texts takes longer than such a training
MUTE = {**SMALL, "report.samples": False}
SILENT = {"quiet": True, "say": lambda line: None}
FORWARD = ("weight_hh_l0", "bias_ih_l0", "weight_hh_l1", "bias_hh_l1")


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the language model runs/lm over reviews, and tables to fine-tune on."""
    home = tmp_path_factory.mktemp("pretrained")
    texts = [(text,) for text, _ in reviews(200, 9)]
    write_csv(home / "texts.csv", texts, ("text",))
    write_csv(home / "reviews.csv", reviews(80, 1), ("text", "label"))
    changes: dict[str, Any] = {
        **MUTE,
        "task": "language",
        "layer": "lstm",
        "model.layers": 2,
        "model.hidden": 12,
        "data.tokenizer": "unigram",
        "data.vocabulary": 150,
        "training.max_steps": 4,
    }
    unrolled.train(home / "texts.csv", out=home / "runs/lm", **SILENT, **changes)
    return home


@pytest.fixture(autouse=True)
def beside(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(at)


def plan(at: Path, file: str = "reviews.csv", **changes: Any) -> Any:
    keys = {"model.init": "lm", **BARE, **changes}
    return make_plan(str(at / file), keys, out=at / "planned", dry_run=True)


def planned_weights(made: Any) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in made.model.state_dict().items()}


# ---------------------------------------------------------------------- what is taken


def test_a_classifier_takes_tokenizer_layer_sizes_and_weights(at: Path) -> None:
    made = plan(at)
    there = weights_of(at / "runs/lm")
    model = made.recipe.model
    assert (made.recipe.layer, model.hidden, model.layers) == ("lstm", 12, 2)
    assert (model.embedding, model.bidirectional) == (8, False)
    assert made.recipe.data.vocabulary == 150
    tokenizer = made.prepared.task.tokenizer
    saved = Tokenizer.load(at / "runs/lm/tokenizer.json")
    assert tokenizer.document == saved.document
    weights = planned_weights(made)
    taken = made.transfer.whole
    assert len(taken) == 9
    for name in taken:
        assert torch.equal(weights[name], there[name]), name
    assert made.transfer.new == ["head.weight", "head.bias", "ngrams.weight"]
    assert made.transfer.unused == ["head.weight", "head.bias"]
    # what is dropped, and what stands around the layer, is the task's own
    assert model.ngrams == 4
    assert model.head_dropout == 0.5


def test_a_language_model_takes_the_output_weights_too(at: Path) -> None:
    made = plan(at, "texts.csv", task="language")
    there = weights_of(at / "runs/lm")
    weights = planned_weights(made)
    assert set(made.transfer.whole) == set(there) == set(weights)
    for name, weight in weights.items():
        assert torch.equal(weight, there[name]), name


def test_another_tokenizer_is_matched_by_token(at: Path) -> None:
    keys = {"data.tokenizer": "bpe", "data.vocabulary": 300}
    made = plan(at, "texts.csv", task="language", **keys)
    there = weights_of(at / "runs/lm")
    pieces = Tokenizer.load(at / "runs/lm/tokenizer.json")
    known = {text: id for id, text in enumerate(pieces.texts())}
    tokenizer = made.prepared.task.tokenizer
    plain = plan(at, "texts.csv", task="language", **keys, **{"model.init": None})
    assert plain.transfer is None
    weights = planned_weights(made)
    matched = 0
    for id, text in enumerate(tokenizer.texts()):
        if text in known:
            matched += 1
            for name in ("embedding.weight", "head.weight", "head.bias"):
                assert torch.equal(weights[name][id], there[name][known[text]]), text
    # all kinds agree on the letter, on the blank before a word, and on the end mark
    for text in ("e", " film", "\0<eos>"):
        assert text in known
        assert text in tokenizer.texts()
    counts = made.transfer.partly
    assert counts["embedding.weight"] == [matched, tokenizer.size]
    assert 20 < matched < tokenizer.size
    lines = "\n".join(made.transfer.lines())
    assert f"embedding.weight ({matched:,} of {tokenizer.size:,})" in lines


def test_tokens_that_are_not_there_keep_their_drawn_weights(at: Path) -> None:
    keys = {"data.tokenizer": "unigram", "data.vocabulary": 100}
    made = plan(at, **keys)
    texts = made.prepared.task.tokenizer.texts()
    known = Tokenizer.load(at / "runs/lm/tokenizer.json").texts()
    torch.manual_seed(made.recipe.seed)
    drawn = made.prepared.task.build(made.recipe).state_dict()["embedding.weight"]
    weights = planned_weights(made)["embedding.weight"]
    lacking = [id for id, text in enumerate(texts) if text not in known]
    assert lacking
    assert torch.equal(weights[lacking], drawn[lacking])
    (matched, size) = made.transfer.partly["embedding.weight"]
    assert (matched, size) == (len(texts) - len(lacking), len(texts))


def test_tied_output_weights_are_matched_once(at: Path) -> None:
    keys = {"model.embedding": 12, "model.tie": True}
    made = plan(at, "texts.csv", task="language", **keys)
    # the embedding is of another width, and the tied output weights with it
    assert made.transfer.reshaped == ["embedding.weight", "layer.weight_ih_l0"]
    assert made.model.head.weight is made.model.embedding.weight
    assert "head.weight" not in made.transfer.drawn


def test_both_ways_begin_with_the_forward_one_unchanged(at: Path) -> None:
    made = plan(at, **{"model.bidirectional": True})
    there = unrolled.load(at / "runs/lm").model
    assert made.transfer.partly == {"layer.weight_ih_l1": [12, 24]}
    new = made.transfer.new
    assert {name for name in new if name.startswith("layer.")} == {
        name for name in made.model.state_dict() if name.endswith("_reverse")
    }
    weights = planned_weights(made)
    for name in FORWARD:
        assert torch.equal(weights[f"layer.{name}"], getattr(there.layer, name))
    ids = torch.tensor([[5, 9, 30, 7]])
    with torch.no_grad():
        both = made.model.eval().layer.read(made.model.embedding(ids))
        forward = there.layer.read(there.embedding(ids))
    # what the reverse direction says weighs nothing yet: added zeros change no bits but by the
    # order of sums
    torch.testing.assert_close(both[..., :12], forward, rtol=1e-6, atol=1e-6)


def test_own_keys_win_and_weights_of_another_shape_are_drawn(at: Path) -> None:
    made = plan(at, **{"model.layers": 1})
    assert made.recipe.model.layers == 1
    assert "layer.weight_ih_l1" in made.transfer.unused
    other = plan(at, layer="gru")
    assert other.transfer.whole == ["embedding.weight"]
    assert "layer.weight_hh_l0" in other.transfer.reshaped
    assert other.recipe.model.layers == 1
    wide = plan(at, **{"model.hidden": 16})
    assert wide.transfer.whole == ["embedding.weight"]
    assert any("of another shape there" in line for line in wide.lines())


def test_labels_are_matched_by_name(at: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    keys = {**SMALL, "training.max_steps": 3, "model.ngrams": 2}
    unrolled.train(at / "reviews.csv", out=first, **SILENT, **keys)
    rows = [
        (text, {"good": "fine"}.get(label, label)) for text, label in reviews(60, 2)
    ]
    rows += [(f"middling {number}", "awful") for number in range(12)]
    write_csv(tmp_path / "other.csv", rows, ("text", "label"))
    made = plan(tmp_path, "other.csv", **{"model.init": str(first)})
    there = weights_of(first)
    names = unrolled.load(first).task.class_names
    ours = made.prepared.task.class_names
    assert set(names) & set(ours) == {"bad"}
    weights = planned_weights(made)
    for name in ("head.weight", "head.bias"):
        taken = weights[name][ours.index("bad")]
        assert torch.equal(taken, there[name][names.index("bad")])
        assert made.transfer.partly[name] == [1, 3]
    assert torch.equal(
        weights["ngrams.weight"][:, ours.index("bad")],
        there["ngrams.weight"][:, names.index("bad")],
    )
    assert made.recipe.model.ngrams == 2


def test_tagging_reads_words_as_the_pieces_that_begin_them(
    at: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "tags.jsonl", sentences(60, 2))
    text = " ".join(word for row in sentences(200, 3) for word in row["words"])
    (tmp_path / "text.txt").write_text(text)
    keys = {**MUTE, "data.tokenizer": "unigram", "data.vocabulary": 40}
    lm = tmp_path / "lm"
    settings = {**keys, "layer": "lstm", "training.max_steps": 2}
    unrolled.train(tmp_path / "text.txt", out=lm, **SILENT, **settings)
    made = plan(tmp_path, "tags.jsonl", **{"model.init": str(lm), "model.spelling": 4})
    words = made.prepared.task.words_field.known
    pieces = unrolled.load(lm).task.tokenizer.texts()
    there = weights_of(lm)
    weights = planned_weights(made)
    assert made.recipe.data.tokenizer == "chars"
    matched = [word for word in words if f" {word}" in pieces]
    assert matched
    for word in matched:
        row = weights["embedding.words.weight"][2 + words.index(word)]
        assert torch.equal(row, there["embedding.weight"][pieces.index(f" {word}")])
    # spelling and n-grams stand beside the word's own vector, and weigh nothing yet
    inputs = weights["layer.weight_ih_l0"]
    assert torch.equal(inputs[:, :8], there["layer.weight_ih_l0"])
    assert not inputs[:, 8:].any()


def test_a_translator_reads_and_writes_with_a_language_model(
    at: Path, tmp_path: Path
) -> None:
    source, target = mirrored(80, 1)
    (tmp_path / "a.src").write_text(source)
    (tmp_path / "a.tgt").write_text(target)
    keys = {**MUTE, "data.tokenizer": "whitespace", "layer": "lstm"}
    lm = tmp_path / "lm"
    settings = {**keys, "training.max_steps": 2, "task": "language"}
    unrolled.train(tmp_path / "a.src", out=lm, **SILENT, **settings)
    changes = {
        "task": "translate",
        "data.train_target": str(tmp_path / "a.tgt"),
        "model.init": str(lm),
    }
    made = plan(tmp_path, "a.src", **changes)
    there = weights_of(lm)
    weights = planned_weights(made)
    assert torch.equal(weights["source.weight"], there["embedding.weight"])
    assert torch.equal(weights["encoder.weight_hh_l0"], there["layer.weight_hh_l0"])
    texts = unrolled.load(lm).task.tokenizer.texts()
    written = made.prepared.task.output.tokenizer.texts()
    for word in (" a", " b", "\0<eos>"):
        row = weights["target.weight"][written.index(word)]
        assert torch.equal(row, there["embedding.weight"][texts.index(word)])


def test_numbers_take_layers_and_refuse_other_columns(
    home: SimpleNamespace, tmp_path: Path
) -> None:
    houses = home.runs["regress"]
    made = plan(tmp_path, str(home.files["regress"]), **{"model.init": str(houses)})
    there = weights_of(houses)
    assert not made.transfer.drawn
    for name, weight in planned_weights(made).items():
        assert torch.equal(weight, there[name])
    rows = [(a, r, 10 * r + a) for r in range(1, 9) for a in range(20, 28)]
    file = write_csv(tmp_path / "turned.csv", rows, ("area", "rooms", "price"))
    with pytest.raises(UserError, match="numbers in the columns rooms, area"):
        plan(tmp_path, str(file), **{"model.init": str(houses)})


# ---------------------------------------------------------------------- a run of its own


@pytest.fixture(scope="module")
def tuned(at: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A classifier trained for six steps from a copy of the language model that is gone since."""
    home = tmp_path_factory.mktemp("tuned")
    shutil.copytree(at / "runs/lm", home / "lm")
    changes = {
        **BARE,
        "model.init": str(home / "lm"),
        "model.ngrams": 0,
        "training.max_steps": 6,
        "training.checkpoint_every": 3,
        "training.evaluate_every": 3,
        "training.keep": 9,
    }
    run = unrolled.train(at / "reviews.csv", out=home / "run", **SILENT, **changes)
    return SimpleNamespace(
        folder=home / "run", lm=home / "lm", changes=changes, run=run
    )


def test_a_fine_tuned_run_is_an_ordinary_one(
    tuned: SimpleNamespace, at: Path, cli: Call
) -> None:
    loaded = unrolled.load(tuned.folder)
    rows = ["a lovely film", "boring 별로"]
    assert loaded.predict(rows) == tuned.run.predict(rows)
    assert set(loaded.evaluate(at / "reviews.csv")) >= {"accuracy"}
    taken = json.loads((tuned.folder / "result.json").read_text())["init"]
    assert taken["name"] == str(tuned.lm)
    assert len(taken["whole"]) == 9
    assert taken["new"] == ["head.weight", "head.bias"]
    words = [f"{key}={value}" for key, value in tuned.changes.items()]
    out, _ = cli("train", at / "reviews.csv", *words, "--dry-run", "--json")
    assert json.loads(out)["init"] == taken


def test_a_resume_needs_the_other_run_no_more_and_gives_equal_bits(
    tuned: SimpleNamespace, at: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tuned.folder, folder)
    shutil.rmtree(folder / "checkpoints/step-6")
    (folder / "result.json").unlink()
    hidden = tuned.lm.rename(tuned.lm.with_name("hidden"))
    try:
        # by the name of its data, whose recipe says nothing of layer and sizes
        run = unrolled.train(
            at / "reviews.csv", out=folder, resume=True, **SILENT, **tuned.changes
        )
    finally:
        hidden.rename(tuned.lm)
    before = weights_of(tuned.folder)
    for name, weight in weights_of(folder).items():
        assert torch.equal(weight, before[name]), name
    assert run.result["init"] == tuned.run.result["init"]


def test_a_resume_with_another_run_to_begin_with_is_refused(
    tuned: SimpleNamespace, at: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(at / "runs/lm", other)
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x3f")
    for name in (str(other), "nowhere", None):
        with pytest.raises(UserError, match=r"model.init was .* and is now"):
            resumed(tuned.folder, **{"model.init": name})


def resumed(folder: Path, **changes: Any) -> Any:
    """Plan to go on with a run; nothing is written."""
    return make_plan(str(folder), changes, resume=True, dry_run=True)


def test_a_resume_may_name_the_same_weights_otherwise(
    tuned: SimpleNamespace, at: Path
) -> None:
    changes = {"model.init": "lm", "training.max_steps": 8}
    assert resumed(tuned.folder, **changes).recipe.model.init == "lm"


def test_a_file_of_settings_may_name_the_same_weights_otherwise(
    tuned: SimpleNamespace, at: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tuned.folder, folder)
    config = folder / "config.yaml"
    text = config.read_text()
    for name in ("lm", "nowhere"):
        config.write_text(text.replace(f"init: {tuned.lm}", f"init: {name}"))
        if name == "lm":
            assert resumed(folder).recipe.model.init == "lm"
        else:
            with pytest.raises(UserError, match=r"model.init was .* and is now"):
                resumed(folder)


def begun(at: Path, folder: Path) -> Any:
    """Begin a run with the run ``lm`` of the folder that this one stands in, and kill it."""
    shutil.copytree(at / "runs/lm", folder.parent / "lm")
    made = plan(at, **{"training.max_steps": 2})
    prepared = made.prepared
    taken = made.transfer.to_json()
    runs.begin(folder, made.recipe, prepared.task, prepared.files, taken)
    return made


def test_before_the_first_checkpoint_the_weights_are_found_from_another_folder(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home/runs/run"
    made = begun(at, folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    weights = planned_weights(resumed(folder))
    for name, weight in planned_weights(made).items():
        assert torch.equal(weights[name], weight), name
    # or by their name, where they have moved
    lm = folder.parent / "lm"
    lm.rename(elsewhere / "moved")
    with pytest.raises(UserError, match=r"model.init=lm: there is no such run$"):
        resumed(folder)
    with pytest.raises(UserError, match=r"model.init=movd: .*did you mean 'moved'"):
        resumed(folder, **{"model.init": "movd"})
    again = resumed(folder, **{"model.init": "moved"})
    assert again.transfer.whole == made.transfer.whole


def test_a_resume_says_that_compiled_steps_promise_no_equal_bits(
    tuned: SimpleNamespace,
) -> None:
    before = read_before(tuned.folder, tuned.run.recipe)
    recipe = before.recipe
    compiled = recipe.changed(training=recipe.training.changed(compile=True))
    assert before.notes(recipe) == []
    for notes in (
        before.notes(compiled),
        replace(before, recipe=compiled).notes(recipe),
    ):
        assert notes == [
            "warning: training.compile=true, now or before: equal bits are not promised"
        ]


def test_before_the_first_checkpoint_the_weights_are_taken_again(
    tuned: SimpleNamespace, at: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tuned.folder, folder)
    shutil.rmtree(folder / "checkpoints")
    for name in ("result.json", "model.safetensors"):
        (folder / name).unlink()
    lm = tuned.lm / "model.safetensors"
    whole = lm.read_bytes()
    again = unrolled.train(folder, resume=True, **SILENT)
    before = weights_of(tuned.folder)
    for name, weight in weights_of(folder).items():
        assert torch.equal(weight, before[name]), name
    assert again.result["init"] == tuned.run.result["init"]
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    other = weights_of(at / "runs/lm")
    try:
        retrained = {**MUTE, "training.max_steps": 1, "data.tokenizer": "unigram"}
        shutil.rmtree(tuned.lm)
        keys = {**retrained, "data.vocabulary": 150, "task": "language"}
        unrolled.train(at / "texts.csv", out=tuned.lm, **SILENT, **keys)
        with pytest.raises(UserError, match="no longer the weights"):
            unrolled.train(folder, resume=True, **SILENT)
    finally:
        shutil.rmtree(tuned.lm)
        shutil.copytree(at / "runs/lm", tuned.lm)
    assert lm.read_bytes() == whole
    assert set(other) == set(weights_of(tuned.lm))


# ---------------------------------------------------------------------- frozen, and slower


def test_the_layers_of_a_run_thaw_from_the_top(at: Path, tmp_path: Path) -> None:
    changes = {
        **BARE,
        "model.init": "lm",
        "model.bidirectional": True,
        "model.ngrams": 0,
        "data.holdout": 0.2,
        "training.batch_size": 32,
        "training.unfreeze": 1,
        "training.layer_decay": 0.5,
        "training.max_epochs": 2,
        "training.average": "none",
    }
    run = unrolled.train(at / "reviews.csv", out=tmp_path / "run", **SILENT, **changes)
    there = weights_of(at / "runs/lm")
    weights = weights_of(tmp_path / "run")
    # two epochs: the top and the layer below it; what was drawn anew is of the top
    for name in run.result["init"]["whole"]:
        is_frozen = "_l1" not in name
        assert torch.equal(weights[name], there[name]) == is_frozen, name
    made = make_plan(
        str(at / "reviews.csv"), changes, out=tmp_path / "new", dry_run=True
    )
    groups = made.depths()
    assert [len(names) for names in groups] == [1, 4, 4, 10]
    assert "layer.weight_ih_l0_reverse" in groups[-1]
    drawn = planned_weights(made)["layer.weight_ih_l0_reverse"]
    assert not torch.equal(weights["layer.weight_ih_l0_reverse"], drawn)


def test_buffers_have_no_rate_and_are_not_frozen(at: Path) -> None:
    made = plan(at)
    made.model.register_buffer("scale", torch.ones(3))
    new = replace(made.transfer, new=[*made.transfer.new, "scale"])
    named = [name for names in replace(made, transfer=new).depths() for name in names]
    assert sorted(named) == sorted(name for name, _ in made.model.named_parameters())


@pytest.mark.parametrize(
    "keys", [{"training.unfreeze": 1}, {"training.layer_decay": 0.5}]
)
def test_nothing_is_frozen_that_was_drawn(at: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"name it with model.init=RUN"):
        plan(at, **{"model.init": None, **keys})


# ---------------------------------------------------------------------- what is refused


def test_a_run_is_found_as_given_in_runs_and_in_the_folder_of_data(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {
        Pretrained.open(name).digest for name in ("lm", "runs/lm", str(at / "runs/lm"))
    }
    assert len(digests) == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_DATA", str(at / "runs"))
    assert {Pretrained.open("lm").digest} == digests


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ln", "there is no such run; did you mean 'lm'?"),
        ("", "is no name of a run"),
        ("texts.csv", "no checkpoint of a known kind"),
        ("runs", "neither a run nor a checkpoint"),
        ("nsmc", "train it first: unrolled.train\\('nsmc'\\)"),
    ],
)
def test_what_is_no_run_is_refused_by_name(at: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(at, **{"model.init": name})
    assert f"model.init={name}" in str(caught.value)


def test_a_hint_names_runs_alone_and_the_origin_stands_beside_it(at: Path) -> None:
    origin = "; it comes from a site"
    with pytest.raises(
        UsageError, match=r"there is no such run; it comes from a site$"
    ):
        located("texts.cs", origin)
    with pytest.raises(
        UsageError, match=r"did you mean 'lm'[?]; it comes from a site$"
    ):
        located("runs/ln", origin)


@pytest.mark.parametrize(
    "changes",
    [
        {"whole": 5},
        {"whole": [5]},
        {"partly": {"head.weight": [1]}},
        {"partly": {"head.weight": ["a", "b"]}},
        {"partly": []},
        {"digest": None},
        {"other": []},
        {"new": None},
    ],
)
def test_what_a_run_began_with_is_read_whole_or_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    names = ("whole", "reshaped", "new", "unused")
    kept = {"name": "lm", "digest": "a", "partly": {"head.weight": [1, 2]}}
    kept |= {name: ["head.bias"] for name in names}
    path = tmp_path / "fields.json"
    path.write_text(json.dumps({"init": kept}))
    assert read_transfer(tmp_path) == Transfer(**kept)
    for init in (kept | changes, [], 3, "lm"):
        path.write_text(json.dumps({"init": init}))
        with pytest.raises(UserError, match=r"fields.json: .*cannot be read"):
            read_transfer(tmp_path)


def test_a_run_without_weights_or_with_others_is_refused(
    at: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lm"
    shutil.copytree(at / "runs/lm", copy)
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"model.init=.*SHA-256 is another"):
        plan(at, **{"model.init": str(copy)})
    path.unlink()
    with pytest.raises(UserError, match=r"model.init=.*no weights yet"):
        plan(at, **{"model.init": str(copy)})
    assert not (at / "planned").exists()


def test_what_fits_in_nothing_is_refused_with_the_reason(at: Path) -> None:
    keys = {"layer": "gru", "model.embedding": 20, "model.hidden": 10}
    with pytest.raises(
        UserError, match=r"nothing of it fits.*shape .* there and .* here"
    ):
        plan(at, **keys)


def test_a_run_does_not_begin_with_itself(at: Path) -> None:
    with pytest.raises(UsageError, match="is the run itself"):
        make_plan(
            str(at / "texts.csv"),
            {**BARE, "model.init": "lm"},
            out=at / "runs/lm",
            dry_run=True,
        )


def test_what_was_taken_is_kept_as_plain_values(at: Path) -> None:
    transfer = plan(at).transfer
    plain = json.loads(json.dumps(transfer.to_json()))
    assert Transfer.from_json(plain) == transfer
    assert Transfer.from_json(None) is None


def test_a_published_tokenizer_is_refused_where_none_came(at: Path) -> None:
    for init in ("lm", None):
        with pytest.raises(UsageError, match=r"data.tokenizer=published"):
            plan(at, **{"model.init": init, "data.tokenizer": "published"})


# ---------------------------------------------------------------------- large files


def test_shards_are_cut_with_the_other_run_s_tokenizer(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = plan(at, "texts.csv", task="language", **{"data.shards": "always"})
    whole = plan(at, "texts.csv", task="language")
    assert (
        made.prepared.task.tokenizer.document == whole.prepared.task.tokenizer.document
    )
    tokens = made.prepared.train.tokens
    assert tokens[:].tolist() == whole.prepared.train.tokens.tolist()
    assert made.transfer.to_json() == whole.transfer.to_json()
    assert os.listdir(tmp_path)


def test_nothing_but_the_named_entries_of_a_weight_is_written(at: Path) -> None:
    made = plan(at)
    model = made.prepared.task.build(made.recipe)
    drawn = model.head.weight.detach().clone()
    take(Pretrained.open("lm"), model, made.prepared.task)
    assert torch.equal(model.head.weight, drawn)


# ---------------------------------------------------------------------- what it is worth


def test_the_benchmark_draws_the_model_that_it_takes_otherwise(
    at: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rated.csv"
    write_csv(file, reviews(60, 3), ("document", "label"))
    files = {"data.train": str(file), "data.holdout": 0.2, "model.ngrams": 0}

    def planned(changes: dict[str, Any]) -> Any:
        keys = {**files, **changes}
        out = tmp_path / "planned"
        return make_plan(pretraining.RECIPE, keys, out=out, dry_run=True)

    taken = planned({"model.init": "lm"})
    drawn = planned(pretraining.drawn("lm", taken.prepared.task.schema))
    assert taken.transfer.whole
    assert drawn.transfer is None
    assert drawn.recipe.layer == taken.recipe.layer
    for key in ("embedding", *LayerConfig.model_fields):
        assert getattr(drawn.recipe.model, key) == getattr(taken.recipe.model, key), key
    shapes = [
        {name: weight.shape for name, weight in planned_weights(made).items()}
        for made in (taken, drawn)
    ]
    layers = [
        {name: shape for name, shape in named.items() if name.startswith("layer.")}
        for named in shapes
    ]
    assert layers[0]
    assert layers[0] == layers[1]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["lm", "other"],
        ["lm", "--seeds"],
        ["lm", "--seeds=0"],
        ["lm", "--labels=many"],
        ["lm", "--labels=100,0"],
        ["lm", "--minutes=-1"],
        ["lm", "--steps=3"],
    ],
)
def test_the_benchmark_ends_in_its_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^usage: .* RUN \[--seeds=3\]"):
        pretraining.Setting.read(words)


def test_the_benchmark_reads_what_is_measured_and_names_every_limit() -> None:
    words = ["lm", "--labels=100,all", "--minutes=2.5"]
    setting = pretraining.Setting.read(words)
    assert setting == pretraining.Setting("lm", 3, (100, None), 2.5)
    assert pretraining.limits(None, None) == {}
    assert pretraining.limits(None, 2.5) == {
        "training.max_epochs": 2,
        "training.max_minutes": 2.5,
    }
    few = pretraining.limits(100, 2.5)
    assert few["training.max_minutes"] == 2.5
    assert few["training.max_steps"] == 600
