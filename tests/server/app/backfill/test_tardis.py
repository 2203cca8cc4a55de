"""Each dataset of Tardis.dev becomes the rows that it says."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest
from backfill_files import DATA, convert, gzipped, source

from tickflight_server.app.backfill.chunks import find_layout
from tickflight_server.app.backfill.layout import Wishes
from tickflight_server.errors import InputError, UnsupportedError

TARDIS = DATA / "tardis"
TRADES = TARDIS / "binance-futures_trades_2024-01-01_BTCUSDT.csv"
HEAD = "exchange,symbol,timestamp,local_timestamp,"


def at(us: int) -> dt.datetime:
    return dt.datetime(2024, 1, 1) + dt.timedelta(microseconds=us)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_trades() -> None:
    found = convert(TRADES, "decimal")["trades"].to_pylist()
    assert len(found) == 24
    first = found[0]
    assert (first["exchange"], first["symbol"], first["id"]) == ("BINANCE_FUTURES", "BTC-USDT-PERP", "4400000000")
    assert (first["price"], first["amount"], first["side"]) == (Decimal("42283.5"), Decimal("0.001"), "sell")
    assert first["receipt_timestamp"] - first["timestamp"] < dt.timedelta(milliseconds=5)
    assert found[7]["side"] is None  # Tardis.dev says "unknown"


def test_liquidations_are_known_by_the_folder() -> None:
    found = convert(next(TARDIS.glob("deribit/**/*.csv")))["liquidations"].to_pylist()
    assert [r["side"] for r in found[:2]] == ["buy", "sell"]
    assert (found[0]["exchange"], found[0]["symbol"]) == ("DERIBIT", "BTC-USD-PERP")
    assert (found[0]["quantity"], found[0]["price"], found[0]["id"]) == (10.0, 42000.5, "BTC-900")
    assert found[1]["id"] is None


@pytest.mark.parametrize("table", ["l1_book", "ticker"])
def test_quotes_go_to_either_table_of_best_prices(table: str) -> None:
    found = convert(next(TARDIS.glob("coinbase_quotes*")), table=table)[table].to_pylist()
    names = ("bid_price", "ask_price") if table == "l1_book" else ("bid", "ask")
    assert [found[0][n] for n in names] == [42000.0, 42000.5]
    assert [found[4][n] for n in names] == [42004.0, None]
    assert {(r["exchange"], r["symbol"]) for r in found} == {("COINBASE", "BTC-USD")}
    if table == "l1_book":
        assert (found[0]["bid_size"], found[0]["ask_size"]) == (1.0, 0.1)
        assert list(convert(next(TARDIS.glob("*book_ticker*")))) == ["l1_book"]


def test_book_snapshots_are_full_books() -> None:
    found = convert(next(TARDIS.glob("*book_snapshot_5*")), "decimal")["l2_book"].to_pylist()
    assert len(found) == 8
    assert all(r["is_snapshot"] for r in found)
    assert [str(p.normalize()) for p in found[0]["ask_prices"]] == [
        "42000.5",
        "42001.5",
        "42002.5",
        "42003.5",
        "42004.5",
    ]
    assert [int(s) for s in found[0]["bid_sizes"]] == [1, 2, 3, 4, 5]
    assert (len(found[3]["ask_prices"]), len(found[3]["bid_prices"])) == (3, 5)
    assert found[0]["ask_sizes"][1] == Decimal("0.11")


def test_a_derivative_ticker_fills_three_tables() -> None:
    found = convert(next(TARDIS.glob("*derivative_ticker*")))
    assert {table: rows.num_rows for table, rows in found.items()} == {"funding": 7, "open_interest": 6, "index": 7}
    funding = found["funding"].to_pylist()[0]
    assert (funding["rate"], funding["mark_price"], funding["predicted_rate"]) == (0.0001, 42001.75, None)
    assert funding["next_funding_time"] == at(8 * 3600 * 10**6)
    assert found["open_interest"].column("open_interest").to_pylist()[0] == 80000.5
    assert found["index"].column("price").to_pylist()[0] == 42000.25
    assert found["index"].column("symbol").to_pylist()[0] == "ETH-USDT-PERP"
    assert list(convert(next(TARDIS.glob("*derivative_ticker*")), table="open_interest")) == ["open_interest"]


def test_names_can_be_given() -> None:
    found = convert(TRADES, exchange="ELSEWHERE", symbol="BTC-USDT")["trades"].to_pylist()
    assert {(r["exchange"], r["symbol"]) for r in found} == {("ELSEWHERE", "BTC-USDT")}


def test_a_line_without_a_time_of_the_exchange_has_that_of_receipt(tmp_path: Path) -> None:
    path = write(
        tmp_path, "x_trades_y.csv", f"{HEAD}id,side,price,amount\nbinance,BTCUSDT,,1704067200000005,1,buy,1,1\n"
    )
    (row,) = convert(path)["trades"].to_pylist()
    assert row["timestamp"] == row["receipt_timestamp"] == at(5)


def test_trades_and_liquidations_of_one_shape_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "renamed.csv", TRADES.read_text())
    with pytest.raises(InputError, match="trades or liquidations") as refused:
        find_layout(source(path), Wishes())
    assert refused.value.hint is not None
    assert "--table" in refused.value.hint
    assert find_layout(source(path), Wishes(table="liquidations")).tables == ("liquidations",)
    assert find_layout(source(gzipped(TRADES, tmp_path)), Wishes()).tables == ("trades",)


def test_what_no_table_takes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "o.csv", f"{HEAD}type,strike_price,expiration\n")
    with pytest.raises(UnsupportedError, match="options_chain"):
        find_layout(source(path), Wishes())
    with pytest.raises(InputError, match="none of the headers"):
        find_layout(source(write(tmp_path, "p.csv", f"{HEAD}something\n")), Wishes())
    with pytest.raises(InputError, match="other columns than a book_snapshot"):
        find_layout(source(write(tmp_path, "q.csv", f"{HEAD}asks[0].price,bids[0].price\n")), Wishes())
    with pytest.raises(InputError, match="cannot go to table funding"):
        find_layout(source(TRADES), Wishes(table="funding"))
    with pytest.raises(InputError, match="does not begin with the columns"):
        find_layout(source(write(tmp_path, "r.csv", "a,b\n")), Wishes(format="tardis"))
