"""One process that runs the configured feeds until it is told to stop, and then loses nothing.

The rule of this file: the order of stopping is connections, then queues, then acknowledgements, then the sink; the exit
code is 0 only when every row that was called back is stored, or was dropped by the overflow setting and counted.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from tickflight_server.errors import ConfigError
from tickflight_server.feed import compat
from tickflight_server.feed.backend import Tickflight
from tickflight_server.feed.handlers import backends_for, build_handler

if TYPE_CHECKING:
    from tickflight_server.config import CollectorSettings, FeedSettings

LOG = structlog.get_logger(__name__)

Report = Callable[[str, dict[str, Any]], None]
"""Takes a feed's name and its counters."""

REPORT_INTERVAL_S = 1.0
STOP_POLL_S = 0.1
STALLED_MAX = 100  # symbols that are silent at this moment, in a report
CONNECT_TIMEOUT_S = 30.0
_TOTALS = ("received", "converted", "sent", "acknowledged", "rejected", "dropped", "failed", "queue_rows", "batches")


@dataclass
class _Running:
    """A configured feed: its name in reports, its backends by channel, cryptofeed's object."""

    name: str
    backends: Mapping[str, Tickflight]
    feed: Any = field(default=None)


def run_feeds(
    feeds: Sequence[FeedSettings],
    collector: CollectorSettings,
    *,
    address: str | None = None,
    embedded: Any = None,
    stop: threading.Event | None = None,
    report: Report | None = None,
    started: Callable[[], None] | None = None,
    install_signals: bool = True,
) -> int:
    """Run ``feeds`` until ``stop`` is set or SIGINT or SIGTERM arrives; returns the exit code.

    ``address`` is the server, over what ``collector`` names; ``embedded`` a store in this process instead. ``report``
    is called every second for every feed, on a thread. ``started`` is called once the feeds run.

    Raises:
        ConfigError: the configuration names what does not exist, or the server cannot be reached at the start.
    """
    if not feeds:
        raise ConfigError(
            "no feeds are configured.", hint="Add a section `feeds:` with exchange, symbols and channels."
        )
    options = _options(collector, address, embedded)
    running = [
        _Running(name, backends_for(settings, **options)) for name, settings in zip(_names(feeds), feeds, strict=True)
    ]
    backends = [backend for each in running for backend in each.backends.values()]
    try:
        _connect(backends[0], options.get("address"))
        for each, settings in zip(running, feeds, strict=True):
            each.feed = build_handler(settings, each.backends, drain_timeout_s=collector.drain_timeout_s)
        with _patient_gc(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            lost = runner.run(_run(running, stop or threading.Event(), report, started, install_signals))
    finally:
        for backend in backends:
            backend.close()
    return _verdict(running, lost, report)


def _options(collector: CollectorSettings, address: str | None, embedded: Any) -> dict[str, Any]:
    where = {"embedded": embedded} if embedded is not None else {"address": address or collector.address}
    if embedded is None and not where["address"]:
        raise ConfigError("no server to send to.", hint="Set collector.address, grpc://host:port.")
    return where | {
        "username": collector.username,
        "password": None if collector.password is None else collector.password.get_secret_value(),
        "token": None if collector.token is None else collector.token.get_secret_value(),
        "queue_rows_max": collector.queue_rows_max,
        "overflow": collector.overflow,
        "batch_interval_ms": collector.batch_interval_ms,
        "batch_rows_max": collector.batch_rows_max,
        "drain_timeout_s": collector.drain_timeout_s,
        "stall_seconds": collector.stall_seconds,
        "stall_channels": collector.stall_channels,
    }


def _names(feeds: Sequence[FeedSettings]) -> list[str]:
    names: list[str] = []
    for settings in feeds:
        same = sum(name.split("#")[0] == settings.exchange for name in names)
        names.append(f"{settings.exchange}#{same + 1}" if same else settings.exchange)
    return names


def _connect(backend: Tickflight, address: Any) -> None:
    try:
        backend.connect(CONNECT_TIMEOUT_S)
    except Exception as error:
        hint = getattr(error, "hint", None) or "Check that it runs, its address, and user, password or token."
        raise ConfigError(
            f"cannot send to {address or 'the store'}: {getattr(error, 'message', error)}.", hint=hint
        ) from error


@contextmanager
def _patient_gc() -> Iterator[None]:
    """Let Python search for cycles seldom: what waits in queues is many small tuples that have none."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(
    running: Sequence[_Running],
    stop: threading.Event,
    report: Report | None,
    started: Callable[[], None] | None,
    install_signals: bool,
) -> list[str]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    stopping = asyncio.Event()
    if install_signals:
        _install_signals(loop, stopping)
    tasks = [loop.create_task(_watch(stop, stopping))]
    if report is not None:
        tasks.append(loop.create_task(_reports(running, report)))
    feeds = loop.create_task(compat.run_until([each.feed for each in running], stopping))
    if started is not None:
        started()
    LOG.info("feeds started", feeds=[each.name for each in running], cryptofeed=compat.VERSION)
    try:
        return await feeds
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _install_signals(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    def on_signal(name: str) -> None:
        LOG.info("stopping: connections close, then the queue is drained", signal=name)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, signal.Signals(number).name)


async def _watch(stop: threading.Event, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        if stop.is_set():
            stopping.set()
        await asyncio.sleep(STOP_POLL_S)


async def _reports(running: Sequence[_Running], report: Report) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        states = [(each.name, _state(each)) for each in running]
        await loop.run_in_executor(None, _send_reports, states, report)


def _send_reports(states: Sequence[tuple[str, dict[str, Any]]], report: Report) -> None:
    for name, state in states:
        try:
            report(name, state)
        except Exception as error:  # a report is news, not data: the next one says it again
            LOG.debug("report failed", feed=name, error=repr(error))


def _state(each: _Running) -> dict[str, Any]:
    channels = {channel: backend.get_metrics() for channel, backend in each.backends.items()}
    errors = [metrics["last_error"] for metrics in channels.values() if metrics["last_error"]]
    gaps = [backend.get_gaps() for backend in each.backends.values()]
    return {
        "exchange": compat.feed_name(each.feed),
        **{name: sum(metrics[name] for metrics in channels.values()) for name in _TOTALS},
        "lag": max((metrics["lag"] for metrics in channels.values()), default=0.0),
        "last_error": errors[-1] if errors else None,
        "connections": compat.connections(each.feed),
        "gaps": sum(found for found, _ in gaps),
        "stalled": [silence for _, silent in gaps for silence in silent][:STALLED_MAX],
        "channels": channels,
        "time": time.time(),
    }


def _verdict(running: Sequence[_Running], lost: Sequence[str], report: Report | None) -> int:
    states = [(each.name, _state(each)) for each in running]
    if report is not None:
        _send_reports(states, report)
    failed = sum(state["failed"] + state["queue_rows"] for _, state in states)
    totals = {
        name: sum(state[name] for _, state in states) for name in ("received", "acknowledged", "rejected", "dropped")
    }
    if failed:
        LOG.error("rows were not delivered", rows=failed, **totals)
    if lost:
        LOG.error("feeds gave up", feeds=list(lost))
    if not failed and not lost:
        LOG.info("feeds stopped", **totals)
    return 1 if failed or lost else 0


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    LOG.error("event loop error", what=context.get("message"), error=None if error is None else repr(error))
