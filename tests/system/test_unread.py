"""Who asks and does not read the answer keeps nobody else from asking."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import flight
from system_processes import ServerProgram, wait_for

import tickflight
from tickflight.wire.tickets import Query

PLACES = 2


def test_results_that_nobody_reads_give_their_places_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKFLIGHT_QUERY__CONCURRENT_MAX", str(PLACES))
    monkeypatch.setenv("TICKFLIGHT_QUERY__STATEMENT_TIMEOUT_S", "1")
    server = ServerProgram(tmp_path)
    try:
        with ExitStack() as held:
            for _ in range(PLACES):
                client = held.enter_context(flight.FlightClient(server.address))
                reader = client.do_get(flight.Ticket(Query("SELECT * FROM range(1000000000)").serialize()))
                assert reader.read_chunk().data.num_rows
                held.callback(reader.cancel)
            with tickflight.connect(server.address) as other:
                wait_for(lambda: answered(other), "a place for somebody else", 20)
    finally:
        assert server.stop() == 0


def answered(client: tickflight.Client) -> bool:
    try:
        return bool(client.sql("SELECT count(*) AS n FROM range(10) a, range(10) b").arrow().num_rows)
    except tickflight.TickflightError:  # its own time was over while it waited
        return False
