"""Holes between neighbouring events of a symbol, found a batch at a time, wherever the batches are cut."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tickflight_server.feed.convert import convert
from tickflight_server.feed.finder import LINGER_US, Gap, GapFinder, Outage

T0 = 1_700_000_000_000_000
S = 1_000_000
STALL = 10 * S


def batch_of(*events: tuple[Any, ...], table: str = "trades") -> pa.RecordBatch:
    """Return a batch of ``(symbol, microseconds after T0)``, or with exchange, number and is_snapshot after it."""
    items = []
    for event in events:
        symbol, at, exchange, number, snapshot = (*event, *(None,) * (5 - len(event)))
        obj = SimpleNamespace(exchange=exchange or "X", symbol=symbol, timestamp=None)
        time = (T0 + at) / 1e6
        items.append((obj, time) if table == "trades" else (obj, time, None, number, None, bool(snapshot), (), ()))
    return convert(table, items).batch


def told(gaps: Any) -> list[tuple[str, str, int, int]]:
    return sorted((g.symbol, g.cause, round(g.start * 1e6) - T0, round(g.end * 1e6) - T0) for g in gaps)


def watching(*symbols: str, stall_us: int = STALL, table: str = "trades") -> GapFinder:
    finder = GapFinder(table, stall_us)
    finder.connected("X", frozenset(symbols), T0)
    return finder


def test_silence_above_the_threshold_is_a_hole_and_at_it_is_none() -> None:
    finder = watching("A", "B")
    assert told(finder.see(batch_of(("A", 1), ("B", 2), ("A", 1 + STALL), ("B", 3 + STALL)))) == [
        ("B", "stalled", 2, 3 + STALL)
    ]
    assert told(finder.see(batch_of(("A", 2 + 2 * STALL)))) == [("A", "stalled", 1 + STALL, 2 + 2 * STALL)]


def test_symbol_that_never_came_is_silent_since_the_connection_opened() -> None:
    finder = watching("A", "B")
    assert told(finder.see(batch_of(("A", STALL + 1)))) == [("A", "stalled", 0, STALL + 1)]
    assert finder.stalled(T0 + STALL + 2) == [("X", "B", T0)]
    assert told(finder.stop(T0 + STALL + 2)) == [("B", "stalled", 0, STALL + 2)]
    assert finder.stalled(T0 + 5 * STALL) == []


def test_rows_that_come_without_a_connection_do_not_stall() -> None:
    finder = GapFinder("trades", STALL)
    assert told(finder.see(batch_of(("A", 0), ("A", 5 * STALL)))) == []
    assert told(finder.stop(T0 + 99 * STALL)) == []


def test_connection_that_does_not_say_its_symbols_watches_those_that_come() -> None:
    finder = GapFinder("trades", STALL)
    list(finder.see(batch_of(("A", 0))))
    finder.connected("X", None, T0)
    assert told(finder.see(batch_of(("A", STALL + 1), ("B", STALL + 1), ("B", 3 * STALL), ("C", 0, "Y")))) == [
        ("A", "stalled", 0, STALL + 1),
        ("B", "stalled", STALL + 1, 3 * STALL),
    ]


def test_reconnect_is_a_hole_from_the_last_event_to_the_first_and_hides_the_silence() -> None:
    finder = watching("A", "B", "C")
    list(finder.see(batch_of(("A", 1), ("B", 2), ("C", 3))))
    outage = Outage("X", frozenset({"A", "B"}), T0 + 5, "Broken: pipe")
    finder.lost(outage)
    outage.open_us = T0 + 2 * STALL
    gaps = list(finder.see(batch_of(("A", 2 * STALL + 1), ("C", STALL), ("A", 2 * STALL + 2))))
    assert told(gaps) == [("A", "reconnect", 1, 2 * STALL + 1)]
    assert gaps[0].detail == ("Broken: pipe; lost 2023-11-14T22:13:20.000005Z, open again 2023-11-14T22:13:40.000000Z")
    assert told(finder.see(batch_of(("B", 2 * STALL + 3)))) == [("B", "reconnect", 2, 2 * STALL + 3)]
    assert told(finder.see(batch_of(("A", 2 * STALL + 4), ("B", 2 * STALL + 5)))) == []
    assert not finder._outages, "all have passed it"


def test_event_while_the_connection_is_away_shows_that_it_is_on_another() -> None:
    finder = watching("A")
    list(finder.see(batch_of(("A", 1))))
    finder.lost(Outage("X", None, T0 + 5, "gone", open_us=T0 + 50))
    assert told(finder.see(batch_of(("A", 20), ("A", 60)))) == []


def test_whole_outage_within_one_batch_is_found() -> None:
    finder = watching("A", "B")
    finder.lost(Outage("X", None, T0 + 5, "gone", open_us=T0 + 50))
    assert told(finder.see(batch_of(("A", 1), ("B", 2), ("A", 60), ("B", 70)))) == [
        ("A", "reconnect", 1, 60),
        ("B", "reconnect", 2, 70),
    ]


def test_two_outages_without_an_event_between_them_are_one_hole_with_both_reasons() -> None:
    finder = watching("A")
    list(finder.see(batch_of(("A", 1))))
    finder.lost(Outage("X", None, T0 + 5, "first", open_us=T0 + 50))
    finder.lost(Outage("X", None, T0 + 60, "second", open_us=T0 + 70))
    (gap,) = finder.see(batch_of(("A", 80)))
    assert told([gap]) == [("A", "reconnect", 1, 80)]
    assert "first" in gap.detail
    assert "second" in gap.detail


def test_symbol_that_stays_silent_after_a_reconnect_has_its_hole_end_with_the_opening() -> None:
    finder = watching("A", "B", stall_us=0)
    list(finder.see(batch_of(("A", 1), ("B", 2))))
    finder.lost(Outage("X", None, T0 + 5, "gone", open_us=T0 + 50))
    assert told(finder.see(batch_of(("A", 60)))) == [("A", "reconnect", 1, 60)]
    assert told(finder.see(batch_of(("A", LINGER_US + 51)))) == [("B", "reconnect", 2, 50)]
    assert told(finder.see(batch_of(("B", LINGER_US + 60)))) == []


def test_outage_that_lasts_when_the_feed_stops_ends_there() -> None:
    finder = watching("A")
    list(finder.see(batch_of(("A", 1))))
    finder.lost(Outage("X", None, T0 + 5, "gone"))
    (gap,) = finder.stop(T0 + 3 * STALL)
    assert told([gap]) == [("A", "reconnect", 1, 3 * STALL)]
    assert "not open again when the feed stopped" in gap.detail


def numbered(*events: tuple[Any, ...], exchange: str = "KRAKEN_FUTURES", finder: GapFinder | None = None) -> list[Gap]:
    finder = finder or GapFinder("l2_book", 0)
    rows = [(symbol, at, exchange, number, snapshot) for at, (symbol, number, snapshot) in enumerate(events)]
    return list(finder.see(batch_of(*rows, table="l2_book")))


def test_dense_numbers_that_jump_are_a_hole_of_that_symbol() -> None:
    (gap,) = numbered(("A", 7, True), ("B", 1, True), ("A", 8, False), ("B", 2, False), ("A", 11, False))
    assert told([gap]) == [("A", "sequence", 2, 4)]
    assert (gap.expected, gap.received, gap.detail) == (9, 11, "2 numbers are missing")


def test_numbers_that_repeat_go_back_begin_anew_or_are_missing_are_no_hole() -> None:
    assert numbered(("A", 7, False), ("A", 7, False), ("A", 3, False), ("A", 4, False)) == []
    assert numbered(("A", 7, False), ("A", 90, True), ("A", 91, False)) == []
    assert numbered(("A", 7, False), ("A", None, False), ("A", 90, False)) == []
    assert numbered(("A", (1 << 63) - 1, False), ("A", 0, False)) == []


def test_book_begun_anew_from_a_later_snapshot_is_a_hole_where_the_handler_does_that() -> None:
    events = (("A", 7, True), ("A", 12, False), ("A", 20, True), ("A", 31, False), ("A", 31, True), ("A", 40, False))
    (gap,) = numbered(*events, exchange="BINANCE")
    assert told([gap]) == [("A", "sequence", 1, 2)]
    assert (gap.expected, gap.received) == (13, 20)
    assert numbered(*events, exchange="DERIBIT") == []
    assert numbered(*((s, n, True) for s, n, _ in events), exchange="BINANCE") == [], "full books only"


def test_snapshot_of_a_new_connection_is_told_as_reconnect_alone() -> None:
    finder = GapFinder("l2_book", 0)
    finder.lost(Outage("BINANCE", None, T0 + 1, "gone", open_us=T0 + 2))
    gaps = numbered(("A", 7, True), ("A", 8, False), ("A", 20, True), exchange="BINANCE", finder=finder)
    assert told(gaps) == [("A", "reconnect", 1, 2)]


def test_numbers_are_forgotten_where_rows_went_another_way() -> None:
    finder = GapFinder("l2_book", 0)
    assert numbered(("A", 7, False), finder=finder) == []
    finder.forget_numbers()
    assert numbered(("A", 90, False), ("A", 91, False), finder=finder) == []


@st.composite
def streams(draw: Any) -> tuple[list[tuple[Any, ...]], list[int]]:
    """Draw events of a few symbols of two exchanges, and where to cut them into batches."""
    rows: list[tuple[Any, ...]] = []
    at = 0
    for _ in range(draw(st.integers(0, 40))):
        at += draw(st.sampled_from([0, 1, S // 2, S, S + 1]))  # less than LINGER_US together
        number = draw(st.one_of(st.none(), st.integers(0, 12)))
        exchange = draw(st.sampled_from(["KRAKEN_FUTURES", "BINANCE"]))
        rows.append((draw(st.sampled_from("ABC")), at, exchange, number, draw(st.booleans())))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    return rows, cuts


@given(streams())
def test_what_is_found_does_not_depend_on_where_batches_are_cut(drawn: Any) -> None:
    rows, cuts = drawn

    def find(edges: list[int]) -> list[Gap]:
        finder = GapFinder("l2_book", S)
        finder.connected("BINANCE", None, T0)
        finder.lost(Outage("BINANCE", frozenset("AB"), T0 + 2 * S, "gone", open_us=T0 + 3 * S))
        found = []
        for low, high in zip([0, *edges], [*edges, len(rows)], strict=True):
            found += finder.see(batch_of(*rows[low:high], table="l2_book"))
        return sorted(found, key=lambda g: (g.end, g.symbol, g.exchange, g.start, g.cause))

    assert (
        find(cuts) == find([]) == sorted(reference(rows), key=lambda g: (g.end, g.symbol, g.exchange, g.start, g.cause))
    )


def reference(rows: list[tuple[Any, ...]]) -> list[Gap]:
    """Find the same holes one event at a time."""
    before: dict[Any, tuple[Any, ...]] = {}
    found = []
    outage = Outage("BINANCE", frozenset("AB"), T0 + 2 * S, "gone", open_us=T0 + 3 * S)
    finder = GapFinder("l2_book", S)
    for row in rows:
        symbol, at, exchange, number, snapshot = row
        was, before[symbol, exchange] = before.get((symbol, exchange)), row
        if was is None:
            continue
        lowest, bounds = was[3], ((T0 + was[1]) / 1e6, (T0 + at) / 1e6)
        jumped = number is not None and lowest is not None and number > lowest
        if outage.concerns((exchange, symbol)) and was[1] <= 2 * S and at >= 3 * S:
            found.append(Gap(exchange, symbol, "l2_book", "reconnect", *bounds, outage.told()))
        elif jumped and exchange == "KRAKEN_FUTURES" and not snapshot and number > lowest + 1:
            detail = f"{number - lowest - 1} numbers are missing"
            found.append(Gap(exchange, symbol, "l2_book", "sequence", *bounds, detail, lowest + 1, number))
        elif jumped and exchange == "BINANCE" and snapshot and not was[4]:
            detail = "the book was begun anew from a snapshot, since deltas were missing"
            found.append(Gap(exchange, symbol, "l2_book", "sequence", *bounds, detail, lowest + 1, number))
        elif exchange == "BINANCE" and at - was[1] > S:
            found.append(
                Gap(exchange, symbol, "l2_book", "stalled", *bounds, f"no event for {(at - was[1]) / 1e6:.1f} s")
            )
    assert finder.stalled(T0) == []
    return found
