from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sql_here import SqlHere

from tickflight_server.errors import InputError, PermissionDeniedError, ServerError
from tickflight_server.query.engine import Engine
from tickflight_server.query.session import SqlSession


class Known:
    """What there is, without an engine."""

    def schemas(self) -> set[str]:
        return {"workspace", "market", "own", 'odd "one"'}

    def zone(self, name: str) -> str | None:
        return {"europe/berlin": "Europe/Berlin", "utc": "UTC"}.get(name.lower())


def unused() -> Any:
    raise AssertionError("options need no connection")


@pytest.fixture
def session() -> SqlSession:
    return SqlSession(unused, 0.1)


@pytest.mark.parametrize(
    ("sql", "name", "value"),
    [
        ("SET TimeZone = 'Europe/Berlin'", "timezone", "Europe/Berlin"),
        ("set time zone 'europe/berlin'", "timezone", "Europe/Berlin"),
        ("SET SESSION timezone TO 'Europe/Berlin';", "timezone", "Europe/Berlin"),
        ("SET /* a */ timezone -- b\n = 'Europe/Berlin'", "timezone", "Europe/Berlin"),
        ("SET statement_timeout = 1500", "statement_timeout", 1500.0),
        ("SET statement_timeout TO '1.5s'", "statement_timeout", 1500.0),
        ("SET statement_timeout = '2min'", "statement_timeout", 120_000.0),
        ("SET statement_timeout = 0", "statement_timeout", None),
        ("USE own", "schema", "own"),
        ("USE tickflight.own", "schema", "own"),
        ("USE tickflight", "schema", "workspace"),
        ('USE "own"', "schema", "own"),
        ("SET schema = 'own'", "schema", "own"),
        ("SET search_path TO own, market", "schema", "own"),
        ("SET snapshot = 'abc'", "snapshot", "abc"),
    ],
)
def test_texts_set_options_and_reset_puts_the_default_back(
    session: SqlSession, sql: str, name: str, value: object
) -> None:
    defaults = session.told()
    session.run_setting(sql, Known())
    assert session.told().get(name) == value
    session.run_setting(f"RESET {name}", Known())
    assert session.told() == defaults


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SET threads = 1", PermissionDeniedError),
        ("SET GLOBAL timezone = 'UTC'", PermissionDeniedError),
        ("SET VARIABLE __now = 1", PermissionDeniedError),
        ("RESET memory_limit", PermissionDeniedError),
        ("SET timezone = 'Nowhere'", InputError),
        ("SET timezone = 'UTC'' ; SET threads=1 --'", InputError),
        ("SET statement_timeout = 'soon'", InputError),
        ("SET statement_timeout = -1", InputError),
        ("USE nope", InputError),
        ("SET catalog = 'memory'", InputError),
    ],
)
def test_other_settings_and_values_are_refused_and_change_nothing(
    session: SqlSession, sql: str, kind: type[ServerError]
) -> None:
    before = session.options
    with pytest.raises(kind):
        session.run_setting(sql, Known())
    assert session.options == before


@given(st.text(max_size=40))
def test_any_text_is_an_option_or_an_error_of_the_callers(text: str) -> None:
    session = SqlSession(unused, 0.1)
    for sql in (text, f"SET {text}", f"SET timezone = {text}", f"USE {text}", f"RESET {text}"):
        try:
            session.run_setting(sql, Known())
        except (PermissionDeniedError, InputError):
            continue
    assert session.options.schema in Known().schemas()
    assert session.options.timezone in {"UTC", "Europe/Berlin"}


@pytest.fixture
def pair(engine: Engine) -> Iterator[tuple[SqlHere, SqlSession, SqlSession]]:
    first, second = engine.session(), engine.session()
    yield SqlHere(engine), first, second
    first.close()
    second.close()


def test_options_and_temporary_tables_are_the_sessions_own(pair: tuple[SqlHere, SqlSession, SqlSession]) -> None:
    here, first, second = pair
    here.write("CREATE SCHEMA own")
    here.write("CREATE TABLE own.t AS SELECT 1 AS x")
    here.write("USE own", first)
    here.write("SET TimeZone = 'Asia/Tokyo'", first)
    here.write("CREATE TEMP TABLE mine AS SELECT 2 AS x", first)
    zone = "SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00'::VARCHAR"
    assert here.rows("SELECT t.x, mine.x FROM t, mine", first) == [(1, 2)]
    assert here.rows(zone, first) == [("2026-01-01 09:00:00+09",)]
    assert here.rows(zone, second) == [("2026-01-01 00:00:00+00",)]
    for sql in ("FROM t", "FROM mine"):
        with pytest.raises(ServerError, match="does not exist"):
            here.rows(sql, second)
