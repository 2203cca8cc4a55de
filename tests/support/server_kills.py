"""Real servers killed -9 under load: collectors that send again, and moments that a seed chooses.

The rule of this file: a kill is SIGKILL to a real server process. Moments of a kind are exact: the disk shim kills at
the chosen operation. The others are so many milliseconds after the start; both come from the seed.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
from crash_batches import TABLES, Acked, Ledger, Sent, rows_of
from crash_check import as_in_parts, check_rows
from disk_shim import Action, Control, Kind, shim_environment
from ports import free_port
from pyarrow import flight
from system_processes import DEADLINE_S, wait_for

import tickflight
from tickflight import writer as writer_module
from tickflight_server.schemas import STORED

# collectors find a new server soon: many of these live for less than a second
_BACKOFF_S = (0.02, 0.1)
_CHANNEL = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]
_OUTSTANDING_MAX = 40


@dataclass(frozen=True)
class Moment:
    """When a server dies: at an operation of the disk, or after a time; and whether it is asked to stop before."""

    name: str
    kinds: tuple[Kind, ...] = ()
    pattern: str = ""
    nth_max: int = 1
    after_s_max: float = 0.0
    listening: bool = True  # it may serve before it is killed
    flush: bool = False  # a client asks for a flush
    stop: bool = False  # it is asked to stop


_CHANGES = (Kind.OPEN_WRITE, Kind.WRITE, Kind.SYNC, Kind.RENAME, Kind.LINK, Kind.UNLINK, Kind.MKDIR)

MOMENTS: tuple[Moment, ...] = (
    Moment("any time", after_s_max=0.6),
    Moment("log write", (Kind.WRITE,), "*_tickflight/log/*", 60),
    Moment("log sync", (Kind.SYNC,), "*_tickflight/log/*", 60),
    Moment("flush", _CHANGES, "*.parquet*", 60, flush=True),
    Moment("commit", _CHANGES, "*/_delta_log/*", 20, flush=True),
    Moment("release", (Kind.UNLINK,), "*_tickflight/log/*", 1, flush=True),
    Moment("start", after_s_max=1.5, listening=False),
    Moment("recovery", _CHANGES, "*", 12, listening=False),
    Moment("close", _CHANGES, "*", 60, stop=True),
    Moment("close, any time", after_s_max=0.2, stop=True),
)
"""Where servers die; each kill takes the next one, so that a campaign has them all."""


class Collector:
    """One writer and the batches that it sends; it goes on, in order, whatever becomes of the server."""

    def __init__(
        self, client: tickflight.Client, ledger: Ledger, lock: threading.Lock, table: str, name: bytes
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._lock = lock
        self._table = table
        self._name = name
        self._stopping = threading.Event()
        self._futures: list[tuple[Sent, Future[tickflight.Ack]]] = []
        self._room = threading.Semaphore(_OUTSTANDING_MAX)
        self._thread = threading.Thread(target=self._run, name=f"collector-{table}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._client.writer(self._table, producer=self._name, retry_timeout_s=2 * DEADLINE_S) as writer:
            while not self._stopping.is_set():
                self._room.acquire()
                sent = self._next(len(self._futures) + 1)
                future = writer.write(rows_of(self._ledger.seed, sent).batch)
                self._futures.append((sent, future))
                future.add_done_callback(partial(self._answered, sent))

    def _next(self, sequence: int) -> Sent:
        with self._lock:
            number = max(self._ledger.sent, default=0) + 1
            sent = Sent(number, self._table, self._name, 100_000 if sequence % 50 == 0 else 0)
            self._ledger.sent[number] = sent
        return sent

    def _answered(self, sent: Sent, done: Future[tickflight.Ack]) -> None:
        ack = done.result()
        known = Acked(None if ack.duplicate or not ack.first_seq else ack.first_seq)
        with self._lock:
            self._ledger.acked[sent.number] = known
        self._room.release()

    def stop(self) -> None:
        """Stop sending and wait for every answer."""
        self._stopping.set()
        self._room.release()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), f"the collector of {self._table} has no answers"

    def send_again(self, count: int) -> None:
        """Send the last ``count`` batches again as a collector that forgot their answers; they must be known."""
        first = max(1, len(self._futures) - count + 1)
        again = self._client.writer(self._table, producer=self._name, first_sequence=first)
        with again as writer:
            futures = [writer.write(rows_of(self._ledger.seed, s).batch) for s, _ in self._futures[first - 1 :]]
        assert all(f.result(0).duplicate for f in futures), "a batch that was acknowledged was stored again"


class KilledServer:
    """A server on a port of its own that is started, killed and started again, under the shim."""

    def __init__(self, library: Path, scratch: Path, seed: int) -> None:
        self._library = library
        self._folder = scratch / "store"
        self._folder.mkdir()
        self._scratch = scratch
        self._chance = random.Random(f"kills/{seed}")
        self._control = Control(scratch / "control", make=True)
        self.port = free_port()
        self.kills: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server unless it runs, and return at once."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        arguments = ("--storage-path", str(self._folder), "--port", str(self.port))
        settings = {"WAL_FILE_MB": "1", "FLUSH_INTERVAL_SECONDS": "2"}
        environment = shim_environment(self._library, self._folder, control=self._control.path)
        environment |= {f"TICKFLIGHT_LAKEHOUSE__{name}": value for name, value in settings.items()}
        with (self._scratch / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tickflight_server.cli", "serve", *arguments],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        return self._process

    def wait_until_listening(self) -> None:
        """Return when the server takes connections."""
        wait_for(self._is_listening, "a server that listens")

    def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended: {self.said()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def said(self) -> str:
        """Return the end of the server's log."""
        return (self._scratch / "server.log").read_text()[-3000:]

    def die_once(self, moment: Moment, answers: Callable[[], int], flush: Callable[[], None]) -> None:
        """Start a server and have it killed at ``moment``; where it may listen, not before collectors were answered.

        One that does not meet its operation in time, for there was nothing to do there, is killed then.
        """
        nth = self._chance.randrange(1, moment.nth_max + 1)
        action = self._chance.choice((Action.KILL_BEFORE, Action.KILL_MIDDLE, Action.KILL_AFTER))
        after_s = self._chance.uniform(0, moment.after_s_max)
        if moment.kinds and not moment.listening:
            self._control.arm(action, first=nth, kinds=moment.kinds, pattern=moment.pattern)
        process = self.start()
        if moment.listening:
            before = answers()
            self.wait_until_listening()
            wait_for(lambda: answers() > before, "an answer to a collector")
            if moment.kinds:
                self._control.arm(action, first=nth, kinds=moment.kinds, pattern=moment.pattern)
            if moment.flush:
                flush()
            if moment.stop:
                process.send_signal(signal.SIGTERM)
        try:
            process.wait(after_s if not moment.kinds else 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait(DEADLINE_S)
        self._control.disarm()
        assert code == -signal.SIGKILL or (moment.stop and not code), f"the server ended with {code}: {self.said()}"
        if code:
            self.kills[moment.name] = self.kills.get(moment.name, 0) + 1

    def __enter__(self) -> KilledServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(DEADLINE_S) == 0, f"the server did not stop well: {self.said()}"


def kill_servers(library: Path, scratch: Path, seed: int, kills: int) -> dict[str, int]:
    """Kill a server ``kills`` times under the load of three collectors, compare all rows; return kills by moment."""
    server = KilledServer(library, scratch, seed)
    ledger, lock = Ledger(seed), threading.Lock()
    address = f"grpc://127.0.0.1:{server.port}"
    server.start()
    server.wait_until_listening()
    with _fast_clients(), server, tickflight.connect(address) as client:
        collectors = [Collector(client, ledger, lock, t, f"collector of {t}".encode()) for t in TABLES]
        turn = 0
        while sum(server.kills.values()) < kills:
            server.die_once(MOMENTS[turn % len(MOMENTS)], lambda: len(ledger.acked), lambda: _ask_for_flush(address))
            turn += 1
        server.start()
        server.wait_until_listening()
        for collector in collectors:
            collector.stop()
            collector.send_again(20)
        assert len(ledger.acked) == len(ledger.sent), "a collector was given no answer"
        check_rows({name: _all_rows(client, name) for name in (*TABLES, "rejected")}, ledger)
    return server.kills


@contextmanager
def _fast_clients() -> Iterator[None]:
    client = partial(flight.FlightClient, generic_options=_CHANNEL)
    with patch.object(writer_module, "BACKOFF_S", _BACKOFF_S), patch.object(flight, "FlightClient", client):
        yield


def _ask_for_flush(address: str) -> None:
    """Have a client ask for a flush, and not wait: the server dies of it."""

    def ask() -> None:
        try:
            with tickflight.connect(address) as client:
                client.flush()
        except tickflight.TickflightError:
            pass

    threading.Thread(target=ask, daemon=True).start()


def _all_rows(client: tickflight.Client, table: str) -> pa.Table:
    schema = STORED[table]
    rows = client.sql(f"SELECT * FROM {schema.schema}.{table} ORDER BY seq").arrow()
    return as_in_parts(rows, schema).combine_chunks()
