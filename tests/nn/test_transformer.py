"""Attention against torch's own, its cache, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unrolled.nn import Attention, AttentionState
from unrolled.nn.attention import AttentionContext, SelfAttention
from unrolled.nn.positions import RotaryFrequencies, rotate, rotation, sinusoid
from unrolled.nn.state import CacheWriter
from unrolled.ops import reference

TIGHT = {"rtol": 0, "atol": 1e-12}  # fp64: the order of sums alone differs


def test_heads_equal_torch() -> None:
    ours = SelfAttention(12, 3, 3, 0.0).double()
    theirs = torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    with torch.no_grad():
        parts = (ours.query.weight, ours.key.weight, ours.value.weight)
        theirs.in_proj_weight.copy_(torch.cat(parts))
        theirs.out_proj.weight.copy_(ours.out.weight)
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
    y = ours(x, 0, AttentionContext(None, None, True, None))
    torch.testing.assert_close(y, expected, **TIGHT)
    cot = torch.randn(2, 5, 12, dtype=torch.float64)
    (a,), (b,) = (torch.autograd.grad((out * cot).sum(), x) for out in (y, expected))
    torch.testing.assert_close(a, b, **TIGHT)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_equals_torch(causal: bool) -> None:
    layer = Attention(
        12,
        12,
        1,
        3,
        positions="sinusoidal",
        norm="layer",
        feedforward="gelu",
        feedforward_size=20,
        bidirectional=not causal,
    ).double()
    block = layer.blocks[0]
    theirs = torch.nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
    ).double()
    with torch.no_grad():
        mine = block.attention
        parts = (mine.query.weight, mine.key.weight, mine.value.weight)
        theirs.self_attn.in_proj_weight.copy_(torch.cat(parts))
        theirs.self_attn.out_proj.weight.copy_(mine.out.weight)
        theirs.linear1.weight.copy_(block.feedforward.up.weight)
        theirs.linear2.weight.copy_(block.feedforward.out.weight)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    placed = x + sinusoid(torch.arange(5)[None], 12).double()
    expected = layer.norm(theirs(placed, src_mask=hidden if causal else None))
    torch.testing.assert_close(layer.read(x), expected, **TIGHT)


def test_grouped_heads_equal_the_reference() -> None:
    ours = SelfAttention(12, 6, 2, 0.0).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = (
        part(x).unflatten(2, (heads, 2)).transpose(1, 2)
        for part, heads in ((ours.query, 6), (ours.key, 2), (ours.value, 2))
    )
    out, _ = reference.attention(q, k, v)
    expected = ours.out(out.transpose(1, 2).flatten(2))
    y = ours(x, 0, AttentionContext(None, None, True, None))
    torch.testing.assert_close(y, expected, **TIGHT)


def test_rotary_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = []
    for start in (0, 3, 50):
        at = torch.tensor([[start + 4]]), torch.tensor([[start]])
        turned = [
            rotate(part, rotation(position, RotaryFrequencies(8)))
            for part, position in zip((q, k), at, strict=True)
        ]
        scores.append((turned[0] * turned[1]).sum())
    # angles are fp32: 54 radians have 4e-6 of rounding in them
    torch.testing.assert_close(scores[1:], scores[:1] * 2, rtol=0, atol=5e-5)


def test_sinusoid_is_that_of_the_paper() -> None:
    encoding = sinusoid(torch.tensor([[0, 7]]), 6)
    assert encoding[0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    wave = 7 / 10000 ** (2 / 6)
    expected = torch.tensor([math.sin(wave), math.cos(wave)])
    torch.testing.assert_close(encoding[0, 1, 2:4], expected)
    assert sinusoid(torch.tensor([[1]]), 5).shape == (1, 1, 5)


def test_weights_start_as_gpt_2_does() -> None:
    layer = Attention(64, 256, 8, 4, norm="layer", positions="learned", context=64)
    block = layer.blocks[3]
    assert layer.position_table is not None
    for weight, std in (
        (block.attention.query.weight, 0.02),
        (block.feedforward.up.weight, 0.02),
        (layer.position_table.weight, 0.02),
        (block.attention.out.weight, 0.02 / 4),
        (block.feedforward.out.weight, 0.02 / 4),
    ):
        assert (
            abs(weight.std().item() / std - 1) < 0.05
        )  # 16,384 draws: 0.6 % off at one sigma
    x = torch.randn(2, 9, 64)
    assert 0.8 < layer.project(x).std() < 1.2


def test_reading_step_by_step_copies_little() -> None:
    layer = Attention(4, 8, 2, 2).eval()
    state = layer.initial_state(1)
    moved = 0
    buffers = set()
    with torch.no_grad():
        for _ in range(300):
            before = state
            _, state = layer.step(torch.randn(1, 4), state)
            if state.buffer is not before.buffer:
                moved += before.used
            buffers.add(id(state.buffer.keys))
    assert moved <= 2 * 300
    assert state.used == 300
    assert state.keys.shape == (2, 1, 2, 300, 4)


def test_an_older_state_copies_and_the_newest_does_not() -> None:
    layer = Attention(4, 8, 1, 2).eval()
    with torch.no_grad():
        _, old = layer.unroll(torch.randn(2, 3, 4))
        _, new = layer.step(torch.randn(2, 4), old)
        assert new.buffer is old.buffer
        _, fork = layer.step(torch.randn(2, 4), old)
        assert fork.buffer is not old.buffer
        assert fork.reorder(torch.tensor([0, 1])) is fork
        moved = fork.reorder(torch.tensor([1, 1]))
        _, after = layer.step(torch.randn(2, 4), moved)
        assert after.buffer is moved.buffer


def test_writing_never_touches_a_graph() -> None:
    layer = Attention(4, 8, 1, 2)
    x = torch.randn(2, 3, 4, requires_grad=True)
    y, state = layer.unroll(x)
    with torch.no_grad():
        for _ in range(20):
            _, state = layer.step(torch.randn(2, 4), state)
    y.sum().backward()
    assert x.grad is not None


def test_autocast() -> None:
    """bf16 keeps 8 bits; outputs of a final norm are about 1 in size."""
    layer = Attention(4, 16, 2, 4, kv_heads=2).eval()
    x = torch.randn(2, 6, 4)
    expected = layer.read(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(layer.read(x).float(), expected, rtol=0, atol=0.1)
        y, state = layer.unroll(x[:, :4])
        y, state = layer.unroll(x[:, 4:5], state)
        y, state = layer.step(x[:, 5], state)
    torch.testing.assert_close(y.float(), expected[:, 5], rtol=0, atol=0.1)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_context_is_the_end(positions: str) -> None:
    layer = Attention(4, 8, 1, 2, positions=positions, context=5).eval()
    x = torch.randn(2, 6, 4)
    assert layer.context == 5
    with pytest.raises(
        ValueError, match=r"expected at most 5 positions.*got 6; read a later"
    ):
        layer.read(x)
    _, state = layer.unroll(x[:, :5])
    with pytest.raises(ValueError, match="expected at most 5 positions"):
        layer.step(x[:, 5], state)
    # a wide chunk whose real steps fit does fit
    _, state = layer.unroll(x[:, :3], None, torch.tensor([3, 1]))
    _, state = layer.unroll(x[:, :4], state, torch.tensor([2, 4]))
    assert state.lengths.tolist() == [5, 5]
    assert isinstance(state, AttentionState)


def test_no_state_goes_into_a_bidirectional_layer() -> None:
    layer = Attention(4, 8, 1, 2, bidirectional=True)
    x = torch.randn(2, 3, 4)
    _, state = layer.unroll(x)
    with pytest.raises(
        ValueError, match="expected no earlier state for a bidirectional layer"
    ):
        layer.unroll(x, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "expected hidden to be a multiple of heads, got 8 and 3"),
        (
            {"kv_heads": 3, "heads": 4},
            "expected heads to be a multiple of kv_heads, got 4 and 3",
        ),
        ({"layers": 0}, "expected layers of at least 1"),
        ({"feedforward_size": 0}, "expected feedforward_size of at least 1"),
        (
            {"positions": "none"},
            "expected positions out of rotary, sinusoidal, learned",
        ),
        ({"norm": "batch"}, "expected norm out of rms, layer"),
        ({"feedforward": "tanh"}, "expected feedforward out of swiglu, gelu"),
        ({"positions": "learned"}, "set context, or positions=rotary"),
        ({"context": 0}, "expected context of at least 1"),
        ({"heads": 8}, "expected heads of even width for rotary positions"),
        ({"dropout": 2.0}, "expected dropout from 0 to 1"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attention(4, **{"hidden": 8, "layers": 1, "heads": 4, **options})


def test_cache_writer_masks_what_it_must() -> None:
    layer = Attention(4, 8, 1, 2).eval()
    with torch.no_grad():
        _, state = layer.unroll(torch.randn(2, 3, 4), None, torch.tensor([3, 1]))
    writer = CacheWriter(state, 2)
    assert writer.positions.tolist() == [[3, 4], [1, 2]]
    assert writer.used == 5
