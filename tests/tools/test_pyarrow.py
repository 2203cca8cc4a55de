"""pyarrow's FlightClient, with nothing else."""

import pyarrow.flight as flight
import pytest
from connect_page import run_here

pytestmark = pytest.mark.tool("pyarrow")


def test_the_recipe_reads(server, counts):
    names = run_here("pyarrow alone", server.port)
    assert names["table"].to_pylist() == [{"symbol": symbol, "n": n} for symbol, n in counts.items()]


def test_the_commands_length_may_take_more_than_one_byte(server):
    names = run_here("pyarrow alone", server.port)
    with flight.connect(server.address) as client:
        for size in (1, 127, 128, 20_000):
            assert names["query"](client, f"SELECT length('{'x' * size}') AS n")["n"].to_pylist() == [size]
