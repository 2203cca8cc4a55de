"""A tail: what is stored of a table, and then what is to come, each row once, in order of ``seq``.

The rule of this file: a tail is a position and nothing else. Rows that memory has let go of are read as by any query,
the others from memory; so a slow reader costs no memory, and one that was cut off goes on where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pyarrow as pa
import structlog

from tickflight_server.clock import Clock
from tickflight_server.config import MIB, QuerySettings
from tickflight_server.errors import BusyError, CancelledError, InputError, LagError, UnsupportedError
from tickflight_server.query.database import relation, set_now
from tickflight_server.query.engine import Engine
from tickflight_server.query.execution import batch_rows_for
from tickflight_server.query.fresh import Channel, Channels, Sieve
from tickflight_server.query.ordered import by_seq
from tickflight_server.query.plan import Plan
from tickflight_server.query.selection import Choice, check, need
from tickflight_server.query.session import DEFAULTS, Options
from tickflight_server.query.statement import Parameters, Statement
from tickflight_server.query.stopping import interrupt
from tickflight_server.query.trees import quoted

LOG = structlog.get_logger(__name__)
OnLag = Literal["end", "skip"]
_ON_LAG: tuple[OnLag, ...] = ("end", "skip")
_CAUGHT_UP_ROWS = 65_536  # so near to the newest row a reader counts as one who follows, and its lag as lag


@dataclass(frozen=True)
class Pass:
    """A query that each piece is put through: row by row, over the rows as the table ``view``."""

    statement: Statement
    view: str
    schema: pa.Schema
    parameters: Parameters = ()
    options: Options = DEFAULTS


@dataclass(frozen=True)
class Wanted:
    """What a reader asks for: rows after ``after`` (None: from now on) with a timestamp of ``since_us`` or later.

    ``resumed``: it was there before, so that rows which are gone are told. ``query`` is what a statement makes of the
    rows, in place of the columns of ``choice``; it gives at most ``limit`` rows. ``options`` say who asks.
    """

    choice: Choice
    after: int | None = None
    since_us: int | None = None
    resumed: bool = False
    on_lag: OnLag = "end"
    lag_rows_max: int = 0
    query: Pass | None = None
    limit: int | None = None
    options: Options = DEFAULTS


@dataclass(frozen=True, eq=False)
class Sent:
    """A batch of a tail and what is to be said with it; the fields are those of ``tickflight.v1.TailMark``."""

    batch: pa.RecordBatch
    seq: int
    newest_seq: int
    durable_us: int = 0
    skipped_first: int = 0
    skipped_last: int = 0
    skipped_why: str = ""
    ended: str = ""


class Tails:
    """The tails of a server.

    Args:
        engine: runs what readers ask of the rows, over the store whose tables are followed.
        settings: limits.
    """

    def __init__(self, engine: Engine, settings: QuerySettings, clock: Clock) -> None:
        self._store = engine.store
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._channels = Channels(
            clock, settings.tail_shared_mb * MIB, settings.batch_bytes, settings.tail_batches_per_s
        )
        self._lock = threading.Lock()
        self._open: set[Tail] = set()
        self._closed = False

    def open(self, wanted: Wanted) -> Tail:
        """Begin a tail; the caller closes it."""
        choice, query = wanted.choice, wanted.query
        table = self._store.tables[choice.table.name]
        shown = (query.statement.sql, query.view, query.options, repr(query.parameters)) if query else choice
        key = (choice.table.name, choice.exchanges, choice.symbols, wanted.since_us, shown)
        channel = self._channels.enter(key, table, lambda: self._sieve(wanted))
        try:
            tail = Tail(self, channel, key, wanted)
        except BaseException:
            self._channels.leave(key)
            raise
        with self._lock:
            self._open.add(tail)
            closed = self._closed
        self._store.metrics.add("tails")
        if closed:
            tail.stop(_stopping())
        return tail

    @contextmanager
    def _sieve(self, wanted: Wanted) -> Iterator[Sieve]:
        choice = wanted.choice
        query = wanted.query or self._where(choice)
        sieve = Sieve(
            query.schema if query else choice.schema(self._store.numeric),
            frozenset(choice.exchanges),
            frozenset(choice.symbols),
            wanted.since_us,
            permitted=partial(self._store.permitted, choice.table.name),
        )
        if query is None:
            yield sieve
            return
        with self.passing(query) as refine:
            yield replace(sieve, refine=refine)

    def _where(self, choice: Choice) -> Pass | None:
        """Return the query that lets through what a choice's condition does, None if it has none."""
        if not choice.where:
            return None
        # exchanges and symbols are looked at before it
        statement = self._engine.read(
            replace(choice, exchanges=(), symbols=()).select(", ".join(map(quoted, choice.columns)))
        )
        assert isinstance(statement, Statement)
        (reading,) = statement.readings()
        return Pass(statement, reading.view, choice.schema(self._store.numeric))

    def wanted(self, plan: Plan, options: Options) -> Wanted:
        """Return what a query over ``tail()`` asks for.

        Raises:
            UnsupportedError: it is not one that can be answered row by row.
            InputError: an argument of tail() cannot be.
        """
        statement = plan.statement
        if not statement.rowwise or len(statement.owns) != 1:
            raise UnsupportedError(
                "tail() never ends: its rows cannot be grouped, sorted, joined, or read twice.",
                hint="Write SELECT … FROM tail(…) WHERE … [LIMIT n]; client.live keeps any other query's result fresh.",
            )
        (call,) = statement.owns
        values = plan.calls[call]
        choice = check(self._engine, values["table"], values["exchanges"] or (), values["symbols"] or ())
        after, since_us = values["after_seq"], values["since"]
        return self.checked(
            Wanted(
                choice,
                0 if after is None and since_us is not None else after,
                since_us,
                on_lag=values["on_lag"],
                query=Pass(statement, call.view, plan.schema, plan.parameters, options),
                limit=statement.limit,
            )
        )

    def checked(self, wanted: Wanted) -> Wanted:
        """Return ``wanted``, which can be had.

        Raises:
            InputError: it cannot.
        """
        table = wanted.choice.table.name
        # of a table whose rows have no seq to its caller no position can be told
        need(wanted.choice.table, ("seq",) if wanted.since_us is None else ("seq", "timestamp"))
        if wanted.on_lag not in _ON_LAG:
            raise InputError(f"on_lag is {str(wanted.on_lag)[:100]!r}.", hint=f"It is one of {', '.join(_ON_LAG)}.")
        newest = self._store.tables[table].state.last_seq
        if wanted.after is not None and not 0 <= wanted.after <= newest:
            raise InputError(
                f"rows after seq {wanted.after} are asked for, and the newest row of {table} has {newest}.",
                hint="Was the data folder put back from a backup? Begin with since, or from now.",
            )
        return wanted

    @contextmanager
    def passing(self, query: Pass) -> Iterator[Callable[[pa.Table], pa.Table]]:
        """Give a function that puts rows through a query, one call after the other."""
        engine = self._engine
        connection = engine.connections.connect(query.options)
        rows = batch_rows_for(query.schema, self._settings.batch_bytes)

        def run(table: pa.Table) -> pa.Table:
            try:
                set_now(connection, self._clock.now_us())
                connection.register(query.view, table)
                found = relation(connection, query.statement.sql, query.parameters).to_arrow_reader(rows).read_all()
            except Exception as error:
                raise engine.translate(error, query.statement) from None
            return found if found.schema.equals(query.schema) else found.cast(query.schema)

        try:
            yield run
        finally:
            interrupt(connection)
            connection.close()

    def end(self, tail: Tail, key: Hashable) -> None:
        """Forget a tail that has ended."""
        with self._lock:
            if tail not in self._open:
                return
            self._open.remove(tail)
        self._channels.leave(key)
        self._store.metrics.add("tails_ended")

    def close(self) -> None:
        """End all tails: the server stops."""
        with self._lock:
            self._closed = True
            open_now = list(self._open)
        for tail in open_now:
            tail.stop(_stopping())

    def history(self, tail: Tail, upto: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield what is stored after the tail's position up to ``upto``, with the ``seq`` behind each batch."""
        wanted = tail.wanted
        choice = wanted.choice
        pieces = by_seq(
            self._engine, choice, tail.seq, upto, since_us=wanted.since_us, started=tail.working, options=wanted.options
        )
        if wanted.query is None:
            yield from ((piece.batch, piece.seq) for piece in pieces)
            return
        with self.passing(wanted.query) as refine:
            for piece in pieces:
                table = refine(pa.Table.from_batches([piece.batch]))
                batches = table.combine_chunks().to_batches() or [_empty(table.schema)]
                yield batches[0], piece.seq

    def is_narrowed(self, table: str) -> bool:
        """Return whether there are rows or columns of ``table`` that readers may not see."""
        return self._store.is_narrowed(table)

    def count(self, name: str, value: float = 1) -> None:
        """Add to a counter of the server."""
        self._store.metrics.add(name, value)

    @property
    def settings(self) -> QuerySettings:
        """The limits."""
        return self._settings

    @property
    def clock(self) -> Clock:
        """The time."""
        return self._clock


class Tail:
    """One reader's tail. ``sent`` is read by one thread; ``stop`` may come from any."""

    def __init__(self, tails: Tails, channel: Channel, key: Hashable, wanted: Wanted) -> None:
        self._tails = tails
        self._channel = channel
        self._key = key
        self.wanted = wanted
        state = channel.table.state
        self._skipped: tuple[int, int, str] = (0, 0, "")
        start = state.last_seq if wanted.after is None else wanted.after
        if wanted.resumed and start + 1 < (oldest := state.oldest_seq):
            self._skipped = (start + 1, oldest - 1, "expired")
            start = oldest - 1
        self._reader = channel.join(start)
        most = tails.settings.tail_lag_rows_max
        self._lag_max = min(wanted.lag_rows_max or most, most)
        self._follows = self._is_near(state.last_seq - start)
        self._stopped = threading.Event()
        self._why: Exception | None = None
        self._cancel_work: Callable[[], None] | None = None
        self._left = wanted.limit
        # then newer rows are nothing that its reader is to know of before they were looked at
        self._narrowed = tails.is_narrowed(wanted.choice.table.name)
        self.schema = channel.schema
        self._none = _empty(self.schema)

    @property
    def seq(self) -> int:
        """All rows up to this one were looked at."""
        return self._reader.seq

    def working(self, cancel: Callable[[], None]) -> None:
        """Take what cancels the work under way."""
        self._cancel_work = cancel
        if self._stopped.is_set():
            cancel()

    def stop(self, why: Exception | None = None) -> None:
        """Let it end as soon as possible; a second call ends work that has begun meanwhile."""
        if not self._stopped.is_set():
            self._why = why
            self._stopped.set()
        if self._cancel_work is not None:
            self._cancel_work()
        self._channel.table.arrivals.wake()

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        self.stop()
        self._channel.leave(self._reader)
        self._tails.end(self, self._key)

    def sent(self) -> Iterator[Sent]:
        """Yield batches and marks until it is stopped: first a mark alone, so that the reader knows where it begins.

        Raises:
            LagError: the reader is too slow.
            CancelledError: it was stopped.
            ServerError: what it was stopped for, or a part cannot be read.
        """
        try:
            yield self._mark(self._none)
            yield from self._follow()
        finally:
            self.close()

    def _follow(self) -> Iterator[Sent]:
        table, arrivals = self._channel.table, self._channel.table.arrivals
        heartbeat_s, clock = self._tails.settings.heartbeat_s, self._tails.clock
        said = clock.monotonic()
        while self._left is None or self._left > 0:
            if self._stopped.is_set():
                raise self._why or CancelledError("the tail was cancelled.")
            behind = table.state.last_seq - self.seq
            self._follows = self._follows or self._is_near(behind)
            if self._follows and behind > self._lag_max:
                yield from self._lags(behind)
            elif behind == 0:
                wait_s = said + heartbeat_s - clock.monotonic()
                if not arrivals.wait(self.seq, max(0.0, wait_s), self._stopped.is_set) and wait_s <= 0:
                    yield self._mark(self._none)
                    said = clock.monotonic()
            elif wait_s := self._channel.due_s(self._reader):
                self._stopped.wait(wait_s)
            else:
                for one in self._step():
                    if one.batch.num_rows or clock.monotonic() - said >= heartbeat_s:
                        yield one
                        said = clock.monotonic()

    def _is_near(self, behind: int) -> bool:
        return behind <= min(_CAUGHT_UP_ROWS, self._lag_max)

    def _step(self) -> Iterator[Sent]:
        """Go on by a piece of the newest rows, or by all that is to be read from parts."""
        piece = self._channel.next(self._reader)
        if piece is not None:
            durable_us = self._channel.table.arrivals.durable_us(self.seq + 1)
            yield self._moved(piece.batch, piece.seq, durable_us)
            return
        state = self._channel.table.state
        if self.seq < state.ring_from:
            for batch, seq in self._tails.history(self, state.ring_from):
                yield self._moved(batch, seq)
                if self._left == 0 or self._stopped.is_set():
                    return

    def _moved(self, batch: pa.RecordBatch, seq: int, durable_us: int = 0) -> Sent:
        if self._left is not None:
            batch = batch.slice(0, self._left)
            self._left -= batch.num_rows
        self._reader.seq = seq
        # now, and not when it goes on: until then more may have come than a new one may lag
        self._follows = self._follows or self._is_near(self._channel.table.state.last_seq - seq)
        self._tails.count("tail_rows", batch.num_rows)
        return self._mark(batch, durable_us)

    def _lags(self, behind: int) -> Iterator[Sent]:
        if self.wanted.on_lag == "skip":
            newest = self.seq + behind
            self._tails.count("tail_rows_skipped", behind)
            self._skipped = (self.seq + 1, newest, "lag")
            self._reader.seq = newest
            yield self._mark(self._none)
            return
        self._tails.count("tails_lagged")
        LOG.warning("tail.lagged", table=self._channel.table.schema.name, seq=self.seq, behind=behind)
        yield replace(self._mark(self._none), ended="lag")
        raise LagError(
            f"the reader is {behind} rows behind, {self._lag_max} are allowed; it has all up to seq {self.seq}.",
            hint="Go on after it by its resume token; ask for fewer symbols or columns, or for on_lag 'skip'.",
        )

    def _mark(self, batch: pa.RecordBatch, durable_us: int = 0) -> Sent:
        skipped, self._skipped = self._skipped, (0, 0, "")
        newest = self.seq if self._narrowed else max(self.seq, self._channel.table.state.last_seq)
        return Sent(batch, self.seq, newest, durable_us, *skipped)


def _stopping() -> BusyError:
    return BusyError("the server stops.", hint="Go on with the last batch's resume token when it is back.")


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
