"""What sizes of layers must be; what is not is a ValueError that says what to change."""

from __future__ import annotations

from unrolled.nn.variant import Variant


def check_positive(**sizes: int) -> None:
    """Raise ValueError for a size, by its name, that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"expected {name} of at least 1, got {size}; give a positive number"
            )


def check_projection(proj_size: int, hidden_size: int) -> None:
    """Raise ValueError for a projection that is not narrower than what it projects."""
    check_positive(hidden_size=hidden_size)
    if not 0 <= proj_size < hidden_size:
        raise ValueError(
            f"expected proj_size from 0 (none) to {hidden_size - 1}, below hidden_size, got "
            f"{proj_size}; choose a smaller projection"
        )


def check_last_size(last_size: int, hidden_size: int, alone: bool) -> None:
    """Raise ValueError for a narrower last layer that is not the only change, or no narrower."""
    if last_size and (not alone or last_size > hidden_size):
        raise ValueError(
            f"expected last_size up to hidden_size {hidden_size}, without bidirectional, "
            f"proj_size and residual, got {last_size}; unset one of them"
        )


def check_heads(
    hidden: int, heads: int, kv_heads: int, variant: Variant, memory_size: int | None
) -> None:
    """Raise ValueError for sizes that do not divide, where they have to."""
    check_positive(hidden=hidden, heads=heads, kv_heads=kv_heads)
    divided = [("heads", heads, "kv_heads", kv_heads)]
    if variant.head_size is None or memory_size is not None:
        divided.insert(0, ("hidden", hidden, "heads", heads))
    for name, whole, part_name, part in divided:
        if whole % part:
            raise ValueError(
                f"expected {name} to be a multiple of {part_name}, got {whole} and {part}; "
                "change one of them"
            )


def check_positions(positions: str, head_size: int, context: int | None) -> None:
    """Raise ValueError for a context or a width of heads that positions do not fit."""
    if context is not None and context < 1:
        raise ValueError(
            f"expected context of at least 1, got {context}; None is no limit"
        )
    if positions == "learned" and context is None:
        raise ValueError(
            "expected context with learned positions, which need a table of that size, got None; "
            "set context, or positions=rotary"
        )
    if positions == "rotary" and head_size % 2:
        raise ValueError(
            f"expected heads of even width for rotary positions, got hidden / heads = {head_size}; "
            "change hidden or heads, or use positions=sinusoidal"
        )
