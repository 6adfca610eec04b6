"""From the word in a recipe to a layer: the one table of layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Set
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import Field

from unrolled.core.config import Config
from unrolled.core.errors import UsageError, unknown
from unrolled.nn.attending import RecurrentDecoder, input_width
from unrolled.nn.layer import Layer
from unrolled.nn.memoryless import Memoryless
from unrolled.nn.recurrent import GRU, LSTM, RNN, MinGRU, Recurrent
from unrolled.nn.rotary_scaling import PLAIN, RotaryScaling
from unrolled.nn.streaming import open_stream
from unrolled.nn.transformer import Attention
from unrolled.nn.variant import Variant
from unrolled.ops.reference import STEPS, Step


class LayerConfig(Config):
    """The settings of a layer. Each layer uses some; see ``LAYERS``."""

    hidden: int = Field(
        128,
        ge=1,
        le=2**31 - 1,
        description="width of the layer's outputs; of each direction where recurrent",
    )
    layers: int = Field(
        1, ge=0, le=1000, description="how many are stacked; only layer=none takes 0"
    )
    bidirectional: bool = Field(
        False, description="read both ways (Schuster and Paliwal 1997)"
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout between stacked layers; layer=none: after each; layer=attention: on "
        "what each part of a block adds",
    )
    input_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="variational dropout on the layer's inputs: one mask a sequence (Gal and "
        "Ghahramani 2016)",
    )
    output_dropout: float = Field(
        0.0, ge=0, lt=1, description="variational dropout on the layer's outputs"
    )
    recurrent_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="variational dropout on the hidden vector on its way to the next step; one "
        "mask a step in a decoder with attention",
    )
    between_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="variational dropout between stacked layers, instead of `dropout`",
    )
    weight_drop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="DropConnect on the recurrent weights (Merity et al. 2018)",
    )
    zoneout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability that a unit keeps its old value (Krueger et al. 2017)",
    )
    layer_norm: bool = Field(
        False, description="normalise the inputs of the gates (Ba et al. 2016)"
    )
    residual: bool = Field(
        False,
        description="every stacked layer but the first adds what it reads (Wu et al. 2016)",
    )
    orthogonal: bool = Field(
        False,
        description="draw the recurrent weights orthogonal (Saxe et al. 2014)",
    )
    last: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="width of the last stacked layer, at most `hidden`; 0 is as the others",
    )
    nonlinearity: Literal["tanh", "relu"] = Field(
        "tanh", description="activation function of the hidden vector"
    )
    projection: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="width that the hidden vector is projected to (Sak et al. 2014); 0 is none",
    )
    activation: Literal["tanh", "relu", "gelu"] = Field(
        "tanh", description="activation function of the hidden layers"
    )
    heads: int = Field(
        4,
        ge=1,
        le=65_536,
        description="attention heads, which divide `hidden` (Vaswani et al. 2017)",
    )
    kv_heads: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="key-value heads, which divide `heads` (Ainslie et al. 2023); by default as "
        "many as heads",
    )
    positions: Literal["rotary", "sinusoidal", "learned"] = Field(
        "rotary",
        description="rotary (Su et al. 2021), sinusoidal (Vaswani et al. 2017), or a learned "
        "vector for each position, which needs `context`",
    )
    norm: Literal["rms", "layer"] = Field(
        "rms", description="rms (Zhang and Sennrich 2019) or layer (Ba et al. 2016)"
    )
    norm_first: bool = Field(
        True,
        description="normalise what each part of a block reads (Xiong et al. 2020), not its sum",
    )
    feedforward: Literal["swiglu", "gelu", "gelu-tanh", "relu"] = Field(
        "swiglu",
        description="the network of a block: swiglu (Shazeer 2020), gelu, gelu-tanh (GPT-2's) or "
        "relu",
    )
    feedforward_size: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="its hidden width; by default 4 x `hidden`, for swiglu 8/3 of it",
    )
    attention_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout on the attention weights; by default as `dropout`",
    )
    bias: bool = Field(
        False, description="biases in the products of attention and feed-forward"
    )
    first: Literal["small", "xavier"] = Field(
        "small",
        description="first weights: small is GPT-2's 0.02 (Radford et al. 2019), xavier is Glorot "
        "and Bengio (2010)",
    )
    norm_eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="what norms add to the variance; by default 1e-6 of rms, 1e-5 of layer",
    )
    rotary_base: float = Field(
        10000.0,
        gt=1,
        le=1e12,
        description="base of rotary positions (Su et al. 2021); longer contexts take a larger one",
    )
    rotary_scaling: RotaryScaling = PLAIN
    head_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="width of an attention head; by default `hidden` / `heads`",
    )
    attention_window: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="a step looks at so many steps, itself among them (Mistral 7B, 2023); by "
        "default at all",
    )
    query_key_norm: bool = Field(
        False, description="rms norm of queries and keys (Henry et al. 2020)"
    )
    attention_bias: Literal["all", "inputs", "none"] | None = Field(
        None,
        description="which products of attention have a bias: all, inputs (queries, keys and "
        "values) or none; by default as `bias`",
    )
    context: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="positions that it can read; by default a language model reads "
        "`training.window`, a translator its longest text, any other without limit",
    )


_RECURRENT = {
    "bidirectional",
    "input_dropout",
    "output_dropout",
    "recurrent_dropout",
    "between_dropout",
    "weight_drop",
    "zoneout",
    "layer_norm",
    "residual",
    "orthogonal",
    "last",
}
VARIANT = tuple(field.name for field in fields(Variant))
_ATTENTION = {
    "bidirectional",
    "heads",
    "kv_heads",
    "positions",
    "norm",
    "norm_first",
    "feedforward",
    "feedforward_size",
    "attention_dropout",
    "bias",
    "first",
    "context",
    *VARIANT,
}
_ALL = {"hidden", "layers", "dropout"}

# those of recurrent weights, which a cell whose gates see no state lacks
_OF_STATE = {"weight_drop", "recurrent_dropout", "orthogonal"}


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A row of the table of layers.

    Attributes:
        build: makes one of its settings and of the features of what it reads.
        uses: the settings that it uses; any other must stand at its default.
    """

    build: Callable[[LayerConfig, int], Layer]
    uses: Set[str]


def _none(config: LayerConfig, size: int) -> Layer:
    return Memoryless(
        size, config.hidden, config.layers, config.activation, config.dropout
    )


def _build_recurrent(
    kind: type[Recurrent], arguments: dict[str, str], config: LayerConfig, size: int
) -> Layer:
    values = {name: getattr(config, key) for name, key in arguments.items()}
    return kind(size, config.hidden, config.layers, dropout=config.dropout, **values)


def recurrent(kind: type[Recurrent], **own: str) -> LayerKind:
    """Return the row of a recurrent layer.

    Args:
        kind: its class.
        own: arguments that it alone has, and the settings that they are.
    """
    shared = _RECURRENT if kind.reads_state else _RECURRENT - _OF_STATE
    arguments = (
        {key: key for key in sorted(shared - {"last"})} | {"last_size": "last"} | own
    )
    uses = _ALL | set(arguments.values())
    return LayerKind(functools.partial(_build_recurrent, kind, arguments), uses)


def _attention(
    config: LayerConfig, size: int, memory_size: int | None = None
) -> Attention:
    return Attention(
        size,
        config.hidden,
        config.layers,
        config.heads,
        config.kv_heads,
        positions=config.positions,
        norm=config.norm,
        norm_first=config.norm_first,
        feedforward=config.feedforward,
        feedforward_size=config.feedforward_size,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        bias=config.bias,
        first=config.first,
        bidirectional=config.bidirectional,
        context=config.context,
        memory_size=memory_size,
        variant=Variant(**{name: getattr(config, name) for name in VARIANT}),
    )


Layer.stream_opener = open_stream
LAYERS: dict[str, LayerKind] = {
    "none": LayerKind(_none, _ALL | {"activation"}),
    "rnn": recurrent(RNN, nonlinearity="nonlinearity"),
    "lstm": recurrent(LSTM, proj_size="projection"),
    "gru": recurrent(GRU),
    "mingru": recurrent(MinGRU),
    "attention": LayerKind(_attention, _ALL | _ATTENTION),
}


def add_cell(
    name: str, step: Step, gates: int, reads_state: bool = True
) -> type[Recurrent]:
    """Add a recurrent cell of one's own: ``layer=NAME`` is then wherever ``layer=gru`` is.

    It runs on its equations, forward and, by torch, backward.

    Args:
        name: what recipes call it.
        step: ``step(a, state, w, extras) -> (state, trace)`` as those of ``ops/reference.py``: a
            (B, G*H) is what the input adds to the gates, ``from_hidden(name, h, w, extras)`` what
            the old h (B, H) adds; the trace names what it went through, ``h`` among it.
        gates: G, rows of H in its weights.
        reads_state: whether gates see the old h; without it there are no recurrent weights.

    Returns:
        its class, with the arguments of :class:`Recurrent`.

    Raises:
        ValueError: there is a layer of that name, or it is no name, or gates are below 1.
    """
    if name in LAYERS or name in STEPS:
        raise ValueError(
            f"expected a name that no layer has, got {name!r}; choose another"
        )
    if not name.isidentifier() or gates < 1:
        raise ValueError(
            f"expected a name of letters, digits and _, and gates of at least 1, got {name!r} and "
            f"{gates}"
        )
    members = {
        "cell": name,
        "gates": gates,
        "reads_state": reads_state,
        "__doc__": step.__doc__,
    }
    kind = type(name, (Recurrent,), members)
    STEPS[name] = step
    LAYERS[name] = recurrent(kind)
    return kind


def build_layer(name: str, config: LayerConfig, input_size: int) -> Layer:
    """Build the layer that a recipe names.

    Args:
        name: a key of ``LAYERS``.
        config: its settings.
        input_size: features of what it reads.

    Raises:
        UsageError: no such layer, a setting that this layer does not use, or values that do not go
            together.
    """
    _check(name, config)
    try:
        return LAYERS[name].build(config, input_size)
    except ValueError as error:
        raise UsageError(f"layer {name}: {error}") from None


def build_decoder(
    name: str,
    config: LayerConfig,
    input_size: int,
    encoder: Layer | int,
    attention: str = "additive",
    feeding: bool = True,
) -> Attention | RecurrentDecoder:
    """Build a layer that writes from what was read: an encoder's outputs, the grid of an image.

    Args:
        name: rnn, lstm, gru or attention.
        config: its settings.
        input_size: features of what it reads of its own.
        encoder: what reads the source; or how many features a step of what was read has.
        attention: how a recurrent decoder looks back: additive, multiplicative or none.
        feeding: multiplicative: what attention made of a step is read by the next.

    Raises:
        UsageError: see ``build_layer``; ``none`` has no state that a source could be told by.
    """
    _check(name, config)
    memory_size = encoder if isinstance(encoder, int) else encoder.output_size
    reverse_size = 0 if isinstance(encoder, int) else encoder.reverse_size
    try:
        if name == "attention":
            return _attention(config, input_size, memory_size)
        size = input_width(
            input_size,
            config.last or config.projection or config.hidden,
            memory_size,
            attention,
            feeding,
        )
        layer = LAYERS[name].build(config, size)
        if not isinstance(layer, Recurrent):
            raise ValueError(
                "it carries no state from its source; use gru, lstm, rnn or attention"
            )
        return RecurrentDecoder(
            layer, input_size, memory_size, attention, feeding, reverse_size
        )
    except ValueError as error:
        raise UsageError(f"decoder {name}: {error}") from None


def _check(name: str, config: LayerConfig) -> None:
    """Raise UsageError for an unknown layer, or a setting that it does not use."""
    refuse_unused(config, name)
    if config.layers == 0 and name != "none":
        raise UsageError(
            f"layer {name} needs layers of at least 1, got 0; only layer=none takes 0"
        )


def _known(name: str) -> Set[str]:
    """Return the settings of a layer. Raises UsageError where there is none of that name."""
    if name in ("transformer", "gpt"):
        raise UsageError(f"there is no layer {name!r}; use layer=attention")
    if name not in LAYERS:
        raise UsageError(unknown("layer", name, LAYERS))
    return LAYERS[name].uses


def refuse_unused(config: LayerConfig, *names: str) -> None:
    """Raise UsageError for a setting that is not at its default and that none of the layers use."""
    default = LayerConfig()
    used = set[str]().union(*map(_known, names))
    for key in LayerConfig.model_fields:
        if key not in used and getattr(config, key) != getattr(default, key):
            users = [layer for layer, kind in LAYERS.items() if key in kind.uses]
            subject = f"{' and '.join(names)} have"
            if len(names) == 1:
                subject = f"layer {names[0]} has"
            raise UsageError(
                f"{subject} no setting {key!r} (got {getattr(config, key)!r}); it belongs to layer "
                f"{' or '.join(users)}"
            )


def uses(name: str) -> Set[str]:
    """Return the settings that a layer uses; none where there is no such layer."""
    return LAYERS[name].uses if name in LAYERS else set()


def settings_of(name: str, config: LayerConfig, **changes: Any) -> LayerConfig:
    """Return the settings that layer ``name`` uses, the others at their defaults, some changed.

    So one set of settings serves an encoder and a decoder of different kinds.
    """
    used = {key: getattr(config, key) for key in sorted(uses(name))}
    return LayerConfig(**(used | changes))


def with_context(name: str, config: LayerConfig, window: int) -> LayerConfig:
    """Return the settings with ``context`` set to ``window``, where the layer needs one.

    A layer whose state grows with the text can only be trusted as far as it was trained to read.
    """
    if "context" in uses(name) and config.context is None:
        return config.model_copy(update={"context": window})
    return config
