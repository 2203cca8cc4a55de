from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tickflight_server.errors import StorageError
from tickflight_server.store.part_reader import read_batches

LABEL = pa.dictionary(pa.int32(), pa.string())
SAME = {"symbol": "BTC-USDT"}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    columns = {
        "symbol": ["BTC-USDT"] * 10,
        "side": ["buy", None] * 5,
        "price": [float(i) for i in range(10)],
        "seq": pa.array(range(1, 11), pa.int64()),
    }
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


def read(
    path: Path, *columns: tuple[str, pa.DataType], upto: int | None = None, rows: int = 100
) -> list[list[pa.Array]]:
    return list(read_batches(path, columns, SAME, ["symbol", "side"], upto=upto, rows=rows))


def test_columns_come_in_the_types_and_the_order_that_are_asked_for(part: Path) -> None:
    for kind in (LABEL, pa.string()):
        batches = read(part, ("price", pa.float64()), ("side", kind), ("symbol", kind))
        assert [array.type for array in batches[0]] == [pa.float64(), kind, kind]
        price, side, symbol = (pa.chunked_array([b[i] for b in batches]).to_pylist() for i in range(3))
        assert (price, side, symbol) == ([float(i) for i in range(10)], ["buy", None] * 5, ["BTC-USDT"] * 10)


def test_batches_are_no_longer_than_asked(part: Path) -> None:
    sizes = [len(arrays[0]) for arrays in read(part, ("symbol", pa.string()), rows=3)]
    assert sum(sizes) == 10
    assert max(sizes) <= 3


def test_rows_after_the_cut_are_left_out(part: Path) -> None:
    for upto in range(12):
        found = [
            s for (price, symbol) in read(part, ("price", pa.float64()), ("symbol", LABEL), upto=upto) for s in price
        ]
        assert len(found) == min(upto, 10)


def test_damage_is_told_with_the_parts_name(part: Path) -> None:
    part.write_bytes(b"PAR1" + part.read_bytes()[4:-8])
    with pytest.raises(StorageError, match=r"part\.parquet"):
        read(part, ("price", pa.float64()))


def test_a_part_that_is_gone_is_told_without_the_servers_folders(part: Path) -> None:
    part.unlink()
    with pytest.raises(StorageError, match=r"part\.parquet") as told:
        read(part, ("price", pa.float64()))
    assert str(part.parent) not in str(told.value)


def test_labels_alone_take_no_other_column(part: Path) -> None:
    """A query that names no column compares none with its checksum."""
    whole, chunk = part.read_bytes(), pq.read_metadata(part).row_group(0).column(3)
    part.write_bytes(whole[: chunk.data_page_offset] + bytes(8) + whole[chunk.data_page_offset + 8 :])
    with pytest.raises(StorageError):
        read(part, ("seq", pa.int64()))
    for rows in (3, 100):
        batches = read(part, ("symbol", LABEL), ("symbol", pa.string()), rows=rows)
        assert [len(b) for b in batches] == {3: [2, 2, 2, 2], 100: [2]}[rows]
        for place in (0, 1):
            assert [v for b in batches for v in b[place].to_pylist()] == ["BTC-USDT"] * 10


def test_first_batches_are_small_where_they_are_wanted_soon(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"seq": range(30_000)}), path, row_group_size=10_000)
    batches = list(read_batches(path, [("seq", pa.int64())], {}, [], upto=None, rows=8192, soon=True))
    assert [len(one[0]) for one in batches][:4] == [4096, 4096, 1808, 8192]
    assert [seq for (one,) in batches for seq in one.to_pylist()] == list(range(30_000))
