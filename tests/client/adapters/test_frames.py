"""Bars as a frame: a row for each time, a column for each field of each symbol, NaN where there is no bar."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from tickflight import Result
from tickflight.adapters import needed
from tickflight.adapters.frames import ohlcv
from tickflight.errors import QueryError

pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
START = pd.Timestamp("2026-01-02 03:04:00")
MINUTE = pd.Timedelta("1min")


def bars(*rows: tuple[str, str, int, float], numbers: pa.DataType | None = None) -> Result:
    """Return bars of exchange, symbol and minute, which begin at a price and rise by one."""
    exchange, symbol, minute, price = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "exchange": list(exchange),
        "symbol": list(symbol),
        "start": pa.array([START + n * MINUTE for n in minute], pa.timestamp("us")),
    }
    for name, more in (("open", 0), ("high", 1), ("low", 0), ("close", 1), ("volume", 7)):
        columns[name] = pa.array([p + more for p in price]).cast(numbers or pa.float64())
    table = pa.table(columns)
    return Result(pa.RecordBatchReader.from_batches(table.schema, table.to_batches()))


@pytest.mark.parametrize("numbers", [pa.float64(), pa.decimal128(38, 18)], ids=str)
def test_field_has_a_column_for_each_symbol(numbers: pa.DataType) -> None:
    rows = bars(("X", "A", 0, 10.0), ("X", "A", 2, 12.0), ("X", "B", 0, 20.0), ("X", "B", 1, 21.0), numbers=numbers)
    frame = ohlcv(rows)
    assert list(frame.columns.names) == ["field", "symbol"]
    close = frame["close"]
    assert list(close.columns) == ["A", "B"]
    assert list(close.index) == [START, START + MINUTE, START + 2 * MINUTE]
    assert close["B"].tolist()[:2] == [21.0, 22.0]
    assert close["A"].isna().tolist() == [False, True, False]
    assert (frame.dtypes == "float64").all()
    assert frame.xs("A", axis=1, level="symbol").loc[START].to_dict() == {
        "open": 10.0,
        "high": 11.0,
        "low": 10.0,
        "close": 11.0,
        "volume": 17.0,
    }


def test_symbol_on_two_exchanges_needs_both_names() -> None:
    rows = [("X", "A", 0, 10.0), ("Y", "A", 0, 20.0)]
    with pytest.raises(QueryError, match=r"begin at one time.*by=\('exchange', 'symbol'\)"):
        ohlcv(bars(*rows))
    frame = ohlcv(bars(*rows), ["close"], by=("exchange", "symbol"))
    assert frame["close"].iloc[0].to_dict() == {("X", "A"): 11.0, ("Y", "A"): 21.0}


def test_field_that_is_not_there_is_told() -> None:
    with pytest.raises(QueryError, match="no column 'vwop'"):
        ohlcv(bars(("X", "A", 0, 1.0)), ["vwop"])


def test_package_that_is_not_there_is_told_with_its_name() -> None:
    with pytest.raises(ImportError, match="pip install no-such-package"):
        needed("no_such_module", "no-such-package")


def test_adapters_import_nothing_before_they_are_used() -> None:
    script = (
        "import sys, tickflight.adapters.nautilus, tickflight.adapters.hftbacktest, tickflight.adapters.frames;"
        "print([n for n in ('pandas', 'polars', 'hftbacktest', 'nautilus_trader', 'numba') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
