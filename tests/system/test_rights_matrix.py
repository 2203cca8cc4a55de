"""Every role on every road, for every table, symbol and column: what comes is what plain rows say, and nothing else.

The rule of this file: one server, one market; all faults are told at once.

The default run chooses by chance (``--crash-seed``) which roads a user goes, and to which tables and columns; the full
campaign tries all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from rights_cases import CASES
from rights_doors import DOORS, Treasure, guesses
from rights_market import RightsMarket
from rights_roads import READING
from rights_streams import STREAMS
from rights_visitor import Visitor

ROADS_EACH = 2
"""Of a user in the sample: every road is gone by several, and every user goes some."""


@pytest.mark.timeout(3600)
def test_every_role_sees_on_every_road_what_it_may_and_nothing_else(
    rights_market: tuple[str, RightsMarket], request: pytest.FixtureRequest
) -> None:
    address, market = rights_market
    seed, full = request.config.getoption("--crash-seed"), request.config.getoption("--campaign") == "full"
    faults: list[str] = []
    counts: Counter[str] = Counter()
    with Visitor(address, CASES["ada"], market) as ada:
        treasure = Treasure(ada)
        names = [*READING, *STREAMS, *DOORS, "others' handles"]
        random.Random(seed).shuffle(names)
        for place, case in enumerate(CASES.values()):
            with Visitor(address, case, market, seed=seed, full=full) as visitor:
                roads = {**READING, **STREAMS, **DOORS, "others' handles": partial(guesses, treasure=treasure)}
                some = [names[(place * ROADS_EACH + i) % len(names)] for i in range(ROADS_EACH)]
                for road in roads if full else some:
                    _go(visitor, road, roads[road])
                faults += visitor.faults
                counts += visitor.counts
    request.node.user_properties.append(
        ("rights", {"checks": counts.total(), "users": len(CASES), "roads": len(counts)})
    )
    assert not faults, f"{len(faults)} faults of {counts.total()} checks with seed {seed}:\n" + "\n".join(faults[:60])


def _go(visitor: Visitor, road: str, go: Callable[[Visitor], None]) -> None:
    visitor.on(road)
    try:
        go(visitor)
    except Exception as error:
        visitor.note(f"the road broke off: {type(error).__name__}: {error}")
