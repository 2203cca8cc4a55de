"""Threads that step back, and what they start."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from tickflight_server.priority import STEPS, come_back, in_the_back, may_come_back, step_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are those of processes")


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_what_is_made_in_the_back_stays_there_and_the_caller_does_not() -> None:
    before = own()
    started: list[int] = []

    def make() -> int:
        thread = threading.Thread(target=lambda: started.append(own()))
        thread.start()
        thread.join()
        return own()

    assert in_the_back(make) == min(19, before + STEPS)
    assert started == [min(19, before + STEPS)]
    assert own() == before


def test_a_thread_comes_back_where_it_may() -> None:
    found: list[object] = []

    def work() -> None:
        before = own()
        found.extend([step_back(), own() - before, come_back(), own() - before])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    expected = [True, STEPS, True, 0] if may_come_back() else [True, STEPS, False, STEPS]
    assert found == expected


def test_a_thread_that_is_not_there_is_no_error() -> None:
    assert not step_back(2**22 + 1), "above the greatest id that Linux gives"
