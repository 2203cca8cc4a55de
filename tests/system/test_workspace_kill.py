"""Kill -9 of the server in the middle of changes to users' tables: what was committed is there, and nothing else."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

from tickflight.wire.actions import (
    ActionBeginTransactionRequest,
    ActionBeginTransactionResult,
    ActionEndTransactionRequest,
)
from tickflight.wire.codec import Message
from tickflight.wire.commands import CommandStatementQuery
from tickflight.wire.enums import EndTransaction

ROWS = 500


class Changing:
    """A client that changes rows."""

    def __init__(self, address: str) -> None:
        self.client = flight.FlightClient(address)

    def act(self, kind: str, request: Message) -> list[bytes]:
        action = flight.Action(kind, request.serialize())
        return [result.body.to_pybytes() for result in self.client.do_action(action)]

    def begin(self) -> bytes:
        (answer,) = self.act("BeginTransaction", ActionBeginTransactionRequest())
        return ActionBeginTransactionResult.parse(answer).transaction_id

    def commit(self, transaction: bytes) -> None:
        self.act("EndTransaction", ActionEndTransactionRequest(transaction, EndTransaction.END_TRANSACTION_COMMIT))

    def run(self, sql: str, transaction: bytes | None = None) -> None:
        command = CommandStatementQuery(sql, transaction)
        self.client.get_flight_info(flight.FlightDescriptor.for_command(command.serialize()))


def change(address: str, committed: list[int], first: int) -> None:
    """Commit one transaction after the other, of ``ROWS`` rows in two steps, until the server is gone."""
    client = Changing(address)
    number = first
    with suppress(flight.FlightError, pa.ArrowException):
        while True:
            transaction = client.begin()
            for half in (0, 1):
                client.run(f"INSERT INTO kept SELECT {number}, {half} FROM range({ROWS // 2})", transaction)
            client.commit(transaction)
            committed.append(number)
            number += 2
    client.client.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_committed_rows_survive_kill_9_and_no_others(start_server: Callable[..., Any], seed: int) -> None:
    chance = random.Random(seed)
    server = start_server()
    client = Changing(server.address)
    client.run("CREATE TABLE kept (n BIGINT, half BIGINT)")
    client.run("INSERT INTO kept VALUES (-1, 0)", client.begin())
    committed: list[list[int]] = [[], []]
    threads = [threading.Thread(target=change, args=(server.address, committed[i], i)) for i in range(2)]
    for thread in threads:
        thread.start()
    threading.Event().wait(chance.uniform(0.5, 1.5))
    server.kill()
    for thread in threads:
        thread.join()
    client.client.close()
    again = start_server()
    rows = {row["n"]: row["c"] for row in again.query("SELECT n, count(*) c FROM kept GROUP BY ALL")}
    done = {number for numbers in committed for number in numbers}
    assert done
    assert set(rows.values()) <= {ROWS}
    # of each writer, one commit may have come through whose answer did not
    assert done <= set(rows)
    assert len(set(rows) - done) <= 2
    assert -1 not in rows
