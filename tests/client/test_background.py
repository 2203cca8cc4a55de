"""A wait for Arrow or gRPC can be interrupted, and what runs for somebody can be stopped by another thread."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tickflight.background import Stopper, in_background, interruptible


def test_result_and_error_come_through() -> None:
    assert in_background(lambda: 7).result(5) == 7
    assert interruptible(lambda: 8) == 8
    with pytest.raises(StopIteration):
        interruptible(lambda: next(iter([])))


def test_interrupt_ends_the_wait() -> None:
    started, ended = threading.Event(), threading.Event()

    def run() -> None:
        started.set()
        assert ended.wait(10)

    def interrupt() -> None:
        started.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = in_background(interrupt)
    with pytest.raises(KeyboardInterrupt):
        interruptible(run)
    ended.set()
    interrupting.result(5)


def test_stopper_stops_what_is_there_and_what_comes() -> None:
    stopper, stopped = Stopper(), []
    stopper.add(lambda: stopped.append(1))
    stopper.add(lambda: stopped.append(2))
    stopper.stop()
    assert stopped == [2, 1]
    stopper.stop()
    stopper.add(lambda: stopped.append(3))
    assert (stopped, stopper.stopped) == ([2, 1, 3], True)


def test_other_threads_call_it_as_it_is() -> None:
    seen = in_background(lambda: interruptible(threading.current_thread), "other").result(5)
    assert seen.name == "other"
