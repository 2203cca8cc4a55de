"""What all engines of a server have in common: threads that read ahead, turns, places, rates, the board of statements.

The rule of this file: what is limited for the whole server is here once, however many engines there are.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from resource import RUSAGE_THREAD, getrusage

from tickflight_server.clock import Clock, SystemClock
from tickflight_server.config import QuerySettings
from tickflight_server.metrics import Metrics
from tickflight_server.query.ahead import Ahead
from tickflight_server.query.board import Board
from tickflight_server.query.long_work import LongWork
from tickflight_server.query.places import Places
from tickflight_server.query.planning import Started
from tickflight_server.query.rates import Rates
from tickflight_server.query.reserve import Reserve
from tickflight_server.query.session import DEFAULTS, Options
from tickflight_server.query.turns import Turns


class Shared:
    """What statements of all engines share.

    Args:
        settings: limits.
        metrics: the server's counters.
    """

    def __init__(self, settings: QuerySettings, metrics: Metrics, clock: Clock | None = None) -> None:
        threads = settings.threads or os.cpu_count() or 1
        self.ahead = Ahead(threads)
        self.turns = Turns(threads, lambda: metrics.read().get("rows_appended", 0.0))
        self.places = Places(settings, metrics)
        self.board = Board(settings, metrics, clock or SystemClock())
        self.rates = Rates(metrics)
        self.long_work = LongWork()
        self.reserve = Reserve(settings, metrics, self.board, self.long_work)

    def enter(self, held: ExitStack, options: Options = DEFAULTS, started: Started | None = None) -> None:
        """Take a place among the running statements until ``held`` is closed; ``started`` is given what ends the wait.

        Raises:
            CrowdedError: none came free in time, or too many wait.
            CancelledError: the wait was ended.
        """
        caller, run = options.caller, options.run
        if run is None:
            self.places.take(caller, started)
        else:
            run.state = "queued"
            run.waited_s += self.places.take(caller, started)
            run.state = "running"
            held.callback(setattr, run, "thread", 0)
            run.thread, run.pages = threading.get_native_id(), getrusage(RUSAGE_THREAD).ru_minflt
            self.reserve.watch()
        held.callback(self.places.leave, caller)

    def close(self) -> None:
        """Let the threads go."""
        self.ahead.close()
