"""The newest rows as channels give them: whoever goes from piece to piece has each row once, however slow or late."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stopped_clock import StoppedClock
from store_parts import number_rows

from tickflight_server.config import QuerySettings
from tickflight_server.query.engine import Engine
from tickflight_server.query.fresh import Channel, Channels, Sieve, take
from tickflight_server.query.selection import check
from tickflight_server.query.tails import Tails, Wanted
from tickflight_server.store import Segment, Store, Table
from tickflight_server.store.ring import make_segment

START_US = 1_790_000_000_000_000
MIB = 1 << 20
SEQ = pa.schema([("seq", pa.int64())])


def rows(count: int, *, text: int = 0, symbols: Sequence[str] = ("A",), rng: random.Random | None = None) -> Any:
    """Return a producer's trades; ``text`` is how long their ids are; 0 is none."""
    rng = rng or random.Random(count)
    return pa.record_batch(
        {
            "exchange": [rng.choice(["X", "Y"]) for _ in range(count)],
            "symbol": [rng.choice(symbols) for _ in range(count)],
            "price": [float(rng.randrange(50)) for _ in range(count)],
            "amount": [1.0] * count,
            "id": pa.array(["x" * text or None] * count, pa.string()),
            "timestamp": pa.array([START_US + rng.randrange(1000) for _ in range(count)]).cast(pa.timestamp("us")),
        }
    )


def segments(*counts: int, first: int = 1, **more: Any) -> tuple[Segment, ...]:
    made = []
    for count in counts:
        made.append(make_segment(number_rows(rows(count, **more), first)))
        first += count
    return tuple(made)


def seqs(taken: list[tuple[Segment, pa.RecordBatch]]) -> list[int]:
    return [seq for _, batch in taken for seq in batch.column("seq").to_pylist()]


# --- take


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 80), st.integers(0, 80), st.integers(1, 3000)
)
def test_slices_are_the_rows_that_follow_without_a_hole(counts: list[int], after: int, more: int, size: int) -> None:
    dense = segments(*counts)
    last = dense[-1].last_seq
    after = min(after, last - 1)
    upto = min(after + 1 + more, last)
    taken = take(dense, after, upto, size)
    found = seqs(taken)
    assert found == list(range(after + 1, after + 1 + len(found)))
    assert 1 <= len(found) <= upto - after
    for segment, batch in taken:
        assert segment.batch.slice(batch.column("seq")[0].as_py() - segment.first_seq, batch.num_rows) == batch


def test_a_piece_has_about_the_bytes_that_it_is_to_have_and_at_most_65536_rows() -> None:
    dense = segments(*[1000] * 100)
    row = dense[0].nbytes // 1000
    assert len(seqs(take(dense, 500, 100_000, 2000 * row))) == pytest.approx(2000, rel=0.1)
    assert len(seqs(take(dense, 500, 100_000, 1 << 40))) == 65_536
    assert seqs(take(dense, 500, 502, 1 << 40)) == [501, 502]
    assert seqs(take(dense, 99_999, 100_000, 1)) == [100_000]


def test_a_row_comes_whatever_its_length_and_long_rows_come_few_at_a_time() -> None:
    numbers = number_rows(pa.concat_batches([rows(900), rows(100, text=10_000)]))
    segment = make_segment(numbers)
    short = seqs(take([segment], 0, 1000, 200_000))
    long = take([segment], 900, 1000, 200_000)
    assert len(short) > 100
    assert 1 <= len(seqs(long)) <= 40
    assert long[0][1].nbytes <= 2 * 200_000
    assert len(seqs(take([segment], 900, 1000, 100))) == 1


# --- a sieve


@pytest.mark.parametrize("seed", range(6))
def test_sieve_lets_through_what_a_query_does(seed: int, store: Store, engine: Engine, clock: StoppedClock) -> None:
    rng = random.Random(seed)
    for _ in range(4):
        store.append("trades", rows(rng.randrange(1, 300), symbols="ABCD", rng=rng)).result()
    choice = check(
        engine,
        "trades",
        rng.choice([(), ("X",), ("Y", "nowhere")]),
        rng.choice([(), ("A",), ("B", "D"), ("nothing",)]),
        rng.choice([(), ("seq", "price"), ("symbol", "timestamp", "seq")]),
        rng.choice(["", "price > 20", "price % 3 = 0 OR symbol LIKE 'A%'"]),
    )
    since_us = rng.choice([None, START_US + 500])
    tails = Tails(engine, QuerySettings(), clock)
    state = store.tables["trades"].state
    with tails._sieve(Wanted(choice, since_us=since_us)) as sieve:
        found = sieve(take(state.segments, 0, state.last_seq, MIB))
    since = () if since_us is None else (f"epoch_us(timestamp) >= {since_us}",)
    sql = choice.select(", ".join(choice.columns), *since, then="ORDER BY seq")
    with engine.execute(engine.plan(sql, choice.parameters())) as execution:
        expected = execution.reader.read_all()
    assert found.schema == expected.schema == sieve.schema
    assert pa.Table.from_batches([found]) == expected.combine_chunks()


def test_labels_come_as_text_also_when_nothing_does() -> None:
    (segment,) = segments(10)
    schema = pa.schema([("symbol", pa.string()), ("exchange", pa.string())])
    every = Sieve(schema)([(segment, segment.batch)])
    assert every.schema == schema
    assert every.column("symbol").to_pylist() == ["A"] * 10
    nothing = Sieve(schema, symbols=frozenset(["B"]))([(segment, segment.batch)])
    assert (nothing.schema, nothing.num_rows) == (schema, 0)


# --- a channel


class Memory:
    """A table's newest rows, as a channel sees them."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(segments=(), ring_from=0, last_seq=0)

    def add(self, count: int) -> None:
        made = segments(count, first=self.state.last_seq + 1)
        self.state = SimpleNamespace(
            segments=self.state.segments + made, ring_from=self.state.ring_from, last_seq=made[-1].last_seq
        )

    def release(self) -> None:
        first, *others = self.state.segments
        self.state = SimpleNamespace(
            segments=tuple(others), ring_from=first.last_seq, last_seq=max(self.state.last_seq, first.last_seq)
        )


class Counted:
    """A sieve that counts what it is asked."""

    schema = SEQ

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, taken: list[tuple[Segment, pa.RecordBatch]]) -> pa.RecordBatch:
        self.calls.append(seqs(taken))
        return pa.record_batch([pa.array(self.calls[-1], pa.int64())], schema=SEQ)


def channel_of(
    memory: Memory, sieve: Any, *, piece_bytes: int = 1000, kept_bytes: int = MIB, clock: Any = None
) -> Channel:
    table = cast(Table, memory)
    return Channel(table, sieve, clock or StoppedClock(), piece_bytes=piece_bytes, kept_bytes=kept_bytes)


@given(st.integers(0, 2**32), st.sampled_from([1, 400, 3000]), st.sampled_from([1, 200, MIB]))
def test_readers_at_any_pace_get_each_row_once(seed: int, piece_bytes: int, kept_bytes: int) -> None:
    rng, memory, sieve = random.Random(seed), Memory(), Counted()
    channel = channel_of(memory, sieve, piece_bytes=piece_bytes, kept_bytes=kept_bytes)
    readers: list[tuple[Any, int, list[int]]] = []
    for _ in range(rng.randrange(5, 80)):
        kind = rng.random()
        if kind < 0.25 or not memory.state.last_seq:
            memory.add(rng.randrange(1, 20))
        elif kind < 0.35:
            start = rng.randint(memory.state.ring_from, memory.state.last_seq)
            readers.append((channel.join(start), start, []))
        elif kind < 0.4 and len(memory.state.segments) > 1:
            memory.release()
        elif kind < 0.45 and readers:
            channel.leave(readers.pop(rng.randrange(len(readers)))[0])
        elif readers:
            step(channel, memory, rng.choice(readers))
        assert sum(p.batch.nbytes for p in channel._pieces.values()) <= kept_bytes
        slowest = min((r.seq for r, _, _ in readers), default=None)
        assert slowest is not None or not channel._pieces
    for one in readers:
        while step(channel, memory, one):
            pass
        reader, start, got = one
        assert got == list(range(start + 1, memory.state.last_seq + 1))
        assert reader.seq == memory.state.last_seq
    for reader, _, _ in readers:
        channel.leave(reader)
    assert not channel._pieces


def step(channel: Channel, memory: Memory, one: tuple[Any, int, list[int]]) -> bool:
    reader, _, got = one
    piece = channel.next(reader)
    if piece is None:
        if reader.seq >= memory.state.ring_from:
            assert reader.seq == memory.state.last_seq
            return False
        # what memory has let go of is read from parts
        got += range(reader.seq + 1, memory.state.ring_from + 1)
        reader.seq = memory.state.ring_from
        return True
    assert piece.seq > reader.seq
    got += piece.batch.column("seq").to_pylist()
    reader.seq = piece.seq
    return True


def test_readers_who_keep_up_share_each_piece_and_it_is_let_go_of_after_the_last() -> None:
    memory, sieve = Memory(), Counted()
    channel = channel_of(memory, sieve)
    readers = [channel.join(0) for _ in range(10)]
    for number in range(1, 6):
        memory.add(5)
        pieces = []
        for reader in readers:
            piece = channel.next(reader)
            assert piece is not None
            pieces.append(piece)
            reader.seq = piece.seq
        assert all(piece is pieces[0] for piece in pieces)
        assert len(sieve.calls) == number
    assert len(channel._pieces) == 1, "the newest stays until the next is made"


def test_a_late_reader_comes_to_share_again() -> None:
    memory, sieve = Memory(), Counted()
    channel = channel_of(memory, sieve, piece_bytes=MIB)
    memory.add(10)
    fast, _ = channel.join(10), channel.join(0)
    memory.add(5)
    piece = channel.next(fast)
    late = channel.join(0)
    first = channel.next(late)
    assert first is not None
    assert first.seq == 10, "it ends where the kept piece begins"
    late.seq = first.seq
    assert channel.next(late) is piece


def test_one_reader_alone_keeps_nothing() -> None:
    memory, sieve = Memory(), Counted()
    channel = channel_of(memory, sieve)
    reader = channel.join(0)
    memory.add(5)
    assert channel.next(reader) is not None
    assert not channel._pieces
    channel.leave(reader)


def test_what_is_kept_for_a_reader_that_does_not_read_is_bounded() -> None:
    memory, sieve = Memory(), Counted()
    channel = channel_of(memory, sieve, kept_bytes=1000)
    slow, fast = channel.join(0), channel.join(0)
    for _ in range(100):
        memory.add(10)  # of 8 bytes each
        piece = channel.next(fast)
        assert piece is not None
        fast.seq = piece.seq
        assert sum(p.batch.nbytes for p in channel._pieces.values()) <= 1000
    assert len(channel._pieces) == 12
    got: list[int] = []
    while step(channel, memory, (slow, 0, got)):
        pass
    assert got == list(range(1, 1001))


def test_many_who_ask_at_once_are_given_one_piece() -> None:
    memory, sieve = Memory(), Counted()
    channel = channel_of(memory, sieve)
    memory.add(5)
    readers = [channel.join(0) for _ in range(8)]
    gate = threading.Barrier(len(readers))
    found: list[Any] = []

    def ask(reader: Any) -> None:
        gate.wait()
        found.append(channel.next(reader))

    threads = [threading.Thread(target=ask, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(piece) for piece in found}) == 1
    assert len(sieve.calls) == 1


def test_new_rows_are_taken_at_intervals_and_what_is_there_at_once() -> None:
    clock = StoppedClock()
    memory, sieve = Memory(), Counted()
    channel = channel_of(memory, sieve, clock=clock)
    channel.interval_s = 0.5
    reader, other = channel.join(0), channel.join(0)
    memory.add(5)
    assert channel.due_s(reader) == 0.0
    piece = channel.next(reader)
    assert piece is not None
    reader.seq = piece.seq
    memory.add(5)
    assert channel.due_s(other) == 0.0, "its piece is there"
    assert channel.due_s(reader) == pytest.approx(0.5)
    clock.us += 200_000
    assert channel.due_s(reader) == pytest.approx(0.3)
    clock.us += 300_000
    assert channel.due_s(reader) == 0.0


# --- channels


class Opened:
    """Makes sieves, and knows which of them are open."""

    def __init__(self) -> None:
        self.made = 0
        self.open = 0

    @contextmanager
    def __call__(self) -> Iterator[Sieve]:
        self.made += 1
        self.open += 1
        yield cast(Sieve, Counted())
        self.open -= 1


def test_like_tails_share_a_channel_and_the_last_one_closes_it() -> None:
    channels, opened, table = Channels(StoppedClock()), Opened(), cast(Table, Memory())
    first = channels.enter("a", table, opened)
    assert channels.enter("a", table, opened) is first
    other = channels.enter("b", table, opened)
    assert other is not first
    assert (len(channels), opened.made, opened.open) == (2, 2, 2)
    channels.leave("a")
    assert (len(channels), opened.open) == (2, 2)
    channels.leave("a")
    assert (len(channels), opened.open) == (1, 1)
    assert channels.enter("a", table, opened) is not first
    channels.leave("a")
    channels.leave("b")
    assert (len(channels), opened.open) == (0, 0)


def test_a_channel_that_cannot_be_made_is_not_there() -> None:
    channels, table = Channels(StoppedClock()), cast(Table, Memory())

    @contextmanager
    def broken() -> Iterator[Sieve]:
        raise ValueError("broken")
        yield

    with pytest.raises(ValueError, match="broken"):
        channels.enter("a", table, broken)
    assert len(channels) == 0


def test_pieces_come_the_more_seldom_the_more_readers_there_are() -> None:
    channels, table = Channels(StoppedClock(), batches_per_s=100), cast(Table, Memory())
    make: Callable[[], Any] = Opened()
    first = channels.enter("a", table, make)
    assert first.interval_s == pytest.approx(0.01)
    for _ in range(8):
        channels.enter("a", table, make)
    other = channels.enter("b", table, make)
    assert first.interval_s == other.interval_s == pytest.approx(0.1)
    for _ in range(8):
        channels.leave("a")
    assert first.interval_s == other.interval_s == pytest.approx(0.02)


def test_rows_of_a_real_table_are_those_that_were_stored(store: Store) -> None:
    table = store.tables["trades"]
    channel = Channel(table, Sieve(SEQ), StoppedClock(), piece_bytes=5000, kept_bytes=MIB)
    reader = channel.join(0)
    for _ in range(5):
        store.append("trades", rows(100)).result()
    got: list[int] = []
    while (piece := channel.next(reader)) is not None:
        got += piece.batch.column("seq").to_pylist()
        reader.seq = piece.seq
    assert got == list(range(1, 501))
