"""DuckDB's errors as this server's: the engine's text with its place marker, and no path of this machine.

The rule of this file: one literal table says which engine error is whose fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from tickflight_server.errors import (
    CancelledError,
    ResourceExhaustedError,
    ServerError,
    StatementError,
    StorageError,
    TransactionError,
    UnsupportedError,
)
from tickflight_server.query.caps import LIMIT, REFUSED

_MEMORY_HINT = "Narrow the query by symbol and timestamp."
# what the engine says of its limits → the configuration's name; the first that is found counts
_LIMITS = (("max_temp_directory_size", "query.spill_mb"), ("", "query.memory_mb"))
_OF_THE_ROLE = {"query.spill_mb": "limits.spill_mb", "query.memory_mb": "limits.memory_mb"}
MEMORY_LIMITS = frozenset(_OF_THE_ROLE) | frozenset(_OF_THE_ROLE.values())
"""The engine's limits, of which the text of a ``ResourceExhaustedError`` is the engine's own."""

# first match counts; DuckDB's classes derive from each other
_TABLE: tuple[tuple[type[BaseException], type[ServerError], str | None], ...] = (
    (duckdb.InterruptException, CancelledError, None),
    (duckdb.TransactionException, TransactionError, None),
    (duckdb.InternalException, ServerError, "Write the query in another way; it is a defect of the engine."),
    (duckdb.FatalException, ServerError, "See the server's log, and restart it."),
    (duckdb.ParserException, StatementError, None),
    (duckdb.CatalogException, StatementError, None),
    (duckdb.BinderException, StatementError, None),
    (duckdb.ConversionException, StatementError, None),
    (duckdb.OutOfRangeException, StatementError, None),
    (duckdb.InvalidTypeException, StatementError, None),
    (duckdb.TypeMismatchException, StatementError, None),
    (duckdb.NotImplementedException, UnsupportedError, None),
    (duckdb.PermissionException, UnsupportedError, None),
    (duckdb.OutOfMemoryException, ResourceExhaustedError, _MEMORY_HINT),
    (duckdb.IOException, StorageError, None),
    (duckdb.InvalidInputException, StatementError, None),
    (duckdb.Error, StatementError, None),
)
_FIRST_LINE = (duckdb.OutOfMemoryException, duckdb.InternalException, duckdb.FatalException)
# names of this server's own making, which a reader of an error knows by their public names
_INTERNAL = re.compile(r"(?:temp\.main\.)?\b__(market|system)_(\w+?)(?:_ring|_none)?\b")


# an error in the middle of a stream comes through Arrow, as text that begins with the engine's name of its kind
_KINDS: Mapping[str, type[BaseException]] = {
    "INTERRUPT": duckdb.InterruptException,
    "Conversion": duckdb.ConversionException,
    "Out of Range": duckdb.OutOfRangeException,
    "Invalid Input": duckdb.InvalidInputException,
    "Invalid Type": duckdb.InvalidTypeException,
    "Mismatch Type": duckdb.TypeMismatchException,
    "Not implemented": duckdb.NotImplementedException,
    "Out of Memory": duckdb.OutOfMemoryException,
    "IO": duckdb.IOException,
}
_KIND = re.compile(rf"(?:Invalid: |IOError: )?({'|'.join(_KINDS)}) Error: ")


def translate(error: BaseException, root: Path) -> ServerError:
    """Return the server's error for an engine's, with paths below ``root`` made relative."""
    if isinstance(error, ServerError):
        return error
    text = str(error).strip().replace(f"{root}/", "").replace(str(root), "the data folder")
    text = _INTERNAL.sub(r"\1.\2", text)
    kind = type(error)
    if isinstance(error, OSError | pa.ArrowException) and (match := _KIND.match(text)):
        kind, text = _KINDS[match[1]], text[match.start(1) :]
    if REFUSED in text:
        told = text.partition(REFUSED)[2].partition(" MB.")[0] + " MB."
        return ResourceExhaustedError(told, hint="Give it a smaller number; FROM range() makes rows.", limit=LIMIT)
    for theirs, ours, hint in _TABLE:
        if issubclass(kind, theirs):
            # more lines are advice on settings that nobody can reach from here, or the engine's stack with its paths
            told = text.splitlines()[0] if theirs in _FIRST_LINE and text else text
            if ours is ResourceExhaustedError:
                limit = next(name for word, name in _LIMITS if word in text)
                return ResourceExhaustedError(told, hint=hint, limit=limit)
            return ours(told, hint=hint)
    return ServerError(f"the query failed inside the server: {type(error).__name__}.", hint="See the server's log.")


def of_the_role(error: ServerError) -> ServerError:
    """Return ``error``, and for one of the engine's memory one that names the limit of the caller's roles."""
    if not isinstance(error, ResourceExhaustedError) or error.limit not in _OF_THE_ROLE:
        return error
    return ResourceExhaustedError(error.message.partition(": ")[2], hint=error.hint, limit=_OF_THE_ROLE[error.limit])
