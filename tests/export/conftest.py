"""Small encoder-decoder models with weights that leave no part without effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unrolled.models import Unaligned
from unrolled.nn import Attention, TokenEmbedding
from unrolled.text.tokenizers import Tokenizer

TEXTS = [
    "a small text, and more of it",
    "again and again: a text of some words",
    "more, more!",
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.fit("bpe", TEXTS * 3, 290)


def transformer(
    size: int,
    *,
    target: int = 0,
    embedding: int = 16,
    context: int | None = None,
    causal: bool = False,
    head_bias: bool = True,
    **settings: Any,
) -> Unaligned:
    """Return a model of two and three blocks; with ``target`` of another vocabulary, not tied."""
    torch.manual_seed(3)
    width = 16
    heads = 4
    kv_heads = settings.pop("kv_heads", None)
    encoder = Attention(
        embedding,
        width,
        2,
        heads,
        kv_heads,
        bidirectional=not causal,
        context=context,
        **settings,
    )
    decoder = Attention(
        embedding,
        width,
        3,
        heads,
        kv_heads,
        memory_size=width,
        context=context,
        **settings,
    )
    source = TokenEmbedding(size, embedding, scale=embedding**0.5)
    reads = TokenEmbedding(target, embedding) if target else source
    tied = not target and embedding == width
    model = Unaligned(
        source, encoder, reads, decoder, target or size, tie=tied, bias=head_bias
    ).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.5 if weight.dim() == 1 else 0.25)
    return model
