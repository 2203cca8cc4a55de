"""Feed processes: running one, and looking after one from the server.

The rule of this file: a feed process dies with the server that started it, and is started again when it dies alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import structlog

import tickflight
from tickflight_server.config import CollectorSettings, Settings
from tickflight_server.feed.runner import run_feeds

LOG = structlog.get_logger(__name__)
RESTART_S = (1.0, 30.0)  # first and longest wait before a feed process that died is started again
STOP_S = 40.0  # a feed process has so long to drain before it is ended
TOKEN_VARIABLE = "TICKFLIGHT_COLLECTOR__TOKEN"  # noqa: S105 - a variable's name


def run_feed_process(settings: Settings, address: str | None, *, die_with_stdin: bool = False) -> int:
    """Run the configured feeds in this process until a signal; return the exit code."""
    collector = settings.collector
    target = address or collector.address or f"grpc://{settings.flight.host}:{settings.flight.port}"
    stop = threading.Event()
    if die_with_stdin:
        threading.Thread(target=_wait_for_end, args=(stop,), daemon=True).start()
    reporter = _Reporter(target, collector)
    try:
        return run_feeds(settings.feeds, collector, address=target, stop=stop, report=reporter)
    finally:
        reporter.close()


def _wait_for_end(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


class _Reporter:
    """Sends a feed's counters to the server; a report that does not arrive is not sent again."""

    def __init__(self, address: str, collector: CollectorSettings) -> None:
        self._address = address
        self._collector = collector
        self._client: tickflight.Client | None = None

    def __call__(self, feed: str, values: dict[str, Any]) -> None:
        """Send a report."""
        if self._client is None:
            self._client = tickflight.connect(self._address, timeout_s=5.0, **credentials(self._collector))
        self._client.report_feed(feed, values)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


def credentials(collector: CollectorSettings) -> dict[str, Any]:
    """Return how a collector logs in, as arguments of ``tickflight.connect``."""
    return {
        "username": collector.username,
        "password": collector.password.get_secret_value() if collector.password else None,
        "token": collector.token.get_secret_value() if collector.token else None,
    }


class FeedSupervisor:
    """Runs ``tickflight-server feed`` and starts it again when it dies."""

    def __init__(self, config_path: Path | None, address: str, token: str | None) -> None:
        config = ["--config", str(config_path)] if config_path else []
        self._command = [
            *(sys.executable, "-m", "tickflight_server.cli", "feed", *config),
            *("--address", address, "--die-with-stdin"),
        ]
        self._environment = dict(os.environ)
        if token is not None:
            self._environment[TOKEN_VARIABLE] = token
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="feed-supervisor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait = RESTART_S[0]
        while not self._stopping.is_set():
            # a session of its own: a Ctrl-C in the terminal reaches the server alone, which stops the feed in order
            self._process = subprocess.Popen(  # noqa: S603 - this program
                self._command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True
            )
            code = self._process.wait()
            if self._stopping.is_set():
                return
            LOG.error("feed.died", exit_code=code, restart_in_s=wait)
            self._stopping.wait(wait)
            wait = min(wait * 2, RESTART_S[1])

    def stop(self) -> None:
        """Let the feed process drain and end."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                LOG.error("feed.killed", after_s=STOP_S)
                process.kill()
        self._thread.join()
