"""Bars are drawn as they are, and matplotlib's own state stays as it was."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from matplotlib.figure import Figure

import tickflight
from tickflight.plot import BARS_MAX, plot_bars


def bars(count: int = 4, **changed: object) -> pa.Table:
    start = [datetime(2026, 11, 22, 12) + timedelta(minutes=n) for n in range(count)]
    columns: dict[str, object] = {
        "exchange": ["BINANCE"] * count,
        "symbol": ["BTC-USDT"] * count,
        "start": start,
        "end": [s + timedelta(minutes=1) for s in start],
        "open": [10.0 + n for n in range(count)],
        "high": [12.0 + n for n in range(count)],
        "low": [9.0 + n for n in range(count)],
        "close": [11.0 + n if n % 2 else 9.5 + n for n in range(count)],
        "volume": [float(n) for n in range(count)],
    }
    return pa.table(columns | changed)


def test_figure_has_a_candle_and_a_volume_for_each_bar() -> None:
    figure = plot_bars(bars())
    assert isinstance(figure, Figure)
    prices, volumes = figure.axes
    assert prices.get_title(loc="left") == "BINANCE BTC-USDT"
    bodies = [(p.get_y(), p.get_height()) for p in prices.patches]
    assert bodies == [(10.0, -0.5), (11.0, 1.0), (12.0, -0.5), (13.0, 1.0)]
    assert [p.get_height() for p in volumes.patches] == [0.0, 1.0, 2.0, 3.0]
    (wicks,) = prices.collections
    assert [tuple(path.vertices[:, 1]) for path in wicks.get_paths()] == [(9, 12), (10, 13), (11, 14), (12, 15)]
    assert len({tuple(p.get_facecolor()) for p in prices.patches}) == 2


def test_notebook_shows_it_as_an_image() -> None:
    assert plot_bars(bars())._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", [lambda t: t, lambda t: t.to_pandas(), lambda t: __import__("polars").from_arrow(t)])
def test_tables_of_every_library_are_taken(form) -> None:  # type: ignore[no-untyped-def]
    assert len(plot_bars(form(bars())).axes[0].patches) == 4


def test_result_of_the_server_is_taken(reading: tickflight.Client) -> None:
    figure = plot_bars(reading.bars("BTC-USDT", "10s"), title="mine")
    assert figure.axes[0].get_title(loc="left") == "mine"
    assert len(figure.axes[0].patches) >= 10


def test_decimals_and_moments_can_be_drawn() -> None:
    price = [Decimal("1.5")] * 3
    moment = [datetime(2026, 1, 1)] * 3
    table = bars(3, open=price, high=price, low=price, close=price, start=moment, end=moment)
    assert plot_bars(table)._repr_png_()  # type: ignore[attr-defined]


def test_one_of_several_symbols_is_chosen() -> None:
    table = pa.concat_tables([bars(), bars(2, symbol=["ETH-USDT"] * 2)])
    with pytest.raises(tickflight.QueryError, match="BTC-USDT, ETH-USDT: choose with symbol="):
        plot_bars(table)
    assert len(plot_bars(table, symbol="ETH-USDT", exchange="BINANCE").axes[0].patches) == 2
    with pytest.raises(tickflight.QueryError, match="there are 0 bars"):
        plot_bars(table, symbol="nix")


def test_what_cannot_be_drawn_says_why() -> None:
    with pytest.raises(tickflight.QueryError, match="no column 'volume'"):
        plot_bars(bars().drop_columns(["volume"]))
    with pytest.raises(tickflight.QueryError, match=f"1 to {BARS_MAX}"):
        plot_bars(pa.concat_tables([bars(100)] * (BARS_MAX // 100 + 1)))


def test_global_state_is_not_touched() -> None:
    program = (
        "import sys, matplotlib, pyarrow as pa, datetime as d\n"
        # to ask for the backend imports pyplot
        "state = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = state()\n"
        "from tickflight.plot import plot_bars\n"
        "t = [d.datetime(2026, 1, 1)]\n"
        "one = pa.array([1.0])\n"
        "names = ['open', 'high', 'low', 'close', 'volume']\n"
        "plot_bars(pa.table({'start': t, 'end': t} | dict.fromkeys(names, one)))._repr_png_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules and state() == before"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(tickflight.TickflightError, match=r"tickflight\[notebook\]"):
        plot_bars(bars())
