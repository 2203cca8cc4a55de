"""The client for asyncio: the verbs of ``tickflight.Client``, none of which blocks the event loop.

The rule of this file: every verb is the blocking client's, called in a thread; a task that is cancelled while it waits
stops on the server what it waits for.

>>> async with tickflight.aio.connect("grpc://127.0.0.1:8815") as client:
...     frame = await (await client.sql("SELECT symbol, count(*) AS n FROM trades GROUP BY symbol")).polars()
...     async with client.tail("trades", symbols=["BTC-USDT"]) as tail:
...         async for batch in tail:
...             print(batch.num_rows, tail.token)
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow as pa

from tickflight import client as blocking
from tickflight.aio_streams import AsyncLive, AsyncReplay, AsyncStream, AsyncTail
from tickflight.background import STOPPER, Running, Stopper, in_background
from tickflight.book import Book
from tickflight.client import Client, Parameters
from tickflight.connection import DEFAULT_ADDRESS
from tickflight.result import Result
from tickflight.snapshot import Snapshot
from tickflight.wire.actions import HealthResult
from tickflight.writer import Ack, Writer

if TYPE_CHECKING:
    import pandas
    import polars

T = TypeVar("T")
Stream = TypeVar("Stream", bound=AsyncStream[Any, Any])


def connect(address: str = DEFAULT_ADDRESS, **options: Any) -> Connecting:
    """Begin to connect to a server: await what is returned, or enter it with ``async with``.

    ``options`` are those of ``tickflight.connect``, and so are the errors.
    """
    return Connecting(address, options)


class Connecting:
    """A connection that is made when it is awaited or entered."""

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        self._address, self._options = address, options
        self._client: AsyncClient | None = None

    async def _connect(self) -> AsyncClient:
        calls = _Calls()
        made = await calls.run(blocking.connect, self._address, **self._options)
        self._client = AsyncClient(made)
        return self._client

    def __await__(self) -> Generator[Any, None, AsyncClient]:
        return self._connect().__await__()

    async def __aenter__(self) -> AsyncClient:
        return await self._connect()

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


class _Calls:
    """Calls of the blocking client that are under way, each in a thread of its own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._stoppers: set[Stopper] = set()
        self.streams: weakref.WeakSet[AsyncStream[Any, Any]] = weakref.WeakSet()

    async def run(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return what ``call`` returns; if this is cancelled, what it does on the server is stopped."""
        stopper = Stopper()

        def work() -> T:
            STOPPER.set(stopper)
            return call(*arguments, **options)

        self._stoppers.add(stopper)
        try:
            return await asyncio.wrap_future(self._begin(work))
        except asyncio.CancelledError:
            self._begin(stopper.stop)
            raise
        finally:
            self._stoppers.discard(stopper)

    def _begin(self, run: Callable[[], T]) -> Running[T]:
        running = in_background(run, "tickflight-aio")
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(running.thread)
        return running

    async def end(self) -> None:
        """Stop what goes on; when this returns every thread has ended."""
        for stopper in list(self._stoppers):
            self._begin(stopper.stop)
        ending = [*self._threads, *(stream.abandon().thread for stream in list(self.streams))]

        def join() -> None:
            for thread in ending:
                thread.join()

        joining = in_background(join, "tickflight-aio-close")
        await asyncio.shield(asyncio.wrap_future(joining))
        joining.thread.join()  # it has nothing more to do


class AsyncResult:
    """The rows of a query: ``await`` one of its forms, or ``async for`` its batches; see ``tickflight.Result``.

    At a prompt or in a notebook it shows its first rows, which may block the event loop until they are there.
    """

    def __init__(self, calls: _Calls, result: Result) -> None:
        self._calls = calls
        self._result = result

    async def __aenter__(self) -> AsyncResult:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._result)

    def _repr_html_(self) -> str:
        return self._result._repr_html_()

    async def _read(self, form: Callable[..., T], **options: Any) -> T:
        try:
            return await self._calls.run(form, **options)
        except asyncio.CancelledError:
            self._result.close()
            raise

    async def arrow(self) -> pa.Table:
        """Return all rows as a pyarrow Table."""
        return await self._read(self._result.arrow)

    async def polars(self) -> polars.DataFrame:
        """Return all rows as a polars DataFrame."""
        return await self._read(self._result.polars)

    async def pandas(self, **options: Any) -> pandas.DataFrame:
        """Return all rows as a pandas DataFrame; ``options`` are those of ``pyarrow.Table.to_pandas``."""
        return await self._read(self._result.pandas, **options)

    def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        """Yield the batches as they arrive."""
        stream: AsyncStream[Result, pa.RecordBatch] = AsyncStream(lambda: self._result)
        self._calls.streams.add(stream)
        return self._batches(stream)

    async def _batches(self, stream: AsyncStream[Result, pa.RecordBatch]) -> AsyncIterator[pa.RecordBatch]:
        try:
            async for batch in stream:
                yield batch
        finally:
            stream.abandon()

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._result.schema

    def close(self) -> None:
        """End the stream if it is not read to its end."""
        self._result.close()


class AsyncSnapshot:
    """A hold on the rows that every table has at one moment; see ``tickflight.Snapshot``."""

    def __init__(self, calls: _Calls, snapshot: Snapshot) -> None:
        self._calls = calls
        self.snapshot = snapshot

    async def __aenter__(self) -> AsyncSnapshot:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    @property
    def id(self) -> str:
        """Its name, which any connection of any process may use."""
        return self.snapshot.id

    @property
    def cuts(self) -> Mapping[str, int]:
        """The ``seq`` of each table's last row in it."""
        return self.snapshot.cuts

    @property
    def expires(self) -> datetime:
        """When the server lets go of it, UTC."""
        return self.snapshot.expires

    async def renew(self, seconds: int | None = None) -> None:
        """Let it hold for ``seconds`` from now on, as long as it was made for when absent."""
        await self._calls.run(self.snapshot.renew, seconds)

    async def release(self) -> None:
        """Let it go; a second time does nothing."""
        await self._calls.run(self.snapshot.release)


class AsyncWriter:
    """A stream of batches into one table; see ``tickflight.Writer``."""

    def __init__(self, calls: _Calls, writer: Writer) -> None:
        self._calls = calls
        self._writer = writer

    async def __aenter__(self) -> AsyncWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def write(self, batch: pa.RecordBatch | pa.Table) -> asyncio.Future[Ack]:
        """Send a batch; returns when there is room for it. ``await`` what is returned until its rows are durable.

        What is being sent when its task is cancelled may be stored.
        """
        return asyncio.wrap_future(await self._calls.run(self._writer.write, batch))

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the blocking writer's argument
        """Return when every batch written so far has its answer."""
        await self._calls.run(self._writer.flush, timeout)

    async def close(self) -> None:
        """Wait for all answers, then end the stream."""
        await self._calls.run(self._writer.close)


class AsyncClient:
    """A connection to a server for the tasks of an event loop. Use it with ``async with``, or ``close`` it.

    What gives rows is awaited and returns an ``AsyncResult``. What follows rows (``tail``, ``live``, ``replay``)
    returns a stream at once, which begins when it is entered or read.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls = _Calls()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._client).replace("Client", "AsyncClient", 1)

    async def _result(self, verb: Callable[..., Result], *arguments: Any, **options: Any) -> AsyncResult:
        return AsyncResult(self._calls, await self._calls.run(verb, *arguments, **_plain(options)))

    async def sql(self, query: str, params: Parameters | None = None, **options: Any) -> AsyncResult:
        """Run a query; ``options`` and errors are those of ``Client.sql``."""
        return await self._result(self._client.sql, query, params, **options)

    async def bars(self, *arguments: Any, **options: Any) -> AsyncResult:
        """Make bars of trades; arguments and errors are those of ``Client.bars``."""
        return await self._result(self._client.bars, *arguments, **options)

    async def book(self, *arguments: Any, **options: Any) -> Book:
        """Return the order book as it stood at an instant; arguments and errors are those of ``Client.book``."""
        return await self._calls.run(self._client.book, *arguments, **_plain(options))

    async def books(self, *arguments: Any, **options: Any) -> AsyncResult:
        """Return the order book at each instant of a grid; arguments and errors are those of ``Client.books``."""
        return await self._result(self._client.books, *arguments, **options)

    def tail(self, table: str, **options: Any) -> AsyncTail:
        """Follow a table; ``options`` and errors are those of ``Client.tail``."""
        return self._stream(AsyncTail(lambda: self._client.tail(table, **options)))

    def live(self, sql: str, params: Parameters | None = None, **options: Any) -> AsyncLive:
        """Keep a query's result fresh; ``options`` and errors are those of ``Client.live``."""
        return self._stream(AsyncLive(lambda: self._client.live(sql, params, **options)))

    def replay(self, *arguments: Any, **options: Any) -> AsyncReplay:
        """Replay stored events in order of time; arguments and errors are those of ``Client.replay``."""
        return self._stream(AsyncReplay(lambda: self._client.replay(*arguments, **_plain(options))))

    def _stream(self, stream: Stream) -> Stream:
        self._calls.streams.add(stream)
        return stream

    async def snapshot(self, seconds: int = 3600) -> AsyncSnapshot:
        """Hold the rows that every table has now; see ``Client.snapshot``."""
        return AsyncSnapshot(self._calls, await self._calls.run(self._client.snapshot, seconds))

    async def health(self) -> HealthResult:
        """Return how the server is doing."""
        return await self._calls.run(self._client.health)

    async def queries(self, *, running: bool = False) -> AsyncResult:
        """Return the statements that run and those that ended lately; see ``Client.queries``."""
        return await self._result(self._client.queries, running=running)

    async def cancel(self, id: str) -> bool:
        """End a statement by its id in ``system.queries``; see ``Client.cancel``."""
        return await self._calls.run(self._client.cancel, id)

    async def tables(self) -> list[str]:
        """Return the names of all tables, as ``schema.table``."""
        return await self._calls.run(self._client.tables)

    async def schema(self, name: str) -> pa.Schema:
        """Return the Arrow schema of a table; see ``Client.schema``."""
        return await self._calls.run(self._client.schema, name)

    async def flush(self) -> dict[str, int]:
        """Let the server move all rows into parts now; return the flushed ``seq`` by table."""
        return await self._calls.run(self._client.flush)

    async def report_feed(self, feed: str, values: Mapping[str, Any]) -> None:
        """Tell the server how a feed process is doing; see ``Client.report_feed``."""
        await self._calls.run(self._client.report_feed, feed, values)

    @property
    def numeric_type(self) -> Literal["float64", "decimal"]:
        """How the server keeps prices and sizes; known since the connection was made."""
        return self._client.numeric_type

    def writer(self, table: str, **options: Any) -> AsyncWriter:
        """Return a writer of batches into a market table; ``options`` are those of ``Writer``."""
        return AsyncWriter(self._calls, self._client.writer(table, **options))

    async def close(self) -> None:
        """Close streams and connection; when this returns no thread of this client is left."""
        await self._calls.end()
        self._client.close()


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the blocking client's snapshot in the place of ours."""
    seen = options.get("snapshot")
    return {**options, "snapshot": seen.snapshot} if isinstance(seen, AsyncSnapshot) else options
