"""What waits for a flush, and which partitions it writes: all of few; of many the large and the old."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from store_parts import TRADES, make_part, number_rows

from tickflight_server.store.flushing import FlushPolicy, Reason, Waiting
from tickflight_server.store.parts import EMPTY, PartIndex, make_index

SCHEMA = TRADES.arrow(memory=True)


def make(symbols: str, first_seq: int = 1) -> pa.RecordBatch:
    """Return a row of each of these symbols."""
    times = pa.array([0] * len(symbols), pa.timestamp("us"))
    columns = {"exchange": ["X"] * len(symbols), "symbol": list(symbols), "timestamp": times}
    return number_rows(pa.record_batch(columns), first_seq)


def waiting_for(symbols: str, now_s: float = 0.0) -> Waiting:
    return Waiting(SCHEMA).added([make(symbols)], EMPTY, now_s)


def chosen(
    waiting: Waiting, reason: Reason, now_s: float = 0.0, keep_bytes: int = 0, **policy: float
) -> tuple[str, Waiting]:
    """Return the symbols that are flushed, and what waits then."""
    rows, rest = waiting.split(waiting.choose(FlushPolicy(**policy), reason, now_s, keep_bytes))
    assert rows.num_rows + rest.rows == waiting.rows
    return "".join(sorted(set(rows["symbol"].to_pylist()))), rest


def test_few_partitions_are_all_flushed_by_time_and_any_number_on_demand() -> None:
    waiting = waiting_for("ABC")
    assert chosen(waiting, "interval", files_max=3)[0] == "ABC"
    assert chosen(waiting, "interval", files_max=2)[0] == ""
    assert chosen(waiting, "all", files_max=1)[0] == "ABC"
    assert chosen(Waiting(SCHEMA), "all")[0] == ""


def test_of_many_the_large_are_flushed() -> None:
    waiting = waiting_for("A" + "B" * 500 + "C" * 100)
    a_row = waiting.nbytes / waiting.rows
    found, rest = chosen(waiting, "interval", files_max=1, partition_bytes=int(100 * a_row))
    assert (found, rest.rows, rest.first_seq) == ("BC", 1, 1)


def test_of_many_those_that_wait_for_long_are_flushed_and_then_wait_anew() -> None:
    def look(waiting: Waiting, now_s: float) -> tuple[str, Waiting]:
        return chosen(waiting, "interval", now_s, files_max=1, partition_seconds=60)

    waiting = waiting_for("AC", 1_000).added([make("AB", 3)], EMPTY, 1_030)
    assert look(waiting, 1_059)[0] == ""
    found, waiting = look(waiting, 1_060)
    assert (found, waiting.first_seq) == ("AC", 4)
    waiting = waiting.added([make("AC", 5)], EMPTY, 1_060)
    found, waiting = look(waiting, 1_090)
    assert found == "B"
    assert look(waiting, 1_119)[0] == ""
    assert look(waiting, 1_120)[0] == "AC"


sizes = st.dictionaries(st.sampled_from("ABCDEFGH"), st.integers(1, 50), min_size=1)


@given(sizes=sizes, share=st.floats(0, 1.2))
def test_for_memory_the_largest_go_until_enough_is_free(sizes: dict[str, int], share: float) -> None:
    waiting = waiting_for("".join(symbol * count for symbol, count in sizes.items()))
    keep = int(waiting.nbytes * share)
    found, rest = chosen(waiting, "memory", keep_bytes=keep, files_max=1)
    assert found, "a full memory never flushes nothing"
    a_row = waiting.nbytes / waiting.rows
    assert rest.rows * a_row <= keep + 1
    least = min(sizes[symbol] for symbol in found)
    assert max((count for symbol, count in sizes.items() if symbol not in found), default=0) <= least
    assert len(found) == 1 or (rest.rows + least) * a_row > keep - 1, "no more than needed is flushed"


steps = st.lists(
    st.tuples(st.text("ABCDE", max_size=30), st.sampled_from(["interval", "memory", "all"]), st.integers(0, 5)),
    max_size=60,
)


@given(steps=steps)
def test_each_row_waits_until_it_is_flushed_whatever_came_before(steps: list[tuple[str, Reason, int]]) -> None:
    """A partition is flushed as a whole, and waits since its oldest row came."""
    waiting, model, since, seq = Waiting(SCHEMA), {}, {}, 1
    for now_s, (symbols, reason, files_max) in enumerate(steps):
        batches = [make(symbols[i : i + 7], seq + i) for i in range(0, len(symbols), 7)]
        before, waiting = waiting, waiting.added(batches, EMPTY, now_s)
        assert before.rows == len(model)
        model |= {seq + i: symbol for i, symbol in enumerate(symbols)}
        for symbol in symbols:
            since.setdefault(symbol, now_s)
        seq += len(symbols)
        keep = waiting.nbytes // 2
        found, rest = chosen(waiting, reason, now_s, keep, files_max=files_max + 1, partition_seconds=20)
        if reason == "all" or (reason == "interval" and len(since) <= files_max + 1):
            assert set(found) == set(since)
        old = {symbol for symbol, at in since.items() if now_s - at >= 20}
        assert old <= set(found)
        assert reason != "interval" or set(found) in (old, set(since))
        waiting = rest
        model = {n: symbol for n, symbol in model.items() if symbol not in found}
        since = {symbol: at for symbol, at in since.items() if symbol not in found}
        table = waiting.table
        assert sorted(zip(table["seq"].to_pylist(), table["symbol"].to_pylist(), strict=True)) == sorted(model.items())
        assert (waiting.rows, waiting.first_seq) == (len(model), min(model, default=None))
        assert waiting.nbytes == sum(b.nbytes for b in table.to_batches())
        assert len(table.to_batches()) <= 32


def test_many_small_batches_become_few_chunks() -> None:
    waiting = Waiting(SCHEMA)
    for seq in range(1, 1_000):
        waiting = waiting.added([make("A", seq)], EMPTY, 0.0)
    assert waiting.table["seq"].num_chunks <= 32
    assert Counter(waiting.table["seq"].to_pylist()) == Counter(range(1, 1_000))


def test_rows_that_parts_hold_wait_no_longer() -> None:
    waiting = waiting_for("ABAB")
    index: PartIndex = make_index([make_part(1, 1, last=2, symbol="A")])
    missing = waiting.missing(index, 5.0)
    assert sorted(missing.table["seq"].to_pylist()) == [2, 3, 4]
    assert chosen(missing, "interval", 15.0, files_max=1, partition_seconds=10)[0] == "AB"


def test_a_full_buffer_flushes_all_of_few_partitions_and_the_largest_of_many() -> None:
    waiting = waiting_for("A" + "B" * 50 + "C" * 10)
    assert chosen(waiting, "buffer", files_max=3)[0] == "ABC"
    assert chosen(waiting, "buffer", files_max=2, keep_bytes=waiting.nbytes // 2)[0] == "B"
