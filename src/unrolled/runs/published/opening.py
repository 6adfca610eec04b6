"""A checkpoint of another program as a run: settings, weights and tokenizer put together."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from unrolled.core.errors import UsageError, UserError, listed
from unrolled.core.files import JSON_BYTES, read_bytes, read_json
from unrolled.core.words import option
from unrolled.data.sources import Format
from unrolled.models import LanguageModel
from unrolled.nn.without_memory import without_memory
from unrolled.runs.folder import Loaded, is_run
from unrolled.runs.published.config import (
    CONFIG,
    TOKENIZER_CONFIG,
    PublishedConfig,
    read_config,
)
from unrolled.runs.published.families import LLAMA, Family, family_of
from unrolled.runs.published.gguf import GgufFile
from unrolled.runs.published.gguf_header import MAGIC
from unrolled.runs.published.llama2c import KINDS, Llama2cFile
from unrolled.runs.published.weights import (
    INDEX,
    SafetensorsFolder,
    Shape,
    Stored,
    refuse_misfit,
)
from unrolled.tasks.base import FileLayout
from unrolled.tasks.language import Language
from unrolled.tasks.recipe import Recipe
from unrolled.text.gguf import gguf_tokenizer
from unrolled.text.published import PublishedTokenizer, read_document, read_llama2c
from unrolled.text.vocabulary_files import MERGES, VOCABULARY, read_vocabulary_files

TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
VOCABULARIES = "tok*.bin"
SENTENCEPIECE = "tokenizer.model"
# by family: how text is cut where a folder holds vocab.json and merges.txt alone
RULES = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}


def is_published(path: Path) -> bool:
    """Whether a path is to be opened as a checkpoint of another program, and is no run of ours."""
    if path.is_dir():
        names = (CONFIG, INDEX)
        return not is_run(path) and any(os.path.lexists(path / name) for name in names)
    return os.path.lexists(path)


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """What a checkpoint says of itself: the numbers of its weights are not read yet."""

    config: PublishedConfig
    family: Family
    stored: Stored


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint of another program, and no file of data, by what it holds."""
    if path.is_dir():
        return is_published(path)
    try:
        if not os.path.lexists(path) or not stat.S_ISREG(os.stat(path).st_mode):
            return False
        if _magic(path) == MAGIC:
            return True
        Llama2cFile(path)
    except (UserError, OSError, ValueError):
        return False
    return True


def open_published(path: Path, tokenizer: Path | None = None) -> Loaded:
    """Open a checkpoint of another program.

    Args:
        path: a folder of Hugging Face, a GGUF file, or a file of llama2.c.
        tokenizer: the file of its vocabulary; by default the one in the folder or in the GGUF file,
            or ``tok*.bin`` beside the file.

    Raises:
        UserError: it is of an unknown kind, asks for code, or its weights are not those of its
            settings.
    """
    checkpoint = _read(path)
    settings = checkpoint.family.settings(checkpoint.config)
    vocabulary = _tokenizer(path, checkpoint, tokenizer)
    settings = {**settings, "tie": settings["tie"] and _is_tied(checkpoint)}
    recipe = _recipe(path, checkpoint, settings)
    layout = FileLayout([], Format("text"))
    task = Language(vocabulary, (), layout)
    model = _build(task, recipe, checkpoint)
    ended = {"family": checkpoint.family.name}
    return Loaded(path, recipe, task, model.eval(), ended)


def brings_tokenizer(path: Path) -> bool:
    """Whether a checkpoint of another program can read text without a tokenizer that is named."""
    try:
        return bool(_tokenizer(path, _read(path), None).document)
    except UserError:
        # several vocabularies stand beside it, or its own is of an unknown kind
        return False


def _read(path: Path) -> PublishedCheckpoint:
    """Return settings, architecture and weights, of which the shapes alone are read."""
    if path.is_dir():
        config = read_config(path)
        return PublishedCheckpoint(config, family_of(config), SafetensorsFolder(path))
    if _magic(path) == MAGIC:
        gguf = GgufFile(path)
        return PublishedCheckpoint(gguf.config, gguf.family, gguf)
    file = Llama2cFile(path)
    return PublishedCheckpoint(file.config, LLAMA, file)


def _magic(path: Path) -> bytes:
    """Return how a file begins. Raises UserError: it is no regular file, or has no settings."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path}: this is no regular file; expected {KINDS}")
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"{path}: this cannot be read ({error.strerror})") from None
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: give its folder, which holds the settings, too")
    return magic


def _recipe(
    path: Path, checkpoint: PublishedCheckpoint, settings: Mapping[str, Any]
) -> Recipe:
    """Return the settings as those of a run. Raises UserError: they are no model's."""
    config = checkpoint.config
    tensors = len(checkpoint.stored.shapes)
    if settings["layers"] > tensors:
        raise UserError(
            f"{config.path}: {settings['layers']:,} layers, and there are {tensors:,} tensors"
        )
    whole = path.resolve()
    values = {
        "name": whole.name if path.is_dir() else whole.stem,
        "task": "language",
        "layer": "attention",
        "model": {**settings, "head_bias": _has_head_bias(checkpoint)},
        "training": {"precision": "fp32"},
    }
    try:
        return Recipe.read(values)
    except UserError as error:
        raise UserError(f"{config.path}: {error}") from None


def _is_tied(checkpoint: PublishedCheckpoint) -> bool:
    """Whether no output weights are stored beside the embedding, or the same ones.

    Some programs store others though the settings call them tied, and then those count.
    """
    family = checkpoint.family
    stored = checkpoint.stored
    embedding = family.origin("embedding.weight", _is_bare(checkpoint))
    head = family.origin("head.weight", False)
    if not {*embedding.names, *head.names} <= set(stored.shapes):
        return True
    return torch.equal(embedding.read(stored), head.read(stored))


def _is_bare(checkpoint: PublishedCheckpoint) -> bool:
    """Whether names lack the prefix of the family, as those of GPT-2's own files do."""
    prefix = checkpoint.family.prefix
    return not any(name.startswith(prefix) for name in checkpoint.stored.shapes)


def _has_head_bias(checkpoint: PublishedCheckpoint) -> bool:
    """Whether a bias of the output weights is stored, which few families have a name for."""
    bias = checkpoint.family.outer.get("head.bias")
    return bias is not None and bias.names[0] in checkpoint.stored.shapes


def _build(
    task: Language, recipe: Recipe, checkpoint: PublishedCheckpoint
) -> nn.Module:
    """Return the model with its weights, once all names and shapes were seen to fit."""
    family = checkpoint.family
    stored = checkpoint.stored
    try:
        with without_memory():
            model = cast(LanguageModel, task.build(recipe))
    except UsageError as error:
        raise UserError(f"{checkpoint.config.path}: {error}") from None
    ours: dict[str, Shape] = {}
    for name, tensor in model.state_dict().items():
        ours[name] = tuple(tensor.shape)
    tie = recipe.model.tie
    if tie:
        head = ours.pop("head.weight")
    bare = _is_bare(checkpoint)
    expected = dict(family.expected(ours, bare))
    spare = _buffers(family, stored)
    if tie:
        spare[family.outer["head.weight"].names[0]] = head
    refuse_misfit(stored, expected, spare)
    weights = {name: family.origin(name, bare).read(stored) for name in ours}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{stored.path}: {name} holds numbers that are not finite")
    model.load_state_dict(weights, strict=not tie, assign=True)
    if tie:
        model.head.weight = model.embedding.weight
    return model


def _buffers(family: Family, stored: Stored) -> dict[str, Shape]:
    """Return what is stored beside weights: masks and rotations, which are computed anew."""
    return {
        name: shape
        for name, shape in stored.shapes.items()
        if name.endswith(family.buffers)
    }


def _tokenizer(
    path: Path, checkpoint: PublishedCheckpoint, file: Path | None
) -> PublishedTokenizer:
    """Return the tokenizer of a checkpoint; one that says what is missing where there is none."""
    config = checkpoint.config
    size = config.whole("vocab_size")
    ends = config.ids("eos_token_id", size)
    starts = config.ids("bos_token_id", size)
    start = starts[0] if starts else None
    document: dict[str, Any] | None = None
    source: Path | None = file
    lacking = ""
    if isinstance(checkpoint.stored, GgufFile):
        document = _gguf_document(checkpoint.stored, file)
        source = file or path
        lacking = (
            f"{path}: it holds no tokenizer, to read and write text; name a {TOKENIZER} by "
            f"{option('tokenizer')}"
        )
    elif path.is_dir():
        source = file or path / TOKENIZER
        if file is not None or os.path.lexists(source):
            document = read_document(source)
        elif _has_byte_pairs(path) and checkpoint.family.name in RULES:
            source = path / VOCABULARY
            rule = RULES[checkpoint.family.name]
            settings = path / TOKENIZER_CONFIG
            marks = (*starts, *ends)
            document = read_vocabulary_files(path, rule, marks, settings)
        lacking = _lacking(path)
    else:
        source = _vocabulary_beside(path) if file is None else file
        if source is not None:
            document = read_llama2c(source, size)
        lacking = (
            f"{path}: expected its vocabulary beside it ({VOCABULARIES}), or as "
            f"{option('tokenizer')}"
        )
    try:
        program = _chat_template(path, checkpoint)
        return PublishedTokenizer(document, size, start, ends, lacking, program)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _chat_template(path: Path, checkpoint: PublishedCheckpoint) -> str:
    """Return the program by which a checkpoint marks turns, as text; empty where there is none."""
    if isinstance(checkpoint.stored, GgufFile):
        program = checkpoint.stored.metadata.get("tokenizer.chat_template", "")
        return str(program)
    file = path / CHAT_TEMPLATE
    if path.is_dir() and os.path.lexists(file):
        return read_bytes(file, JSON_BYTES).decode("utf-8", "replace")
    settings = path / TOKENIZER_CONFIG
    if not path.is_dir() or not os.path.lexists(settings):
        return ""
    try:
        said = read_json(settings).get("chat_template") or ""
    except (OSError, ValueError, AttributeError):
        return ""  # a tokenizer is read without it
    # some have one for talks, and others for tools
    named = said if isinstance(said, list) else [{"name": "default", "template": said}]
    known = [item for item in named if isinstance(item, dict)]
    default = [item for item in known if item.get("name") == "default"] or known
    return str(default[0].get("template", "")) if default else ""


def _has_byte_pairs(folder: Path) -> bool:
    return all(os.path.lexists(folder / name) for name in (VOCABULARY, MERGES))


def _lacking(folder: Path) -> str:
    """Return what to say where a folder has no tokenizer that can be read."""
    message = f"{folder}: expected {TOKENIZER} here, to read and write text"
    others = (SENTENCEPIECE, VOCABULARY)
    names = [name for name in others if os.path.lexists(folder / name)]
    if not names:
        return message
    return (
        f"{message}; transformers makes it of {listed(names)}: "
        f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )


def _gguf_document(file: GgufFile, tokenizer: Path | None) -> dict[str, Any] | None:
    """Return the tokenizer of a GGUF file, or of another one that is named."""
    if tokenizer is not None:
        return read_document(tokenizer)
    try:
        return gguf_tokenizer(file.metadata)
    except UserError as error:
        raise UserError(
            f"{file.path}: {error}; name a {TOKENIZER} by {option('tokenizer')}"
        ) from None


def _vocabulary_beside(path: Path) -> Path | None:
    """Return the vocabulary beside a file of llama2.c. Raises UserError: there are several."""
    files = sorted(path.parent.glob(VOCABULARIES))
    if len(files) > 1:
        names = listed(file.name for file in files)
        raise UserError(
            f"{path}: {names} stand beside it; say which one by {option('tokenizer')}"
        )
    return files[0] if files else None
