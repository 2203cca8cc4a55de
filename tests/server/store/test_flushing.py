"""Which partitions a flush writes: all of few; of many the large and the old, and for memory the largest."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_parts import number_rows

from tickflight_server.store.flushing import FlushPolicy, Reason, Waiting
from tickflight_server.store.parts import EMPTY, PartIndex, make_index

INDEX: PartIndex = make_index(())


def rows_of_sizes(sizes: dict[str, int]) -> pa.RecordBatch:
    """Return rows of so many by symbol."""
    symbols = [s for s, count in sizes.items() for _ in range(count)]
    times = pa.array([0] * len(symbols), pa.timestamp("us"))
    return number_rows(pa.record_batch({"exchange": ["X"] * len(symbols), "symbol": symbols, "timestamp": times}))


def waiting_for(sizes: dict[str, int], now_s: float = 0, before: Waiting | None = None) -> Waiting:
    batch = rows_of_sizes(sizes)
    return (before or Waiting(batch.schema)).added([batch], INDEX, now_s)


def flush(
    waiting: Waiting, policy: FlushPolicy, reason: Reason, now_s: float = 0, keep: int = 0
) -> tuple[str, Waiting]:
    """Return the symbols that are flushed, and what waits on."""
    chosen, rest = waiting.split(waiting.choose(policy, reason, now_s, keep))
    assert chosen.num_rows + rest.rows == waiting.rows
    assert rest.nbytes == pytest.approx(rest.table.nbytes, rel=0.5) or rest.rows == 0
    return "".join(sorted(set(chosen.column("symbol").to_pylist()))), rest


def test_few_partitions_are_all_flushed_by_time_and_any_number_on_demand() -> None:
    waiting = waiting_for({"A": 1, "B": 1, "C": 1})
    assert flush(waiting, FlushPolicy(files_max=3), "interval")[0] == "ABC"
    assert flush(waiting, FlushPolicy(files_max=2), "interval") == ("", waiting)
    assert flush(waiting, FlushPolicy(files_max=1), "all")[0] == "ABC"


def test_of_many_the_large_are_flushed() -> None:
    waiting = waiting_for({"A": 1, "B": 500, "C": 100})
    policy = FlushPolicy(files_max=1, partition_bytes=int(100 * waiting.nbytes / waiting.rows))
    names, rest = flush(waiting, policy, "interval")
    assert names == "BC"
    assert (rest.rows, rest.first_seq) == (1, 1)


def test_of_many_those_that_wait_for_long_are_flushed_and_then_wait_anew() -> None:
    policy = FlushPolicy(files_max=1, partition_seconds=60)
    waiting = waiting_for({"A": 1, "C": 1}, 1_000)
    waiting = waiting_for({"B": 1}, 1_030, waiting)
    assert flush(waiting, policy, "interval", 1_059)[0] == ""
    names, waiting = flush(waiting, policy, "interval", 1_060)
    assert names == "AC"
    waiting = waiting_for({"A": 1}, 1_080, waiting)
    names, waiting = flush(waiting, policy, "interval", 1_090)
    assert names == "B"
    assert flush(waiting, policy, "interval", 1_139)[0] == ""
    assert flush(waiting, policy, "interval", 1_140)[0] == "A"


def test_what_waits_is_the_same_however_it_came() -> None:
    waiting = Waiting(rows_of_sizes({"A": 1}).schema)
    for number in range(100):
        waiting = waiting_for({"AB"[number % 2]: number % 7 + 1}, number, waiting)
    assert sorted(waiting.table.column("symbol").to_pylist()) == sorted(
        symbol for n in range(100) for symbol in ["AB"[n % 2]] * (n % 7 + 1)
    )
    assert waiting.missing(EMPTY, 0).rows == waiting.rows


sizes = st.dictionaries(st.sampled_from("ABCDEFGH"), st.integers(1, 50), min_size=1)


@given(sizes=sizes, share=st.floats(0, 1.2))
def test_for_memory_the_largest_go_until_enough_is_free(sizes: dict[str, int], share: float) -> None:
    waiting = waiting_for(sizes)
    keep = int(waiting.nbytes * share)
    chosen, _ = flush(waiting, FlushPolicy(files_max=1), "memory", keep=keep)
    left = [count for symbol, count in sizes.items() if symbol not in chosen]
    assert sum(left) * waiting.nbytes / waiting.rows <= keep + 1
    assert chosen, "a full memory never flushes nothing"
    assert max(left, default=0) <= min(sizes[symbol] for symbol in chosen)
