"""A choice is that of the thread and task that made it, and is given back however blocks end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrolled import ops
from unrolled.ops.modes import chosen_precision, mode, precision, use


def test_a_block_ends_with_what_was_before() -> None:
    with use("reference"):
        assert mode() == "reference"
        with use("fast"):
            assert mode() == "fast"
        assert mode() == "reference"
    assert mode() == "auto"


def test_a_plain_call_stays() -> None:
    use("reference")
    assert mode() == "reference"
    with use("auto"):
        use("fast")
        assert mode() == "fast"
    assert mode() == "reference"


def test_a_thread_begins_with_auto() -> None:
    ops.precision("int8")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(chosen_precision()))
    thread.start()
    thread.join()
    assert seen == ["auto"]
    assert chosen_precision() == "int8"


def test_tasks_that_take_turns_keep_their_own_choice() -> None:
    async def run(name: str, turns: int) -> list[str]:
        seen = []
        for _ in range(turns):
            with precision(name):
                await asyncio.sleep(0)
                seen.append(chosen_precision())
            await asyncio.sleep(0)
            seen.append(chosen_precision())
        return seen

    async def both() -> list[list[str]]:
        return await asyncio.gather(run("int8", 3), run("bf16", 2))

    first, second = asyncio.run(both())
    assert first == ["int8", "auto"] * 3
    assert second == ["bf16", "auto"] * 2


NAMES = ("auto", "float32", "bf16", "int8")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9)), max_size=8))
def test_blocks_that_end_in_any_order_leave_what_is_open(
    plan: list[tuple[str, int]],
) -> None:
    open_blocks: list[precision] = []
    names: dict[int, str] = {}
    for name, closes in plan:
        block = precision(name)
        block.__enter__()
        open_blocks.append(block)
        names[id(block)] = name
        assert chosen_precision() == name
        if closes < len(open_blocks):  # end one in the middle
            open_blocks.pop(closes).__exit__()
            newest = names[id(open_blocks[-1])] if open_blocks else "auto"
            assert chosen_precision() == newest
    while open_blocks:
        open_blocks.pop(0).__exit__()
        newest = names[id(open_blocks[-1])] if open_blocks else "auto"
        assert chosen_precision() == newest


def test_a_name_that_is_none_is_refused_and_changes_nothing() -> None:
    with pytest.raises(
        ValueError, match="expected a mode out of auto, fast, reference"
    ):
        use("quick")
    with pytest.raises(ValueError, match="expected a precision out of auto"):
        precision("fp8")
    assert (mode(), chosen_precision()) == ("auto", "auto")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_follows_the_choice_of_its_thread() -> None:
    import torch

    from unrolled.nn import GRU

    layer = GRU(32, 64, batch_first=True).eval()
    x = torch.randn(2, 9, 32)
    compiled = torch.compile(lambda x: layer(x)[0], backend="eager", fullgraph=True)
    with torch.no_grad():
        exact = layer(x)[0]
        torch.testing.assert_close(compiled(x), exact, rtol=0, atol=0)
        with precision("int8"):
            low = layer(x)[0]
            torch.testing.assert_close(compiled(x), low, rtol=0, atol=0)
        torch.testing.assert_close(compiled(x), exact, rtol=0, atol=0)


def test_one_object_may_begin_a_block_in_its_own_block() -> None:
    chosen = use("reference")
    use("auto")
    with chosen:
        with chosen:
            pass
        assert mode() == "reference"
    assert mode() == "auto"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_code_compiled_before_any_choice_follows_the_first() -> None:
    """In a thread of its own, where no choice was made before the compilation."""
    import torch

    from unrolled.nn import GRU

    layer = GRU(4, 8, layer_norm=True).eval()
    x = torch.randn(3, 2, 4)

    def compile_then_choose() -> str:
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: layer(x)[0], backend="eager")
        with torch.no_grad():
            compiled(x)
            with use("fast"):
                try:
                    compiled(x)
                except Exception as error:
                    return str(error)
        return ""

    with ThreadPoolExecutor(1) as pool:
        assert "layer_norm" in pool.submit(compile_then_choose).result()
