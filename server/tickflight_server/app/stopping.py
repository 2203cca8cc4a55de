"""How a process learns that it is to stop: by signals, or by the end of the one that started it.

The rule of this file: it sets an event and does nothing else; what stops, and in which order, is the process's own.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TURN_S = 0.2


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_stop(stop: threading.Event) -> None:
    """Return when ``stop`` is set; to be called by the main thread, which Python runs signal handlers in.

    The system may hand a signal to any thread, and Python's main one does not wake from a wait without an end for it:
    so it looks from time to time.
    """
    while not stop.wait(_TURN_S):
        pass


def stop_with_stdin(stop: threading.Event) -> None:
    """Set ``stop`` when standard input ends, as it does when the process that holds it dies in whatever way."""

    def wait() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=wait, name="stdin", daemon=True).start()
