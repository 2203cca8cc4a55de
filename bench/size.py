"""Bytes on disk beside the exchange's own messages, by channel: recordings, and a made-up load.

The rule of this file: raw is what came over the connection, uncompressed, of the messages that became rows; disk is
the parts after a flush, whole files.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import tickflight
from bench.figures import Aim, Figure, figure
from bench.messages import record
from bench.servers import running_server
from bench.write_feed import recordings
from tickflight_server.feed import compat
from tickflight_server.feed.playback import find_recordings, replay

MESSAGES = {"trades": 150_000, "ticker": 100_000, "l2_book": 50_000}
SYMBOLS = 10
_AIM = Aim(">=", 92)


def run() -> Iterator[Figure]:
    """Measure all; half a minute."""
    with tempfile.TemporaryDirectory(prefix="tickflight-bench-") as name:
        made = Path(name) / "BINANCE"
        record(made, MESSAGES, SYMBOLS)
        shape = f"{SYMBOLS} symbols of one exchange, messages as Binance's aggTrade, bookTicker and depth@100ms"
        yield from _measure("generated", [made], shape, reading=True)
    for what, paths in recordings():
        yield from _measure(what, paths, "as recorded", reading=False)


def _measure(what: str, paths: Sequence[Path], shape: str, *, reading: bool) -> Iterator[Figure]:
    with running_server() as (address, folder):
        raw, rows = _store(paths, address)
        with tickflight.connect(address) as client:
            client.flush()
        for channel in sorted(raw, key=lambda c: -raw[c]):
            parts = list((folder / channel).rglob("*.parquet"))
            live = _live(folder, channel)
            size = sum(p.stat().st_size for p in parts if p.relative_to(folder / channel).as_posix() in live)
            conditions = (
                f"{shape}; {rows[channel]} rows of {raw[channel]} bytes of messages, {size} bytes in {len(live)} parts"
            )
            saved = 100 * (1 - size / raw[channel])
            yield figure("size", f"{what}, {channel}: smaller than its messages", [saved], "%", conditions, aim=_AIM)
            yield figure("size", f"{what}, {channel}: disk", [size / rows[channel]], "bytes/row", conditions)
            if reading:
                yield _reading(what, channel, [p for p in parts if p.relative_to(folder / channel).as_posix() in live])


def _live(folder: Path, channel: str) -> set[str]:
    from deltalake import DeltaTable

    return set(DeltaTable(str(folder / channel)).get_add_actions(flatten=True).column("path").to_pylist())


def _reading(what: str, channel: str, parts: Sequence[Path]) -> Figure:
    """How fast the parts are read: what a better encoding must not cost."""
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        rows = sum(pq.read_table(p, partitioning=None, memory_map=False).num_rows for p in parts)
        rates.append(rows / (time.perf_counter() - started))
    conditions = f"{rows} rows, all columns, pyarrow's reader"
    return figure("size", f"{what}, {channel}: reading", rates, "rows/s", conditions)


def _store(paths: Sequence[Path], address: str) -> tuple[Counter[str], Counter[str]]:
    """Play recordings into a server; return the bytes of messages that became rows, and the rows, by channel.

    A message of several channels counts for the one that it had most events of.
    """
    raw: Counter[str] = Counter()
    seen: Counter[str] = Counter()

    def observe(channel: str, obj: Any, receipt: Any) -> None:
        seen[channel] += 1

    def weighing(handler: type) -> type:
        class Weighing(handler):  # type: ignore[misc]
            async def message_handler(self, msg: Any, *more: Any) -> None:
                seen.clear()
                await super().message_handler(msg, *more)
                if seen:
                    raw[max(seen, key=lambda c: seen[c])] += len(msg if isinstance(msg, bytes) else msg.encode())

        Weighing.__name__ = handler.__name__
        return Weighing

    with contextlib.ExitStack() as stack:
        for name in {r.exchange for r in find_recordings(paths)}:
            if name is not None:
                stack.enter_context(compat.in_place_of(name, weighing(compat.exchanges()[name])))
        result = replay(paths, address, observe=observe)
    return raw, Counter(result.rows)
