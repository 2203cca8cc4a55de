"""A server that is sent noise answers every message with a result or a clean status, and keeps nothing of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from leaks import held
from noisy_client import NoisyClient, run_all
from pyarrow import flight

from tickflight.wire.tickets import Query

TOKENS = ("token-of-ada", "token-of-bob")


def test_noise_is_answered_clean_and_leaves_nothing(
    fuzzed: Any, seed: int, messages: Callable[[int, int], int], counts: Counter[str]
) -> None:
    number = messages(4_000, 100_000)
    forbidden = (str(fuzzed.store.root), *TOKENS)
    with ExitStack() as clients:
        made = [
            clients.enter_context(NoisyClient(fuzzed.address, 2 * seed + i, token=token, forbidden=forbidden))
            for i, token in enumerate(TOKENS)
        ]
        run_all(made, number // 4)
        fuzzed.warm()
        began = time.monotonic()
        run_all(made, number - number // 4)
        counts["seconds"] = round(time.monotonic() - began)
    faults = [fault for one in made for fault in one.faults]
    answered = sum((one.counts for one in made), start=Counter[str]())
    assert not faults, "\n\n".join(fault[:300] + " … " + fault[-600:] for fault in faults[:20])
    assert answered.total() == number // 2 * 2, "a message was not answered"
    assert min(answered[name] for name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")) > number / 100
    with flight.FlightClient(fuzzed.address) as client:
        bearer = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + TOKENS[0].encode())])
        ticket = flight.Ticket(Query("SELECT count(*) > 0 AS there FROM system.tables").serialize())
        assert client.do_get(ticket, bearer).read_all().to_pylist() == [{"there": True}]
    fuzzed.check_nothing_is_left()
    counts.update({"messages": number, "MiB before": fuzzed.at_rest.rss_mb, "MiB after": held().rss_mb})
