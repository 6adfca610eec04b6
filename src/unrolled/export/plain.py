"""Whether a model computes what its weights say, and nothing else: what every format asks first."""

from __future__ import annotations

from torch import nn

from unrolled.core.errors import UserError
from unrolled.models import Aligned, LanguageModel, ManyToOne, OneToOne, Unaligned
from unrolled.nn import (
    GRU,
    LSTM,
    RNN,
    Attention,
    LockedDropout,
    Memoryless,
    MinGRU,
    NGrams,
    Pooling,
    ScaledNumbers,
    SpelledWords,
    TokenEmbedding,
)
from unrolled.nn.attention import CrossAttention, SelfAttention
from unrolled.nn.dropout import Dropout
from unrolled.nn.forms import unlike
from unrolled.nn.transformer import Block, FeedForward

# a format has counterparts of these, or refuses them by name; of any other none can have one
KNOWN: tuple[type[nn.Module], ...] = (
    *(LanguageModel, ManyToOne, Aligned, OneToOne, Unaligned),
    *(RNN, LSTM, GRU, MinGRU, Memoryless, Attention),
    *(Block, SelfAttention, CrossAttention, FeedForward),
    *(TokenEmbedding, ScaledNumbers, SpelledWords, NGrams, Pooling),
    *(nn.Embedding, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Tanh, nn.ReLU, nn.GELU),
    *(nn.Identity, nn.Dropout, Dropout, LockedDropout, nn.ModuleList, nn.Sequential),
)


def refuse_changed(model: nn.Module, to: str) -> None:
    """Raise UserError where a part of a model may compute something else than its kind does.

    That is a layer of one's own, a subclass, a module with hooks, or one whose method was replaced.

    Args:
        model: any.
        to: the name of the format.
    """
    for name, module in model.named_modules():
        reason = unlike(module, *KNOWN)
        if reason:
            where = f" at {name}" if name else ""
            raise UserError(
                f"this model has {reason}{where}, of which {to} has no counterpart; export a run "
                "of the layers and parts that unrolled ships, without hooks"
            )
