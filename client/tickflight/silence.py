"""Silence on a stream: a peer that is gone may never say so, and a network may swallow what is sent.

The rule of this file: only time that somebody waits for the stream counts; a reader that works is not cut off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from tickflight.background import in_background
from tickflight.errors import UnavailableError

_TURN_S = 0.1  # so often it looks whether it was closed, or interrupted, while a stream is opened


class Guard:
    """Cancels a stream on which nothing was heard for too long.

    As a context manager it is what somebody waits in; who does not wait, hears nothing.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._condition = threading.Condition()
        self._stream: Any = None
        self._waits_since: float | None = None
        self._closed = False
        self.fired = False
        """Whether the last stream was cancelled for its silence."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._waits_since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._waits_since = None

    def opened(self, open_stream: Callable[..., Any]) -> Any:
        """Return a stream that ``open_stream`` opens, over another channel if the last one fell silent.

        Raises:
            UnavailableError: nothing was heard.
        """
        future = in_background(partial(open_stream, anew=self.fired))
        # with another channel the server is asked first whether it answers at all
        end = time.monotonic() + (2 if self.fired else 1) * self._silence_s
        try:
            while time.monotonic() < end and not self._closed:
                if wait([future], _TURN_S).done:
                    return future.result()
            self.fired = True
            raise UnavailableError(f"the server does not answer within {self._silence_s:g} s.")
        except BaseException:  # an interrupt, too
            future.add_done_callback(_discard)
            raise

    def watch(self, stream: Any) -> None:
        """Look after ``stream`` from now on."""
        with self._condition:
            self._stream = stream
            self.fired = self.fired and stream is None
            if stream is not None and self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="tickflight-tail-guard", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        with self._condition:
            while not self._closed:
                since, now = self._waits_since, time.monotonic()
                left = self._silence_s if since is None else since + self._silence_s - now
                if left <= 0 and self._stream is not None:
                    self.fired = True
                    self._stream.cancel()
                self._condition.wait(max(left, 0.1))


def _discard(opened: Future[Any]) -> None:
    if opened.exception() is None:
        opened.result().cancel()
