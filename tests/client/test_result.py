"""A result is what each library makes of the same Arrow, empty or not, and ends when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tickflight
from tickflight_server.schemas import STORED

ENDLESS = "SELECT x FROM range(100000000000) r(x)"
LATE = "SELECT CASE WHEN x < 500000 THEN 1 ELSE CAST('no' || x AS INTEGER) END AS n FROM range(600000) r(x)"
FULL, EMPTY = "FROM trades ORDER BY seq LIMIT 3", "FROM trades WHERE symbol = 'nix'"


@pytest.mark.parametrize(("query", "rows"), [(FULL, 3), (EMPTY, 0)])
def test_arrow_has_the_tables_types(reading: tickflight.Client, query: str, rows: int) -> None:
    table = reading.sql(query).arrow()
    assert table.schema == STORED["trades"].arrow()
    assert table.num_rows == rows


@pytest.mark.parametrize(("query", "rows"), [(FULL, 3), (EMPTY, 0)])
def test_polars_has_times_without_zone(reading: tickflight.Client, query: str, rows: int) -> None:
    frame = reading.sql(query).polars()
    assert frame.height == rows
    expected = {"exchange": pl.String, "price": pl.Float64, "timestamp": pl.Datetime("us"), "seq": pl.Int64}
    assert {name: frame.schema[name] for name in expected} == expected


@pytest.mark.parametrize(("query", "rows"), [(FULL, 3), (EMPTY, 0)])
def test_pandas_has_times_without_zone(reading: tickflight.Client, query: str, rows: int) -> None:
    frame = reading.sql(query).pandas()
    assert len(frame) == rows
    assert str(frame.dtypes["timestamp"]) == "datetime64[us]"
    assert str(frame.dtypes["price"]) == "float64"
    assert str(frame.dtypes["seq"]) == "int64"
    arrow = reading.sql(query).pandas(types_mapper=pd.ArrowDtype)
    assert str(arrow.dtypes["timestamp"]) == "timestamp[us][pyarrow]"


def test_time_is_to_the_microsecond(reading: tickflight.Client) -> None:
    result = reading.sql("SELECT TIMESTAMP '2026-01-02 03:04:05.678901' AS t")
    assert result.arrow()["t"].to_pylist() == [datetime(2026, 1, 2, 3, 4, 5, 678901)]
    assert result.polars()["t"].to_list() == [datetime(2026, 1, 2, 3, 4, 5, 678901)]
    assert result.pandas()["t"][0] == pd.Timestamp("2026-01-02 03:04:05.678901")


def test_books_arrive_as_lists(client: tickflight.Client) -> None:
    book = {"exchange": ["X"], "symbol": ["BTC-USDT"], "bid_prices": [[2.0, 1.0]], "bid_sizes": [[5.0, 0.0]]}
    book |= {"timestamp": pa.array([datetime(2026, 1, 1)], pa.timestamp("us"))}
    with client.writer("l2_book") as writer:
        writer.write(pa.record_batch(book))
    result = client.sql("SELECT bid_prices, ask_prices FROM l2_book")
    assert result.arrow().to_pylist() == [{"bid_prices": [2.0, 1.0], "ask_prices": None}]
    assert result.polars().schema["bid_prices"] == pl.List(pl.Float64)


def test_forms_may_be_asked_for_again(reading: tickflight.Client) -> None:
    result = reading.sql(FULL)
    assert result.arrow() is result.arrow()
    assert result.polars().height == len(result.pandas()) == 3
    assert sum(b.num_rows for b in result) == 3
    assert result.reader().read_all() == result.arrow()
    result.close()
    assert result.arrow().num_rows == 3


def test_schema_is_known_before_the_rows(reading: tickflight.Client) -> None:
    with reading.sql(ENDLESS) as result:
        assert result.schema == pa.schema([("x", pa.int64())])


def test_stream_is_read_once(reading: tickflight.Client) -> None:
    for read in (lambda r: list(r), lambda r: r.reader().read_all()):
        result = reading.sql(FULL)
        read(result)
        for again in (iter, tickflight.Result.arrow, tickflight.Result.reader, tickflight.Result.polars):
            with pytest.raises(tickflight.TickflightError, match=r"streamed or closed already: run the query again\."):
                again(result)


def test_closed_result_gives_nothing(reading: tickflight.Client) -> None:
    result = reading.sql(FULL)
    result.close()
    result.close()
    with pytest.raises(tickflight.TickflightError, match="closed already"):
        iter(result)
    assert result.schema.names[0] == "exchange"


def test_reader_is_taken_by_whoever_takes_arrow(reading: tickflight.Client) -> None:
    assert pl.from_arrow(reading.sql(FULL).reader()).height == 3  # type: ignore[union-attr]
    stream = pa.RecordBatchReader.from_stream(reading.sql(FULL).reader())
    assert stream.read_all().num_rows == 3


def end_by_close(result: tickflight.Result) -> None:
    next(iter(result))
    result.close()


def end_by_context(result: tickflight.Result) -> None:
    with result:
        for _ in result:
            break


def end_by_break(result: tickflight.Result) -> None:
    for _ in result:
        break


def end_of_a_reader(result: tickflight.Result) -> None:
    reader = result.reader()
    reader.read_next_batch()
    result.close()
    with pytest.raises(tickflight.TickflightError):
        for _ in reader:
            pass


@pytest.mark.parametrize("end", [tickflight.Result.close, end_by_close, end_by_context, end_by_break, end_of_a_reader])
def test_ending_early_frees_the_servers_place(
    served: Any, reading: tickflight.Client, until: Callable[..., None], end: Callable[[tickflight.Result], None]
) -> None:
    result = reading.sql(ENDLESS)
    end(result)
    until(lambda: served.free_places == 8)


def test_result_that_is_forgotten_frees_the_servers_place(
    served: Any, reading: tickflight.Client, until: Callable[..., None]
) -> None:
    reading.sql(ENDLESS)
    until(lambda: served.free_places == 8)


@pytest.mark.parametrize(
    "read",
    [
        list,
        tickflight.Result.arrow,
        tickflight.Result.polars,
        tickflight.Result.pandas,
        lambda result: result.reader().read_all(),
    ],
)
@pytest.mark.parametrize("more", ["", ", 'text' AS made_up"])
def test_error_in_the_middle_is_of_one_tree(reading: tickflight.Client, read: Callable[..., Any], more: str) -> None:
    with pytest.raises(tickflight.QueryError, match="Could not convert string 'no500000' to INT32") as caught:
        read(reading.sql(LATE.replace(" AS n", f" AS n{more}")))
    assert "gRPC" not in str(caught.value)


SLOW = "SELECT x FROM range(100000000000) r(x) WHERE x < 3 OR x > 99999999998"
MANY = "FROM range(3000000)"


@pytest.mark.parametrize("look", [repr, tickflight.Result._repr_html_])
@pytest.mark.parametrize("query", [FULL, EMPTY, "FROM trades", MANY])
@pytest.mark.parametrize(
    "read",
    [
        tickflight.Result.arrow,
        lambda r: r.reader().read_all(),
        lambda r: pa.Table.from_batches(list(r), r.schema),
        lambda r: pa.table(r.polars().to_arrow()),
    ],
)
def test_looking_takes_no_rows_away(
    reading: tickflight.Client,
    look: Callable[[tickflight.Result], str],
    query: str,
    read: Callable[[tickflight.Result], pa.Table],
) -> None:
    result = reading.sql(query)
    assert look(result) == look(result)
    assert read(result).num_rows == reading.sql(query).arrow().num_rows


def test_prompt_shows_rows_types_and_the_number_of_a_small_result(reading: tickflight.Client) -> None:
    lines = repr(reading.sql("SELECT symbol, price FROM trades ORDER BY seq")).splitlines()
    assert lines[0].split() == ["symbol", "price"]
    assert lines[1].split() == ["string", "double"]
    assert lines[3].split() == ["BTC-USDT", "0.0"]
    assert len(lines) == 3 + 10 + 1
    assert lines[-1] == "200 rows (the first 10 are shown), 2 columns"


def test_number_of_rows_of_a_large_result_is_told_once_it_was_read(reading: tickflight.Client) -> None:
    result = reading.sql(MANY)
    assert repr(result).endswith("the first 10 rows, 1 column; more follow when it is read")
    result.arrow()
    assert repr(result).endswith("3,000,000 rows (the first 10 are shown), 1 column")


def test_result_that_was_streamed_shows_its_schema(reading: tickflight.Client) -> None:
    result = reading.sql(FULL)
    list(result)
    assert "timestamp[us]" in repr(result)
    assert repr(result).endswith("10 columns; this result was streamed or closed already")


def test_error_in_the_middle_is_shown_and_still_raised(reading: tickflight.Client) -> None:
    result = reading.sql(LATE)
    assert "QueryError: Conversion Error" in repr(result) or "more follow" in repr(result)
    with pytest.raises(tickflight.QueryError, match="Could not convert"):
        result.arrow()


def test_rows_that_come_late_are_not_waited_for_when_some_are_there(
    served: Any, reading: tickflight.Client, until: Callable[..., None]
) -> None:
    result = reading.sql(ENDLESS)
    assert "more follow" in repr(result)
    result.close()
    until(lambda: served.free_places == 8)


def test_notebook_that_shows_and_never_reads_leaves_few_queries_open(
    served: Any, reading: tickflight.Client, until: Callable[..., None]
) -> None:
    shown = []
    for _ in range(12):  # more than the server has places
        shown.append(reading.sql(ENDLESS))
        repr(shown[-1])
        if len(shown) == 7:
            shown.pop(0).close()
    for result in shown:
        result.close()
    until(lambda: served.free_places == 8)


def test_progress_changes_no_row(reading: tickflight.Client) -> None:
    for query in (MANY, FULL, EMPTY):
        plain = reading.sql(query, progress=False).arrow()
        assert reading.sql(query, progress=True).arrow() == plain
        assert pa.Table.from_batches(list(reading.sql(query, progress=True)), plain.schema) == plain


def test_result_that_was_closed_for_others_says_so(
    served: Any, reading: tickflight.Client, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tickflight.result, "SHOWN_OPEN_MAX", 2)
    shown = [reading.sql(ENDLESS) for _ in range(4)]
    for result in shown:
        repr(result)
    assert [result.is_open for result in shown] == [False, False, True, True]
    with pytest.raises(tickflight.TickflightError, match="2 more were shown since: run the query again"):
        shown[0].arrow()
    shown[2].close()
    shown.append(reading.sql(ENDLESS))
    repr(shown[-1])
    assert shown[3].is_open, "closed ones do not count"
    for result in shown:
        result.close()
    until(lambda: served.free_places == 8)
