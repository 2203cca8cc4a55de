"""The keeper: rows go when their table's time is over, nothing pinned or unflushed does, and it never hurries."""

from __future__ import annotations

from typing import Any

import pytest

from tickflight_server.errors import StorageError
from tickflight_server.store import keeper as keeper_module
from tickflight_server.store.partition import DAY_US

DAY_S = 86_400


@pytest.fixture
def aged(open_store: Any, trades: Any, clock: Any) -> Any:
    """Return a store that keeps trades for 10 days, with a part each of 30, 20, and 5 days ago, and its times."""
    store = open_store(clock=clock, retention_days={"trades": 10})
    today = clock.now_us() // DAY_US * DAY_US
    for i, days in enumerate((30, 20, 5)):
        store.append("trades", trades(10, i * 10, t0=today - days * DAY_US)).result(20)
        store.flush()
    while store.tables["trades"].release_oldest():
        pass
    return store


def seqs(rows: list[tuple[int, Any]]) -> list[int]:
    return [seq for seq, _ in rows]


def test_parts_whose_rows_are_all_too_old_go(aged: Any, rows_of: Any, clock: Any, open_store: Any) -> None:
    snapshot = aged.snapshot("trades")
    assert aged.keeper.retain() == 2
    assert seqs(rows_of(aged)) == list(range(21, 31))
    assert aged.keeper.retain() == 0
    assert aged.metrics.read()["rows_expired"] == 20
    assert len(snapshot.parts) == 3
    aged.open_parts(snapshot, snapshot.parts)
    clock.ahead_s = 6 * DAY_S
    assert aged.keeper.retain() == 1
    assert rows_of(aged) == []
    aged.close()
    assert rows_of(open_store()) == []


def test_new_rows_go_on_after_those_that_went(aged: Any, trades: Any, open_store: Any, clock: Any) -> None:
    clock.ahead_s = 30 * DAY_S
    assert aged.keeper.retain() == 3
    aged.close()
    again = open_store()
    assert again.append("trades", trades(1)).result(20).first_seq == 31


def test_a_part_with_one_row_that_is_kept_stays_whole(open_store: Any, trades: Any, rows_of: Any, clock: Any) -> None:
    store = open_store(clock=clock, retention_days={"*": 1})
    midnight = clock.now_us() // DAY_US * DAY_US
    store.append("trades", trades(24, t0=midnight - DAY_US, step_us=DAY_US // 24)).result(20)
    store.flush()
    store.tables["trades"].release_oldest()
    clock.ahead_s = (midnight + 23 * 3_600_000_000 - 1_000_000 - clock.now_us()) / 1e6
    assert store.keeper.retain() == 0
    clock.ahead_s += 2
    assert store.keeper.retain() == 1


def test_a_table_without_days_keeps_all(open_store: Any, put_parts: Any) -> None:
    store = open_store(retention_days={"ticker": 1})
    put_parts(store, 2)
    assert store.keeper.retain() == 0


@pytest.mark.parametrize(("pin", "gone"), [(0, 2), (9, 1), (10, 1), (11, 0), (20, 0)])
def test_pinned_rows_stay(aged: Any, pin: int, gone: int) -> None:
    """A pin at seq n reads the rows up to n; a part with one of them stays."""
    aged.keeper._pinned = lambda name: pin if name == "trades" else 10**9
    assert aged.keeper.retain() == {0: 2, 9: 1, 10: 1, 11: 0, 20: 0}[pin] == gone


def test_a_part_that_the_log_may_still_give_back_stays(open_store: Any, trades: Any, rows_of: Any, clock: Any) -> None:
    store = open_store(clock=clock, retention_days={"trades": 10}, flush_files_max=1)
    store.append("trades", trades(100, symbols=("A", "B"))).result(20)
    table = store.tables["trades"]
    table.flush("memory", keep_bytes=table.state.unflushed_bytes * 3 // 4)
    state = table.state
    assert (len(state.parts), state.flushed_seq, state.target) in [(1, 0, 100), (1, 1, 100)]
    while table.release_oldest():
        pass
    assert table.state.ring_from == 100
    assert store.keeper.retain() == 0
    store.flush()
    assert store.keeper.retain() == 2
    assert rows_of(store) == []
    store.close(flush=False)
    assert rows_of(open_store()) == [], "the log does not bring them back"


def test_a_part_whose_rows_memory_still_has_stays(open_store: Any, trades: Any, rows_of: Any) -> None:
    store = open_store(retention_days={"trades": 10})
    store.append("trades", trades(10)).result(20)
    store.flush()
    assert store.keeper.retain() == 0
    assert len(rows_of(store)) == 10


def test_what_a_retention_whose_commit_failed_did_is_found_out(
    aged: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch, open_store: Any
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tickflight_server.store.catalog.sync_version", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            aged.keeper.retain()
    assert len(rows_of(aged)) == 30
    assert aged.keeper.retain() == 0
    assert seqs(rows_of(aged)) in (list(range(1, 31)), list(range(21, 31)))
    aged.keeper.retain()
    assert seqs(rows_of(aged)) == list(range(21, 31))
    aged.close()
    assert seqs(rows_of(open_store())) == list(range(21, 31))


# --- in the background


def test_it_compacts_retains_and_vacuums_by_itself(
    open_store: Any, put_parts: Any, wait_for: Any, rows_of: Any, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    monkeypatch.setattr(keeper_module, "_TICK_S", 0.01)
    store = open_store(clock=clock, compact_parts_min=2, compact_share=1, vacuum_hours=24, keep_interval_seconds=0.01)
    put_parts(store, 4)
    wait_for(lambda: len(store.tables["trades"].state.parts) == 1, "a compaction")
    clock.ahead_s = 25 * 3_600
    wait_for(lambda: store.metrics.read().get("files_vacuumed", 0) >= 3, "a vacuum")
    assert rows_of(store) == [(i + 1, float(i)) for i in range(40)]


def test_with_no_share_it_leaves_compaction_alone(
    open_store: Any, put_parts: Any, trades: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_TICK_S", 0.01)
    store = open_store(
        compact_parts_min=2, compact_share=0, retention_days={"liquidations": 1}, keep_interval_seconds=0.01
    )
    store.append("liquidations", trades(5).select(["exchange", "symbol", "timestamp"])).result(20)
    put_parts(store, 3)
    store.tables["liquidations"].release_oldest()
    wait_for(lambda: len(store.tables["liquidations"].state.parts) == 0, "retention")
    assert len(store.tables["trades"].state.parts) == 3


def test_it_waits_while_flushes_are_behind(
    open_store: Any, put_parts: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_TICK_S", 0.01)
    store = open_store(compact_parts_min=2, compact_share=1)
    asked: list[bool] = []
    store.keeper._behind = lambda: asked.append(True) or len(asked) < 20
    put_parts(store, 3)
    wait_for(lambda: len(store.tables["trades"].state.parts) == 1, "a compaction after the flushes")
    assert len(asked) >= 20


def test_it_does_not_wait_for_ever_while_flushes_are_behind(
    open_store: Any, put_parts: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_TICK_S", 0.01), ("_BEHIND_MAX_S", 0.05)):
        monkeypatch.setattr(keeper_module, name, value)
    store = open_store(compact_parts_min=2, compact_share=1)
    store.keeper._behind = lambda: True
    put_parts(store, 3)
    wait_for(lambda: len(store.tables["trades"].state.parts) == 1, "a compaction all the same")


def test_a_failure_is_told_and_what_it_does_is_tried_again(
    open_store: Any, put_parts: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_TICK_S", 0.01), ("_RETRY_S", 0.01)):
        monkeypatch.setattr(keeper_module, name, value)
    store = open_store(compact_parts_min=2, compact_share=1)

    def fail(*_: Any) -> None:
        raise ValueError("nobody foresaw this")

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "merge_parts", fail)
        put_parts(store, 3)
        wait_for(lambda: store.metrics.read().get("compaction_failures", 0) >= 2, "two failures")
        condition = next(c for c in store.health.conditions() if c.component == "compaction")
        assert (condition.state, "nobody foresaw this" in condition.detail) == ("degraded", True)
    wait_for(lambda: len(store.tables["trades"].state.parts) == 1, "a compaction after the failures")
    wait_for(lambda: store.health.state == "ok", "the end of the alert")


def test_a_damaged_part_does_not_stop_the_rest(
    open_store: Any, put_parts: Any, trades: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_TICK_S", 0.01), ("_RETRY_S", 0.01)):
        monkeypatch.setattr(keeper_module, name, value)
    store = open_store(
        compact_parts_min=2, compact_share=1, retention_days={"liquidations": 1}, keep_interval_seconds=0.01
    )
    store.keeper._behind = lambda: True
    store.append("liquidations", trades(5).select(["exchange", "symbol", "timestamp"])).result(20)
    put_parts(store, 2)
    store.tables["liquidations"].release_oldest()
    path = store.root / "trades" / store.tables["trades"].state.parts.path[0]
    path.write_bytes(path.read_bytes()[:100])
    store.keeper._behind = lambda: False
    wait_for(lambda: store.metrics.read().get("compaction_failures", 0) >= 3, "some rounds")
    assert len(store.tables["liquidations"].state.parts) == 0


def test_closing_ends_it_between_two_jobs(open_store: Any, put_parts: Any, rows_of: Any) -> None:
    store = open_store(compact_parts_min=2, compact_share=0.25)
    put_parts(store, 3, symbols=("A", "B", "C"))
    store.close()
    assert not store.keeper._thread.is_alive()
    assert len(rows_of(open_store())) == 30
