"""The wrapper of the core's decoder: what it refuses, and that it reads strided views in place.

That a step is right is shown in tests/nn/test_decoding.py and in native/tests/test_decoder.cpp.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unrolled.ops.decoder import (
    FEEDFORWARDS,
    NORMS,
    PARTS,
    Cache,
    PackedDecoder,
    Shape,
    SourceMemory,
)

pytestmark = pytest.mark.usefixtures("core")
SHAPE = Shape(
    layers=2,
    width=12,
    heads=3,
    kv_heads=1,
    memory_heads=3,
    inner=10,
    vocabulary=21,
    feedforward="swiglu",
)


def packed(shape: Shape = SHAPE, precision: str = "float32") -> PackedDecoder:
    made = PackedDecoder(shape, precision)
    size = shape.width // shape.heads
    sizes = {"self_in": shape.width + 2 * shape.kv_heads * size, "up": 2 * shape.inner}
    torch.manual_seed(5)
    for layer in range(shape.layers):
        for part in PARTS[:9]:
            rows = sizes.get(part, shape.width)
            inner = shape.inner if part == "down" else shape.width
            weight = (
                torch.ones(rows) if "norm" in part else 0.3 * torch.randn(rows, inner)
            )
            made.load(layer, part, weight, 0.1 * torch.randn(rows))
    made.load(0, "last_norm", torch.ones(shape.width), None)
    made.load(0, "head", torch.randn(shape.vocabulary, shape.width), None)
    return made


def given(rows: int = 4) -> tuple[torch.Tensor, Cache, SourceMemory]:
    keys, values = torch.zeros(2, 2, rows, 1, 8, 4)
    cache = Cache(keys, values, torch.zeros(rows, dtype=torch.int64))
    parts = [torch.randn(3, 3, 5, 4) for _ in range(4)]
    lengths = torch.tensor([5, 2, 0])
    own = torch.arange(rows) % 3
    return (
        torch.randn(rows, 12),
        cache,
        SourceMemory(parts[:2], parts[2:], lengths, own),
    )


def test_views_are_read_and_written_where_they_stand() -> None:
    decoder = packed()
    x, cache, source = given()
    expected = decoder.step(x, cache, source).clone()
    assert expected.shape == (4, 21)
    wide = torch.full((2, 2, 6, 2, 9, 5), 7.0)
    keys, values = wide[:, :, 1:5, 1:, :8, :4]
    views = [torch.full((3, 5, 3, 6), 9.0).transpose(1, 2)[..., :4] for _ in range(4)]
    for view, part in zip(views, (*source.keys, *source.values), strict=True):
        view.copy_(part)
    other = SourceMemory(views[:2], views[2:], source.lengths, source.rows)
    got = decoder.step(
        x.t().contiguous().t(), Cache(keys, values, cache.lengths), other
    )
    assert torch.equal(got, expected)
    assert torch.equal(keys[:, :, :, 0], cache.keys[:, :, :, 0])
    written = torch.zeros_like(wide, dtype=torch.bool)
    written[:, :, 1:5, 1:, 0, :4] = True
    assert (wide[~written] == 7).all()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_fewer_bits_are_near(precision: str) -> None:
    x, cache, source = given()
    exact = packed().step(x, cache, source)
    rough = packed(precision=precision).step(x, cache, source)
    # operands lose 2^-9 (int8: 2^-8) of the largest, in each of six products of two blocks
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


def replaced(name: str, value: Any) -> tuple[torch.Tensor, Cache, SourceMemory]:
    x, cache, source = given()
    if name == "x":
        return value, cache, source
    if name in cache._fields and not name.startswith("m_"):
        return x, cache._replace(**{name: value}), source
    return x, cache, source._replace(**{name.removeprefix("m_"): value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.randn(4, 11), "expected x of shape"),
        ("x", torch.randn(4, 12, dtype=torch.float64), "expected x .* torch.float64"),
        ("keys", torch.zeros(2, 4, 2, 8, 4), "expected cache of shape"),
        (
            "values",
            torch.zeros(2, 4, 1, 8, 4).transpose(0, 1).contiguous().transpose(0, 1),
            "alike",
        ),
        ("lengths", torch.full((4,), 8), "no room"),
        ("lengths", torch.zeros(4), "expected lengths .* torch.int64"),
        ("origin", torch.zeros(4, 7, dtype=torch.int32), "expected origin"),
        ("m_lengths", torch.tensor([5, 6, 1]), "longer than the memory"),
        ("m_rows", torch.tensor([0, 1, 2, 3]), "no such source"),
        ("m_keys", [torch.zeros(3, 3, 5, 4)], "a memory of 2 blocks"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed().step(*replaced(name, value))


def test_weights_that_do_not_fit_are_refused() -> None:
    decoder = PackedDecoder(SHAPE)
    with pytest.raises(ValueError, match="no weights yet"):
        decoder.step(*given())
    with pytest.raises(ValueError, match=r"expected up of shape \(20, 12\)"):
        decoder.load(0, "up", torch.zeros(10, 12), None)
    with pytest.raises(ValueError, match="no such part"):
        decoder.load(2, "up", torch.zeros(20, 12), None)
    with pytest.raises(ValueError, match="could not make a decoder"):
        PackedDecoder(SHAPE._replace(heads=5))


def test_names_are_the_headers() -> None:
    assert (len(PARTS), len(NORMS), len(FEEDFORWARDS)) == (13, 2, 4)
    assert packed().bytes > 4 * (2 * 12 * 12 + 21 * 12)
