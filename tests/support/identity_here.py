"""Users and tokens in a data folder, and headers that carry them."""

from __future__ import annotations

import base64
from pathlib import Path

from argon2 import PasswordHasher

from tickflight_server.clock import SystemClock
from tickflight_server.identity.tokens import ApiToken, add_token, digest, new_token, tokens_file
from tickflight_server.identity.users import User, add_user, users_file
from tickflight_server.paths import Layout

PASSWORD = "correct horse"
_HASHED: list[str] = []


def hashed() -> str:
    """Return a hash of ``PASSWORD`` that is cheaper to check than those that the server makes."""
    if not _HASHED:
        _HASHED.append(PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD))
    return _HASHED[0]


def basic(user: str, password: str = PASSWORD, *, padded: bool = True) -> str:
    """Return a Basic header."""
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Basic {value if padded else value.rstrip('=')}"


def with_user(folder: Path, name: str = "ann", *roles: str) -> None:
    """Add a user whose password is ``PASSWORD``."""
    add_user(users_file(Layout(folder).users), User(name, hashed(), roles))


def with_token(
    folder: Path,
    name: str = "dash",
    user: str | None = None,
    roles: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    expires_us: int | None = None,
) -> str:
    """Add an API token; return its secret."""
    secret = new_token()
    token = ApiToken(name, digest(secret), user, roles, scopes, SystemClock().now_us(), expires_us)
    add_token(tokens_file(Layout(folder).tokens), token)
    return secret
