"""What holds for all tests: hypothesis tries the same examples every time, and no example is timed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/crash and other campaigns; proto-notes/crash-testing.md is their page."""
    group = parser.getgroup("crash tests")
    group.addoption("--campaign", choices=("sample", "full"), default="sample", help="how much tests/crash tries")
    group.addoption("--crash-seed", type=int, default=1, help="what tests/crash tries")
    group.addoption(
        "--trust-later-syncs", action="store_true", help="a sync makes sure also what an earlier one failed about"
    )
    group.addoption("--in-place", action="store_true", help="the store must bear disk faults without being reopened")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line what tests/crash tried, in all processes together."""
    counts: Counter[str] = Counter()
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        if isinstance(report, pytest.TestReport) and report.when == "teardown":
            for name, counted in report.user_properties:
                if name == "crash testing":
                    counts.update(counted)
    if counts:
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        options = f"campaign {config.getoption('--campaign')}, seed {config.getoption('--crash-seed')}"
        terminalreporter.write_line(f"crash testing: {told} ({options})")
