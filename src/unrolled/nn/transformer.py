"""The attention layer: a stack of transformer blocks whose state is the KV cache.

Shapes: B rows, T steps of a chunk, D input, W width and output, S steps read, L blocks,
K key-value heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unrolled.nn.attention import AttentionContext, CrossAttention, SelfAttention
from unrolled.nn.dropout import Dropout, check_probability
from unrolled.nn.forms import has_hooks, overrides
from unrolled.nn.layer import Layer, checked
from unrolled.nn.memory import DecoderState, Memory
from unrolled.nn.positions import RotaryFrequencies, rotation, sinusoid
from unrolled.nn.sizes import check_heads, check_positions, check_positive
from unrolled.nn.state import AttentionState, Buffer, CacheWriter, State
from unrolled.nn.variant import USUAL, Variant
from unrolled.ops import recording
from unrolled.ops.masking import Lengths, check_lengths, real_steps, zero_padding

POSITIONS = ("rotary", "sinusoidal", "learned")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
FEEDFORWARDS = ("swiglu", *ACTIVATIONS)
# their classes, and what they add to the variance
NORMS: dict[str, tuple[Any, float]] = {
    "rms": (nn.RMSNorm, 1e-6),
    "layer": (nn.LayerNorm, 1e-5),
}


class FeedForward(nn.Module):
    """The network at every step of a block: ReLU (Vaswani 2017), GELU, or SwiGLU (Shazeer 2020).

    GELU is exact, or by tanh as in GPT-2 (Hendrycks and Gimpel 2016, section 2).

    Args:
        width: W.
        kind: swiglu, gelu, gelu-tanh or relu.
        size: hidden width; None takes 4 W, for swiglu 8/3 W rounded up to a multiple of 16, which
            has about as many weights.
        bias: of both products.
    """

    def __init__(
        self, width: int, kind: str, size: int | None, bias: bool = False
    ) -> None:
        super().__init__()
        self.kind = kind
        self.gated = kind == "swiglu"
        if size is None:
            size = math.ceil(8 * width / 3 / 16) * 16 if self.gated else 4 * width
        check_positive(feedforward_size=size)
        self.up = nn.Linear(width, 2 * size if self.gated else size, bias)
        self.out = nn.Linear(size, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, W) for x (B, T, W)."""
        up = self.up(x)
        if not self.gated:
            return self.out(ACTIVATIONS[self.kind](up))
        gate, value = up.chunk(2, -1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    """Attention to itself, to a memory in a decoder, and feed-forward, each with a norm.

    Args:
        attention, cross, feedforward: the parts; ``cross`` is None where there is no memory.
        norm: makes the norm of a part.
        norm_first: normalise what a part reads (Xiong et al. 2020), not the sum of what it reads
            and adds (Vaswani 2017).
        dropout: on what each part adds.
    """

    def __init__(
        self,
        attention: SelfAttention,
        cross: CrossAttention | None,
        feedforward: FeedForward,
        norm: Callable[[], nn.Module],
        norm_first: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.cross = cross
        self.feedforward = feedforward
        self.attention_norm = norm()
        self.feedforward_norm = norm()
        self.cross_norm = None if cross is None else norm()
        self.norm_first = norm_first
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layer: int, context: AttentionContext) -> Tensor:
        """Return (B, T, W) for x (B, T, W)."""
        x = self._add(x, self.attention_norm, self.attention, layer, context)
        if self.cross is not None and self.cross_norm is not None:
            x = self._add(x, self.cross_norm, self.cross, layer, context)
        return self._add(x, self.feedforward_norm, self.feedforward)

    def _add(
        self, x: Tensor, norm: nn.Module, part: nn.Module, *arguments: object
    ) -> Tensor:
        """Return x with what ``part`` says of it added; it takes ``arguments`` beside x."""
        if self.norm_first:
            return x + self.dropout(part(norm(x), *arguments))
        return norm(x + self.dropout(part(x, *arguments)))


class Attention(Layer):
    """A stack of transformer blocks; as a language model it is a GPT.

    Args:
        input_size: D.
        hidden: W, the width of the stack; x is projected to it when D differs.
        layers: L.
        heads: attention heads, which divide W.
        kv_heads: K, which divides heads; None is as many as heads.
        positions: rotary (Su et al. 2021), sinusoidal (Vaswani et al. 2017) or learned.
        norm: rms (Zhang and Sennrich 2019) or layer (Ba et al. 2016).
        norm_first: norm before each half of a block, and once at the end; False is the original.
        feedforward: swiglu, gelu, gelu-tanh or relu.
        feedforward_size: its hidden width; None takes the usual one.
        dropout: on what each part of a block adds, and on the positions' sum.
        attention_dropout: on attention weights; None is as ``dropout``.
        bias: of the products; norms have theirs.
        first: spread of the first weights: small is GPT-2's, xavier that of Glorot and Bengio.
        bidirectional: every step looks at all steps; there is no ``step`` then.
        context: positions it can read; learned positions need it.
        memory_size: features of a memory's steps: the layer is a decoder then, whose state
            ``attend`` begins.
        variant: in what else the stack is as a published one.

    Raises:
        ValueError: sizes that do not divide, an unknown name, learned positions without context.
    """

    has_blocks = True

    def __init__(
        self,
        input_size: int,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        kv_heads: int | None = None,
        *,
        positions: str = "rotary",
        norm: str = "rms",
        norm_first: bool = True,
        feedforward: str = "swiglu",
        feedforward_size: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        bias: bool = False,
        first: str = "small",
        bidirectional: bool = False,
        context: int | None = None,
        memory_size: int | None = None,
        variant: Variant = USUAL,
    ) -> None:
        super().__init__()
        if kv_heads is None:
            kv_heads = heads
        if attention_dropout is None:
            attention_dropout = dropout
        check_positive(input_size=input_size, layers=layers)
        check_heads(hidden, heads, kv_heads, variant, memory_size)
        _check_names(positions, norm, feedforward)
        self.head_size = variant.head_size or hidden // heads
        check_positions(positions, self.head_size, context)
        _check_dropout(dropout, attention_dropout)
        self.memory_size = memory_size
        self.first = first
        self.input_size = input_size
        self.output_size = hidden
        self.causal = not bidirectional
        self.context = context
        self.positions = positions
        self.kv_heads = kv_heads
        self.variant = variant
        self.project = _projection(input_size, hidden)
        self._add_positions()
        self.dropout = Dropout(dropout)
        make_norm = _norm_maker(norm, hidden, variant)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            attention = SelfAttention(
                hidden, heads, kv_heads, attention_dropout, bias, variant
            )
            cross = _cross(hidden, heads, memory_size, attention_dropout, bias)
            inner = FeedForward(hidden, feedforward, feedforward_size, bias)
            block = Block(attention, cross, inner, make_norm, norm_first, dropout)
            self.blocks.append(block)
        self.norm = make_norm() if norm_first else nn.Identity()
        self.reset_parameters()

    def _add_positions(self) -> None:
        """Add the frequencies of rotary positions, and the table of learned ones."""
        self.rotary = RotaryFrequencies.of(self.variant, self.head_size)
        if self.positions == "learned":
            table = nn.Embedding(cast(int, self.context), self.output_size)
            # its name in the weights of runs that are saved
            self.add_module("place", table)

    @property
    def position_table(self) -> nn.Embedding | None:
        """The learned vectors of positions; None where they are computed."""
        return cast(nn.Embedding | None, self._modules.get("place"))

    def reset_parameters(self) -> None:
        """Draw the weights as GPT-2 does (Radford et al. 2019): normal, 0.02.

        What adds to the residual stream is smaller by 1/sqrt(2 L), so that its variance at the top
        does not grow with the number of blocks. With ``first="xavier"`` products are drawn uniform
        within sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010, eq. 16), which starts narrow
        stacks faster.
        """
        small = 0.02 / math.sqrt(2 * len(self.blocks))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and self.first == "xavier":
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(
                    module.weight, std=small if name.endswith(".out") else 0.02
                )
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.RMSNorm | nn.LayerNorm):
                module.reset_parameters()
        if isinstance(self.project, nn.Linear):
            # x keeps its size here, whatever D is; 0.02 would starve a narrow input
            nn.init.normal_(
                self.project.weight,
                std=1 / math.sqrt(self.input_size),
            )

    def depths(self) -> list[list[nn.Parameter]]:
        """Return the weights of each block: with the first what is read below it, with the last
        the norm above it.
        """
        groups = [list(block.parameters()) for block in self.blocks]
        for below in (self.project, self.position_table):
            if below is not None:
                groups[0] += below.parameters()
        groups[-1] += self.norm.parameters()
        return groups

    def observed(self, name: str) -> dict[nn.Module, str]:
        names: dict[nn.Module, str] = {self: name}
        for number, module in enumerate(self.blocks, 1):
            block = cast(Block, module)
            names[block.attention] = f"{name} {number}"
            if block.cross is not None:
                names[block.cross] = f"{name} {number} to the source"
        return names

    def mixing_products(self, steps: int) -> int:
        window = self.variant.attention_window or steps
        block = cast(Block, self.blocks[0])
        width = block.attention.heads * self.head_size
        # queries with keys, and weights with values
        return len(self.blocks) * 2 * width * min(window, steps)

    def shard_units(self) -> list[list[nn.Module]]:
        units: list[list[nn.Module]] = []
        for module in self.blocks:
            block = cast(Block, module)
            # norms are computed in fp32; keys of a memory are made outside of a block's call
            units.append([block.attention, block.feedforward])
        return units

    def initial_state(
        self,
        batch: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AttentionState:
        weight = self._weight()
        shape = (len(self.blocks), batch, self.kv_heads, 0, self.head_size)
        empty = torch.zeros(
            shape, device=device or weight.device, dtype=dtype or weight.dtype
        )
        lengths = torch.zeros(batch, dtype=torch.int64, device=empty.device)
        return AttentionState(Buffer(empty, empty), lengths, 0)

    def read(self, x: Tensor, lengths: Lengths | None = None) -> Tensor:
        if has_hooks(self) or overrides(self, Attention, "unroll"):
            return super().read(x, lengths)
        lengths = self._check(x, lengths)
        if self.memory_size is not None:
            raise ValueError(
                "expected a layer without a memory; a decoder unrolls from attend"
            )
        self.check_context(x.shape[1])
        positions = torch.arange(x.shape[1], device=x.device)[None]
        context = self._attention_context(positions, x.shape[1], lengths, None)
        return self._stack(x, lengths, context, positions)

    def read_documents(self, x: Tensor, starts: Tensor) -> Tensor:
        is_plain = self.causal and self.memory_size is None
        if not is_plain or has_hooks(self) or overrides(self, Attention, "unroll"):
            return super().read_documents(x, starts)
        self._check(x)
        steps = torch.arange(x.shape[1], device=x.device)
        begins = torch.where(starts, steps, 0).cummax(1).values
        # positions begin anew in each document
        positions = steps - begins
        if self.context is not None and len(steps) > self.context:
            self.check_context(int(positions.max()) + 1)
        turn = None
        if self.positions == "rotary":
            turn = rotation(positions, self.rotary)
        # one mask for all blocks
        allowed = (steps >= begins[:, :, None]) & (steps <= steps[:, None])
        window = self.variant.attention_window
        if window is not None:
            allowed = allowed & (steps > steps[:, None] - window)
        context = AttentionContext(turn, allowed[:, None], False, None)
        return self._stack(x, None, context, positions)

    def _weight(self) -> Tensor:
        """Return a weight: the blocks', or where DataParallel left them without, the first's."""
        weight = next(self.blocks.parameters(), None)
        if weight is not None:
            return weight
        return cast(Block, self.blocks[0]).attention.query.weight

    def attend(self, memory: Tensor, lengths: Lengths) -> DecoderState:
        """Return a decoder's state before its first step.

        Args:
            memory: what an encoder said of S sources (S, M, memory_size).
            lengths: real steps of each (S,).

        Raises:
            ValueError: the layer was built without ``memory_size``.
        """
        if self.memory_size is None:
            raise ValueError(
                "expected a layer built with memory_size, got one without; set it"
            )
        lengths = check_lengths(lengths, *memory.shape[:2]).to(memory.device)
        keys = []
        values = []
        for block in self.blocks:
            key, value = cast(CrossAttention, block.cross).project(memory)
            keys.append(key)
            values.append(value)
        inner = self.initial_state(len(lengths), memory.device)
        return DecoderState(inner, Memory.of(keys, values, lengths))

    def unroll_attending(
        self,
        x: Tensor,
        state: DecoderState,
        lengths: Lengths | None,
        attention_weights: list[Tensor],
    ) -> tuple[Tensor, DecoderState]:
        """Unroll a decoder over x (B, T, D) and append the weights of each block (B, T, M)."""
        y, after = self._read_all(x, state, lengths, attention_weights)
        return y, cast(DecoderState, after)

    @staticmethod
    def alignment(attention_weights: list[Tensor]) -> Tensor:
        """Return the weights that follow word alignment best: those of the last block but one.

        Garg et al. (2019), section 4.1.
        """
        return attention_weights[max(0, len(attention_weights) - 2)]

    def unroll(
        self, x: Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[Tensor, State]:
        return self._read_all(x, state, lengths, None)

    def _read_all(
        self,
        x: Tensor,
        state: State | None,
        lengths: Lengths | None,
        attention_weights: list[Tensor] | None,
    ) -> tuple[Tensor, State]:
        lengths = self._check(x, lengths, state)
        if self.memory_size is None:
            checked(state, AttentionState, "layer attention")
            return self._unroll(x, state, lengths, None, attention_weights)
        checked(state, DecoderState, "a decoder, which begins with attend")
        decoder_state = cast(DecoderState, state)
        checked(decoder_state.inner, AttentionState, "a decoder's own step")
        y, inner = self._unroll(
            x,
            decoder_state.inner,
            lengths,
            decoder_state.memory,
            attention_weights,
        )
        return y, replace(decoder_state, inner=inner)

    def _unroll(
        self,
        x: Tensor,
        state: State | None,
        lengths: Tensor | None,
        memory: Memory | None,
        attention_weights: list[Tensor] | None,
    ) -> tuple[Tensor, AttentionState]:
        before = cast(AttentionState, state) if state is not None else None
        before = self.initial_state(x.shape[0], x.device) if before is None else before
        if not self.causal and before.used:
            raise ValueError(
                "expected no earlier state for a bidirectional layer, got one that has read steps: "
                "those would have had to see x; read the whole sequence at once"
            )
        cache = CacheWriter(before, x.shape[1], lengths)
        self.check_context(cache.used)
        positions = cache.positions
        context = self._attention_context(positions, x.shape[1], lengths, cache)
        context = replace(context, memory=memory, attention_weights=attention_weights)
        y = self._stack(x, lengths, context, positions)
        return y, cache.finish()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self._check_step(x, state)
        y, after = self._read_all(x[:, None], state, None, None)
        return y[:, 0], after

    def check_context(self, reach: int) -> None:
        """Raise ValueError where positions up to ``reach`` are more than the layer's context."""
        if self.context is not None and reach > self.context:
            raise ValueError(
                f"expected at most {self.context} positions, the layer's context, got {reach}; "
                "read a later window of the sequence from a new state, or build with more context"
            )

    def _attention_context(
        self,
        positions: Tensor,
        steps: int,
        lengths: Tensor | None,
        cache: CacheWriter | None,
    ) -> AttentionContext:
        """Work out what all blocks share: rotations, mask, cache."""
        turn = None
        if self.positions == "rotary":
            turn = rotation(positions, self.rotary)
        window = self.variant.attention_window
        if not self.causal:
            both_ways = _allowed_both_ways(lengths, steps, window, positions.device)
            return AttentionContext(turn, both_ways, False, cache)
        needed = steps if cache is None else cache.needed
        is_fresh = cache is None or not cache.state.used
        if is_fresh and (window is None or window >= needed):
            # padding stands at the right, out of sight
            return AttentionContext(turn, None, True, cache)
        read = torch.arange(needed, device=positions.device)
        allowed = read <= positions[:, :, None]
        if window is not None:
            # padding may stand past all that was read, and a softmax needs something
            newest = positions.clamp(max=needed - 1)
            allowed = allowed & (read > newest[:, :, None] - window)
        return AttentionContext(turn, allowed[:, None], False, cache)

    def _stack(
        self,
        x: Tensor,
        lengths: Tensor | None,
        context: AttentionContext,
        positions: Tensor,
    ) -> Tensor:
        """Run all blocks over the chunk at ``positions`` (B or 1, T)."""
        y = self.project(zero_padding(x, lengths))
        # the sum that all blocks add to keeps the precision of the weights under autocast
        y = y.to(self._weight().dtype)
        table = self.position_table
        if table is not None:
            # positions of padding may lie past the table; what stands there is never seen
            y = y + table(positions.clamp(max=table.num_embeddings - 1))
        elif self.positions == "sinusoidal":
            y = y + sinusoid(positions, self.output_size).to(y.dtype)
        y = self.dropout(y)
        runs_again = self.checkpoint_activations and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks):
            if runs_again and self.training:
                y = _run_again(block, y, layer, context)
            else:
                y = block(y, layer, context)
            observer = recording.observer(self, "attention", layer)
            if observer is not None:
                y = recording.record_outputs(observer, y)
        return zero_padding(self.norm(y), lengths)


def _run_again(
    block: nn.Module, y: Tensor, layer: int, context: AttentionContext
) -> Tensor:
    """Return a block's outputs (B, T, W); it runs again in the backward pass, dropout alike.

    Chen et al. 2016, section 4.
    """
    passes = 0

    def run(y: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        cache = context.cache
        if passes == 1 or cache is None:
            return block(y, layer, context)
        # the state was handed out after the first pass
        return block(y, layer, replace(context, cache=cache.forked()))

    return checkpoint(run, y, use_reentrant=False)


def _allowed_both_ways(
    lengths: Tensor | None, steps: int, window: int | None, device: torch.device
) -> Tensor | None:
    """Return where a step may look that looks ahead, too (B or 1, 1, T or 1, T); None: anywhere."""
    allowed: Tensor | None = None
    if lengths is not None:
        # a row without steps looks at its first, which is zero: a softmax needs something
        allowed = real_steps(lengths.clamp(min=1), steps)[:, None, None]
    if window is None or window >= steps:
        return allowed
    read = torch.arange(steps, device=device)
    distance = (read[:, None] - read).abs()
    near = (distance < window)[None, None]
    # padding sees itself, where nothing else is near
    return near if allowed is None else (allowed & near) | (distance == 0)


def _cross(
    width: int, heads: int, memory_size: int | None, dropout: float, bias: bool
) -> CrossAttention | None:
    """Return what looks at a memory, if there is one."""
    if memory_size is None:
        return None
    return CrossAttention(width, heads, memory_size, dropout, bias)


def _norm_maker(name: str, width: int, variant: Variant) -> Callable[[], nn.Module]:
    """Return what makes a norm of W features."""
    kind, eps = NORMS[name]
    return partial(kind, width, eps=variant.norm_eps or eps)


def _projection(input_size: int, hidden: int) -> nn.Module:
    """Return what brings inputs to the width of the stack."""
    if input_size == hidden:
        return nn.Identity()
    return nn.Linear(input_size, hidden)


def _check_dropout(dropout: float, attention_dropout: float) -> None:
    check_probability("dropout", dropout)
    check_probability("attention_dropout", attention_dropout)


def _check_names(positions: str, norm: str, feedforward: str) -> None:
    for name, value, known in (
        ("positions", positions, POSITIONS),
        ("norm", norm, NORMS),
        ("feedforward", feedforward, FEEDFORWARDS),
    ):
        if value not in known:
            raise ValueError(
                f"expected {name} out of {', '.join(known)}, got {value!r}"
            )
