"""The memory that statements leave to ingest: when it is short, the statement goes that has taken most.

The rule of this file: what is short is looked at, not what was promised; the engine's own limit does not count all that
it takes. Whoever ends is told why.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import structlog

from tickflight_server.config import MIB, QuerySettings
from tickflight_server.metrics import Metrics
from tickflight_server.query.allocator import give_back_from_now_on
from tickflight_server.query.board import Board, Run
from tickflight_server.query.long_work import LongWork

LOG = structlog.get_logger(__name__)
_LOOK_S = 0.05
_AGAIN_LOOKS = 10  # what was ended is given so long before the next one is
_GIVE_BACK_LOOKS = 100  # 5 s
_PAGES_MIN = 4096  # 16 MB; where pages are huge, who runs for long counts, too
_LONG_S = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CGROUP = Path("/sys/fs/cgroup")
_MINFLT = 9 - 2  # the field of /proc/…/stat, behind the name in brackets


def used_by_process() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def left_on_machine() -> int:
    """Return the bytes of memory that are left on the machine, or in the control group if that has less."""
    left = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        if most != "max":
            left = min(left, int(most) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no control group, or none with a limit
    return left


def pages_taken(thread: int) -> int:
    """Return how many pages of memory a thread of this process has touched first, 0 if there is no such thread."""
    try:
        stat = Path(f"/proc/self/task/{thread}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[_MINFLT])


def give_back_freed() -> None:
    """Let the system have the memory that Arrow and the engine have freed; costs little."""
    give_back_from_now_on()
    pa.default_memory_pool().release_unused()


def give_back() -> None:
    """Let the system have all memory that was freed and is kept for later."""
    give_back_freed()
    with suppress(OSError, AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _pages(run: Run) -> int:
    return pages_taken(run.thread) - run.pages


def _takes(run: Run) -> bool:
    """Return whether a statement may be what memory is short for."""
    return run.thread != 0 and run.exhausted is None and (_pages(run) > _PAGES_MIN or run.duration_s > _LONG_S)


class Reserve:
    """Looks at the memory while statements run, from one thread, which ends when there are none.

    Args:
        board: the statements.
        long_work: is looked at, too.
        used, left: tell bytes.
    """

    def __init__(
        self,
        settings: QuerySettings,
        metrics: Metrics,
        board: Board,
        long_work: LongWork,
        used: Callable[[], int] = used_by_process,
        left: Callable[[], int] = left_on_machine,
    ) -> None:
        self._process = settings.process_mb * MIB
        self._reserve = settings.memory_reserve_mb * MIB
        self._metrics = metrics
        self._board = board
        self._long_work = long_work
        self._used, self._left = used, left
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._quiet = 0

    def watch(self) -> None:
        """Look at the memory while statements run; called when one begins."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
                    self._thread.start()

    def short(self) -> str | None:
        """Return the name of the limit that is reached, None if none is."""
        if self._process and self._used() > self._process:
            return "query.process_mb"
        if self._reserve and self._left() < self._reserve:
            return "query.memory_reserve_mb"
        return None

    def look(self) -> Run | None:
        """End the statement that has taken most if memory is short; return it."""
        limit = self.short()
        if limit is None:
            return None
        give_back()
        limit = self.short()
        # what is held by nobody is no statement's fault
        runs = [run for run in self._board.running() if _takes(run)] if limit else []
        if not runs:
            return None
        taken = max(runs, key=_pages)
        taken.exhausted = limit
        self._metrics.add("queries_out_of_memory")
        LOG.warning("query.out_of_memory", limit=limit, id=taken.id, user=taken.caller.user)
        taken.cancel("the server")
        return taken

    def _run(self) -> None:
        idle = looks = 0
        while True:
            self._wake.wait(_LOOK_S)
            looks += 1
            try:
                if looks % _GIVE_BACK_LOOKS == 0:
                    give_back_freed()
                self._long_work.look()
                pause = self.look() is not None
            except Exception as error:  # a file of the system's that is not as it is elsewhere
                LOG.error("query.memory_watch_failed", error=repr(error))
                return
            if pause:
                self._wake.wait(_LOOK_S * _AGAIN_LOOKS)
            idle = 0 if self._board.running() else idle + 1
            if idle * _LOOK_S > 1:
                give_back_freed()
                with self._lock:
                    self._thread = None
                return
