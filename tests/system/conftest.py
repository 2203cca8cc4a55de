"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from system_processes import ServerProgram


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
