"""Turns: few at once, in order, and nobody waits for long because somebody takes long."""

from __future__ import annotations

import threading
import time

import pytest

from tickflight_server.errors import CancelledError
from tickflight_server.query.stopping import Stops
from tickflight_server.query.turns import TURN_S, Turns


def _started(turns: Turns, hold: threading.Event, begun: list[int], number: int) -> threading.Thread:
    def work() -> None:
        with turns.one():
            begun.append(number)
            hold.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_more_than_most_wait_until_a_turn_ends() -> None:
    turns, done, begun = Turns(1), threading.Event(), []
    with turns.one():
        thread = _started(turns, done, begun, 1)
        time.sleep(TURN_S / 5)
        assert begun == []
    done.set()
    thread.join(10)
    assert begun == [1]


def test_a_turn_that_takes_long_no_longer_counts() -> None:
    turns, never, begun = Turns(1), threading.Event(), []
    threads = [_started(turns, never, begun, number) for number in (1, 2, 3)]
    began = time.monotonic()
    while len(begun) < 3 and time.monotonic() - began < 10:
        time.sleep(0.001)
    assert sorted(begun) == [1, 2, 3]
    assert time.monotonic() - began >= TURN_S, "the second did not wait at all"
    never.set()
    for thread in threads:
        thread.join(10)


def test_a_small_one_waits_for_nobody() -> None:
    turns = Turns(1)
    with turns.one():
        began = time.monotonic()
        with turns.one(small=True):
            pass
    assert time.monotonic() - began < TURN_S


def test_a_failure_ends_its_turn() -> None:
    turns = Turns(1)
    for _ in range(3):
        try:
            with turns.one():
                raise ValueError
        except ValueError:
            pass
    began = time.monotonic()
    with turns.one():
        pass
    assert time.monotonic() - began < TURN_S


def test_many_threads_all_have_their_turn() -> None:
    turns, counts, lock = Turns(2), [0, 0], threading.Lock()

    def work() -> None:
        for _ in range(50):
            with turns.one():
                with lock:
                    counts[0] += 1
                    counts[1] = max(counts[1], counts[0])
                with lock:
                    counts[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts[0] == 0
    assert counts[1] >= 1


def test_fewer_work_while_rows_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rows = [0.0], [0.0]
    monkeypatch.setattr("tickflight_server.query.turns.time.monotonic", lambda: now[0])
    turns = Turns(4, lambda: rows[0])
    for rate, most in ((0, 4), (400_000, 4), (1_000_000, 3), (2_000_000, 2), (9_000_000, 1), (0, 4)):
        now[0] += 1.0
        rows[0] += rate
        with turns.one():
            assert turns._most == most


def test_who_is_stopped_waits_no_longer_and_users_take_turns() -> None:
    turns, hold, begun = Turns(1), threading.Event(), []
    failures: list[BaseException] = []
    stops = Stops(lambda: None)

    def work(number: int, user: str, stops: Stops | None = None) -> None:
        try:
            with turns.one(user=user, stops=stops):
                begun.append(number)
        except CancelledError as error:
            failures.append(error)

    with turns.one():
        with turns._lock:  # so that the turn is not over before all of them wait
            for turn in turns._working:
                turn.until += 60
        threads = []
        for number, user, stop in ((1, "a", None), (2, "a", stops), (3, "a", None), (4, "b", None)):
            thread = threading.Thread(target=work, args=(number, user, stop))
            thread.start()
            while len(turns._waiting) <= number - 1:
                time.sleep(0.001)
            threads.append(thread)
        stops()
        threads[1].join(10)
        assert [type(f) for f in failures] == [CancelledError]
        assert begun == []
    hold.set()
    for thread in threads:
        thread.join(10)
    assert begun == [1, 4, 3]
