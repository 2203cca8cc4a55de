"""A pin holds until its end and through restarts, and memory never says what the disk does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stopped_clock import StoppedClock

from tickflight_server.errors import BusyError, InputError, NotFoundError, StorageError, TooLargeError
from tickflight_server.store import pins as pins_module
from tickflight_server.store.pins import Pin, PinBoard

CUTS = {"trades": 41, "ticker": 7}


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def make(tmp_path: Path, clock: StoppedClock) -> Callable[..., PinBoard]:
    return lambda **limits: PinBoard(tmp_path / "_tickflight", clock, **limits)


def test_pin_survives_a_restart(make: Callable[..., PinBoard], clock: StoppedClock) -> None:
    board = make()
    pin = board.create(CUTS, 60)
    assert pin == Pin(pin.id, CUTS, clock.us, clock.us + 60_000_000)
    assert pin.id.isalnum()
    assert make().get(pin.id) == board.get(pin.id) == pin
    assert make().active() == (pin,)


def test_pin_ends_at_its_time_and_not_before(make: Callable[..., PinBoard], clock: StoppedClock) -> None:
    board = make()
    pin = board.create(CUTS, 60)
    clock.us += 59_999_999
    assert board.get(pin.id) == pin
    assert board.protected_seq("trades") == 41
    clock.us += 1
    for same in (board, make()):
        with pytest.raises(NotFoundError, match=f"no snapshot '{pin.id}', or it has ended"):
            same.get(pin.id)
        with pytest.raises(NotFoundError):
            same.renew(pin.id, 60)
        assert same.active() == ()
        assert same.protected_seq("trades") == 0
        assert not same.release(pin.id)


def test_renewed_pin_ends_from_now_on(make: Callable[..., PinBoard], clock: StoppedClock) -> None:
    board = make()
    pin = board.create(CUTS, 60)
    clock.us += 50_000_000
    renewed = board.renew(pin.id, 60)
    assert (renewed.id, renewed.cuts, renewed.created_us) == (pin.id, CUTS, pin.created_us)
    assert renewed.expires_us == clock.us + 60_000_000
    assert make().get(pin.id) == renewed
    assert board.renew(pin.id, 1).expires_us == clock.us + 1_000_000


def test_released_pin_is_gone_also_after_a_restart(make: Callable[..., PinBoard]) -> None:
    board = make()
    pin, other = board.create(CUTS, 60), board.create({"trades": 5}, 60)
    assert board.release(pin.id)
    assert not board.release(pin.id)
    assert board.active() == make().active() == (other,)
    assert board.protected_seq("trades") == 5


def test_largest_pinned_row_is_protected(make: Callable[..., PinBoard], clock: StoppedClock) -> None:
    board = make()
    board.create({"trades": 9, "ticker": 1}, 60)
    board.create({"trades": 5, "ticker": 3}, 120)
    assert [board.protected_seq(t) for t in ("trades", "ticker", "candles")] == [9, 3, 0]
    clock.us += 60_000_000
    assert [board.protected_seq(t) for t in ("trades", "ticker", "candles")] == [5, 3, 0]


def test_limits_are_kept(make: Callable[..., PinBoard], clock: StoppedClock) -> None:
    board = make(pins_max=2, seconds_max=100)
    first = board.create(CUTS, 100)
    board.create(CUTS, 50)
    with pytest.raises(BusyError, match=r"lakehouse\.pins_max"):
        board.create(CUTS, 1)
    for seconds in (0, -1):
        with pytest.raises(InputError, match="1 second"):
            board.create(CUTS, seconds)
    for call in (lambda: board.create(CUTS, 101), lambda: board.renew(first.id, 101)):
        with pytest.raises(TooLargeError, match=r"lakehouse\.pin_seconds_max \(100\)"):
            call()
    clock.us += 50_000_000
    assert board.create(CUTS, 1)


def test_expired_pins_leave_the_file(make: Callable[..., PinBoard], clock: StoppedClock, tmp_path: Path) -> None:
    board = make()
    board.create(CUTS, 1)
    clock.us += 1_000_000
    kept = board.create(CUTS, 1)
    document = json.loads((tmp_path / "_tickflight" / "pins.json").read_text())
    assert [p["id"] for p in document["pins"]] == [kept.id]


@pytest.mark.parametrize("call", ["replace", "fsync", "sync_folder"])
def test_pin_that_could_not_be_written_is_none(
    make: Callable[..., PinBoard], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    board = make()
    pin = board.create(CUTS, 60)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "sync_folder":
            patch.setattr(pins_module, "sync_folder", fail)
        elif call == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(os, "fsync", fail)
        for change in (lambda: board.create(CUTS, 60), lambda: board.release(pin.id), lambda: board.renew(pin.id, 1)):
            with pytest.raises(StorageError, match="No space left"):
                change()
        assert board.active() == (pin,)
    assert not (tmp_path / "_tickflight" / "pins.new").exists()
    board.renew(pin.id, 70)
    assert make().active() == board.active()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 2, "pins": []}', '{"format": 1}', '{"format": 1, "pins": [{}]}', "é\udce9"],
)
def test_damaged_file_is_refused(make: Callable[..., PinBoard], tmp_path: Path, text: str) -> None:
    make().create(CUTS, 60)
    (tmp_path / "_tickflight" / "pins.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StorageError, match=r"_tickflight/pins\.json cannot be read") as caught:
        make()
    assert "backup" in str(caught.value)


def test_file_is_its_owners_alone(make: Callable[..., PinBoard], tmp_path: Path) -> None:
    make().create(CUTS, 60)
    assert (tmp_path / "_tickflight" / "pins.json").stat().st_mode & 0o077 == 0


steps = st.lists(st.tuples(st.sampled_from(["create", "renew", "release", "wait"]), st.integers(0, 5)), max_size=20)


@settings(deadline=None)
@given(steps)
def test_file_and_memory_agree_after_any_calls(
    tmp_path_factory: pytest.TempPathFactory, taken: list[tuple[str, int]]
) -> None:
    folder, clock = tmp_path_factory.mktemp("pins"), StoppedClock()
    board = PinBoard(folder, clock, pins_max=4)
    ends: dict[str, int] = {}  # pin → µs
    for step, number in taken:
        alive = [pin for pin, end in ends.items() if end > clock.us]
        if step == "wait":
            clock.us += number * 1_000_000
        elif step == "create" and len(alive) < 4:
            ends[board.create({"trades": number}, number + 1).id] = clock.us + (number + 1) * 1_000_000
        elif alive and step == "renew":
            board.renew(alive[number % len(alive)], 3)
            ends[alive[number % len(alive)]] = clock.us + 3_000_000
        elif alive and step == "release":
            assert board.release(alive[number % len(alive)])
            del ends[alive[number % len(alive)]]
        again = PinBoard(folder, clock)
        assert board.active() == again.active()
        assert {p.id: p.expires_us for p in again.active()} == {p: e for p, e in ends.items() if e > clock.us}
        assert board.protected_seq("trades") == max((p.cuts["trades"] for p in board.active()), default=0)
