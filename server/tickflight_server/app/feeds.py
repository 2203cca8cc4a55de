"""A feed process: the configured feeds, and their reports to the server.

The rule of this file: a feed that was started by a server dies with it.
"""

from __future__ import annotations

import threading
from typing import Any

from pydantic import SecretStr

import tickflight
from tickflight_server.app.stopping import stop_with_stdin
from tickflight_server.config import CollectorSettings, Settings
from tickflight_server.feed.runner import run_feeds
from tickflight_server.identity.secret_files import read_secret_text


def run_feed_process(settings: Settings, address: str | None, *, die_with_stdin: bool = False) -> int:
    """Run the configured feeds in this process until a signal; return the exit code."""
    collector = with_secrets(settings.collector)
    target = address or collector.address or f"grpc://{settings.flight.host}:{settings.flight.port}"
    stop = threading.Event()
    if die_with_stdin:
        stop_with_stdin(stop)
    reporter = _Reporter(target, collector)
    try:
        return run_feeds(settings.feeds, collector, address=target, stop=stop, report=reporter)
    finally:
        reporter.close()


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


def with_secrets(collector: CollectorSettings) -> CollectorSettings:
    """Return the settings with the secrets themselves in the place of the files that hold them.

    Raises:
        ConfigError: a file cannot be read, or others may read it.
    """
    read = {
        name: SecretStr(read_secret_text(file))
        for name in ("password", "token")
        if (file := getattr(collector, f"{name}_file")) is not None
    }
    return collector.model_copy(update={**read, **{f"{name}_file": None for name in read}})


def credentials(collector: CollectorSettings) -> dict[str, Any]:
    """Return how a collector logs in, as arguments of ``tickflight.connect``.

    Raises:
        ConfigError: a file with a secret cannot be read.
    """
    collector = with_secrets(collector)
    return {
        "username": collector.username,
        "password": collector.password.get_secret_value() if collector.password else None,
        "token": collector.token.get_secret_value() if collector.token else None,
    }
