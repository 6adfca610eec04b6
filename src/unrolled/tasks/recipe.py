"""Recipes: a YAML file or a data file, and ``key=value`` changes, become one typed config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import Field, field_validator

from unrolled.core.config import Config, keys, nested
from unrolled.core.errors import (
    UsageError,
    UserError,
    cut,
    listed,
    nearest,
    shown,
    unknown,
)
from unrolled.core.files import exists, expanded, read_text, refuse_strange
from unrolled.core.terminal import as_json
from unrolled.core.words import either
from unrolled.core.yaml import load_yaml
from unrolled.data.hub import is_hub, title
from unrolled.decoding.settings import Search
from unrolled.nn.build import LAYERS, LayerConfig
from unrolled.training.settings import LIMITS, TrainingConfig

CONFIG = "config.yaml"
FILES = (
    "train",
    "dev",
    "train_target",
    "dev_target",
)  # the keys of `data` that name files
# files that belong to another one: where that is replaced, they are of other data
BELONGS = {
    "train": ("train_target", "dev", "dev_target"),
    "train_target": ("dev", "dev_target"),
    "dev": ("dev_target",),
    "dev_target": (),
}
Pieces = Literal["chars", "jamo", "words", "whitespace", "bpe", "unigram", "bytes"]


class DataConfig(Config):
    """Which file is read and how."""

    train: str | None = Field(None, description="the data file")
    dev: str | None = Field(
        None, description="a file of held-out rows; by default part of `train`"
    )
    train_target: str | None = Field(
        None, description="the file whose lines are the answers to the lines of `train`"
    )
    dev_target: str | None = Field(
        None, description="the file whose lines are the answers to the lines of `dev`"
    )
    text: str | list[str] | None = Field(
        None, description="the column of text, or several"
    )
    numbers: list[str] | None = Field(
        None, description="the columns of numbers that are read"
    )
    label: str | None = Field(None, description="the column to predict")
    rows: Literal["examples", "steps"] | None = Field(
        None,
        description="whether a row is an example, or one step of a sequence of numbers",
    )
    sequence: str | None = Field(
        None,
        description="steps: rows of equal value here are one sequence; else the whole file",
    )
    window: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="steps: answer for every stretch of so many, not for whole sequences; tagging "
        "learns from pieces of so many",
    )
    ahead: int = Field(
        1,
        ge=0,
        le=10**6,
        description="window: how many steps after its last one the answer stands",
    )
    difference: bool = Field(
        False,
        description="window: learn the change from the last step and add it to that",
    )
    encoding: str | None = Field(
        None, description="the file's encoding, such as cp949; by default UTF-8"
    )
    tokenizer: Pieces | None = Field(
        None,
        description="pieces a text is cut into; chars for a language model and for rewrite, bpe "
        "for translate, else unigram",
    )
    vocabulary: int = Field(
        16000, ge=5, le=10**7, description="the most pieces a tokenizer learns"
    )
    target_tokenizer: Pieces | None = Field(
        None, description="pieces an answer is cut into; by default as the texts"
    )
    target_vocabulary: int | None = Field(
        None,
        ge=5,
        le=10**7,
        description="the most pieces of answers; by default as `vocabulary`",
    )
    joint: bool = Field(False, description="one vocabulary for texts and answers")
    target_without: str = Field(
        "",
        description="rewrite: characters left out of the answers, such as 012, marks of stress",
    )
    copy_unknown: bool = Field(
        True,
        description="words, whitespace: put in the source word that attention looks at where the "
        "answer is unknown",
    )
    score_tokenizer: Literal[
        "13a", "none", "char", "intl", "zh", "ja-mecab", "ko-mecab"
    ] = Field(
        "13a",
        description="translate: how sacrebleu cuts text into words; none for text that is",
    )
    min_count: int = Field(
        1,
        ge=1,
        le=10**9,
        description="pieces rarer than this are unknown (chars, jamo, words)",
    )
    max_tokens: int | None = Field(
        512,
        ge=2,
        le=10**7,
        description="a longer text is cut here; translate, rewrite, parse: a longer side is a "
        "faulty row",
    )
    holdout: float = Field(
        0.1, gt=0, lt=1, description="share held out when there is no `dev`"
    )
    limit: int | None = Field(
        None, ge=1, le=10**12, description="read only the first rows"
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop", description="what a faulty row does"
    )
    max_row: int = Field(
        1_000_000,
        ge=1,
        le=2**31,
        description="the most bytes of a row; running text has no limit",
    )
    shards: Literal["auto", "always", "never"] = Field(
        "auto",
        description="encode text into files that are mapped, not held in memory; auto does for a "
        "file of 128 MB or more",
    )

    @field_validator("numbers", mode="before")
    @classmethod
    def _several(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names


class ModelConfig(LayerConfig):
    """The model around the layer."""

    embedding: int = Field(
        128, ge=1, le=2**31 - 1, description="width of the token embedding"
    )
    embedding_std: float = Field(
        0.1, gt=0, le=100, description="spread of the embedding's first weights"
    )
    tie: bool = Field(False, description="output weights are the embedding's")
    share: bool = Field(
        False,
        description="unaligned: source and target have one embedding; needs data.joint",
    )
    scale_embedding: bool = Field(
        False, description="unaligned: embeddings times the square root of their width"
    )
    head_bias: bool = Field(True, description="unaligned: output weights have a bias")
    decoder: str | None = Field(
        None, description="unaligned: layer that writes; by default the one that reads"
    )
    decoder_layers: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="unaligned: stacked layers that write; by default as `layers`",
    )
    attention: Literal["additive", "multiplicative", "none"] = Field(
        "additive",
        description="unaligned: how a recurrent decoder looks back at the source",
    )
    input_feeding: bool = Field(
        True,
        description="unaligned, multiplicative: attention's output is read at the next step",
    )
    pooling: Literal["last", "mean", "max", "attention", "mean-max"] = Field(
        "mean-max", description="many to one: how the steps become one vector"
    )
    ngrams: int = Field(
        0,
        ge=0,
        le=1000,
        description="many to one: add a linear model over n-grams of up to n characters; tagging: "
        "read those of each word's pieces",
    )
    ngram_dropout: float = Field(
        0.5, ge=0, lt=1, description="share of n-grams left out in training"
    )
    spelling: int = Field(
        64,
        ge=0,
        le=2**31 - 1,
        description="tag, parse: width of what reads each word's characters; 0 is none",
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of tokens dropped whole"
    )
    embedding_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout after the embedding"
    )
    head_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the output weights"
    )


class ReportConfig(Config):
    """What ``report.html`` shows. It may change when a run is resumed."""

    samples: bool = Field(
        True,
        description="show rows of the data, and texts that a language model writes",
    )
    rows: int = Field(
        20, ge=0, le=10_000, description="rows shown of those with the worst answers"
    )


class Recipe(Config):
    """A run, complete: saved as ``config.yaml`` in its folder."""

    name: str = Field("run", description="name of the run; its folder is runs/<name>")
    task: (
        Literal[
            "classify", "regress", "tag", "language", "translate", "rewrite", "parse"
        ]
        | None
    ) = Field(None, description="by default inferred from the data")
    layer: str = Field("gru", description=", ".join(LAYERS))
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="equal seeds, versions and threads give equal runs on one machine",
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    decoding: Search = Search()
    report: ReportConfig = ReportConfig()

    @field_validator("layer")
    @classmethod
    def _known_layer(cls, name: str) -> str:
        if name in ("transformer", "gpt"):
            raise ValueError(f"a {name} is layer=attention here")
        if name not in LAYERS:
            own = "one of your own comes with --plugin FILE"
            raise ValueError(f"{unknown('layer', name, LAYERS)}; {own}")
        return name


class About(Config):
    """What a shipped recipe says of itself."""

    pattern: str
    what: str
    minutes: float | None = Field(
        None, description="wall time on 2 cores; None: it takes GPUs"
    )
    source: str | None = Field(
        None, description="where data that does not ship comes from"
    )
    licence: str | None = None
    size: str | None = None


def folder() -> Path:
    """Return the folder of the recipes that ship."""
    return Path(str(resources.files("unrolled") / "recipes"))


def shipped() -> list[str]:
    """Return the names of the recipes that ship."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UsageError naming file and line."""
    try:
        values = load_yaml(read_text(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        why = shown(str(getattr(error, "problem", None) or error), 200).strip("'\"")
        raise UsageError(f"{where}: this is not YAML: {why}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    return values


def about(name: str) -> About:
    """Return what a shipped recipe says of itself."""
    return About.read(read_yaml(folder() / f"{name}.yaml")["about"], name)


def parse(words: Iterable[str]) -> dict[str, Any]:
    """Turn ``key.sub=value`` words into a flat mapping.

    The value of a key that takes text is the text as typed, since YAML reads a column ``no`` as
    false and ``12:30`` as 750; lists, quoted text and the values of other keys are read as YAML.

    Raises:
        UsageError: a word has no ``=``, or its value is not YAML.
    """
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{shown(word)} is not key=value")
        try:
            changes[key] = _value(text, _kinds(_annotation(key)))
        except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-01
            raise UsageError(
                f"{shown(word)}: the value is not readable; quote it"
            ) from None
    return changes


def words(changes: Mapping[str, Any]) -> list[str]:
    """Return ``key=value`` words for dotted keys, from which ``parse`` reads the same values."""
    return [
        f"{key}={_written(value, _kinds(_annotation(key)))}"
        for key, value in changes.items()
    ]


def _written(value: Any, kinds: set[Any]) -> str:
    if value is None:
        return "null" if NoneType in kinds else ""
    if isinstance(value, str) and (str in kinds or Literal in kinds):
        quoted = not value or value == "null" or value[0] in "[{\"'" or "\n" in value
        return as_json(value) if quoted else value
    # one line, texts in quotes and what cannot be printed escaped: YAML reads JSON
    return as_json(value)


def _value(text: str, kinds: set[Any]) -> Any:
    """Return the value of a key that takes ``kinds``."""
    if not text or (text == "null" and NoneType in kinds):
        return None
    if str in kinds and text[0] not in "[{\"'":
        return text
    if str in kinds or (list[str] in kinds and text[0] == "["):
        return load_yaml(text, leave_words=True)
    value = load_yaml(text)
    # YAML 1.1 reads 1e-3 as text
    return _as_number(value) if isinstance(value, str) else value


def _annotation(key: str) -> Any:
    """Return the annotation of a dotted key of a recipe, None where there is no such key."""
    *groups, leaf = key.split(".")
    config: Any = Recipe
    for group in groups:
        field = config.model_fields.get(group)
        config = nested(field.annotation) if field else None
        if config is None:
            return None
    field = config.model_fields.get(leaf)
    return field.annotation if field else None


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows; a choice of words is text."""
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, inner))
    if origin is Literal:
        return {type(each) for each in inner}
    return {annotation}


def _as_number(text: str) -> str | float:
    try:
        return float(text) if "e" in text.lower() else text
    except ValueError:
        return text


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping of dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and not _holds_mapping(prefix + key):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _holds_mapping(key: str) -> bool:
    """Whether the value of a key is a mapping of names that are no keys."""
    return any(get_origin(kind) is dict for kind in _kinds(_annotation(key)))


def deep(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested mappings, the inverse of ``flat``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        *groups, leaf = key.split(".")
        inner = result
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UsageError(
                    f"unknown key {shown(key)}; {shown(group)} is not a group of keys"
                )
        inner[leaf] = value
    return result


def merge(
    base: dict[str, Any], changes: Mapping[str, Any], resume: bool = False
) -> dict[str, Any]:
    """Apply flat changes to nested values.

    A limit that is set replaces the limits of ``base``: who asks a recipe of 20 epochs for 50
    steps means 50 steps, and who asks for 2 minutes means 2 minutes. A file that is replaced takes
    along those that belong to it; see :func:`left_out`. Not so where a run is resumed, whose files
    may have moved one by one.
    """
    values = flat(base)
    wanted = flat(changes)
    gone = set() if resume else {f"data.{name}" for name in left_out(values, wanted)}
    if any(f"training.{name}" in wanted for name in LIMITS):
        gone |= {f"training.{name}" for name in LIMITS}
    return deep(
        {key: value for key, value in values.items() if key not in gone} | wanted
    )


def left_out(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, str]:
    """Return which files of ``values`` belong to one that is replaced, and by which key it is.

    Both are flat. A recipe whose training file is replaced must not be scored on its own dev
    file, nor lines of one file be answered by those of another.
    """
    gone: dict[str, str] = {}
    for name, owned in BELONGS.items():
        key = f"data.{name}"
        if key not in changes or changes[key] == values.get(key):
            continue
        for other in owned:
            if (
                values.get(f"data.{other}") is not None
                and f"data.{other}" not in changes
            ):
                gone.setdefault(other, name)
    return gone


def resolve(target: str, changes: Mapping[str, Any], resume: bool = False) -> Recipe:
    """Return the recipe for a name, a YAML file, a run or a data file; see ``merge``.

    Raises:
        UsageError: there is no such recipe or file (the nearest name is given), or a key is wrong.
    """
    try:
        merged = merge(base_of(target), changes, resume)
    except AttributeError:
        raise UsageError(f"{target}: a group of keys holds a single value") from None
    return Recipe.read(merged)


def left_out_lines(target: str, changes: Mapping[str, Any]) -> list[str]:
    """Say which files of a recipe are not used, since the one they belong to was replaced."""
    try:
        values = flat(base_of(target))
    except AttributeError:
        return []
    return [
        f"left out data.{other}={values[f'data.{other}']}, which belongs to "
        f"data.{owner}={values.get(f'data.{owner}')}; name another with data.{other}=FILE"
        for other, owner in left_out(values, flat(changes)).items()
    ]


def base_of(target: str) -> dict[str, Any]:
    """Return the values that a name, a YAML file, a run or a data file stands for.

    Raises:
        UsageError: there is no such recipe or file (the nearest name is given).
    """
    path = expanded(target)
    if target in shipped() and not exists(path / CONFIG):
        base = read_yaml(folder() / f"{target}.yaml")
        base.pop("about")
        base.setdefault("name", target)
    elif path.suffix in (".yaml", ".yml") and exists(path):
        base = read_yaml(path)
        base.pop("about", None)
        base.setdefault("name", path.stem)
    elif exists(path / CONFIG):
        refuse_strange(path / CONFIG, os.path.realpath(path))
        base = read_yaml(path / CONFIG)
    elif is_hub(target):
        base = {"name": title(target), "data": {"train": target}}
    elif exists(path):
        # the name of a folder may be "."
        base = {
            "name": path.absolute().name.split(".")[0] or "run",
            "data": {"train": str(path)},
        }
    else:
        raise UsageError(_no_such(target))
    return base


def _no_such(target: str) -> str:
    names = beside(Path(target))
    file = nearest(Path(target).name, names)
    # a name with a dot means a file
    guess = (Path(target).suffix and file) or nearest(target, shipped()) or file
    if guess and guess in names:
        guess = str(Path(target).parent / guess)
    every = either(
        "`unrolled recipes` lists the recipes", f"the recipes are {listed(shipped())}"
    )
    hint = f"; did you mean {shown(guess)}?" if guess else f"; {every}"
    return f"there is no recipe and no file {shown(target, 200)}{hint}"


def find_data(recipe: Recipe, name: str) -> Path:
    """Return where a data file stands: as given, beside the recipes, or in UNROLLED_DATA.

    Raises:
        UserError: it is in none of these; for a shipped recipe the message says where the data
            comes from, its licence and size, and the folder to put it in.
    """
    if is_hub(name):
        return Path(name)
    if not name or "\0" in name:
        raise UsageError(f"{shown(name)} is no name of a data file")
    places = [expanded(name), folder() / "data" / name]
    root = os.environ.get("UNROLLED_DATA")
    if root:
        places.append(expanded(root) / name)
    for place in places:
        if exists(place):
            return place
    if recipe.name in shipped():
        known = about(recipe.name)
        own = read_yaml(folder() / f"{recipe.name}.yaml").get("data", {})
        if known.source and name in (own.get(key) for key in FILES):
            put = Path(root or "data") / name
            setting = "" if root else " and set UNROLLED_DATA=data"
            raise UserError(
                f"{name} is not here: it comes from {known.source} (licence {known.licence}, "
                f"{known.size}); put it at {put}{setting}"
            )
    guess = nearest(Path(name).name, beside(Path(name)))
    hint = f"; did you mean {shown(guess)}?" if guess else ""
    raise UserError(f"{cut(name, 300)}: no such file{hint}")


def beside(path: Path) -> list[str]:
    """Return the names of what stands in the folder of a path, none where there is no folder."""
    try:
        return os.listdir(path.parent)
    except OSError:
        return []


def as_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, those left out that train nothing."""
    before = flat(old.model_dump())
    after = flat(new.model_dump())
    free = {f"training.{name}" for name in LIMITS} | set(keys(ReportConfig, "report."))
    return [
        key for key in keys(Recipe) if before[key] != after[key] and key not in free
    ]
