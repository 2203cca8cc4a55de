"""The server process: store, engine, Flight, and the feed processes it looks after.

The rule of this file: things stop in the reverse order of starting, within a known time, and what was acknowledged is
in a part or in the log when the process ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import SecretStr

from tickflight_server.app.stopping import stop_signals, stop_with_stdin, wait_for_stop
from tickflight_server.app.supervisor import FeedSupervisor
from tickflight_server.audit import open_audit
from tickflight_server.clock import SystemClock
from tickflight_server.config import Settings
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.paths import Layout
from tickflight_server.query.engine import Engine
from tickflight_server.query.engines import Engines
from tickflight_server.redact import learn
from tickflight_server.store import Store

LOG = structlog.get_logger(__name__)
DRAIN_S = 5.0  # calls under way have so long to end when the server stops
FEED_TOKEN = "feed"  # noqa: S105 - the name of a token, not one


class Server:
    """A running server. ``address`` is where clients connect; ``close`` stops everything.

    Raises:
        ConfigError: the data folder or the port cannot be had.
        StorageError: the data folder's contents cannot be read.
    """

    def __init__(self, settings: Settings, config_path: Path | None = None) -> None:
        token = _feed_token(settings)
        fixed = {} if token is None else {FEED_TOKEN: SecretStr(token)}
        started_in = Path.cwd()
        # the feed needs no certificate there, and nobody but this user reaches it
        self._private = tempfile.mkdtemp(prefix="tickflight-") if settings.flight.tls and token is not None else None
        local = Path(self._private) / "feed.sock" if self._private else None
        self.store = Store(settings.lakehouse)
        try:
            self._open_audit(settings)
            # errors of the engine then name files relative to the data folder
            os.chdir(self.store.root)
            layout = Layout(self.store.root)
            self.engine = Engine(self.store, settings.query, workspace=layout.workspace)
            engines = Engines(self.engine, settings.query, layout.internal)
            self.flight = FlightSqlServer(self.store, self.engine, settings, engines=engines, fixed=fixed, local=local)
            board = self.engine.shared.board
            board.told.append(self.store.audit.statement)
            board.told_of_cancels.append(self.store.audit.cancel)
            self.store.audit.running = board.running
        except BaseException:
            self.store.audit.close()
            self.store.close(flush=False)
            self._clean()
            raise
        scheme = "grpc" if settings.flight.tls is None else "grpc+tls"
        self.address = f"{scheme}://{_reachable(settings.flight.host)}:{self.flight.port}"
        if self.flight.client_port is not None:
            LOG.info("server.client_port", port=self.flight.client_port)
        self._feeds: FeedSupervisor | None = None
        if settings.feeds:
            address = self.address if local is None else f"grpc+unix://{local}"
            self._feeds = FeedSupervisor(config_path, address, token, started_in)

    def _open_audit(self, settings: Settings) -> None:
        health, folder = self.store.health, Layout(self.store.root).audit

        def told(what: str | None, hint: str | None) -> None:
            if what is None:
                health.ok("audit")
            else:
                health.report("audit", "degraded", what, hint)

        self.store.audit = open_audit(settings.audit, folder, SystemClock(), self.store.metrics, told)
        self.store.audit.server("start", host=settings.flight.host, port=settings.flight.port)

    def close(self) -> None:
        """Stop feeds, then calls, then flush and let the data folder go."""
        if self._feeds is not None:
            self._feeds.stop()
        stopping = threading.Thread(target=self.flight.shutdown, name="flight-shutdown", daemon=True)
        stopping.start()
        stopping.join(DRAIN_S)
        if stopping.is_alive():
            LOG.info("server.calls_cut", after_s=DRAIN_S)
        else:
            self.engine.close()
        self.store.audit.server("stop")
        self.store.audit.close()
        self.store.close()
        self._clean()

    def _clean(self) -> None:
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)


def serve(
    settings: Settings,
    config_path: Path | None,
    announce: Callable[[str], None],
    *,
    die_with_stdin: bool = False,
) -> None:
    """Run a server until SIGINT or SIGTERM, or the end of standard input where that is asked for.

    ``announce`` is told its address when it is ready.
    """
    with stop_signals() as stop:
        if die_with_stdin:
            stop_with_stdin(stop)
        server = Server(settings, config_path.absolute() if config_path else None)
        try:
            server.engine.warm_up()
            announce(server.address)
            wait_for_stop(stop)
            LOG.info("server.stopping")
        finally:
            server.close()
    LOG.info("server.stopped")


def _feed_token(settings: Settings) -> str | None:
    """Return a token of this run for the feed process, None if it needs none or has credentials of its own."""
    collector = settings.collector
    own = any(one is not None for one in (collector.username, collector.token, collector.token_file))
    if not settings.feeds or own:
        return None
    token = secrets.token_urlsafe(32)
    learn([token])
    return token


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
