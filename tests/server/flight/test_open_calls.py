"""No user has more calls under way than it may, and all together no more than the server takes."""

from __future__ import annotations

import pytest

from tickflight_server.config import FlightSettings
from tickflight_server.errors import BusyError
from tickflight_server.flight.open_calls import OpenCalls
from tickflight_server.metrics import Metrics


def test_calls_are_counted_in_all_and_of_each_user() -> None:
    metrics = Metrics()
    calls = OpenCalls(FlightSettings(calls_max=3, calls_per_user_max=2), metrics)
    calls.enter("ada")
    calls.enter("ada")
    with pytest.raises(BusyError, match="calls_per_user_max"):
        calls.enter("ada")
    calls.enter("bob")
    with pytest.raises(BusyError, match="calls_max"):
        calls.enter("eve")
    calls.leave("ada")
    calls.enter("eve")
    assert len(calls) == 3
    assert metrics.read() == {"calls_refused": 2}
