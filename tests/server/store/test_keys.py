"""The check for duplicates against a plain set, through flushes, restarts, resets, merged parts and short memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickflight_server.errors import StorageError
from tickflight_server.metrics import Metrics
from tickflight_server.store import keys
from tickflight_server.store.keys import DAY_US, KeyIndex, PairNumbers, key_metadata

LABEL = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "exchange": LABEL,
        "symbol": LABEL,
        "id": pa.string(),
        "order_id": pa.string(),
        "sequence_number": pa.int64(),
        "timestamp": pa.timestamp("us"),
    }
)
MIB = 1 << 20


def make_batch(rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Return rows of exchange, symbol, day, microsecond, id, order id and sequence number."""
    x, s, day, us, *rest = zip(*rows, strict=True)
    times = [d * DAY_US + u for d, u in zip(day, us, strict=True)]
    columns = [pa.array(x).dictionary_encode(), pa.array(s).dictionary_encode(), *rest, times]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def trades(*ids: str | None, symbol: str = "A", day: int = 0) -> pa.RecordBatch:
    return make_batch([("X", symbol, day, i, id_, None, None) for i, id_ in enumerate(ids)])


class Lake:
    """What a store does around an index: rows get ``seq``, wait in memory, go to parts; and the model beside it."""

    def __init__(self, folder: Path, columns: Sequence[str] = ("id",), bytes_max: int = MIB) -> None:
        self.folder, self.columns, self.bytes_max = folder, list(columns), bytes_max
        self.ring: list[tuple[int, pa.RecordBatch]] = []  # stored rows, those in parts included
        self.parts: dict[tuple[str, str, int], list[Path]] = {}
        self.keys: set[tuple[Any, ...]] = set()
        self.last_seq = self.flushed_seq = self.released_seq = 0
        self.files = 0
        self.metrics = Metrics()
        self.asked = 0
        self.open()

    def open(self) -> None:
        self.index = KeyIndex(self.columns, self.parts_of, bytes_max=self.bytes_max, metrics=self.metrics)

    def parts_of(self, exchange: str, symbol: str, day: int) -> list[Path]:
        self.asked += 1
        return list(self.parts.get((exchange, symbol, day), ()))

    def model(self, batch: pa.RecordBatch) -> tuple[list[bool], set[tuple[Any, ...]]]:
        fresh, taken = [], set()
        us = batch["timestamp"].cast(pa.int64()).to_pylist()
        for row, t in zip(batch.to_pylist(), us, strict=True):
            own = [t if c == "timestamp" else row[c] for c in self.columns]
            key = (row["exchange"], row["symbol"], t // DAY_US, *own)
            fresh.append(None in own or (key not in self.keys and key not in taken))
            if None not in own:
                taken.add(key)
        return fresh, taken

    def check(self, batch: pa.RecordBatch) -> list[bool]:
        mask = self.index.fresh(batch, self.last_seq + 1)
        assert mask is None or not mask.all()
        found = [True] * batch.num_rows if mask is None else mask.tolist()
        assert self.index.nbytes <= self.bytes_max
        return found

    def append(self, batch: pa.RecordBatch) -> list[bool]:
        """Store the new rows of a batch; what the index says is what the model says."""
        expected, taken = self.model(batch)
        found = self.check(batch)
        assert found == expected
        self.keys |= taken
        self.store(batch.filter(pa.array(found)))
        return found

    def store(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self.ring.append((self.last_seq + 1, batch))
            self.last_seq += batch.num_rows

    def flush(self, *, footer: bool = True, release: bool = True) -> None:
        found: dict[tuple[str, str, int], list[pa.Table]] = {}
        for first, batch in self.ring:
            if first > self.flushed_seq:
                rows = pa.table(batch).append_column("seq", pa.array(range(first, first + batch.num_rows)))
                for part, some in split(rows):
                    found.setdefault(part, []).append(some)
        for part, tables in found.items():
            self.write(part, tables, footer)
        self.flushed_seq = self.last_seq
        if release:
            self.release()

    def release(self) -> None:
        self.released_seq = self.flushed_seq
        self.index.release(self.flushed_seq)

    def write(self, part: tuple[str, str, int], tables: list[pa.Table], footer: bool) -> None:
        rows = pa.concat_tables(tables).unify_dictionaries()
        plain = pa.schema([(f.name, pa.string() if f.type == LABEL else f.type) for f in rows.schema])
        rows = rows.cast(plain).sort_by([("timestamp", "ascending"), ("seq", "ascending")])
        if footer:
            rows = rows.replace_schema_metadata(key_metadata(rows, self.columns))
        self.files += 1
        path = self.folder / f"{self.files}.parquet"
        pq.write_table(
            *(rows, path),
            compression="ZSTD",
            row_group_size=1_024,
            use_dictionary=["exchange", "symbol"],
            column_encoding=dict.fromkeys(("timestamp", "seq", "sequence_number"), "DELTA_BINARY_PACKED"),
            sorting_columns=pq.SortingColumn.from_ordering(rows.schema, [("timestamp", "ascending")]),
        )
        self.parts.setdefault(part, []).append(path)

    def compact(self, *, footer: bool = True) -> None:
        """Make one part of all of a partition, and delete those."""
        for part, paths in list(self.parts.items()):
            if len(paths) > 1:
                tables = [pq.ParquetFile(p).read().replace_schema_metadata(None) for p in paths]
                del self.parts[part]
                self.write(part, tables, footer)
                for path in paths:
                    path.unlink()

    def restart(self) -> None:
        self.open()
        self.ring = [(first, batch) for first, batch in self.ring if first > self.flushed_seq]
        self.add_again(self.flushed_seq)

    def reset(self, kept: int) -> None:
        """Forget, and add the rows of the ring again, of which up to ``kept`` batches are in parts, too."""
        self.index.reset()
        starts = [first for first, _ in self.ring if first <= self.flushed_seq]
        self.add_again(starts[-kept] - 1 if 0 < kept <= len(starts) else self.flushed_seq)

    def add_again(self, after: int) -> None:
        batches = [batch for first, batch in self.ring if first > after]
        last = max((first + batch.num_rows - 1 for first, batch in self.ring), default=self.flushed_seq)
        if batches:
            (rows,) = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
            self.index.restore(rows, max(last, self.flushed_seq))
        self.released_seq = self.flushed_seq


def split(rows: pa.Table) -> list[tuple[tuple[str, str, int], pa.Table]]:
    days = np.array(rows["timestamp"].cast(pa.int64())) // DAY_US
    found = list(zip(rows["exchange"].to_pylist(), rows["symbol"].to_pylist(), days.tolist(), strict=True))
    return [(part, rows.filter(pa.array([f == part for f in found]))) for part in dict.fromkeys(found)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


ids = st.one_of(
    st.integers(0, 40).map(str),
    st.integers(0, 40).map(str),
    st.sampled_from(["007", "-5", "+1", " 12", "１２", str(2**63 - 1), str(2**63), "1e5", "", "ETH-1", "u" * 70]),
    st.integers(0, 9).map(lambda n: str(UUID(int=n))),
    st.none(),
)
row = st.tuples(
    *(st.sampled_from("XY"), st.sampled_from("AB"), st.integers(0, 1), st.integers(0, 2), ids),
    *(st.sampled_from(["a", "b", None]), st.one_of(st.none(), st.integers(-2, 9))),
)
# rows that go up, as they do but for the others
rising = st.tuples(st.integers(0, 40), st.integers(1, 12), st.integers(1, 3)).map(
    lambda t: [("X", "AB"[i % 2], 0, i % 3, str(t[0] + i * t[2]), "a", t[0] + i) for i in range(t[1])]
)
batches = st.one_of(st.lists(row, min_size=1, max_size=12), rising, rising)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), batches),
        st.tuples(st.just("append"), batches),
        st.tuples(st.just("append"), batches),
        st.tuples(st.just("flush"), st.booleans(), st.booleans()),
        st.tuples(st.just("flush"), st.just(True), st.just(True)),
        st.tuples(st.just("release")),
        st.tuples(st.just("compact"), st.booleans()),
        st.tuples(st.just("restart")),
        st.tuples(st.just("reset"), st.integers(0, 3)),
        st.tuples(st.just("fail"), batches),
    ),
    min_size=2,
    max_size=25,
)
tables = st.sampled_from([("id",), ("id",), ("order_id", "id"), ("timestamp", "sequence_number"), ("sequence_number",)])


@settings(max_examples=200)
@given(columns=tables, bytes_max=st.sampled_from([0, 200, 1_000, 3_000, MIB]), steps=steps)
def test_a_key_is_stored_once_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, columns: tuple[str, ...], bytes_max: int, steps: list
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"), columns, bytes_max)
    for step in steps:
        match step:
            case ("append", rows):
                lake.append(make_batch(rows))
            case ("flush", footer, release):
                lake.flush(footer=footer, release=release)
            case ("release",):
                lake.release()
            case ("compact", footer):
                lake.compact(footer=footer)
            case ("restart",):
                lake.restart()
            case ("reset", kept):
                lake.reset(kept)
            case ("fail", rows):  # the log could not be written: the rows are not stored
                lake.check(make_batch(rows))
                lake.reset(1)


def test_rising_integers_never_ask_parts_again(lake: Lake) -> None:
    for start in range(0, 5_000, 100):
        lake.append(trades(*(str(i) for i in range(start, start + 100))))
        lake.flush()
    assert lake.asked == 1  # on first contact
    assert lake.index.nbytes == 0
    assert "dedup_parts_read" not in lake.metrics.read()


def test_a_late_integer_reads_only_parts_whose_range_holds_it(lake: Lake) -> None:
    for start in range(0, 5_000, 100):
        lake.append(trades(*(str(i) for i in range(start, start + 100, 2))))
        lake.flush()
    lake.restart()
    assert lake.append(trades("2451", "2452")) == [True, False]
    assert lake.append(trades("2453", "2454", "2451")) == [True, False, False]
    assert lake.metrics.read()["dedup_parts_read"] == 1


def test_parts_are_read_one_after_the_other_as_they_are_asked_for(lake: Lake) -> None:
    for start in range(0, 100, 10):
        lake.append(trades(*(str(i) for i in range(start, start + 10, 2))))
        lake.flush()
    lake.restart()
    for number, late in enumerate((32, 64, 4, 96, 34), start=1):
        assert lake.append(trades(str(late), str(late + 1))) == [False, True]
        assert lake.metrics.read()["dedup_parts_read"] == min(number, 4)


def test_new_parts_are_not_read_while_the_set_has_their_rows(lake: Lake) -> None:
    for start in range(0, 1_000, 10):
        lake.append(trades(*(f"id-{i}" for i in range(start, start + 10)), str(start), str(start)))
        lake.flush()
        assert lake.append(trades("id-3", str(start))) == [False, False]
    assert lake.metrics.read()["dedup_parts_read"] == 1  # the first number asked for was in a part already


def test_texts_are_read_once_after_a_start(lake: Lake) -> None:
    for start in range(0, 50, 10):
        lake.append(trades(*(f"id-{i}" for i in range(start, start + 10))))
        lake.flush()
    lake.restart()
    for _ in range(3):
        assert lake.append(trades("id-0", "id-49")) == [False, False]
    assert lake.metrics.read()["dedup_parts_read"] == 5


def test_a_number_and_its_other_spellings_are_different_keys(lake: Lake) -> None:
    spellings = ["7", "007", "+7", " 7", "7 ", "７", "7.0", "7e0", "0x7", "-7"]
    assert all(lake.append(trades(*spellings)))
    lake.flush()
    lake.restart()
    assert not any(lake.append(trades(*spellings)))


def test_days_and_symbols_have_keys_of_their_own(lake: Lake) -> None:
    for batch in (trades("1", "x"), trades("1", "x", symbol="B"), trades("1", "x", day=1)):
        assert lake.append(batch) == [True, True]
        assert lake.append(batch) == [False, False]


def test_one_batch_may_hold_many_days(lake: Lake) -> None:
    rows = [("X", "A", i % 5, 0, id_, None, None) for i, id_ in enumerate(["1", "x"] * 10)]
    assert sum(lake.append(make_batch(rows))) == 10
    assert sum(lake.append(make_batch(rows))) == 0


def test_a_null_is_never_a_duplicate(lake: Lake) -> None:
    assert all(lake.append(trades(None, None, "1", None)))
    assert lake.append(trades(None, "1", None)) == [True, False, True]


def test_duplicates_are_counted(lake: Lake) -> None:
    lake.append(trades("1", "1", "2"))
    lake.append(trades("2", "3", "x", "x"))
    assert lake.metrics.read()["rows_duplicate"] == 3


def test_an_empty_batch_is_all_new(lake: Lake) -> None:
    empty = trades("1").slice(0, 0)
    assert lake.index.fresh(empty, 1) is None
    lake.index.restore(empty, 1)


def test_a_late_row_of_an_old_day_is_known_after_the_day_was_forgotten(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_DAYS_MAX", 2)
    for day in range(6):
        lake.append(trades("5", "x", day=day))
        lake.flush()
    assert len(lake.index._days) == 2
    assert lake.append(trades("5", "x", "4", day=0)) == [False, False, True]


def test_days_with_rows_in_memory_alone_are_not_forgotten(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_DAYS_MAX", 2)
    for day in range(6):
        lake.append(trades("5", "x", day=day))
    assert lake.append(trades("5", "x", "4", day=0)) == [False, False, True]


def test_a_part_that_was_replaced_is_looked_for_under_its_new_name(lake: Lake) -> None:
    for id_ in ("1", "5", "9", "x", "y"):
        lake.append(trades(id_))
        lake.flush()
    lake.restart()
    assert lake.append(trades("10", "z")) == [True, True]  # now the parts' ranges are known
    lake.compact()
    assert lake.append(trades("5", "6", "x")) == [False, True, False]


def test_a_missing_part_is_an_error_and_nothing_is_taken(lake: Lake) -> None:
    lake.append(trades("1", "5"))
    lake.flush()
    lake.restart()
    lake.append(trades("8"))
    (path,) = lake.parts[("X", "A", 0)]
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(StorageError, match=r"a live part is missing: .*1\.parquet"):
        lake.check(trades("9", "3"))
    path.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="cannot read the keys of a part"):
        lake.check(trades("9", "3"))
    path.write_bytes(content)
    assert lake.append(trades("9", "3", "5")) == [True, True, False]


def test_memory_stays_in_its_bounds_and_is_said_to_be_short(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lake = Lake(tmp_path, bytes_max=20_000)
    texts = [f"id-{i}" for i in range(4_000)]
    for start in range(0, 4_000, 500):
        assert all(lake.append(trades(*texts[start : start + 500])))
        lake.flush()
    assert not any(lake.append(trades(*texts)))
    assert lake.metrics.read()["dedup_drops"] > 1


def test_the_day_used_longest_ago_is_dropped_first(tmp_path: Path) -> None:
    lake = Lake(tmp_path, bytes_max=50_000)
    for day in (0, 1, 2):
        lake.append(trades(*(f"id-{i}" for i in range(1_200)), day=day))
        lake.flush()
    assert [day.nbytes > 0 for day in lake.index._days.values()] == [False, True, True]
    lake.append(trades("id-1", day=1))
    lake.append(trades("id-1", day=0))
    assert {number: day.nbytes > 0 for number, day in lake.index._days.items()} == {0: True, 1: True, 2: False}


def test_integers_are_known_after_their_set_was_dropped(lake: Lake) -> None:
    lake.append(trades("1", "5"))
    assert lake.append(trades("5")) == [False]  # the set has both when they go to a part
    lake.flush()
    assert lake.append(trades("5")) == [False]
    lake.index._days[0].drop_set()
    assert lake.append(trades("5", "4", "1")) == [False, True, False]


def test_streams_of_two_connections_are_one(lake: Lake) -> None:
    chance = np.random.default_rng(5)
    stream = [str(i) for i in range(3_000)]
    at = [0, 0]
    stored: list[str] = []
    while min(at) < len(stored) or max(at) < len(stream):
        which = int(chance.integers(2))
        step = int(chance.integers(1, 60))
        sent = stream[at[which] : at[which] + step]
        at[which] += step
        if sent:
            fresh = lake.append(trades(*sent))
            stored += [id_ for id_, new in zip(sent, fresh, strict=True) if new]
        if chance.integers(20) == 0:
            lake.flush()
        if min(at) >= len(stream):
            break
    assert sorted(stored, key=int) == stream


def test_a_large_batch_of_many_symbols_is_as_the_model_says(tmp_path: Path) -> None:
    lake, chance = Lake(tmp_path), np.random.default_rng(3)
    top = 0
    for number in range(6):
        size = 4_000
        moved = np.arange(top, top + size)
        if number % 2:
            late = chance.integers(0, size, 40)
            moved[late] = chance.integers(0, top + size, 40)
        top += size
        symbols = [f"S{i}" for i in chance.integers(0, 300, size)]
        lake.append(make_batch([("X", s, 0, 0, str(i), None, None) for s, i in zip(symbols, moved, strict=True)]))
        if number == 3:
            lake.flush()
            lake.restart()


def test_pairs_keep_their_numbers() -> None:
    numbers = PairNumbers()
    first = [("X", f"S{i}", 0, 0, "1", None, None) for i in range(100)]
    assert sorted(numbers.number(make_batch(first)).tolist()) == list(range(100))
    again = numbers.number(make_batch([("Y", "S0", 0, 0, "1", None, None), *reversed(first)])).tolist()
    assert [numbers.names[n] for n in again] == [("Y", "S0"), *((x, s) for x, s, *_ in reversed(first))]
    plain = pa.record_batch({"exchange": pa.array(["X"]), "symbol": pa.array(["S7"])})
    assert numbers.names[numbers.number(plain)[0]] == ("X", "S7")


def test_a_label_that_a_dictionary_has_twice_is_one() -> None:
    numbers = PairNumbers()
    codes = pa.array([0, 1, 2, 1], pa.int32())
    symbols = pa.DictionaryArray.from_arrays(codes, pa.array(["A", "B", "A"]))
    found = numbers.number(pa.record_batch({"exchange": pa.array(["X"] * 4).dictionary_encode(), "symbol": symbols}))
    assert [numbers.names[n] for n in found.tolist()] == [("X", s) for s in "ABAB"]
    assert len(numbers.names) == 2
