"""An engine's error becomes this server's, whose fault it is, without names and paths of its inside."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tickflight_server.errors import (
    BusyError,
    CancelledError,
    ResourceExhaustedError,
    ServerError,
    StatementError,
    StorageError,
    UnsupportedError,
)
from tickflight_server.query.failures import translate

ROOT = Path("/data/lake")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (duckdb.InterruptException, CancelledError),
        (duckdb.ParserException, StatementError),
        (duckdb.CatalogException, StatementError),
        (duckdb.BinderException, StatementError),
        (duckdb.ConversionException, StatementError),
        (duckdb.OutOfRangeException, StatementError),
        (duckdb.InvalidInputException, StatementError),
        (duckdb.NotImplementedException, UnsupportedError),
        (duckdb.PermissionException, UnsupportedError),
        (duckdb.IOException, StorageError),
        (duckdb.Error, StatementError),
    ],
)
def test_engine_error_is_whose_fault_it_is(error: type[Exception], expected: type[ServerError]) -> None:
    translated = translate(error("why"), ROOT)
    assert type(translated) is expected
    assert translated.message == "why"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("Out of Memory Error: could not allocate\nPossible solutions: SET", "query.memory_mb"),
        ("Out of Memory Error: no room\nThis limit was set by the 'max_temp_directory_size' setting", "query.spill_mb"),
    ],
)
def test_memory_that_is_used_up_names_its_limit_and_no_setting_of_the_engine(text: str, limit: str) -> None:
    translated = translate(duckdb.OutOfMemoryException(text), ROOT)
    assert isinstance(translated, ResourceExhaustedError)
    assert translated.limit == limit
    assert translated.message == f"resource exhausted ({limit}): {text.splitlines()[0]}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Conversion Error: no number", StatementError),
        ("Invalid: Out of Range Error: too far", StatementError),
        ("IOError: Invalid Input Error: no", StatementError),
        ("INTERRUPT Error: Interrupted!", CancelledError),
        ("Not implemented Error: no", UnsupportedError),
        ("IO Error: no file", StorageError),
        ("something else", ServerError),
    ],
)
@pytest.mark.parametrize("kind", [OSError, pa.ArrowInvalid])
def test_error_in_the_middle_of_a_stream_is_told_by_its_text(
    kind: type[Exception], text: str, expected: type[ServerError]
) -> None:
    translated = translate(kind(text), ROOT)
    assert type(translated) is expected
    assert not translated.message.startswith(("Invalid: ", "IOError: "))


def test_error_of_our_own_stays() -> None:
    error = BusyError("later")
    assert translate(error, ROOT) is error


def test_no_path_and_no_inner_name_is_left() -> None:
    text = (
        'IO Error: Cannot open file "/data/lake/trades/year=2026/x.parquet" of /data/lake, '
        "read by temp.main.__market_trades, __market_trades_ring and __system_parts"
    )
    translated = translate(duckdb.IOException(text), ROOT)
    assert translated.message == (
        'IO Error: Cannot open file "trades/year=2026/x.parquet" of the data folder, '
        "read by market.trades, market.trades and system.parts"
    )


def test_unknown_error_tells_nothing_but_its_kind() -> None:
    translated = translate(RuntimeError("secret"), ROOT)
    assert translated.message == "the query failed inside the server: RuntimeError."
