"""The hash that each line has of itself and of the one before it.

The rule of this file: a hash is over the very bytes that lie in the file; with a key nobody without it can make one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

FIRST = "0" * 64
"""What stands in the first line of all in the place of the hash of the line before."""


class Chain:
    """Hashes of lines: SHA-256, or HMAC-SHA-256 with a key."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    @property
    def key_id(self) -> str | None:
        """What tells one key from another and says nothing of it; None without a key."""
        return None if self._key is None else hmac.digest(self._key, b"tickflight audit key", "sha256").hex()[:16]

    def hash(self, body: bytes) -> str:
        """Return the hash of a line's ``body``, 64 hexadecimal digits."""
        if self._key is None:
            return hashlib.sha256(body).hexdigest()
        return hmac.digest(self._key, body, "sha256").hex()

    def holds(self, body: bytes, claimed: str) -> bool:
        """Return whether ``claimed`` is the hash of ``body``."""
        return hmac.compare_digest(self.hash(body), claimed)


def chain_for(key_id: str | None, chains: Sequence[Chain]) -> Chain | None:
    """Return the one of ``chains`` with this key, None if it is not there."""
    return next((chain for chain in chains if chain.key_id == key_id), None)


Keys = Callable[[], bytes | None]
