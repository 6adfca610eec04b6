"""The native core against the equations in fp64, at every instruction level that runs here.

Tolerance: the equations themselves, computed in the precision at hand (fp32, or bf16 products),
are as far from fp64 as rounding takes them. Sums in another order have the same bound, so the core
may be a few times as far. Where that measure happens to be small, one unit of the precision (2^-24,
or 2^-8 for bf16) times the number of terms K = D + H + 2 and the largest number counts instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.data import DataLoader, Dataset

from unrolled import nn, ops
from unrolled.ops import kernel, native, reference
from unrolled.ops import recurrent as table
from unrolled.ops.kernel import GATES, Call, Inputs
from unrolled.ops.layout import packed, padded
from unrolled.ops.reference import Extras, Weights

from .conftest import THERE

pytestmark = pytest.mark.usefixtures("core")
every = pytest.mark.parametrize("cell", GATES)
levels = pytest.mark.parametrize("level", native.levels() if THERE else [])
LAYERS = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Case(NamedTuple):
    """What is run, drawn at random; tensors are fp64."""

    cell: str
    x: Tensor
    state: tuple[Tensor, ...]
    w: Weights
    lengths: Tensor | None
    reverse: bool
    mask: Tensor | None
    gradients: tuple[Tensor | None, ...]

    @property
    def variables(self) -> list[Tensor]:
        return [
            t
            for t in (self.x, *self.state, *self.w)
            if t is not None and t.requires_grad
        ]


def _uniform(*shape: int, bound: float = 1.0) -> Tensor:
    # numbers that fp32 holds, so that fp64 begins with the same
    return (torch.rand(shape) * 2 - 1).mul_(bound).double()


def make(
    cell: str,
    rows: int,
    steps: int,
    width: int,
    size: int,
    *,
    form: str = "batch first",
    ragged: bool = False,
    reverse: bool = False,
    masked: bool = False,
    biases: tuple[bool, bool] = (True, True),
    said: tuple[bool, ...] = (True, True, True),
) -> Case:
    """Draw a case; ``said``: of which of y, h and c there are gradients."""
    wide = GATES[cell] * size
    x = _uniform(rows, steps, width, bound=2)
    if form == "time first":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif form == "gaps":
        x = torch.cat([x, x], 2)[:, :, :width]
    state = tuple(_uniform(rows, size) for _ in range(2 if cell == "lstm" else 1))
    bound = size**-0.5
    ih = _uniform(wide, width, bound=bound)
    hh = _uniform(wide, size, bound=bound)
    bias_ih, bias_hh = (
        _uniform(wide, bound=bound) if there else None for there in biases
    )
    w = Weights(ih, hh, bias_ih, bias_hh)
    lengths = torch.randint(0, steps + 1, (rows,)) if ragged else None
    mask = (torch.rand(rows, size) < 0.7).double() / 0.5 if masked else None
    outputs = (_uniform(rows, steps, size), *(_uniform(rows, size) for _ in state))
    gradients = tuple(
        out if yes else None for out, yes in zip(outputs, said, strict=False)
    )
    for part in (x, *state, *w):
        if part is not None:
            part.requires_grad_()
    return Case(cell, x, state, w, lengths, reverse, mask, gradients)


def to(case: Case, dtype: torch.dtype) -> Case:
    def new(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        # keeps gaps and the order in memory
        return part.detach().to(dtype, copy=True).requires_grad_(part.requires_grad)

    w = Weights(*(new(part) for part in case.w))
    gradients = tuple(new(part) for part in case.gradients)
    state = tuple(new(part) for part in case.state)
    x = new(case.x)
    if not case.x.is_contiguous() and not case.x.transpose(0, 1).is_contiguous():
        x = torch.cat([x, x], 2)[:, :, : x.shape[2]].detach().requires_grad_()
    return case._replace(
        x=x, state=state, w=w, gradients=gradients, mask=new(case.mask)
    )


def run(case: Case, grad: bool = True) -> list[Tensor]:
    """Return y, the final state and all gradients."""
    extras = Extras(recurrent_mask=case.mask)
    with torch.set_grad_enabled(grad):
        y, after = table.unroll(
            case.cell, case.x, case.state, case.w, case.lengths, case.reverse, extras
        )
    outputs = [y, *after]
    if not grad:
        return outputs
    pairs = [
        (o, s.to(o.dtype))
        for o, s in zip(outputs, case.gradients, strict=True)
        if s is not None
    ]
    gradients: Any = ()
    if pairs:
        gradients = torch.autograd.grad(
            [out for out, _ in pairs],
            case.variables,
            [gradient for _, gradient in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
    return [*outputs, *gradients]


def by_equations(case: Case) -> list[Tensor]:
    with ops.use("reference"):
        return run(case)


def close(
    got: list[Tensor], exact: list[Tensor], rough: list[Tensor], unit: float
) -> None:
    """Compare as the head of this file says."""
    for a, e, r in zip(got, exact, rough, strict=True):
        assert a.shape == e.shape
        assert a.dtype == torch.float32
        measure = (r.double() - e).abs().max().item() if e.numel() else 0.0
        worst = (a.double() - e).abs().max().item() if e.numel() else 0.0
        assert worst <= 4 * measure + unit * (
            1 + (e.abs().max().item() if e.numel() else 0.0)
        )


def compare(case: Case, low: bool = False) -> None:
    before = native.count("forward"), native.count("backward")
    single = to(case, torch.float32)
    terms = case.x.shape[2] + case.state[0].shape[1] + 2
    with ops.precision("bf16" if low else "float32"):
        got = run(single)
        quiet = run(single, grad=False)
    assert native.count("forward") == before[0] + 2  # the spy: it was the core that ran
    assert native.count("backward") == before[1] + any(
        s is not None for s in case.gradients
    )
    assert all(torch.equal(a, b) for a, b in zip(got, quiet, strict=False))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        rough = by_equations(to(case, torch.float32))
    rough = [part.float() for part in rough]
    close(got, by_equations(case), rough, terms * (2**-8 if low else 2**-24))


sizes = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 33, 50])
cases = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(sorted(GATES)),
        "rows": st.sampled_from([1, 2, 3, 5, 9, 17]),
        "steps": st.integers(1, 6),
        "width": sizes,
        "size": sizes,
        "form": st.sampled_from(["batch first", "time first", "gaps"]),
        "ragged": st.booleans(),
        "reverse": st.booleans(),
        "masked": st.booleans(),
        "biases": st.tuples(st.booleans(), st.booleans()),
        "said": st.tuples(st.booleans(), st.booleans(), st.booleans()),
    }
)
# the fixtures hold for all examples of a test alike; the draws are always the same ones
draws = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@levels
@pytest.mark.parametrize("low", [False, True])
@draws
@given(drawn=cases)
def test_equals_the_equations(level: str, low: bool, drawn: dict[str, Any]) -> None:
    native.set_level(level)
    compare(make(**drawn), low)


@levels
@every
def test_more_rows_than_a_tile_and_a_long_sequence(level: str, cell: str) -> None:
    native.set_level(level)
    compare(make(cell, 37, 3, 20, 70))
    compare(make(cell, 3, 60, 5, 18, ragged=True))


@every
def test_tensors_in_another_order_in_memory(cell: str) -> None:
    case = make(cell, 3, 4, 5, 6, masked=True)
    for part in (*case.state, *case.w, case.mask):
        if part is not None:
            part.data = part.data.t().contiguous().t() if part.dim() == 2 else part.data
    case = case._replace(gradients=tuple(s.mT.contiguous().mT for s in case.gradients))
    low = to(case, torch.float32)
    assert not any(part.is_contiguous() for part in (*low.state, low.w.ih, low.mask))
    compare(case)


@every
def test_nothing_to_read(cell: str) -> None:
    for rows, steps, width in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        case = to(make(cell, rows, steps, width, 4), torch.float32)
        y, h, *_ = run(case, grad=False)
        assert y.shape == (rows, steps, 4)
        if not steps:
            assert torch.equal(h, case.state[0])
    case = to(make(cell, 3, 4, 2, 5), torch.float32)._replace(
        lengths=torch.zeros(3).long()
    )
    y, h, *rest = run(case)
    assert not y.any()
    assert torch.equal(h, case.state[0])
    gradients = rest[len(case.state) - 1 :]
    assert torch.equal(gradients[1], case.gradients[1])
    assert not any(gradient.any() for gradient in gradients[1 + len(case.state) :])


@levels
@every
def test_int8_is_near_and_is_not_fp32(level: str, cell: str) -> None:
    """Operands are off by half a step, 1/254 of the largest of their column or row.

    A sum of K = 64 products of weights up to 1/8 and numbers up to 2, each off by at most
    2 * 2/8/254, is off by sqrt(64) of these when the signs are random: 0.016, and six times that
    over eight steps at the most, by test.
    """
    native.set_level(level)
    case = to(make(cell, 5, 8, 32, 64, ragged=True), torch.float32)
    expected = run(case, grad=False)
    with ops.precision("int8"):
        got = run(case, grad=False)
        with pytest.raises(
            ValueError, match=r"without gradients under ops\.precision\('int8'\)"
        ):
            run(case)
    assert not torch.equal(got[0], expected[0])
    torch.testing.assert_close(got, expected, rtol=0, atol=0.1)


@levels
@every
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40]
)
def test_extreme_numbers_are_as_in_the_equations(
    level: str, cell: str, value: float
) -> None:
    native.set_level(level)
    plain = to(make(cell, 5, 3, 6, 9), torch.float32)
    for operand in ("x", "h"):
        case = to(plain, torch.float32)
        with torch.no_grad():
            (case.x[1, 1] if operand == "x" else case.state[0][1])[2] = value
        got = run(case)
        expected = by_equations(case)
        clean = run(plain)
        count = 1 + len(case.state)
        # gradients through what is not finite differ in torch, too, from one kernel to the next
        compared = len(got) if abs(value) < float("inf") else count
        torch.testing.assert_close(
            got[:compared], expected[:compared], rtol=1e-4, atol=1e-5, equal_nan=True
        )
        others = torch.tensor([0, 2, 3, 4])
        for a, b in zip(got[:count], clean, strict=False):
            assert torch.equal(a[others], b[others])


@every
def test_a_row_has_the_same_bits_in_every_batch_and_with_any_threads(cell: str) -> None:
    for low in ("float32", "bf16"):
        case = to(make(cell, 21, 5, 19, 40), torch.float32)
        with ops.precision(low):
            whole = run(case)
            assert_same_bits_with_two_threads(case, whole)
            count = 1 + len(case.state)
            for rows in ([3], [20, 4], list(range(9))):
                few = case._replace(
                    x=case.x[rows].detach().requires_grad_(),
                    state=tuple(s[rows].detach().requires_grad_() for s in case.state),
                    gradients=tuple(s[rows] for s in case.gradients),
                )
                results = run(few)
                for a, b in zip(results[: 2 * count], whole, strict=False):
                    assert torch.equal(a, b[rows])


def assert_same_bits_with_two_threads(case: Case, whole: list[Tensor]) -> None:
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(a, b) for a, b in zip(run(case), whole, strict=True))
    finally:
        torch.set_num_threads(1)


@every
def test_few_rows_have_the_same_bits_with_any_threads(cell: str) -> None:
    """Threads share the columns of a step then, and not the rows."""
    for low, rows in (("float32", 1), ("float32", 3), ("bf16", 2)):
        case = to(make(cell, rows, 7, 33, 331, ragged=rows > 1), torch.float32)
        with ops.precision(low):
            assert_same_bits_with_two_threads(case, run(case))


@every
def test_a_row_has_the_same_bits_in_every_batch_in_int8(cell: str) -> None:
    case = to(make(cell, 21, 5, 19, 40), torch.float32)
    with ops.precision("int8"), torch.no_grad():
        whole = run(case, grad=False)
        for rows in ([3], [20, 4]):
            few = case._replace(
                x=case.x[rows], state=tuple(s[rows] for s in case.state)
            )
            for a, b in zip(run(few, grad=False), whole, strict=True):
                assert torch.equal(a, b[rows])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_gradients_come_from_the_equations() -> None:
    x = torch.randn(2, 3, 4)
    gradient = torch.randn(2, 3, 4)
    layer = nn.GRU(4, 5, batch_first=True)
    expected = torch.func.jvp(lambda x: layer(x)[0], (x,), (gradient,))[1]
    with forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, gradient))[0]
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, expected)


@every
def test_a_ragged_row_has_the_bits_it_has_alone(cell: str) -> None:
    for reverse in (False, True):
        case = to(make(cell, 4, 5, 6, 9, ragged=True, reverse=reverse), torch.float32)
        case = case._replace(lengths=torch.tensor([2, 5, 0, 3]))
        whole = run(case)
        for row, length in enumerate([2, 5, 0, 3]):
            alone = case._replace(
                x=case.x[row : row + 1, :length].detach(),
                state=tuple(s[row : row + 1].detach() for s in case.state),
                lengths=None,
            )
            if length:
                y, *after = run(alone, grad=False)
                assert torch.equal(whole[0][row, :length], y[0])
                assert all(
                    torch.equal(a[row], b[0])
                    for a, b in zip(whole[1:], after, strict=False)
                )
            assert not whole[0][row, length:].any()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_hundred_thousand_steps_at_once_or_in_parts(kind: type[nn.GRU]) -> None:
    layer = kind(3, 8)
    x = torch.randn(1, 100_000, 3, requires_grad=True)
    y, last = layer.unroll(x)
    first, state = layer.unroll(x[:, :40_001])
    second, state = layer.unroll(x[:, 40_001:], state)
    assert torch.equal(torch.cat([first, second], 1), y)
    for got, expected in zip(
        state.to_tensors().values(), last.to_tensors().values(), strict=True
    ):
        assert torch.equal(got, expected)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.isfinite().all()


@every
def test_fresh_memory_is_never_read(cell: str, request: pytest.FixtureRequest) -> None:
    """torch fills what is not written yet with NaN, and padding of x is NaN."""
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    for ragged in (False, True):
        for form in ("batch first", "time first"):
            case = to(make(cell, 5, 4, 3, 7, form=form, ragged=ragged), torch.float32)
            expected = run(case)
            torch.use_deterministic_algorithms(True)
            if ragged:
                padding = torch.arange(4) >= case.lengths[:, None]
                with torch.no_grad():
                    case.x[padding] = float("nan")
                    case.gradients[0][padding] = float("nan")
            assert all(
                torch.equal(a, b) for a, b in zip(run(case), expected, strict=True)
            )
            torch.use_deterministic_algorithms(False)


@every
def test_gradients_twice_over_one_graph(cell: str) -> None:
    case = to(make(cell, 3, 4, 5, 6), torch.float32)
    y = table.unroll(cell, case.x, case.state, case.w)[0].sum()
    first = torch.autograd.grad(y, case.variables[:1], retain_graph=True)
    second = torch.autograd.grad(y, case.variables[:1])
    assert torch.equal(first[0], second[0])


@every
def test_only_the_gradients_wanted(cell: str) -> None:
    case = to(make(cell, 3, 4, 5, 6), torch.float32)
    whole = dict(
        zip(map(id, case.variables), run(case)[1 + len(case.state) :], strict=True)
    )
    for kept in case.variables:
        for part in case.variables:
            part.requires_grad_(part is kept)
        assert torch.equal(run(case)[-1], whole[id(kept)])
        for part in (case.x, *case.state, *case.w):
            if part is not None:
                part.requires_grad_()


def _second(case: Case, form: str) -> list[Tensor]:
    """Return the gradients of the square of all gradients, through x as it is or packed."""
    inputs = Inputs(case.x, *case.w[:4], case.state[0], *case.state[1:] or (None,))
    if form == "packed":
        layout = packed(torch.tensor([3, 2, 2, 1]), torch.tensor([2, 0, 1]))
        inputs = inputs._replace(x=case.x.flatten(0, 1)[layout.padded_positions()])
    else:
        layout = padded(case.x, torch.tensor([3, 1, 4]) if form == "ragged" else None)
    y, after = kernel.unroll(
        Call(case.cell, "float32", case.reverse, layout), inputs, case.mask
    )
    total = y.sin().sum() + sum(part.sin().sum() for part in after)
    first = torch.autograd.grad(total, case.variables, create_graph=True)
    second = torch.autograd.grad(
        sum(part.square().sum() for part in first), case.variables
    )
    return [*first, *second]


@every
@pytest.mark.parametrize("form", ["plain", "ragged", "packed"])
def test_second_derivatives(
    cell: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = make(cell, 3, 4, 2, 3, masked=True, reverse=form == "ragged")
    got = _second(to(exact, torch.float32), form)

    def unroll(call: Call, i: Inputs, mask: Tensor | None) -> Any:
        """The equations, padded."""
        x = i.x
        layout = call.layout
        if form == "packed":
            flat = x.new_zeros(12, 2).index_add(0, layout.padded_positions(), x)
            x = flat.unflatten(0, (3, 4))
        state = (i.h,) if i.c is None else (i.h, i.c)
        w = Weights(*i[1:5])
        extras = Extras(recurrent_mask=mask)
        y, after, _ = reference.unroll(
            call.cell, x, state, w, layout.lengths(), call.reverse, extras
        )
        return y.flatten(0, 1)[
            layout.padded_positions()
        ] if form == "packed" else y, after

    monkeypatch.setattr(kernel, "unroll", unroll)
    rough = _second(to(exact, torch.float32), form)
    expected = _second(exact, form)
    close(got, expected, rough, 64 * 2**-24)


@every
def test_torch_func_and_batched_gradients(cell: str) -> None:
    case = to(make(cell, 3, 4, 2, 5), torch.float32)
    y = table.unroll(cell, case.x, case.state, case.w)[0]
    cotangents = torch.randn(4, *y.shape)
    (gradients,) = torch.autograd.grad(
        y, case.x, cotangents, is_grads_batched=True, retain_graph=True
    )
    for cotangent, got in zip(cotangents, gradients, strict=True):
        (expected,) = torch.autograd.grad(y, case.x, cotangent, retain_graph=True)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    def loss(x: Tensor) -> Tensor:
        state = tuple(part[:1] for part in case.state)
        return table.unroll(cell, x[None], state, case.w)[0].square().sum()

    x = case.x.detach()
    sample_gradients = torch.func.vmap(torch.func.grad(loss))(x)
    (expected,) = torch.autograd.grad(loss(case.x[1]), case.x)
    torch.testing.assert_close(sample_gradients[1], expected[1], rtol=1e-4, atol=1e-5)


class _Rows(Dataset[Tensor]):
    """Runs a layer to make each of its rows."""

    def __init__(self, layer: nn.GRU) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> Tensor:
        torch.set_num_threads(2)
        with torch.no_grad():
            return self.layer.read(torch.full((9, 5, 6), row / 2))


@pytest.fixture
def gru() -> Iterator[nn.GRU]:
    yield nn.GRU(6, 40)
    torch.set_num_threads(1)


def test_runs_in_the_worker_of_a_loader(gru: nn.GRU) -> None:
    rows = _Rows(gru)
    before = rows[1]  # threads have run before the fork
    loader = DataLoader(rows, batch_size=None, num_workers=1, timeout=60)
    got = list(loader)
    assert torch.equal(got[1], before)
    assert torch.equal(got[2], rows[2])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_runs_after_a_fork(gru: nn.GRU) -> None:
    x = torch.randn(9, 5, 6)
    torch.set_num_threads(2)

    def gradients() -> Tensor:
        return torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(gru.read(x).sum(), list(gru.parameters()))
            ]
        )

    expected = gradients()
    child = os.fork()
    if not child:
        signal.alarm(30)  # rather than wait for ever
        os._exit(0 if torch.equal(gradients(), expected) else 3)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(gradients(), expected)


def test_runs_in_several_threads_at_once(gru: nn.GRU) -> None:
    x = torch.randn(8, 9, 5, 6)
    expected = [gru.read(row).detach() for row in x]

    def again(row: int) -> bool:
        torch.set_num_threads(2)
        return all(torch.equal(gru.read(x[row]), expected[row]) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(again, range(8)))


@every
def test_the_next_call_follows_every_change_of_the_weights(cell: str) -> None:
    options = {"nonlinearity": "relu"} if cell == "rnn_relu" else {}
    layer, other = (LAYERS[cell](5, 6, **options) for _ in range(2))
    x = torch.randn(3, 4, 5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    average = torch.optim.swa_utils.AveragedModel(layer)

    def by_optimizer() -> None:
        layer.read(x).square().sum().backward()
        optimizer.step()

    def by_average() -> None:
        for mine, mean in zip(
            layer.parameters(), average.module.parameters(), strict=True
        ):
            mine.data, mean.data = mean.data, mine.data

    changes = {
        "data": lambda: layer.weight_hh_l0.data.mul_(1.5),
        "numpy": lambda: layer.weight_ih_l0.detach().numpy().__imul__(1.5),
        "optimizer": by_optimizer,
        "average": by_average,
        "load": lambda: layer.load_state_dict(other.state_dict()),
    }
    for name, change in changes.items():
        before = layer.read(x)
        counted = native.count("forward")
        change()
        after = layer.read(x)
        assert native.count("forward") > counted, name
        assert not torch.equal(after, before), name
        with ops.use("reference"):
            torch.testing.assert_close(after, layer.read(x), rtol=1e-5, atol=1e-6)


def test_shapes_are_looked_at_before_memory_is() -> None:
    case = to(make("gru", 2, 3, 4, 5), torch.float32)
    good = Inputs(case.x, *case.w[:4], case.state[0], None)
    call = Call("gru", "float32", False, padded(case.x, None))
    for name, wrong in (
        ("x", torch.zeros(2, 4, 4)),
        ("h", torch.zeros(3, 5)),
        ("w_ih", torch.zeros(15, 3)),
        ("w_hh", torch.zeros(15, 6)),
        ("b_ih", torch.zeros(14)),
        ("b_hh", torch.zeros(15).double()),
    ):
        with pytest.raises(
            ValueError, match=r"expected .* of shape .* in fp32 on the CPU for gru"
        ):
            kernel.forward(call, good._replace(**{name: wrong}), None, 0)
    with pytest.raises(ValueError, match="expected mask of shape"):
        kernel.forward(call, good, torch.zeros(2, 4), 0)
    for cell, c in (("gru", torch.zeros(2, 5)), ("lstm", None)):
        wide = GATES[cell] * 5
        parts = good._replace(c=c, w_ih=torch.zeros(wide, 4), w_hh=torch.zeros(wide, 5))
        with pytest.raises(
            ValueError, match="expected c for lstm and for no other cell"
        ):
            kernel.forward(
                call._replace(cell=cell), parts._replace(b_ih=None, b_hh=None), None, 0
            )
