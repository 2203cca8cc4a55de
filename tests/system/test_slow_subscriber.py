"""A subscriber that does not read costs others nothing, and the server only what it may: it ends, or is told.

The rule of this file: with and without the slow ones is measured in one run, in turns, and medians are compared.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import flight
from system_processes import ServerProgram, wait_for

import tickflight
from tickflight.wire.streams import Selection, Tail, TailMark

LAKEHOUSE = {"ring_mb": 16, "buffer_size_mb": 4, "flush_interval_seconds": 0.5, "compact_share": 0}
QUERY = {"tail_shared_mb": 4, "heartbeat_s": 0.5, "batch_bytes": 65_536}
LAG_ROWS_MAX = 20_000
ROWS = 200
EVERY_S = 0.02  # 10,000 rows a second
TURN_S = 1.5
TURNS = 3
BEFORE_ROWS = 300_000
UNREAD_ROWS = 900_000  # of 400 bytes
SPARE_MB = 120  # what a flush takes for a moment
# an allocator that gives back what it does not need, so that what is resident is what is held
ALLOCATOR = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
MIB = 1 << 20


@pytest.fixture
def server(
    tmp_path: Path, start_server: Callable[..., ServerProgram], monkeypatch: pytest.MonkeyPatch
) -> ServerProgram:
    for name, value in ALLOCATOR.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"lakehouse": LAKEHOUSE, "query": QUERY}))
    return start_server("--config", str(config))


def trades(rows: int) -> pa.RecordBatch:
    now = time.time_ns() // 1000
    return pa.RecordBatch.from_pydict(
        {
            "exchange": ["X"] * rows,
            "symbol": ["A"] * rows,
            "price": [1.0] * rows,
            "amount": [1.0] * rows,
            "timestamp": pa.array([now] * rows, pa.timestamp("us")),
        }
    )


def books(rows: int) -> pa.RecordBatch:
    """Return books of ten levels a side, of which no two are alike."""
    side = pa.FixedSizeListArray.from_arrays(pa.array(np.random.random(rows * 10)), 10).cast(pa.list_(pa.float64()))
    columns = dict.fromkeys(("bid_prices", "bid_sizes", "ask_prices", "ask_sizes"), side)
    return pa.RecordBatch.from_pydict(
        {**trades(rows).select(["exchange", "symbol", "timestamp"]).to_pydict(), **columns}
    )


@dataclass
class Turn:
    """What was measured while a writer wrote at a fixed rate and a reader followed, in seconds."""

    acknowledged: list[float] = field(default_factory=list)
    received: list[float] = field(default_factory=list)

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.acknowledged), statistics.median(self.received)


class Follower:
    """A reader that keeps up, in a thread of its own."""

    def __init__(self, client: tickflight.Client) -> None:
        self._tail = client.tail("trades", columns=["seq"])
        self.turn = Turn()
        self.seqs: list[int] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for one in self._tail:
            self.turn.received.append(time.time_ns() / 1e9 - self._tail.durable_us / 1e6)
            self.seqs += one.column("seq").to_pylist()

    def close(self) -> None:
        self._tail.close()
        self._thread.join()


@contextmanager
def unread(server: ServerProgram, on_lag: str, table: str = "trades") -> Iterator[flight.FlightStreamReader]:
    """Open a tail of whole rows that nobody reads on."""
    with flight.FlightClient(server.address) as client:
        request = Tail(Selection(table), after_seq=0, on_lag=on_lag, lag_rows_max=LAG_ROWS_MAX)
        stream = client.do_get(flight.Ticket(request.serialize()))
        stream.read_chunk()
        yield stream
        stream.cancel()


def write_at_a_rate(client: tickflight.Client, seconds: float, turn: Turn) -> None:
    """Send rows at a fixed rate, one batch at a time, each until it is acknowledged."""
    end = time.monotonic() + seconds
    due = time.monotonic()
    with client.writer("trades") as writer:
        while time.monotonic() < end:
            time.sleep(max(0.0, due - time.monotonic()))
            due += EVERY_S
            began = time.monotonic()
            writer.write(trades(ROWS))
            writer.flush()
            turn.acknowledged.append(time.monotonic() - began)


def metric(server: ServerProgram, name: str) -> float:
    rows = server.query(f"SELECT value FROM system.metrics WHERE name = '{name}'")
    return float(rows[0]["value"]) if rows else 0.0


def until_the_network_is_full(server: ServerProgram) -> None:
    """Wait until nothing is sent any more."""
    before = -1.0
    while before != (before := metric(server, "tail_rows")):
        time.sleep(0.5)


def rss_mb(server: ServerProgram) -> float:
    """Return the least resident memory of a second: a flush takes more for a moment."""
    found = []
    for _ in range(10):
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        found.append(int(line.split()[1]) / 1024)
        time.sleep(0.1)
    return min(found)


def write_all(client: tickflight.Client, table: str, rows: int) -> None:
    one = {"trades": trades, "l2_book": books}[table](2000)
    with client.writer(table) as writer:
        for _ in range(rows // 2000):
            writer.write(one)


def to_its_end(stream: flight.FlightStreamReader) -> Iterator[tuple[list[int], TailMark]]:
    while True:
        chunk = stream.read_chunk()
        yield chunk.data.column("seq").to_pylist(), TailMark.parse(chunk.app_metadata.to_pybytes())


def note(stream: flight.FlightStreamReader, got: list[int], marks: list[TailMark]) -> None:
    for seqs, mark in to_its_end(stream):
        got += seqs
        marks.append(mark)


def until(stream: flight.FlightStreamReader, newest: int) -> Iterator[list[int]]:
    for seqs, mark in to_its_end(stream):
        yield seqs
        if mark.seq == newest:
            return


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_slow_subscriber_slows_neither_ingest_nor_another(
    server: ServerProgram, record_property: Callable[[str, Any], None]
) -> None:
    alone, beside = Turn(), Turn()
    with tickflight.connect(server.address) as client, tickflight.connect(server.address) as readers:
        write_all(client, "trades", 200_000)  # more than the network takes of the slow ones' history
        follower = Follower(readers)
        write_at_a_rate(client, 0.5, Turn())  # warm
        for _ in range(TURNS):
            follower.turn = alone
            write_at_a_rate(client, TURN_S, alone)
            with ExitStack() as slow:
                for on_lag in ("end", "skip", "end", "skip"):
                    slow.enter_context(unread(server, on_lag))
                follower.turn = beside
                write_at_a_rate(client, TURN_S, beside)
                assert metric(server, "tails") - metric(server, "tails_ended") == 5, "all are open"
        newest = server.query("SELECT max(seq) AS n FROM trades")[0]["n"]
        wait_for(lambda: follower.seqs and follower.seqs[-1] == newest, "the follower has all")
        follower.close()
    assert follower.seqs == list(range(200_001, newest + 1))
    (ack_alone, seen_alone), (ack_beside, seen_beside) = alone.medians(), beside.medians()
    told = {"acknowledged ms": (ack_alone, ack_beside), "received ms": (seen_alone, seen_beside)}
    print({k: tuple(round(1e3 * v, 2) for v in values) for k, values in told.items()})
    record_property("slow subscriber", told)
    assert ack_beside < 3 * ack_alone + 0.005
    assert seen_beside < 3 * seen_alone + 0.005


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_that_are_not_read_cost_no_memory_and_their_reader_is_told(
    server: ServerProgram, record_property: Callable[[str, Any], None]
) -> None:
    with (
        ExitStack() as open_ones,
        tickflight.connect(server.address) as client,
        unread(server, "end", "l2_book") as ending,
        unread(server, "skip", "l2_book") as skipping,
    ):
        write_all(client, "l2_book", BEFORE_ROWS)
        open_ones.enter_context(unread(server, "end", "l2_book"))  # and one in the middle of what is stored
        until_the_network_is_full(server)
        before, sent = rss_mb(server), metric(server, "tail_rows")
        write_all(client, "l2_book", UNREAD_ROWS)
        after = rss_mb(server)
        assert metric(server, "tail_rows") - sent < UNREAD_ROWS / 20, "nothing is sent to who does not read"
        unread_mb = UNREAD_ROWS * books(1000).nbytes / 1000 / MIB
        print(f"RSS {before:.0f} MiB, {after:.0f} MiB after {unread_mb:.0f} MiB of rows that three did not read")
        record_property("slow subscriber memory", {"before": before, "after": after, "unread": unread_mb})
        assert after - before < LAKEHOUSE["ring_mb"] + QUERY["tail_shared_mb"] + SPARE_MB < unread_mb / 2
        newest = BEFORE_ROWS + UNREAD_ROWS
        got: list[int] = []
        marks: list[TailMark] = []
        with pytest.raises(
            flight.FlightUnavailableError, match=r"rows behind, 20000 are allowed; it has all up to seq"
        ):
            note(ending, got, marks)
        assert got == list(range(1, got[-1] + 1))
        assert (marks[-1].ended, marks[-1].seq) == ("lag", got[-1])
        assert got[-1] < newest - LAG_ROWS_MAX
        resumed = Tail(Selection("l2_book", columns=("seq",)), resume=marks[-1].resume)
        again: list[int] = []
        with flight.FlightClient(server.address) as other:
            for seqs in until(other.do_get(flight.Ticket(resumed.serialize())), newest):
                again += seqs
        assert again == list(range(got[-1] + 1, newest + 1))
        skipped = 0
        got = []
        for seqs, mark in to_its_end(skipping):
            if mark.skipped_last:
                assert (mark.skipped_first, mark.skipped_why) == (got[-1] + 1, "lag")
                skipped += mark.skipped_last - mark.skipped_first + 1
                got += range(mark.skipped_first, mark.skipped_last + 1)
            got += seqs
            if mark.seq == newest:
                break
        assert got == list(range(1, newest + 1))
        assert skipped == metric(server, "tail_rows_skipped") > UNREAD_ROWS / 2


@pytest.mark.timeout(120)
def test_a_subscriber_that_does_not_read_does_not_keep_the_server_from_stopping(server: ServerProgram) -> None:
    with tickflight.connect(server.address) as client:
        write_all(client, "trades", 200_000)
    with unread(server, "end"):
        until_the_network_is_full(server)
        assert metric(server, "tail_rows") < 200_000
        began = time.monotonic()
        assert server.stop() == 0  # what cannot be told to end is cut after a while
        print(f"stopped in {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 30
