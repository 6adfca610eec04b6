"""What must hold for every decoder, of any kind, over any encoder.

All numbers are fp64, where the paths differ by the order of sums alone: 1e-12 is some thousand
units in the last place of numbers of size 1.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled.core.errors import UsageError
from unrolled.nn import (
    GRU,
    Attention,
    DecoderState,
    LayerConfig,
    RecurrentDecoder,
    build_decoder,
)
from unrolled.nn.build import build_layer, settings_of

TIGHT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
D = 5
S = 3
M = 4
T = 6
LENGTHS = torch.tensor([4, 1, 3])

SMALL: dict[str, Any] = {"hidden": 8, "layers": 2, "heads": 2}
DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "attention": ("attention", SMALL, {}),
    "attention-paper": (
        "attention",
        SMALL
        | {
            "norm_first": False,
            "norm": "layer",
            "feedforward": "relu",
            "positions": "sinusoidal",
        }
        | {"bias": True},
        {},
    ),
    "attention-learned": (
        "attention",
        SMALL | {"positions": "learned", "context": 30},
        {},
    ),
    "gru-additive": ("gru", {"hidden": 7}, {}),
    "lstm-additive-2": ("lstm", {"hidden": 7, "layers": 2}, {}),
    "rnn-additive": ("rnn", {"hidden": 7}, {}),
    "gru-multiplicative": ("gru", {"hidden": 7}, {"attention": "multiplicative"}),
    "lstm-multiplicative": (
        "lstm",
        {"hidden": 7, "projection": 3},
        {"attention": "multiplicative", "feeding": False},
    ),
    "lstm-none": ("lstm", {"hidden": 7, "layers": 2}, {"attention": "none"}),
    "gru-none": ("gru", {"hidden": 7, "layer_norm": True}, {"attention": "none"}),
}
every = pytest.mark.parametrize("name", DECODERS)


def encoder(name: str = "gru") -> Any:
    return build_layer(
        name, settings_of(name, LayerConfig(**SMALL), bidirectional=True), D
    )


def build(name: str) -> Any:
    kind, config, options = DECODERS[name]
    layer = (
        build_decoder(kind, LayerConfig(**config), D, encoder(), **options)
        .double()
        .eval()
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return layer


def begin(layer: Any, memory: Tensor, lengths: Tensor = LENGTHS) -> DecoderState:
    state = layer.attend(memory, lengths)
    assert state.rows == len(lengths)
    return state


def drawn(grad: bool = False) -> tuple[Tensor, Tensor]:
    width = encoder().output_size
    memory = torch.randn(S, M, width, dtype=torch.float64, requires_grad=grad)
    return torch.randn(S, T, D, dtype=torch.float64, requires_grad=grad), memory


def same(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, **TIGHT)


@every
@pytest.mark.parametrize("grad", [False, True])
def test_steps_equal_the_full_pass(name: str, grad: bool) -> None:
    layer = build(name)
    (x, memory) = drawn()
    with torch.set_grad_enabled(grad):
        y, last = layer.unroll(x, begin(layer, memory))
        assert y.shape == (S, T, layer.output_size)
        state = begin(layer, memory)
        for t in range(T):
            out, state = layer.step(x[:, t], state)
            same(out, y[:, t])
    again, _ = layer.unroll(x[:, :2], last)
    both, _ = layer.unroll(torch.cat([x, x[:, :2]], 1), begin(layer, memory))
    same(again, both[:, T:])


@every
def test_no_steps_are_read_as_none(name: str) -> None:
    layer = build(name)
    (x, memory) = drawn()
    y, state = layer.unroll(x[:, :0], begin(layer, memory))
    assert y.shape == (S, 0, layer.output_size)
    same(layer.step(x[:, 0], state)[0], layer.step(x[:, 0], begin(layer, memory))[0])


@every
def test_later_steps_do_not_reach_back(name: str) -> None:
    layer = build(name)
    (x, memory) = drawn(grad=True)
    y, _ = layer.unroll(x, begin(layer, memory))
    gradients = torch.autograd.grad(y[:, 2].square().sum(), x)[0]
    assert gradients[:, 3:].abs().max() == 0
    assert (gradients[:, :3].abs().amax((0, 2)) > 0).all()


@every
def test_padding_of_the_source_changes_nothing(name: str) -> None:
    layer = build(name)
    (x, memory) = drawn(grad=True)
    y, _ = layer.unroll(x, begin(layer, memory))
    wild = memory.detach().clone()
    for row, length in enumerate(LENGTHS.tolist()):
        wild[row, length:] = 1e3
    same(layer.unroll(x, begin(layer, wild))[0], y)
    gradients = torch.autograd.grad(y.square().sum(), memory)[0]
    for row, length in enumerate(LENGTHS.tolist()):
        assert not gradients[row, length:].any()
        assert gradients[row, :length].abs().sum() > 0


@every
def test_padding_of_the_target_changes_nothing(name: str) -> None:
    layer = build(name)
    (x, memory) = drawn()
    real = torch.tensor([6, 2, 4])
    y, state = layer.unroll(x, begin(layer, memory), real)
    for row, length in enumerate(real.tolist()):
        rows = torch.tensor([row])
        alone, after = layer.unroll(
            x[row : row + 1, :length], begin(layer, memory).reorder(rows)
        )
        same(y[row : row + 1, :length], alone)
        assert not y[row, length:].any()
        more = x[row : row + 1, :1]
        same(layer.unroll(more, state.reorder(rows))[0], layer.unroll(more, after)[0])


@every
def test_one_source_alone_equals_it_among_many(name: str) -> None:
    layer = build(name)
    (x, memory) = drawn()
    y, _ = layer.unroll(x, begin(layer, memory))
    for row, length in enumerate(LENGTHS.tolist()):
        own = memory[row : row + 1, :length]
        alone, _ = layer.unroll(
            x[row : row + 1], begin(layer, own, torch.tensor([length]))
        )
        same(alone, y[row : row + 1])


@every
@pytest.mark.parametrize(
    "rows", [[0, 0, 1, 1, 2, 2], [2, 2], [1, 0, 2, 2], [0, 0, 0, 2, 2, 2]]
)
def test_beams_share_their_source(name: str, rows: list[int]) -> None:
    layer = build(name)
    (x, memory) = drawn()
    chosen = torch.tensor(rows)
    with torch.no_grad():
        _, state = layer.unroll(x[:, :2], begin(layer, memory))
        expected, after = layer.step(x[:, 2], state)
        moved, beams = layer.step(x[chosen, 2], state.reorder(chosen, keep=False))
        same(moved, expected[chosen])
        same(layer.step(x[chosen, 3], beams)[0], layer.step(x[:, 3], after)[0][chosen])


@every
def test_attention_weights_are_over_the_source(name: str) -> None:
    layer = build(name)
    (x, memory) = drawn()
    every_block: list[Tensor] = []
    if name.endswith("none"):
        with pytest.raises(ValueError, match="expected a decoder with attention"):
            layer.unroll_attending(x, begin(layer, memory), None, every_block)
        return
    y, _ = layer.unroll_attending(x, begin(layer, memory), None, every_block)
    same(y, layer.unroll(x, begin(layer, memory))[0])
    weights = layer.alignment(every_block)
    assert weights.shape == (S, T, M)
    same(weights.sum(-1), torch.ones(S, T, dtype=torch.float64))
    for row, length in enumerate(LENGTHS.tolist()):
        assert not weights[row, :, length:].any()


@pytest.mark.parametrize("reads", ["none", "rnn", "lstm", "gru", "attention"])
@every
def test_any_encoder_serves_any_decoder(reads: str, name: str) -> None:
    kind, config, options = DECODERS[name]
    read = (
        encoder(reads)
        if reads != "none"
        else build_layer("none", LayerConfig(hidden=9), D)
    )
    layer = build_decoder(kind, LayerConfig(**config), D, read, **options).double()
    x, _ = drawn()
    memory = read.double().read(x[:, :M], LENGTHS)
    y, _ = layer.unroll(x, layer.attend(memory, LENGTHS))
    y.sum().backward()
    assert y.shape == (S, T, layer.output_size)


@pytest.mark.parametrize("first", [True, False])
def test_blocks_equal_torch(first: bool) -> None:
    """The layers of torch.nn.Transformer with our weights give our numbers and gradients."""
    settings: dict[str, Any] = {
        "norm": "layer",
        "norm_first": first,
        "feedforward": "relu",
        "feedforward_size": 11,
        "bias": True,
        "positions": "sinusoidal",
    }
    read = Attention(8, 8, 2, 2, bidirectional=True, **settings).double().eval()
    write = Attention(8, 8, 2, 2, memory_size=8, **settings).double().eval()
    options: dict[str, Any] = {
        "batch_first": True,
        "norm_first": first,
        "dtype": torch.float64,
    }
    norms = [nn.LayerNorm(8, dtype=torch.float64) if first else None for _ in range(2)]
    layers = (
        nn.TransformerEncoderLayer(8, 2, 11, 0.0, **options),
        nn.TransformerDecoderLayer(8, 2, 11, 0.0, **options),
    )
    theirs = nn.Transformer(
        8,
        2,
        custom_encoder=nn.TransformerEncoder(layers[0], 2, norms[0], False),
        custom_decoder=nn.TransformerDecoder(layers[1], 2, norms[1]),
        **options,
    ).eval()
    with torch.no_grad():
        for layer in (read, write):
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for mine, block in zip(
            [*read.blocks, *write.blocks],
            [*theirs.encoder.layers, *theirs.decoder.layers],
            strict=True,
        ):
            copy_block(mine, block)
        if first:
            theirs.encoder.norm.load_state_dict(read.norm.state_dict())
            theirs.decoder.norm.load_state_dict(write.norm.state_dict())
    x = torch.randn(S, M, 8).double()
    z = torch.randn(S, T, 8).double().requires_grad_()
    hidden = torch.arange(M) >= LENGTHS[:, None]
    ahead = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    from unrolled.nn.positions import sinusoid

    def placed(part: Tensor) -> Tensor:
        return part + sinusoid(torch.arange(part.shape[1])[None], 8).double()

    expected = theirs(
        placed(x.masked_fill(hidden[:, :, None], 0)),
        placed(z),
        tgt_mask=ahead,
        src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden,
    )
    got, _ = write.unroll(z, write.attend(read.read(x, LENGTHS), LENGTHS))
    same(got, expected)
    gradients = torch.randn_like(got)
    same(
        torch.autograd.grad(got, z, gradients)[0],
        torch.autograd.grad(expected, z, gradients)[0],
    )


def copy_block(mine: Any, theirs: Any) -> None:
    parts = [(mine.attention, theirs.self_attn)]
    norms = [mine.attention_norm, mine.feedforward_norm]
    if mine.cross is not None:
        parts.append((mine.cross, theirs.multihead_attn))
        norms.insert(1, mine.cross_norm)
    for ours, other in parts:
        three = (ours.query, ours.key, ours.value)
        other.in_proj_weight.copy_(torch.cat([part.weight for part in three]))
        other.in_proj_bias.copy_(torch.cat([part.bias for part in three]))
        other.out_proj.load_state_dict(ours.out.state_dict())
    theirs.linear1.load_state_dict(mine.feedforward.up.state_dict())
    theirs.linear2.load_state_dict(mine.feedforward.out.state_dict())
    for number, norm in enumerate(norms, 1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())


def test_additive_attention_is_bahdanaus() -> None:
    """One step from the equations of Bahdanau et al. (2015), A.1.2 and A.2.2, written out."""
    layer = build("gru-additive")
    (x, memory) = drawn()
    state = begin(layer, memory)
    y, after = layer.step(x[:, 0], state)
    for row, length in enumerate(LENGTHS.tolist()):
        h = memory[row, :length]
        ends = torch.cat([h[-1, :8], h[0, 8:]])
        s = torch.tanh(layer.bridges[0].weight @ ends + layer.bridges[0].bias)
        part = layer.attend_to
        energy = torch.tanh(
            part.query.weight @ s + h @ part.key.weight.T + part.key.bias
        )
        context = (energy @ part.score.weight[0]).softmax(0) @ h
        cell = nn.GRUCell(layer.layer.input_size, 7, dtype=torch.float64)
        names = {n.removesuffix("_l0"): p for n, p in layer.layer.state_dict().items()}
        cell.load_state_dict(names)
        new = cell(torch.cat([x[row, 0], context]), s)
        out = torch.tanh(layer.readout(torch.cat([new, context, x[row, 0]])))
        same(y[row], out)
        same(after.inner.h[0, row], new)


def test_multiplicative_attention_is_luongs() -> None:
    """Two steps from Luong et al. (2015), eq. 5 and 7-8, with input feeding (section 3.3)."""
    layer = build("gru-multiplicative")
    (x, memory) = drawn()
    y, _ = layer.unroll(x[:, :2], begin(layer, memory))
    row = 0
    h = memory[0, :4]
    s = layer.bridges[0](torch.cat([h[-1, :8], h[0, 8:]])).tanh()
    cell = nn.GRUCell(layer.layer.input_size, 7, dtype=torch.float64)
    cell.load_state_dict(
        {n.removesuffix("_l0"): p for n, p in layer.layer.state_dict().items()}
    )
    output = torch.zeros(7, dtype=torch.float64)
    for t in range(2):
        s = cell(torch.cat([x[row, t], output]), s)
        context = (h @ layer.attend_to.key.weight.T @ s).softmax(0) @ h
        output = torch.tanh(layer.readout.weight @ torch.cat([context, s]))
        same(y[row, t], output)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_plain_attention_equals_torchs(causal: bool, p: float) -> None:
    """bf16 with gradients takes plain products: as near to fp64 as torch's own fused attention."""
    from unrolled.nn.attention import weigh

    exact = [torch.randn(3, 2, 5, 8, dtype=torch.float64) for _ in range(3)]
    allowed = (
        None
        if causal
        else (torch.arange(5) < torch.tensor([5, 2, 1])[:, None])[:, None, None]
    )
    expected = nn.functional.scaled_dot_product_attention(
        *exact, allowed, is_causal=causal
    )
    if p:
        torch.manual_seed(5)
        q, k, v = (part.float().requires_grad_() for part in exact)
        many = torch.stack([weigh(q, k, v, allowed, causal, p) for _ in range(4000)])
        # the mean over masks; 4,000 draws of numbers of size 1 stray by about 0.02
        torch.testing.assert_close(many.mean(0).double(), expected, rtol=0, atol=0.12)
        return
    low = [part.bfloat16().requires_grad_() for part in exact]
    got = weigh(*low, allowed, causal, p)
    # bf16 keeps 8 bits of numbers of size up to 3
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=0.05)
    assert got.grad_fn is not None


def test_what_cannot_decode_is_refused() -> None:
    read = encoder()
    with pytest.raises(
        UsageError, match="decoder none: it carries no state from its source"
    ):
        build_decoder("none", LayerConfig(), D, read)
    with pytest.raises(
        UsageError, match="expected attention out of additive, multiplicative"
    ):
        build_decoder("gru", LayerConfig(), D, read, "dot")
    with pytest.raises(UsageError, match="forward only; unset bidirectional"):
        build_decoder("gru", LayerConfig(bidirectional=True), D, read)
    with pytest.raises(ValueError, match="expected a layer of input_size 8, got 5"):
        RecurrentDecoder(GRU(5, 7), 5, 3)
    layer = build("gru-additive")
    with pytest.raises(ValueError, match="first state comes from attend"):
        layer.initial_state(2)
    with pytest.raises(ValueError, match="expected a layer built with memory_size"):
        Attention(4, 8, 1, 2).attend(torch.zeros(1, 1, 4), torch.tensor([1]))
