"""What may not be listened with: an address that others reach, and nobody who has to say who they are.

The rule of this file: the check is made before anything listens.
"""

from __future__ import annotations

import structlog

from tickflight_server.config import FlightSettings, is_loopback
from tickflight_server.errors import ConfigError
from tickflight_server.identity.authenticator import Authenticator

LOG = structlog.get_logger(__name__)


def check_exposure(flight: FlightSettings, authenticator: Authenticator) -> None:
    """Refuse to let anyone in from other machines, and warn of passwords that travel readable.

    Raises:
        ConfigError: the address is not loopback, and calls without credentials would be taken.
    """
    if is_loopback(flight.host):
        return
    if authenticator.anonymous:
        reason = "auth.anonymous is true" if not authenticator.open else "nobody has to say who they are"
        raise ConfigError(
            f"flight.host is {flight.host} and {reason}.",
            hint="Add users (`tickflight-server users add`) or tokens, or listen on 127.0.0.1.",
        )
    if flight.tls is None:
        LOG.warning(
            "server.readable",
            host=flight.host,
            hint="Passwords, tokens and rows travel readable: set flight.tls, or let a tunnel encrypt.",
        )
