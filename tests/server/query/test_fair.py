"""The fair queue: users take turns, and what one user has sent comes out in its order."""

from __future__ import annotations

from tickflight_server.query.fair import FairQueue


def _all(queue: FairQueue[str]) -> list[str]:
    found = []
    while (thing := queue.next()) is not None:
        found.append(thing)
    return found


def test_one_does_not_wait_for_all_of_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.put("busy", f"busy{number}")
    queue.put("quiet", "quiet0")
    assert _all(queue)[:3] == ["busy0", "quiet0", "busy1"]
    assert len(queue) == 0


def test_users_take_turns_in_the_order_of_their_own() -> None:
    queue: FairQueue[str] = FairQueue()
    for thing in ("a1", "a2", "b1", "c1", "b2", "a3"):
        queue.put(thing[0], thing)
    assert _all(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_may_not_is_passed_over_and_keeps_the_place() -> None:
    queue: FairQueue[str] = FairQueue()
    for thing in ("a1", "a2", "b1"):
        queue.put(thing[0], thing)
    assert queue.next(lambda user, _: user != "a") == "b1"
    assert queue.next(lambda user, _: user != "a") is None
    assert _all(queue) == ["a1", "a2"]


def test_what_is_taken_out_does_not_come() -> None:
    queue: FairQueue[str] = FairQueue()
    for thing in ("a1", "a2", "b1"):
        queue.put(thing[0], thing)
    assert queue.remove("a", "a1")
    assert not queue.remove("a", "a1")
    assert not queue.remove("z", "a1")
    assert (len(queue), queue.of("a"), queue.of("z")) == (2, 1, 0)
    assert _all(queue) == ["a2", "b1"]
