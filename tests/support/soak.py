"""A server for a while under honest clients alone, and then for long under hostile ones too.

The rule of this file: what is compared was measured in the same run, on the same server, with the same honest clients;
what the server holds is what the operating system says.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from flight_here import trades
from pyarrow import flight
from soak_hostile import TOKEN as HOSTILE_TOKEN
from soak_hostile import attack, kinds
from system_processes import ServerProgram

import tickflight
from tickflight.wire.tickets import Query

_SPAWN = multiprocessing.get_context("spawn")
HONEST_TOKEN, FEED_TOKEN, OPERATOR_TOKEN = "token-of-ada", "token-of-feed", "token-of-op"
SETTINGS = {
    "AUTH__TOKENS": f'{{"ada": "{HONEST_TOKEN}", "feed": "{FEED_TOKEN}", "mallory": "{HOSTILE_TOKEN}", '
    f'"op": "{OPERATOR_TOKEN}"}}',
    "AUTH__ROLES": '{"op": ["admin"]}',
    "AUTH__USERS": '{"ada": "new-password"}',
    "FLIGHT__GREETING_S": "3",
    "FLIGHT__CALLS_PER_USER_MAX": "300",
    "FLIGHT__UNREAD_MB_MAX": "128",
    "QUERY__STATEMENT_TIMEOUT_S": "2",
    "QUERY__MEMORY_MB": "512",
    "LAKEHOUSE__RING_MB": "64",
    "LAKEHOUSE__FLUSH_INTERVAL_SECONDS": "10",
}
Ready = Callable[[], None]
ROWS, WRITES_PER_S = 200, 20
_TOLD = 200
ASKED_EVERY_S = 2.0  # by each honest reader, about
STATEMENTS = (
    "SELECT 1",
    "SELECT * FROM trades ORDER BY seq DESC LIMIT 10",
    "SELECT max(price), sum(amount) FROM trades WHERE timestamp > now() - INTERVAL 10 SECOND",
    "SELECT price FROM trades WHERE symbol = 'COIN3-USDT' AND timestamp > now() - INTERVAL 2 SECOND",
)


@dataclass
class Timed:
    """What one call took: when it began (seconds of the monotonic clock), its seconds, and whether it went well."""

    began: float
    seconds: float
    failure: str = ""

    @property
    def good(self) -> bool:
        return not self.failure


@dataclass
class Seen:
    """What the server held at one moment."""

    at: float
    rss_mb: float
    descriptors: int
    threads: int
    kinds: dict[str, int]
    """How many descriptors there are of sockets, of files by their suffix, and of others."""


@dataclass
class Outcome:
    """What a soak found; times in ms."""

    seconds: dict[str, float]
    ingest_ms: dict[str, dict[str, float]]
    honest_ms: dict[str, dict[str, float]]
    failed: dict[str, dict[str, int]]
    """How often what went wrong."""
    answered: dict[str, int]
    rows_kept: bool
    rss_mb: dict[str, float]
    before: Seen
    after: Seen
    attacks: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def soak(
    folder: Path, seed: int, *, clients: int, alone_s: float, attacked_s: float, settle_s: float = 30.0
) -> Outcome:
    """Run a server with ``clients``, a third of them hostile in the second phase; return what was found.

    What it holds afterwards is looked at when it holds no more than before, or after ``settle_s``.
    """
    hostile = kinds(clients // 3)
    readers = clients - len(hostile) - 1
    with _settings(), _server(folder) as server:
        port, pid = server.port, server.process.pid
        watch = _Watch(pid)
        with _child(write, server.address, seed) as feed, _child(read, server.address, seed, readers) as honest:
            time.sleep(max(ASKED_EVERY_S + 2, min(10.0, alone_s / 4)))  # all are connected, what is made once is there
            before = watch.look()
            began = time.monotonic()
            time.sleep(alone_s)
            turned = time.monotonic()
            with _child(attack_here, port, seed, hostile) as enemies:
                time.sleep(attacked_s)
                ended = time.monotonic()
                attacks: Counter[str] = enemies.stop()
            after = watch.settle(before, settle_s)
            watch.close()
            asked: list[Timed] = honest.stop()
            sent, written = feed.stop()
        with tickflight.connect(server.address, token=OPERATOR_TOKEN) as client:
            kept = client.sql("SELECT count(*) AS n FROM trades WHERE exchange = 'SOAK'").arrow().to_pylist()[0]["n"]
            metrics = {r["name"]: r["value"] for r in client.sql("SELECT * FROM system.metrics").arrow().to_pylist()}
    phases = {"alone": (began, turned), "attacked": (turned, ended)}
    return Outcome(
        seconds={name: end - start for name, (start, end) in phases.items()},
        ingest_ms={name: _percentiles(written, *span) for name, span in phases.items()},
        honest_ms={name: _percentiles(asked, *span) for name, span in phases.items()},
        failed={
            name: dict(Counter(t.failure for t in _within(asked + written, *span) if t.failure))
            for name, span in phases.items()
        },
        answered={name: sum(t.good for t in _within(asked + written, *span)) for name, span in phases.items()},
        rows_kept=kept == sent,
        rss_mb=_memory(watch.seen, turned, ended),
        before=before,
        after=after,
        attacks=dict(attacks),
        metrics={name: value for name, value in sorted(metrics.items()) if name.startswith(("conn", "calls", "log_c"))},
    )


def _within(times: Sequence[Timed], start: float, end: float) -> list[Timed]:
    return [t for t in times if start <= t.began < end]


def _percentiles(times: Sequence[Timed], start: float, end: float) -> dict[str, float]:
    found = sorted(t.seconds for t in _within(times, start, end) if t.good)
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: 1000 * found[min(len(found) - 1, int(share * len(found)))] for name, share in shares.items()}


def _memory(seen: Sequence[Seen], start: float, end: float) -> dict[str, float]:
    """Return the medians of the first and the last minute (or tenth), the slope in MiB a minute, and the peak."""
    held = [s for s in seen if start <= s.at < end]
    piece = min(60.0, (end - start) / 5)
    first = statistics.median(s.rss_mb for s in held if s.at < start + piece)
    last = statistics.median(s.rss_mb for s in held if s.at >= end - piece)
    later = [s for s in held if s.at >= start + (end - start) / 4]
    slope = statistics.linear_regression([s.at / 60 for s in later], [s.rss_mb for s in later]).slope
    return {"first": first, "last": last, "slope_per_min": slope, "peak": max(s.rss_mb for s in held)}


def _kind(descriptor: Path) -> str:
    try:
        name = str(descriptor.readlink())
    except OSError:
        return "gone"
    kind, colon, _ = name.partition(":")
    return kind if colon else Path(name).suffix or "other"


class _Watch:
    """Looks at a process every half second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.seen: list[Seen] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def look(self) -> Seen:
        place = Path(f"/proc/{self._pid}")
        pages = int((place / "statm").read_text().split()[1])
        found = Seen(
            time.monotonic(),
            pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            len(list((place / "fd").iterdir())),
            len(list((place / "task").iterdir())),
            dict(Counter(map(_kind, (place / "fd").iterdir()))),
        )
        self.seen.append(found)
        return found

    def settle(self, before: Seen, most_s: float) -> Seen:
        """Return what the process holds when it holds no more descriptors and threads than before, or after a time."""
        end = time.monotonic() + most_s
        while True:
            found = self.look()
            few = found.descriptors <= before.descriptors + 8 and found.threads <= before.threads + 16
            if few or time.monotonic() > end:
                return found
            time.sleep(0.5)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            with suppress(OSError):
                self.look()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


# --- the clients, each in a process of its own


def write(stop: threading.Event, ready: Ready, address: str, seed: int) -> tuple[int, list[Timed]]:
    """Write at a steady pace; return the rows that were acknowledged, and what each batch waited for that."""
    found: list[Timed] = []
    rows = 0
    batches = [trades(ROWS, f"COIN{i}-USDT", exchange="SOAK") for i in range(10)]
    place = batches[0].schema.get_field_index("timestamp")
    steps = np.arange(ROWS) * (1_000_000 // WRITES_PER_S // ROWS)
    with tickflight.connect(address, token=FEED_TOKEN) as client, client.writer("trades") as writer:
        began, number = time.monotonic(), 0
        while not stop.is_set():
            due = began + number / WRITES_PER_S
            stop.wait(max(0.0, due - time.monotonic()))
            now = pa.array(time.time_ns() // 1000 + steps).cast(pa.timestamp("us"))
            batch = batches[number % len(batches)].set_column(place, "timestamp", now)
            start = time.monotonic()
            ack = writer.write(batch).result(60)
            found.append(Timed(start, time.monotonic() - start))
            if not number:
                ready()
            rows += ack.rows
            number += 1
    return rows, found


def read(stop: threading.Event, ready: Ready, address: str, seed: int, count: int) -> list[Timed]:
    """Be so many honest clients, each with a connection of its own, that ask now and then."""
    found: list[Timed] = []
    options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + HONEST_TOKEN.encode())], timeout=30)

    def run(number: int) -> None:
        pick = random.Random(f"{seed}/honest/{number}")
        with flight.FlightClient(address, generic_options=[("grpc.use_local_subchannel_pool", 1)]) as client:
            stop.wait(pick.uniform(0, ASKED_EVERY_S))
            while not stop.is_set():
                start, failure, sql = time.monotonic(), "", pick.choice(STATEMENTS)
                try:
                    # not read_all: what is cancelled in it interrupts the main thread, whichever thread it is in
                    for _ in client.do_get(flight.Ticket(Query(sql).serialize()), options):
                        pass
                except Exception as error:
                    failure = f"{type(error).__name__}: {str(error)[:_TOLD]} ({sql})"
                found.append(Timed(start, time.monotonic() - start, failure))
                stop.wait(pick.uniform(0.5, 1.5) * ASKED_EVERY_S)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    ready()
    for thread in threads:
        thread.join()
    return found


def attack_here(stop: threading.Event, ready: Ready, port: int, seed: int, names: list[str]) -> Counter[str]:
    """Be the hostile clients; they would have machines of their own, so they yield this one's cores to the server."""
    os.nice(10)
    ready()
    return attack(port, seed, names, stop)


class _Child:
    def __init__(self, work: Any, arguments: tuple[object, ...]) -> None:
        self._mine, its = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_be, args=(its, work, arguments), daemon=True)
        self._process.start()
        its.close()
        if not self._mine.poll(90):
            raise TimeoutError("a process of clients did not begin")
        self._mine.recv()

    def stop(self) -> Any:
        """Ask the process to end; return what it found."""
        self._mine.send(None)
        if not self._process.is_alive() or not self._mine.poll(90):
            raise TimeoutError(f"a process of clients did not end well: {self._process.exitcode}")
        found = self._mine.recv()
        self._process.join(10)
        return found

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def _child(work: Any, *arguments: object) -> Iterator[_Child]:
    child = _Child(work, arguments)
    try:
        yield child
    finally:
        child.kill()


def _be(pipe: Any, work: Any, arguments: tuple[object, ...]) -> None:
    stop = threading.Event()

    def wait() -> None:
        with suppress(EOFError):
            pipe.recv()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    pipe.send(work(stop, lambda: pipe.send(None), *arguments))


@contextmanager
def _settings(settings: Mapping[str, str] = SETTINGS) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.update({f"TICKFLIGHT_{name}": value for name, value in settings.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def _server(folder: Path) -> Iterator[ServerProgram]:
    server = ServerProgram(folder)
    try:
        yield server
        assert server.process.poll() is None, f"the server ended: {server.log.read_text()[-3000:]}"
    finally:
        server.stop()
