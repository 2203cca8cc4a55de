"""Looking after the feed process of a server.

The rule of this file: the feed process dies with the server that started it, and is started again when it dies alone.
Nothing here needs cryptofeed: a server without feeds runs without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import structlog

LOG = structlog.get_logger(__name__)
RESTART_S = (1.0, 30.0)  # first and longest wait before a feed process that died is started again
STOP_S = 40.0  # a feed process has so long to drain before it is ended
TOKEN_VARIABLE = "TICKFLIGHT_COLLECTOR__TOKEN"  # noqa: S105 - a variable's name


class FeedSupervisor:
    """Runs ``tickflight-server feed`` and starts it again when it dies.

    Args:
        config_path: the configuration, absolute.
        address: the server's.
        token: what the feed logs in with, None if it has credentials of its own or needs none.
        folder: where relative paths of the configuration start.
    """

    def __init__(self, config_path: Path | None, address: str, token: str | None, folder: Path) -> None:
        self._folder = folder
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
            started = time.monotonic()
            self._process = subprocess.Popen(  # noqa: S603 - this program
                self._command,
                stdin=subprocess.PIPE,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
            code = self._process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > RESTART_S[1]:
                wait = RESTART_S[0]  # it ran well for a while
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
