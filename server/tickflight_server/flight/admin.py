"""The server's own actions: pins, health, flush, and what feeds report.

The rule of this file: an action is a method from its request to its answer, None for none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
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
from tickflight_server.errors import InputError, ServerError, TooLargeError
from tickflight_server.flight.auth import Call
from tickflight_server.flight.permits import check_admin, check_feed
from tickflight_server.query.system import FeedBoard, told
from tickflight_server.store import Pin as StoredPin
from tickflight_server.store import SeenStore

REPORT_BYTES_MAX = 256 << 10  # a thousand feeds are kept: 256 MiB at most
_REPORT_LEVELS_MAX = 20


Act = Callable[["AdminService", Call, Any], Any]


def _recorded(act: str, *about: str) -> Callable[[Act], Act]:
    """Let the audit have a line of each call, done or refused, with what the request says ``about`` it."""

    def recorded(method: Act) -> Act:
        @wraps(method)
        def do(self: AdminService, call: Call, request: Any) -> Any:
            self._store.audit.admit()
            said = {name: getattr(request, name) for name in about}
            try:
                result = method(self, call, request)
            except ServerError as error:
                self._store.audit.act(call.session.user, act, call.peer, failed=error.message, **said)
                raise
            self._store.audit.act(call.session.user, act, call.peer, **said)
            return result

        return do

    return recorded


class AdminService:
    """Answers the actions whose names begin with ``tickflight.``."""

    def __init__(self, store: SeenStore, feeds: FeedBoard) -> None:
        self._seen = store
        self._store = store.whole
        self._feeds = feeds

    def feed_report(self, call: Call, request: FeedReport) -> None:
        """Keep a feed's report.

        Raises:
            InputError: it could not be shown in a table again.
        """
        check_feed(call.session.rights)
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

    @_recorded("flush")
    def flush(self, call: Call, request: Flush) -> Message:
        """Move all rows into parts."""
        check_admin("tickflight.Flush", call.session.rights)
        return FlushResult(self._store.flush())

    @_recorded("pin", "seconds")
    def pin(self, call: Call, request: CreatePin) -> Message:
        """Hold the rows that are there now."""
        cuts = {name: table.state.last_seq for name, table in self._seen.tables.items()}
        return self._told(self._store.pins.create(cuts, request.seconds))

    @_recorded("renew_pin", "id", "seconds")
    def renew_pin(self, call: Call, request: RenewPin) -> Message:
        """Hold a pin for longer."""
        return self._told(self._store.pins.renew(request.id, request.seconds))

    @_recorded("release_pin", "id")
    def release_pin(self, call: Call, request: ReleasePin) -> None:
        """Let a pin go; one that is gone already is no error."""
        self._store.pins.release(request.id)

    def _told(self, pin: StoredPin) -> Pin:
        """Return what is told of a pin: the cuts of the tables whose ``seq`` may be seen."""
        told = {name for name, table in self._seen.schemas.items() if any(c.name == "seq" for c in table.columns)}
        cuts = {name: seq for name, seq in pin.cuts.items() if name in told}
        return Pin(pin.id, cuts, pin.created_us, pin.expires_us)

    def health(self, call: Call, request: Health) -> Message:
        """Tell the state of each component."""
        health = self._store.health
        rows = told(health, self._seen.sight)
        components = tuple(HealthComponent(r.component, r.state, r.since_us, r.detail, r.hint) for r in rows)
        return HealthResult(health.state, components)


def _is_shallow(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)
