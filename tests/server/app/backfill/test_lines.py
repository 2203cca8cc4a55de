"""Chunks end where the content says, however it is read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.app.backfill import lines
from tickflight_server.app.backfill.lines import cut_lines, cut_rows
from tickflight_server.errors import InputError


class Dripping(io.RawIOBase):
    """Gives at most ``size`` bytes a read."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = io.BytesIO(data), size

    def read(self, size: int = -1) -> bytes:
        return self._data.read(self._size)


def cut(data: bytes, step: int = 1 << 20, **options: Any) -> list[tuple[list[int], bytes]]:
    settings = {"rows": 3, "nbytes": 1000, "header": False, "quoted": False} | options
    return [(c.numbers.tolist(), c.data) for c in cut_lines(Dripping(data, step), **settings)]


@given(
    st.lists(st.sampled_from(["a,b", "", "longer,line", "x"]), max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 50),
    st.integers(1, 40),
)
def test_chunks_do_not_depend_on_how_the_file_is_read(
    texts: list[str], ending: str, ended: bool, step: int, nbytes: int
) -> None:
    data = ending.join(texts).encode() + (ending.encode() if ended else b"")
    found = cut(data, step, nbytes=nbytes)
    assert found == cut(data, nbytes=nbytes)
    numbered = [n for numbers, _ in found for n in numbers]
    kept = [i for i, line in enumerate(data.split(b"\n"), 1) if line.strip(b"\r")]
    assert numbered == kept
    assert all(len(numbers) <= 3 for numbers, _ in found)
    assert all(len(chunk) <= nbytes or len(numbers) == 1 for numbers, chunk in found)


def test_a_header_and_a_byte_order_mark_are_left_out() -> None:
    assert cut(b"\xef\xbb\xbfa,b\n1,2\n", header=True) == [([2], b"1,2\n")]
    assert cut(b"\xef\xbb\xbf1,2\n") == [([1], b"1,2\n")]
    assert cut(b"a,b", header=True) == []
    assert cut(b"") == []


def test_a_line_end_in_quotes_belongs_to_its_value() -> None:
    assert cut(b'1,"a\nb"\n2,c\n', quoted=True, rows=1) == [([1], b'1,"a\nb"\n'), ([2], b"2,c\n")]


def test_a_line_longer_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 100)
    with pytest.raises(InputError, match="line 2 is longer"):
        cut(b"a\n" + b"x" * 300, nbytes=10)


def test_a_line_is_shown_without_its_end() -> None:
    (chunk,) = cut_lines(io.BytesIO(b"a\r\nb\xff\r\n"), rows=9, nbytes=99, header=False, quoted=False)
    assert [chunk.line(0), chunk.line(1)] == ["a", "b�"]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(1, 7), min_size=1), st.integers(1, 6))
def test_chunks_of_rows_do_not_depend_on_the_batches(lengths: list[int], steps: list[int], rows: int) -> None:
    whole = pa.RecordBatch.from_pydict({"n": list(range(len(lengths))), "levels": [list(range(n)) for n in lengths]})
    batches, at = [], 0
    while at < len(lengths):
        step = steps[len(batches) % len(steps)]
        batches.append(whole.slice(at, step))
        at += step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "LEVELS_MAX", 10)
        found = [b.column("n").to_pylist() for b in cut_rows(batches, rows)]
        assert found == [b.column("n").to_pylist() for b in cut_rows([whole], rows)]
    assert [n for chunk in found for n in chunk] == list(range(len(lengths)))
    sizes = np.array(lengths)
    assert all(len(c) <= rows and (len(c) == 1 or sizes[c].sum() <= 10) for c in found)
