"""Sessions that are opened, used and left without a goodbye: nothing of them stays."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from cancelling import RUNNING, Proxy
from flight_here import trades
from system_processes import ServerProgram, wait_for

import tickflight

SESSIONS = {"sample": 24, "full": 500}
PROCESSES = 4
SETTINGS = "query: {session_idle_s: 3, transaction_idle_s: 3, handle_idle_s: 3, concurrent_max: 600}\n"
ROWS = 1000
MEMORY_MB = 150
# of gRPC's own, which come and go
THREADS = 20
FILES = 30
# a process that opens sessions from a number to another, says so, and waits to be killed
CLIENT = """
import sys
sys.path[:0] = sys.argv[4:]
from test_abandoned import open_sessions
kept = open_sessions(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
"""


def open_sessions(address: str, first: int, last: int) -> list[Any]:
    """Return sessions that each hold something: which kind, their number says."""
    kept: list[Any] = []
    for number in range(first, last):
        kind = number % 4
        connection = adbc.connect(address, autocommit=kind != 0)
        cursor = connection.cursor()
        kept += [connection, cursor]
        cursor.execute("SET TimeZone = 'Europe/Berlin'")
        if kind == 0:
            cursor.execute(f"UPDATE locks SET x = -1 WHERE id = {number % ROWS}")
            cursor.execute("SELECT count(*) FROM locks WHERE x = -1")
        elif kind == 1:
            cursor.execute("CREATE TEMP TABLE own AS SELECT range AS x FROM range(200000)")
            cursor.execute("FROM own")
        elif kind == 2:
            cursor.adbc_prepare("SELECT seq, ? AS n FROM trades WHERE seq > ?")
            cursor.execute("BEGIN")
            cursor.execute(f"DELETE FROM locks WHERE id = {number % ROWS}")
        else:
            cursor.execute("SELECT a.seq FROM trades a, trades b, trades c")
            cursor.fetchone()
    return kept


class Watched:
    """What a server holds, seen from outside."""

    def __init__(self, server: ServerProgram) -> None:
        self._server = server
        self._folder = Path(f"/proc/{server.process.pid}")

    def running(self) -> int:
        ((count,),) = [row.values() for row in self._server.query(RUNNING)]
        return int(count)

    def counts(self) -> tuple[int, int]:
        """Return threads and files."""
        return len(list((self._folder / "task").iterdir())), len(list((self._folder / "fd").iterdir()))

    def memory_mb(self) -> float:
        pages = int((self._folder / "statm").read_text().split()[1])
        return pages * 4096 / 2**20


@pytest.fixture
def server(start_server: Callable[..., ServerProgram], tmp_path: Path) -> ServerProgram:
    config = tmp_path / "server.yaml"
    config.write_text(SETTINGS)
    running = start_server("--config", str(config))
    with tickflight.connect(running.address) as client, client.writer("trades") as writer:
        writer.write(trades(2000))
        writer.flush(30)
    with adbc.connect(running.address, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE locks AS SELECT range AS id, 0 AS x FROM range({ROWS})")
    return running


def leave(server: ServerProgram, count: int) -> None:
    """Open ``count`` sessions; leave half by a connection that is cut, and half by kill -9."""
    each = count // PROCESSES
    proxy = Proxy(server.port)
    paths = [str(Path(__file__).parent), *sys.path]
    with ExitStack() as opened:
        processes = [
            opened.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, "-c", CLIENT, (server.address, proxy.address)[n % 2]),
                        *(str(n * each), str(n * each + each), *paths),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for n in range(PROCESSES)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        proxy.cut()
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_nothing_stays_of_sessions_that_were_left(server: ServerProgram, request: pytest.FixtureRequest) -> None:
    sessions = SESSIONS[request.config.getoption("--campaign")]
    watched = Watched(server)
    leave(server, 20)
    wait_for(lambda: watched.running() == 0, "the first sessions' statements have ended")
    time.sleep(5)  # idle sessions end after 3 s, threads of gRPC a little later
    threads, files = watched.counts()
    memory = watched.memory_mb()
    leave(server, sessions)
    wait_for(lambda: watched.running() == 0, "their statements have ended")
    wait_for(lambda: watched.counts()[1] <= files + FILES, f"files are {files} again")
    wait_for(lambda: watched.counts()[0] <= threads + THREADS, f"threads are {threads} again")
    with adbc.connect(server.address) as connection, connection.cursor() as cursor:

        def write_all() -> bool:
            try:
                cursor.execute("UPDATE locks SET x = x + 1")
            except adbc.Error:
                connection.rollback()
                return False
            connection.commit()
            return True

        wait_for(write_all, "all rows can be written by another session")
        cursor.execute("SELECT count(*), min(x), max(x) FROM locks")
        assert cursor.fetchone() == (ROWS, 1, 1)
        cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE database_name = 'temp'")
        assert cursor.fetchone() == (0,)
    # the last sessions end, and the allocator gives back, a little later
    wait_for(lambda: watched.memory_mb() - memory < MEMORY_MB, f"memory is {memory:.0f} MB again")
    print(f"{sessions} sessions were left: threads {threads}, files {files}, memory {memory:.0f} MB before")
