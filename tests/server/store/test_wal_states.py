"""The log against a model: whatever fails and whenever it dies, what was acknowledged comes back, once and in order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tickflight_server.errors import LogClosedError
from tickflight_server.store.record import AppendRecord
from tickflight_server.store.wal import WriteAheadLog

WRITER = UUID(int=7)
CALLS = ["writev", "fdatasync", "open", "write", "fsync", "ftruncate"]


def full(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def write_some(share: float) -> Callable[..., int]:
    """Return a ``writev`` that writes a part of what it is given and then fails, as on a disk that fills up."""
    writev, done = os.writev, []

    def write(fd: int, buffers: Any) -> int:
        if done:
            full()
        done.append(True)
        data = b"".join(buffers)
        return writev(fd, [data[: int(len(data) * share)]]) if int(len(data) * share) else full()

    return write


def failure_of(step: Callable[[], None]) -> LogClosedError | None:
    """Return the error with which ``step`` ends, None if it ends well."""
    try:
        step()
    except LogClosedError as error:
        return error
    return None


class LogMachine(RuleBasedStateMachine):
    """``durable`` was acknowledged, and ``doubtful`` follows it in the file although its append failed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.durable: list[AppendRecord] = []
        self.doubtful: list[AppendRecord] = []
        self.flushed: dict[str, int] = {}
        self.failed = False

    @initialize(file_bytes_max=st.sampled_from([1, 300, 1 << 20]))
    def open(self, file_bytes_max: int) -> None:
        self.file_bytes_max = file_bytes_max
        self.log = WriteAheadLog(self.folder / "log", WRITER, file_bytes_max=file_bytes_max)
        assert list(self.log.recover()) == []

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
        shutil.rmtree(self.folder)

    def records(self, sizes: list[tuple[str, int]]) -> list[AppendRecord]:
        made: list[AppendRecord] = []
        for table, size in sizes:
            seqs = [r.last_seq for r in (*self.durable, *made) if r.table == table]
            last = seqs[-1] if seqs else self.flushed.get(table, 0)
            payload = pa.py_buffer(bytes([len(self.durable) % 251]) * size)
            made.append(AppendRecord(table, last + 1, size % 5 + 1, b"p", last + 1, payload))
        return made

    groups = st.lists(st.tuples(st.sampled_from(["trades", "ticker"]), st.integers(0, 200)), min_size=1, max_size=4)

    @rule(sizes=groups)
    def append(self, sizes: list[tuple[str, int]]) -> None:
        group = self.records(sizes)
        if self.failed:
            with pytest.raises(LogClosedError) as caught:
                self.log.append(group)
            assert caught.value.temporary
        else:
            self.log.append(group)
            self.durable += group

    @precondition(lambda self: not self.failed)
    @rule(sizes=groups, call=st.sampled_from(CALLS), share=st.floats(0, 1))
    def append_while_a_call_fails(self, sizes: list[tuple[str, int]], call: str, share: float) -> None:
        group = self.records(sizes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, call, write_some(share) if call == "writev" else full)
            error = failure_of(lambda: self.log.append(group))
        if error is None:
            self.durable += group
        else:
            assert error.temporary
            assert "No space left" in error.message
            self.failed = True
            self.doubtful = group

    @precondition(lambda self: self.failed)
    @rule(call=st.none() | st.sampled_from(CALLS))
    def reopen(self, call: str | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if call is not None:
                patch.setattr(os, call, full)
            error = failure_of(self.log.reopen)
        if error is None:
            self.failed = False
            self.doubtful = []  # nobody was told that it is durable, and now it is not
        else:
            assert call is not None
            assert error.temporary

    @rule(share=st.floats(0, 1))
    def release(self, share: float) -> None:
        for table in ("trades", "ticker"):
            seqs = [r.last_seq for r in self.durable if r.table == table]
            if seqs:
                self.flushed[table] = max(self.flushed.get(table, 0), seqs[int(share * (len(seqs) - 1))])
        self.log.release(self.flushed)

    @rule(keep=st.floats(0, 1), tail=st.sampled_from([b"", bytes(16), b"\xff" * 9, b"TFLR" * 5]))
    def die(self, keep: float, tail: bytes) -> None:
        """A crash leaves the synced bytes, some of those that were written after them, and sometimes other bytes."""
        self.log.close()
        file = self.log.files[-1]
        newest = max((self.folder / "log").iterdir())
        written = newest.stat().st_size
        if newest != file.path:  # an attempt to go on in a new file failed after it was made: it has a head at most
            os.truncate(newest, int(written * keep))
        else:
            os.truncate(newest, file.size + int((written - file.size) * keep))
            with newest.open("ab") as end:
                end.write(tail)
        self.recover()

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.recover()

    def recover(self) -> None:
        self.log = WriteAheadLog(self.folder / "log", WRITER, file_bytes_max=self.file_bytes_max)
        total = self.log.bytes_on_disk()
        found = list(self.log.recover())
        assert self.log.bytes_read <= total
        known = [*self.durable, *self.doubtful]
        begin = next((i for i, r in enumerate(known) if found and r == found[0]), len(self.durable))
        assert found == known[begin : begin + len(found)], "what comes back is in order and without a hole"
        assert begin + len(found) >= len(self.durable), "and lacks nothing that was acknowledged"
        assert all(r.last_seq <= self.flushed.get(r.table, 0) for r in known[:begin]), "but what was released"
        self.durable, self.doubtful, self.failed = found, [], False

    @invariant()
    def the_files_are_those_that_it_knows(self) -> None:
        if hasattr(self, "log"):
            on_disk = {p.name: p.stat().st_size for p in (self.folder / "log").iterdir()}
            known = {f.path.name: f.size for f in self.log.files}
            if not self.failed:
                assert on_disk == known
            assert all(on_disk[name] >= size for name, size in known.items())
            assert len(on_disk) <= len(known) + 1


class TestLog(LogMachine.TestCase):
    settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
