"""Fixtures of the system tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# --import-mode=importlib does not put this folder on the path: the helpers are loaded by their file
_spec = importlib.util.spec_from_file_location("system_processes", Path(__file__).with_name("processes.py"))
assert _spec is not None
assert _spec.loader is not None
processes = importlib.util.module_from_spec(_spec)
sys.modules["system_processes"] = processes
_spec.loader.exec_module(processes)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., processes.ServerProgram]]:
    """Start servers that end with the test."""
    started: list[processes.ServerProgram] = []

    def start(*arguments: str, port: int = 0) -> processes.ServerProgram:
        started.append(processes.ServerProgram(tmp_path, *arguments, port=port))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()
