"""API tokens: long-lived secrets of programs, with an end, and narrower than their user where that is wanted.

    tickflight_<43 characters>      256 random bits; the file holds the SHA-256 of the whole

The rule of this file: a token is shown once, when it is made; afterwards nobody can say what it was.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tickflight_server.config import check_name
from tickflight_server.errors import ConfigError
from tickflight_server.identity.records import RecordFile
from tickflight_server.identity.rights import Rights
from tickflight_server.identity.users import texts

PREFIX = "tickflight_"
SCOPES = ("read", "write", "workspace", "admin")
_BYTES = 32


@dataclass(frozen=True)
class ApiToken:
    """A token by its name.

    ``user`` is whose rights it has, None where it has ``roles`` of its own. ``scopes`` is what it narrows them to,
    empty for no narrowing. Times are microseconds since 1970, UTC; ``expires_us`` is None for a token without an end.
    """

    name: str
    digest: str
    user: str | None
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    created_us: int
    expires_us: int | None


def new_token() -> str:
    """Return a new secret."""
    return f"{PREFIX}{secrets.token_urlsafe(_BYTES)}"


def digest(token: str) -> str:
    """Return what is kept of a token. It has 256 random bits, so a fast hash gives nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def narrowed(rights: Rights, scopes: Iterable[str]) -> Rights:
    """Return what is left of ``rights`` under some scopes; without any, all."""
    kept = set(scopes)
    if not kept:
        return rights
    return replace(
        rights,
        tables=rights.tables if "read" in kept else (),
        system=rights.system if "read" in kept else frozenset(),
        write=rights.write if "write" in kept else frozenset(),
        workspace=rights.workspace if "workspace" in kept else None,
        admin=rights.admin and "admin" in kept,
    )


def parse_token(row: Mapping[str, Any]) -> ApiToken:
    """Return the token of a row of the file.

    Raises:
        ValueError: it is not one.
        KeyError: something is missing.
    """
    user, expires = row["user"], row["expires_us"]
    token = ApiToken(
        name=check_name(str(row["name"])),
        digest=str(row["sha256"]),
        user=None if user is None else check_name(str(user)),
        roles=texts(row["roles"]),
        scopes=texts(row["scopes"]),
        created_us=int(row["created_us"]),
        expires_us=None if expires is None else int(expires),
    )
    unknown = set(token.scopes) - set(SCOPES)
    if unknown:  # a scope that is not understood narrows in a way that nobody knows
        raise ValueError(f"scope {min(unknown)!r} of {token.name!r} is not known")
    if len(token.digest) != 64:
        raise ValueError(f"the SHA-256 of {token.name!r} is not one")
    if (token.user is None) == (not token.roles):
        raise ValueError(f"{token.name!r} must have a user or roles")
    return token


def serialize_token(token: ApiToken) -> dict[str, Any]:
    """Return the row of a token."""
    return {
        "name": token.name,
        "sha256": token.digest,
        "user": token.user,
        "roles": list(token.roles),
        "scopes": list(token.scopes),
        "created_us": token.created_us,
        "expires_us": token.expires_us,
    }


def tokens_file(path: Path) -> RecordFile[ApiToken]:
    """Return the tokens file at ``path``, not yet read."""
    return RecordFile(path, "tokens", parse_token, serialize_token, lambda token: token.name)


def add_token(file: RecordFile[ApiToken], token: ApiToken) -> None:
    """Add a token.

    Raises:
        ConfigError: there is one of the name.
    """

    def change(tokens: dict[str, ApiToken]) -> None:
        if token.name in tokens:
            raise ConfigError(
                f"there is a token {token.name!r} already.", hint="Revoke it first, or give another --name."
            )
        tokens[token.name] = token

    file.change(change)


def revoke_token(file: RecordFile[ApiToken], name: str) -> None:
    """Revoke a token; what is under way with it ends.

    Raises:
        ConfigError: there is no such token.
    """

    def change(tokens: dict[str, ApiToken]) -> None:
        if name not in tokens:
            raise ConfigError(f"there is no token {name!r}.", hint="See `tickflight-server tokens list`.")
        del tokens[name]

    file.change(change)
