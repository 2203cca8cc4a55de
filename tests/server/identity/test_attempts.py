"""Failed logins are limited by user and address, and nobody is kept out by somebody else's guesses."""

from __future__ import annotations

import pytest
from stopped_clock import StoppedClock

from tickflight_server.config import AuthSettings
from tickflight_server.errors import LockedOutError
from tickflight_server.identity.attempts import Attempts, network
from tickflight_server.metrics import Metrics

HOME, AWAY = "10.0.0.1", "10.9.9.9"


def make(clock, **settings):
    limits = {"attempts_max": 3, "attempts_address_max": 5, "attempts_window_s": 60}
    return Attempts(AuthSettings(**{**limits, **settings}), clock, Metrics())


def fail(attempts, user, address, times=1):
    for _ in range(times):
        attempts.failed(attempts.begin(user, address))


@pytest.fixture
def clock():
    return StoppedClock()


def test_a_user_waits_after_too_many_and_is_told_how_long(clock):
    attempts = make(clock)
    fail(attempts, "ann", HOME, 3)
    clock.us += 20_000_000
    with pytest.raises(LockedOutError, match=r"Try again in 40 s"):
        attempts.begin("ann", AWAY)
    clock.us += 41_000_000
    attempts.succeeded(attempts.begin("ann", AWAY))


def test_the_window_slides(clock):
    attempts = make(clock)
    for _ in range(10):
        fail(attempts, "ann", HOME)
        clock.us += 21_000_000
    fail(attempts, "ann", HOME)
    with pytest.raises(LockedOutError):
        attempts.begin("ann", HOME)


def test_attempts_that_are_under_way_count(clock):
    attempts = make(clock)
    begun = [attempts.begin("ann", HOME) for _ in range(3)]
    with pytest.raises(LockedOutError):
        attempts.begin("ann", HOME)
    attempts.dropped(begun[0])
    attempts.begin("ann", HOME)


def test_an_address_waits_however_many_users_it_tries(clock):
    attempts = make(clock)
    for number in range(5):
        fail(attempts, f"user{number}", AWAY)
    with pytest.raises(LockedOutError):
        attempts.begin("another", AWAY)
    attempts.succeeded(attempts.begin("another", HOME))


def test_guesses_elsewhere_do_not_keep_a_user_out_where_it_was_let_in(clock):
    attempts = make(clock)
    attempts.succeeded(attempts.begin("ann", HOME))
    fail(attempts, "ann", AWAY, 3)
    with pytest.raises(LockedOutError):
        attempts.begin("ann", AWAY)
    attempts.succeeded(attempts.begin("ann", HOME))
    # and who sits there may not guess for ever
    fail(attempts, "ann", HOME, 3)
    with pytest.raises(LockedOutError):
        attempts.begin("ann", HOME)


def test_trust_ends(clock):
    attempts = make(clock, attempts_trust_s=100)
    attempts.trust("ann", HOME)
    clock.us += 101_000_000
    fail(attempts, "ann", AWAY, 3)
    with pytest.raises(LockedOutError):
        attempts.begin("ann", HOME)


def test_mistakes_before_a_success_are_forgotten_where_it_was(clock):
    attempts = make(clock)
    attempts.trust("ann", HOME)
    for _ in range(5):
        fail(attempts, "ann", HOME, 2)
        attempts.succeeded(attempts.begin("ann", HOME))


def test_a_success_of_one_does_not_forgive_an_address(clock):
    attempts = make(clock)
    for number in range(5):
        fail(attempts, f"user{number}", AWAY)
        if number < 4:
            attempts.succeeded(attempts.begin("mallory", AWAY))
    with pytest.raises(LockedOutError):
        attempts.begin("victim", AWAY)


def test_what_is_remembered_is_bounded(clock):
    attempts = make(clock, attempts_kept_max=10)
    for number in range(100):
        fail(attempts, f"user{number}", f"10.0.0.{number}")
        attempts.trust(f"user{number}", HOME)
    assert len(attempts._failed) == len(attempts._trusted) == len(attempts._mistaken) == 10


def test_without_an_address_only_the_user_is_limited(clock):
    attempts = make(clock)
    for number in range(20):
        fail(attempts, f"user{number}", "")
    fail(attempts, "user1", "", 2)
    with pytest.raises(LockedOutError):
        attempts.begin("user1", "")


def test_of_several_addresses_it_is_the_one_that_is_known(clock):
    attempts = make(clock)
    attempts.trust("ann", HOME)
    assert attempts.likely("ann", (AWAY, HOME)) == HOME
    assert attempts.likely("bob", (AWAY, HOME)) == ""
    assert attempts.likely("bob", (AWAY,)) == AWAY
    assert attempts.likely("ann", ()) == ""


def test_calm_is_over_with_a_mistake_and_comes_again(clock):
    attempts = make(clock)
    assert attempts.calm("ann")
    fail(attempts, "ann", HOME)
    assert not attempts.calm("ann")
    assert attempts.calm("bob")
    clock.us += 61_000_000
    assert attempts.calm("ann")
    for number in range(5):
        fail(attempts, f"user{number}", AWAY)
    with pytest.raises(LockedOutError):
        attempts.begin("x", AWAY)
    assert not attempts.calm("bob"), "a locked address may know the password by now"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_one_customer_is_one_address(address, counted):
    assert network(address) == counted
