"""Decoders in the native core against the same layers in torch, step by step.

Tolerance: both are fp32 with sums in another order. Norms keep numbers at about 1, so every block
adds a few roundings of 2^-24; against fp64 both were measured to be off by at most 1.5e-6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unrolled import ops
from unrolled.nn import GRU, Attention, RecurrentDecoder, TokenEmbedding
from unrolled.nn.attending import input_width
from unrolled.nn.beam_state import BeamState
from unrolled.nn.decoding import DecoderParts, NativeDecoder
from unrolled.nn.memory import DecoderState
from unrolled.nn.rooms import Rooms
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.nn.state import AttentionState, pack, unpack
from unrolled.nn.stepper import why_not_native
from unrolled.nn.variant import Variant
from unrolled.ops import native

needs_core = pytest.mark.skipif(not native.available(), reason="needs the native core")
NEAR = {"rtol": 1e-5, "atol": 5e-6}
KINDS: list[dict[str, Any]] = [
    {"positions": "sinusoidal", "norm": "layer", "feedforward": "relu", "bias": True},
    {"positions": "rotary", "norm": "rms", "feedforward": "swiglu", "kv_heads": 2},
    {"positions": "learned", "norm": "layer", "feedforward": "gelu", "context": 40},
    {
        "positions": "sinusoidal",
        "norm": "rms",
        "feedforward": "swiglu",
        "norm_first": False,
    },
]


def parts(
    vocabulary: int = 37, width: int = 24, read: int = 24, **settings: Any
) -> DecoderParts:
    torch.manual_seed(11)
    layer = Attention(
        read, width, 3, 4, memory_size=10, feedforward_size=33, **settings
    )
    for (
        weight
    ) in layer.parameters():  # norms and biases too should matter, nothing should grow
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        else:
            weight.data.add_(0.2 * torch.randn(weight.shape))
    made = DecoderParts(
        TokenEmbedding(vocabulary, read, scale=2.0), layer, nn.Linear(width, vocabulary)
    )
    for part in made.modules():
        part.eval()
    return made


def begun(made: DecoderParts, sources: int = 4, steps: int = 7) -> DecoderState:
    lengths = torch.tensor([7, 1, 4, 0, 6, 2, 3])[:sources].clamp(max=steps)
    assert isinstance(made.layer, Attention)
    return made.layer.attend(torch.randn(sources, steps, 10), lengths)


def by_torch(made: DecoderParts, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    y, state = made.layer.step(made.embedding(tokens), state)
    return made.head(y), state


@needs_core
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [8, 24, 72])
@torch.inference_mode()
def test_steps_equal_torchs_while_beams_are_reordered(
    kind: dict[str, Any], width: int
) -> None:
    made = parts(width=width, read=24, **kind)
    decoder = NativeDecoder(made)
    state = begun(made)
    ours: Any = state.reorder(torch.arange(4).repeat_interleave(3))
    theirs: Any = ours
    before = native.count("step")
    for step in range(20):  # the cache grows on the way
        tokens = torch.randint(0, 37, (ours.rows,))
        got, ours = decoder.step(tokens, ours)
        expected, theirs = by_torch(made, tokens, theirs)
        torch.testing.assert_close(got, expected, **NEAR)
        rows = torch.arange(ours.rows) // 3 * 3 + torch.randint(0, 3, (ours.rows,))
        rows = rows.clamp(max=ours.rows - 1)
        if step == 8:
            rows = rows[3:]  # a source leaves
        if step == 12:
            rows = rows.flip(0)[
                :-2
            ]  # rows of a source no longer side by side, nor as many
        ours = ours.reorder(rows, keep=False)
        theirs = theirs.reorder(rows)
        if step > 11:  # each source still has rows of its own
            assert isinstance(ours.inner, BeamState)
            rows = torch.randperm(ours.rows)
            ours = ours.reorder(rows)
            theirs = theirs.reorder(rows)
    assert native.count("step") - before == 20


@needs_core
@torch.inference_mode()
def test_rows_of_different_lengths() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    state = begun(made)
    assert isinstance(made.layer, Attention)
    x = made.embedding(torch.randint(0, 37, (4, 6)))
    _, theirs = made.layer.unroll(x, state, torch.tensor([6, 2, 0, 3]))
    ours: Any = theirs
    for _ in range(12):
        tokens = torch.randint(0, 37, (ours.rows,))
        got, ours = decoder.step(tokens, ours)
        expected, theirs = by_torch(made, tokens, theirs)
        torch.testing.assert_close(got, expected, **NEAR)
        rows = torch.randint(0, ours.rows, (ours.rows,))
        ours = ours.reorder(rows)
        theirs = theirs.reorder(rows)
        assert torch.equal(ours.inner.lengths, theirs.inner.lengths)


@needs_core
@torch.inference_mode()
def test_a_state_can_be_stepped_again_and_forked() -> None:
    made = parts(**KINDS[1])
    decoder = NativeDecoder(made)
    state = begun(made)
    tokens = torch.randint(0, 37, (6, 4))
    _, first = decoder.step(tokens[0], state)

    def step(token: Tensor, before: Any) -> tuple[Tensor, Any]:
        logits, after = decoder.step(token, before)
        return logits.clone(), after

    a, after_a = step(tokens[1], first)
    b, after_b = step(tokens[2], first)  # the older state again
    turned = first.reorder(torch.tensor([3, 2, 1, 0]))
    c, _ = step(tokens[1].flip(0), turned)
    later = [step(tokens[3], after)[0] for after in (after_a, after_b)]
    _, theirs = by_torch(made, tokens[0], state)
    for token, got, ahead in ((tokens[1], a, later[0]), (tokens[2], b, later[1])):
        expected, after = by_torch(made, token, theirs)
        torch.testing.assert_close(got, expected, **NEAR)
        torch.testing.assert_close(ahead, by_torch(made, tokens[3], after)[0], **NEAR)
    torch.testing.assert_close(c.flip(0), a, **NEAR)


@needs_core
@torch.inference_mode()
def test_reordering_moves_no_key() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    state = begun(made)
    _, after = decoder.step(torch.randint(0, 37, (4,)), state)
    assert isinstance(after.inner, BeamState)
    moved = after.reorder(torch.tensor([2, 2, 0]))
    assert isinstance(moved.inner, BeamState)
    assert moved.inner.buffer is after.inner.buffer
    grown = after.reorder(
        torch.arange(4).repeat_interleave(2)
    )  # more rows than the cache has
    assert isinstance(grown.inner, BeamState)
    assert grown.inner.buffer.keys.shape[1] == 8


@needs_core
@torch.inference_mode()
def test_a_beam_state_is_what_attention_would_have() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    state = begun(made)
    ours: Any = state
    theirs: Any = state
    for _ in range(3):
        tokens = torch.randint(0, 37, (4,))
        rows = torch.randint(0, 4, (4,))
        ours = decoder.step(tokens, ours)[1]
        theirs = by_torch(made, tokens, theirs)[1]
        ours = ours.reorder(rows)
        theirs = theirs.reorder(rows)
    settled = ours.inner.settled()
    assert isinstance(settled, AttentionState)
    torch.testing.assert_close(settled.keys, theirs.inner.keys, **NEAR)
    torch.testing.assert_close(settled.values, theirs.inner.values, **NEAR)
    again: Any = unpack(pack(ours))
    joined: Any = type(ours).join([ours, again])
    tokens = torch.randint(0, 37, (4,))
    expected = by_torch(made, tokens, theirs)[0]
    for copy in (again, ours.detach()):
        torch.testing.assert_close(decoder.step(tokens, copy)[0], expected, **NEAR)
    both = decoder.step(tokens.repeat(2), joined)[0]
    torch.testing.assert_close(both, expected.repeat(2, 1), **NEAR)
    assert again.reorder(torch.tensor([], dtype=torch.int64)).rows == 0


@needs_core
def test_states_made_in_and_out_of_inference_mode_mix() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    tokens = torch.randint(0, 37, (4,))
    with torch.no_grad():
        state = begun(made)
    with torch.inference_mode():
        inside, after = decoder.step(tokens, state)
    outside, _ = decoder.step(tokens, after)
    assert not outside.requires_grad
    with torch.no_grad():
        expected = by_torch(made, tokens, by_torch(made, tokens, state)[1])[0]
    torch.testing.assert_close(outside, expected, **NEAR)
    assert inside.shape == outside.shape


@needs_core
@torch.inference_mode()
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads() -> None:
    made = parts(900, 72, 72, **KINDS[0])
    before = torch.get_num_threads()
    decoder = NativeDecoder(made)
    state = begun(made)
    tokens = torch.randint(0, 900, (80,))
    all_rows = state.reorder(torch.arange(4).repeat_interleave(20))
    scores = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            scores.append(decoder.step(tokens, all_rows)[0].clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    alone = decoder.step(tokens[45:46], all_rows.reorder(torch.tensor([45])))[0]
    assert torch.equal(alone, scores[0][45:46])


@needs_core
def test_weights_are_those_of_the_moment() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    state = begun(made)
    tokens = torch.randint(0, 37, (4,))
    with torch.no_grad():
        before = decoder.step(tokens, state)[0].clone()
        made.head.weight.zero_()
        assert torch.equal(decoder.step(tokens, state)[0], before)
        assert not torch.equal(NativeDecoder(made).step(tokens, state)[0], before)
    assert "bytes of weights" in decoder.explain()


@needs_core
def test_weights_are_packed_anew_by_refresh() -> None:
    made = parts(**KINDS[1])
    decoder = NativeDecoder(made)
    state = begun(made)
    tokens = torch.randint(0, 37, (4,))
    with torch.no_grad():
        for weight in made.layer.parameters():
            weight.mul_(0.9)
        decoder.refresh()
        got = decoder.step(tokens, state)[0].clone()
        assert torch.equal(got, NativeDecoder(made).step(tokens, state)[0])
    made.layer.double()
    with pytest.raises(ValueError, match="that the decoder was made with, got others"):
        decoder.refresh()
    made.layer.float()
    made.layer.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="got a Attention with hooks; make another"):
        decoder.refresh()


@needs_core
def test_logits_may_be_written_to_and_stand_until_the_next_step() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    tokens = torch.randint(0, 37, (4,))
    with torch.inference_mode():
        first, _ = decoder.step(tokens, begun(made))
    first.index_fill_(1, torch.tensor([3]), 0.0)  # also outside
    second, _ = decoder.step(tokens[:2], begun(made, 2))
    assert second.data_ptr() == first.data_ptr()


@needs_core
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_best_are_those_of_a_step(kind: dict[str, Any]) -> None:
    made = parts(900, 24, 24, **kind)
    decoder = NativeDecoder(made)
    state = begun(made)
    banned = torch.tensor([5, 899, 0])
    ours: Any = state.reorder(torch.arange(4).repeat_interleave(3))
    theirs: Any = ours
    for _ in range(6):
        tokens = torch.randint(0, 900, (12,))
        values, best, ours = decoder.best(tokens, ours, 7, banned)
        logits, theirs = by_torch(made, tokens, theirs)
        expected = logits.log_softmax(1).index_fill(1, banned, -torch.inf).topk(7)
        torch.testing.assert_close(values, expected.values, **NEAR)
        assert torch.equal(best, expected.indices)
    all_of_few = NativeDecoder(parts(4, 24, 24, **kind))
    values, best, _ = all_of_few.best(
        torch.zeros(4, dtype=torch.int64), state, 9, banned[2:]
    )
    assert values.shape == (4, 4)
    assert values[:, 3].isneginf().all()
    assert (values[:, :3].exp().sum(1) < 1).all()  # what is banned keeps its share
    with pytest.raises(ValueError, match="a banned id is none"):
        all_of_few.best(torch.zeros(4, dtype=torch.int64), state, 2, banned)
    with pytest.raises(ValueError, match="expected k from 1 to 4, got 0"):
        all_of_few.best(torch.zeros(4, dtype=torch.int64), state, 0, banned[2:])


@needs_core
@torch.inference_mode()
def test_lengths_are_read_anew_with_every_memory() -> None:
    made = parts(**KINDS[0])
    lengths = torch.tensor([7, 7])
    decoder = NativeDecoder(made)
    tokens = torch.zeros(2, dtype=torch.int64)
    read = torch.randn(2, 7, 10)
    assert isinstance(made.layer, Attention)
    decoder.step(tokens, made.layer.attend(read, lengths))
    lengths.copy_(torch.tensor([2, 3]))  # the same tensor, other numbers
    got = decoder.step(tokens, made.layer.attend(read, lengths))[0].clone()
    expected = NativeDecoder(made).step(
        tokens, made.layer.attend(read, lengths.clone())
    )[0]
    assert torch.equal(got, expected)


@needs_core
@torch.inference_mode()
def test_nothing_left_over_is_packed() -> None:
    """A cache is lent with what an earlier one left in it; rows that are behind do not show it."""
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    state = begun(made)
    longer: Any = state
    for _ in range(40):
        longer = decoder.step(torch.ones(4, dtype=torch.int64), longer)[1]
    longer.inner.buffer.keys.fill_(torch.nan)
    short = decoder.step(torch.zeros(4, dtype=torch.int64), state)[1]
    long = short
    for _ in range(4):
        long = decoder.step(torch.zeros(4, dtype=torch.int64), long)[1]
    joined = DecoderState.join([short, long])
    del longer
    after = decoder.step(torch.zeros(8, dtype=torch.int64), joined)[1]
    for name, part in pack(after).items():
        assert part.isfinite().all(), name


@needs_core
def test_room_is_lent_again_only_when_nobody_holds_it() -> None:
    rooms = Rooms()
    buffer = rooms.buffer((1, 2, 1, 3, 4))
    other = rooms.buffer((1, 2, 1, 3, 4))
    first = buffer.keys.data_ptr()
    assert other.keys.data_ptr() != first
    assert buffer.keys.stride() == buffer.values.stride()
    del buffer
    smaller = rooms.buffer((1, 2, 1, 2, 4))
    assert smaller.keys.data_ptr() == first
    assert rooms.buffer((1, 2, 1, 3, 4)).keys.data_ptr() != first


@needs_core
@torch.inference_mode()
def test_a_state_kept_from_an_earlier_search_is_left_alone() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    tokens = torch.zeros(4, dtype=torch.int64)
    kept = decoder.step(tokens, begun(made))[1]
    before = {name: part.clone() for name, part in kept.to_tensors().items()}
    for _ in range(3):  # as many searches that come and go
        state: Any = begun(made)
        for _ in range(40):
            state = decoder.step(tokens + 1, state)[1]
    for name, part in kept.to_tensors().items():
        assert torch.equal(part, before[name]), name


@needs_core
def test_what_a_step_refuses() -> None:
    made = parts(**KINDS[2])
    decoder = NativeDecoder(made)
    state: Any = begun(made)
    with pytest.raises(ValueError, match="expected tokens of 4 rows"):
        decoder.step(torch.zeros(3, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="expected a DecoderState"):
        decoder.step(torch.zeros(4, dtype=torch.int64), state.inner)
    for _ in range(40):
        state = decoder.step(torch.zeros(4, dtype=torch.int64), state)[1]
    with pytest.raises(ValueError, match="expected at most 40 positions"):
        decoder.step(torch.zeros(4, dtype=torch.int64), state)


def test_why_not_native() -> None:
    made = parts()
    size = input_width(6, 8, 10, "additive", True)
    recurrent = RecurrentDecoder(GRU(size, 8), 6, 10)
    reason = why_not_native(replace(made, layer=recurrent))
    assert reason == "RecurrentDecoder has no native step"
    reason = why_not_native(replace(made, layer=Attention(24, 24)))
    assert reason is not None
    assert "without memory_size" in reason
    with ops.use("reference"):
        assert why_not_native(made) == "ops.use('reference') was chosen"
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in str(why_not_native(made))
    made.layer.train()
    assert "training" in str(why_not_native(made))
    with pytest.raises(ValueError, match="in training"):
        NativeDecoder(made)
    made.layer.eval().double()
    assert "torch.float64 on cpu" in str(why_not_native(made))


@needs_core
@pytest.mark.parametrize(
    "settings",
    [
        {"feedforward": "gelu-tanh"},
        *(
            {"variant": Variant(**{name: value})}
            for name, value in {
                "norm_eps": 1e-4,
                "rotary_base": 500.0,
                "rotary_scaling": RotaryScaling(kind="linear", factor=2.0),
                "attention_window": 3,
                "query_key_norm": True,
                "attention_bias": "inputs",
            }.items()
        ),
    ],
)
@torch.inference_mode()
def test_variants_equal_torchs(settings: dict[str, Any]) -> None:
    made = parts(**settings)
    decoder = NativeDecoder(made)
    ours: Any = begun(made)
    theirs: Any = ours
    for _ in range(8):
        tokens = torch.randint(0, 37, (4,))
        got, ours = decoder.step(tokens, ours)
        expected, theirs = by_torch(made, tokens, theirs)
        torch.testing.assert_close(got, expected, **NEAR)


def test_heads_of_another_width_have_no_native_step_beside_a_source() -> None:
    made = parts(variant=Variant(head_size=4))
    assert why_not_native(made) == "the core has one head_size for source and target"


@needs_core
@torch.inference_mode()
def test_lengths_may_be_of_any_integers_and_may_change() -> None:
    made = parts(**KINDS[0])
    decoder = NativeDecoder(made)
    state = begun(made)
    tokens = torch.randint(0, 37, (4,))
    for lengths in ([7, 7, 7, 7], [2, 7, 3, 1]):
        memory = replace(state.memory, lengths=torch.tensor(lengths, dtype=torch.int32))
        changed = replace(state, memory=memory)
        got, _ = decoder.step(tokens, changed)
        torch.testing.assert_close(got, by_torch(made, tokens, changed)[0], **NEAR)


@needs_core
@torch.inference_mode()
def test_torch_does_not_take_the_cores_state() -> None:
    made = parts(**KINDS[0])
    tokens = torch.randint(0, 37, (4,))
    _, state = NativeDecoder(made).step(tokens, begun(made))
    with pytest.raises(
        ValueError, match=r"expected a AttentionState .*, got BeamState"
    ):
        by_torch(made, tokens, state.reorder(torch.tensor([2, 0, 1, 3])))
