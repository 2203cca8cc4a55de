"""Finds the holes of one table's events: per symbol, the time and number of the event before against the next.

The rule of this file: work per batch, over arrays; what is looked at are pairs of neighbouring events of a symbol, and
a pair has at most one hole, the first of reconnect, sequence, stalled that fits.

Times are whole microseconds of receipt: the one clock that all events of a feed share, and that of its connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.feed.sequences import NO_NUMBER, Flags, Ints, jumps, kinds

NO_TIME = -1

LINGER_US = 60_000_000
"""A symbol without an event for so long after its connection is open again has its hole end with the opening."""

SORT_NARROW = 1 << 15
"""numpy sorts 16-bit keys by radix, which is some ten times faster than what it does for wider ones."""

Key = tuple[str, str]
"""Exchange and symbol."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A row of table ``gaps``; times are seconds, as with cryptofeed's own objects."""

    exchange: str
    symbol: str
    channel: str
    cause: str
    start: float
    end: float
    detail: str
    expected: int | None = None
    received: int | None = None
    producer: str | None = None

    @property
    def timestamp(self) -> float:
        """The hole's start."""
        return self.start


@dataclass(slots=True)
class Outage:
    """A time without connection. ``symbols`` are those that the connection carries; None stands for all."""

    exchange: str
    symbols: frozenset[str] | None
    lost_us: int
    why: str
    open_us: int | None = None

    def concerns(self, key: Key) -> bool:
        """Return whether the connection carries ``key``."""
        return key[0] == self.exchange and (self.symbols is None or key[1] in self.symbols)

    def told(self) -> str:
        """Return what happened, in words."""
        back = "not open again when the feed stopped" if self.open_us is None else f"open again {_iso(self.open_us)}"
        return f"{self.why}; lost {_iso(self.lost_us)}, {back}"


class GapFinder:
    """The last event of each symbol of one table. Silence above ``stall_us`` is a hole; 0 is never."""

    def __init__(self, table: str, stall_us: int) -> None:
        self.table = table
        self._stall_us = stall_us
        self._numbered = table in ("l2_book", "l3_book")
        self._outages: list[Outage] = []
        self._connected: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        self._ids: dict[Key, int] = {}
        self._keys: list[Key] = []
        self._last: Ints = np.zeros(0, np.int64)
        self._number: Ints = np.zeros(0, np.int64)
        self._live: Flags = np.zeros(0, np.bool_)
        self._after_delta: Flags = np.zeros(0, np.bool_)
        self._dense: Flags = np.zeros(0, np.bool_)
        self._renewed: Flags = np.zeros(0, np.bool_)

    def connected(self, exchange: str, symbols: frozenset[str] | None, at_us: int) -> None:
        """Expect events of ``symbols`` from now on; None stands for those that will come. Only these can stall."""
        if symbols is None:
            self._connected.add(exchange)
            for key, number in self._ids.items():
                self._live[number] |= key[0] == exchange
            return
        for symbol in sorted(symbols):
            number = self._id((exchange, symbol))
            self._live[number] = True
            if self._last[number] == NO_TIME:
                self._last[number] = at_us

    def lost(self, outage: Outage) -> None:
        """Expect a hole around ``outage``."""
        self._outages.append(outage)

    def forget_numbers(self) -> None:
        """Begin the numbers anew: rows went another way, and a jump is no hole of the exchange."""
        self._number[:] = NO_NUMBER

    def passed(self, key: Key, at_us: int) -> None:
        """Take note of an event that came and will not be seen."""
        number = self._id(key)
        self._last[number] = max(int(self._last[number]), at_us)

    def see(self, batch: pa.RecordBatch, *, whole: bool = True) -> Iterator[Gap]:
        """Yield the holes that a batch of the table, in the order of its events, brings to light.

        Unless it is ``whole``, events between its first and last went to ``rejected``, and their numbers with them.
        """
        if not batch.num_rows:
            return
        ids = self._ids_of(batch)
        times = batch.column("receipt_timestamp").view(pa.int64()).to_numpy()
        order = _by_key(ids, len(self._keys))
        if order is not None:
            ids, times = ids[order], times[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        ends = np.append(starts[1:], len(ids)) - 1
        first = ids[starts]
        before = _shifted(times, starts, self._last[first])
        self._last[first] = times[ends]
        holes: dict[int, Gap] = {}
        if self._outages:
            self._add_reconnects(holes, ids, before, times)
        if self._numbered and whole:
            self._add_jumps(holes, batch, order, ids, starts, ends, before, times)
        if not whole:
            self.forget_numbers()
        if self._stall_us:
            silent = (times - before > self._stall_us) & (before != NO_TIME) & self._live[ids]
            for at in np.flatnonzero(silent).tolist():
                if at not in holes:
                    holes[at] = self._stalled(int(ids[at]), int(before[at]), int(times[at]))
        yield from holes.values()
        if self._outages:
            yield from self._end_outages(int(times.max()))

    def stop(self, now_us: int) -> Iterator[Gap]:
        """Yield the holes that end with the feed, and forget everything."""
        for outage in self._outages:
            yield from self._silent_since(outage, now_us if outage.open_us is None else outage.open_us)
        for number, since_us in self._silent(now_us):
            yield self._stalled(number, since_us, now_us, "when the feed stopped")
        self._outages.clear()
        self._connected.clear()
        self._reset()

    def stalled(self, now_us: int) -> list[tuple[str, str, int]]:
        """Return exchange, symbol and last time of what is silent now for longer than it may be."""
        return [(*self._keys[number], since_us) for number, since_us in self._silent(now_us)]

    def _silent(self, now_us: int) -> list[tuple[int, int]]:
        if not self._stall_us:
            return []
        found = np.flatnonzero(self._live & (self._last != NO_TIME) & (now_us - self._last > self._stall_us))
        return [(int(number), int(self._last[number])) for number in found]

    def _stalled(self, number: int, start_us: int, end_us: int, when: str = "") -> Gap:
        text = f"no event for {(end_us - start_us) / 1e6:.1f} s {when}".rstrip()
        return self._gap(number, "stalled", start_us, end_us, text)

    def _gap(self, number: int, cause: str, start_us: int, end_us: int, detail: str) -> Gap:
        return Gap(*self._keys[number], self.table, cause, start_us / 1e6, end_us / 1e6, detail)

    # Reconnects.

    def _add_reconnects(self, holes: dict[int, Gap], ids: Ints, before: Ints, times: Ints) -> None:
        reasons: dict[int, list[str]] = {}
        for outage in self._outages:
            if outage.open_us is None:
                continue
            # An event between the two would show that the symbol is on another connection.
            around = (before != NO_TIME) & (before <= outage.lost_us) & (times >= outage.open_us)
            for at in np.flatnonzero(around & self._concerned(outage)[ids]).tolist():
                reasons.setdefault(at, []).append(outage.told())
        for at, told in reasons.items():
            holes[at] = self._gap(int(ids[at]), "reconnect", int(before[at]), int(times[at]), "; ".join(told))

    def _concerned(self, outage: Outage) -> Flags:
        return np.array([outage.concerns(key) for key in self._keys], np.bool_)

    def _end_outages(self, newest_us: int) -> Iterator[Gap]:
        """Let go of outages that all symbols have passed, and of symbols that have been silent since for long."""
        for outage in list(self._outages):
            if outage.open_us is None or newest_us < outage.open_us:  # what comes may still be from before it
                continue
            waiting = self._concerned(outage) & (self._last != NO_TIME) & (self._last <= outage.lost_us)
            if not waiting.any():
                self._outages.remove(outage)
            elif newest_us > outage.open_us + LINGER_US:
                self._outages.remove(outage)
                yield from self._silent_since(outage, outage.open_us)

    def _silent_since(self, outage: Outage, end_us: int) -> Iterator[Gap]:
        waiting = self._concerned(outage) & (self._last != NO_TIME) & (self._last <= outage.lost_us)
        for number in np.flatnonzero(waiting).tolist():
            start_us = int(self._last[number])
            self._last[number] = end_us
            yield self._gap(number, "reconnect", start_us, end_us, f"{outage.told()}; no event since")

    # Sequence numbers.

    def _add_jumps(
        self,
        holes: dict[int, Gap],
        batch: pa.RecordBatch,
        order: npt.NDArray[np.intp] | None,
        ids: Ints,
        starts: npt.NDArray[np.intp],
        ends: npt.NDArray[np.intp],
        before_us: Ints,
        times: Ints,
    ) -> None:
        if not (self._dense.any() or self._renewed.any()):
            return
        numbers = pc.fill_null(batch.column("sequence_number"), NO_NUMBER).to_numpy()
        snapshots = pc.fill_null(batch.column("is_snapshot"), True).to_numpy(zero_copy_only=False)
        if order is not None:
            numbers, snapshots = numbers[order], snapshots[order]
        first = ids[starts]
        before = _shifted(numbers, starts, self._number[first])
        after_delta = _shifted(~snapshots, starts, self._after_delta[first])
        self._number[first], self._after_delta[first] = numbers[ends], ~snapshots[ends]
        for at in jumps(numbers, snapshots, before, after_delta, self._dense[ids], self._renewed[ids]).tolist():
            if at in holes:
                continue
            expected, received, end_us = int(before[at]) + 1, int(numbers[at]), int(times[at])
            detail = (
                "the book was begun anew from a snapshot, since deltas were missing"
                if snapshots[at]
                else f"{received - expected} numbers are missing"
            )
            gap = self._gap(int(ids[at]), "sequence", int(before_us[at]), end_us, detail)
            holes[at] = replace(gap, expected=expected, received=received)

    # Symbols.

    def _ids_of(self, batch: pa.RecordBatch) -> Ints:
        """Return the number of each row's exchange and symbol."""
        exchanges, symbols = batch.column("exchange"), batch.column("symbol")
        exchange_names, symbol_names = exchanges.dictionary.to_pylist(), symbols.dictionary.to_pylist()
        codes: Ints = symbols.indices.to_numpy()
        if len(exchange_names) == 1:
            keys = [(exchange_names[0], name) for name in symbol_names]
        else:
            joint = exchanges.indices.to_numpy().astype(np.int64) * len(symbol_names) + codes
            distinct, codes = np.unique(joint, return_inverse=True)
            places = (divmod(code, len(symbol_names)) for code in distinct.tolist())
            keys = [(exchange_names[one], symbol_names[other]) for one, other in places]
        return np.fromiter(map(self._id, keys), np.int64)[codes]

    def _id(self, key: Key) -> int:
        number = self._ids.get(key)
        if number is None:
            number = self._ids[key] = len(self._keys)
            self._keys.append(key)
            dense, renewed = kinds(key[0])
            self._last = np.append(self._last, NO_TIME)
            self._number = np.append(self._number, NO_NUMBER)
            self._live = np.append(self._live, key[0] in self._connected)
            self._after_delta = np.append(self._after_delta, False)
            self._dense, self._renewed = np.append(self._dense, dense), np.append(self._renewed, renewed)
        return number


def _by_key(ids: Ints, keys: int) -> npt.NDArray[np.intp] | None:
    """Return the order that puts events of a key together and leaves theirs as it is; None if there is one key."""
    if keys == 1 or len(ids) == 1:
        return None
    return np.argsort(ids.astype(np.int16) if keys <= SORT_NARROW else ids, kind="stable")


def _shifted(values: Any, starts: npt.NDArray[np.intp], carried: Any) -> Any:
    """Return for each event the value of the one before of its key; ``carried`` are those from earlier batches."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[starts] = carried
    return before


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
