"""Who works long steps back until it is done; who waits long does not."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tickflight_server.priority import STEPS, may_come_back
from tickflight_server.query import long_work
from tickflight_server.query.long_work import LONG_S, LongWork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are those of processes")


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def busy() -> None:
    end = time.thread_time() + 2 * LONG_S
    while time.thread_time() < end:
        pass


def waiting() -> None:
    time.sleep(2 * LONG_S)


@pytest.mark.parametrize(("work", "steps"), [(busy, STEPS), (waiting, 0)])
def test_only_work_counts(work: Callable[[], None], steps: int) -> None:
    here, found = LongWork(), []

    def run() -> None:
        before = own()
        with here.here():
            work()
            here.look()
            found.append(own() - before)
        found.append(own() - before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [steps if may_come_back() else 0, 0]


def test_nobody_steps_back_who_may_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "may_come_back", lambda: False)
    here, before = LongWork(), own()
    with here.here():
        busy()
        here.look()
        assert own() == before
