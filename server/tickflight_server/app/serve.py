"""The server process: store, engine, Flight, and the feed processes it looks after.

The rule of this file: things stop in the reverse order of starting, within a known time, and what was acknowledged is
in a part or in the log when the process ends.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import SecretStr

from tickflight_server.app.stopping import stop_signals, stop_with_stdin, wait_for_stop
from tickflight_server.app.supervisor import FeedSupervisor
from tickflight_server.config import Settings
from tickflight_server.errors import ConfigError
from tickflight_server.flight.server import FlightSqlServer
from tickflight_server.paths import Layout
from tickflight_server.query.engine import Engine
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
        _check_exposure(settings)
        token = _feed_token(settings)
        if token is not None:
            tokens = {**settings.auth.tokens, FEED_TOKEN: SecretStr(token)}
            settings = settings.model_copy(update={"auth": settings.auth.model_copy(update={"tokens": tokens})})
        started_in = Path.cwd()
        self.store = Store(settings.lakehouse)
        try:
            # errors of the engine then name files relative to the data folder
            os.chdir(self.store.root)
            self.engine = Engine(self.store, settings.query, workspace=Layout(self.store.root).workspace)
            self.flight = FlightSqlServer(self.store, self.engine, settings)
        except BaseException:
            self.store.close(flush=False)
            raise
        self.address = f"grpc://{_reachable(settings.flight.host)}:{self.flight.port}"
        self._feeds: FeedSupervisor | None = None
        if settings.feeds:
            self._feeds = FeedSupervisor(config_path, self.address, token, started_in)

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
        self.store.close()


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
    own = settings.collector.username is not None or settings.collector.token is not None
    return None if not settings.feeds or settings.auth.anonymous or own else secrets.token_urlsafe(32)


def _check_exposure(settings: Settings) -> None:
    """Refuse to let anyone in from other machines."""
    host = settings.flight.host
    if settings.auth.anonymous and not (host == "localhost" or host.startswith("127.") or host == "::1"):
        raise ConfigError(
            f"flight.host is {host} and nobody has to say who they are.",
            hint="Set auth.users or auth.tokens, or listen on 127.0.0.1.",
        )


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
