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
    InputError,
    ServerError,
    StatementError,
    StorageError,
    TransactionError,
    UnsupportedError,
)

MEMORY_HINT = "Narrow the query by symbol and timestamp, or raise query.memory_mb."

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
    (duckdb.OutOfMemoryException, InputError, MEMORY_HINT),
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
    for theirs, ours, hint in _TABLE:
        if issubclass(kind, theirs):
            # more lines are advice on settings that nobody can reach from here, or the engine's stack with its paths
            return ours(text.splitlines()[0] if theirs in _FIRST_LINE else text, hint=hint)
    return ServerError(f"the query failed inside the server: {type(error).__name__}.", hint="See the server's log.")
