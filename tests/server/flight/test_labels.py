from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from adbc_driver_flightsql import dbapi
from flight_here import FlightHere, trades

import tickflight

OPTION = "adbc.flight.sql.rpc.call_header.x-tickflight-labels"
LABEL = pa.dictionary(pa.int32(), pa.string())
SQL = "SELECT exchange, symbol, price, id FROM trades"


@pytest.fixture
def filled(make_server: Callable[..., FlightHere]) -> FlightHere:
    here = make_server(share_rows=20)
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        here.store.append("trades", trades(30, symbol)).result()
        here.store.flush()
    here.store.append("trades", trades(30, "XRP-USDT")).result()
    return here


def test_adbc_takes_names_as_dictionaries(filled: FlightHere) -> None:
    with (
        dbapi.connect(filled.address, autocommit=True, conn_kwargs={OPTION: "dictionary"}) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(SQL)
        found = cursor.fetch_arrow_table()
        assert found.schema.types == [LABEL, LABEL, pa.float64(), pa.string()]
        assert found["symbol"].cast(pa.string()).value_counts().field("counts").to_pylist() == [30] * 4
        cursor.execute(f"{SQL} WHERE price > 0")
        assert cursor.fetch_arrow_table().schema.types == [pa.string(), pa.string(), pa.float64(), pa.string()]


def test_client_takes_names_as_dictionaries_when_it_is_told_to(filled: FlightHere) -> None:
    with tickflight.connect(filled.address) as client:
        found = client.sql(SQL, dictionaries=True).arrow()
        texts = client.sql(SQL).arrow()
        assert found.schema.types == [LABEL, LABEL, pa.float64(), pa.string()]
        assert found.cast(texts.schema).sort_by("id") == texts.sort_by("id")
        assert len(client.sql(SQL, dictionaries=True).pandas()["symbol"].cat.categories) == 4
