"""Language models as folders of Hugging Face, which transformers opens.

Settings and names are those of the families that are read. Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unrolled.core.errors import UserError, shown
from unrolled.core.files import write_json
from unrolled.export.parity import BATCHES, SHARE, TOLERANCE, Difference
from unrolled.export.plain import refuse_changed
from unrolled.models import LanguageModel
from unrolled.runs.published.config import CONFIG, TOKENIZER_CONFIG
from unrolled.runs.published.drafting import Draft, draft_of, family_for
from unrolled.runs.published.families import Family, Settings
from unrolled.runs.published.opening import TOKENIZER, open_published
from unrolled.runs.published.weights import WEIGHTS
from unrolled.text.published import template
from unrolled.text.tokenizers import PAD, SPECIALS, UNK, Tokenizer
from unrolled.training.checkpoints import save_tensors

GENERATION = "generation_config.json"
LONGEST = 64  # tokens of a text whose ids are compared
Logits = Callable[[Tensor], NDArray[np.float32]]

README = """\
# A model for transformers: {architecture}

In this folder, after `pip install transformers`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
ids = tokenizer("a text", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=20, do_sample=False)[0]))
```

It reads {context:,} positions. The tokenizer puts the mark before a text that the model was trained
with; special tokens that a text spells are {specials}.
"""


def write_hugging_face(
    model: nn.Module, tokenizer: Tokenizer | None
) -> Callable[[Path], Difference]:
    """Return what writes a model into a folder and compares it, once it is seen to be one of these.

    Args:
        model: in evaluation mode, on the CPU.
        tokenizer: its vocabulary.

    Raises:
        UserError: no published family is like it; the message says what to set.
    """
    if not isinstance(model, LanguageModel):
        raise UserError(
            "hf has language models; texts written from texts are exported to ctranslate2, "
            "everything else to onnx"
        )
    assert tokenizer is not None
    refuse_changed(model, "hf")
    draft = draft_of(model, "hf")
    family, config = family_for(draft, "hf")

    def write(folder: Path) -> Difference:
        _write_model(folder, family, config, draft, tokenizer)
        has_text = bool(tokenizer.document)
        if has_text:
            _write_tokenizer(folder, tokenizer, draft.settings["context"])
        own = tokenizer.kind == "published"
        page = README.format(
            architecture=family.architecture,
            context=draft.settings["context"],
            specials="those tokens" if own else "text like any other",
        )
        (folder / "README.md").write_text(page, "utf-8")
        return _compared(folder, model, tokenizer, draft)

    return write


def _write_model(
    folder: Path,
    family: Family,
    config: Settings,
    draft: Draft,
    tokenizer: Tokenizer,
) -> None:
    marks = _marks(tokenizer)
    values = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "dtype": "float32",
        "torch_dtype": "float32",
        "vocab_size": len(draft.weights["embedding.weight"]),
        **marks,
        **config,
    }
    write_json(folder / CONFIG, values)
    generation: dict[str, Any] = dict(marks)
    if tokenizer.unwritten_ids:
        generation["suppress_tokens"] = list(tokenizer.unwritten_ids)
    write_json(folder / GENERATION, generation)
    tensors = named_by(family, draft.weights)
    # which transformers asks for
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})


def _marks(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ids that begin, end and pad texts."""
    ends = list(tokenizer.end_ids)
    marks: dict[str, Any] = {"bos_token_id": tokenizer.start_id}
    marks["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    marks["pad_token_id"] = tokenizer.pad_id if tokenizer.pad_id >= 0 else None
    return marks


def named_by(family: Family, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of ours under a family's names: the way back of ``WeightOrigin.read``."""
    parts: dict[str, dict[int, Tensor]] = {}
    transposed: set[str] = set()
    for name, tensor in weights.items():
        origin = family.origin(name, bare=False)
        chunks = tensor.chunk(len(origin.names))
        for theirs, chunk in zip(origin.names, chunks, strict=True):
            parts.setdefault(theirs, {})[origin.part] = chunk
            if origin.transposed:
                transposed.add(theirs)
    tensors: dict[str, Tensor] = {}
    for name, chunks_of in parts.items():
        below = torch.cat([chunks_of[index] for index in sorted(chunks_of)])
        whole = below.T if name in transposed else below
        # a copy: two names must not share memory
        tensors[name] = whole.contiguous().clone()
    return tensors


# ---------------------------------------------------------------------- the tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    document = copy.deepcopy(tokenizer.document)
    start = _spelling(tokenizer, tokenizer.start_id)
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    if tokenizer.end_ids:
        values["eos_token"] = _spelling(tokenizer, tokenizer.end_ids[0])
    if tokenizer.kind != "published":
        document["post_processor"] = template(
            SPECIALS[tokenizer.start_id], tokenizer.start_id
        )
        values["unk_token"] = SPECIALS[UNK]
        values["pad_token"] = SPECIALS[PAD]
        # text that spells a special token is text
        values["split_special_tokens"] = True
    if tokenizer.kind == "jamo":
        document["normalizer"] = _apart(document["model"]["vocab"])
    write_json(folder / TOKENIZER, document)
    write_json(folder / TOKENIZER_CONFIG, values)


def _apart(vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Return the rule that takes Hangul apart, and no letter with an accent that is a token.

    The library has one rule, NFD, for both; so letters of the vocabulary are put together again.
    """
    rules: list[dict[str, Any]] = [{"type": "NFD"}]
    parts: dict[str, str] = {}
    for token in vocabulary:
        apart = unicodedata.normalize("NFD", token)
        if len(token) == 1 and apart != token:
            parts[apart] = token
    # those of several accents first
    for apart in sorted(parts, key=len, reverse=True):
        pattern = {"String": apart}
        rule = {"type": "Replace", "pattern": pattern, "content": parts[apart]}
        rules.append(rule)
    return {"type": "Sequence", "normalizers": rules}


def _spelling(tokenizer: Tokenizer, id: int) -> str | None:
    """Return a token as the document spells it."""
    return tokenizer._library().id_to_token(id)


# ---------------------------------------------------------------------- the comparison


def _compared(
    folder: Path, model: LanguageModel, tokenizer: Tokenizer, draft: Draft
) -> Difference:
    """Open what was written, by ourselves and by transformers if it is installed, and compare."""
    notes = list(draft.notes)
    opened = cast(LanguageModel, open_published(folder).model)
    others: list[Logits] = [lambda ids: opened(ids)[0].numpy()]
    theirs, encode = _by_transformers(folder, bool(tokenizer.document))
    if theirs is None:
        notes.append(
            "transformers is not installed: compared with our own reading of the folder"
        )
    else:
        others.append(theirs)
    if not tokenizer.document:
        notes.append("there is no tokenizer to write: the folder reads ids alone")
    elif encode is not None:
        _compare_texts(folder, tokenizer, encode, draft.settings["context"])
    return difference_of(model, others, draft.settings["context"], tuple(notes))


def _by_transformers(
    folder: Path, has_text: bool
) -> tuple[Logits | None, Callable[[str], list[int]] | None]:
    """Return what gives logits and what encodes a text there; nothing where it is missing."""
    try:
        import transformers
    except ImportError:
        return None, None
    with _quiet(transformers.utils.logging):
        theirs: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )

    def logits(ids: Tensor) -> NDArray[np.float32]:
        mask = torch.ones_like(ids)
        return theirs(ids, attention_mask=mask).logits.float().numpy()

    if not has_text:
        return logits, None
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # a text longer than the context is no reason to warn
    return logits, lambda text: words(text, verbose=False).input_ids


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Leave out the bar that tells how weights are read."""
    shown_before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown_before:
            logging.enable_progress_bar()


def _compare_texts(
    folder: Path,
    tokenizer: Tokenizer,
    encode: Callable[[str], list[int]],
    context: int,
) -> None:
    """Raise UserError where a text has other ids there."""
    generator = np.random.default_rng(1)
    texts = ["a text, and  another\n", "<eos> <pad> 한국어"]
    for _ in range(8):
        ids = generator.integers(0, tokenizer.size, min(LONGEST, context))
        texts.append(tokenizer.decode(ids.tolist()))
    for text in texts:
        # an empty text may be nothing there, where ours begins with the mark
        if text and encode(text) != tokenizer.beginning(text):
            raise UserError(
                f"{folder}: not written, for transformers cuts the text {shown(text)} into other "
                f"tokens; export a run of another data.tokenizer than {tokenizer.kind}"
            )


@torch.inference_mode()
def difference_of(
    model: LanguageModel,
    others: list[Logits],
    context: int,
    notes: tuple[str, ...],
) -> Difference:
    """Return how far the scores of other models are from ours, on random tokens.

    Args:
        model: ours.
        others: each returns scores (B, T, V) of tokens (B, T).
        context: positions that they read.
        notes: what is said beside.
    """
    generator = np.random.default_rng(0)
    vocabulary = model.embedding.size
    gaps = [0.0]
    largest = 0.0
    count = 0
    longest = 0
    for rows, most in BATCHES:
        length = min(most, context)
        longest = max(longest, length)
        ids = torch.from_numpy(generator.integers(0, vocabulary, (rows, length)))
        ours = model(ids)[0].numpy()
        largest = max(largest, float(np.abs(ours).max()))
        for other in others:
            differences = np.abs(ours - other(ids))
            gaps.append(float(differences.max()))
            count += ours.size
    # a maximum of Python's would pass over a NaN
    return Difference(
        float(np.max(gaps)),
        count,
        (1, longest),
        "logits",
        "token",
        notes,
        max(TOLERANCE, SHARE * largest),
    )
