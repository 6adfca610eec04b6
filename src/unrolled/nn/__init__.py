"""Layers with weights. Every one reads a sequence at once or step by step, with equal numbers."""

from unrolled.nn.attending import RecurrentDecoder
from unrolled.nn.attention import SelfAttention
from unrolled.nn.build import (
    LAYERS,
    LayerConfig,
    add_cell,
    build_decoder,
    build_layer,
    with_context,
)
from unrolled.nn.cells import GRUCell, LSTMCell, RNNCell
from unrolled.nn.condition_encoder import ConditionEncoder
from unrolled.nn.dropout import LockedDropout
from unrolled.nn.embedding import ScaledNumbers, TokenEmbedding
from unrolled.nn.forms import Forms
from unrolled.nn.layer import Layer
from unrolled.nn.memory import DecoderState, Memory
from unrolled.nn.memoryless import Memoryless
from unrolled.nn.ngrams import NGrams
from unrolled.nn.pooling import Pooling
from unrolled.nn.recurrent import GRU, LSTM, RNN, MinGRU
from unrolled.nn.spelling import SpelledWords
from unrolled.nn.state import (
    AttentionState,
    EmptyState,
    RecurrentState,
    State,
    pack,
    unpack,
)
from unrolled.nn.transformer import Attention

__all__ = [
    "GRU",
    "LAYERS",
    "LSTM",
    "RNN",
    "Attention",
    "AttentionState",
    "ConditionEncoder",
    "DecoderState",
    "EmptyState",
    "Forms",
    "GRUCell",
    "LSTMCell",
    "Layer",
    "LayerConfig",
    "LockedDropout",
    "Memory",
    "Memoryless",
    "MinGRU",
    "NGrams",
    "Pooling",
    "RNNCell",
    "RecurrentDecoder",
    "RecurrentState",
    "ScaledNumbers",
    "SelfAttention",
    "SpelledWords",
    "State",
    "TokenEmbedding",
    "add_cell",
    "build_decoder",
    "build_layer",
    "pack",
    "unpack",
    "with_context",
]
