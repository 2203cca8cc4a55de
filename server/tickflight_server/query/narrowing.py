"""What to narrow in a query that was too large: which condition on which table would have left out how much.

The rule of this file: it only counts what the query opens; it is asked when a limit was hit, never before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from tickflight_server.errors import ResourceExhaustedError, ServerError
from tickflight_server.query.caps import LIMIT as VALUE_LIMIT
from tickflight_server.query.failures import MEMORY_LIMITS
from tickflight_server.query.filters import And, Compare, Filter, In, IsNull, Literal, Not, Or
from tickflight_server.query.plan import Plan
from tickflight_server.query.probe import Filters
from tickflight_server.query.sources import chosen
from tickflight_server.query.statement import Reading, Statement
from tickflight_server.store import PartIndex, SeenStore, Segment, TableSnapshot
from tickflight_server.store.partition import DAY_US

COLUMNS = ("exchange", "symbol", "timestamp")
"""The columns that parts and segments are chosen by."""
TABLES_TOLD = 3
_SMALL_ROWS = 1000  # what a table with fewer adds to a query is not worth narrowing
_DAYS_COUNTED = 1000  # of one segment: a clock that went wrong must not be counted for long
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANYTHING = "Ask for fewer rows, columns or groups."


@dataclass(frozen=True)
class Wide:
    """What a query opens of one table, and the least that a condition on a column would leave of it.

    ``least`` has for each of ``COLUMNS`` with more than one value: how many values there are, and the most rows that
    one of them has; a value of ``timestamp`` is a day, UTC. ``missing`` are the columns without a condition.
    """

    table: str
    rows: int
    parts: int
    segments: int
    missing: tuple[str, ...]
    least: Mapping[str, tuple[int, int]]
    first_us: int
    last_us: int

    def __str__(self) -> str:
        """Say it in a sentence or two."""
        read = f"{self.table} is read with {self.rows:,} rows in {self.parts:,} parts and {self.segments:,} segments"
        useful = [c for c in COLUMNS if c in self.missing and c in self.least]
        if useful:
            leaves = "; ".join(self._leaves(column) for column in useful)
            return f"{read}, and without a condition on {_joined(useful)}: {leaves}."
        if "timestamp" in self.least:
            return f"{read}, {self._span()}: {self._leaves('timestamp')}."
        return f"{read}."

    def _leaves(self, column: str) -> str:
        values, rows = self.least[column]
        if column == "timestamp":
            return f"one of its {values:,} days has at most {rows:,} rows"
        return f"one of its {values:,} {column}s has at most {rows:,} rows"

    def _span(self) -> str:
        return f"from {_moment(self.first_us)} to {_moment(self.last_us)}"


def what_to_narrow(
    asked: Plan | Statement,
    store: SeenStore,
    cuts: Mapping[str, int] | None = None,
    filters: Mapping[str, Filters | None] | None = None,
) -> str:
    """Return a hint for the caller of a query that hit a limit: which filter on which table would leave how much.

    ``store`` is the one that the query ran on, so that nothing is counted that its caller may not see. Without a plan
    and without ``filters``, as a plan has them, every table counts as read without a condition.
    """
    found = sorted(opened_tables(asked, store, cuts, filters), key=lambda w: w.rows, reverse=True)
    told = [str(w) for w in found if w.rows >= _SMALL_ROWS][:TABLES_TOLD]
    return " ".join(told) or _ANYTHING


def with_narrowing(
    error: ServerError,
    asked: Plan | Statement,
    store: SeenStore,
    cuts: Mapping[str, int] | None = None,
    filters: Mapping[str, Filters | None] | None = None,
) -> ServerError:
    """Return ``error``; one about the engine's memory is counted, and its hint says what to narrow."""
    if isinstance(error, ResourceExhaustedError) and error.limit in MEMORY_LIMITS:
        store.metrics.add("queries_out_of_memory")
        error.hint = f"{what_to_narrow(asked, store, cuts, filters)} The operator may raise {error.limit}."
    elif isinstance(error, ResourceExhaustedError) and error.limit == VALUE_LIMIT:
        store.metrics.add("values_refused")
    return error


def opened_tables(
    asked: Plan | Statement,
    store: SeenStore,
    cuts: Mapping[str, int] | None = None,
    filters: Mapping[str, Filters | None] | None = None,
) -> list[Wide]:
    """Return what a query opens of each stored table that it reads."""
    plan = asked if isinstance(asked, Plan) else None
    statement = asked.statement if isinstance(asked, Plan) else asked
    known = filters if filters is not None else plan.filters if plan is not None else {}
    found = []
    for reading in statement.readings():
        try:
            snapshot = _snapshot(reading, plan, store, cuts)
        except ServerError:  # the version is gone meanwhile: there is nothing to say of it
            continue
        scans = known.get(reading.key)
        segments, parts = chosen(snapshot, scans, reading.upto(cuts))
        found.append(_wide(reading, scans, segments, parts, snapshot))
    return found


def has_condition(node: Filter | None, column: str) -> bool:
    """Return whether ``node`` lets only some values of ``column`` through."""
    match node:
        case And(left, right):
            return has_condition(left, column) or has_condition(right, column)
        case Or(left, right):
            return has_condition(left, column) and has_condition(right, column)
        case Compare(op, name, _):
            return name == column and op != "!="
        case In(name, _) | IsNull(name):
            return name == column
        case Not(Compare("!=", name, _)):
            return bool(name == column)
        case Literal(value):
            return value is not True  # nothing is let through
    return False


def _snapshot(reading: Reading, plan: Plan | None, store: SeenStore, cuts: Mapping[str, int] | None) -> TableSnapshot:
    if reading.travel is None or plan is None or reading.key not in plan.versions:
        return store.snapshot(reading.table.name, reading.upto(cuts))
    return store.snapshot_at(reading.table.name, plan.versions[reading.key])


def _wide(
    reading: Reading, filters: Filters | None, segments: list[Segment], parts: PartIndex, snapshot: TableSnapshot
) -> Wide:
    names = {column.name for column in snapshot.table.columns}
    if snapshot.since_us is not None:  # of parts that also have older rows, which may not be seen, nothing is told
        parts = parts.chosen(parts.min_us >= snapshot.since_us)
    missing = tuple(c for c in COLUMNS if not filters or not all(has_condition(f, c) for f in filters))
    in_memory = sum(s.rows for s in segments)
    least: dict[str, tuple[int, int]] = {}
    for column in ("exchange", "symbol"):
        values, most = _labels(column, segments, parts)
        if values > 1 and column in names:
            least[column] = (values, most)
    days, most = _days(segments, parts)
    # the bounds of segments may be those of rows that may not be seen
    if days > 1 and snapshot.whole is None:
        least["timestamp"] = (days, most)
    starts = [s.min_us for s in segments] + ([int(parts.min_us.min())] if len(parts) else [])
    ends = [s.max_us for s in segments] + ([int(parts.max_us.max())] if len(parts) else [])
    return Wide(
        f"{reading.table.schema}.{reading.table.name}",
        parts.total_rows + in_memory,
        len(parts),
        len(segments),
        missing,
        least,
        min(starts, default=0),
        max(ends, default=0),
    )


def _labels(column: str, segments: list[Segment], parts: PartIndex) -> tuple[int, int]:
    """Return how many values a column of names has, and the most rows that one of them may have."""
    codes, names = parts.labels(column)
    rows = np.bincount(codes, weights=parts.rows, minlength=1) if len(parts) else np.zeros(1)
    counts = {names[code]: int(rows[code]) for code in np.unique(codes).tolist()}
    for segment in segments:
        for name in segment.exchanges if column == "exchange" else segment.symbols:
            counts[name] = counts.get(name, 0) + segment.rows
    return len(counts), max(counts.values(), default=0)


def _days(segments: list[Segment], parts: PartIndex) -> tuple[int, int]:
    """Return how many days there are rows of, and the most rows that one of them may have; a part is of one day."""
    days, codes = np.unique(parts.day, return_inverse=True)
    rows = np.bincount(codes, weights=parts.rows, minlength=len(days))
    counts = {int(day): int(count) for day, count in zip(days, rows, strict=True)}
    for segment in segments:
        first, last = segment.min_us // DAY_US, segment.max_us // DAY_US
        for day in range(first, min(last, first + _DAYS_COUNTED) + 1):
            counts[day] = counts.get(day, 0) + segment.rows
    return len(counts), max(counts.values(), default=0)


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _moment(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%d %H:%M")
