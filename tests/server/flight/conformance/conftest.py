"""A server for two users, and each one's connection, by hand and through the ADBC driver."""

from __future__ import annotations

from collections.abc import Iterator

import adbc_driver_flightsql.dbapi as adbc
import pytest
from by_hand import ByHand
from flight_here import FlightHere, trades

TOKENS = {"ada": "token-of-ada", "bob": "token-of-bob"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlightHere]:
    """A server that knows its users, with 1,000 trades of BTC-USDT and nothing in the workspace."""
    running = FlightHere(
        tmp_path_factory.mktemp("closed"), auth={"tokens": TOKENS}, query={"concurrent_max": 8, "queue_timeout_s": 2}
    )
    running.store.append("trades", trades(1000)).result()
    yield running
    assert running.free_places == 8
    running.stop()


def _hand(closed: FlightHere, token: str) -> Iterator[ByHand]:
    made = ByHand(closed.address, token)
    yield made
    made.act("CloseSession")
    made.close()


@pytest.fixture
def ada(closed: FlightHere) -> Iterator[ByHand]:
    yield from _hand(closed, TOKENS["ada"])


@pytest.fixture
def bob(closed: FlightHere) -> Iterator[ByHand]:
    yield from _hand(closed, TOKENS["bob"])


@pytest.fixture
def adbc_ada(closed: FlightHere) -> Iterator[adbc.Connection]:
    """Ada through the driver; every statement commits by itself."""
    login = {"adbc.flight.sql.authorization_header": f"Bearer {TOKENS['ada']}"}
    with adbc.connect(closed.address, db_kwargs=login, autocommit=True) as connection:
        yield connection
