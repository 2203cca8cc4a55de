"""Passwords: hashed with argon2id, checked by few threads at once, and known again for a while by an HMAC.

The rule of this file: whether a password is wrong, its user unknown or disabled is told neither by words nor by time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import unicodedata
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from tickflight_server.clock import Clock
from tickflight_server.errors import BusyError, ConfigError
from tickflight_server.metrics import Metrics
from tickflight_server.priority import step_back

CHARS_MIN = 8
BYTES_MAX = 1024
_PROVEN_MAX = 10_000
_WAIT_S = 10.0
_HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def hash_password(password: str) -> str:
    """Return the argon2id hash of a new password.

    Raises:
        ConfigError: it is too short or too long.
    """
    if len(password) < CHARS_MIN:
        raise ConfigError(f"the password has less than {CHARS_MIN} characters.", hint="Take a longer one.")
    data = _bytes(password)
    if len(data) > BYTES_MAX:
        raise ConfigError(f"the password has more than {BYTES_MAX} bytes.", hint="Take a shorter one.")
    return _HASHER.hash(data)


def _bytes(password: str) -> bytes:
    # keyboards and systems write ü in two ways
    return unicodedata.normalize("NFC", password).encode()


class Passwords:
    """Checks passwords against hashes.

    Args:
        concurrent_max: checks at once; each takes 64 MiB and, of a core, about a tenth of a second.
        queue_max: how many more may wait.
        cache_s: how long a right password is known again.
    """

    def __init__(self, clock: Clock, metrics: Metrics, concurrent_max: int, queue_max: int, cache_s: float) -> None:
        self._clock = clock
        self._metrics = metrics
        self._most = concurrent_max + queue_max
        self._cache_s = cache_s
        self._slots = threading.Semaphore(concurrent_max)
        self._checkers = ThreadPoolExecutor(concurrent_max, "password", initializer=step_back)
        self._lock = threading.Lock()
        self._here = 0
        self._key = os.urandom(32)
        self._proven: OrderedDict[bytes, float] = OrderedDict()  # until when, by the HMAC; oldest first

    @cached_property
    def _nobodys(self) -> str:
        return _HASHER.hash(secrets.token_bytes(16))

    def warm_up(self) -> None:
        """Make what the first unknown user would wait for."""
        _ = self._nobodys

    def known(self, user: str, password: str, hashed: str) -> bool:
        """Return whether the password was found right a while ago, and the hash is still the same."""
        key = self._hmac(user, password, hashed)
        with self._lock:
            return self._proven.get(key, 0.0) > self._clock.monotonic()

    def _hmac(self, user: str, password: str, hashed: str) -> bytes:
        text = b"\0".join((user.encode(), hashed.encode(), _bytes(password)))
        return hmac.digest(self._key, text, hashlib.sha256)

    def holds(self, user: str, password: str, hashed: str | None) -> bool:
        """Return whether a password is that of a hash; for None it takes as long, and is not.

        Raises:
            BusyError: too many are being checked.
        """
        if len(_bytes(password)) > BYTES_MAX:
            return False
        with self._lock:
            if self._here >= self._most:
                self._metrics.add("logins_queue_full")
                raise _busy()
            self._here += 1
        try:
            if not self._slots.acquire(timeout=_WAIT_S):
                self._metrics.add("logins_queue_full")
                raise _busy()
            try:
                right = self._checkers.submit(_verify, hashed or self._nobodys, password).result()
            finally:
                self._slots.release()
        finally:
            with self._lock:
                self._here -= 1
        if not right or hashed is None:
            return False
        with self._lock:
            self._proven[self._hmac(user, password, hashed)] = self._clock.monotonic() + self._cache_s
            while len(self._proven) > _PROVEN_MAX:
                self._proven.popitem(last=False)
        return True


def _verify(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, _bytes(password))  # the interpreter's lock is free meanwhile
    except (VerificationError, InvalidHashError):
        return False


def _busy() -> BusyError:
    return BusyError("too many logins at once (auth.verify_queue_max).", hint="Try again in a few seconds.")
