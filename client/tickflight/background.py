"""Work beside the thread that asked for it: calls into Arrow and gRPC return to Python only when they are done.

The rule of this file: a thread from here is a daemon, does one thing, and ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(run: Callable[[], T], name: str = "tickflight-call") -> Future[T]:
    """Start ``run`` in a thread of its own; the future has what it returns or raises."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = run()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


def interruptible(run: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Return what ``run`` returns; Control-C, or a notebook's stop button, runs ``cancel`` and ends the wait at once.

    Only the main thread is interrupted by Python; in any other ``run`` is called as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return run()
    future: Future[T] | None = None
    try:
        future = in_background(run)
        return future.result()
    except KeyboardInterrupt:
        if future is None or not future.done():
            cancel()
        raise
