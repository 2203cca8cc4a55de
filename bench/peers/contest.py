"""The contest: every product does every work, in turns, and each row says how far tickflight is ahead.

The rule of this file: a product's answers must be the same as ours before its time counts. What a product cannot do is
a row with the value 0 whose conditions say why; what is not there is named in the row ``products``.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from bench.figures import Aim, Figure, figure
from bench.peers.driver import BrokenError, Worker
from bench.peers.environments import UnavailableError, python_of
from bench.peers.workers.harness import CannotError
from bench.peers.workload import COUNT, WORKS, Work, make_files
from bench.processes import elsewhere

OURS, OWN_CLIENT = "tickflight", "own client"
RUNS, SLOW_RUNS, SLOW_S = 5, 3, 2.5
AHEAD = Aim(">", 1.0)
Turn = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """A product beside ours; ``how`` says how it is run."""

    name: str
    how: str


PEERS = (
    Peer("quack", "a serving and an asking process over HTTP, database file, remote.query and INSERT per batch"),
    Peer("roapi", "Parquet file in memory, read by ADBC over Flight SQL"),
    Peer("arcticdb", "embedded, LMDB, answers as Arrow, the better of two layouts for each question, append per batch"),
    Peer("postgres", "index (symbol, timestamp), no other; 2 GB shared_buffers; ADBC, COPY per batch; own callback"),
)
HOW = "tickflight by ADBC, ingest by its writer and its backend, default settings"


def contest() -> Iterator[Figure]:
    """Yield the figures of every work."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tickflight-bench-")))
        folder.chmod(0o755)  # PostgreSQL runs as another user
        elsewhere(make_files, folder, RUNS + 1)
        workers: dict[str, Worker] = {}
        missing = []
        for name, environment in ((OURS, _own_python), *((peer.name, python_of) for peer in PEERS)):
            try:
                workers[name] = stack.enter_context(_loaded(name, environment(name), folder))
            except (UnavailableError, BrokenError, CannotError) as error:
                if name == OURS:
                    raise
                missing.append(f"{name} is missing: {error}")
                print(f"peers: {missing[-1]}", file=sys.stderr)
        there = ", ".join(worker.version for worker in workers.values())
        yield figure("peers", "products", [float(len(workers))], "products", "; ".join([there, *missing]))
        for work in WORKS:
            yield from _figures(work, workers, folder)


def _own_python(_: str) -> Path:
    return Path(sys.executable)


def _loaded(name: str, python: Path, folder: Path) -> Worker:
    place = folder / name
    place.mkdir()
    worker = Worker(name, python, place, own=name == OURS)
    try:
        worker.ask("load", path=str(folder / "trades.parquet"))
    except BaseException:
        worker.close()
        raise
    return worker


def _figures(work: Work, workers: dict[str, Worker], folder: Path) -> Iterator[Figure]:
    turns = {name: _turn(worker, work, folder) for name, worker in workers.items()}
    if work.asks:
        turns[OWN_CLIENT] = _turn(workers[OURS], work, folder, by="client")
    slow = {}
    first = None
    for name, turn in turns.items():  # the first run of each is not counted
        try:
            answer = turn(0)
            first = first or answer
            _compare(work, answer, first)
        except CannotError as error:
            yield figure("peers", f"{work.name}, {name}", [0.0], work.unit, f"{name} cannot: {error}")
        except BrokenError as error:
            _tell(work, name, error)
        else:
            slow[name] = answer["seconds"] > SLOW_S
    runs = _runs(work, {name: (turns[name], SLOW_RUNS if slow[name] else RUNS) for name in slow})
    ours = runs[OURS]
    for peer in (peer for peer in PEERS if peer.name in runs):
        theirs = runs[peer.name]
        yield figure(
            *("peers", f"{work.name} beside {peer.name}", ours[: len(theirs)], work.unit),
            f"{work.conditions}; {HOW}; {peer.name}: {peer.how}",
            beside=theirs,
            ratio_to=peer.name,
            aim=AHEAD,
        )
        yield figure("peers", f"{work.name}, {peer.name}", theirs, work.unit, f"{work.conditions}; {peer.how}")
    if OWN_CLIENT in runs:
        conditions = f"{work.conditions}; tickflight by its own client"
        yield figure("peers", f"{work.name}, {OWN_CLIENT}", runs[OWN_CLIENT], work.unit, conditions)


def _runs(work: Work, turns: dict[str, tuple[Turn, int]]) -> dict[str, list[float]]:
    """Return the rates of every product that did not fail, taken in turns; each has a number of runs of its own."""
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for run in range(1, RUNS + 1):
        for name in [name for name in rates if run <= turns[name][1]]:
            try:
                rates[name].append(work.amount / turns[name][0](run)["seconds"])
            except BrokenError as error:
                _tell(work, name, error)
                del rates[name]
    return rates


def _tell(work: Work, name: str, error: BrokenError) -> None:
    """Say that a product failed.

    Raises:
        BrokenError: it is ours.
    """
    if name == OURS:
        raise error
    print(f"peers: {work.name}, {name}: {error}", file=sys.stderr)


def _turn(worker: Worker, work: Work, folder: Path, **more: str) -> Turn:
    def turn(run: int) -> dict[str, Any]:
        request = work.request(folder, run)
        if work.asks:
            request["questions"] = [{**question, **more} for question in request["questions"]]
            return worker.ask(**request)
        before = worker.ask("ask", questions=[COUNT])["sum"]
        answer = worker.ask(**request)
        came = worker.ask("ask", questions=[COUNT])["sum"] - before
        if came != answer["rows"]:
            raise BrokenError(f"{came:.0f} of {answer['rows']} rows came in")
        worker.ask("settle")
        return answer

    return turn


def _compare(work: Work, answer: dict[str, Any], first: dict[str, Any]) -> None:
    if not work.asks:
        return
    if answer["rows"] != first["rows"] or not isclose(answer["sum"], first["sum"], rel_tol=1e-6):
        raise BrokenError(f"another answer: {answer} instead of {first}")
