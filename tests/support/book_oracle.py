"""A book kept by hand: events applied one after the other to dicts, as the notes say and as slowly as it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000


@dataclass
class Event:
    """A row of l2_book; ``bids`` and ``asks`` are pairs of price and size."""

    seq: int
    timestamp_us: int
    snapshot: bool
    bids: list[tuple[Any, Any]]
    asks: list[tuple[Any, Any]]


def in_order(events: list[Event]) -> list[tuple[int, Event]]:
    """Return the events in the order in which they are applied, each with the moment from which on it counts."""
    days: dict[int, list[Event]] = {}
    for event in sorted(events, key=lambda e: e.seq):
        days.setdefault(event.timestamp_us // DAY_US, []).append(event)
    found: list[tuple[int, int, Event]] = []
    for arrived in days.values():
        runs: list[list[Event]] = []
        for event in arrived:
            if not runs or event.timestamp_us < runs[-1][-1].timestamp_us - MINUTE_US:
                runs.append([])
            runs[-1].append(event)
        for run in runs:
            for place, event in enumerate(run):
                found.append((min(e.timestamp_us for e in run[place:]), event.seq, event))
    return [(at, event) for at, _, event in sorted(found, key=lambda f: (f[2].timestamp_us // DAY_US, f[0], f[1]))]


def book_at(ordered: list[tuple[int, Event]], time_us: int, depth: int) -> list[tuple[Any, ...]]:
    """Return the rows of ``book_at``, but for ``stale``."""
    bids: dict[Any, Any] = {}
    asks: dict[Any, Any] = {}
    known, last = False, None
    for at, event in ordered:
        if at > time_us:
            continue
        if event.snapshot:
            known = True
            bids.clear()
            asks.clear()
        for side, levels in ((bids, event.bids), (asks, event.asks)):
            for price, size in levels:
                side[price] = size
        last = event
    if not known:
        return []
    assert last is not None
    best = [(p, s) for p, s in sorted(bids.items(), reverse=True) if s > 0][:depth]
    offers = [(p, s) for p, s in sorted(asks.items()) if s > 0][:depth]
    rows = []
    for level in range(max(len(best), len(offers))):
        bid = best[level] if level < len(best) else (None, None)
        ask = offers[level] if level < len(offers) else (None, None)
        rows.append((level + 1, *bid, *ask, last.timestamp_us, last.seq))
    return rows


def as_batch(
    events: list[Event], exchange: str = "BINANCE", symbol: str = "BTC-USDT", number: Any = None
) -> pa.RecordBatch:
    """Return events as a producer sends them; receipts are two milliseconds after the timestamps."""
    kind = pa.list_(number or pa.float64())
    columns: dict[str, Any] = {
        "exchange": ["BINANCE"] * len(events),
        "symbol": [symbol] * len(events),
        "is_snapshot": [e.snapshot for e in events],
    }
    for side in ("bid", "ask"):
        levels = [getattr(e, f"{side}s") for e in events]
        columns[f"{side}_prices"] = pa.array([[p for p, _ in ls] for ls in levels], kind)
        columns[f"{side}_sizes"] = pa.array([[s for _, s in ls] for ls in levels], kind)
    times = [e.timestamp_us for e in events]
    columns["timestamp"] = pa.array(times, pa.int64()).cast(pa.timestamp("us"))
    columns["receipt_timestamp"] = pa.array([t + 2000 for t in times], pa.int64()).cast(pa.timestamp("us"))
    return pa.record_batch(columns)
