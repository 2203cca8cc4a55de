"""Replay: events a second beside a plain query, order, digest, and the memory of client and server by size.

``python -m bench replay`` takes 1 and 10 million rows; ``python -m bench.replay 1000000 100000000`` any others. Each
reading is a process of its own, so that its memory is its own; the server is started anew for each size, on rows that
are in parts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import tickflight
from bench.figures import Figure, figure
from bench.servers import server_on
from tickflight.merging import KEYS, ReplayChunk

SIZES = (1_000_000, 10_000_000)
RUNS = 3
SYMBOLS = 20
EVENTS_MAX = 1_000_000  # single events are counted over so many
BATCH_ROWS = 65_536
START_US = 1_790_000_000_000_000
TABLES = ("trades", "ticker")


def run(sizes: Sequence[int] = SIZES) -> Iterator[Figure]:
    """Measure everything for each size; about a minute and a half for the default ones."""
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
            folder = Path(name)
            with server_on(folder) as (address, _):
                load(address, rows)
            with server_on(folder) as (address, server):
                yield from figures(address, server, rows)


def figures(address: str, server: int, rows: int) -> Iterator[Figure]:
    """Measure one size."""
    where = f"{rows} rows, half trades, half ticker, {SYMBOLS} symbols, in parts; full columns, one client process"
    plain = [read(address, server, "plain") for _ in range(RUNS)]
    chunks = [read(address, server, "chunks") for _ in range(RUNS)]
    events = [read(address, server, "events") for _ in range(RUNS)]
    checked = [read(address, server, "order")["digest"], read(address, server, "digest")["digest"]]
    assert checked[0] == checked[1], "two replays have two digests"
    for name, runs in (("plain query", plain), ("replay, batches", chunks), ("replay, single events", events)):
        yield figure("replay", f"{name}, {rows}", [r["rows"] / r["seconds"] for r in runs], "rows/s", where)
    for side in ("client", "server"):
        yield figure("replay", f"memory of the {side}, {rows}", [r[f"{side}_mb"] for r in chunks], "MB", where)


def load(address: str, rows: int) -> None:
    """Write the rows, a little out of order, and let them move to parts."""
    chance = np.random.default_rng(3)
    with tickflight.connect(address) as client:
        for table, columns in (("trades", ("price", "amount")), ("ticker", ("bid", "ask"))):
            with client.writer(table) as writer:
                for start in range(0, rows // 2, BATCH_ROWS):
                    writer.write(_batch(chance, start, min(BATCH_ROWS, rows // 2 - start), columns))
                writer.flush()
        client.flush()


def _batch(chance: np.random.Generator, start: int, rows: int, columns: Sequence[str]) -> pa.RecordBatch:
    receipt = START_US + (start + np.arange(rows)) * 1000
    symbols = pa.array([f"S{i}-USDT" for i in range(SYMBOLS)])
    codes = chance.integers(0, SYMBOLS, rows).astype(np.int32)
    return pa.RecordBatch.from_pydict(
        {
            "exchange": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["BINANCE"])),
            "symbol": pa.DictionaryArray.from_arrays(codes, symbols),
            **{name: chance.random(rows) for name in columns},
            "timestamp": pa.array(receipt - chance.integers(0, 50_000, rows) // 10 * 10, pa.timestamp("us")),
            "receipt_timestamp": pa.array(receipt, pa.timestamp("us")),
        }
    )


def read(address: str, server: int, what: str) -> dict[str, Any]:
    """Read in a process of its own; return rows, seconds, and the greatest memory of both sides meanwhile."""
    Path(f"/proc/{server}/clear_refs").write_text("5")  # the peak is counted from here on
    command = [sys.executable, "-m", "bench.replay", "--read", what, address]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert isinstance(found, dict)
    return found | {"server_mb": _peak_mb(server)}


def _peak_mb(process: int | str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) / 1024


# --- the reading process


def _plain(client: tickflight.Client) -> tuple[int, str]:
    return sum(batch.num_rows for table in TABLES for batch in client.sql(f"FROM {table}")), ""


def _chunks(client: tickflight.Client) -> tuple[int, str]:
    return sum(len(chunk) for chunk in client.replay(TABLES)), ""


def _events(client: tickflight.Client) -> tuple[int, str]:
    with client.replay(TABLES) as replay:
        return sum(1 for _ in islice(replay.events(), EVENTS_MAX)), ""


def _digest(client: tickflight.Client) -> tuple[int, str]:
    replay = client.replay(TABLES)
    digest = replay.hash()
    return replay.rows, digest


def _order(client: tickflight.Client) -> tuple[int, str]:
    """Read all, and assert that each event's key is above the one before."""
    replay = client.replay(TABLES, digest=True)
    last = None
    for chunk in replay:
        keys = _keys(chunk)
        if last is not None:
            keys = [np.concatenate([[end], key]) for end, key in zip(last, keys, strict=True)]
        rising = np.zeros(len(keys[0]) - 1, bool)
        equal = np.ones(len(keys[0]) - 1, bool)
        for key in keys:
            step = np.diff(key)
            rising |= equal & (step > 0)
            equal &= step == 0
        assert rising.all(), "an event is not after the one before"
        last = [key[-1] for key in keys]
    return replay.rows, replay.digest


def _keys(chunk: ReplayChunk) -> list[np.ndarray]:
    """Return the events' keys in the chunk's order, the table's place last."""
    made = []
    for name in KEYS:
        key = np.empty(len(chunk), np.int64)
        for place, table in enumerate(chunk.tables):
            key[chunk.order == place] = chunk.batches[table].column(name).cast(pa.int64()).to_numpy()
        made.append(key)
    return [*made, chunk.order.astype(np.int64)]


_READINGS: Mapping[str, Callable[[tickflight.Client], tuple[int, str]]] = {
    "plain": _plain,
    "chunks": _chunks,
    "events": _events,
    "digest": _digest,
    "order": _order,
}


def main(arguments: Sequence[str]) -> None:
    """Print the figures of the sizes given, or be the reading process."""
    if arguments[:1] != ["--read"]:
        for one in run([int(size) for size in arguments] or SIZES):
            print(one.to_json(), flush=True)
        return
    with tickflight.connect(arguments[2]) as client:
        started = time.perf_counter()
        rows, digest = _READINGS[arguments[1]](client)
        seconds = time.perf_counter() - started
    print(json.dumps({"rows": rows, "seconds": seconds, "digest": digest, "client_mb": _peak_mb("self")}))


if __name__ == "__main__":
    main(sys.argv[1:])
