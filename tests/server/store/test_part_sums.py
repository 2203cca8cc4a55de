"""Checksums of columns: what is read is whole, the rest does not matter, and Parquet's readers notice nothing."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from tickflight_server.store.part_sums import chunks_are_whole, read_sums, with_sums

ROWS = 3_000


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    chance = random.Random(5)
    return pa.table(
        {
            "symbol": ["BTC-USDT"] * ROWS,
            "price": [chance.random() for _ in range(ROWS)],
            "sizes": [[chance.random()] * (i % 3) for i in range(ROWS)],
            "nothing": pa.nulls(ROWS, pa.string()),
            "seq": range(ROWS),
        }
    )


def write(path: Path, rows: pa.Table, **options: object) -> str:
    """Write a file with sums of three row groups; return the checksum of its end."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=ROWS // 3 + 1, **options)
    data, end = with_sums(sink.getvalue())
    path.write_bytes(data)
    return end


def columns_are_whole(path: Path, end: str, columns: Collection[str]) -> bool:
    """Return whether the end of a part is as its checksum ``end`` says, and then whether ``columns`` are."""
    sums = read_sums(path, end)
    return sums is not None and chunks_are_whole(path, sums, columns)


@pytest.mark.parametrize("options", [{}, {"write_page_index": True}, {"use_dictionary": False, "compression": "none"}])
def test_a_file_with_sums_is_parquet_and_whole(tmp_path: Path, rows: pa.Table, options: dict[str, object]) -> None:
    path = tmp_path / "part"
    end = write(path, rows, **options)
    assert pq.read_table(path).equals(rows)
    assert columns_are_whole(path, end, rows.column_names)
    assert columns_are_whole(path, end, [])
    assert columns_are_whole(path, end, ["a column that came later"])
    assert not columns_are_whole(path, "0" * 16, [])


def test_every_flipped_byte_is_found_by_those_who_read_it(tmp_path: Path, rows: pa.Table) -> None:
    path = tmp_path / "part"
    end = write(path, rows)
    whole = path.read_bytes()
    behind = pq.read_metadata(path).row_group(2).column(4)
    edge = behind.dictionary_page_offset + behind.total_compressed_size
    chance = random.Random(6)
    places = [*chance.sample(range(4, len(whole)), 150), 4, len(whole) - 1, len(whole) - 5, len(whole) - 9]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :])
        finders = [name for name in rows.column_names if not columns_are_whole(path, end, [name])]
        assert not columns_are_whole(path, end, rows.column_names)
        # a byte of a column is its own, one of the end is everybody's
        assert len(finders) == (1 if 4 <= place < edge else len(rows.column_names))


@pytest.mark.parametrize("left", [b"", b"PAR1", b"PAR1" * 10, bytes(5_000), b"\xff" * 5_000])
def test_what_is_no_part_is_not_whole(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "part"
    path.write_bytes(left)
    assert not columns_are_whole(path, xxhash.xxh3_64_hexdigest(left), [])


def test_a_long_end_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "part"
    wide = pa.table({f"a column with a long name {i:04}": range(50) for i in range(400)})
    end = write(path, wide)
    sink = pa.BufferOutputStream()
    pq.write_table(wide, sink, row_group_size=2)
    data, end = with_sums(sink.getvalue())
    path.write_bytes(data)
    assert len(data) > 1 << 20
    assert columns_are_whole(path, end, wide.column_names)
    assert pq.read_table(path).equals(wide)


def test_an_end_of_any_length_is_found_whole(tmp_path: Path) -> None:
    """Also where the footer is in what is read first, and the checksums before it are not."""
    path = tmp_path / "part"
    for groups in (*range(48, 64), 150):
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.table({f"c{i}": [float(j) for j in range(groups)] for i in range(10)}), sink, row_group_size=1
        )
        data, end = with_sums(sink.getvalue())
        path.write_bytes(data)
        assert columns_are_whole(path, end, ["c1"]), groups
        assert not columns_are_whole(path, end[::-1], ["c1"])


def test_neighbours_and_far_columns_are_compared(tmp_path: Path, rows: pa.Table) -> None:
    path = tmp_path / "part"
    end = write(path, rows)
    for columns in (["symbol", "price"], ["symbol", "seq"], ["price", "sizes", "seq"]):
        assert columns_are_whole(path, end, columns)
