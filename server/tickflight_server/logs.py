"""Structured logs of a process: set up once, by whoever starts the process.

The rule of this file: one event a line, keys instead of prose, and no secret in it; JSON unless a person reads the
terminal. Logs go to standard error, since standard output belongs to what a command answers.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

import structlog

from tickflight_server.redact import HIDDEN, hide, is_sensitive


def configure_logs(least: str = "info", form: str = "auto") -> None:
    """Send this process's events, and those of libraries that use ``logging``, to standard error.

    ``least`` and ``form`` are the settings ``log.level`` and ``log.format``. Errors that nobody catches are events.
    """
    level = logging.getLevelNamesMapping()[least.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        without_secrets,
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
    threading.excepthook = _tell_of_thread
    sys.unraisablehook = _tell_of_unraisable


def without_secrets(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take secrets out of an event: values under telling names, and what looks like one in any text."""
    return {key: HIDDEN if is_sensitive(key) and value else _hidden(value) for key, value in event.items()}


def _hidden(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {k: HIDDEN if is_sensitive(str(k)) and v else _hidden(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_hidden(one) for one in value]
    return hide(repr(value))


def _tell_of_thread(args: threading.ExceptHookArgs) -> None:
    """Log what ended a thread."""
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else None
    error = (args.exc_type, args.exc_value, args.exc_traceback)
    structlog.get_logger(__name__).error("thread.died", thread=name, exc_info=error)


def _tell_of_unraisable(args: sys.UnraisableHookArgs) -> None:
    """Log what nobody could be told of, such as an error while something is forgotten."""
    error = (args.exc_type, args.exc_value, args.exc_traceback)
    structlog.get_logger(__name__).error("error.ignored", what=args.err_msg, exc_info=error)
