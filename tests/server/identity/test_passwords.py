"""Passwords: as slow for nobody as for somebody, few at a time, and known again at once."""

from __future__ import annotations

import threading
import time

import pytest
from identity_here import PASSWORD, hashed
from stopped_clock import StoppedClock

from tickflight_server.errors import BusyError, ConfigError
from tickflight_server.identity import passwords as module
from tickflight_server.identity.passwords import Passwords, hash_password
from tickflight_server.metrics import Metrics


def make(clock=None, concurrent=2, queue=64, cache_s=100.0):
    return Passwords(clock or StoppedClock(), Metrics(), concurrent, queue, cache_s)


def test_a_right_password_is_known_again_without_its_hash():
    clock = StoppedClock()
    passwords = make(clock)
    assert not passwords.known("ann", PASSWORD, hashed())
    assert passwords.holds("ann", PASSWORD, hashed())
    assert passwords.known("ann", PASSWORD, hashed())
    assert not passwords.known("bob", PASSWORD, hashed())
    assert not passwords.known("ann", PASSWORD, hash_password(PASSWORD)), "it was changed, if to the same"
    assert not passwords.known("ann", PASSWORD + "x", hashed())
    clock.us += 101_000_000
    assert not passwords.known("ann", PASSWORD, hashed())


def test_nobodys_password_is_never_right():
    passwords = make()
    assert not passwords.holds("ann", "wrong", hashed())
    assert not passwords.holds("nobody", PASSWORD, None)
    assert not passwords.holds("ann", "x" * 2000, hashed())
    assert not passwords.holds("ann", PASSWORD, "$argon2id$damaged")


def test_an_unknown_user_takes_as_long_as_a_known_one():
    passwords = make()
    passwords.warm_up()
    real = hash_password(PASSWORD)
    best: dict[str, float] = {}
    for _ in range(2):
        for who, hash_ in (("known", real), ("unknown", None)):
            began = time.perf_counter()
            passwords.holds("x", "wrong", hash_)
            best[who] = min(best.get(who, 9.0), time.perf_counter() - began)
    # what would tell them apart is a hash that is not computed: four orders of magnitude
    assert 1 / 4 < best["known"] / best["unknown"] < 4


def test_more_than_may_wait_are_refused_and_the_others_are_served(monkeypatch):
    entered, go = threading.Semaphore(0), threading.Event()

    def verify(hashed, password):
        entered.release()
        assert go.wait(10)
        return True

    monkeypatch.setattr(module, "_verify", verify)
    passwords = make(concurrent=1, queue=1)
    threads = [threading.Thread(target=passwords.holds, args=("ann", PASSWORD, hashed())) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.acquire(timeout=10)
    while passwords._here < 2:
        time.sleep(0.001)
    with pytest.raises(BusyError, match="too many logins at once"):
        passwords.holds("ann", PASSWORD, hashed())
    go.set()
    for thread in threads:
        thread.join()
    assert passwords.holds("ann", PASSWORD, hashed())


def test_what_is_proven_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_verify", lambda hashed, password: True)
    monkeypatch.setattr(module, "_PROVEN_MAX", 5)
    passwords = make()
    for number in range(20):
        passwords.holds("ann", f"password{number}", "hash")
    assert len(passwords._proven) == 5


def test_two_ways_to_write_a_letter_are_one_password():
    assert make().holds("ann", "passwo\u0308rter", hash_password("passw\u00f6rter"))


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_password_that_is_too_short_or_long_is_not_taken(password):
    with pytest.raises(ConfigError):
        hash_password(password)
