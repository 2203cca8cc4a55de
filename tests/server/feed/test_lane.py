"""Lanes: each row is counted in one place."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.feed.lane import Lane


def make_lane(**options: object) -> Lane:
    lane = Lane("test", lambda items: [("trades", items)], **({"rows_max": 5, "overflow": "drop_oldest"} | options))
    lane.wake = lambda full: None
    lane.batch_rows_max = 3
    return lane


steps = st.lists(st.sampled_from(["append", "take", "acknowledge", "reject", "fail", "give up"]), max_size=60)


@given(steps)
def test_received_is_the_sum_of_all_places(done: list[str]) -> None:
    lane = make_lane()

    async def run() -> None:
        for number, step in enumerate(done):
            if step == "append":
                lane.kept.append(number)
                if len(lane.kept) > lane.attention:
                    await lane.attend(lambda: lane.wake)
            elif step == "take":
                lane.take(2)
            elif step == "give up":
                lane.give_up_queue()
            elif lane.in_flight:
                lane.landed(0, **{{"acknowledge": "acknowledged", "reject": "rejected", "fail": "failed"}[step]: 1})
            metrics = lane.metrics()
            places = ("queue_rows", "in_flight_rows", "acknowledged", "rejected", "failed", "dropped")
            assert metrics["received"] == sum(metrics[place] for place in places)
            assert metrics["queue_rows"] <= 5

    asyncio.run(run())
    assert lane.received == done.count("append")


async def test_first_row_and_full_batch_wake_and_the_rows_between_do_not() -> None:
    lane, woken = make_lane(), []
    lane.wake = woken.append
    for number in range(5):
        lane.kept.append(number)
        if len(lane.kept) > lane.attention:
            await lane.attend(lambda: lane.wake)
    assert woken == [False, True]
    assert lane.take(10) == [0, 1, 2, 3, 4]
    assert lane.attention == 0


async def test_lane_waits_until_what_was_asked_for_is_settled() -> None:
    lane = make_lane()
    lane.kept.extend([1, 2])
    lane.take(2)
    assert not lane.wait_settled(2, time.monotonic() + 0.05)
    asyncio.get_running_loop().call_later(0.05, lambda: lane.landed(0, acknowledged=2))
    assert await asyncio.to_thread(lane.wait_settled, 2, time.monotonic() + 5)


def test_lag_is_the_age_of_the_oldest_batch_without_an_answer() -> None:
    lane = make_lane()
    assert lane.metrics()["lag"] == 0.0
    lane.flown(1, 2)
    time.sleep(0.02)
    lane.flown(2, 2)
    assert lane.metrics()["lag"] >= 0.02
    lane.landed(1, acknowledged=2)
    assert lane.metrics()["lag"] < 0.02
