"""What can be said of a checkpoint of another program without any data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from unrolled.checks.base import Finding
from unrolled.core.errors import UserError
from unrolled.core.words import option
from unrolled.models import LanguageModel
from unrolled.runs.published import open_published
from unrolled.tasks.base import Task

TOKENS = 32
NEAR = 1e-3  # of logits: one pass and steps sum in another order
TEXT = "A text, and  another: 1234 한국어\n"


def examine_published(path: Path, tokenizer: Path | None) -> Iterator[Finding]:
    """Yield findings about a checkpoint.

    Args:
        path: a folder of Hugging Face, a GGUF file, or a file of llama2.c.
        tokenizer: the file of its vocabulary, where it is not beside it.

    Raises:
        UserError: it cannot be opened.
    """
    loaded = open_published(path, tokenizer)
    model = cast(LanguageModel, loaded.model)
    size = sum(weight.numel() for weight in model.parameters())
    yield Finding(
        "ok",
        f"{loaded.result['family']}, {size:,} parameters: all names, shapes and numbers as its "
        "settings say",
        name="weights",
    )
    yield _tokenizer(loaded.task)
    yield from _steps(model)


def _tokenizer(task: Task) -> Finding:
    tokenizer = task.tokenizer
    assert tokenizer is not None
    try:
        ids = tokenizer.encode(TEXT)
    except UserError as error:
        advice = f"name its file by {option('tokenizer')}"
        return Finding("warning", str(error), advice=advice, name="tokenizer")
    if tokenizer.decode(ids).strip() == TEXT.strip():
        message = f"{tokenizer.size:,} tokens; a text comes back as it was"
        return Finding("ok", message, name="tokenizer")
    return Finding(
        "warning",
        "a text does not come back as it was",
        advice="see that the tokenizer is this model's",
        name="tokenizer",
    )


@torch.no_grad()
def _steps(model: LanguageModel) -> Iterator[Finding]:
    """Yield whether the model looks ahead, and whether steps say what one pass says."""
    generator = torch.Generator().manual_seed(0)
    length = min(TOKENS, model.context or TOKENS)
    ids = torch.randint(model.head.out_features, (1, length), generator=generator)
    scores, _ = model.unroll(ids)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % model.head.out_features
    others, _ = model.unroll(changed)
    ahead = float((scores[:, :-1] - others[:, :-1]).abs().amax()) if length > 1 else 0.0
    state = model.initial_state(1)
    rows = []
    for step in range(length):
        row, state = model.step(ids[:, step], state)
        rows.append(row)
    apart = float((scores[0] - torch.cat(rows)).abs().max())
    questions = {
        "looking ahead": (ahead, "a later token changes scores before it"),
        "step by step": (apart, "steps say something else than one pass"),
    }
    for name, (difference, problem) in questions.items():
        if difference <= NEAR:
            message = f"scores of {length} tokens differ by at most {difference:.1e}"
            yield Finding("ok", message, name=name)
        else:
            message = f"{problem}, by {difference:.2g}"
            yield Finding("problem", message, advice="please report it", name=name)
