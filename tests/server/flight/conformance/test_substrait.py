"""Substrait plans, for which DuckDB has no extension here, are not offered by any road, and said not to be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from by_hand import ByHand, refused

from tickflight.wire.actions import ActionCreatePreparedSubstraitPlanRequest
from tickflight.wire.commands import CommandGetSqlInfo, CommandStatementSubstraitPlan, SubstraitPlan

PLAN = SubstraitPlan(b"\x0a\x00", "0.50.0")
ROADS: dict[str, Callable[[ByHand], object]] = {
    "GetFlightInfo": lambda ada: ada.info(CommandStatementSubstraitPlan(PLAN)),
    "GetSchema": lambda ada: ada.schema(CommandStatementSubstraitPlan(PLAN)),
    "DoPut": lambda ada: ada.put(CommandStatementSubstraitPlan(PLAN)),
    "DoGet": lambda ada: ada.get(CommandStatementSubstraitPlan(PLAN)),
    "without a plan": lambda ada: ada.info(CommandStatementSubstraitPlan()),
    "prepared": lambda ada: ada.act("CreatePreparedSubstraitPlan", ActionCreatePreparedSubstraitPlanRequest(PLAN)),
    "prepared without a plan": lambda ada: ada.act("CreatePreparedSubstraitPlan", b""),
    "prepared junk": lambda ada: ada.act("CreatePreparedSubstraitPlan", b"junk"),
}


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_plan_is_not_offered(ada: ByHand, road: Callable[[ByHand], object]) -> None:
    with refused("UNIMPLEMENTED"):
        road(ada)


def test_plan_is_not_advertised(ada: ByHand) -> None:
    found = {row["info_name"]: row["value"] for row in ada.get(CommandGetSqlInfo((5, 6, 7))).to_pylist()}
    assert found[5] is False
    assert not found.get(6)
    assert not found.get(7)
    assert "CreatePreparedSubstraitPlan" not in {action.type for action in ada.client.list_actions(ada.options)}
