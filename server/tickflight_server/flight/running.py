"""Calls' statements on the board: who asks for what, and how it ended.

The rule of this file: a call has at most one statement; it is on the board until the call has ended, in whatever way.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pyarrow import flight

from tickflight_server.flight.auth import Call, caller_of
from tickflight_server.query.board import Board, Kind, Run, State
from tickflight_server.query.selection import Choice
from tickflight_server.query.session import Options
from tickflight_server.query.statement import Statement
from tickflight_server.schemas import STORED

_NAMES_SHOWN = 10
# Arrow adds to an error's words
_DETAIL = re.compile(r"\. Detail: .*\Z", re.DOTALL)


def begin(board: Board, call: Call, text: str, kind: Kind = "query") -> Run:
    """Put the statement of ``call`` on the board; it ends with the call, and leaves no trace if it only was planned."""
    if call.run is None:
        run = call.run = board.begin(caller_of(call), text, kind, peer=call.peer, stop=call.stop)
        call.hold(lambda: _end(board, call, run))
    return call.run


def options_of(call: Call, options: Options) -> Options:
    """Return a session's ``options`` for the statement of ``call``."""
    caller = call.run.caller if call.run is not None else caller_of(call)
    return replace(options, caller=caller, run=call.run)


def reads(call: Call, statement: Statement) -> None:
    """Tell the board which tables the statement of ``call`` reads."""
    if call.run is not None:
        stored = [(r.table.schema, r.table.name) for r in statement.readings()]
        call.run.reads({*stored, *(named for named in statement.tables if named[1] not in STORED)})


def shown(what: str, choice: Choice) -> str:
    """Return what the board says of a stream that is no statement."""
    said = [f"{what} {choice.table.schema}.{choice.table.name}"]
    for name, values in (("exchanges", choice.exchanges), ("symbols", choice.symbols)):
        if values:
            said.append(f"{name} {', '.join(values[:_NAMES_SHOWN])}{', …' if len(values) > _NAMES_SHOWN else ''}")
    if choice.where:
        said.append(f"where {choice.where}")
    return "; ".join(said)


def _end(board: Board, call: Call, run: Run) -> None:
    error = call.error
    # a change without an error was made, however soon its caller left
    if error is None and call.left and run.kind != "write":
        board.end(run, "cancelled", "the caller went away.")
    elif error is None and run.state == "planning":
        board.drop(run)
    elif error is None:
        board.end(run)
    else:
        state: State = "cancelled" if isinstance(error, flight.FlightCancelledError) else "failed"
        board.end(run, state, _DETAIL.sub("", str(error)))
