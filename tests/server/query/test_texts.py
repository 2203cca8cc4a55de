"""What is kept of texts: the same as reading them again, and nothing of one statement on the next one's connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tickflight_server.query import texts
from tickflight_server.query.engine import Engine
from tickflight_server.query.texts import Recent

MakeEngine = Callable[..., Engine]


def _value(engine: Engine, sql: str, parameters: object = ()) -> object:
    with engine.execute(engine.plan(sql, parameters)) as execution:  # type: ignore[arg-type]
        return next(iter(execution.reader.read_all().to_pylist()[0].values()))


def test_a_text_is_read_once(engine: Engine) -> None:
    assert engine.read("SELECT 7") is engine.read("SELECT 7")


def test_a_text_is_read_again_when_what_users_made_has_changed(engine: Engine) -> None:
    first = engine.read("SELECT 8")
    with engine.workspace.connection() as connection:
        engine.workspace.refresh(connection)
    assert engine.read("SELECT 8") is not first


def test_recent_forgets_the_longest_unused_text_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "TEXTS_MAX", 2)
    recent: Recent[int] = Recent()
    recent.put("a", 0, 1)
    recent.put("b", 0, 2)
    assert recent.get("a", 0) == 1
    recent.put("c", 0, 3)
    assert (recent.get("a", 0), recent.get("b", 0), recent.get("c", 0)) == (1, None, 3)
    assert recent.get("a", 1) is None


def test_texts_that_are_kept_are_not_long_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "CHARS_MAX", 10)
    recent: Recent[int] = Recent()
    for _ in range(3):  # the same text counts once
        recent.put("aaaa", 0, 1)
        recent.put("bbbb", 0, 2)
    assert recent.get("aaaa", 0) == 1
    recent.put("ccc", 0, 3)
    assert (recent.get("aaaa", 0), recent.get("bbbb", 0), recent.get("ccc", 0)) == (1, None, 3)
    recent.put("ddd", 0, 4)
    assert recent.get("aaaa", 0) == 1


def test_texts_that_are_very_long_are_not_kept() -> None:
    recent: Recent[int] = Recent()
    recent.put("x" * (texts.TEXT_CHARS_MAX + 1), 0, 1)
    assert recent.get("x" * (texts.TEXT_CHARS_MAX + 1), 0) is None


@pytest.mark.parametrize(
    "sql",
    ["SELECT ago(INTERVAL 1 DAY)", "SELECT current_timestamp", "SELECT now()", "SELECT today()", "SELECT current_date"],
)
def test_what_tells_the_time_is_known_to(engine: Engine, sql: str) -> None:
    statement = engine.read(sql)
    assert statement.asks_now is True


def test_what_does_not_is_known_not_to(engine: Engine) -> None:
    assert engine.read("SELECT 1 + ?").asks_now is False
    assert engine.read("SELECT count(*) FROM trades WHERE price > 1").asks_now is False


def test_a_random_sequence_begun_by_one_statement_is_not_the_next_ones(engine: Engine) -> None:
    found = set()
    for _ in range(3):
        _value(engine, "SELECT setseed(0.5)")
        found.add(_value(engine, "SELECT random()"))
    assert len(found) == 3


def test_a_result_that_somebody_still_holds_is_in_nobodys_way(engine: Engine) -> None:
    first = engine.execute(engine.plan("SELECT * FROM range(10_000_000)"))
    reader = first.reader
    reader.read_next_batch()
    first.close()
    assert _value(engine, "SELECT 5") == 5
    assert _value(engine, "SELECT 6") == 6
    del reader
    assert _value(engine, "SELECT 7") == 7


def test_stopping_an_execution_that_was_closed_stops_nothing_else(engine: Engine) -> None:
    stops: list[Callable[[], None]] = []
    with engine.execute(engine.plan("SELECT 1"), started=stops.append):
        pass
    with engine.execute(engine.plan("SELECT count(*) FROM range(1_000_000)")) as execution:
        for stop in stops:
            stop()
        assert execution.reader.read_all().num_rows == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM test_all_types()",
        "SELECT 1 AS a, 2 AS a",
        "SELECT now() AS n, now()::TIMESTAMPTZ AS z",
        "SELECT 'a'::ENUM('a', 'b') AS e, [1] AS l, {'a': 1} AS s, map{1: 2} AS m",
        "VALUES (1, 'x')",
        "SELECT 1.5::DECIMAL(9, 2) * 3 AS d",
    ],
)
def test_columns_that_the_binder_tells_are_those_of_the_result(engine: Engine, sql: str) -> None:
    plan = engine.plan(sql)
    with engine.execute(plan) as execution:
        assert execution.reader.schema.equals(plan.schema, check_metadata=True)


@pytest.mark.parametrize("value", [1, 2**40, 1.5, "x", True, None, [1, 2]])
def test_columns_follow_the_bound_values(engine: Engine, value: object) -> None:
    plan = engine.plan("SELECT ? AS a", [value])
    with engine.execute(plan) as execution:
        assert execution.reader.schema.equals(plan.schema, check_metadata=True)
