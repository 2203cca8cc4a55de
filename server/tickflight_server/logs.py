"""Structured logs of a process: set up once, by whoever starts the process.

The rule of this file: one event a line, keys instead of prose; JSON unless a person reads the terminal. Logs go to
standard error, since standard output belongs to what a command answers.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(least: str = "info", form: str = "auto") -> None:
    """Send this process's events, and those of libraries that use ``logging``, to standard error.

    ``least`` and ``form`` are the settings ``log.level`` and ``log.format``.
    """
    level = logging.getLevelNamesMapping()[least.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
