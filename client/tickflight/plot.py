"""Plots of bars: candlesticks over volume, by matplotlib where it is installed.

The rule of this file: matplotlib is imported when something is plotted, and nothing of its global state is touched: no
pyplot, no backend, no style.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickflight.errors import QueryError, TickflightError
from tickflight.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS_MAX = 5000
_NEEDED = ("start", "end", "open", "high", "low", "close", "volume")
_LEAST_WIDTH = 1 / 3000  # of the whole time: a bar whose trades are of one moment can be seen


def plot_bars(
    bars: Any,
    *,
    symbol: str | None = None,
    exchange: str | None = None,
    title: str | None = None,
    size: tuple[float, float] = (10.0, 5.0),
    colors: tuple[str, str] = ("#1a9850", "#d73027"),
) -> Figure:
    """Draw bars as candlesticks, and their volume below; return the figure, which a notebook shows.

    Args:
        bars: what ``client.bars`` gave, or a table of pyarrow, polars or pandas with start, end, open, high, low, close
            and volume; at most ``BARS_MAX`` of them, of one exchange and symbol.
        symbol: which bars, if there are several symbols' in it.
        exchange: which bars, if there are several exchanges' in it.
        title: what stands above; exchange and symbol when absent.
        size: width and height in inches.
        colors: of bars that rose, and of those that fell.

    Raises:
        TickflightError: matplotlib is not installed.
        QueryError: there are no bars, too many, several symbols', or a column is missing.
    """
    try:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
        from matplotlib.figure import Figure
    except ImportError:
        raise TickflightError("plot_bars needs matplotlib: pip install 'tickflight[notebook]'.") from None
    table, name = _chosen(bars, symbol, exchange)
    # days since 1970, which is how matplotlib counts
    start, end = (_numbers(table[c].cast(pa.timestamp("us")).cast(pa.int64())) / 86_400e6 for c in ("start", "end"))
    opened, high, low, closed, volume = (_numbers(table[name]) for name in _NEEDED[2:])
    width = np.maximum(end - start, (end[-1] - start[0]) * _LEAST_WIDTH or 1 / 86_400)
    middle = start + width / 2
    hues = [colors[bool(c < o)] for o, c in zip(opened, closed, strict=True)]

    figure: Figure = _figure_class(Figure)(figsize=size, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1), hspace=0.02)
    prices = figure.add_subplot(grid[0])
    volumes = figure.add_subplot(grid[1], sharex=prices)
    prices.vlines(middle, low, high, colors=hues, linewidth=1.0)
    # the edge is what can be seen of a bar that closed where it opened
    prices.bar(middle, closed - opened, width * 0.7, bottom=opened, color=hues, edgecolor=hues, linewidth=1.0)
    volumes.bar(middle, volume, width * 0.7, color=hues, alpha=0.6)
    prices.use_sticky_edges = False  # no bar stands on the frame
    prices.ticklabel_format(axis="y", useOffset=False)
    prices.set_title(name if title is None else title, loc="left")
    prices.set_ylabel("price")
    volumes.set_ylabel("volume")
    prices.tick_params(labelbottom=False)
    locator: Any = AutoDateLocator()  # type: ignore[no-untyped-call]
    volumes.xaxis.set_major_locator(locator)
    volumes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    volumes.set_xlabel("UTC")
    for axes in (prices, volumes):
        axes.grid(visible=True, alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def _chosen(bars: Any, symbol: str | None, exchange: str | None) -> tuple[pa.Table, str]:
    """Return the bars to be drawn, in order of time, and what they are of."""
    table = bars.arrow() if isinstance(bars, Result) else pa.table(bars)
    missing = [name for name in _NEEDED if name not in table.schema.names]
    if missing:
        raise QueryError(f"bars have no column {missing[0]!r}: give what client.bars returned.")
    # other columns may be of types that arrow cannot filter by, such as polars' texts
    keys = [name for name in ("exchange", "symbol") if name in table.schema.names]
    table = table.select([*keys, *_NEEDED])
    for key in keys:
        table = table.set_column(table.schema.names.index(key), key, table[key].cast(pa.string()))
    named = []
    for column, wanted in (("exchange", exchange), ("symbol", symbol)):
        if column not in keys:
            continue
        if wanted is not None:
            table = table.filter(pc.equal(table[column], wanted))
        found = sorted(set(table[column].to_pylist()))
        if len(found) > 1:
            raise QueryError(f"these are bars of {', '.join(map(str, found[:10]))}: choose with {column}=….")
        named += found
    if not 0 < table.num_rows <= BARS_MAX:
        raise QueryError(f"there are {table.num_rows} bars to draw: give 1 to {BARS_MAX}.")
    return table.sort_by("start"), " ".join(map(str, named))


def _numbers(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a column as float64, null as NaN; decimals are rounded to what can be drawn."""
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _figure_class(figure: type[Any]) -> type[Any]:
    class BarsFigure(figure):  # type: ignore[misc]
        """A figure that a notebook shows as it is, whatever pyplot is set to."""

        def _repr_png_(self) -> bytes:
            sink = io.BytesIO()
            self.savefig(sink, format="png")
            return sink.getvalue()

    return BarsFigure
