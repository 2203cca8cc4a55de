"""Section ``roles``: what those who have a role may see and do, and how much of it.

The rule of this file: what is not given is not permitted; a limit that is not set is the server's own.
"""

from __future__ import annotations

from pydantic import Field

from tickflight_server.config.section import Section


class ReadGrant(Section):
    """Rows that may be read. Names are patterns with ``*`` and ``?``, compared by upper and lower case."""

    schemas: tuple[str, ...] = Field(("market",), description="schemas; market, system")
    tables: tuple[str, ...] = Field(("*",), description="tables in them")
    exchanges: tuple[str, ...] = Field(("*",), description="exchanges of the rows")
    symbols: tuple[str, ...] = Field(("*",), description="symbols of the rows")
    columns: tuple[str, ...] = Field(("*",), description="columns of the tables")
    history_days: float | None = Field(None, gt=0, description="how far back, in days; without it, all")


class RoleLimits(Section):
    """What one user of a role may use; what is not set is limited by the server's own settings only."""

    queries_max: int | None = Field(None, ge=1, description="statements under way at once; further ones wait")
    queue_max: int | None = Field(None, ge=0, description="statements that wait; further ones are refused")
    statement_timeout_s: float | None = Field(None, gt=0, description="longest run of a statement")
    memory_mb: int | None = Field(None, ge=64, description="memory of a statement in the engine")
    spill_mb: int | None = Field(None, ge=0, description="disk that a statement may spill to")
    rows_max: int | None = Field(None, ge=1, description="rows of one result")
    result_mb: int | None = Field(None, ge=1, description="size of one result")
    sessions_max: int | None = Field(None, ge=1, description="sessions at once")
    session_idle_s: float | None = Field(None, gt=0, description="an unused session ends after it")
    streams_max: int | None = Field(None, ge=0, description="tails, live queries and replays at once")
    ingest_rows_per_s: int | None = Field(None, ge=1, description="rows that are taken a second")
    request_mb: int | None = Field(None, ge=1, description="largest batch taken from a producer")
    prepared_max: int | None = Field(None, ge=1, description="prepared statements and tickets at once")


class RoleSettings(Section):
    """What those who have a role may do."""

    read: tuple[ReadGrant, ...] = Field((), description="rows that may be read")
    write: tuple[str, ...] = Field((), description="stored tables that may be appended to, as patterns")
    workspace: bool = Field(False, description="may make tables and views of their own")
    admin: bool = Field(False, description="may flush, see and cancel others' statements, read the audit")
    limits: RoleLimits = Field(default_factory=RoleLimits, description="what one user may use")


_EVERYTHING = (ReadGrant(schemas=("*",)),)
_ROWS = (ReadGrant(), ReadGrant(schemas=("system",), tables=("gaps", "rejected")))
BUILT_IN = {
    "admin": RoleSettings(read=_EVERYTHING, write=("*",), workspace=True, admin=True),
    "user": RoleSettings(read=_ROWS, write=("*",), workspace=True),
    "reader": RoleSettings(read=_ROWS),
    "feed": RoleSettings(write=("*",)),
}
"""Roles that are there without being configured; a configuration may give them another meaning."""
