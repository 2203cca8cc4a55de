"""The users file: who may log in with a password, its hash, roles, and whether the user is let in at all.

The rule of this file: no password is here, only what argon2id made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tickflight_server.config import check_name
from tickflight_server.errors import ConfigError
from tickflight_server.identity.records import RecordFile

_PREFIX = "$argon2id$"


@dataclass(frozen=True)
class User:
    """Somebody who logs in with a password; ``roles`` empty means those that the configuration gives.

    Logins are of a record: when anything of it changes they end. ``generation`` changes where nothing else does.
    """

    name: str
    hash: str
    roles: tuple[str, ...] = ()
    enabled: bool = True
    generation: int = 0


def parse_user(row: Mapping[str, Any]) -> User:
    """Return the user of a row of the file.

    Raises:
        ValueError: it is not one.
        KeyError: something is missing.
    """
    user = User(
        name=check_name(str(row["name"])),
        hash=str(row["hash"]),
        roles=texts(row["roles"]),
        enabled=row["enabled"],
        generation=int(row["generation"]),
    )
    if not user.hash.startswith(_PREFIX):
        raise ValueError(f"the hash of {user.name!r} is not one of argon2id")
    if not isinstance(user.enabled, bool):
        raise ValueError(f"enabled of {user.name!r} is neither true nor false")
    return user


def texts(value: object) -> tuple[str, ...]:
    """Return a list of texts as a tuple.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of names was expected")
    return tuple(value)


def serialize_user(user: User) -> dict[str, Any]:
    """Return the row of a user."""
    return {
        "name": user.name,
        "hash": user.hash,
        "roles": list(user.roles),
        "enabled": user.enabled,
        "generation": user.generation,
    }


def users_file(path: Path) -> RecordFile[User]:
    """Return the users file at ``path``, not yet read."""
    return RecordFile(path, "users", parse_user, serialize_user, lambda user: user.name)


def add_user(file: RecordFile[User], user: User) -> None:
    """Add a user.

    Raises:
        ConfigError: there is one of the name.
    """

    def change(users: dict[str, User]) -> None:
        if user.name in users:
            raise ConfigError(
                f"there is a user {user.name!r} already.", hint="Change it with `users passwd` or `users set`."
            )
        users[user.name] = user

    file.change(change)


def change_user(
    file: RecordFile[User],
    name: str,
    *,
    hash: str | None = None,
    roles: tuple[str, ...] | None = None,
    enabled: bool | None = None,
) -> None:
    """Change what is given of a user; all of its logins end.

    Raises:
        ConfigError: there is no such user.
    """

    def change(users: dict[str, User]) -> None:
        user = find_user(users, name)
        users[name] = replace(
            user,
            hash=user.hash if hash is None else hash,
            roles=user.roles if roles is None else roles,
            enabled=user.enabled if enabled is None else enabled,
            generation=user.generation + 1,
        )

    file.change(change)


def remove_user(file: RecordFile[User], name: str) -> None:
    """Remove a user; all of its logins and tokens end.

    Raises:
        ConfigError: there is no such user.
    """

    def change(users: dict[str, User]) -> None:
        del users[find_user(users, name).name]

    file.change(change)


def find_user(users: Mapping[str, User], name: str) -> User:
    """Return a user.

    Raises:
        ConfigError: there is none of the name.
    """
    if name not in users:
        raise ConfigError(f"there is no user {name!r}.", hint="See `tickflight-server users list`.")
    return users[name]
