"""Writes lines to the files, in one thread: numbers and chains them, syncs, begins new files, removes old ones.

The rule of this file: a line that was taken is written, also if the disk fails for a while; who hands it in never waits
for the disk. ``head.json`` tells of no line that is not on it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from tickflight_server.audit.chain import Chain
from tickflight_server.audit.folder import (
    Head,
    Resumed,
    file_name,
    first_line,
    last_line,
    list_files,
    resume,
    write_head,
)
from tickflight_server.audit.line import format_time, serialize
from tickflight_server.clock import Clock
from tickflight_server.config import MIB, AuditSettings
from tickflight_server.files import sync_folder, write_all
from tickflight_server.metrics import Metrics

LOG = structlog.get_logger(__name__)
FORMAT = 1
_DAMAGED_HINT = "Run 'tickflight-server audit verify', keep the files, and find out who changed them."
_HOUR_US, _DAY_US = 3_600_000_000, 86_400_000_000
_AGAIN_S = 1.0  # a disk that failed is tried again after it
_TRIES_AT_END = 5
_TURN_S = 1.0
_LOOK_S = 60.0  # how often old files are looked for
_BATCH = 1000
Fields = Mapping[str, Any]
Said = Fields | Callable[[], Fields] | threading.Event
"""What a line says, or what tells it when it is written; an event is set instead when its turn comes."""
Told = Callable[[str | None, str | None], None]


class Writer:
    """The thread that writes the lines of ``folder``, and nobody else does.

    Args:
        chains: hash lines; the first one new ones, the others those of earlier keys.
        turn: called about once a second, for lines that come by time.
        told: is told what is wrong with the audit and what to do, or that nothing is any more.

    Raises:
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        chains: Sequence[Chain],
        settings: AuditSettings,
        clock: Clock,
        metrics: Metrics,
        turn: Callable[[], None],
        told: Told,
    ) -> None:
        self._folder = folder
        self._chains, self._chain = chains, chains[0]
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._turn = turn
        self._told = told
        self._queue: deque[tuple[int, Said]] = deque()
        self._some = threading.Event()
        self._room = threading.Condition()
        self._stop = False
        self._fd = -1
        self._size = 0  # of the file, as far as it was written whole
        self._begun_us = 0
        self._unsynced: list[bytes] = []
        self._durable = 0  # size of the file up to which it was synced
        self._turned = self._synced = self._looked = self._anchored = clock.monotonic()
        self._failures = 0  # one after the other
        self._uncertain = False
        self._open(resume(folder, chains))
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many lines wait to be written, about."""
        return len(self._queue)

    def put(self, said: Said) -> None:
        """Take what a line is to say; it is written soon."""
        self._queue.append((self._clock.now_us(), said))
        if not self._some.is_set():
            self._some.set()

    def wait_for_room(self, most: int, timeout_s: float) -> bool:
        """Return whether fewer than ``most`` lines wait, at once or within ``timeout_s``."""
        with self._room:
            return self._room.wait_for(lambda: len(self._queue) < most, timeout_s)

    def drain(self, timeout_s: float = 10.0) -> bool:
        """Return whether all lines that were taken before this call are in the file, within ``timeout_s``."""
        reached = threading.Event()
        self.put(reached)
        return reached.wait(timeout_s)

    def close(self) -> None:
        """Write and sync what was taken, and end the thread."""
        self._stop = True
        self._some.set()
        self._thread.join()
        self._anchor()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- the thread

    def _run(self) -> None:
        while True:
            self._some.wait(min(_TURN_S, max(0.0, self._due_s())))
            if self._some.is_set() and not self._stop:
                time.sleep(self._settings.write_interval_ms / 1000)  # others come meanwhile
            self._some.clear()
            try:
                self._step()
                self._well()
            except OSError as error:
                if not self._failed(error):
                    return
            if self._stop and not self._queue and not self._unsynced:
                return

    def _due_s(self) -> float:
        """Return the time until what was written is to be synced."""
        if not self._unsynced:
            return _TURN_S
        return self._synced + self._settings.sync_interval_ms / 1000 - self._clock.monotonic()

    def _step(self) -> None:
        if self._uncertain:
            self._write_again()
        now = self._clock.monotonic()
        if now - self._turned >= _TURN_S:
            self._turned = now
            self._turn()
            if now - self._anchored >= self._settings.anchor_s:
                self._anchor()
            if self._clock.now_us() - self._begun_us > self._settings.file_hours * _HOUR_US and self._n > self._first:
                self._next_file()
            elif now - self._looked >= _LOOK_S:
                self._remove_old()
        self._write()
        if self._unsynced and (self._due_s() <= 0 or self._stop):
            self._sync()

    def _well(self) -> None:
        if self._failures:
            self._failures = 0
            self._told(self._damaged, _DAMAGED_HINT if self._damaged else None)

    def _failed(self, error: OSError) -> bool:
        """Tell that the disk failed, and wait; return whether it is to be tried again."""
        self._metrics.add("audit_failures")
        LOG.error("audit.write_failed", error=error.strerror or str(error), waiting=len(self._queue))
        hint = "Free space or mend the disk of the audit's folder; it goes on by itself."
        self._told(f"the audit cannot be written: {error.strerror or error}.", hint)
        self._failures += 1
        if self._stop and self._failures >= _TRIES_AT_END:
            LOG.error("audit.lines_lost", lines=len(self._queue) + sum(d.count(b"\n") for d in self._unsynced))
            return False
        time.sleep(_AGAIN_S)
        self._uncertain = True
        self._some.set()
        return True

    def _write_again(self) -> None:
        """Write all that was not synced once more: a sync that succeeds after one that failed says nothing of it."""
        os.ftruncate(self._fd, self._durable)
        for data in self._unsynced:
            write_all(self._fd, data)
        self._uncertain = False

    def _write(self) -> None:
        """Write all lines that wait, many together."""
        while self._queue:
            count, n, own = min(len(self._queue), _BATCH), self._n, self._hash
            data, reached = [], []
            for place in range(count):
                time_us, said = self._queue[place]
                if isinstance(said, threading.Event):
                    reached.append(said)
                    continue
                n += 1
                line, own = self._line(n, time_us, said, own)
                data.append(line)
            if data:
                self._append(b"".join(data), n, own)
                self._metrics.add("audit_lines", len(data))
            for _ in range(count):
                self._queue.popleft()
            for event in reached:
                event.set()
            with self._room:
                self._room.notify_all()
            if self._size > self._settings.file_mb * MIB:
                self._next_file()

    def _line(self, n: int, time_us: int, said: Fields | Callable[[], Fields], prev: str) -> tuple[bytes, str]:
        try:
            return serialize(n, time_us, said() if callable(said) else said, prev, self._chain)
        except Exception as error:  # one line that cannot be told must not end the audit
            self._metrics.add("audit_failures")
            LOG.exception("audit.line_failed")
            return serialize(n, time_us, {"kind": "failed", "error": type(error).__name__}, prev, self._chain)

    def _append(self, data: bytes, n: int, own: str) -> None:
        """Write whole lines; of what a full disk took a part of, nothing is left."""
        try:
            write_all(self._fd, data)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self._unsynced.append(data)
        self._n, self._hash = n, own

    def _own(self, **fields: object) -> None:
        """Write a line of the audit's own, now."""
        line, own = self._line(self._n + 1, self._clock.now_us(), fields, self._hash)
        self._append(line, self._n + 1, own)

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._unsynced.clear()
        self._durable, self._synced = self._size, self._clock.monotonic()
        write_head(self._folder, Head(self._n, self._hash, format_time(self._clock.now_us())), self._chain)
        self._metrics.set("audit_line", self._n)

    def _anchor(self) -> None:
        """Tell the log how far the lines have got: whoever keeps it elsewhere can tell that an end was cut off."""
        self._anchored = self._clock.monotonic()
        LOG.info("audit.head", line=self._n, hash=self._hash)

    # --- files

    def _open(self, found: Resumed) -> None:
        """Go on where the lines end: in the last file, or in a new one if something is wrong with it."""
        self._n, self._hash, self._damaged = found.n, found.hash, found.damaged
        file = found.file and self._folder / found.file
        newest = list_files(self._folder)[-1:]
        begun = first_line(file) if file and not found.damaged and newest[0].path == file else None
        if file and begun is not None and begun.fields.get("key") == self._chain.key_id:
            self._fd = os.open(file, os.O_WRONLY | os.O_APPEND)
            self._size = self._durable = file.stat().st_size
            self._first, self._begun_us = begun.n, begun.time_us
        else:
            self._begin_file()
        if found.cut:
            self._metrics.add("audit_repairs")
            LOG.warning("audit.repaired", file=found.file, bytes_cut=found.cut)
            self._own(kind="repaired", file=found.file, bytes_cut=found.cut)
        if found.damaged is not None:
            LOG.error("audit.damaged", file=found.file, what=found.damaged)
            self._own(kind="damaged", file=found.file, what=found.damaged)
            self._told(found.damaged, _DAMAGED_HINT)
        self._sync()
        self._anchor()
        self._remove_old()

    def _begin_file(self) -> None:
        """Begin a file; its first line says with what key it is sealed."""
        while (path := self._folder / file_name(self._n + 1)).exists() and path.stat().st_size:
            self._n += 1  # of what is damaged nothing is written over; the hole stays to be seen
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        before, self._fd = self._fd, fd
        if before >= 0:
            os.close(before)
        self._size = self._durable = 0
        self._first, self._begun_us = self._n + 1, self._clock.now_us()
        sync_folder(self._folder)
        self._own(kind="file", format=FORMAT, key=self._chain.key_id)

    def _next_file(self) -> None:
        self._sync()
        self._begin_file()
        self._sync()
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove files whose last line is too old; a line says so first."""
        self._looked = self._clock.monotonic()
        oldest_us = self._clock.now_us() - self._settings.keep_days * _DAY_US
        for file in list_files(self._folder)[:-1]:
            last = last_line(file.path)
            if last is None or last.time_us >= oldest_us:
                return  # what is damaged stays, and all that follows
            self._own(kind="removed", file=file.path.name, first=file.first, last=last.n, last_hash=last.hash)
            self._sync()
            file.path.unlink()
            LOG.info("audit.removed", file=file.path.name, lines=last.n - file.first + 1)
