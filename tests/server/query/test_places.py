"""Places: as many as may run, the next one to whose turn it is, and nobody waits on who has gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from tickflight_server.config import QuerySettings, RoleLimits
from tickflight_server.errors import CancelledError, CrowdedError
from tickflight_server.identity.rights import Roles
from tickflight_server.metrics import Metrics
from tickflight_server.query.callers import Caller
from tickflight_server.query.places import Places

_RIGHTS = Roles({}).rights(["user"])


def _caller(user: str, **limits: int) -> Caller:
    return Caller(user, replace(_RIGHTS, limits=RoleLimits(**limits)))


def _places(**settings: float) -> Places:
    return Places(QuerySettings(**{"queue_timeout_s": 20, **settings}), Metrics())  # type: ignore[arg-type]


class _Waiter(threading.Thread):
    """Takes a place, notes it in ``order``, and keeps it until ``done``."""

    def __init__(self, places: Places, caller: Caller, order: list[str]) -> None:
        super().__init__(daemon=True)
        self.places, self.caller, self.order = places, caller, order
        self.done = threading.Event()
        self.stops: list[Callable[[], None]] = []
        self.failure: Exception | None = None
        before = places.waiting
        self.start()
        _until(lambda: places.waiting > before or self.order[-1:] == [caller.user] or self.failure)

    def run(self) -> None:
        try:
            self.places.take(self.caller, self.stops.append)
        except Exception as error:
            self.failure = error
            return
        self.order.append(self.caller.user)
        self.done.wait(20)
        self.places.leave(self.caller)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_hundred_of_one_user_do_not_delay_another() -> None:
    places, busy, quiet = _places(concurrent_max=2), _caller("busy"), _caller("quiet")
    for _ in range(2):
        places.take(busy)
    order: list[str] = []
    waiters = [_Waiter(places, busy, order) for _ in range(100)]
    waiters.append(_Waiter(places, quiet, order))
    places.leave(busy)  # one of the hundred, who came first
    _until(lambda: len(order) == 1)
    places.leave(busy)
    _until(lambda: len(order) == 2)
    assert order == ["busy", "quiet"]
    for waiter in waiters:
        waiter.done.set()
    for waiter in waiters:
        waiter.join(20)
    assert (places.free, places.waiting) == (2, 0)


def test_some_places_are_only_for_who_has_none() -> None:
    places = _places(concurrent_max=16, spare_places=2)
    busy = _caller("busy")
    for _ in range(14):
        assert places.take(busy) == 0.0
    order: list[str] = []
    waiter = _Waiter(places, busy, order)
    assert places.waiting == 1
    assert places.take(_caller("quiet")) == 0.0, "who has none does not wait"
    places.leave(busy)
    _until(lambda: order == ["busy"] or places.free == 2)
    places.leave(busy)
    _until(lambda: order == ["busy"])
    waiter.done.set()
    waiter.join(20)


def test_a_role_says_how_many_run_and_wait() -> None:
    places = _places(concurrent_max=16, queue_timeout_s=0.05)
    one = _caller("one", queries_max=2, queue_max=1)
    for _ in range(2):
        places.take(one)
    with pytest.raises(CrowdedError, match=r"^resource exhausted \(limits\.queries_max\): 2 statements of yours run"):
        places.take(one)
    waiter = _Waiter(_later := places, one, [])
    with pytest.raises(CrowdedError, match=r"\(limits\.queue_max\): 2 statements of yours run and 1 wait"):
        places.take(one)
    waiter.join(20)
    assert isinstance(waiter.failure, CrowdedError)
    assert _later.take(_caller("other", queries_max=2)) == 0.0


def test_the_queue_has_an_end() -> None:
    places = _places(concurrent_max=1, queue_max=3)
    places.take(_caller("a"))
    order: list[str] = []
    waiters = [_Waiter(places, _caller("b"), order) for _ in range(3)]
    with pytest.raises(CrowdedError, match=r"\(query\.queue_max\): 3 statements wait"):
        places.take(_caller("c"))
    for waiter in waiters:
        waiter.stops[0]()
        waiter.join(20)
    assert places.waiting == 0


def test_who_cancels_leaves_the_queue_at_once_and_takes_no_place() -> None:
    places, caller = _places(concurrent_max=1), _caller("a")
    places.take(caller)
    order: list[str] = []
    waiter, next_one = _Waiter(places, caller, order), _Waiter(places, caller, order)
    began = time.monotonic()
    waiter.stops[0]()
    waiter.join(20)
    assert time.monotonic() - began < 1
    assert isinstance(waiter.failure, CancelledError)
    waiter.stops[0]()  # once more: nothing
    places.leave(caller)
    _until(lambda: order == ["a"])
    next_one.stops[0]()  # it runs: what stops it then is somebody else's
    next_one.done.set()
    next_one.join(20)
    assert (places.free, places.waiting) == (1, 0)


def test_many_threads_never_take_more_than_there_are() -> None:
    places, counts, lock = _places(concurrent_max=3, spare_places=0), [0, 0], threading.Lock()

    def work(user: str) -> None:
        caller = _caller(user, queries_max=2)
        for _ in range(200):
            places.take(caller)
            with lock:
                counts[0] += 1
                counts[1] = max(counts)
            with lock:
                counts[0] -= 1
            places.leave(caller)

    threads = [threading.Thread(target=work, args=(f"user{n % 4}",)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts[0] == 0
    assert 1 <= counts[1] <= 3
    assert (places.free, places.waiting) == (3, 0)
