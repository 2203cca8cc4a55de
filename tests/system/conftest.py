"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from rights_cases import configuration
from rights_market import RightsMarket, build
from system_processes import ServerProgram

from tickflight_server.config import LakehouseSettings

RIGHTS_SETTINGS = {
    # nothing moves while the market is looked at, but what a test flushes
    "lakehouse": {
        "flush_interval_seconds": 3600,
        "compact_share": 0,
        "wal_commit_interval_ms": 0,
        "verify_parts": "never",
    },
    # small, so that every result has several endpoints and windows
    "query": {"share_rows": 10, "heartbeat_s": 0.05, "ordered_window_rows": 25, "memory_mb": 256},
}


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProgram]]:
    """Start servers that end with the test."""
    started: list[ServerProgram] = []

    def start(*arguments: str, port: int | None = None) -> ServerProgram:
        started.append(ServerProgram(tmp_path, *arguments, port=port))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def rights_market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, RightsMarket]]:
    """A server for users of every role, and what it holds; tests leave both as they are."""
    folder = tmp_path_factory.mktemp("rights")
    market = build(LakehouseSettings(storage_path=folder / "store", wal_commit_interval_ms=0))
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(RIGHTS_SETTINGS | configuration()))
    server = ServerProgram(folder, "--config", str(config))
    yield server.address, market
    server.stop()


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether all there is is to be tried, and not a sample."""
    return bool(request.config.getoption("--campaign") == "full")
