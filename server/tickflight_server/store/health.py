"""What is wrong at the moment, by component: told once when it begins, once when it ends, and always by SQL.

The rule of this file: a fault degrades one component and is never silent; whoever finds that it has gone says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import structlog

from tickflight_server.clock import Clock

LOG = structlog.get_logger(__name__)
State = Literal["ok", "degraded", "failed"]
COMPONENTS = ("log", "flush", "parts", "compaction", "retention", "tier", "vacuum", "disk", "memory", "workspace")


@dataclass(frozen=True)
class Condition:
    """The state of a component since ``since_us``, microseconds since 1970; ``detail`` says what is wrong."""

    component: str
    state: State
    since_us: int
    detail: str = ""
    hint: str = ""


class Health:
    """The conditions of all components. ``degraded``: it works in part; ``failed``: what it does is refused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        now = clock.now_us()
        self._conditions = {name: Condition(name, "ok", now) for name in COMPONENTS}

    def report(self, component: str, state: State, detail: str, hint: str | None = None) -> None:
        """Note that ``component`` is not as it should be; the first report of a state is an alert in the log."""
        with self._lock:
            before = self._conditions[component]
            since = before.since_us if before.state == state else self._clock.now_us()
            self._conditions[component] = Condition(component, state, since, detail, hint or "")
        if before.state != state or before.detail != detail:
            LOG.error("health.alert", component=component, state=state, detail=detail, hint=hint)

    def ok(self, component: str) -> None:
        """Note that ``component`` is as it should be."""
        if self._conditions[component].state == "ok":
            return
        with self._lock:
            before = self._conditions[component]
            self._conditions[component] = Condition(component, "ok", self._clock.now_us())
        LOG.info("health.recovered", component=component, was=before.detail)

    @property
    def state(self) -> State:
        """The worst state of any component."""
        states = {c.state for c in self._conditions.values()}
        return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"

    def conditions(self) -> Iterator[Condition]:
        """Yield the condition of each component."""
        with self._lock:
            yield from list(self._conditions.values())
