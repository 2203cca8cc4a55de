"""A wait for Arrow or gRPC can be interrupted, and what it waits for is then cancelled."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tickflight.background import in_background, interruptible


def test_result_and_error_come_through() -> None:
    assert in_background(lambda: 7).result(5) == 7
    assert interruptible(lambda: 8, lambda: None) == 8
    with pytest.raises(StopIteration):
        interruptible(lambda: next(iter([])), lambda: None)


def test_interrupt_cancels_and_ends_the_wait() -> None:
    started, cancelled = threading.Event(), threading.Event()

    def run() -> None:
        started.set()
        assert cancelled.wait(10)

    def interrupt() -> None:
        started.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = in_background(interrupt)
    with pytest.raises(KeyboardInterrupt):
        interruptible(run, cancelled.set)
    assert cancelled.is_set()
    interrupting.result(5)


def test_other_threads_call_it_as_it_is() -> None:
    seen = in_background(lambda: interruptible(threading.current_thread, lambda: None), "other").result(5)
    assert seen.name == "other"
