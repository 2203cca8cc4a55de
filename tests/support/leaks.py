"""What a process holds: memory, descriptors, threads, and the server's own objects.

The rule of this file: counted is what the operating system and the garbage collector say, not what the server does.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tickflight_server.flight.auth import Call
from tickflight_server.flight.kept import Planned, Prepared
from tickflight_server.query.execution import Execution
from tickflight_server.query.session import Seat, SqlSession, Transaction

KINDS = (Call, Execution, Planned, Prepared, Seat, SqlSession, Transaction)


@dataclass(frozen=True)
class Held:
    """Resident memory in MiB, open descriptors, and threads by the system's count."""

    rss_mb: int
    descriptors: int
    threads: int


def held() -> Held:
    """Return what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        pages * os.sysconf("SC_PAGE_SIZE") >> 20,
        len(list(Path("/proc/self/fd").iterdir())),
        len(list(Path("/proc/self/task").iterdir())),
    )


def living() -> Counter[str]:
    """Return how many of the server's objects of each kind are alive in this process."""
    gc.collect()
    return Counter(type(o).__name__ for o in gc.get_objects() if type(o) in KINDS)


def named_threads() -> set[str]:
    """Return the names of Python's own threads; those of gRPC are known to it as dummies."""
    return {t.name for t in threading.enumerate() if not t.name.startswith("Dummy-")}
