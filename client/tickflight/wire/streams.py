"""Streams of rows in an order, with an end or without one: a tail, a replay, a live query, and their marks.

The rule of this file: a request is a command of GetFlightInfo and a ticket of DoGet in the same bytes; a mark is bare
and travels as app_metadata beside the batch that it speaks of.
"""

from __future__ import annotations

from dataclasses import dataclass

from tickflight.wire.codec import TICKFLIGHT, Message, Wrapped


@dataclass(frozen=True)
class Selection(Message, package=TICKFLIGHT):
    """Rows and columns of one stored table; a filter that is empty lets everything through.

    ``table`` may have its schema before it; ``columns`` are in their order; ``where`` is a condition in SQL.
    """

    table: str = ""
    exchanges: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Tail(Wrapped, package=TICKFLIGHT):
    """What is stored, and then what is to come, each row once, in order of ``seq``.

    It begins after ``after_seq`` or where ``resume`` says; with ``since_us`` alone at the oldest row, and without any
    with the rows that are stored from now on. ``since_us``: only rows with this timestamp or a later one, in
    microseconds since 1970 UTC. ``on_lag``: "end" or "skip", once the reader is ``lag_rows_max`` rows behind.
    """

    selection: Selection | None = None
    after_seq: int | None = None
    resume: bytes = b""
    since_us: int | None = None
    on_lag: str = ""
    lag_rows_max: int = 0


@dataclass(frozen=True)
class TailMark(Message, package=TICKFLIGHT):
    """What a batch of a tail means: how to go on after it, and what was left out before it.

    All rows up to ``seq`` were looked at, ``newest_seq`` is the table's newest, ``durable_us`` when the first row of
    the batch became durable. Rows ``skipped_first`` to ``skipped_last`` were not sent, for ``skipped_why``: "lag" or
    "expired". ``ended``: the stream ends here, for "lag".
    """

    resume: bytes = b""
    seq: int = 0
    newest_seq: int = 0
    durable_us: int = 0
    skipped_first: int = 0
    skipped_last: int = 0
    skipped_why: str = ""
    ended: str = ""


@dataclass(frozen=True)
class ResumeToken(Message, package=TICKFLIGHT):
    """What a mark's ``resume`` holds: of which data folder (``writer``, 16 bytes) and table, after which ``seq``."""

    writer: bytes = b""
    table: str = ""
    seq: int = 0
    since_us: int | None = None


@dataclass(frozen=True)
class Replay(Wrapped, package=TICKFLIGHT):
    """Stored rows in order of timestamp, receipt_timestamp and seq, with ``start_us`` <= timestamp < ``end_us``."""

    selection: Selection | None = None
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True)
class Live(Wrapped, package=TICKFLIGHT):
    """A query's result, and again whenever it has changed, at most once in ``every_ms``; ``params`` as in Query."""

    sql: str = ""
    params: bytes = b""
    every_ms: int = 0


@dataclass(frozen=True)
class LiveMark(Message, package=TICKFLIGHT):
    """Which ``update`` a batch belongs to, whether it is its ``last`` one, and how the update was made.

    ``update`` 0 is of no update: an empty batch that says that the server is there. ``mode`` is "incremental" or
    "asked again", for ``reason``; ``asked_us`` is when, in microseconds since 1970 UTC.
    """

    update: int = 0
    last: bool = False
    mode: str = ""
    reason: str = ""
    asked_us: int = 0
