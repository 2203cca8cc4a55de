"""Damaged messages of Flight itself, streams of Arrow's format among them, end neither a call nor the server."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from flight_here import trades
from pyarrow import flight
from wire_noise import Noise

from tickflight.wire.actions import (
    ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult,
    parse_action_result,
)
from tickflight.wire.append import AppendBatch
from tickflight.wire.commands import (
    AppendStream,
    CommandPreparedStatementQuery,
    CommandStatementIngest,
    TableDefinitionOptions,
)
from tickflight.wire.enums import TableExistsOption, TableNotExistOption

grpc = pytest.importorskip("grpc", reason="grpcio sends bytes as they are")
TOKEN = "token-of-ada"
OPTIONS = TableDefinitionOptions(
    TableNotExistOption.TABLE_NOT_EXIST_OPTION_CREATE, TableExistsOption.TABLE_EXISTS_OPTION_APPEND
)
BOUND = pa.record_batch({"0": ["a", None, "ccc"], "1": [[1], None, [2, 3]]})
NESTED = pa.record_batch(
    {
        "s": ["a", None, "ccc"],
        "l": [[1], None, [2, 3]],
        "v": pa.array(["x", "y" * 20, "x"], pa.string_view()),
        "st": [{"a": 1}, None, {"a": 2}],
        "m": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    }
)


def prepare(address: str) -> bytes:
    bearer = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + TOKEN.encode())])
    request = ActionCreatePreparedStatementRequest("SELECT ? AS x, ? AS y")
    with flight.FlightClient(address) as client:
        (found,) = client.do_action(flight.Action("CreatePreparedStatement", request.serialize()), bearer)
    result = parse_action_result("CreatePreparedStatement", found.body.to_pybytes())
    assert isinstance(result, ActionCreatePreparedStatementResult)
    return result.prepared_statement_handle


def test_damaged_messages_are_answered_and_leave_nothing(
    fuzzed: Any, seed: int, messages: Callable[[int, int], int], counts: Counter[str]
) -> None:
    from raw_calls import METHODS, RawCalls, bytes_field, damaged_somewhere, descriptor, flight_data

    number, pick, noise = messages(600, 20_000), random.Random(seed), Noise(seed)
    puts = [
        list(flight_data(CommandPreparedStatementQuery(prepare(fuzzed.address)).serialize(), [BOUND, BOUND])),
        list(flight_data(CommandStatementIngest(OPTIONS, "noisy").serialize(), [NESTED, NESTED])),
        list(flight_data(CommandStatementIngest(OPTIONS, "trades").serialize(), [trades(3)])),
        list(flight_data(AppendStream("trades").serialize(), [trades(3)], AppendBatch(1).serialize())),
    ]
    faults = []
    with RawCalls(fuzzed.port, TOKEN) as calls:
        assert {calls.call("DoPut", put).status for put in puts} == {grpc.StatusCode.OK}
        fuzzed.warm()
        for _ in range(number):
            method, body = pick.choice(("DoPut", *METHODS)), noise.next().body
            sent = [
                pick.choice((descriptor(body), bytes_field(1, body), body, noise.damaged(descriptor(body)))),
            ]
            if METHODS[method] and pick.random() < 0.9:
                sent = damaged_somewhere(pick, pick.choice(puts))
            answer = calls.call(method, sent)
            counts[f"raw {answer.status.name}"] += 1
            # gRPC itself says INTERNAL, without a word, of what is no protobuf
            silent = answer.status is not grpc.StatusCode.INTERNAL or not answer.text
            if not silent or "Traceback" in answer.text or str(fuzzed.store.root) in answer.text:
                faults.append((method, sent, answer))
        assert not faults, "\n\n".join(f"{method} {answer}"[:600] for method, _, answer in faults[:20])
    fuzzed.check_nothing_is_left()
