import pytest

from tickflight.wire import WireError
from tickflight.wire.append import (
    AppendAck,
    AppendBatch,
    AppendError,
    AppendResult,
    DoPutPreparedStatementResult,
    DoPutUpdateResult,
)


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (DoPutUpdateResult(-1), "08" + "ff" * 9 + "01"),
        (DoPutUpdateResult(0), ""),
        (DoPutPreparedStatementResult(None), ""),
        (DoPutPreparedStatementResult(b""), "0a00"),
        (AppendBatch(300), "08ac02"),
        (AppendAck(1, 2, 3, 4, duplicate=True), "08011002180320042801"),
        (AppendAck(1, 2, 3, 4, duplicate=True, repeated=5), "080110021803200428013005"),
        (AppendResult(ack=AppendAck(sequence=5)), "0a020805"),
        (
            AppendResult(error=AppendError(5, "rows", "m", "h")),
            "120e" + "0805" + "1204" + b"rows".hex() + "1a016d220168",
        ),
    ],
)
def test_message_is_bare_and_has_the_bytes_that_its_field_numbers_say(message, golden):
    assert message.serialize().hex() == golden
    assert type(message).parse(bytes.fromhex(golden)) == message


def test_a_result_of_neither_or_both_cannot_be_made():
    with pytest.raises(WireError, match="not one of ack and error"):
        AppendResult()
    with pytest.raises(WireError, match="not one of ack and error"):
        AppendResult(ack=AppendAck(), error=AppendError())


def test_a_result_of_neither_is_malformed():
    with pytest.raises(WireError, match=r"malformed tickflight\.v1\.AppendResult"):
        AppendResult.parse(b"")


def test_an_empty_acknowledgement_is_an_acknowledgement():
    assert AppendResult.parse(AppendResult(ack=AppendAck()).serialize()).ack == AppendAck()
