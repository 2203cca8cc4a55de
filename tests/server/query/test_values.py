"""Typed values reach the engine as constants of their type."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from tickflight_server.query.engine import Engine
from tickflight_server.query.filters import Compare
from tickflight_server.query.values import TypedValue, engine_value, plain


def test_typed_value_has_its_type_in_the_engine(engine: Engine) -> None:
    plan = engine.plan("SELECT ? AS a, ? AS b", [TypedValue(5, "TINYINT"), TypedValue("1.50", "DECIMAL(9,3)")])
    assert plan.schema.types == [pa.int8(), pa.decimal128(9, 3)]


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2),
        datetime(2026, 1, 2, tzinfo=UTC),
        date(2026, 1, 2),
        TypedValue("2026-01-02 00:00:00", "TIMESTAMP"),
        TypedValue("2026-01-02 00:00:00", "TIMESTAMP_S"),
        TypedValue("2026-01-02 00:00:00", "TIMESTAMP_MS"),
        TypedValue("2026-01-02", "DATE"),
    ],
    ids=str,
)
def test_filter_on_a_bound_time_reaches_the_scan(engine: Engine, value: Any) -> None:
    plan = engine.plan("SELECT price FROM trades WHERE timestamp >= ?", [value])
    assert plan.filters["trades"] == [Compare(">=", "timestamp", 1_767_312_000_000_000)]


@pytest.mark.parametrize("kind", ["TINYINT", "BIGINT", "UBIGINT", "HUGEINT"])
def test_filter_on_a_bound_number_reaches_the_scan(engine: Engine, kind: str) -> None:
    plan = engine.plan("SELECT price FROM trades WHERE seq > ?", [TypedValue(5, kind)])
    assert plan.filters["trades"] == [Compare(">", "seq", 5)]


def test_version_may_be_a_typed_value() -> None:
    assert plain(TypedValue(3, "BIGINT")) == 3
    assert plain("x") == "x"


def test_plain_values_stay_as_they_are() -> None:
    assert [engine_value(v) for v in (None, 1, "x", b"x", 1.5, True)] == [None, 1, "x", b"x", 1.5, True]
