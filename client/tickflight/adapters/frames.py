"""Bars as a pandas frame: an index of time, and a column for each field of each symbol, as vectorbt takes them.

The rule of this file: a place without a bar is NaN, and nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tickflight.adapters import needed
from tickflight.errors import QueryError
from tickflight.result import Result

if TYPE_CHECKING:
    import pandas

FIELDS = ("open", "high", "low", "close", "volume")


def ohlcv(bars: Result, fields: Sequence[str] = FIELDS, *, by: Sequence[str] = ("symbol",)) -> pandas.DataFrame:
    """Return bars with an index of their starts (UTC, without zone) and columns of field, then symbol.

    ``ohlcv(…)["close"]`` has a column for each symbol, which is what ``vectorbt.Portfolio`` takes as prices. Numbers
    are float64.

    Args:
        bars: what ``client.bars`` gave.
        fields: its columns that are wanted.
        by: what a series of bars is of; ``("exchange", "symbol")`` where a symbol is on several exchanges.

    Raises:
        QueryError: two bars of a series begin at one time.
        ImportError: pandas is not installed.
    """
    pandas = needed("pandas", "pandas")
    table = bars.arrow()
    unknown = [name for name in (*fields, *by) if name not in table.column_names]
    if unknown:
        raise QueryError(f"the bars have no column {unknown[0]!r}: they have {', '.join(table.column_names)}.")
    columns: dict[str, Any] = {name: table[name].to_pandas() for name in ("start", *by)}
    columns |= {name: table[name].cast("float64").to_numpy() for name in fields}
    frame = pandas.DataFrame(columns).set_index(["start", *by])
    if frame.index.has_duplicates:
        where = dict(zip(frame.index.names, frame.index[frame.index.duplicated()][0], strict=True))
        raise QueryError(
            f"two bars of one series begin at one time: {where}. Take by=('exchange', 'symbol') for a symbol on "
            "several exchanges; bars that are not of time may begin together."
        )
    wide = frame.unstack(list(by))
    wide.columns = wide.columns.set_names(["field", *by])
    return wide.sort_index()
