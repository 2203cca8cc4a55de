"""SetSessionOptions, GetSessionOptions and CloseSession, and ListActions."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from by_hand import ByHand, refused
from flight_here import FlightHere
from pyarrow import flight

from tickflight.wire.actions import ACTIONS, SetSessionOptionsRequest
from tickflight.wire.enums import CloseSessionStatus, ErrorValue

DEFAULTS = {"catalog": "tickflight", "schema": "workspace", "timezone": "UTC"}


def set_options(client: ByHand, **options: Any) -> dict[str, ErrorValue]:
    return dict(client.act("SetSessionOptions", SetSessionOptionsRequest(options)).errors)


def told(client: ByHand) -> dict[str, Any]:
    return dict(client.act("GetSessionOptions").session_options)


def test_options_have_values_before_any_is_set(ada: ByHand) -> None:
    assert told(ada) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("schema", "market", "market"),
        ("timezone", "Europe/Berlin", "Europe/Berlin"),
        ("timezone", "europe/berlin", "Europe/Berlin"),
        ("statement_timeout", 500, 500.0),
        ("statement_timeout", "2s", 2000.0),
        ("statement_timeout", 1.5, 1.5),
        ("catalog", "tickflight", "tickflight"),
    ],
)
def test_option_is_set_told_and_erased(ada: ByHand, name: str, value: Any, expected: Any) -> None:
    assert set_options(ada, **{name: value}) == {}
    assert told(ada) == {**DEFAULTS, name: expected}
    assert set_options(ada, **{name: None}) == {}
    assert told(ada) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("schema", "nix", ErrorValue.INVALID_VALUE),
        ("schema", 7, ErrorValue.INVALID_VALUE),
        ("schema", ("market",), ErrorValue.INVALID_VALUE),
        ("schema", True, ErrorValue.INVALID_VALUE),
        ("catalog", "nix", ErrorValue.INVALID_VALUE),
        ("timezone", "Nix/Nix", ErrorValue.INVALID_VALUE),
        ("timezone", "UTC'; DROP TABLE x; --", ErrorValue.INVALID_VALUE),
        ("statement_timeout", -1, ErrorValue.INVALID_VALUE),
        ("statement_timeout", "soon", ErrorValue.INVALID_VALUE),
        ("statement_timeout", True, ErrorValue.INVALID_VALUE),
        ("statement_timeout", float("nan"), ErrorValue.INVALID_VALUE),
        ("statement_timeout", float("inf"), ErrorValue.INVALID_VALUE),
        ("snapshot", "nix", ErrorValue.INVALID_VALUE),
        ("threads", 4, ErrorValue.INVALID_NAME),
        ("", "x", ErrorValue.INVALID_NAME),
        ("x" * 100_000, "x", ErrorValue.INVALID_NAME),
    ],
    ids=lambda value: str(value)[:30],
)
def test_option_that_cannot_be_is_named_and_the_others_are_set(
    ada: ByHand, name: str, value: Any, error: ErrorValue
) -> None:
    other = {"timezone": "Asia/Tokyo"} if name != "timezone" else {"schema": "market"}
    assert set_options(ada, **{name: value}, **other) == {name: error}
    assert told(ada) == {**DEFAULTS, **other}


def test_no_options_are_no_error(ada: ByHand) -> None:
    assert set_options(ada) == {}


def test_options_are_the_sessions_own(ada: ByHand, bob: ByHand, closed: FlightHere) -> None:
    set_options(ada, timezone="Asia/Tokyo")
    assert told(bob) == DEFAULTS
    again = ByHand(closed.address, "token-of-ada")
    assert told(ada)["timezone"] == "Asia/Tokyo"
    assert told(again) == DEFAULTS, "a token that is configured is many clients', and each has a session"
    again.close()


def test_options_hold_for_statements(ada: ByHand) -> None:
    set_options(ada, timezone="Asia/Tokyo", schema="market")
    assert ada.rows("SELECT current_schema() AS s, extract(hour FROM TIMESTAMPTZ '2026-01-01 00:00:00Z') AS h") == [
        {"s": "market", "h": 9}
    ]
    set_options(ada, statement_timeout=50)
    with refused("DEADLINE_EXCEEDED", r"after its time limit of 0\.05 s"):
        ada.rows("SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1")


def test_close_ends_what_the_session_held(ada: ByHand) -> None:
    set_options(ada, timezone="Asia/Tokyo")
    ada.run("CREATE TEMP TABLE passing (a INT)")
    for _ in range(2):  # closing one that is none is no error
        assert ada.act("CloseSession").status == CloseSessionStatus.CLOSED
    assert told(ada) == DEFAULTS
    with refused("INVALID_ARGUMENT", "passing does not exist"):
        ada.rows("FROM passing")


def test_nobody_has_no_session(closed: FlightHere) -> None:
    for token in ("", "of-nobody"):
        nobody = ByHand(closed.address, token)
        for action in ("SetSessionOptions", "GetSessionOptions", "CloseSession", "BeginTransaction"):
            with refused("UNAUTHENTICATED", "Hint"):
                nobody.act(action)
        nobody.close()


def test_actions_that_are_listed_are_those_that_are_offered(ada: ByHand) -> None:
    listed = {found.type: found.description for found in ada.client.list_actions(ada.options)}
    assert set(ACTIONS) - set(listed) == {"BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan"}
    assert set(listed) <= set(ACTIONS)
    assert all(listed.values())
    for name in ACTIONS:
        try:
            list(ada.client.do_action(flight.Action(name, b"\xff"), ada.options))
        except NotImplementedError:
            assert name not in listed
        except ValueError:
            assert name in listed


def test_adbc_sets_and_reads_options(adbc_ada: adbc.Connection, ada: ByHand) -> None:
    adbc_ada.adbc_connection.set_options(**{"adbc.flight.sql.session.option.timezone": "Asia/Tokyo"})
    assert adbc_ada.adbc_connection.get_option("adbc.flight.sql.session.option.timezone") == "Asia/Tokyo"
    assert told(ada)["timezone"] == "UTC", "another client of the same token"
    assert adbc_ada.adbc_current_catalog == "tickflight"
    assert adbc_ada.adbc_current_db_schema == "workspace"
