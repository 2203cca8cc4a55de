"""The server's own actions: pins, health, flush, and what feeds report.

The rule of this file: an action is a method from its request to its answer, None for none.
"""

from __future__ import annotations

import json
from typing import Any

from tickflight.wire.actions import (
    CreatePin,
    FeedReport,
    Flush,
    FlushResult,
    Health,
    HealthComponent,
    HealthResult,
    Pin,
    ReleasePin,
    RenewPin,
)
from tickflight.wire.codec import Message
from tickflight_server.errors import InputError, TooLargeError
from tickflight_server.flight.auth import Call
from tickflight_server.query.system import FeedBoard
from tickflight_server.store import Pin as StoredPin
from tickflight_server.store import Store

REPORT_BYTES_MAX = 256 << 10  # a thousand feeds are kept: 256 MiB at most
_REPORT_LEVELS_MAX = 20


class AdminService:
    """Answers the actions whose names begin with ``tickflight.``."""

    def __init__(self, store: Store, feeds: FeedBoard) -> None:
        self._store = store
        self._feeds = feeds

    def feed_report(self, call: Call, request: FeedReport) -> None:
        """Keep a feed's report.

        Raises:
            InputError: it could not be shown in a table again.
        """
        size = len(request.json) + len(request.feed)
        if size > REPORT_BYTES_MAX:
            raise TooLargeError(f"a feed's report has {size} bytes, at most {REPORT_BYTES_MAX} are taken.")
        try:
            values = json.loads(request.json)
            json.dumps(values, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or not _is_shallow(values, _REPORT_LEVELS_MAX):
            raise InputError("a feed's report is a JSON object.", hint=f"Of at most {_REPORT_LEVELS_MAX} levels.")
        self._feeds.report(request.feed, values)

    def flush(self, call: Call, request: Flush) -> Message:
        """Move all rows into parts."""
        return FlushResult(self._store.flush())

    def pin(self, call: Call, request: CreatePin) -> Message:
        """Hold the rows that are there now."""
        cuts = {name: table.state.last_seq for name, table in self._store.tables.items()}
        return _told(self._store.pins.create(cuts, request.seconds))

    def renew_pin(self, call: Call, request: RenewPin) -> Message:
        """Hold a pin for longer."""
        return _told(self._store.pins.renew(request.id, request.seconds))

    def release_pin(self, call: Call, request: ReleasePin) -> None:
        """Let a pin go; one that is gone already is no error."""
        self._store.pins.release(request.id)

    def health(self, call: Call, request: Health) -> Message:
        """Tell the state of each component."""
        health = self._store.health
        rows = health.conditions()
        components = tuple(HealthComponent(r.component, r.state, r.since_us, r.detail, r.hint) for r in rows)
        return HealthResult(health.state, components)


def _told(pin: StoredPin) -> Pin:
    return Pin(pin.id, pin.cuts, pin.created_us, pin.expires_us)


def _is_shallow(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)
