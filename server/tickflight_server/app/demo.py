"""The demo: sandbox exchange, feed and server as real processes, watched over ADBC, and checked at the end.

The rule of this file: nothing here is special. The processes are those of production with a configuration file, and
what the view shows was asked over the wire.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from tickflight_server.app.demo_view import Sample, View
from tickflight_server.app.stopping import stop_signals
from tickflight_server.config import FlightSettings
from tickflight_server.errors import ConfigError, ServerError

CHANNELS = ("trades", "ticker", "l2_book", "candles")
START_S = 60.0
STOP_S = 60.0


@dataclass(frozen=True)
class DemoOptions:
    """What the demo is asked for; without ``exchange`` the sandbox, without ``seconds`` until Ctrl-C."""

    folder: Path
    seconds: float | None = None
    exchange: str | None = None
    sandbox: str = "BINANCE"
    symbols: tuple[str, ...] = ()
    rate: float = 2000.0
    seed: int = 7
    port: int | None = None


def run_demo(options: DemoOptions, say: Callable[[str], None]) -> bool:
    """Run the whole way until its time is over or a signal comes; return whether every row arrived."""
    logs = options.folder / "logs"
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot use the folder {options.folder}: {error.strerror}.", hint="Check --data.") from None
    with ExitStack() as stack, stop_signals() as stop:
        sandbox = None if options.exchange else _Process.sandbox(options, logs)
        if sandbox is not None:
            stack.callback(sandbox.stop)
        config = _write_config(options, sandbox)
        server = _Process("server", ["serve", "--config", str(config)], logs)
        stack.callback(server.stop)
        address = server.wait_for_line().split()[-1]
        feed = _Process("feed", ["feed", "--config", str(config), "--address", address, "--die-with-stdin"], logs)
        stack.callback(feed.stop)
        view = View(address, options.folder, say)
        stack.callback(view.close)
        started = time.monotonic()
        with view:
            while not stop.wait(1.0):
                view.show()
                for process in (server, feed, sandbox):
                    if process is not None:
                        process.check()
                if options.seconds is not None and time.monotonic() - started >= options.seconds:
                    break
        say("stopping: the feed drains, then the server flushes …")
        feed.stop()
        last = view.sample()
        if stop.is_set() and not last.feed.get("received"):
            say("stopped before the first event came")
            return True
        return _report(last, say)


def _report(last: Sample, say: Callable[[str], None]) -> bool:
    """Say what arrived; return whether it is all that the feed's handler called back."""
    complete = True
    for table in last.tables:
        dense = last.dense.get(table.name, False)
        complete = complete and dense
        say(f"{table.name}: {table.rows} rows, seq 1 to {table.last_seq} {'dense' if dense else 'WITH HOLES'}")
    if last.gaps:
        say(f"system.gaps: {last.gaps} holes that the feeds know of, of this and earlier runs")
    feed = last.feed
    received, stored = feed.get("received", 0), feed.get("acknowledged", 0) + feed.get("rejected", 0)
    complete = complete and received == stored and received > 0
    say(
        f"{received} events called back in this run, {stored} acknowledged, {feed.get('dropped', 0)} dropped: "
        + ("nothing lost" if complete else "NOT ALL ARRIVED, see the logs")
    )
    return complete


def _write_config(options: DemoOptions, sandbox: _Process | None) -> Path:
    feed: dict[str, Any] = {"channels": list(CHANNELS)}
    if sandbox is None:
        assert options.exchange is not None
        feed |= {"exchange": options.exchange, "symbols": list(options.symbols) or ["BTC-USDT", "ETH-USDT"]}
    else:
        endpoints = json.loads(sandbox.wait_for_line())[options.sandbox]
        feed |= {"exchange": endpoints.pop("exchange"), "endpoints": endpoints}
        feed["symbols"] = list(options.symbols) or ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
    document = {
        "lakehouse": {"storage_path": str((options.folder / "store").absolute()), "flush_interval_seconds": 5},
        "flight": {"port": _free_port(options.port)},
        "feeds": [feed],
        "log": {"format": "json"},
    }
    path = options.folder / "demo.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _free_port(wanted: int | None) -> int:
    """Return the port to serve on: the wanted one, else the usual one if it is free, else any."""
    if wanted is not None:
        return wanted
    usual = int(FlightSettings().port)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            return 0
    return usual


class _Process:
    """One of the demo's processes, its standard error in a log file."""

    def __init__(self, name: str, arguments: list[str], logs: Path) -> None:
        self._name = name
        self._log = logs / f"{name}.log"
        command = [sys.executable, "-m", "tickflight_server.cli", *arguments]
        if name == "server":
            command += ["--no-feeds", "--die-with-stdin"]  # the demo runs the feed itself, to stop it first and count
        if name == "sandbox":
            command = [sys.executable, "-m", "tickflight_server.feed.sandbox", *arguments]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this program
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    @classmethod
    def sandbox(cls, options: DemoOptions, logs: Path) -> _Process:
        """Start the sandbox exchange."""
        arguments = [
            *("--rate", str(options.rate), "--seed", str(options.seed), "--protocols", options.sandbox),
            *("--dir", str(options.folder / "sandbox"), "--die-with-stdin"),
        ]
        return cls("sandbox", arguments, logs)

    def wait_for_line(self) -> str:
        """Return the process's next line.

        Raises:
            ServerError: it ended instead.
        """
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        line = stream.readline().decode().strip()
        if not line:
            self._process.wait(START_S)
            raise self._failure()
        return line

    def check(self) -> None:
        """Raise if the process has ended."""
        if self._process.poll() is not None:
            raise self._failure()

    def _failure(self) -> ServerError:
        lines = self._log.read_text(errors="replace").strip().splitlines() or ["(no output)"]
        return ConfigError(f"the {self._name} ended: {lines[-1]}", hint=f"See {self._log}.")

    def stop(self) -> None:
        """Ask the process to end and wait; it is killed if it takes too long."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
