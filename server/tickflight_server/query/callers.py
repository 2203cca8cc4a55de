"""Who a statement runs for, as far as the engine has to know it.

The rule of this file: a caller is told once, with the statement's options; what is not told is the server itself, which
may see everything and is limited by nothing but the server's own settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tickflight_server.config import RoleLimits
from tickflight_server.errors import PermissionDeniedError
from tickflight_server.identity.rights import SYSTEM_FOR_ALL, Rights

_NO_LIMITS = RoleLimits()


@dataclass(frozen=True)
class Caller:
    """A user, and what they may. Without ``rights`` it is the server itself."""

    user: str = ""
    rights: Rights | None = None

    @property
    def admin(self) -> bool:
        """Whether they may see and end what others do."""
        return self.rights is None or self.rights.admin

    @property
    def limits(self) -> RoleLimits:
        """How much they may use; what is not set is limited by the server's settings only."""
        return _NO_LIMITS if self.rights is None else self.rights.limits

    def sees_system(self, table: str) -> bool:
        """Return whether they may read a table of schema ``system``."""
        if self.admin or self.rights is None or table in SYSTEM_FOR_ALL:
            return True
        return any(fnmatchcase(table, pattern) for pattern in self.rights.system)

    def check_system(self, table: str) -> None:
        """Let a statement read a table of schema ``system``.

        Raises:
            PermissionDeniedError: it is not for them.
        """
        if not self.sees_system(table):
            raise PermissionDeniedError(
                f"table system.{table} is for admins.", hint="Ask the operator for a role that may read it."
            )


THE_SERVER = Caller()
