"""The index of parts: columns that never change, in the order in which they were added."""

from __future__ import annotations

from dataclasses import fields
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_parts import make_part, number_rows, parts_of

from tickflight_server.paths import part_file_name
from tickflight_server.store.partition import DAY_US, Part, PartitionKey
from tickflight_server.store.parts import EMPTY, PartIndex, make_index, name_bounds
from tickflight_server.store.row_keys import join

numbers = st.integers(0, 2**62)
keys = st.builds(PartitionKey, st.text(max_size=5), st.text(max_size=5), st.integers(0, 90_000))
names = st.one_of(
    st.text("abc/.%", max_size=5),
    st.builds(lambda a, b: f"x/{part_file_name(a, b, '0' * 16)}", numbers, numbers),
)
parts = st.lists(
    st.builds(
        Part,
        path=names,
        key=keys,
        **dict.fromkeys(("rows", "nbytes", "min_us", "max_us", "min_seq", "max_seq"), numbers),
    ),
    max_size=6,
)


@given(first=parts, second=parts)
def test_an_index_holds_the_parts_in_order_and_extending_makes_a_new_one(first: list[Part], second: list[Part]) -> None:
    index = make_index(first)
    extended = index.extended(second)
    assert parts_of(index) == first
    assert parts_of(extended) == first + second
    assert extended.last.tolist() == [p.last for p in first + second]
    assert extended.exchange.tolist() == [p.key.exchange for p in first + second]
    assert extended.symbol.tolist() == [p.key.symbol for p in first + second]


@given(items=parts, data=st.data())
def test_choosing_keeps_exactly_the_masked_parts(items: list[Part], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    chosen = make_index(items).chosen(np.array(mask, dtype=bool))
    assert parts_of(chosen) == [p for p, kept in zip(items, mask, strict=True) if kept]


@given(items=parts, data=st.data())
def test_an_index_without_some_has_all_the_others(items: list[Part], data: st.DataObject) -> None:
    gone = data.draw(st.lists(st.sampled_from([p.path for p in items] or ["none"]), max_size=3))
    assert parts_of(make_index(items).without(gone)) == [p for p in items if p.path not in gone]


@given(items=parts)
def test_parts_have_one_key_exactly_if_they_are_of_one_partition(items: list[Part]) -> None:
    numbered = make_index(items).keys.tolist()
    for (a, x), (b, y) in product(zip(items, numbered, strict=True), repeat=2):
        assert (x == y) == (a.key == b.key)


@given(items=parts)
def test_a_partition_is_covered_up_to_the_last_that_a_name_says(items: list[Part]) -> None:
    index = make_index(items)
    covered = index.covered()
    expected: dict[int, int] = {}
    for key, part in zip(index.keys.tolist(), items, strict=True):
        expected[key] = max(expected.get(key, 0), part.last)
    assert covered == expected


rows = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 2)), min_size=1, max_size=30)


@given(rows=rows, ends=st.dictionaries(st.tuples(st.sampled_from("ABCD"), st.integers(0, 2)), st.integers(1, 30)))
def test_rows_above_what_covers_their_partition_are_missed(
    rows: list[tuple[str, int]], ends: dict[tuple[str, int], int]
) -> None:
    index = make_index(make_part(1, 1, last=last, symbol=s, day=day) for (s, day), last in ends.items())
    columns = {
        "exchange": ["X"] * len(rows),
        "symbol": [s for s, _ in rows],
        "timestamp": pa.array([day * DAY_US + 5 for _, day in rows], pa.timestamp("us")),
    }
    table = pa.Table.from_batches([number_rows(pa.record_batch(columns))])
    assert index.misses(table).tolist() == [seq > ends.get(key, 0) for seq, key in enumerate(rows, 1)]
    assert index.misses(table.slice(0, 0)).tolist() == []


def test_names_say_bounds_or_nothing() -> None:
    first, last = name_bounds([f"a=1/{part_file_name(3, 9, '0' * 16)}", part_file_name(4, 5, "0" * 8), "mine.parquet"])
    assert (first.tolist(), last.tolist()) == ([3, 4, 0], [9, 5, 0])


def test_the_columns_are_those_of_the_index() -> None:
    assert list(PartIndex.COLUMNS) == [f.name for f in fields(PartIndex)][: len(PartIndex.COLUMNS)]


def test_an_index_adds_up_rows_and_bytes() -> None:
    part = make_part(1, 10, nbytes=100)
    index = make_index([part, part])
    assert (len(index), index.total_rows, index.total_bytes) == (2, 20, 200)
    assert (len(EMPTY), EMPTY.total_rows, EMPTY.total_bytes) == (0, 0, 0)


def test_an_index_cannot_be_reassigned() -> None:
    with pytest.raises(AttributeError):
        EMPTY.path = np.array([])  # type: ignore[misc]


def test_the_keys_of_rows_are_the_same_whatever_their_dictionaries_and_however_many_days() -> None:
    index = make_index([])
    rows = [("X", "A", 5), ("Y", "B", 70_000), ("X", "B", 5), ("X", "A", 70_000), ("Y", "A", 6)]

    def batch(some: list[tuple[str, str, int]]) -> pa.RecordBatch:
        columns = {
            "exchange": [e for e, _, _ in some],
            "symbol": [s for _, s, _ in some],
            "timestamp": pa.array([d * DAY_US + 1 for _, _, d in some], pa.timestamp("us")),
        }
        return number_rows(pa.record_batch(columns))

    whole = index.batch_keys(batch(rows))
    alone = [index.batch_keys(batch([row])) for row in rows]
    assert whole.keys.tolist() == [int(one.keys[0]) for one in alone]
    assert join([whole, *alone]).keys.tolist() == whole.keys.tolist() * 2
    assert len(set(whole.keys.tolist())) == len(rows)
    near = index.batch_keys(batch(rows[::2]))
    assert sorted(near.counts()) == sorted((key, 1) for key in whole.keys[::2].tolist())
    assert near.among(whole.keys[:1]).tolist() == [True, False, False]
    assert near.chosen(np.array([False, True, True])).keys.tolist() == whole.keys[2::2].tolist()
    assert index.batch_keys(batch(rows).slice(0, 0)).keys.tolist() == []
