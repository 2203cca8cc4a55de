"""Every error of the server, one tree; each class says whose fault it is and which wire status it becomes.

The rule of this file: an error carries a stable ``code``, one line that says what happened and where, and, where
there is one, a ``hint`` that tells the reader what to do. Translation to a wire happens in ``flight.status`` alone.

    ServerError
    ├── ConfigError            the operator's: a key, a value, a folder, a port
    │   └── FolderInUseError   another process holds the data folder
    ├── InputError             the caller's: what was sent cannot be used
    │   ├── StatementError     SQL that does not parse, bind or run
    │   ├── RowError           rows that do not fit their table
    │   └── TooLargeError      more than a configured limit
    ├── NotFoundError          the caller's: no such table, handle or ticket
    ├── AuthenticationError    the caller's: who are you
    │   └── LockedOutError     it failed to say so too often, and must wait
    ├── PermissionDeniedError the caller's: you may not
    ├── UnsupportedError       nobody's: not offered here
    ├── TransactionError       the caller's: there is none, it conflicts, or it was aborted
    ├── CancelledError         the caller's wish
    │   └── TimedOutError      a time limit that the caller or the server set
    ├── BusyError              the moment's: a queue or a buffer is full, try again
    │   ├── LagError           the caller's: it reads more slowly than rows come
    │   └── CrowdedError       a limit on how many there may be at once
    ├── ResourceExhaustedError the caller's: more than a query, a user or a session may use
    └── StorageError           the machine's: disk, file system
        ├── LogCorruptError    a bad checksum before the log's tail
        └── LogClosedError     the log refuses writes since an fsync failed, or is closed
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of all errors that the server raises on purpose.

    ``code`` is stable and may be matched by programs; ``hint`` says what to do, or is None.
    """

    code = "internal"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} Hint: {self.hint}" if self.hint else self.message


class ConfigError(ServerError):
    """The configuration or the machine does not allow the server to start. The operator's to mend."""

    code = "config"


class FolderInUseError(ConfigError):
    """Another process holds the data folder; ``owner`` is its id as text."""

    def __init__(self, message: str, *, hint: str | None = None, owner: str = "unknown") -> None:
        super().__init__(message, hint=hint)
        self.owner = owner


class InputError(ServerError):
    """The caller sent something that cannot be used."""

    code = "input"


class StatementError(InputError):
    """A SQL statement that does not parse, bind or run; the message keeps the engine's place marker."""

    code = "statement"


class RowError(InputError):
    """Rows that do not fit the table they were sent to."""

    code = "rows"


class TooLargeError(InputError):
    """A request above a configured limit; the message names the limit."""

    code = "too_large"


class NotFoundError(ServerError):
    """No such table, prepared statement or ticket."""

    code = "not_found"


class AuthenticationError(ServerError):
    """Missing or wrong credentials."""

    code = "unauthenticated"


class LockedOutError(AuthenticationError):
    """Too many failed logins; the hint says how long to wait."""

    code = "locked_out"


class PermissionDeniedError(ServerError):
    """The caller is known and may not do this."""

    code = "permission"


class UnsupportedError(ServerError):
    """A part of the protocol or of SQL that this server does not offer."""

    code = "unsupported"


class CancelledError(ServerError):
    """The caller went away or cancelled."""

    code = "cancelled"


class TimedOutError(CancelledError):
    """A statement took longer than it may; the message says how long that is."""

    code = "timed_out"


class TransactionError(ServerError):
    """A transaction that is not there, was aborted, or conflicts with another; in the engine's words."""

    code = "transaction"


class BusyError(ServerError):
    """A bounded queue or buffer is full; the same call may go through later."""

    code = "busy"


class LagError(BusyError):
    """A reader of live rows fell further behind than it may; the message says how far it has got."""

    code = "lag"


class CrowdedError(BusyError):
    """As many as may be are there at once, or too much came at once; the same call may go through later.

    ``limit`` is the limit's name in the configuration.
    """

    code = "resource_exhausted"

    def __init__(self, message: str, *, hint: str | None = None, limit: str = "") -> None:
        super().__init__(f"resource exhausted{f' ({limit})' if limit else ''}: {message}", hint=hint)
        self.limit = limit


class ResourceExhaustedError(ServerError):
    """A query, a user or a session asked for more than a limit allows; the same call will not go through later.

    ``limit`` is the limit's name in the configuration; the hint says what to narrow.
    """

    code = "resource_exhausted"

    def __init__(self, message: str, *, hint: str | None = None, limit: str = "") -> None:
        super().__init__(f"resource exhausted{f' ({limit})' if limit else ''}: {message}", hint=hint)
        self.limit = limit


class StorageError(ServerError):
    """The disk or the file system failed."""

    code = "storage"


class LogCorruptError(StorageError):
    """A log record before the tail fails its checksum: file and offset are in the message."""

    code = "log_corrupt"


class LogClosedError(StorageError):
    """The log does not accept records: it is closed, or an fsync failed and nothing may be acknowledged.

    ``temporary``: it is tried again, and the same call may go through later.
    """

    code = "log_closed"

    def __init__(self, message: str, *, hint: str | None = None, temporary: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.temporary = temporary
