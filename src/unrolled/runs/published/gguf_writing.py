"""Language models as GGUF files, which llama.cpp reads: settings, tokenizer and weights in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from unrolled.core.errors import UserError, shown
from unrolled.export.parity import Difference
from unrolled.export.plain import refuse_changed
from unrolled.models import LanguageModel
from unrolled.nn import Attention
from unrolled.nn.rotary_scaling import PLAIN, RotaryScaling
from unrolled.runs.published.config import PublishedConfig
from unrolled.runs.published.drafting import Draft, draft_of, family_for
from unrolled.runs.published.gguf import (
    ARCHITECTURE,
    GPT2_KEYS,
    LLAMA_KEYS,
    named_family,
    turned_heads,
)
from unrolled.runs.published.gguf_header import read_header
from unrolled.runs.published.gguf_rotary import FACTORS, LISTED, scaling_metadata
from unrolled.runs.published.opening import open_published
from unrolled.runs.published.rotary import usual_attention_factor
from unrolled.runs.published.writing import difference_of, named_by
from unrolled.text.gguf import DOCUMENT, MODEL, gguf_tokenizer
from unrolled.text.gguf_writing import metadata_of
from unrolled.text.published import PublishedTokenizer
from unrolled.text.tokenizers import Tokenizer

FILE = "model.gguf"
README = """\
# A model for llama.cpp: {architecture}

`model.gguf` holds settings, tokenizer and weights in fp32. With llama.cpp:

    llama-completion -m model.gguf -p "a text" -n 50 --temp 0 -no-cnv

`llama-quantize model.gguf small.gguf Q8_0` makes it smaller. It reads {context:,} positions.

{notes}
"""


def write_gguf(
    model: nn.Module, tokenizer: Tokenizer | None
) -> Callable[[Path], Difference]:
    """Return what writes a model into a folder and compares it, once it is seen to be one of these.

    Args:
        model: in evaluation mode, on the CPU.
        tokenizer: its vocabulary.

    Raises:
        UserError: llama.cpp has no such model or tokenizer; the message says what to set.
    """
    if not isinstance(model, LanguageModel):
        raise UserError(
            "gguf has language models; texts written from texts are exported to ctranslate2, "
            "everything else to onnx"
        )
    assert tokenizer is not None
    refuse_changed(model, "gguf")
    draft = draft_of(model, "gguf")
    scaling = _taken_scaling(draft)
    family, values = family_for(draft, "gguf")
    _refuse_otherwise(family.name, draft)
    # GGUF calls Mistral a Llama
    architecture = "llama" if family.name == "mistral" else family.name
    metadata: dict[str, Any] = {MODEL: "no_vocab"}
    notes = [*draft.notes, "there is no tokenizer to write: the file reads ids alone"]
    if tokenizer.document:
        metadata, cut = metadata_of(tokenizer, model.embedding.size)
        notes = [*draft.notes, *cut]
    metadata |= _settings(architecture, values, draft)
    metadata |= scaling_metadata(scaling, architecture)
    factors = _factors(cast(Attention, model.layer), architecture)
    values = {**values, "num_key_value_heads": draft.settings["kv_heads"]}

    def write(folder: Path) -> Difference:
        _write(folder / FILE, architecture, metadata, values, draft.weights, factors)
        page = README.format(
            architecture=architecture,
            context=draft.settings["context"],
            notes="\n".join(f"- {note}" for note in notes),
        )
        (folder / "README.md").write_text(page, "utf-8")
        opened = open_published(folder / FILE)
        _compare_texts(folder / FILE, tokenizer)
        ours = cast(LanguageModel, opened.model)
        others = [lambda ids: ours(ids)[0].numpy()]
        context = draft.settings["context"]
        return difference_of(model, others, context, tuple(notes))

    return write


def _refuse_otherwise(family: str, draft: Draft) -> None:
    """Raise UserError for what llama.cpp does otherwise than transformers."""
    if family == "gpt2" and draft.settings["feedforward"] != "gelu-tanh":
        raise UserError(
            "llama.cpp has a GPT-2 with model.feedforward=gelu-tanh alone, and this model has "
            f"{draft.settings['feedforward']}; export to hf or onnx"
        )
    window = draft.settings["attention_window"]
    if window is not None and window < draft.settings["context"]:
        raise UserError(
            f"llama.cpp leaves out the window of this kind (model.attention_window={window}); "
            "export to hf or onnx"
        )


def _taken_scaling(draft: Draft) -> RotaryScaling:
    """Take the scaling of positions out of a draft: GGUF has forms of its own for it.

    Raises:
        UserError: llama.cpp chooses one of its numbers by itself.
    """
    scaling: RotaryScaling = draft.settings["rotary_scaling"]
    draft.settings["rotary_scaling"] = PLAIN
    usual = usual_attention_factor(scaling.factor or 1.0)
    own = scaling.attention_factor
    if own is not None and not math.isclose(own, usual, rel_tol=1e-6):
        raise UserError(
            f"llama.cpp has yarn with an attention_factor of {usual:g} alone, and this model has "
            f"{own:g}; export to hf or onnx"
        )
    return scaling


def _factors(layer: Attention, architecture: str) -> tuple[float, ...]:
    """Return the divisors (E/2,) of frequencies that are written as a tensor; none without one.

    Raises:
        UserError: llama.cpp has no such tensor in this architecture.
    """
    kind = layer.variant.rotary_scaling.kind
    if kind not in LISTED:
        return ()
    if architecture != "llama":
        raise UserError(
            f"llama.cpp has model.rotary_scaling.kind={kind} in a Llama alone, and this is a "
            f"{architecture}; export to onnx"
        )
    return layer.rotary.divisors


def _settings(
    architecture: str, values: Mapping[str, Any], draft: Draft
) -> dict[str, Any]:
    """Return the settings as keys of a file."""
    keys = GPT2_KEYS if architecture == "gpt2" else LLAMA_KEYS
    settings: dict[str, Any] = {
        f"{architecture}.{theirs}": values[ours] for theirs, ours in keys.items()
    }
    size = draft.settings["head_size"]
    vocabulary = len(draft.weights["embedding.weight"])
    settings[f"{architecture}.vocab_size"] = vocabulary
    if architecture != "gpt2":
        settings |= {
            f"{architecture}.attention.head_count_kv": draft.settings["kv_heads"],
            f"{architecture}.attention.key_length": size,
            f"{architecture}.attention.value_length": size,
            f"{architecture}.rope.dimension_count": size,
            f"{architecture}.rope.freq_base": float(draft.settings["rotary_base"]),
        }
    return settings


def _write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    values: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    factors: tuple[float, ...],
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if key != ARCHITECTURE:
            _add(writer, key, value)
    family = named_family(architecture, PublishedConfig(path, {}))
    for name, tensor in named_by(family, weights).items():
        heads = turned_heads(name, architecture, values)
        rows = _interleaved(tensor, heads) if heads else tensor
        writer.add_tensor(name, rows.contiguous().numpy())
    if factors:
        writer.add_tensor(FACTORS, np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # what another reader sees
    written = gguf.GGUFReader(path)
    if any(not np.isfinite(tensor.data).all() for tensor in written.tensors):
        raise UserError(f"{path}: a weight is not finite; train anew")


def _add(writer: Any, key: str, value: Any) -> None:
    """Put in a key by the type of its value."""
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """Return rows of queries or keys (N E, ...) with partners side by side: undoes ``halved``."""
    halves = rows.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).reshape(rows.shape)


def _compare_texts(path: Path, ours: Tokenizer) -> None:
    """Raise UserError where llama.cpp would make other ids of a text."""
    if not ours.document:
        return
    theirs = _read_by_llama_cpp(path, ours)
    generator = np.random.default_rng(1)
    texts = ["a text, and  another\n", "it's 한국어 1234", "DON'T\n\n\tStop 3.14"]
    for _ in range(8):
        ids = generator.integers(0, ours.size, 16)
        texts.append(ours.decode(ids.tolist()))
    for text in texts:
        ids_of_text = ours.beginning(text)
        # of what is unknown llama.cpp makes nothing, as the page beside the file says
        if ours.unknown(ids_of_text):
            continue
        if ids_of_text != theirs.beginning(text):
            raise UserError(
                f"{path}: not written, for llama.cpp would cut the text {shown(text)} into other "
                "tokens; export to hf"
            )


def _read_by_llama_cpp(path: Path, ours: Tokenizer) -> PublishedTokenizer:
    """Return the tokenizer of a file without the whole document, which llama.cpp does not read."""
    metadata = dict(read_header(path).metadata)
    del metadata[DOCUMENT]
    try:
        document = gguf_tokenizer(metadata)
        assert document is not None
        if ours.kind == "bpe":
            # the page beside the file says how the two rules differ; all else is compared
            document["pre_tokenizer"] = ours.document["pre_tokenizer"]
        size = len(document["model"]["vocab"])
        return PublishedTokenizer(document, size, ours.start_id, ours.end_ids)
    except UserError as error:
        raise UserError(f"{path}: not written ({error}); export to hf") from None
