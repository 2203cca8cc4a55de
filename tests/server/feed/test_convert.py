"""Micro-batches: rows in equals rows out, whatever the rows are."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.feed import convert as module
from tickflight_server.feed.convert import convert, convert_each, reader, reject_all, rejected_batch
from tickflight_server.schemas import MARKET, STORED

AT = 1_700_000_000.123456
RECEIVED = 1_700_000_001.654321


@pytest.mark.parametrize("table", [name for name in MARKET if name not in module.BOOK_TABLES])
@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_every_field_of_every_type_equals_its_object(table: str, numeric: Any, objects: Any) -> None:
    if table not in objects:
        pytest.skip(f"the installed cryptofeed has no type for {table}")
    made = objects[table]
    converted = convert(table, [(obj, RECEIVED) for obj in made], numeric)
    assert converted.rejected == []
    assert converted.batch.schema == STORED[table].arrow_input(numeric, memory=True)
    converted.batch.validate(full=True)
    for row, obj in zip(converted.batch.to_pylist(), made, strict=True):
        said = obj.to_dict() | {"receipt_timestamp": RECEIVED}
        said["timestamp"] = said.get("timestamp") or RECEIVED
        if "currency" in said:
            said["symbol"] = said["currency"]
        assert set(row) == set(said)
        for name, value in said.items():
            if isinstance(value, Decimal) and numeric == "float64":
                value = float(value)
            if isinstance(row[name], datetime):
                row[name], value = _us(row[name]), round(value * 1e6)
            assert row[name] == value, name


def _us(moment: Any) -> int:
    return pa.scalar(moment, pa.timestamp("us")).cast(pa.int64()).as_py()


def test_zero_is_a_number_and_not_missing(objects: Any) -> None:
    from cryptofeed.types import Funding

    zero = Funding("X", "BTC-USD", Decimal(0), Decimal(0), None, AT, predicted_rate=Decimal(0))
    row = convert("funding", [(zero, RECEIVED)]).batch.to_pylist()[0]
    assert (row["mark_price"], row["rate"], row["predicted_rate"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"price": Decimal("NaN")}, "price:"),
        ({"amount": "lots"}, "amount:"),
        ({"symbol": ""}, "symbol: is missing"),
        ({"exchange": None}, "exchange: is missing"),
        ({"timestamp": 1_700_000_000_000.0}, "timestamp:"),
        ({"price": Decimal("Infinity"), "symbol": None}, "symbol: is missing; price:"),
    ],
)
def test_bad_row_is_set_aside_and_the_others_go_on(trade: Any, changed: dict[str, Any], reason: str) -> None:
    items = [(trade(id="1"), RECEIVED), (trade(id="2", **changed), RECEIVED), (trade(id="3"), RECEIVED)]
    converted = convert("trades", items)
    assert converted.batch.column("id").to_pylist() == ["1", "3"]
    (rejected,) = converted.rejected
    assert rejected.reason.startswith(reason)
    assert rejected.table == "trades"
    row = json.loads(rejected.row)
    assert row["id"] == "2"
    assert row["receipt_timestamp"] == RECEIVED
    assert rejected.receipt_timestamp == round(RECEIVED * 1e6)
    assert rejected.exchange == (changed.get("exchange", "BINANCE") or "unknown")


def test_receipt_that_is_no_time_is_a_reason(trade: Any) -> None:
    converted = convert("trades", [(trade(), "noon"), (trade(), "1700000000.5"), (trade(), None)])
    assert converted.batch.num_rows == 1
    assert [r.reason for r in converted.rejected] == [
        "receipt_timestamp: 'noon' is not a time in seconds",
        "receipt_timestamp: is missing",
    ]
    assert all(r.receipt_timestamp > 0 for r in converted.rejected)


def test_attribute_that_is_not_there_is_null_or_a_reason(trade: Any) -> None:
    bare = SimpleNamespace(exchange="X", symbol="S", price=1, timestamp=AT)
    converted = convert("trades", [(bare, RECEIVED), (trade(), RECEIVED), (SimpleNamespace(), RECEIVED)])
    assert converted.batch.to_pylist()[0]["amount"] is None
    assert [r.exchange for r in converted.rejected] == ["unknown"]


values = st.none() | st.text() | st.floats() | st.integers() | st.decimals() | st.binary() | st.lists(st.integers())


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("exchange", "symbol", "price", "id", "timestamp"), values))))
def test_rows_in_equal_rows_out_for_any_values(rows: list[dict[str, Any]]) -> None:
    items = [(SimpleNamespace(side=None, amount=1, type=None, **row), RECEIVED) for row in rows]
    converted = convert("trades", items)
    converted.batch.validate(full=True)
    assert converted.batch.num_rows + len(converted.rejected) == len(rows)
    for rejected in converted.rejected:
        assert rejected.reason
        json.loads(rejected.row)
    batch = rejected_batch(converted.rejected, "here")
    assert batch.schema == STORED["rejected"].arrow_input(memory=True)
    batch.validate(full=True)


def event(book: Any, bids: Any, asks: Any, *, snapshot: bool = False, number: Any = 1, checksum: Any = None) -> Any:
    return (book, RECEIVED, AT, number, checksum, snapshot, bids, asks)


BOOK = SimpleNamespace(exchange="X", symbol="BTC-USD")


def test_level_2_events_keep_levels_in_their_order() -> None:
    events = [
        event(BOOK, [(Decimal(3), Decimal(1)), (Decimal(2), Decimal(4))], [], snapshot=True, checksum=7),
        event(BOOK, (), ((Decimal(5), 0),), number=None, checksum="abc"),
    ]
    first, second = convert("l2_book", events).batch.to_pylist()
    assert (first["bid_prices"], first["bid_sizes"], first["ask_prices"]) == ([3.0, 2.0], [1.0, 4.0], [])
    assert (first["is_snapshot"], first["sequence_number"], first["checksum"]) == (True, 1, "7")
    assert (second["ask_prices"], second["ask_sizes"], second["is_snapshot"]) == ([5.0], [0.0], False)
    assert (second["sequence_number"], second["checksum"]) == (None, "abc")


@pytest.mark.parametrize("numeric", ["float64", "decimal"])
def test_level_3_events_keep_ids(numeric: Any) -> None:
    orders = [("a", Decimal("3.1"), Decimal(1)), (17, Decimal("3.1"), Decimal(2))]
    converted = convert("l3_book", [event(BOOK, orders, [])], numeric)
    assert converted.batch.schema == STORED["l3_book"].arrow_input(numeric, memory=True)
    (row,) = converted.batch.to_pylist()
    assert row["bid_ids"] == ["a", "17"]
    assert row["bid_prices"] == ([3.1, 3.1] if numeric == "float64" else [Decimal("3.1")] * 2)


def test_bad_book_is_set_aside_whole() -> None:
    events = [
        event(BOOK, [(Decimal("NaN"), Decimal(1))], []),
        event(BOOK, [(Decimal(1), Decimal(1))], [], number="x"),
        event(BOOK, [(Decimal(1), Decimal(1))], []),
    ]
    converted = convert("l2_book", events)
    assert converted.batch.num_rows == 1
    assert [r.reason.split(":")[0] for r in converted.rejected] == ["sequence_number", "bids"][::-1]
    assert json.loads(converted.rejected[0].row)["bids"] == [["NaN", "1"]]


def test_books_are_cut_by_levels_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEVELS_MAX", 10)
    events = [event(BOOK, [(1, 1)] * n, [], number=n) for n in (4, 4, 4, 30, 1, 0)]
    parts = [c.batch.column("sequence_number").to_pylist() for c in convert_each("l2_book", events)]
    assert parts == [[4, 4], [4], [30], [1, 0]]


def test_empty_batch_has_the_full_schema() -> None:
    for table in MARKET:
        assert convert(table, []).batch.schema == STORED[table].arrow_input(memory=True)
        assert convert(table, []).batch.num_rows == 0


def test_what_cannot_be_converted_at_all_is_kept_as_json(trade: Any) -> None:
    rejected = reject_all("trades", [(trade(price=object()), RECEIVED)], "broken")
    assert rejected[0].reason == "broken"
    assert "object" in json.loads(rejected[0].row)["price"]


@pytest.mark.parametrize("table", [name for name in MARKET if name not in module.BOOK_TABLES])
def test_attributes_that_were_read_at_the_callback_give_what_their_objects_give(table: str, objects: Any) -> None:
    if table not in objects:
        pytest.skip(f"the installed cryptofeed has no type for {table}")
    read = reader(table)
    kept = [(read(obj), RECEIVED) for obj in objects[table]]
    assert convert(table, kept).batch.equals(convert(table, [(obj, RECEIVED) for obj in objects[table]]).batch)
    broken = SimpleNamespace(exchange="X", symbol="A", currency="A", timestamp="never")
    (mine,), (whole,) = (convert(table, [(one, RECEIVED)]).rejected for one in (read(broken), broken))
    assert (mine.exchange, mine.symbol, mine.reason, mine.row) == ("X", "A", whole.reason, whole.row)
