"""Long statements that are stopped in every way: the server is idle soon after, and nothing of them is left."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from cancelling import Campaign

# a full campaign is for a machine that does nothing else; with the other tests beside it, the processor is shared
_STATEMENTS = {"sample": 60, "full": 200}
_IDLE_S = {"sample": 2.0, "full": 0.1}
_QUIET_S = {"sample": 2.0, "full": 0.2}  # seen in steps of 20 ms


@pytest.mark.slow
def test_server_is_idle_soon_after_any_end_of_a_statement(
    start_server: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    how = request.config.getoption("--campaign")
    campaign = Campaign(start_server(), request.config.getoption("--crash-seed"))
    campaign.prepare()
    before = campaign.left()
    stopped = []
    for number in range(_STATEMENTS[how]):
        stopped.append(campaign.run(number))
        assert campaign.left() == before, stopped[-1]
    campaign.close()
    times = sorted(s.idle_s * 1000 for s in stopped)
    told = f"{median(times):.0f}, {times[int(len(times) * 0.99)]:.0f}, {times[-1]:.0f}"
    print(f"{len(times)} statements stopped; milliseconds until idle, median, 99 of 100, largest: {told}")
    late = [s for s in stopped if s.idle_s > _IDLE_S[how] or s.quiet_s > _QUIET_S[how]]
    assert not late, "\n".join(map(str, late))
