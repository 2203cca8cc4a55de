"""One client of the sandbox: a bounded queue and the task that empties it into the socket.

The rule of this file: `Subscriber.offer` never waits. What finds the queue full closes the client with a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque

from aiohttp import WSCloseCode, web

LOG = logging.getLogger(__name__)

QUEUE_MESSAGES_MAX = 20_000  # ten seconds of the default rate; at about 250 bytes a message 5 MB


class Subscriber:
    """A connected client. ``sent`` counts, by channel, the messages that were handed to its socket."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        queue_messages_max: int,
        sent: Counter[str],
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._queue: deque[tuple[str, str | None]] = deque()
        self._queue_messages_max = queue_messages_max
        self._sent = sent
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self.overflowed = False
        loop = asyncio.get_running_loop()
        self._writer = loop.create_task(self._write(), name="sandbox.writer")
        self._closer: asyncio.Task[None] | None = None

    def offer(self, text: str, channel: str | None = None) -> None:
        """Queue a message; it is counted as ``channel`` once it is handed to the socket."""
        if self.overflowed:
            return
        if len(self._queue) >= self._queue_messages_max:
            self.overflowed = True
            reason = f"slow: {len(self._queue)} messages are waiting"
            LOG.warning("a subscriber is closed, %s", reason)
            self._closer = asyncio.get_running_loop().create_task(self.close(WSCloseCode.POLICY_VIOLATION, reason))
            return
        self._queue.append((text, channel))
        self._emptied.clear()
        self._filled.set()

    async def drained(self) -> None:
        """Return when the queue is empty or the client is gone."""
        waiting = asyncio.ensure_future(self._emptied.wait())
        await asyncio.wait({waiting, self._writer}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def close(self, code: int, reason: str) -> None:
        """Close the client, by force if it does not read the close."""
        await self._stop_writing()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._socket.close(code=code, message=reason.encode(), drain=False)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()

    def cut(self) -> None:
        """Cut the connection as a broken network does; the client's handler sees its end."""
        if self._transport is not None:
            self._transport.abort()

    async def finish(self) -> None:
        """Leave no task behind; for the end of the client's handler."""
        await self._stop_writing()
        if self._closer is not None:
            await self._closer

    async def _stop_writing(self) -> None:
        self._queue.clear()
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer

    async def _write(self) -> None:
        queue, sent = self._queue, self._sent
        while True:
            await self._filled.wait()
            self._filled.clear()
            while queue:
                text, channel = queue[0]
                try:
                    await self._socket.send_str(text)
                except (ConnectionError, RuntimeError):
                    return  # the client is gone; its handler's loop ends too
                queue.popleft()
                if channel is not None:
                    sent[channel] += 1
            self._emptied.set()
