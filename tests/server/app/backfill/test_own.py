"""Files in our own layout."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backfill_files import convert, source

from tickflight_server.app.backfill.chunks import find_layout
from tickflight_server.app.backfill.layout import Wishes
from tickflight_server.errors import InputError
from tickflight_server.schemas import MARKET

NOW = dt.datetime(2024, 1, 1, 12)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", MARKET)
def test_a_table_is_known_by_its_columns(tmp_path: Path, name: str) -> None:
    columns = [c.name for c in MARKET[name].columns]
    for n, kept in enumerate((columns, [c for c in columns if c not in ("seq", "receipt_timestamp")])):
        path = write(tmp_path, f"x{n}.csv", ",".join(kept) + "\n")
        assert find_layout(source(path), Wishes()).tables == (name,)


def test_a_table_is_known_by_the_files_name_or_metadata(tmp_path: Path) -> None:
    columns = "exchange,symbol,timestamp,price\n"
    assert find_layout(source(write(tmp_path, "trades-2024.csv", columns)), Wishes()).tables == ("trades",)
    assert find_layout(source(write(tmp_path, "l1_book.csv", "exchange,symbol,timestamp\n")), Wishes()).tables == (
        "l1_book",
    )
    with pytest.raises(InputError, match="does not say which table"):
        find_layout(source(write(tmp_path, "some.csv", "exchange,symbol,timestamp,id\n")), Wishes())
    assert find_layout(source(tmp_path / "some.csv"), Wishes(table="market.fills")).tables == ("fills",)
    table = pa.table({"exchange": ["X"], "symbol": ["S"], "timestamp": [NOW], "price": [1.0]})
    pq.write_table(table.replace_schema_metadata({"tickflight.table": "fills"}), tmp_path / "x.parquet")
    assert find_layout(source(tmp_path / "x.parquet"), Wishes()).tables == ("fills",)


def test_columns_go_by_name_and_seq_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "trades.csv", 'seq,price,timestamp,symbol,exchange\n7,1.5,2024-01-01 12:00:00,"A-B",X\n')
    (row,) = convert(path)["trades"].to_pylist()
    assert row == {"exchange": "X", "symbol": "A-B", "price": 1.5, "timestamp": NOW, "receipt_timestamp": NOW}


def test_exchange_and_symbol_may_be_given(tmp_path: Path) -> None:
    path = write(tmp_path, "trades.csv", "price,timestamp\n1.5,1704110400000000\n")
    with pytest.raises(InputError, match="no column 'exchange'") as refused:
        find_layout(source(path), Wishes())
    assert "--exchange" in str(refused.value)
    (row,) = convert(path, exchange="X", symbol="A-B")["trades"].to_pylist()
    assert (row["exchange"], row["symbol"], row["timestamp"]) == ("X", "A-B", NOW)


def test_an_empty_text_is_not_a_missing_one(tmp_path: Path) -> None:
    path = write(tmp_path, "trades.csv", 'exchange,symbol,timestamp,id\nX,S,2024-01-01,""\nX,S,2024-01-01,\n')
    assert convert(path)["trades"].column("id").to_pylist() == ["", None]


@pytest.mark.parametrize("text", ['X,"",2024-01-01', "X,,2024-01-01", "X,S,"])
def test_a_row_lacks_what_it_must_have(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "trades.csv", f"exchange,symbol,timestamp\nX,S,2024-01-01\n{text}\n")
    with pytest.raises(AssertionError):
        convert(path)


def test_unknown_columns_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "trades.csv", "exchange,symbol,timestamp,prize\n")
    with pytest.raises(InputError, match="'prize'"):
        find_layout(source(path), Wishes(format="tickflight"))
    with pytest.raises(InputError, match=r"layout of .* is not known"):
        find_layout(source(path), Wishes())
    twice = write(tmp_path, "trades.csv", "exchange,symbol,timestamp,timestamp\n")
    with pytest.raises(InputError, match="a column twice"):
        find_layout(source(twice), Wishes())
    with pytest.raises(InputError, match="no table treads"):
        find_layout(source(path), Wishes(format="tickflight", table="treads"))


def test_typed_files_are_cast(tmp_path: Path) -> None:
    table = pa.table(
        {
            "exchange": pa.array(["X", "X"]).dictionary_encode(),
            "symbol": ["S", "S"],
            "timestamp": pa.array([NOW, NOW], pa.timestamp("ms", "UTC")),
            "price": pa.array([1, 2], pa.int32()),
            "amount": pa.array([0.1, None], pa.float32()).cast(pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "trades.parquet")
    with pa.ipc.new_file(str(tmp_path / "trades.arrow"), table.schema) as file:
        file.write_table(table)
    found: list[dict[str, Any]] = convert(tmp_path / "trades.parquet")["trades"].to_pylist()
    assert found == convert(tmp_path / "trades.arrow")["trades"].to_pylist()
    assert [(r["price"], r["timestamp"]) for r in found] == [(1.0, NOW), (2.0, NOW)]


@pytest.mark.parametrize("name", ["trades.parquet", "trades.arrow"])
def test_a_typed_file_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "not at all")
    with pytest.raises(InputError, match="cut off or damaged"):
        find_layout(source(path), Wishes())
    with pytest.raises(InputError, match="is not CSV"):
        find_layout(source(path), Wishes(format="binance"))
