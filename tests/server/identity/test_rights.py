"""What roles permit, alone and together."""

from __future__ import annotations

import pytest

from tickflight_server.config import ReadGrant, RoleLimits, RoleSettings
from tickflight_server.errors import ConfigError
from tickflight_server.identity.rights import ALL, DAY_US, Rights, Roles, TableRights
from tickflight_server.schemas import STORED


def rights(*grants: ReadGrant, **more) -> Rights:
    return Roles({"r": RoleSettings(read=grants, **more)}).rights(["r"])


def test_a_role_that_gives_nothing_permits_nothing():
    found = rights()
    assert found.tables == ()
    assert not found.write
    assert not found.system
    assert found.workspace is None
    assert not found.all_rows


def test_who_sees_all_rows_shares_what_there_is():
    admin, user = Roles({}).rights(["admin"]), Roles({}).rights(["user"])
    assert admin.sight == user.sight == ALL
    assert rights(ReadGrant()).sight != ALL, "the rows of schema system are not among those of market"
    assert rights(ReadGrant(schemas=("*",)), workspace=True).sight == ALL


def test_the_rows_of_several_grants_are_seen_together():
    one = ReadGrant(tables=("trades",), exchanges=("BINANCE",), symbols=("BTC-*",))
    two = ReadGrant(tables=("market.trades",), exchanges=("OKX",))
    found = rights(one, two).sight.of("trades")
    assert found is not None
    assert found.permits("BINANCE", "BTC-USDT")
    assert not found.permits("BINANCE", "ETH-USDT")
    assert found.permits("OKX", "ETH-USDT")
    assert not found.permits("KRAKEN", "BTC-USD")
    assert not found.permits(None, None)
    assert rights(one, two).sight.of("ticker") is None


def test_names_are_compared_by_upper_and_lower_case():
    found = rights(ReadGrant(exchanges=("BINANCE",))).sight.of("trades")
    assert found is not None
    assert not found.permits("binance", "BTC-USDT")


def test_the_narrower_columns_hold_where_neither_grant_covers_the_other():
    one = ReadGrant(tables=("trades",), exchanges=("A",), columns=("symbol", "price"))
    two = ReadGrant(tables=("trades",), exchanges=("B",), columns=("price", "amount"), history_days=2)
    assert rights(one, two).sight.of("trades") == TableRights(
        ((("A",), ("*",)), (("B",), ("*",))), frozenset({"price"}), 2 * DAY_US
    )


def test_a_grant_that_another_covers_does_not_count():
    narrow = ReadGrant(tables=("trades",), columns=("price",), history_days=1)
    assert rights(narrow, ReadGrant()).sight.of("trades") == TableRights()
    assert rights(narrow, narrow).sight.of("trades") == TableRights(None, frozenset({"price"}), DAY_US)


def test_columns_without_a_common_one_hide_the_table():
    one = ReadGrant(tables=("trades",), exchanges=("A",), columns=("price",))
    two = ReadGrant(tables=("trades",), exchanges=("B",), columns=("amount",))
    assert rights(one, two).sight.of("trades") is None


def test_limits_of_several_roles_are_the_widest():
    roles = Roles({"a": RoleSettings(limits=RoleLimits(rows_max=5, queries_max=2)), "b": RoleSettings()})
    assert roles.rights(["a"]).limits.rows_max == 5
    assert roles.rights(["a", "b"]).limits.rows_max is None


def test_a_narrowed_workspace_has_the_roles_names():
    grant = ReadGrant(tables=("trades",))
    roles = Roles({"b": RoleSettings(read=(grant,), workspace=True), "a": RoleSettings(read=(grant,))})
    assert roles.rights(["b", "a", "a"]).workspace == "a+b"
    assert roles.rights(["a"]).workspace is None


def test_writing_is_permitted_by_name():
    found = rights(write=("market.tr*",))
    assert found.may_write("trades")
    assert not found.may_write("ticker")
    assert Roles({}).rights(["feed"]).write == frozenset(STORED)


def test_an_unknown_role_is_told():
    with pytest.raises(ConfigError, match=r"no role 'x'.*") as told:
        Roles({}).rights(["x"])
    assert "admin" in (told.value.hint or "")
