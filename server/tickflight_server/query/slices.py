"""Lets threads that work for statements stand behind those that take rows in, when both want a core.

Linux 6.12 and later let a thread ask for a length of its turns on a core. One with long turns is as much on a core as
before; one with shorter turns, that wakes, need not wait for its end. It takes no privilege.

The rule of this file: a thread asks while it works for a statement, and no more when it has ended; a system that does
not know of it does as before.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TURN_NS = 100_000_000
"""As long as may be."""
_CALLS = {"x86_64": 314, "aarch64": 274}  # sched_setattr


class _Attributes(ctypes.Structure):
    """struct sched_attr of linux/sched/types.h, version 1."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
        ("util_min", ctypes.c_uint32),
        ("util_max", ctypes.c_uint32),
    )


def _system_call() -> Callable[..., int] | None:
    number = _CALLS.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return lambda thread, attributes: int(call(number, thread, ctypes.byref(attributes), 0))


_CALL = _system_call()


def ask_for_turns(thread: int, turn_ns: int) -> bool:
    """Let a thread of this process have turns of ``turn_ns``, 0 for the system's own; return whether it has them."""
    if _CALL is None:
        return False
    try:
        nice = os.getpriority(os.PRIO_PROCESS, thread)
    except OSError:
        return False  # it has ended
    size = ctypes.sizeof(_Attributes)
    attributes = _Attributes(size, os.SCHED_OTHER, 0, nice, 0, turn_ns, 0, 0, 0, 0)
    return _CALL(thread, attributes) == 0


def with_long_turns(make: Callable[[], T]) -> T:
    """Return what ``make`` makes; the threads that it starts have long turns for ever."""
    known = _threads()
    made = make()
    ours = {thread.native_id for thread in threading.enumerate()}
    for thread in _threads() - known - ours:
        ask_for_turns(thread, TURN_NS)
    return made


def _threads() -> set[int]:
    try:
        return {int(name) for name in os.listdir("/proc/self/task")}  # noqa: PTH208 - Path would make an object of each
    except OSError:
        return set()
