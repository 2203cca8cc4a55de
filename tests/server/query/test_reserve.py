"""When memory is short the statement goes that took most, once, and none of those that took little."""

from __future__ import annotations

import threading
import time
from resource import RUSAGE_THREAD, getrusage

import pytest

from tickflight_server.clock import SystemClock
from tickflight_server.config import MIB, QuerySettings
from tickflight_server.metrics import Metrics
from tickflight_server.query.board import Board, Run
from tickflight_server.query.callers import Caller
from tickflight_server.query.long_work import LongWork
from tickflight_server.query.reserve import Reserve, left_on_machine, pages_taken, used_by_process

USED, LEFT = 1000 * MIB, 5000 * MIB


class _Machine:
    """A board, and memory that is as it is set."""

    def __init__(self, **settings: int) -> None:
        known = QuerySettings(**{"process_mb": 2000, "memory_reserve_mb": 1000, **settings})  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.board = Board(known, self.metrics, SystemClock())
        self.used, self.left = USED, LEFT
        self.reserve = Reserve(known, self.metrics, self.board, LongWork(), lambda: self.used, lambda: self.left)
        self.stopped: list[str] = []
        self.done = threading.Event()
        self.ready = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def statement(self, name: str, megabytes: int) -> Run:
        """Put a statement on the board, whose thread has taken so much memory."""
        run = self.board.begin(Caller(name), name, stop=lambda: self.stopped.append(name))

        def work() -> None:
            run.thread, run.pages = threading.get_native_id(), getrusage(RUSAGE_THREAD).ru_minflt
            taken = bytearray(megabytes * MIB)
            self.ready.release()
            self.done.wait(20)
            del taken

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.ready.acquire(timeout=20)
        self.threads.append(thread)
        return run

    def end(self) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join(20)


@pytest.fixture
def machine() -> _Machine:
    return _Machine()


def test_who_took_most_goes_first_and_each_once(machine: _Machine) -> None:
    machine.statement("some", 40)
    machine.statement("most", 120)
    machine.statement("little", 1)
    assert machine.reserve.look() is None, "there is enough"
    machine.used = 2001 * MIB
    assert [machine.reserve.look() for _ in range(3)][-1] is None
    assert machine.stopped == ["most", "some"], "and not the one that took little"
    assert machine.metrics.read()["queries_out_of_memory"] == 2
    machine.end()


def test_it_says_which_limit_was_reached(machine: _Machine) -> None:
    run = machine.statement("one", 40)
    machine.left = 999 * MIB
    assert machine.reserve.look() is run
    assert run.exhausted == "query.memory_reserve_mb"
    machine.board.end(run, "failed", "resource exhausted")
    assert run.state == "failed"
    machine.end()


def test_without_limits_nobody_is_ended() -> None:
    machine = _Machine(process_mb=0, memory_reserve_mb=0)
    machine.used = machine.left = 0
    machine.statement("one", 40)
    assert machine.reserve.look() is None
    machine.end()


def test_the_thread_looks_while_statements_run_and_ends_after_them(machine: _Machine) -> None:
    run = machine.statement("one", 40)
    machine.reserve.watch()
    machine.used = 2001 * MIB
    deadline = time.monotonic() + 20
    while not machine.stopped:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    machine.board.end(run)
    while machine.reserve._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    machine.end()


def test_the_system_is_read_as_it_is() -> None:
    before = used_by_process()
    assert before > 10 * MIB
    assert left_on_machine() > 0
    pages = pages_taken(threading.get_native_id())
    filled = bytearray(64 * MIB)
    filled[::4096] = b"x" * len(filled[::4096])
    assert pages_taken(threading.get_native_id()) - pages >= 1000
    assert used_by_process() - before > 30 * MIB
    assert pages_taken(2**22 + 1) == 0
