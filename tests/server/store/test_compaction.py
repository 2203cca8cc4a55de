"""Compaction: it chooses what is worth it, and what comes out holds exactly the rows that went in, sorted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_model import read_rows
from store_parts import OPTIONS, TRADES, make_part, number_rows, part_paths, write_parts

from tickflight_server.errors import StorageError
from tickflight_server.paths import parse_part_file_name
from tickflight_server.store import partition as partition_module
from tickflight_server.store import table as table_module
from tickflight_server.store.catalog import TableCatalog
from tickflight_server.store.compaction import CompactionPolicy, Job, _differ, _sorted, merge_parts, plan
from tickflight_server.store.partition import DAY_US, Part, PartOptions
from tickflight_server.store.parts import make_index

POLICY = CompactionPolicy(target_bytes=1_000, parts_min=4, settle_seconds=10)
TODAY = 50 * DAY_US


def chosen(parts: list[Part], ring_from: int = 10**6, now_us: int = TODAY) -> list[list[int]]:
    """Return the jobs of a plan, each as the first ``seq`` of its parts."""
    return [[p.min_seq for p in job.parts] for job in plan(make_index(parts), ring_from, now_us, POLICY)]


def small(count: int, *, day: int = 50, nbytes: int = 10, symbol: str = "A", start: int = 1) -> list[Part]:
    return [make_part(start + i, start + i, day=day, nbytes=nbytes, symbol=symbol) for i in range(count)]


def test_of_the_current_day_only_enough_parts_of_one_size_are_merged() -> None:
    assert chosen(small(3)) == []
    assert chosen(small(4)) == [[1, 2, 3, 4]]
    assert chosen(small(3) + small(3, nbytes=300, start=4)) == []
    assert chosen(small(4) + small(3, nbytes=300, start=5)) == [[1, 2, 3, 4]]


def test_of_a_day_that_is_over_for_long_enough_all_small_parts_are_merged() -> None:
    parts = small(1, day=49) + small(1, day=49, nbytes=300, start=2)
    assert chosen(parts, now_us=TODAY + 9_999_999) == []
    assert chosen(parts, now_us=TODAY + 10_000_000) == [[1, 2]]
    assert chosen(small(1, day=49), now_us=TODAY + 10_000_000) == []


def test_very_many_parts_of_different_sizes_are_merged_before_the_day_is_over() -> None:
    sizes = [1, 5, 20, 90, 400]
    parts = [make_part(i, i, day=50, nbytes=sizes[i % 3]) for i in range(1, 16)]
    assert max(len(job) for job in chosen(parts)) == 5
    assert chosen([*parts, make_part(16, 16, day=50, nbytes=1)])[0] == sorted(
        range(1, 17), key=lambda i: (sizes[i % 3] if i < 16 else 1, i)
    )


def test_a_merged_part_is_about_the_target_and_large_parts_are_left() -> None:
    parts = [*small(7, day=1, nbytes=300), make_part(8, 8, day=1, nbytes=500), make_part(9, 9, day=1, nbytes=5_000)]
    assert chosen(parts) == [[1, 2, 3], [4, 5, 6]]


def test_parts_that_memory_has_a_share_of_and_those_elsewhere_are_left() -> None:
    assert chosen(small(4), ring_from=3) == []
    assert chosen(small(4, day=1), ring_from=3) == [[1, 2, 3]]
    far = [Part(f"s3://bucket/{p.path}", p.key, 1, 10, 0, 0, p.min_seq, p.max_seq) for p in small(4, day=1)]
    assert chosen(far) == []


def test_the_partition_with_the_most_parts_is_first_and_partitions_are_not_mixed() -> None:
    parts = small(2, day=1, symbol="B") + small(5, day=1, start=3) + small(3, day=2, start=8)
    assert chosen(parts) == [[3, 4, 5, 6, 7], [8, 9, 10], [1, 2]]


sizes = st.lists(
    st.tuples(st.sampled_from("AB"), st.sampled_from([49, 50]), st.integers(1, 700), st.integers(1, 40)), max_size=40
)


@given(found=sizes, ring_from=st.integers(0, 40), hurry=st.booleans())
def test_merging_ends_and_each_part_is_in_one_job(
    found: list[tuple[str, int, int, int]], ring_from: int, hurry: bool
) -> None:
    parts = [
        make_part(i + 1, i + 1, last=max(i + 1, last), symbol=s, day=d, nbytes=n)
        for i, (s, d, n, last) in enumerate(found)
    ]
    rounds = 0
    while jobs := list(plan(make_index(parts), ring_from, TODAY + (10**9 if hurry else 0), POLICY)):
        inside = [p for job in jobs for p in job.parts]
        assert len({p.path for p in inside}) == len(inside)
        for job in jobs:
            assert len(job.parts) > 1
            assert len({p.key for p in job.parts}) == 1
            assert all(p.last <= ring_from for p in job.parts)
            assert sum(p.nbytes for p in job.parts) <= POLICY.target_bytes
        merged = [
            make_part(
                min(p.min_seq for p in job.parts),
                max(p.max_seq for p in job.parts),
                last=max(p.last for p in job.parts),
                symbol=job.parts[0].key.symbol,
                day=job.parts[0].key.day,
                nbytes=sum(p.nbytes for p in job.parts),
            )
            for job in jobs
        ]
        parts = [p for p in parts if p not in inside] + merged
        rounds += 1
        assert rounds <= 40
    if hurry:
        small = [p for p in parts if p.last <= ring_from and p.nbytes * 2 < POLICY.target_bytes and p.key.day == 49]
        assert len(small) == len({p.key for p in small}), "of a day that is over, a partition keeps one small part"


def merge(folder: Path, parts: list[Part], options: PartOptions = OPTIONS) -> tuple[Part, int, pa.Table]:
    part, repeats = merge_parts(Job(tuple(parts)), [folder / p.path for p in parts], folder, TRADES.arrow(), options)
    return part, repeats, pq.ParquetFile(folder / part.path).read()


def test_a_merged_part_has_all_rows_sorted_and_says_so_of_itself(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    batches = [number_rows(trades(5, 90), 1), number_rows(trades(5, 0), 6), number_rows(trades(5, 45), 11)]
    parts = [p for b in batches for p in write_parts(tmp_path, [b])]
    part, repeats, rows = merge(tmp_path, [parts[2], parts[0], parts[1]])
    assert repeats == 0
    assert rows["price"].to_pylist() == [*map(float, range(5)), *map(float, range(45, 50)), *map(float, range(90, 95))]
    assert rows.schema.equals(TRADES.arrow())
    assert (part.rows, part.min_seq, part.max_seq, part.key) == (15, 1, 15, parts[0].key)
    assert parse_part_file_name(Path(part.path).name) == (1, 15)
    assert part.nbytes == (tmp_path / part.path).stat().st_size


def test_rows_of_one_time_stay_in_order_of_seq(tmp_path: Path, trades: Callable[..., pa.RecordBatch]) -> None:
    parts = [p for i in (3, 1, 2) for p in write_parts(tmp_path, [number_rows(trades(1, t0=1), i)])]
    assert merge(tmp_path, parts)[2]["seq"].to_pylist() == [1, 2, 3]


def test_what_a_part_covers_beyond_its_rows_stays_covered(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    two = [number_rows(trades(4, symbols=("A", "B")), 1), number_rows(trades(4, 4, symbols=("A", "B")), 5)]
    parts = [p for b in two for p in write_parts(tmp_path, [b]) if p.key.symbol == "A"]
    assert [(p.max_seq, p.last) for p in parts] == [(3, 4), (7, 8)]
    assert (merge(tmp_path, parts)[0].max_seq, merge(tmp_path, parts)[0].last) == (7, 8)


def with_ids(batch: pa.RecordBatch, ids: list[str | None]) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index("id"), "id", pa.array(ids, pa.string()))


def test_of_rows_with_one_key_the_first_stays_and_rows_without_a_key_all_stay(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    sent = [["a", None, "b"], ["b", "a", None], ["c", "c", "a"]]
    # later rows have earlier times: which one is first is a matter of seq
    batches = [number_rows(with_ids(trades(3, 100 - 10 * i), ids), 3 * i + 1) for i, ids in enumerate(sent)]
    parts = [p for b in batches for p in write_parts(tmp_path, [b])]
    _, repeats, rows = merge(tmp_path, parts, PartOptions("zstd", 1_024, dedup=("id",)))
    found = sorted(zip(rows["seq"].to_pylist(), rows["id"].to_pylist(), strict=True))
    assert found == [(1, "a"), (2, None), (3, "b"), (6, None), (7, "c")]
    assert repeats == 4
    times = rows["timestamp"].to_pylist()
    assert times == sorted(times)


def test_a_key_that_the_table_does_not_have_drops_nothing(
    tmp_path: Path, trades: Callable[..., pa.RecordBatch]
) -> None:
    parts = [p for i in range(2) for p in write_parts(tmp_path, [number_rows(trades(3), 3 * i + 1)])]
    assert merge(tmp_path, parts, PartOptions("zstd", 1_024, dedup=("nothing", "id")))[1] == 0


# --- in a store


def test_compaction_changes_no_row_and_keeps_what_readers_hold(open_store: Any, put_parts: Any, rows_of: Any) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 6, symbols=("A", "B"))
    before, rows = store.snapshot("trades"), rows_of(store)
    version = store.tables["trades"].state.version
    assert store.keeper.compact() == {"parts_in": 12, "parts_out": 2, "repeats": 0}
    state = store.tables["trades"].state
    assert (len(state.parts), state.parts.total_rows, state.version) == (2, 60, version + 1)
    assert rows_of(store) == rows == [(i + 1, float(i)) for i in range(60)]
    assert len(read_rows(before, store.root / "trades")) == 60
    assert len(part_paths(store.root / "trades")) == 14
    assert store.keeper.compact() == {"parts_in": 0, "parts_out": 0, "repeats": 0}
    assert store.metrics.read()["parts_compacted"] == 12
    store.close()
    again = open_store()
    assert rows_of(again) == rows
    assert len(part_paths(store.root / "trades")) == 14, "removed parts stay for their readers, over a restart too"


def test_rows_that_memory_shares_with_parts_are_compacted_after_their_release(
    open_store: Any, trades: Any, rows_of: Any
) -> None:
    store = open_store(compact_parts_min=2)
    for i in range(3):
        store.append("trades", trades(5, i * 5)).result(20)
        store.flush()
    assert store.keeper.compact(all_of_it=True)["parts_in"] == 0
    while store.tables["trades"].release_oldest():
        pass
    assert store.keeper.compact(all_of_it=True)["parts_in"] == 3
    assert rows_of(store) == [(i + 1, float(i)) for i in range(15)]


def test_everything_is_merged_on_demand_before_the_day_is_over(open_store: Any, put_parts: Any, clock: Any) -> None:
    store = open_store(clock=clock)
    put_parts(store, 3, t0=clock.now_us())
    assert store.keeper.compact()["parts_in"] == 0
    assert store.keeper.compact(all_of_it=True)["parts_in"] == 3


def test_only_the_named_table_is_compacted(open_store: Any, trades: Any) -> None:
    store = open_store(compact_parts_min=2)
    for i in range(2):
        for name in ("trades", "liquidations"):
            store.append(name, trades(3, i * 3).select(["exchange", "symbol", "timestamp"])).result(20)
        store.flush()
    for table in store.tables.values():
        while table.release_oldest():
            pass
    assert store.keeper.compact(table="liquidations")["parts_in"] == 2
    assert len(store.tables["trades"].state.parts) == 2


def test_a_part_that_went_meanwhile_is_not_replaced(
    open_store: Any, put_parts: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)
    table = store.tables["trades"]
    parts = [table.state.parts.part(i) for i in range(3)]
    version = table.state.version
    table.rewrite(parts[:1], [], expired=True)
    assert not table.rewrite(parts, [])
    assert (len(table.state.parts), table.state.version) == (2, version + 1)
    assert [seq for seq, _ in rows_of(store)] == list(range(11, 31))


@pytest.mark.parametrize("landed", [False, True])
def test_a_compaction_whose_commit_fails_is_settled_by_whatever_comes_next(
    open_store: Any, put_parts: Any, trades: Any, rows_of: Any, landed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)

    def fail(*_: Any) -> None:
        raise StorageError("cannot commit: Input/output error.")

    def fail_late(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        if landed:
            patch.setattr("tickflight_server.store.catalog.sync_version", fail_late)
        else:
            patch.setattr(TableCatalog, "_commit", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            store.keeper.compact()
    assert len(rows_of(store)) == 30
    store.append("trades", trades(5, 30)).result(20)
    store.flush()
    assert len(store.tables["trades"].state.parts) == (2 if landed else 4)
    files = {str(p.relative_to(store.root / "trades")) for p in part_paths(store.root / "trades")}
    assert len(files) == (5 if landed else 4), "what did not become a version is gone"
    while store.tables["trades"].release_oldest():
        pass
    assert rows_of(store) == [(i + 1, float(i)) for i in range(35)]
    store.keeper.compact()
    assert len(store.tables["trades"].state.parts) == 1
    assert rows_of(store) == [(i + 1, float(i)) for i in range(35)]


def test_a_compaction_whose_commit_failed_is_done_by_the_next_attempt(
    open_store: Any, put_parts: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)

    def fail(*_: Any) -> None:
        raise StorageError("cannot commit: Input/output error.")

    with monkeypatch.context() as patch:
        patch.setattr(TableCatalog, "_commit", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            store.keeper.compact()
    assert store.keeper.compact()["parts_in"] == 3
    assert rows_of(store) == [(i + 1, float(i)) for i in range(30)]


def test_attempts_on_a_disk_that_goes_on_failing_take_nothing_back(
    open_store: Any, put_parts: Any, trades: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tickflight_server.store.catalog.sync_version", fail)
        patch.setattr("tickflight_server.store.catalog.write_version_again", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            store.keeper.compact()
        patch.setattr(partition_module, "sync_file", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            store.keeper.compact()
    store.append("trades", trades(5, 30)).result(20)
    store.close()
    assert rows_of(open_store()) == [(i + 1, float(i)) for i in range(35)]


def test_what_a_compaction_that_died_left_is_removed_at_the_start(
    open_store: Any, put_parts: Any, rows_of: Any, crash: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)
    copies: list[Path] = []

    def die(*_: Any, **__: Any) -> None:
        copies.append(crash(store))
        raise StorageError("the machine died here")

    with monkeypatch.context() as patch:
        patch.setattr(TableCatalog, "_commit", die)
        with pytest.raises(StorageError):
            store.keeper.compact()
    (died,) = copies
    assert len(part_paths(died / "trades")) == 4
    again = open_store(died)
    assert len(part_paths(died / "trades")) == 3
    assert rows_of(again) == [(i + 1, float(i)) for i in range(30)]


def test_a_flush_during_a_compaction_loses_nothing(
    open_store: Any, put_parts: Any, trades: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 3)
    rewrite = table_module.Table.rewrite

    def flush_first(*arguments: Any, **how: Any) -> bool:
        store.append("trades", trades(5, 30)).result(20)
        store.flush()
        return rewrite(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(table_module.Table, "rewrite", flush_first)
        store.keeper.compact()
    assert rows_of(store) == [(i + 1, float(i)) for i in range(35)]
    store.close()
    assert rows_of(open_store()) == [(i + 1, float(i)) for i in range(35)]


def test_a_compaction_that_fails_during_a_flush_is_settled_all_the_same(
    open_store: Any, put_parts: Any, trades: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 2)
    store.append("trades", trades(5, 20)).result(20)
    write = table_module.Table._write

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    def compact_meanwhile(*arguments: Any) -> Any:
        parts = write(*arguments)
        with monkeypatch.context() as late:
            late.setattr("tickflight_server.store.catalog.sync_version", fail)
            with pytest.raises(StorageError):
                store.keeper.compact()
        return parts

    with monkeypatch.context() as patch:
        patch.setattr(table_module.Table, "_write", compact_meanwhile)
        store.flush()
    store.append("trades", trades(5, 25)).result(20)
    store.flush()
    index, _ = TableCatalog(store.root / "trades", TRADES, store.writer, "float64").load()
    assert set(store.tables["trades"].state.parts.path) == set(index.path)


def test_a_damaged_part_is_not_compacted_into_a_whole_one(open_store: Any, put_parts: Any, rows_of: Any) -> None:
    store = open_store(compact_parts_min=2, compression="none")
    put_parts(store, 2)
    path = store.root / "trades" / store.tables["trades"].state.parts.path[0]
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<d", 7.0)) + 6] ^= 8
    path.write_bytes(content)
    with pytest.raises(StorageError, match=path.name):
        store.keeper.compact()
    assert len(store.tables["trades"].state.parts) == 2


@pytest.mark.parametrize("damage", ["deleted", "cut short"])
def test_a_compaction_that_cannot_read_a_part_names_it_and_changes_nothing(
    open_store: Any, put_parts: Any, damage: str
) -> None:
    store = open_store(compact_parts_min=2)
    put_parts(store, 2)
    path = store.root / "trades" / store.tables["trades"].state.parts.path[0]
    content = path.read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[:-20])
    with pytest.raises(StorageError, match=path.name):
        store.keeper.compact()
    assert len(store.tables["trades"].state.parts) == 2
    path.write_bytes(content)
    assert store.keeper.compact()["parts_in"] == 2


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 99)), max_size=6), min_size=1, max_size=4))
def test_rows_come_out_in_order_of_time_and_seq_however_their_parts_lie(parts: list[list[tuple[int, int]]]) -> None:
    pieces = [pa.table({"timestamp": [t for t, _ in p], "seq": [s for _, s in p]}, schema=_TIMED) for p in parts]
    rows = _sorted(pa.concat_tables(pieces))
    found = zip(rows["timestamp"].cast(pa.int64()).to_pylist(), rows["seq"].to_pylist(), strict=True)
    assert list(found) == sorted(row for part in parts for row in part)


@pytest.mark.parametrize(
    ("ids", "differ"), [(["1", "3", "2"], True), (["1", "2", "1"], False), (["1", "x"], False), (["1", None], False)]
)
def test_ids_are_known_to_differ_only_when_they_do(ids: list[str | None], differ: bool) -> None:
    assert _differ(pa.table({"id": pa.array(ids, pa.string())}), "id") is differ


_TIMED = pa.schema([("timestamp", pa.timestamp("us")), ("seq", pa.int64())])
