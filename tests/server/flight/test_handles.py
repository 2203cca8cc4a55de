"""Handles are bounded, belong to a user and end."""

from __future__ import annotations

import pytest

from tickflight_server.errors import CrowdedError, InputError, NotFoundError
from tickflight_server.flight.handles import Handles


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_us(self) -> int:
        return 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handles(clock: Clock) -> Handles[int]:
    return Handles("thing", clock, most=3, idle_s=10)


def test_value_is_found_by_its_user(handles: Handles[int]) -> None:
    handle = handles.add("ada", 7)
    assert handles.get("ada", handle) == 7
    assert len(handle) == 16


def test_handle_of_another_user_is_as_good_as_none(handles: Handles[int]) -> None:
    handle = handles.add("ada", 7)
    with pytest.raises(NotFoundError) as theirs:
        handles.get("bob", handle)
    with pytest.raises(NotFoundError) as unknown:
        handles.get("bob", b"x")
    assert str(theirs.value) == str(unknown.value) == "there is no such thing, or it has ended. Hint: Make it anew."
    assert not handles.remove("bob", handle)
    assert handles.get("ada", handle) == 7


def test_removed_handle_is_gone(handles: Handles[int]) -> None:
    handle = handles.add("ada", 7)
    assert handles.remove("ada", handle)
    assert not handles.remove("ada", handle)
    with pytest.raises(NotFoundError):
        handles.get("ada", handle)


def test_longest_unused_goes_when_there_are_too_many(handles: Handles[int]) -> None:
    first, second, third = (handles.add("ada", i) for i in range(3))
    handles.get("ada", first)
    fourth = handles.add("ada", 3)
    assert [handles.get("ada", h) for h in (first, third, fourth)] == [0, 2, 3]
    with pytest.raises(NotFoundError):
        handles.get("ada", second)


def test_handle_ends_when_unused_and_lives_while_used(handles: Handles[int], clock: Clock) -> None:
    used, unused = handles.add("ada", 1), handles.add("ada", 2)
    for _ in range(3):
        clock.seconds += 6
        handles.get("ada", used)
    with pytest.raises(NotFoundError):
        handles.get("ada", unused)
    handles.add("ada", 3)
    assert len(handles._entries) == 2


def test_what_goes_unused_or_is_too_many_is_told_once(clock: Clock) -> None:
    ended: list[int] = []
    handles: Handles[int] = Handles("thing", clock, most=2, idle_s=10, ended=ended.append)
    for number in range(3):
        kept = handles.add("ada", number)
    assert ended == [0]
    handles.remove("ada", kept)
    clock.seconds += 11
    handles.sweep()
    handles.sweep()
    assert ended == [0, 1]
    assert handles._entries == {}


def test_handle_that_a_user_made_up_keeps_the_first_value(handles: Handles[int]) -> None:
    assert handles.keep("ada", b"mine", 7) == 7
    assert handles.keep("ada", b"mine", 8) == 7
    assert handles.find("ada", b"mine") == 7
    assert handles.remove("ada", b"mine")


@pytest.mark.parametrize("handle", [b"", b"x" * 65, b"theirs"])
def test_handle_that_is_taken_or_of_the_wrong_length_is_refused(handles: Handles[int], handle: bytes) -> None:
    handles.keep("bob", b"theirs", 1)
    with pytest.raises(InputError, match="the id of"):
        handles.keep("ada", handle, 7)
    assert handles.find("bob", b"theirs") == 1


def test_handles_that_users_make_up_are_bounded(handles: Handles[int], clock: Clock) -> None:
    for number in range(10):
        handles.keep("ada", bytes([number]), number)
    assert handles.values() == [7, 8, 9]
    clock.seconds = 11
    handles.sweep()
    assert handles.values() == []


def test_nobodys_go_because_another_made_too_many(clock: Clock) -> None:
    handles: Handles[int] = Handles("thing", clock, most=10, idle_s=10)
    kept = [handles.add("quiet", number) for number in range(3)]
    for number in range(100):
        handles.add("busy", number)
    assert [handles.get("quiet", handle) for handle in kept] == [0, 1, 2]
    assert len(handles.values()) == 10
    handles.add("third", 7)
    assert len(handles.values()) == 10
    assert [handles.get("quiet", handle) for handle in kept] == [0, 1, 2]


def test_of_too_many_of_a_users_own_the_oldest_goes_or_the_new_one_is_refused(clock: Clock) -> None:
    ended: list[int] = []
    handles: Handles[int] = Handles("thing", clock, most=10, idle_s=10, ended=ended.append)
    kept = [handles.add("ada", number, 3) for number in range(5)]
    assert ended == [0, 1]
    with pytest.raises(CrowdedError, match=r"^resource exhausted \(limits\.things\): you keep 3 things"):
        handles.add("ada", 5, 3, refuse="limits.things")
    handles.remove("ada", kept[-1])
    handles.add("ada", 5, 3, refuse="limits.things")
    handles.keep("ada", b"mine", 6, 3)
    assert ended == [0, 1, 2]
    handles.add("bob", 7, 3, refuse="limits.things")
    clock.seconds = 11
    handles.add("ada", 8, 1, refuse="limits.things")
    assert handles.values() == [8]
