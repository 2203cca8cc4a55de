"""What holds for all tests: hypothesis tries the same examples every time, and no example is timed."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture
def command_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let commands that run in this process set up its logs, and undo that for the tests that come after."""
    configure, root = structlog.configure, logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def configured(**given: Any) -> None:
        configure(**given | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", configured)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/crash, two of which other campaigns have, too; see proto-notes/crash-testing.md."""
    group = parser.getgroup("crash tests")
    group.addoption(
        "--campaign",
        choices=("sample", "full"),
        default="sample",
        help="how much tests/crash, tests/fuzz and rights try",
    )
    group.addoption("--crash-seed", type=int, default=1, help="what they try")
    group.addoption(
        "--trust-later-syncs", action="store_true", help="a sync makes sure also what an earlier one failed about"
    )
    group.addoption("--in-place", action="store_true", help="the store must bear disk faults without being reopened")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line each what tests/crash, tests/fuzz and the tests of rights tried, in all processes together."""
    counts: dict[str, Counter[str]] = {"crash testing": Counter(), "fuzzing": Counter(), "rights": Counter()}
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        if isinstance(report, pytest.TestReport) and report.when == "teardown":
            for name, counted in report.user_properties:
                if name in counts:
                    counts[name].update(counted)
    for name, counted in counts.items():
        if counted:
            told = ", ".join(f"{count} {what}" for what, count in counted.items())
            options = f"campaign {config.getoption('--campaign')}, seed {config.getoption('--crash-seed')}"
            terminalreporter.write_line(f"{name}: {told} ({options})")
