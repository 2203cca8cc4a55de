"""Queries over a month of trades, cold and warm, beside the same by hand in DuckDB over exactly the needed files.

The rule of this file: the other side is told its files, reads nothing else and has no filter to weigh; it has the
server's version of DuckDB, its threads and its memory, in a process of its own. Cold is with the files' pages dropped
and, on both sides, a process that was just started and has not been asked anything.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import numpy as np
import pyarrow as pa

from bench.figures import Aim, Figure, figure
from bench.history_store import History, date, kept
from bench.servers import server_on
from tickflight_server.config import QuerySettings

RUNS = 5
HEAVY = "BTC-USDT"
HAND = "DuckDB over exactly the needed files"
_SPAWN = mp.get_context("spawn")


@dataclass(frozen=True)
class Question:
    """A query: ``sql`` with ``{trades}`` for the rows it is of, a symbol's or all, a day's or all."""

    name: str
    sql: str
    aim_s: float
    symbol: str | None = None
    day: int | None = None
    rtol: float = 1e-9

    @property
    def ours(self) -> str:
        """The query as a user asks the server."""
        wanted = [f"symbol = '{self.symbol}'"] if self.symbol else []
        if self.day is not None:
            wanted += [f"timestamp >= '{date(self.day)}'", f"timestamp < '{date(self.day + 1)}'"]
        return self.sql.format(trades=f"trades WHERE {' AND '.join(wanted)}" if wanted else "trades")

    def by_hand(self, history: History) -> str:
        """The query as somebody writes it who knows the files."""
        return self.sql.format(trades=f"read_parquet({self.files(history)}, hive_partitioning = false)")

    @property
    def subject(self) -> str:
        """What it is of, in words."""
        return f"{self.symbol or 'all symbols'}, {'all days' if self.day is None else date(self.day)}"

    def files(self, history: History) -> list[str]:
        """The files that hold the rows."""
        return history.files(self.symbol or "*", self.day)


MARKOUTS = """
    WITH t AS (SELECT timestamp, price, side FROM {trades})
    SELECT a.seconds, count(*) AS trades,
        avg(CASE a.side WHEN 'sell' THEN a.price - b.price ELSE b.price - a.price END) AS markout
    FROM (SELECT t.*, unnest([1, 10, 60]) AS seconds FROM t) AS a
    ASOF JOIN t AS b ON b.timestamp <= a.timestamp + to_seconds(a.seconds)
    GROUP BY 1 ORDER BY 1"""
QUESTIONS = (
    Question(
        "minute VWAP of a symbol-day",
        """SELECT time_bucket(INTERVAL 1 MINUTE, timestamp) AS minute, sum(price * amount) / sum(amount) AS vwap,
        sum(amount) AS volume FROM {trades} GROUP BY 1 ORDER BY 1""",
        1.0,
        HEAVY,
        3,
    ),
    Question(
        "top movers of a day",
        """SELECT symbol, arg_min(price, seq) AS open, arg_max(price, seq) AS close,
        100 * (close / open - 1) AS percent FROM {trades} GROUP BY 1 ORDER BY abs(percent) DESC, symbol LIMIT 10""",
        1.0,
        None,
        11,
    ),
    Question("ASOF markouts of a symbol-day", MARKOUTS, 1.0, "ETH-USDT", 19, 1e-2),
    Question("full-range aggregate", "SELECT count(*) AS rows, sum(amount * price) AS turnover FROM {trades}", 10.0),
)


def run() -> Iterator[Figure]:
    """Measure every query cold and warm; about four minutes, and the making of the store before them, once."""
    history = kept()
    cold, warm = _cold(history), _warm(history)
    all_of = f"of {history.rows:,} trades, 50 symbols x 30 days, {history.parts} parts, {history.nbytes / 1e9:.2f} GB"
    for how, found in (("cold", cold), ("warm", warm)):
        for question in QUESTIONS:
            ours, by_hand = found[question.name]
            name, where = f"{question.name}, {how}", f"{question.subject}; {all_of}"
            yield figure("history", name, ours, "s", f"{where}, ADBC", aim=Aim("<=", question.aim_s))
            yield figure("history", f"{name}, by hand", by_hand, "s", f"{where}, {HAND}")
            ratio = f"{name}, beside DuckDB by hand"
            yield figure("history", ratio, ours, "s", where, beside=by_hand, ratio_to=HAND, aim=Aim("<=", 1.2))
    yield from _limits(history)


Times = dict[str, tuple[list[float], list[float]]]


def _cold(history: History) -> Times:
    found: Times = {q.name: ([], []) for q in QUESTIONS}
    for _ in range(RUNS):
        # what a server has met before is no longer cold to it: the full range has one of its own
        for questions in (QUESTIONS[:-1], QUESTIONS[-1:]):
            for place, side in enumerate((_ours, _by_hand)):
                with side(history) as ask:
                    for question in questions:
                        _drop(question.files(history))
                        found[question.name][place].append(ask(question)[0])
    return found


def _warm(history: History) -> Times:
    found: Times = {q.name: ([], []) for q in QUESTIONS}
    with _ours(history) as ask, _by_hand(history) as ask_by_hand:
        for question in QUESTIONS:
            sides = (ask, ask_by_hand)
            answers = [side(question)[1] for side in sides]
            _same(question, *answers)
            for _ in range(RUNS):
                for place, side in enumerate(sides):
                    found[question.name][place].append(side(question)[0])
    return found


def _same(question: Question, ours: pa.Table, by_hand: pa.Table) -> None:
    """See that both sides answered the same, but for the order of adding, and of which of two trades of one instant."""
    for name in ours.schema.names:
        a, b = (t.column(name) for t in (ours, by_hand))
        if pa.types.is_floating(a.type):
            same = len(a) == len(b) and np.allclose(a.to_numpy(), b.to_numpy(), rtol=question.rtol)
        else:
            same = a.cast(b.type).equals(b)
        if not same:
            raise AssertionError(f"{question.name}: {name} differs: {ours} {by_hand}")


Ask = Callable[[Question], tuple[float, pa.Table]]


@contextmanager
def _ours(history: History) -> Iterator[Ask]:
    with server_on(history.folder) as (address, _), adbc.connect(address, autocommit=True) as connection:

        def ask(question: Question) -> tuple[float, pa.Table]:
            with connection.cursor() as cursor:
                started = time.perf_counter()
                cursor.execute(question.ours)
                table = cursor.fetch_arrow_table()
                return time.perf_counter() - started, table

        yield ask


@contextmanager
def _by_hand(history: History) -> Iterator[Ask]:
    mine, its = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_answer, args=(its,))
    process.start()
    mine.recv()

    def ask(question: Question) -> tuple[float, pa.Table]:
        mine.send(question.by_hand(history))
        answer: tuple[float, pa.Table] = mine.recv()
        return answer

    try:
        yield ask
    finally:
        process.kill()
        process.join()


def _answer(pipe: Any) -> None:
    config: dict[str, str | bool | int | float | list[str]]
    config = {"memory_limit": f"{QuerySettings().memory_mb}MiB", "asof_loop_join_threshold": "0"}
    connection = duckdb.connect(config=config)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")  # it would be drawn where figures go
    pipe.send("ready")
    while True:
        sql = pipe.recv()
        started = time.perf_counter()
        table = connection.sql(sql).to_arrow_table()
        pipe.send((time.perf_counter() - started, table))


def _limits(history: History) -> Iterator[Figure]:
    """What the machine does at most: bytes from the disk, and the sum over columns that are in memory already."""
    files = history.files(day=1)
    rates = []
    for _ in range(RUNS):
        _drop(files)
        started = time.perf_counter()
        size = sum(_read(path) for path in files)
        rates.append(size / (time.perf_counter() - started) / 1e9)
    yield figure("history", "limit: parts read from the disk", rates, "GB/s", "a day's parts, one thread, 1 MiB reads")
    columns = np.random.default_rng(1).random((2, 20_000_000))
    rates = [_rate(columns) for _ in range(RUNS)]
    yield figure("history", "limit: the sum over arrays in memory", rates, "rows/s", "numpy.dot of two float64 columns")


def _rate(columns: np.ndarray) -> float:
    started = time.perf_counter()
    np.dot(columns[0], columns[1])
    return len(columns[0]) / (time.perf_counter() - started)


def _drop(files: list[str]) -> None:
    """Let the system forget the pages of ``files``, which are on disk."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _read(path: str) -> int:
    descriptor, total = os.open(path, os.O_RDONLY), 0
    space = bytearray(1 << 20)
    try:
        while got := os.readv(descriptor, [space]):
            total += got
    finally:
        os.close(descriptor)
    return total
