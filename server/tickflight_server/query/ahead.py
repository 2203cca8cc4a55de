"""Batches made before they are asked for, by a few threads for all who read.

The rule of this file: those who make are as many as the processor has cores, however many read; for each reader no more
than ``LANES`` sources are open, and no more than ``MOST`` batches of each wait; they come in the sources' order.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from queue import SimpleQueue

import pyarrow as pa

from tickflight_server.errors import CancelledError

Batches = Iterator[pa.RecordBatch]
LANES = 2
MOST = 6
RANK_S = 0.005  # so much later is a reader's wish, for each place that it stands behind the first


class Ahead:
    """Makes batches ahead of their readers, on at most ``threads`` threads, which end with ``close``.

    More threads than cores would each bring memory of its own for the same work: pages that the system clears anew were
    a quarter of the time of 16 endpoints that were read at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Line]] = []
        self._numbers = count()
        self._started = self._closed = False

    def batches(self, sources: Iterable[Batches], rank: int = 0) -> Batches:
        """Yield the batches of one of ``sources`` after the other, from the first request on some made in advance.

        ``rank`` is the reader's place among those who read the same result: drivers read one endpoint after the other,
        and wait for the first.

        Raises:
            CancelledError: this was closed.
        """
        coming = (_Line(source, rank) for source in sources)
        lines: deque[_Line] = deque()
        while True:
            for line in islice(coming, LANES - len(lines)):
                lines.append(line)
                self._ask(line)
            if not lines:
                return
            made, again = lines[0].take()
            if again:
                self._ask(lines[0])
            if made is None:
                lines.popleft()
            elif isinstance(made, BaseException):
                try:
                    raise made
                finally:
                    del made  # or the error and this frame are a circle
            else:
                yield made

    def close(self) -> None:
        """Make no more; who waits gets an error."""
        with self._changed:
            self._closed = True
            left, self._due = self._due, []
            self._changed.notify_all()
        for _, _, line in left:
            line.end()

    def _ask(self, line: _Line) -> None:
        """Have one more batch of ``line`` made."""
        with self._changed:
            if not self._closed:
                heapq.heappush(self._due, (time.monotonic() + line.rank * RANK_S, next(self._numbers), line))
                self._changed.notify()
                if not self._started:
                    self._started = True
                    for number in range(self._threads):
                        threading.Thread(target=self._run, name=f"read-ahead-{number}", daemon=True).start()
                return
        line.end()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    if self._closed:
                        return
                    self._changed.wait()
                _, _, line = heapq.heappop(self._due)
            if line.make():
                self._ask(line)
            del line  # or it would be kept until the next one comes


class _Line:
    """What is made of one source; it is asked for one batch at a time."""

    def __init__(self, source: Batches, rank: int) -> None:
        self.rank = rank
        self._source = source
        self._made: SimpleQueue[pa.RecordBatch | BaseException | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._asked = True
        self._ended = False

    def make(self) -> bool:
        """Make one batch; return whether to make another."""
        made: pa.RecordBatch | BaseException | None
        try:
            made = next(self._source, None)
        except BaseException as error:  # it is raised where the batch is taken
            made = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)  # without this frame
        with self._lock:
            self._waiting += 1
            self._ended = not isinstance(made, pa.RecordBatch)
            self._asked = asked = not self._ended and self._waiting < MOST
        self._made.put(made)
        return asked

    def take(self) -> tuple[pa.RecordBatch | BaseException | None, bool]:
        """Return the next batch when it is there, None after the last, and whether another is to be asked for."""
        made = self._made.get()
        with self._lock:
            self._waiting -= 1
            again = not self._asked and not self._ended
            self._asked = self._asked or again
        return made, again

    def end(self) -> None:
        """Give an error in the place of the next batch."""
        with self._lock:
            self._ended = True
        self._made.put(CancelledError("the server ends."))
