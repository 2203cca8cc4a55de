"""Work beside the thread that asked for it: calls into Arrow and gRPC return to Python only when they are done.

The rule of this file: a thread from here is a daemon, does one thing, and ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_TURN_S = 0.1  # a signal that the system hands to another thread is seen by the main one when it takes its turn


class Stopper:
    """What a thread has under way for somebody who may lose interest: any thread may stop it, once and for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self.stopped = False

    def add(self, stop: Callable[[], None]) -> None:
        """Let ``stop`` run when it is stopped, now if it was."""
        with self._lock:
            if not self.stopped:
                self._stops.append(stop)
                return
        stop()

    def stop(self) -> None:
        """Stop what is under way, and what will be; waits for the server's answer."""
        with self._lock:
            self.stopped = True
            stops, self._stops = self._stops, []
        for stop in reversed(stops):
            stop()


STOPPER: ContextVar[Stopper | None] = ContextVar("STOPPER", default=None)
"""Who may stop the calls of this thread, None for nobody."""


class Running(Future[T]):
    """What a thread will have returned or raised; ``thread`` ends right after."""

    thread: threading.Thread


def in_background(run: Callable[[], T], name: str = "tickflight-call", future: Running[T] | None = None) -> Running[T]:
    """Start ``run`` in a thread of its own; the future, a new one unless given, has what it returns or raises."""
    outcome: Running[T] = Running() if future is None else future
    outcome.set_running_or_notify_cancel()
    outcome.thread = threading.Thread(target=_do, args=(outcome, run), name=name, daemon=True)
    outcome.thread.start()
    return outcome


def interruptible(run: Callable[[], T], discard: Callable[[T], object] = lambda _: None) -> T:
    """Return what ``run`` returns; Control-C, or a notebook's stop button, ends the wait, and ``run`` goes on unheard.

    ``discard`` is given what it returns then. Only the main thread is interrupted by Python; in any other ``run`` is
    called as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return run()
    future: Running[T] = Running()
    try:
        in_background(run, future=future)
        while not wait([future], _TURN_S).done:
            pass
        return future.result()
    except KeyboardInterrupt:
        future.add_done_callback(lambda done: done.exception() or discard(done.result()))
        raise


class Worker:
    """A daemon thread that does what it is given, one after the other, and ends when it is closed."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._ended = in_background(self._run, name)

    def submit(self, run: Callable[[], T]) -> Future[T]:
        """Let it do ``run`` next; the future has what it returns or raises."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._jobs.put((future, run))
        return future

    def close(self) -> Running[None]:
        """Let it end after what it does now; the future ends with it."""
        self._jobs.put(None)
        return self._ended

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)
            del job  # what it did is not to live for as long as nothing follows


def _do(future: Future[T], run: Callable[[], T]) -> None:
    try:
        result = run()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
