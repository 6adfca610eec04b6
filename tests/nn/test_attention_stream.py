"""Streams over attention against the same layer in torch, step by step.

Tolerance: both are fp32 with sums in another order; see test_decoding.py. In bf16 operands lose
2^-9 of themselves, in int8 2^-8 of the largest of their row.
"""

from __future__ import annotations

from typing import Any

import gguf
import pytest
import torch
from torch import Tensor, nn

from unrolled import ops
from unrolled.models import LanguageModel
from unrolled.nn import LSTM, Attention, TokenEmbedding
from unrolled.nn.rotary_scaling import RotaryScaling
from unrolled.nn.state import AttentionState, pack, unpack
from unrolled.nn.variant import Variant
from unrolled.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="needs the native core")
NEAR = {"rtol": 1e-5, "atol": 1e-5}
V = 37
SCALED = RotaryScaling(
    kind="yarn",
    factor=4.0,
    original_context=16,
    beta_fast=32.0,
    beta_slow=1.0,
    attention_factor=1.1,
)
# each published family, and what the core might do otherwise
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "positions": "learned",
        "norm": "layer",
        "feedforward": "gelu-tanh",
        "bias": True,
        "context": 64,
    },
    "llama": {"kv_heads": 2, "variant": Variant(norm_eps=1e-5, rotary_base=5e5)},
    "mistral": {"kv_heads": 2, "variant": Variant(attention_window=5)},
    "qwen2": {"kv_heads": 2, "variant": Variant(attention_bias="inputs")},
    "qwen3": {"kv_heads": 1, "variant": Variant(head_size=10, query_key_norm=True)},
    "yarn": {"variant": Variant(rotary_scaling=SCALED)},
    "original": {
        "positions": "sinusoidal",
        "norm": "layer",
        "feedforward": "relu",
        "norm_first": False,
        "bias": True,
    },
    "gelu": {"positions": "learned", "feedforward": "gelu", "context": 64},
    "seven": {"heads": 7, "hidden": 42},
}


def model(kind: str = "llama", read: int = 24, **changes: Any) -> LanguageModel:
    torch.manual_seed(3)
    settings = {"hidden": 24, "layers": 3, **KINDS[kind], **changes}
    layer = Attention(read, feedforward_size=33, **settings)
    embedding = TokenEmbedding(V, read, scale=1.5)
    made = LanguageModel(embedding, layer, V)
    for weight in made.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        else:
            weight.data.add_(0.2 * torch.randn(weight.shape))
    return made.eval()


def ids(rows: int, steps: int) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(0, V, (rows, steps), generator=draw)


def by_torch(made: LanguageModel, tokens: Tensor, state: Any = None) -> Any:
    with ops.use("reference"):
        return made(tokens, state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3, 64])
@torch.inference_mode()
def test_steps_and_chunks_equal_torchs(kind: str, rows: int) -> None:
    made = model(kind)
    stream = made.stream(rows)
    assert stream.native, stream.explain()
    tokens = ids(rows, 40)
    expected, _ = by_torch(made, tokens)
    before = native.count("step")
    for step in range(9):
        got = stream.step(tokens[:, step])
        torch.testing.assert_close(got, expected[:, step], **NEAR)
    got = stream.read(tokens[:, 9:39])
    torch.testing.assert_close(got, expected[:, 38], **NEAR)
    torch.testing.assert_close(stream.step(tokens[:, 39]), expected[:, 39], **NEAR)
    chunks = -(-30 // max(1, 256 // rows))
    assert native.count("step") - before == 10 + chunks


@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.inference_mode()
def test_threads_change_no_bit(threads: int) -> None:
    # wide enough that threads share the columns of a row
    made = model("qwen3", read=256, hidden=256, heads=8, kv_heads=4, layers=2)
    tokens = ids(2, 80)
    now = torch.get_num_threads()
    answers = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            stream = made.stream(2)
            first = stream.read(tokens[:, :79]).clone()
            answers.append(torch.cat([first, stream.step(tokens[:, 79])]))
    finally:
        torch.set_num_threads(now)
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    ("precision", "off"), [("bf16", 0.03), ("int8", 0.06), ("q8_0", 0.06)]
)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_fewer_bits_are_near(kind: str, precision: str, off: float) -> None:
    made = model(kind)
    tokens = ids(2, 12)
    expected, _ = by_torch(made, tokens)
    stream = made.stream(2, precision)
    got = torch.stack([stream.step(step).clone() for step in tokens.unbind(1)], 1)
    assert 0 < (got - expected).abs().max() < off * expected.abs().max()
    assert stream.bytes < made.stream(2).bytes


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@torch.inference_mode()
def test_blocks_of_a_file_are_read_as_they_are(kind: str) -> None:
    made = model("llama", read=64, hidden=64, heads=4)
    layer: Any = made.layer
    for block in layer.blocks:
        # a length that blocks divide, as in every file of them
        block.feedforward.up = nn.Linear(64, 192, bias=False)
        block.feedforward.out = nn.Linear(96, 64, bias=False)
    tokens = ids(3, 20)
    precision = kind.lower()
    first = made.stream(3, precision).read(tokens).clone()
    numbers = gguf.GGMLQuantizationType[kind]
    for module in [*layer.modules(), made.head]:
        if isinstance(module, nn.Linear):
            blocks = gguf.quants.quantize(module.weight.numpy(), numbers)
            kept = gguf.quants.dequantize(blocks, numbers)
            module.weight.copy_(torch.from_numpy(kept))
    stream = made.stream(3, precision)
    assert torch.equal(stream.read(tokens), first)
    # what is left is the rounding of activations to 8 bits
    expected = by_torch(made, tokens)[0][:, -1]
    assert (first - expected).abs().max() < 0.03 * expected.abs().max()
    # 34 or 18 bytes for 32 weights, some more where a panel is not full
    weights = sum(m.weight.numel() for m in made.modules() if isinstance(m, nn.Linear))
    bytes_each = {"q8_0": 34 / 32, "q4_0": 18 / 32}[precision]
    assert weights * bytes_each <= stream.bytes < 1.3 * weights * bytes_each


@torch.inference_mode()
def test_blocks_of_small_scales_where_denormals_are_zero() -> None:
    made = model()
    for weight in made.parameters():
        if weight.dim() > 1:
            # scales below the smallest normal number of fp16
            weight.mul_(1e-2)
    tokens = ids(2, 4)
    expected = made.stream(2, "q8_0").read(tokens).clone()
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("no such mode of this processor")
        assert torch.equal(made.stream(2, "q8_0").read(tokens), expected)
    finally:
        torch.set_flush_denormal(False)


def test_blocks_are_for_attention_and_for_numbers_that_they_hold() -> None:
    with pytest.raises(ValueError, match="float32, bf16, int8, got 'q8_0'"):
        LSTM(8, 8).stream(1, "q8_0")
    made = model()
    weight: Any = made.head.weight
    weight.data[2, 3] = 1e6
    with pytest.raises(
        ValueError, match="weights up to 524,032, got larger ones in weight"
    ):
        made.stream(1, "q4_0")
    assert made.stream(1, "q8_0").native


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
@torch.inference_mode()
def test_states_are_those_of_unroll(kind: str) -> None:
    """Rows of different lengths, reordered, joined, handed on, and stepped again from before."""
    made = model(kind)
    stream = made.stream(3)
    tokens = ids(3, 20)
    _, begun = made(tokens[:, :6], None, torch.tensor([6, 2, 4]))
    stream.load(begun)
    before = stream.state
    assert isinstance(before, AttentionState)
    assert before.lengths.tolist() == [6, 2, 4]
    expected, after = by_torch(made, tokens[:, 6:9], begun)
    for step in range(3):
        got = stream.step(tokens[:, 6 + step])
        torch.testing.assert_close(got, expected[:, step], **NEAR)
    # what was handed out is what it was: both ways go on from it
    again, _ = by_torch(made, tokens[:, 6:8], before)
    torch.testing.assert_close(again, expected[:, :2], **NEAR)
    order = torch.tensor([2, 0, 1])
    stream.load(stream.state.reorder(order))
    expected, _ = by_torch(made, tokens[:, 9:10], after.reorder(order))
    torch.testing.assert_close(stream.step(tokens[:, 9]), expected[:, 0], **NEAR)
    joined = AttentionState.join([before.reorder(torch.tensor([1])), before.detach()])
    wide = made.stream(4)
    wide.load(joined)
    rows = torch.tensor([1, 0, 1, 2])
    expected, _ = by_torch(made, tokens[rows, 6:7], begun.reorder(rows))
    got = wide.step(tokens[rows, 6])
    torch.testing.assert_close(got, expected[:, 0], **NEAR)


@torch.no_grad()
def test_who_steps_a_state_by_torch_disturbs_no_stream() -> None:
    made = model()
    stream = made.stream(1)
    tokens = ids(1, 6)
    stream.read(tokens[:, :3])
    # writes into the room of both, after which it is the newest
    made.step(torch.tensor([V - 1]), stream.state)
    got = stream.read(tokens[:, 3:])
    torch.testing.assert_close(got, by_torch(made, tokens)[0][:, -1], **NEAR)


@torch.no_grad()
def test_rows_begin_anew() -> None:
    made = model()
    stream = made.stream(2)
    tokens = ids(2, 8)
    stream.read(tokens)
    kept = stream.state
    stream.reset([1])
    got = stream.step(tokens[:, 0])
    whole, _ = by_torch(made, torch.cat([tokens[:1], tokens[:1, :1]], 1))
    torch.testing.assert_close(got[0], whole[0, -1], **NEAR)
    fresh, _ = by_torch(made, tokens[1:, :1])
    torch.testing.assert_close(got[1], fresh[0, 0], **NEAR)
    on, _ = by_torch(made, tokens[:, :1], kept)
    expected, _ = by_torch(made, torch.cat([tokens, tokens[:, :1]], 1))
    torch.testing.assert_close(on[:, 0], expected[:, -1], **NEAR)


@torch.no_grad()
def test_a_layer_by_itself_reads_vectors() -> None:
    made = model("qwen2", read=10)
    x = torch.randn(2, 7, 10)
    stream = made.layer.stream(2)
    assert stream.native
    expected, _ = made.layer.unroll(x)
    torch.testing.assert_close(stream.read(x), expected[:, -1], **NEAR)


def test_what_cannot_be_read_leaves_the_stream_as_it_was() -> None:
    made = model("gpt2", context=10)
    stream = made.stream(1)
    tokens = ids(1, 10)
    stream.read(tokens[:, :4])
    for wrong, message in (
        (torch.tensor([V]), "not in the vocabulary"),
        (torch.tensor([1.0]), "expected x of shape"),
        (torch.tensor([1, 2]), "expected x of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.step(wrong)
    with pytest.raises(ValueError, match="at most 10 positions"):
        stream.read(ids(1, 7))
    with pytest.raises(ValueError, match="expected a state of"):
        stream.load(made.initial_state(2))
    got = stream.read(tokens[:, 4:])
    with torch.no_grad():
        torch.testing.assert_close(got, by_torch(made, tokens)[0][:, -1], **NEAR)
    with pytest.raises(ValueError, match="at most 10 positions"):
        stream.step(torch.tensor([1]))


@torch.no_grad()
def test_hooks_and_other_parts_run_in_torch() -> None:
    for change in (
        lambda made: made.layer.blocks[1].register_forward_hook(lambda *_: None),
        lambda made: setattr(made, "head", nn.Sequential(made.head)),
        lambda made: made.layer.blocks[0].attention.double(),
    ):
        made = model()
        assert made.stream().native
        change(made)
        assert not made.stream().native


@torch.no_grad()
def test_a_stream_takes_no_memory_with_the_number_of_its_steps() -> None:
    made = model("mistral")
    stream = made.stream(1)
    token = torch.tensor([1])
    said = set()
    for _ in range(100):
        stream.reset()
        for _ in range(100):
            stream.step(token)
        said.add(stream.explain())
    # keys and values of 3 blocks, 2 heads, 128 steps and 6 numbers, in fp32
    assert len(said) == 1
    size = 2 * 3 * 2 * 128 * 6 * 4
    assert f"a cache of {size:,} bytes for 128 steps" in said.pop()


@torch.no_grad()
def test_the_beginning_of_the_last_text_is_not_read_again() -> None:
    made = model()
    stream = made.stream(1)
    tokens = ids(1, 40)
    other = torch.cat([tokens[:, :25], tokens[:, :9]], 1)
    fresh = made.stream(1).read(other).clone()
    stream.begin(tokens[:, :30])
    stream.step(tokens[:, 30])
    kept = stream.state
    again = stream.begin(tokens[:, :31])
    torch.testing.assert_close(again, by_torch(made, tokens)[0][:, 30], **NEAR)
    got = stream.begin(other)
    assert torch.equal(got, fresh)
    # a state that somebody has is what it was
    on, _ = by_torch(made, tokens[:, 31:32], kept)
    torch.testing.assert_close(on[:, 0], by_torch(made, tokens)[0][:, 31], **NEAR)
    # and a text that is the same but for its end is its end alone to read
    at = native.count("step")
    assert torch.equal(stream.begin(other[:, :26]), made.stream(1).read(other[:, :26]))
    assert native.count("step") - at == 2


@torch.no_grad()
def test_a_shortened_state_goes_on_without_a_copy() -> None:
    made = model()
    stream = made.stream(1)
    tokens = ids(1, 12)
    scores = stream.read_each(tokens[:, :10])
    torch.testing.assert_close(scores, by_torch(made, tokens[:, :10])[0], **NEAR)
    state: Any = stream.state
    room = state.buffer
    stream.load(state.shortened(4))
    got = stream.step(tokens[:, 11])
    short = torch.cat([tokens[:, :6], tokens[:, 11:]], 1)
    torch.testing.assert_close(got, by_torch(made, short)[0][:, -1], **NEAR)
    now: Any = stream.state
    assert now.buffer is room


@torch.no_grad()
def test_weights_without_bounds_are_refused_and_the_stream_stays() -> None:
    made = model()
    stream = made.stream(1)
    tokens = ids(1, 5)
    expected = by_torch(made, tokens)[0][:, -1]
    stream.read(tokens[:, :4])
    made.layer.blocks[1].feedforward.up.weight[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"blocks\.1\.feedforward\.up\.weight"):
        stream.refresh()
    torch.testing.assert_close(stream.step(tokens[:, 4]), expected, **NEAR)
    with pytest.raises(ValueError, match="finite"):
        made.stream(1)


@torch.no_grad()
def test_autocast_changes_no_number() -> None:
    """An embedding of another width goes through a product that autocast would round."""
    made = model(read=10)
    tokens = ids(1, 9)
    expected = by_torch(made, tokens)[0][:, -1]
    x = torch.randn(1, 4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        got = made.stream(1).begin(tokens)
        by_layer = made.layer.stream(1).read(x)
    torch.testing.assert_close(got, expected, **NEAR)
    torch.testing.assert_close(by_layer, made.layer.unroll(x)[0][:, -1], **NEAR)


def test_what_was_given_out_is_never_written_over() -> None:
    made = model("seven", layers=1, heads=1)
    stream = made.stream(1)
    tokens = ids(1, 64)
    with torch.no_grad():
        stream.read(tokens)
    kept = [stream.state.detach(), stream.state, unpack(pack(stream.state))]
    kept.append(kept[1].shortened(2))
    before = [{n: t.clone() for n, t in s.to_tensors().items()} for s in kept]
    with torch.no_grad():
        for _ in range(3):
            stream.reset()
            stream.read(tokens.flip(1))
    for state, tensors in zip(kept, before, strict=True):
        for name, tensor in state.to_tensors().items():
            assert torch.equal(tensor, tensors[name])


@torch.no_grad()
def test_texts_begin_anew_after_other_weights_and_half_resets() -> None:
    made = model()
    stream = made.stream(1)
    tokens = ids(1, 20)
    stream.begin(tokens)
    made.layer.blocks[0].attention.value.weight.mul_(1.5)
    stream.refresh()
    assert torch.equal(stream.begin(tokens), made.stream(1).read(tokens))
    stream.reset(torch.tensor([False]))
    stream.step(tokens[:, 0])
    assert torch.equal(stream.begin(tokens), made.stream(1).read(tokens))


def test_a_stream_that_stepped_in_inference_mode_steps_outside_of_it() -> None:
    made = model("qwen2", read=10)
    stream = made.layer.stream(1)
    with torch.inference_mode():
        stream.step(torch.zeros(1, 10))
    got = stream.step(torch.ones(1, 10))
    with torch.no_grad():
        x = torch.stack([torch.zeros(1, 10), torch.ones(1, 10)], 1)
        expected, _ = made.layer.unroll(x)
    torch.testing.assert_close(got, expected[:, -1], **NEAR)


@torch.no_grad()
def test_a_hook_on_the_model_sees_the_scores_of_a_prompt() -> None:
    made = model()
    seen: list[torch.Size] = []

    def note(module: Any, inputs: Any, outputs: Any) -> None:
        seen.append(outputs[0].shape)

    made.register_forward_hook(note)
    scores, _ = made.stepper().read_prompt(ids(1, 5))
    assert scores.shape == (1, V)
    assert seen == [torch.Size([1, V])]
