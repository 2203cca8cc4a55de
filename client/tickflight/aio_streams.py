"""Streams for asyncio: each is a stream of the blocking client, read in a thread of its own, one item at a time.

The rule of this file: nothing is read that nobody asked for, so that what a reader has not taken stays with the server;
and a stream whose reader was cancelled is closed, on the server, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import pyarrow as pa

from tickflight.background import STOPPER, Running, Stopper, Worker, in_background
from tickflight.errors import TickflightError
from tickflight.events import events
from tickflight.live import Live
from tickflight.merging import ReplayChunk
from tickflight.replay import Replay
from tickflight.tail import Skipped, Tail

T = TypeVar("T")
S = TypeVar("S")
_END: Any = object()


class AsyncStream(Generic[S, T]):
    """Items of a blocking stream, for ``async for``.

    It is opened when the first item is asked for, or on ``async with``. A task that is cancelled while it waits for an
    item closes the stream; ``next`` waits for a limited time without that. Only one task at a time may wait.

    Args:
        opening: makes the blocking stream, in the stream's thread; what it has to say comes from the first item.
    """

    def __init__(self, opening: Callable[[], S]) -> None:
        self._opening = opening
        self._stopper = Stopper()
        self._worker: Worker | None = None
        self._source: S | None = None
        self._items: Iterator[T] | None = None
        self._coming: Future[T] | None = None  # an item that was asked for, and not taken
        self._closed: Running[None] | None = None

    def __del__(self) -> None:
        if getattr(self, "_worker", None) is not None and self._closed is None:
            self.abandon()

    async def __aenter__(self) -> Any:
        opening = self._submit(self._open)
        await self._wait(opening, None)
        opening.result()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._next(None)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def next(self, timeout_s: float | None = None) -> T | None:
        """Return the next item; None if none came in time, or none will. An item that comes later is not lost."""
        item = await self._next(timeout_s)
        return None if item is _END else item

    async def aclose(self) -> None:
        """Close the stream; when this returns its thread has ended."""
        closing = self.abandon()
        await asyncio.shield(asyncio.wrap_future(closing))
        closing.thread.join()

    def abandon(self) -> Running[None]:
        """Let the stream close; the future ends when it is closed, and so has its thread."""
        if self._closed is None:
            self._closed = in_background(self._close, "tickflight-aio-close")
        return self._closed

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or is being closed."""
        return self._closed is not None

    @property
    def source(self) -> S:
        """The blocking stream.

        Raises:
            TickflightError: it is not open yet.
        """
        if self._source is None:
            raise TickflightError("this stream is not open yet: enter it with 'async with', or take an item.")
        return self._source

    # --- the reader's side

    async def _next(self, timeout_s: float | None) -> T:
        if self.is_closed:
            return _END  # type: ignore[no-any-return]
        if self._coming is None:
            self._coming = self._submit(self._advance)
        if not await self._wait(self._coming, timeout_s):
            return None  # type: ignore[return-value]
        coming, self._coming = self._coming, None
        return _END if self._cut_off(coming) else coming.result()

    def _cut_off(self, coming: Future[T]) -> bool:
        """Return whether an item failed because the stream was closed meanwhile."""
        return self.is_closed and coming.exception() is not None

    def _submit(self, run: Callable[[], Any]) -> Future[Any]:
        if self._worker is None:
            self._worker = Worker("tickflight-aio-stream")
            self._worker.submit(lambda: STOPPER.set(self._stopper))
        return self._worker.submit(run)

    async def _wait(self, future: Future[Any], timeout_s: float | None) -> bool:
        """Return whether ``future`` ended in time; who is cancelled meanwhile closes the stream."""
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait([waiting], timeout=timeout_s)
        except asyncio.CancelledError:
            self.abandon()
            raise
        finally:
            # what it raises is raised by who takes the item
            waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return bool(done)

    # --- the thread's side

    def _open(self) -> None:
        if self._source is None:
            self._source = self._opening()
            self._items = iter(self._source)  # type: ignore[call-overload]

    def _advance(self) -> T:
        self._open()
        assert self._items is not None
        return next(self._items, _END)

    def _close(self) -> None:
        self._stopper.stop()
        if self._worker is None:
            return
        if self._source is not None:
            self._source.close()  # type: ignore[attr-defined]
        self._worker.submit(self._close_source)  # what was being opened is there by then
        ended = self._worker.close()
        ended.result()
        ended.thread.join()

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()  # type: ignore[attr-defined]


class AsyncTail(AsyncStream[Tail, pa.RecordBatch]):
    """A tail for asyncio; what it says of itself is about the batch that was taken last."""

    @property
    def token(self) -> str:
        """Where it is: ``client.tail(..., resume=token)`` goes on after the batch that was taken last."""
        return self.source.token

    @property
    def seq(self) -> int:
        """All rows up to this one were looked at; those that match were yielded."""
        return self.source.seq

    @property
    def lag(self) -> int:
        """How many rows it was behind when the last batch was sent."""
        return self.source.lag

    @property
    def skipped(self) -> list[Skipped]:
        """What was not sent, the newest last."""
        return self.source.skipped

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.source.schema


class AsyncLive(AsyncStream[Live, pa.Table]):
    """A live query for asyncio: each item is the whole result, a slow reader gets the newest."""

    @property
    def mode(self) -> str:
        """How updates are made: "incremental" or "asked again"; "" before the first."""
        return self.source.mode

    @property
    def reason(self) -> str:
        """Why updates are not incremental; "" if they are."""
        return self.source.reason

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.source.schema


class AsyncReplay(AsyncStream[Replay, ReplayChunk]):
    """A replay for asyncio, by chunks, ``batches()`` or ``events()``; one of them, once."""

    async def batches(self) -> AsyncIterator[tuple[str, pa.RecordBatch]]:
        """Yield table and rows in strict order: as many rows at once as no other table's come between."""
        async for chunk in self:
            for run in chunk.runs():
                yield run

    async def events(self) -> AsyncIterator[Any]:
        """Yield single events, as ``Replay.events`` does; between two chunks other tasks run."""
        async for chunk in self:
            for event in events(chunk, list(self.source.types.values())):
                yield event

    @property
    def digest(self) -> str:
        """What was read, after its end; see ``Replay.digest``."""
        return self.source.digest
