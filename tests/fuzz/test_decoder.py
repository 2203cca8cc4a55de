"""The decoder makes a message of any bytes, or says that they are none; it raises nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from fuzz_targets import PARSERS
from wire_noise import Noise

from tickflight.wire import WireError
from tickflight.wire.codec import Message


@pytest.fixture
def noise(seed: int) -> Noise:
    return Noise(seed)


def test_noise_is_a_message_or_a_wire_error(
    noise: Noise, messages: Callable[[int, int], int], counts: Counter[str]
) -> None:
    number, names = messages(5_000, 100_000), tuple(PARSERS)
    sound = 0
    for turn in range(number):
        data = noise.next().body
        for name in ("command", "ticket", names[turn % len(names)]):
            found = _read(PARSERS[name], data)
            if isinstance(found, WireError):
                assert found.kind in ("malformed", "unknown")
                assert len(str(found)) < 1000
            else:
                sound += 1
                _check_it_can_be_written(found)
    counts["messages decoded"] = number
    assert sound > number / 10


def _read(parse: Callable[[bytes], Message], data: bytes) -> Message | WireError:
    try:
        return parse(data)
    except WireError as error:
        return error


def _check_it_can_be_written(message: Message) -> None:
    """What was read is written in one way only, and read again as the same."""
    try:
        written = message.serialize()
    except WireError:
        return  # a timestamp that protobuf reads and does not write
    assert type(message).parse(written).serialize() == written
