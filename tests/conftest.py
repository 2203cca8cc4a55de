"""What holds for all tests: hypothesis tries the same examples every time, and no example is timed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
