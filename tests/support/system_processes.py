"""Real processes for the system tests: a server, a feed, a sandbox exchange; started, watched, stopped, killed."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
from ports import free_port

DEADLINE_S = 60.0


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of ``condition``; fail the test after ``deadline_s``."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Program:
    """A child process whose output is read line by line."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.decode().rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """Return the next line of output; fail the test if the process ends instead."""
        text = self._lines.get(timeout=DEADLINE_S)
        assert text is not None, f"the process ended: {self.log.read_text()[-2000:]}"
        return text

    def stop(self) -> int:
        """Ask the process to end; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE_S)
        self._close()
        return code

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reader.join(DEADLINE_S)


class ServerProgram(Program):
    """``tickflight-server serve``; ``address`` is where it listens, on a port of its own unless ``port`` is given."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None) -> None:
        super().__init__(
            [
                *("-m", "tickflight_server.cli", "serve", "--storage-path", str(folder / "store")),
                *("--port", str(free_port() if port is None else port), *arguments),
            ],
            folder / "server.log",
        )
        self.address = self.line().split()[-1]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return a query's rows over ADBC."""
        with flight_sql.connect(self.address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().to_pylist()


class SandboxProgram(Program):
    """The sandbox exchange; ``endpoints`` are what a handler is to be given, by exchange."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(
            [
                *("-m", "tickflight_server.feed.sandbox", "--dir", str(folder / "sandbox")),
                *("--die-with-stdin", *arguments),
            ],
            folder / "sandbox.log",
        )
        self.endpoints: dict[str, dict[str, str]] = json.loads(self.line())


def run_cli(
    *arguments: str, environment: dict[str, str] | None = None, standard_input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``tickflight-server`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tickflight_server.cli", *arguments],
        capture_output=True,
        input=standard_input,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, **(environment or {})},
        check=False,
    )
