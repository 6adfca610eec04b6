"""One file to rows: the first format that recognises it reads it, in linear time."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.core.errors import DataError
from unrolled.data.sources import Table, read

bits = st.sampled_from(
    [
        '"',
        ",",
        "\t",
        "\n",
        "\r",
        ";",
        "|",
        "a",
        "1",
        " ",
        "{",
        "}",
        ":",
        "[",
        '{"a": 1}',
        "가",
        "text",
        "label",
    ]
)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(bits, max_size=40).map(lambda b: "".join(b).encode()),
    )
)
@settings(max_examples=400, deadline=None)
def test_whatever_a_file_holds_the_answer_is_rows_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for target in (path, path.with_suffix(".txt")):
        target.write_bytes(content)
        for on_error in ("stop", "skip"):
            try:
                dataset = read(target, on_error=on_error)  # type: ignore[arg-type]
            except DataError:
                continue
            if isinstance(dataset, Table):
                assert {len(row) for row in dataset.rows} == {len(dataset.columns)}
                assert dataset.lines == sorted(set(dataset.lines))


@pytest.mark.parametrize(
    "unit", ['"', ',"', ',"a', "a,", '"a" b,', " ", ',"""', "|", '\t"']
)
def test_telling_the_format_takes_linear_time(write: Any, unit: str) -> None:
    def seconds(size: int) -> float:
        path = write("x" + unit * (size // len(unit)) + "\n", f"{size}.csv")
        start = time.process_time()
        with contextlib.suppress(DataError):
            read(path)
        return time.process_time() - start

    # five times as long: a square would be 25 times
    short = seconds(30_000)
    assert seconds(150_000) < 10 * short + 0.2
