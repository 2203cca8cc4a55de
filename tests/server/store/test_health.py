"""What is wrong at the moment: told once when it begins and once when it ends, and always on demand."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tickflight_server.store.health import COMPONENTS, Condition, Health


class Clock:
    us = 0

    def now_us(self) -> int:
        self.us += 1
        return self.us

    def monotonic(self) -> float:
        return 0.0


def condition(health: Health, component: str) -> Condition:
    return next(c for c in health.conditions() if c.component == component)


def test_all_is_well_at_first() -> None:
    health = Health(Clock())
    assert [c.component for c in health.conditions()] == list(COMPONENTS)
    assert {(c.state, c.since_us, c.detail, c.hint) for c in health.conditions()} == {("ok", 1, "", "")}
    assert health.state == "ok"


def test_a_fault_is_told_once_and_keeps_the_time_at_which_it_began() -> None:
    health = Health(Clock())
    with capture_logs() as logs:
        for _ in range(3):
            health.report("flush", "degraded", "no space", "free some")
    assert [(e["event"], e["component"], e["detail"]) for e in logs] == [("health.alert", "flush", "no space")]
    assert condition(health, "flush") == Condition("flush", "degraded", 2, "no space", "free some")
    with capture_logs() as logs:
        health.report("flush", "degraded", "still no space")
        health.report("flush", "failed", "still no space")
    assert len(logs) == 2, "another fault and another state are told, too"
    assert condition(health, "flush") == Condition("flush", "failed", 3, "still no space", "")


def test_its_end_is_told_once() -> None:
    health = Health(Clock())
    health.report("log", "failed", "no space")
    with capture_logs() as logs:
        for _ in range(3):
            health.ok("log")
    assert [(e["event"], e["was"]) for e in logs] == [("health.recovered", "no space")]
    assert condition(health, "log") == Condition("log", "ok", 3)


def test_the_worst_component_says_how_the_whole_is() -> None:
    health = Health(Clock())
    health.report("parts", "degraded", "one is damaged")
    assert health.state == "degraded"
    health.report("disk", "failed", "full")
    assert health.state == "failed"
    health.ok("disk")
    assert health.state == "degraded"
    health.ok("parts")
    assert health.state == "ok"


def test_a_component_that_nobody_knows_is_our_mistake() -> None:
    with pytest.raises(KeyError):
        Health(Clock()).report("engine", "failed", "smoke")
