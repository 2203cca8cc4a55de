"""Failed logins, limited by user and by address in a sliding window.

The rule of this file: an attempt counts as failed from its beginning, so that many at once are no way round; who
guesses at a user's password elsewhere does not keep that user out where it logged in before.
"""

from __future__ import annotations

import ipaddress
import math
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

from tickflight_server.clock import Clock
from tickflight_server.config import AuthSettings
from tickflight_server.errors import LockedOutError
from tickflight_server.metrics import Metrics

Key = tuple[str, ...]
_IPV6_BITS = 64  # what one customer of a provider has; the rest it may choose


@dataclass(frozen=True)
class Attempt:
    """One that has begun; it counts as failed until it is said to have succeeded."""

    user: str
    address: str
    keys: tuple[Key, ...]
    at: float


class Attempts:
    """Counts failed logins, and refuses more of them."""

    def __init__(self, settings: AuthSettings, clock: Clock, metrics: Metrics) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._lock = threading.Lock()
        self._failed: OrderedDict[Key, deque[float]] = OrderedDict()  # times, by what is limited; oldest use first
        self._mistaken: OrderedDict[str, float] = OrderedDict()  # last mistake, by user; oldest first
        self._locked_until = -math.inf  # no address is locked afterwards
        self._trusted: OrderedDict[tuple[str, str], float] = OrderedDict()  # until when a user may come from an address

    def calm(self, user: str) -> bool:
        """Return whether nobody made a mistake with this user of late, and no address is locked.

        Only then a password that is known to be right needs no attempt: otherwise a lock would keep nobody from
        guessing, who is let in once the guess is right.
        """
        now = self._clock.monotonic()
        with self._lock:
            last = self._mistaken.get(user, -math.inf)
            return now > self._locked_until and now - last > self._settings.attempts_window_s

    def likely(self, user: str, addresses: tuple[str, ...]) -> str:
        """Return which of some addresses an attempt comes from, "" if that cannot be said.

        Of several it is one that the user was let in from, who else would be kept out by a storm of guesses.
        """
        if len(addresses) == 1:
            return addresses[0]
        now = self._clock.monotonic()
        with self._lock:
            return next((a for a in addresses if self._trusted.get((user, network(a)), 0.0) > now), "")

    def begin(self, user: str, address: str) -> Attempt:
        """Count an attempt. ``address`` is "" where it is not known.

        Raises:
            LockedOutError: there were too many; the message says when to try again.
        """
        address = network(address)
        now = self._clock.monotonic()
        with self._lock:
            if self._trusted.get((user, address), 0.0) > now:
                limits: tuple[tuple[Key, int], ...] = ((("pair", user, address), self._settings.attempts_max),)
            else:
                limits = ((("user", user), self._settings.attempts_max),)
                if address:
                    limits += ((("address", address), self._settings.attempts_address_max),)
            wait = max(self._wait(key, most, now) for key, most in limits)
            if wait > 0:
                self._locked_until = now + self._settings.attempts_window_s
                self._mistake(user)
                self._metrics.add("logins_locked_out")
                raise LockedOutError(
                    "too many failed logins of this user, or from this address.",
                    hint=f"Try again in {math.ceil(wait)} s.",
                )
            for key, _ in limits:
                self._failed.setdefault(key, deque()).append(now)
                self._failed.move_to_end(key)
            while len(self._failed) > self._settings.attempts_kept_max:
                self._failed.popitem(last=False)
        return Attempt(user, address, tuple(key for key, _ in limits), now)

    def _wait(self, key: Key, most: int, now: float) -> float:
        """Return how long until one more may be tried, 0 for now."""
        times = self._failed.get(key)
        if times is None:
            return 0.0
        while times and times[0] <= now - self._settings.attempts_window_s:
            times.popleft()
        return 0.0 if len(times) < most else times[0] + self._settings.attempts_window_s - now

    def _mistake(self, user: str) -> None:
        self._mistaken[user] = self._clock.monotonic()
        self._mistaken.move_to_end(user)
        while len(self._mistaken) > self._settings.attempts_kept_max:
            self._mistaken.popitem(last=False)

    def failed(self, attempt: Attempt) -> None:
        """Say that one was wrong."""
        with self._lock:
            self._mistake(attempt.user)

    def dropped(self, attempt: Attempt) -> None:
        """Forget one that was not decided."""
        with self._lock:
            for key in attempt.keys:
                self._take_back(key, attempt.at)

    def succeeded(self, attempt: Attempt) -> None:
        """Say that one was right: it did not fail, and its user is let in from there."""
        self.dropped(attempt)
        if attempt.address:
            self.trust(attempt.user, attempt.address)

    def trust(self, user: str, address: str) -> None:
        """Remember where a user was let in from, and forget its earlier mistakes there."""
        pair = (user, network(address))
        with self._lock:
            self._failed.pop(("pair", *pair), None)
            self._trusted[pair] = self._clock.monotonic() + self._settings.attempts_trust_s
            self._trusted.move_to_end(pair)
            while len(self._trusted) > self._settings.attempts_kept_max:
                self._trusted.popitem(last=False)

    def _take_back(self, key: Key, at: float) -> None:
        times = self._failed.get(key)
        if times is not None and at in times:
            times.remove(at)
            if not times:
                del self._failed[key]


def network(address: str) -> str:
    """Return what is counted as one address: of IPv6, all that one customer has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6:
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _IPV6_BITS), strict=False).network_address)
    return str(found)
