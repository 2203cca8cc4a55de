"""The tables of schema ``system`` that are made when asked: of the store, of feeds and queries, and of who did what.

The rule of this file: each is a schema and a function in one literal table; nothing is stored.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import QuerySettings
from tickflight_server.identity.rights import ALL, Sight
from tickflight_server.metrics import Metrics
from tickflight_server.query.board import Board
from tickflight_server.query.callers import THE_SERVER, Caller
from tickflight_server.query.functions import FUNCTIONS
from tickflight_server.schemas import TIMESTAMP
from tickflight_server.store import SeenStore, TableSnapshot
from tickflight_server.store.health import Condition, Health

LOCAL = "local"


class FeedBoard:
    """The newest report of each feed process, as they send them."""

    def __init__(self, clock: Clock | None = None, feeds_max: int = 1000) -> None:
        self._clock = clock or SystemClock()
        self._feeds_max = feeds_max
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def report(self, feed: str, values: Mapping[str, Any]) -> None:
        """Keep ``values`` as the newest of ``feed``; beyond a thousand feeds the longest silent one is forgotten."""
        with self._lock:
            self._reports.pop(feed, None)
            self._reports[feed] = (self._clock.now_us(), dict(values))
            if len(self._reports) > self._feeds_max:
                del self._reports[next(iter(self._reports))]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row a feed."""
        with self._lock:
            reports = dict(self._reports)
        for feed, (when, values) in sorted(reports.items()):
            row: dict[str, Any] = {"feed": feed, "reported_at": when}
            row |= {k: _count(values.get(k)) for k in _FEED_COUNTERS}
            error = values.get("last_error")
            row["last_error"] = None if error is None else json.dumps(error) if not isinstance(error, str) else error
            row["report"] = json.dumps(values, default=str)
            yield row


def _no_board() -> Board:
    return Board(QuerySettings(), Metrics(), SystemClock())


@dataclass(frozen=True)
class SystemSource:
    """What the system tables are made from."""

    store: SeenStore
    feeds: FeedBoard
    board: Board = field(default_factory=_no_board)
    caller: Caller = THE_SERVER


_FEED_COUNTERS = ("received", "sent", "acknowledged", "rejected", "dropped", "failed", "queue_rows", "batches")


def _count(value: Any) -> int:
    """Return a counter as a feed sent it, 0 for what is none: one feed's report must not spoil the table."""
    return int(value) if isinstance(value, int) and abs(value) < 2**63 else 0


def _parts(source: SystemSource) -> pa.Table:
    """Return the parts of all tables; they may be very many, and lie in columns already."""
    schema = TABLES["parts"][0]
    tables = []
    for name in source.store.tables:
        index = source.store.live(name).parts
        if not len(index):
            continue
        tier = [_tier(path) for path in index.path]
        columns = {
            "table": pa.repeat(name, len(index)),
            "exchange": index.exchange,
            "symbol": index.symbol,
            "day": index.day.astype("int32"),
            "rows": index.rows,
            "bytes": index.nbytes,
            "min_timestamp": index.min_us,
            "max_timestamp": index.max_us,
            "min_seq": index.min_seq,
            "max_seq": index.max_seq,
            "first_seq": index.first,
            "last_seq": index.last,
            "tier": tier,
            "path": [f"{name}/{p}" if t == LOCAL else p for p, t in zip(index.path, tier, strict=True)],
        }
        assert list(columns) == schema.names
        arrays = [pa.array(columns[f.name]).cast(f.type) for f in schema]
        tables.append(pa.Table.from_arrays(arrays, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _tier(path: str) -> str:
    """Return where a part lies: the scheme of its URL, or ``LOCAL``."""
    scheme, found, _ = path.partition("://")
    return scheme if found else LOCAL


def _segments(source: SystemSource) -> Iterator[dict[str, Any]]:
    for name, table in source.store.tables.items():
        flushed_seq = table.state.flushed_seq
        for segment in source.store.live(name).segments:
            yield {
                "table": name,
                "rows": segment.rows,
                "bytes": segment.nbytes,
                "min_timestamp": segment.min_us,
                "max_timestamp": segment.max_us,
                "min_seq": segment.first_seq,
                "max_seq": segment.last_seq,
                "exchanges": sorted(segment.exchanges),
                "symbols": sorted(segment.symbols),
                "in_parts": segment.last_seq <= flushed_seq,
            }


def _tables(source: SystemSource) -> Iterator[dict[str, Any]]:
    for name, table in source.store.tables.items():
        state, live, seen = table.state, source.store.live(name), source.store.snapshot(name)
        whole = seen.whole is None
        on_disk = live.parts.total_rows
        # what is in memory and in parts, too, is counted once; a part of which only some rows are seen is not
        rows = on_disk + state.unflushed_rows if whole else _rows(seen)
        newest = state.last_seq if whole else _newest(live)
        yield {
            "schema": table.schema.schema,
            "table": name,
            "rows": rows,
            "rows_in_memory": sum(s.rows for s in live.segments),
            "bytes_in_memory": sum(s.batch.nbytes for s in live.segments) if not whole else state.ring_bytes,
            "segments": len(state.segments) if whole else len(live.segments),
            "rows_on_disk": on_disk,
            "bytes_on_disk": live.parts.total_bytes,
            "parts": len(live.parts),
            "rows_not_flushed": max(0, rows - on_disk),
            "last_seq": newest,
            "flushed_seq": min(state.flushed_seq, newest),
            "version": state.version,
            "comment": table.schema.comment,
        }


def _rows(seen: TableSnapshot) -> int:
    """Return how many rows are seen, without those of parts that have others, too."""
    parts = seen.parts if seen.since_us is None else seen.parts.chosen(seen.parts.min_us >= seen.since_us)
    return sum(segment.rows for segment in seen.segments) + parts.total_rows


def _newest(live: TableSnapshot) -> int:
    """Return the greatest ``seq`` of the rows that are told of, 0 if there is none."""
    ends = [int(live.parts.max_seq.max(initial=0))]
    return max([*ends, *(s.last_seq for s in live.segments)])


def _log(source: SystemSource) -> Iterator[dict[str, Any]]:
    for file in source.store.whole.log.files:
        yield {"file": file.path.name, "number": file.number, "bytes": file.size}


def _feeds(source: SystemSource) -> Iterator[dict[str, Any]]:
    return source.feeds.rows()


def _metrics(source: SystemSource) -> Iterator[dict[str, Any]]:
    for name, value in sorted(source.store.metrics.read().items()):
        yield {"name": name, "value": value}


def _pins(source: SystemSource) -> Iterator[dict[str, Any]]:
    for pin in source.store.whole.pins.active():
        cuts = json.dumps(dict(pin.cuts), sort_keys=True)
        yield {"id": pin.id, "created": pin.created_us, "expires": pin.expires_us, "cuts": cuts}


def _queries(source: SystemSource) -> Iterator[dict[str, Any]]:
    return (run.row() for run in source.board.seen_by(source.caller))


def _health(source: SystemSource) -> Iterator[dict[str, Any]]:
    for row in told(source.store.health, source.store.sight):
        yield {
            "component": row.component,
            "state": row.state,
            "since": row.since_us,
            "detail": row.detail,
            "hint": row.hint,
        }


def _audit(source: SystemSource) -> Iterator[dict[str, Any]]:
    columns = TABLES["audit"][0].names
    for line in source.store.whole.audit.recent():
        said = dict(line.fields)
        row = {name: said.pop(name, None) for name in columns if name != "detail"}
        yield row | {"time": line.time_us, "hash": line.hash, "detail": json.dumps(said) if said else None}


def told(health: Health, sight: Sight) -> Iterable[Condition]:
    """Return how the components are doing; details, which name parts and so symbols, are for those who see all rows."""
    rows = health.conditions()
    return rows if sight == ALL else (replace(row, detail="", hint="") for row in rows)


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


_I, _S, _T = pa.int64(), pa.string(), TIMESTAMP
_RANGE = {"rows": _I, "bytes": _I, "min_timestamp": _T, "max_timestamp": _T, "min_seq": _I, "max_seq": _I}


def _functions(_: SystemSource) -> Iterator[dict[str, Any]]:
    yield from FUNCTIONS


TABLES: Mapping[str, tuple[pa.Schema, Callable[[SystemSource], Iterator[dict[str, Any]] | pa.Table], str]] = {
    "parts": (
        _schema(
            table=_S, exchange=_S, symbol=_S, day=pa.date32(), **_RANGE, first_seq=_I, last_seq=_I, tier=_S, path=_S
        ),
        _parts,
        "immutable Parquet files that hold flushed rows",
    ),
    "segments": (
        _schema(table=_S, **_RANGE, exchanges=pa.list_(_S), symbols=pa.list_(_S), in_parts=pa.bool_()),
        _segments,
        "runs of rows in memory",
    ),
    "tables": (
        _schema(
            schema=_S,
            table=_S,
            rows=_I,
            rows_in_memory=_I,
            bytes_in_memory=_I,
            segments=_I,
            rows_on_disk=_I,
            bytes_on_disk=_I,
            parts=_I,
            rows_not_flushed=_I,
            last_seq=_I,
            flushed_seq=_I,
            version=_I,
            comment=_S,
        ),
        _tables,
        "how much of each table is where",
    ),
    "log": (_schema(file=_S, number=_I, bytes=_I), _log, "files of the write-ahead log"),
    "feeds": (
        _schema(feed=_S, reported_at=_T, **dict.fromkeys(_FEED_COUNTERS, _I), last_error=_S, report=_S),
        _feeds,
        "the newest report of each feed process",
    ),
    "pins": (
        _schema(id=_S, created=_T, expires=_T, cuts=_S),
        _pins,
        "snapshots that clients hold, with the last seq of each table as JSON",
    ),
    "queries": (
        _schema(
            id=_S,
            user=_S,
            peer=_S,
            kind=_S,
            state=_S,
            sql=_S,
            tables=pa.list_(_S),
            started=_T,
            ended=_T,
            waited_ms=pa.float64(),
            duration_ms=pa.float64(),
            parts=_I,
            segments=_I,
            rows_opened=_I,
            rows=_I,
            bytes=_I,
            memory_bytes=_I,
            error=_S,
            cancelled_by=_S,
        ),
        _queries,
        "statements that run and those that ended lately: one's own, and to admins everybody's",
    ),
    "health": (
        _schema(component=_S, state=_S, since=_T, detail=_S, hint=_S),
        _health,
        "how each component is doing: ok, degraded or failed",
    ),
    "audit": (
        _schema(
            n=_I,
            time=_T,
            kind=_S,
            user=_S,
            address=_S,
            way=_S,
            act=_S,
            text=_S,
            tables=pa.list_(_S),
            rows=_I,
            bytes=_I,
            ms=pa.float64(),
            outcome=_S,
            error=_S,
            detail=_S,
            hash=_S,
        ),
        _audit,
        "who did what: the newest lines of the audit, the newest first",
    ),
    "functions": (
        _schema(name=_S, kind=_S, signature=_S, description=_S, example=_S),
        _functions,
        "the server's own functions and macros, each with an example",
    ),
    "metrics": (_schema(name=_S, value=pa.float64()), _metrics, "counters of the server since its start"),
}
"""Name → schema, rows, comment."""


def system_tables(sight: Sight) -> tuple[str, ...]:
    """Return the names of the system tables that there are to ``sight``."""
    return tuple(name for name in TABLES if sight == ALL or any(fnmatchcase(name, p) for p in sight.system))


def make_table(name: str, source: SystemSource) -> pa.Table:
    """Return the system table ``name`` as it is now."""
    schema, rows, _ = TABLES[name]
    made = rows(source)
    return made if isinstance(made, pa.Table) else pa.Table.from_pylist(list(made), schema=schema)
