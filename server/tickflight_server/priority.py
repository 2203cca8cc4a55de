"""Threads whose work may wait while others want the processor.

The rule of this file: a thread that others use, too, steps back only where it may come back; one that stays there does
work of one kind, and nothing that anybody else waits for.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
STEPS = 10
"""Of 19. Beside one that has not stepped back a thread has a tenth of a core's time then, and all of it alone."""


def step_back(thread: int | None = None) -> bool:
    """Lower the priority of a thread of this process, by its native id; of the caller's without one.

    Threads that it starts have the same. Returns whether it could: other systems than Linux know only of processes.
    """
    return _set(thread, lambda now: now + STEPS)


def come_back(thread: int | None = None) -> bool:
    """Give a thread the priority of the process, that of its main thread; return whether it could."""
    return _set(thread, lambda _: os.getpriority(os.PRIO_PROCESS, os.getpid()))


@functools.cache
def may_come_back() -> bool:
    """Return whether a thread that steps back may come back.

    It may with CAP_SYS_NICE, or with a limit of priorities (``ulimit -e``) of 20 and more.
    """
    with ThreadPoolExecutor(1) as one:
        return one.submit(lambda: step_back() and come_back()).result()


def in_the_back(make: Callable[[], T]) -> T:
    """Return what ``make`` makes; the threads that it starts have stepped back."""
    with ThreadPoolExecutor(1, initializer=step_back) as one:
        return one.submit(make).result()


def _set(thread: int | None, to: Callable[[int], int]) -> bool:
    if sys.platform != "linux":
        return False
    thread = threading.get_native_id() if thread is None else thread
    with suppress(OSError):  # it has ended, or may not
        os.setpriority(os.PRIO_PROCESS, thread, to(os.getpriority(os.PRIO_PROCESS, thread)))
        return True
    return False
