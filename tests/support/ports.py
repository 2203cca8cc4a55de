"""Ports for servers that a test stops and starts again.

The rule of this file: they come from below those that the kernel gives to whoever asks for any, so that nobody takes
one while its server is away, in this process or in another that runs tests.
"""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 20_000, 32_767  # Linux gives out 32,768 and up
_chance = random.SystemRandom()  # tests seed the other one, each process in the same way


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    while True:
        port = _chance.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
