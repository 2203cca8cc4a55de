"""What the fuzz tests share: how much they send, and a server whose hours pass when a test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flight_here import FlightHere, trades, wait_until
from leaks import held, living, named_threads

from tickflight_server.clock import SystemClock

FULL_TIMEOUT_S = 3600
LONG_S = 10**6
TOKENS = {"ada": "token-of-ada", "bob": "token-of-bob"}
RSS_GROWTH_MB = 64
LIMITS = {
    "statement_timeout_s": 1,
    "heartbeat_s": 0.1,
    "memory_mb": 256,
    "concurrent_max": 8,
    "queue_timeout_s": 5,
    "handles_max": 500,
    "sessions_max": 50,
}


class Ahead(SystemClock):
    """The real time, and ``seconds`` more."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds


class Fuzzed(FlightHere):
    """A server for two users, and what the process held before it was sent anything."""

    def __init__(self, folder: Path) -> None:
        self.living = living()
        self.clock = Ahead()
        super().__init__(folder, auth={"tokens": TOKENS}, query=LIMITS, clock=self.clock)
        self.store.append("trades", trades(2000)).result()
        self.warm()

    def warm(self) -> None:
        """Take what is held now for what is held at rest: threads, arenas and connections that are kept are there."""
        self.at_rest, self.threads = held(), named_threads()

    def check_nothing_is_left(self) -> None:
        """Let all that is idle end, and see that nothing is left but what was there at rest."""
        wait_until(lambda: self.free_places == LIMITS["concurrent_max"])
        self.clock.seconds += LONG_S
        self.flight.main._sessions.sweep()
        wait_until(lambda: living() <= self.living)
        wait_until(lambda: named_threads() - {"call-watch"} <= self.threads)
        wait_until(lambda: held().descriptors <= self.at_rest.descriptors + 4)
        now = held()
        assert now.threads <= self.at_rest.threads + 16, "gRPC keeps a few threads that are idle"
        assert now.rss_mb <= self.at_rest.rss_mb + RSS_GROWTH_MB


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[Fuzzed]:
    running = Fuzzed(tmp_path / "lake")
    yield running
    running.stop()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--crash-seed"))


@pytest.fixture
def messages(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Choose how many are sent, in a sample and in the full campaign."""
    full = request.config.getoption("--campaign") == "full"
    return lambda sample, all_of_it: all_of_it if full else sample


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """What a test counts; the reports bring it to the line at the end from whichever process."""
    counted: Counter[str] = Counter()
    yield counted
    request.node.user_properties.append(("fuzzing", dict(counted)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--campaign") == "full":
        for item in items:
            item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))
