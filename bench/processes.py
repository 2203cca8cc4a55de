"""Processes beside the benchmark: work done elsewhere, and what it cost.

The rule of this file: client and server never share an interpreter with what they are compared with.
"""

from __future__ import annotations

import multiprocessing as mp
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SPAWN = mp.get_context("spawn")
_TICKS = os.sysconf("SC_CLK_TCK")
ANSWER_S = 600.0


def elsewhere(work: Callable[..., Any], *arguments: object) -> Any:
    """Run ``work`` of a module, in a new process; return what it returns.

    Raises:
        RuntimeError: it failed, with what it said, or gave no answer for ten minutes.
    """
    mine, its = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_answer, args=(its, work, arguments))
    process.start()
    its.close()
    try:
        if not mine.poll(ANSWER_S):
            raise RuntimeError(f"{work.__name__} gave no answer for {ANSWER_S:.0f} s")
        failed, answer = mine.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} ended without an answer") from None
    finally:
        process.join(5)
        process.kill()
    if failed:
        raise RuntimeError(f"{work.__name__}: {answer}")
    return answer


def together(count: int, work: Callable[..., Any], *arguments: object) -> list[Any]:
    """Run ``work(turn, place, *arguments)`` in ``count`` new processes at once; return what each returned.

    ``turn()`` waits until all of them call it; ``place`` is 0, 1, … for each.

    Raises:
        RuntimeError: one failed.
    """
    barrier = _SPAWN.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(elsewhere, _take_turns, work, barrier, place, *arguments) for place in range(count)]
        return [one.result() for one in waiting]


def _take_turns(work: Callable[..., Any], barrier: Any, place: int, *arguments: object) -> Any:
    def turn() -> None:
        barrier.wait(ANSWER_S)

    try:
        return work(turn, place, *arguments)
    except BaseException:
        barrier.abort()  # the others are not to wait for it
        raise


def _answer(pipe: Any, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    try:
        answer = (False, work(*arguments))
    except Exception as error:
        answer = (True, f"{type(error).__name__}: {error}")
    pipe.send(answer)


@contextmanager
def serving(serve: Callable[..., None], *arguments: object) -> Iterator[tuple[Any, int]]:
    """Run ``serve(*arguments, tell)`` in a new process; give what it told first, and its process id.

    ``serve`` calls ``tell(address)`` when it is ready, and goes on until it is killed.
    """
    mine, its = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(*arguments, its.send))
    process.start()
    its.close()
    try:
        if not mine.poll(ANSWER_S):
            raise RuntimeError(f"{serve.__name__} was not ready after {ANSWER_S:.0f} s")
        yield mine.recv(), int(process.pid or 0)
    finally:
        process.kill()
        process.join()


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(pid: int, what: str = "VmRSS") -> float:
    """Return the memory of a process, in MiB: ``VmRSS`` now, ``VmHWM`` at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has no {what}")
