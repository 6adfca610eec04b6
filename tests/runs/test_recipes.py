"""Recipes: words and YAML become one typed config; every slip is answered with the nearest name."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unrolled.core.config import keys, nested
from unrolled.core.errors import UsageError, UserError
from unrolled.runs import recipes
from unrolled.runs.keys import deep, flat, parse, words
from unrolled.runs.recipes import about, find_data, merge, requested
from unrolled.tasks.recipe import Recipe
from unrolled.training.precision import choose


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNROLLED_DATA", raising=False)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("layer=lstm", "lstm"),
        ("training.max_steps=50", 50),
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=2.5E-4", 0.00025),
        ("data.text=[title, body]", ["title", "body"]),
        ("model.tie=true", True),
        ("training.patience=", None),
        ("training.clip=null", None),
        ("data.train=a=b.csv", "a=b.csv"),
        ("data.text=감정 문장", "감정 문장"),
        ("data.label=eager", "eager"),
        # names that YAML reads as something else
        *(
            (f"data.label={name}", name)
            for name in ("no", "2024", "1e3", "#x", "~", "a: b", " y")
        ),
        ("data.text=12:30", "12:30"),
        ("data.text=[no, 12:30]", ["no", "12:30"]),
        ("data.numbers=[2023, 2024]", ["2023", "2024"]),
        ("data.text='null'", "null"),
        ("data.label=null", None),
        ("data.text=", None),
        ("name=2024", "2024"),
        ("name=null", "null"),
        ("training.average=none", "none"),
        ("data.max_tokens=null", None),
        ("model.tie=no", False),
        ("data.no_such=12", 12),
        ("training.optimizer.no_such=12", 12),
    ],
)
def test_a_word_is_a_key_and_a_yaml_value(word: str, value: Any) -> None:
    ((key, parsed),) = parse([word]).items()
    assert key == word.split("=")[0]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("word", ["lstm", "=5", "--layer"])
def test_a_word_without_a_key_or_value_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is not key=value"):
        parse([word])


@pytest.mark.parametrize("word", ["data.text=[a", "data.label='a", "seed=2024-13-01"])
def test_a_value_that_is_not_yaml_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="not readable; quote it"):
        parse([word])


def test_flat_and_deep_are_inverse() -> None:
    nested = {"a": 1, "b": {"c": 2, "d": {"e": None}}}
    assert flat(nested) == {"a": 1, "b.c": 2, "b.d.e": None}
    assert deep(flat(nested)) == nested


def test_a_key_below_a_single_value_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'layer' is not a group of keys"):
        deep({"layer": "gru", "layer.x": 1})


def test_a_limit_replaces_all_limits_of_a_recipe_and_other_keys_none() -> None:
    base = {"training": {"max_epochs": 20, "max_minutes": 9, "clip": 2.0}}
    assert merge(base, {"training.max_steps": 5}) == {
        "training": {"clip": 2.0, "max_steps": 5}
    }
    assert merge(base, {"training.clip": 1.0})["training"] == {
        "max_epochs": 20,
        "max_minutes": 9,
        "clip": 1.0,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training.max_step": 5},
            "unknown key 'training.max_step'; did you mean 'training.max_s",
        ),
        ({"hidden": 5}, "unknown key 'hidden'; did you mean 'model.hidden'?"),
        ({"model.hiden": 5}, "did you mean 'model.hidden'?"),
        ({"max_minutes": 5}, "did you mean 'training.max_minutes'?"),
        ({"layr": "gru"}, "did you mean 'layer'?"),
        ({"training.lr": 0.1}, "did you mean 'training.learning_rate'?"),
        ({"lr": 0.1}, "did you mean 'training.learning_rate'?"),
        ({"training.epochs": 3}, "did you mean 'training.max_epochs'?"),
        ({"minutes": 3}, "did you mean 'training.max_minutes'?"),
        ({"model.seed": 3}, "did you mean 'seed'?"),
        ({"training": 5}, "training is a group of keys: set training.KEY=value"),
        ({"data": None}, "data is a group of keys: set data.KEY=value"),
        ({"layer": "transformer"}, "a transformer is layer=attention here"),
        ({"layer": "gpt"}, "a gpt is layer=attention here"),
        ({"layer": "ltsm"}, "there is no layer 'ltsm'; did you mean 'lstm'?"),
        (
            {"model.hidden": "big"},
            "model.hidden='big': input should be a valid integer",
        ),
        (
            {"model.hidden": 0},
            "model.hidden=0: input should be greater than or equal to 1",
        ),
        ({"data.tokenizer": "bep"}, "data.tokenizer='bep': input should be 'chars'"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_meant(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError) as caught:
        requested("x.csv", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_data_file_names_the_run(tmp_path: Path) -> None:
    (tmp_path / "film.reviews.tsv.gz").write_bytes(b"x")
    recipe = requested("film.reviews.tsv.gz", {"layer": "rnn"})
    assert (recipe.name, recipe.layer, recipe.data.train) == (
        "film",
        "rnn",
        "film.reviews.tsv.gz",
    )


def test_a_yaml_file_of_ones_own_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("layer: lstm\ndata: {train: a.csv}\n")
    recipe = requested("mine.yaml", {"model.hidden": 7})
    assert (recipe.name, recipe.layer, recipe.data.train, recipe.model.hidden) == (
        "mine",
        "lstm",
        "a.csv",
        7,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer: [gru\nname: x\n", r"bad.yaml:2: this is not YAML"),
        ("- a\n", "a recipe is a mapping of keys to values"),
        ("data: a.csv\n", "data"),
        ("layers: 2\n", "did you mean 'model.layers'?"),
    ],
)
def test_a_faulty_yaml_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        requested("bad.yaml", {})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("target", "nearest"),
    [("revews.csv", "reviews.csv"), ("sub/dat.tsv", "sub/data.tsv")],
)
def test_a_file_that_is_not_there_is_answered_with_the_nearest(
    tmp_path: Path, target: str, nearest: str
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("reviews.csv", "sub/data.tsv"):
        (tmp_path / name).write_text("a,b\n")
    with pytest.raises(
        UsageError, match=rf"no recipe and no file .*; did you mean '{nearest}'\?"
    ):
        requested(target, {})


def test_a_recipe_that_does_not_exist_is_answered_with_the_nearest() -> None:
    name = recipes.shipped()[0]
    with pytest.raises(UsageError, match=f"did you mean '{name}'"):
        requested(name + "s", {})


@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_loads_resolves_and_tells_of_itself(name: str) -> None:
    recipe = requested(name, {})
    assert recipe.name == name
    assert recipe.data.train
    description = about(name)
    assert description.what
    assert description.minutes is None or 0 < description.minutes <= 100
    ships = (recipes.folder() / "data" / recipe.data.train).exists()
    # data that does not ship is named with its source, licence and size
    assert ships or (description.source and description.licence and description.size)
    # the file, read again from what is saved, is the same recipe
    assert Recipe.read(recipes.deep(flat(recipe.model_dump(mode="json")))) == recipe


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_shipped_recipe_sets_only_keys_that_exist(name: str) -> None:
    document = recipes.read_yaml(recipes.folder() / f"{name}.yaml")
    document.pop("about")
    assert set(flat(document)) <= set(keys(Recipe))


def _absent() -> str:
    for name in recipes.shipped():
        train = requested(name, {}).data.train
        if (
            about(name).source
            and train
            and not (recipes.folder() / "data" / train).exists()
        ):
            return name
    raise AssertionError("every recipe ships its data")


def test_absent_data_is_told_with_source_licence_size_and_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = requested(_absent(), {})
    description = about(_absent())
    assert recipe.data.train is not None
    for root, folder in (
        (None, "data"),
        (tmp_path / "corpora", str(tmp_path / "corpora")),
    ):
        if root:
            monkeypatch.setenv("UNROLLED_DATA", str(root))
        with pytest.raises(UserError) as caught:
            find_data(recipe, recipe.data.train)
        message = str(caught.value)
        for part in (
            description.source,
            description.licence,
            description.size,
            f"{folder}/{recipe.data.train}",
        ):
            assert str(part) in message
        assert "\n" not in message


def test_data_is_found_as_given_then_among_the_recipes_then_in_unrolled_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = Recipe()
    shared = tmp_path / "shared" / "mine"
    shared.mkdir(parents=True)
    (shared / "a.csv").write_text("x")
    monkeypatch.setenv("UNROLLED_DATA", str(tmp_path / "shared"))
    assert find_data(recipe, "mine/a.csv") == shared / "a.csv"
    assert find_data(recipe, "anthem.txt") == recipes.folder() / "data" / "anthem.txt"
    (tmp_path / "anthem.txt").write_text("x")
    assert find_data(recipe, "anthem.txt") == Path("anthem.txt")
    with pytest.raises(
        UserError, match=r"anthm\.txt: no such file; did you mean 'anthem\.txt'\?"
    ):
        find_data(recipe, "anthm.txt")


def test_changed_keys_leaves_the_limits_out() -> None:
    old = Recipe()
    new = old.changed(
        seed=3, training=old.training.changed(max_steps=70, max_minutes=1.0, clip=2.0)
    )
    assert recipes.changed_keys(old, new) == ["seed", "training.clip"]


# settings out of bounds


def groups(
    config: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in config.model_fields.items():
        inner = nested(field.annotation)
        if inner is not None:
            yield from groups(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def kinds_of(annotation: Any) -> set[type]:
    """Return the plain types of an annotation: two of ``Annotated[int, Ge(0)] | None``."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    parts = get_args(annotation)
    return set().union(*map(kinds_of, parts)) if parts else {annotation}


FIELDS = dict(groups(Recipe))
NUMBERS = [
    key for key, field in FIELDS.items() if kinds_of(field.annotation) & {int, float}
]


def test_there_are_numbers_to_bound() -> None:
    assert len(NUMBERS) > 60
    assert {"seed", "training.max_steps", "decoding.max_ratio", "model.hidden"} <= set(
        NUMBERS
    )


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_bounds(key: str) -> None:
    kinds = kinds_of(FIELDS[key].annotation)
    # seeds of 64 bits are those of torch; all else is far below what a machine can count to
    huge: list[Any] = [2**64, 10**40, -(2**64), -1]
    if key == "decoding.sampling.temperature":
        huge = [-1]  # any other is clamped where it divides
    elif float in kinds:
        huge = [1e300, -1e300, 1e308, float("inf"), float("nan"), -1.0, *huge]
    for value in huge:
        with pytest.raises(UsageError, match=rf"^{key}"):
            requested("anthem", {key: value})


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [1e-300, 5e-324])
def test_a_number_next_to_nothing_divides_nothing(key: str, value: float) -> None:
    # 1 / x overflows: refused, or never divided by
    try:
        resolved = flat(requested("anthem", {key: value}).model_dump())[key]
    except UsageError:
        return
    assert resolved == value
    assert key != "decoding.repetition_penalty"


@pytest.mark.parametrize(
    "device", ["meta", "tpu", "cuda:x", "cpu:9999999999999", "mps; rm", "", "cuda:-1"]
)
def test_a_device_that_trains_nothing_is_refused(device: str) -> None:
    with pytest.raises(UserError):
        choose(requested("anthem", {"training.device": device}).training.device, "fp32")


# recipes that would take the machine

HOSTILE = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
        for old, new in pairwise("abcdefghij")
    ),
    "itself": "model: &m {x: *m}\n",
    "a list in itself": "model: &m [*m]\n",
    "merged": "a: &a {x: 1}\n"
    + "".join(f"k{n}: {{<<: *a, y{n}: 1}}\n" for n in range(50_000)),
    "no date": "name: 2024-13-45\n",
    "no time": "name: 2024-01-01 99:99:99\n",
    "digits": f"seed: {'9' * 5000}\n",
    "hexadecimal digits": f"seed: 0x{'f' * 5000}\n",
    "sexagesimal digits": f"seed: {':'.join(['59'] * 3000)}\n",
    "a list for a key": "? [a, b]\n: 1\n",
    "a mapping for a key": "? {a: b}\n: 1\n",
    "deep": "a: " + "[" * 20_000 + "]" * 20_000 + "\n",
    "deep blocks": "".join(" " * n + "a:\n" for n in range(2000)),
    "wide": "a: [" + "x," * 200_000 + "]\n",
    "nulls": "\0\0\0",
    "bytes": "\xff\xfe\x00",
    "an object": "name: !!python/object/apply:os.system ['true']\n",
    "a set": "name: !!set {a, b}\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a number": "7\n",
    "nothing": "",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_recipe_that_is_none_is_one_line_in_no_time(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(HOSTILE[kind].encode("latin-1"))
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        requested(str(path), {})
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or "\nname:" in f"\n{HOSTILE[kind]}"
    # and as a word of the command line
    with suppress(UserError):
        parse([f"data.extra={HOSTILE[kind][:5000]}"])


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"\n ,?#%@1.é\x07"), max_size=60))
def test_any_text_is_a_recipe_or_an_error_of_one_line(text: str) -> None:
    with TemporaryDirectory() as home:
        path = Path(home, "r.yaml")
        path.write_text(text, "utf-8")
        with suppress(UserError):
            requested(str(path), {})
    for word in (text, f"name={text}", f"seed={text}", f"data.text={text}"):
        with suppress(UserError):
            requested("anthem", parse([word]))


def test_a_hundred_faulty_keys_are_a_few_sentences() -> None:
    with pytest.raises(UsageError) as caught:
        requested("anthem", {f"model.k{n}": 1 for n in range(100)})
    assert "95 more keys are faulty" in str(caught.value)


PLAIN = [key for key in NUMBERS if key != "training.label_weights"]


@given(st.dictionaries(st.sampled_from(PLAIN), st.integers(0, 3), max_size=3))
def test_words_are_read_back_as_the_changes(changes: dict[str, Any]) -> None:
    assert parse(words(changes)) == changes


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_a_text_of_words_is_read_back(text: str) -> None:
    arguments = words({"name": text, "data.text": [text, "b"]})
    assert (
        all(len(word.splitlines()) <= 1 for word in arguments) or not text.isprintable()
    )
    assert parse(arguments) == {"name": text, "data.text": [text, "b"]}
