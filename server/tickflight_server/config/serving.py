"""Sections ``query``, ``flight`` and ``log``: how queries are answered, where, and what is told of it.

The rule of this file: a limit of serving is declared here and nowhere else, and has a description.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tickflight_server.config.identity import TlsSettings
from tickflight_server.config.section import MIB, Section


class QuerySettings(Section):
    """What a query may use."""

    threads: int = Field(0, ge=0, description="threads of the engine; 0 is one per core")
    memory_mb: int = Field(2048, ge=64, description="memory of all queries together")
    value_mb_max: int = Field(
        8, ge=1, description="largest value that repeat, lpad, rpad, list_resize, range and the like make of a row"
    )
    process_mb: int = Field(
        0, ge=0, description="memory of the process above which the statement that took most ends; 0 is no limit"
    )
    memory_reserve_mb: int = Field(
        512, ge=0, description="memory of the machine that statements leave; below it, the one that took most ends"
    )
    spill_mb: int = Field(0, ge=0, description="disk that queries may spill to; 0 is none")
    concurrent_max: int = Field(64, ge=1, description="queries under way at once; further ones wait")
    spare_places: int = Field(
        8, ge=0, description="places among them that only users who have none may take; an eighth of all at most"
    )
    queue_max: int = Field(1000, ge=0, description="statements that wait for a place; further ones are refused")
    queue_timeout_s: float = Field(30.0, gt=0, description="longest wait for a place among them")
    history_s: float = Field(3600.0, ge=0, description="an ended statement is in `system.queries` for so long")
    history_max: int = Field(10_000, ge=0, description="ended statements that are kept there; each at most 4 KB")
    sql_bytes_max: int = Field(1 * MIB, ge=1024, description="longest SQL text")
    nesting_max: int = Field(100, ge=10, le=1000, description="brackets within each other in a SQL text")
    with_nesting_max: int = Field(
        4, ge=1, le=6, description="WITH within each other; what does not parse takes 7 times as long for each"
    )
    clauses_max: int = Field(
        2000, ge=10, description="SELECT, FROM, JOIN, WHEN and set operations of a SQL text together"
    )
    chain_max: int = Field(10_000, ge=100, description="words and operators of a SQL text without a comma or bracket")
    probe_timeout_s: float = Field(2.0, gt=0, description="longest search for filters; after it, nothing is pruned")
    batch_bytes: int = Field(2 * MIB, ge=65_536, description="aimed size of a record batch on the wire")
    session_result_mb: int = Field(
        512, ge=1, description="largest result in a transaction that has written, or with temporary tables"
    )
    statement_timeout_s: float = Field(0.0, ge=0, description="longest run of a statement; 0 is no limit")
    book_cache_mb: int = Field(256, ge=0, description="memory for books that are kept between calls of book_at")
    book_levels_max: int = Field(10_000_000, ge=1000, description="levels, or books, that one call of books() may give")
    share_rows: int = Field(
        1_000_000, ge=1, description="rows of each endpoint when a plain scan is answered with several"
    )
    shares_max: int = Field(8, ge=1, le=1024, description="endpoints of one answer; 1 never splits")
    ordered_window_rows: int = Field(
        500_000, ge=1, description="rows that a scan in an order (tail, replay) sorts at once, about"
    )
    ordered_window_mb: int = Field(64, ge=1, description="their size, about, where rows are long")
    sights_max: int = Field(
        64, ge=1, description="different rights in use at once; each has an engine, with memory_mb of its own"
    )
    narrowed_mb: int = Field(
        256, ge=0, description="rows kept of those in memory, once chosen for what a role may see; for each sight"
    )
    sessions_max: int = Field(10_000, ge=1, description="sessions with options, transactions or temporary tables")
    session_idle_s: float = Field(3600.0, gt=0, description="an unused session ends after it, and rolls back")
    transaction_idle_s: float = Field(600.0, gt=0, description="an unused transaction that has written is rolled back")
    tail_lag_rows_max: int = Field(
        5_000_000, ge=1, description="rows that a reader of a tail may be behind; then it ends, or skips them"
    )
    tail_batches_per_s: int = Field(
        2000,
        ge=1,
        description="batches of new rows that all tails together are sent a second; more readers, larger ones",
    )
    tail_shared_mb: int = Field(
        8, ge=1, description="new rows kept in memory for readers of like tails, for each kind of tail"
    )
    handles_max: int = Field(10_000, ge=1, description="open tickets and prepared statements")
    handle_idle_s: float = Field(600.0, gt=0, description="an unused ticket or prepared statement is dropped after it")
    streams_max: int = Field(256, ge=1, description="tails, live queries and replays open at once")
    heartbeat_s: float = Field(5.0, gt=0, description="longest silence on a stream of live rows")
    live_every_min_ms: int = Field(50, ge=1, description="least time between two updates of a live query")
    live_result_mb: int = Field(64, ge=1, description="largest result of a live query, which is kept in memory")


class FlightSettings(Section):
    """Where the Flight SQL server listens."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8815, ge=0, le=65_535, description="port; 0 takes a free one and tells it")
    message_bytes_max: int = Field(64 * MIB, ge=MIB, description="largest batch taken, once unpacked and written out")
    connections_max: int = Field(4096, ge=1, description="connections; above it, those without a login yet end first")
    connections_per_address_max: int = Field(1024, ge=1, description="the same, of one address")
    connects_per_s_max: int = Field(
        1000, ge=0, description="new connections a second; of more, the system lets a share come; 0 is no limit"
    )
    greeting_s: float = Field(10.0, gt=0, description="a connection on which no call was let in ends after it")
    greeting_mb_max: int = Field(64, ge=1, description="what all connections without a login yet may have sent")
    unread_mb_max: int = Field(512, ge=1, description="what a connection may send before some of it is taken")
    calls_max: int = Field(2000, ge=1, description="calls under way")
    calls_per_user_max: int = Field(1000, ge=1, description="the same, of one user")
    tls: TlsSettings | None = Field(None, description="encryption; without it, all travels readable")


class LogSettings(Section):
    """What the process says about itself."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is written")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto is console on a terminal, else JSON")
