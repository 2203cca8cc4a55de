"""What holds for all tests: hypothesis tries the same examples every time, and no example is timed."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/crash; proto-notes/crash-testing.md is their page."""
    group = parser.getgroup("crash tests")
    group.addoption("--campaign", choices=("sample", "full"), default="sample", help="how much tests/crash tries")
    group.addoption("--crash-seed", type=int, default=1, help="what tests/crash tries")
    group.addoption(
        "--trust-later-syncs", action="store_true", help="a sync makes sure also what an earlier one failed about"
    )
    group.addoption("--in-place", action="store_true", help="the store must bear disk faults without being reopened")
