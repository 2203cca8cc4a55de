"""Durable ingest by ``client.writer`` beside a bare Flight server that throws away what it is given; and for a minute.

The rule of this file: both sides are given the same batches, in a process of their own, over the same loopback; ours
has answered for every row when the clock stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

import tickflight
from bench.figures import Aim, Figure, figure
from bench.processes import cpu_s, memory_mb, serving
from bench.rising import ROWS, RisingTrades
from bench.servers import server_on

RUNS = 7
WARM = 5  # runs that fill the memory which the server keeps rows in, 1 GiB by default: later rows come into used memory
BATCHES = 64
SECONDS = float(os.environ.get("TICKFLIGHT_BENCH_WRITE_S", "60"))
LAST_S = 40  # of these the growth of memory is told
PACE = 3_200_000
SYMBOLS = 50
RAM = "/dev/shm"
_MIB = 1 << 20


def run() -> Iterator[Figure]:
    """Measure both; about two minutes."""
    yield from disk()
    yield from beside_bare()
    if Path(RAM).is_dir():
        yield from beside_bare(RAM)
    yield from sustained()


def disk() -> Iterator[Figure]:
    """What the disk takes, written and synced in pieces as the log's: no durable ingest is faster."""
    piece, pieces = os.urandom(16 * _MIB), 8
    rates, syncs = [], []
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        for turn in range(5):
            descriptor = os.open(Path(name) / f"{turn}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            started = time.perf_counter()
            for _ in range(pieces):
                os.write(descriptor, piece)
                os.fdatasync(descriptor)
            rates.append(pieces * len(piece) / _MIB / (time.perf_counter() - started))
            started = time.perf_counter()
            for _ in range(20):
                os.write(descriptor, piece[:4096])
                os.fdatasync(descriptor)
            syncs.append((time.perf_counter() - started) / 20 * 1e3)
            os.close(descriptor)
    yield figure("write_flight", "disk: write and fdatasync of 16 MiB at a time", rates, "MiB/s", "one thread")
    yield figure("write_flight", "disk: write and fdatasync of 4 KiB", syncs, "ms", "one thread, 20 a run")


class _Bare(flight.FlightServerBase):  # type: ignore[misc]
    """Takes batches and throws them away."""

    def do_put(self, context: object, descriptor: object, reader: object, writer: object) -> None:
        """Read to the end."""
        for _ in reader:  # type: ignore[attr-defined]
            pass


def _serve_bare(tell: Callable[[str], None]) -> None:
    server = _Bare("grpc://127.0.0.1:0")
    tell(f"grpc://127.0.0.1:{server.port}")
    server.serve()


def beside_bare(place: str | None = None) -> Iterator[Figure]:
    """Rows per second until all are answered for, and until the bare server has read the last one, in turns.

    In memory (``place``), where a sync costs nothing, is what the server does apart from the disk's part.
    """
    source = RisingTrades(SYMBOLS)
    ours, bare = [], []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tickflight-bench-", dir=place))
        address, _ = stack.enter_context(server_on(Path(folder)))
        bare_address, _ = stack.enter_context(serving(_serve_bare))
        client = stack.enter_context(tickflight.connect(address))
        writer = stack.enter_context(client.writer("trades"))
        thrower = stack.enter_context(flight.connect(bare_address))
        for turn in range(WARM + RUNS):
            batches = [source.next() for _ in range(BATCHES)]
            size = sum(b.nbytes for b in batches)
            rates = _durable(writer, batches), _thrown_away(thrower, batches)
            if turn >= WARM:
                ours.append(rates[0])
                bare.append(rates[1])
            client.flush()
    rows = BATCHES * ROWS
    conditions = (
        f"{rows} trades of {SYMBOLS} symbols a run, {size / rows:.1f} bytes a row, batches of {ROWS}, "
        f"default configuration, parts written between the runs, {WARM} runs before the first that counts"
    )
    name = "writer to durable" if place is None else "writer to a log on a RAM disk"
    yield figure(
        *("write_flight", name, ours, "rows/s", conditions),
        beside=bare,
        ratio_to="bare Flight DoPut, thrown away",
        aim=Aim(">=", 0.4) if place is None else None,
    )
    if place is None:
        yield figure("write_flight", "bare Flight DoPut", bare, "rows/s", conditions)


def _durable(writer: tickflight.Writer, batches: Sequence[pa.RecordBatch]) -> float:
    started = time.perf_counter()
    futures = [writer.write(batch) for batch in batches]
    writer.flush()
    rows = sum(f.result().rows for f in futures)
    seconds = time.perf_counter() - started
    assert rows == sum(b.num_rows for b in batches), "rows were refused as repeats"
    return float(rows / seconds)


def _thrown_away(client: flight.FlightClient, batches: Sequence[pa.RecordBatch]) -> float:
    started = time.perf_counter()
    stream, answers = client.do_put(flight.FlightDescriptor.for_path("trades"), batches[0].schema)
    for batch in batches:
        stream.write_batch(batch)
    stream.done_writing()
    while answers.read() is not None:
        pass
    stream.close()
    return float(sum(b.num_rows for b in batches) / (time.perf_counter() - started))


def sustained() -> Iterator[Figure]:
    """A writer at a steady pace for a minute while flushes and compaction go on; then one that waits for nothing."""
    held = _write_on(SECONDS, PACE)
    flat_out = _write_on(SECONDS / 5, None)
    conditions = held.conditions + f"; {PACE} rows/s are offered"
    yield figure("write_flight", "sustained", held.rates, "rows/s", conditions, aim=Aim(">=", 3_000_000))
    yield figure(
        *("write_flight", f"sustained: memory's growth over the last {LAST_S} s", [held.growth(LAST_S)], "MiB"),
        f"{conditions}; resident memory, the median of the later half less that of the earlier; all of them are from "
        f"{held.memory[-LAST_S:].min():.0f} to {held.memory[-LAST_S:].max():.0f} MiB",
        aim=Aim("<=", 100),
    )
    yield figure("write_flight", "flat out", flat_out.rates, "rows/s", flat_out.conditions)


@dataclass(frozen=True)
class _Writing:
    """What a long write gave: rows a second over windows of ten seconds, and the server's memory each second, MiB."""

    rates: list[float]
    memory: np.ndarray
    conditions: str

    def growth(self, seconds: int) -> float:
        """Return by how much the memory of the last ``seconds`` rose from their first half to their second."""
        last = self.memory[-seconds:]
        half = len(last) // 2
        return float(np.median(last[half:]) - np.median(last[:half]))


def _write_on(seconds: float, pace: int | None) -> _Writing:
    """Write for ``seconds``, ``pace`` rows in each of them at most."""
    source = RisingTrades(SYMBOLS, seed=2)
    samples: list[tuple[float, int, float, float]] = []  # time, rows answered for, MiB, processor seconds
    answered = 0

    def count(future: Any) -> None:
        nonlocal answered
        answered += future.result().rows

    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as folder, server_on(Path(folder)) as (address, pid):
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(1.0):
                samples.append((time.perf_counter(), answered, memory_mb(pid), cpu_s(pid)))

        with tickflight.connect(address) as client, client.writer("trades") as writer:
            sampler = threading.Thread(target=sample)
            sampler.start()
            started, own, made = time.perf_counter(), time.process_time(), 0
            while (now := time.perf_counter()) < started + seconds + 1.5:
                if pace is not None and (ahead := started + made / pace - now) > 0:
                    time.sleep(ahead)
                writer.write(source.next()).add_done_callback(count)
                made += ROWS
            own = (time.process_time() - own) / (seconds + 1.5)
            stop.set()
            sampler.join()
        log = (Path(folder) / "server.log").read_text()
    at, rows, memory, cpu = np.array(samples).T
    window = min(10, len(at) - 1)
    rates = (rows[window:] - rows[:-window]) / (at[window:] - at[:-window])
    conditions = (
        f"{at[-1] - at[0]:.0f} s, rates over {window} s, {SYMBOLS} symbols, batches of {ROWS}, default configuration, "
        f"{_count(log, 'flush.done')} flushes and {_count(log, 'compaction.done')} compactions meanwhile; "
        f"processor time a second: server {(cpu[-1] - cpu[0]) / (at[-1] - at[0]):.2f}, client {own:.2f}"
    )
    return _Writing([float(r) for r in rates[::window]] or [0.0], memory, conditions)


def _count(log: str, event: str) -> int:
    return sum(json.loads(line)["event"] == event for line in log.splitlines() if event in line)
