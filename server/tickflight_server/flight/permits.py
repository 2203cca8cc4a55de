"""What a caller may do, checked before it is done.

The rule of this file: who may not gets an error that says which right is missing; of what they cannot see either, that
it is not there.
"""

from __future__ import annotations

from tickflight_server.errors import PermissionDeniedError
from tickflight_server.identity.rights import Rights
from tickflight_server.schemas import STORED

_ASK = "Ask whoever configures the roles of this server."


def known_tables(rights: Rights) -> list[str]:
    """Return the stored tables that are there to somebody: to be read, or to be appended to."""
    there = rights.write.union(name for name, _ in rights.tables)
    return [name for name in STORED if name in there]


def check_write(table: str, rights: Rights) -> None:
    """Refuse who may not append to a stored table.

    Raises:
        PermissionDeniedError: they may not.
    """
    if table not in rights.write:
        raise PermissionDeniedError(f"your roles may not append to {table}.", hint=_ASK)


def check_workspace(rights: Rights) -> None:
    """Refuse who may make no tables of their own.

    Raises:
        PermissionDeniedError: they may not.
    """
    if rights.workspace is None:
        raise PermissionDeniedError("your roles have no workspace: they may not make or change tables.", hint=_ASK)


def check_admin(what: str, rights: Rights) -> None:
    """Refuse who is no admin to do ``what``.

    Raises:
        PermissionDeniedError: they are not.
    """
    if not rights.admin:
        raise PermissionDeniedError(f"{what} is for admins.", hint=_ASK)


def check_feed(rights: Rights) -> None:
    """Refuse reports of feeds from who may append to nothing.

    Raises:
        PermissionDeniedError: they may not.
    """
    if not rights.write:
        raise PermissionDeniedError("your roles may append to no table, and so report no feed.", hint=_ASK)
