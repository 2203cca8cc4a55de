"""Parts: each row is in the part of its day, exchange and symbol, sorted, as the part says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from store_parts import OPTIONS, TRADES, number_rows, write_parts

from tickflight_server.errors import StorageError
from tickflight_server.paths import parse_part_file_name, part_checksum
from tickflight_server.schemas import STORED
from tickflight_server.store.partition import DAY_US, Part, PartitionKey, PartOptions, PartWriter, partition_rows


def write(folder: Path, *batches: pa.RecordBatch, options: PartOptions = OPTIONS) -> list[Part]:
    return write_parts(folder, batches, options)


rows = st.tuples(
    st.sampled_from(["X", "Y"]),
    st.sampled_from(["A", "B/C", "é", "..", "n" * 300]),
    st.integers(0, 3 * DAY_US),
)


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.lists(rows, min_size=1, max_size=20), min_size=1, max_size=3))
def test_every_row_is_in_exactly_the_part_of_its_key(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("parts") / "trades"
    sent, first = [], 1
    for batch in batches:
        exchange, symbol, us = zip(*batch, strict=True)
        columns = {"exchange": exchange, "symbol": symbol, "timestamp": pa.array(us, pa.timestamp("us"))}
        sent.append(number_rows(pa.record_batch({k: pa.array(v) for k, v in columns.items()}), first))
        first += len(batch)
    expected = {(x, s, us, i + 1) for i, (x, s, us) in enumerate(row for batch in batches for row in batch)}
    parts = write(folder, *sent)
    assert [tuple(p.key) for p in parts] == sorted({(x, s, us // DAY_US) for x, s, us, _ in expected})
    found = set()
    for part in parts:
        table = pq.ParquetFile(folder / part.path).read()
        assert table.schema.equals(TRADES.arrow())
        times = table["timestamp"].cast(pa.int64()).to_pylist()
        seqs = table["seq"].to_pylist()
        here = set(zip(table["exchange"].to_pylist(), table["symbol"].to_pylist(), times, seqs, strict=True))
        assert {(x, s, us // DAY_US) for x, s, us, _ in here} == {tuple(part.key)}
        assert list(zip(times, seqs, strict=True)) == sorted(zip(times, seqs, strict=True))
        assert (part.min_us, part.max_us, part.min_seq, part.max_seq) == (times[0], times[-1], min(seqs), max(seqs))
        assert (part.rows, part.nbytes) == (len(here), (folder / part.path).stat().st_size)
        assert parse_part_file_name(Path(part.path).name) == (1, len(expected))
        assert part_checksum(Path(part.path).name) == xxhash.xxh3_64_hexdigest((folder / part.path).read_bytes())
        assert part.last == len(expected)
        found |= here
    assert found == expected
    assert sum(p.rows for p in parts) == len(expected)


def test_a_parts_folder_names_its_day(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    (part,) = write(tmp_path / "trades", number_rows(trades(1)))
    assert part.path.startswith("year=2023/month=11/day=14/exchange=BINANCE/symbol=BTC-USDT/")
    assert part.key.date == datetime(2023, 11, 14, tzinfo=UTC)


def test_a_midnight_belongs_to_the_day_that_it_begins(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    batch = number_rows(trades(4, t0=19_000 * DAY_US - 2, step_us=1))
    assert [(p.key.day, p.rows) for p in write(tmp_path / "trades", batch)] == [(18_999, 2), (19_000, 2)]


@pytest.mark.parametrize("compression", ["zstd", "lz4", "snappy", "none"])
def test_row_groups_and_compression_are_as_configured(
    tmp_path: Path, compression: str, trades: Callable[..., pa.RecordBatch]
) -> None:
    (part,) = write(tmp_path / "trades", number_rows(trades(2_500)), options=PartOptions(compression, 1_024))
    metadata = pq.ParquetFile(tmp_path / "trades" / part.path).metadata
    assert [metadata.row_group(i).num_rows for i in range(3)] == [1_024, 1_024, 452]
    named = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert metadata.row_group(0).column(0).compression == named
    assert pc.sum(pq.ParquetFile(tmp_path / "trades" / part.path).read(["price"])["price"]).as_py() == 2_499 * 1_250


def test_a_part_written_again_is_the_same_file_and_other_rows_have_another_name(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    batch = number_rows(trades(3))
    (first,), (again,) = (write(tmp_path / "trades", batch) for _ in range(2))
    assert again == first
    (other,) = write(tmp_path / "trades", number_rows(trades(3, 1)))
    assert other.path != first.path
    assert len(list((tmp_path / "trades").rglob("*.parquet"))) == 2


@pytest.mark.parametrize("left", [b"", b"PAR1", None])
def test_what_a_crash_left_of_a_part_is_written_over(
    tmp_path: Path, left: bytes | None, trades: Callable[..., pa.RecordBatch]
) -> None:
    (part,) = write(tmp_path / "trades", number_rows(trades(3)))
    path = tmp_path / "trades" / part.path
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)) if left is None else left)
    write(tmp_path / "trades", number_rows(trades(3)))
    assert path.read_bytes() == whole


def test_parts_of_a_block_that_fails_are_taken_back(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    folder = tmp_path / "trades"
    rows = partition_rows(pa.Table.from_batches([number_rows(trades(9, symbols=("A", "B")))]))

    def write_and_fail() -> None:
        with PartWriter(folder, TRADES.arrow(), OPTIONS) as writer:
            for place, key in enumerate(rows.keys):
                writer.write(key, rows.take(place), 1, 9)
            assert len(list(folder.rglob("*.parquet"))) == 2
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(folder.rglob("*.parquet")) == []


def test_partitions_of_no_rows_are_none() -> None:
    found = partition_rows(TRADES.arrow(memory=True).empty_table())
    assert (found.keys, found.starts.tolist(), found.ends.tolist()) == ([], [], [])


def test_a_part_that_cannot_be_written_is_a_storage_error(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    (tmp_path / "trades").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write a part, .*: File exists.*the rows are safe in the log"):
        write(tmp_path / "trades", number_rows(trades(3)))


def test_parts_are_on_disk_with_all_their_folders(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = set()
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    parts = write(tmp_path / "trades", number_rows(trades(9, symbols=("A", "B"))))
    for part in parts:
        path = tmp_path / "trades" / part.path
        assert {path, *path.parents} & synced == {path, *(p for p in path.parents if p.is_relative_to(tmp_path))}


def test_parts_and_folders_are_private_whatever_the_umask(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "trades", number_rows(trades(3)))
    finally:
        os.umask(before)
    found = list(tmp_path.rglob("*"))
    assert {p.stat().st_mode & 0o777 for p in found if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in found if p.is_file()} == {0o600}


@settings(max_examples=25, deadline=None)
@given(data=st.data(), size=st.integers(1, 60))
def test_rows_of_a_partition_are_in_order_of_time_and_seq_however_they_came(data: st.DataObject, size: int) -> None:
    symbols = data.draw(st.lists(st.sampled_from("ABC"), min_size=size, max_size=size))
    times = data.draw(st.lists(st.integers(DAY_US - 3, DAY_US + 3), min_size=size, max_size=size))
    columns = {"exchange": ["X"] * size, "symbol": symbols, "timestamp": pa.array(times, pa.timestamp("us"))}
    batch = number_rows(pa.record_batch(columns))
    if data.draw(st.booleans()):
        batch = batch.take(pa.array(data.draw(st.permutations(range(size)))))
    found = partition_rows(pa.Table.from_batches([batch.slice(0, size // 2), batch.slice(size // 2)]))
    seen = []
    for place, key in enumerate(found.keys):
        rows = found.take(place)
        order = list(zip(rows["timestamp"].cast(pa.int64()).to_pylist(), rows["seq"].to_pylist(), strict=True))
        assert order == sorted(order)
        assert {time // DAY_US for time, _ in order} == {key.day}
        assert set(rows["symbol"].to_pylist()) == {key.symbol}
        seen += rows["seq"].to_pylist()
    assert sorted(seen) == list(range(1, size + 1))
    assert found.keys == sorted(found.keys)


@pytest.mark.parametrize("labels", [2, 40])
def test_labels_are_texts_to_whoever_reads_a_part(
    tmp_path: Path, labels: int, trades: Callable[..., pa.RecordBatch]
) -> None:
    rows = number_rows(trades(50, symbols=("A",)))
    sides = pa.array([f"side{i % labels}" if i else None for i in range(50)]).dictionary_encode()
    rows = rows.set_column(rows.schema.get_field_index("side"), rows.schema.field("side"), sides)
    (part,) = write(tmp_path, rows)
    read = pq.read_table(tmp_path / part.path, partitioning=None)
    assert read.schema.types == TRADES.arrow().types
    assert read.to_pylist() == pa.Table.from_batches([rows]).to_pylist()


def test_numbers_that_seldom_repeat_have_no_dictionary(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    batch = trades(1000)
    for name, values in (("price", [float(i % 20) for i in range(1000)]), ("amount", [i / 7 for i in range(1000)])):
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, batch.schema.field(name), pa.array(values))
    (part,) = write(tmp_path / "trades", number_rows(batch, 1))
    group = pq.read_metadata(tmp_path / "trades" / part.path).row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert chunks["price"].has_dictionary_page
    assert not chunks["amount"].has_dictionary_page
    assert {name for name, chunk in chunks.items() if chunk.is_stats_set} == {"timestamp", "seq"}


def test_a_part_of_some_size_has_statistics_of_all_columns(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    (part,) = write(tmp_path / "trades", number_rows(trades(3000), 1))
    group = pq.read_metadata(tmp_path / "trades" / part.path).row_group(0)
    assert all(group.column(i).is_stats_set for i in range(group.num_columns))


def test_many_days_of_many_symbols_and_exchanges_are_told_apart() -> None:
    """Their combinations are more than a small number can count."""
    exchanges, symbols, days = 300, 30_000, 300
    places = np.arange(days)
    label = {
        "exchange": (places, [f"E{i:05}" for i in range(exchanges)]),
        "symbol": (symbols - 1 - places, [f"S{i:05}" for i in range(symbols)]),
    }
    schema = STORED["ticker"].arrow(memory=True)
    times = pa.array(places * DAY_US).cast(pa.timestamp("us"))
    columns = []
    for field in schema:
        if field.name in label:
            codes, names = label[field.name]
            columns.append(pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names)))
        elif field.name == "seq":
            columns.append(pa.array(places + 1))
        else:
            columns.append(times if pa.types.is_timestamp(field.type) else pa.nulls(days, field.type))
    found = partition_rows(pa.table(columns, schema=schema))
    assert sorted(found.keys) == [
        PartitionKey(f"E{day:05}", f"S{symbols - 1 - day:05}", day) for day in places.tolist()
    ]
