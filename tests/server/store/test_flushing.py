"""Which partitions a flush writes: all of few; of many the large and the old, and for memory the largest."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from store_parts import number_rows

from tickflight_server.store.flushing import FlushPolicy, Waiting
from tickflight_server.store.partition import Partitioned, partition_rows


def rows_of_sizes(sizes: dict[str, int]) -> Partitioned:
    """Return partitions of so many rows by symbol."""
    symbols = [s for s, count in sizes.items() for _ in range(count)]
    times = pa.array([0] * len(symbols), pa.timestamp("us"))
    columns = {"exchange": ["X"] * len(symbols), "symbol": symbols, "timestamp": times}
    return partition_rows(pa.Table.from_batches([number_rows(pa.record_batch(columns))]))


def names(rows: Partitioned, places: Any) -> str:
    return "".join(rows.keys[p].symbol for p in places)


def test_few_partitions_are_all_flushed_by_time_and_any_number_on_demand() -> None:
    rows = rows_of_sizes({"A": 1, "B": 1, "C": 1})
    assert names(rows, Waiting(FlushPolicy(files_max=3)).choose(rows, 0, "interval", 0)) == "ABC"
    assert names(rows, Waiting(FlushPolicy(files_max=2)).choose(rows, 0, "interval", 0)) == ""
    assert names(rows, Waiting(FlushPolicy(files_max=1)).choose(rows, 0, "all", 0)) == "ABC"


def test_of_many_the_large_are_flushed() -> None:
    rows = rows_of_sizes({"A": 1, "B": 500, "C": 100})
    a_row = rows.rows.nbytes / rows.rows.num_rows
    waiting = Waiting(FlushPolicy(files_max=1, partition_bytes=int(100 * a_row)))
    assert names(rows, waiting.choose(rows, 0, "interval", 0)) == "BC"


def test_of_many_those_that_wait_for_long_are_flushed_and_then_wait_anew() -> None:
    waiting = Waiting(FlushPolicy(files_max=1, partition_seconds=60))
    early, both = rows_of_sizes({"A": 1, "C": 1}), rows_of_sizes({"A": 1, "B": 1, "C": 1})
    assert names(early, waiting.choose(early, 1_000, "interval", 0)) == ""
    assert names(both, waiting.choose(both, 1_030, "interval", 0)) == ""
    assert names(both, waiting.choose(both, 1_059, "interval", 0)) == ""
    places = waiting.choose(both, 1_060, "interval", 0)
    assert names(both, places) == "AC"
    waiting.flushed(both, places)
    places = waiting.choose(both, 1_090, "interval", 0)
    assert names(both, places) == "B"
    waiting.flushed(both, places)
    assert names(early, waiting.choose(early, 1_149, "interval", 0)) == ""
    assert names(early, waiting.choose(early, 1_150, "interval", 0)) == "AC"


sizes = st.dictionaries(st.sampled_from("ABCDEFGH"), st.integers(1, 50), min_size=1)


@given(sizes=sizes, share=st.floats(0, 1.2))
def test_for_memory_the_largest_go_until_enough_is_free(sizes: dict[str, int], share: float) -> None:
    rows = rows_of_sizes(sizes)
    keep = int(rows.rows.nbytes * share)
    chosen = names(rows, Waiting(FlushPolicy(files_max=1)).choose(rows, 0, "memory", keep))
    a_row = rows.rows.nbytes / rows.rows.num_rows
    left = [count for symbol, count in sizes.items() if symbol not in chosen]
    assert sum(left) * a_row <= keep + 1
    assert chosen, "a full memory never flushes nothing"
    assert max(left, default=0) <= min(sizes[symbol] for symbol in chosen)
    others = sorted(sizes[symbol] for symbol in chosen)[1:]
    assert not others or (sum(left) + min(sizes[symbol] for symbol in chosen)) * a_row > keep - 1, (
        "and no more than needed"
    )
