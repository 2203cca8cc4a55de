"""A Flight SQL server that does nothing: it answers every query with one constant row, whatever was asked.

The rule of this file: what it costs is what gRPC, pyarrow's Flight and Python's handlers cost on both sides, the least
that a server written in Python can take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import flight

from tickflight.wire.actions import ActionCreatePreparedStatementResult
from tickflight.wire.append import DoPutPreparedStatementResult
from tickflight.wire.tickets import TicketStatementQuery

_ANSWER = pa.table({"1": pa.array([1], pa.int32())})
_TICKET = TicketStatementQuery(b"0123456789abcdef").serialize()
_SCHEMA = _ANSWER.schema.serialize().to_pybytes()
_PARAMETERS = pa.schema([("1", pa.int64())]).serialize().to_pybytes()
_PREPARED = ActionCreatePreparedStatementResult(b"0123456789abcdef", _SCHEMA, _PARAMETERS, False).serialize()
_BOUND = DoPutPreparedStatementResult(b"0123456789abcdef").serialize()


class BareServer(flight.FlightServerBase):  # type: ignore[misc]
    """Answers GetFlightInfo, DoGet, DoPut and DoAction with constants."""

    def get_flight_info(self, context: Any, descriptor: Any) -> flight.FlightInfo:
        """Give one ticket."""
        if b"CommandGetSqlInfo" in descriptor.command:  # what the driver asks when it connects
            raise NotImplementedError("GetSqlInfo")
        return flight.FlightInfo(_ANSWER.schema, descriptor, [flight.FlightEndpoint(_TICKET, [])], -1, -1)

    def do_get(self, context: Any, ticket: Any) -> flight.FlightDataStream:
        """Give the row."""
        return flight.RecordBatchStream(_ANSWER)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Take what is bound."""
        for _ in reader:
            pass
        writer.write(pa.py_buffer(_BOUND))

    def do_action(self, context: Any, action: Any) -> Iterator[flight.Result]:
        """Prepare a statement, or close one."""
        if action.type == "CreatePreparedStatement":
            return iter((flight.Result(pa.py_buffer(_PREPARED)),))
        if action.type == "ClosePreparedStatement":
            return iter(())
        raise NotImplementedError(action.type)


def serve_constants(tell: Callable[[str], None]) -> None:
    """Serve until the process is killed."""
    server = BareServer("grpc://127.0.0.1:0")
    tell(f"grpc://127.0.0.1:{server.port}")
    time.sleep(3600)
