"""CommandGetPrimaryKeys, CommandGetExportedKeys, CommandGetImportedKeys and CommandGetCrossReference over the wire."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from by_hand import ByHand

from tickflight.wire.commands import (
    CommandGetCrossReference,
    CommandGetExportedKeys,
    CommandGetImportedKeys,
    CommandGetPrimaryKeys,
)

PLACE = {"catalog": "tickflight", "db_schema": "keyed"}


@pytest.fixture(autouse=True)
def made(ada: ByHand) -> None:
    ada.run(
        "DROP SCHEMA IF EXISTS keyed CASCADE",
        "CREATE SCHEMA keyed",
        "CREATE TABLE keyed.venues (code VARCHAR, region INT, PRIMARY KEY (region, code))",
        """CREATE TABLE keyed.orders (id INT PRIMARY KEY, venue VARCHAR, region INT,
           FOREIGN KEY (region, venue) REFERENCES keyed.venues (region, code))""",
        "CREATE TABLE keyed.loose (a INT)",
    )


def fetch(client: ByHand, command: Any) -> list[dict[str, Any]]:
    (endpoint,) = client.info(command).endpoints
    return client.get(endpoint.ticket.ticket).to_pylist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"table": "venues"}, [("region", 1), ("code", 2)]),
        ({"table": "venues", **PLACE}, [("region", 1), ("code", 2)]),
        ({"table": "orders", **PLACE}, [("id", 1)]),
        ({"table": "loose"}, []),
        ({"table": "nix"}, []),
        ({"table": ""}, []),
        ({}, []),
        ({"table": "venues", "db_schema": "workspace"}, []),
        ({"table": "venues", "db_schema": ""}, []),
        ({"table": "venues", "catalog": "nix"}, []),
        ({"table": "venues", "catalog": ""}, []),
        ({"table": "%"}, []),
        ({"table": "trades", "db_schema": "market"}, []),
    ],
    ids=str,
)
def test_primary_key(ada: ByHand, where: dict[str, str], expected: list[tuple[str, int]]) -> None:
    rows = fetch(ada, CommandGetPrimaryKeys(**where))
    assert [(row["column_name"], row["key_sequence"]) for row in rows] == expected
    assert all(row["key_name"] for row in rows)


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    for row in rows:
        assert (row["pk_catalog_name"], row["pk_db_schema_name"], row["pk_table_name"]) == (*PLACE.values(), "venues")
        assert (row["fk_catalog_name"], row["fk_db_schema_name"], row["fk_table_name"]) == (*PLACE.values(), "orders")
        assert (row["update_rule"], row["delete_rule"]) == (3, 3), "NO_ACTION"
    return [(row["pk_column_name"], row["fk_column_name"], row["key_sequence"]) for row in rows]


KEY = [("region", "region", 1), ("code", "venue", 2)]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (CommandGetExportedKeys(table="venues"), KEY),
        (CommandGetExportedKeys(table="venues", **PLACE), KEY),
        (CommandGetExportedKeys(table="orders", **PLACE), []),
        (CommandGetExportedKeys(table="venues", db_schema="workspace"), []),
        (CommandGetExportedKeys(), []),
        (CommandGetImportedKeys(table="orders"), KEY),
        (CommandGetImportedKeys(table="orders", **PLACE), KEY),
        (CommandGetImportedKeys(table="venues", **PLACE), []),
        (CommandGetImportedKeys(table="orders", catalog="nix"), []),
        (CommandGetImportedKeys(), []),
        (CommandGetCrossReference(pk_table="venues", fk_table="orders"), KEY),
        (CommandGetCrossReference("tickflight", "keyed", "venues", "tickflight", "keyed", "orders"), KEY),
        (CommandGetCrossReference(pk_table="orders", fk_table="venues"), []),
        (CommandGetCrossReference(pk_table="venues"), []),
        (CommandGetCrossReference(fk_table="orders"), []),
        (CommandGetCrossReference("nix", None, "venues", None, None, "orders"), []),
        (CommandGetCrossReference(), []),
    ],
    ids=str,
)
def test_foreign_keys(ada: ByHand, command: Any, expected: list[tuple[str, str, int]]) -> None:
    assert pairs(fetch(ada, command)) == expected


def test_keys_are_gone_with_their_table(ada: ByHand) -> None:
    ada.run("DROP TABLE keyed.orders")
    assert fetch(ada, CommandGetExportedKeys(table="venues")) == []
    assert fetch(ada, CommandGetPrimaryKeys(table="orders", db_schema="keyed")) == []


def test_adbc_lists_constraints_or_leaves_them_out(adbc_ada: adbc.Connection) -> None:
    (catalog,) = adbc_ada.adbc_get_objects(depth="all", db_schema_filter="keyed").read_all().to_pylist()
    tables = catalog["catalog_db_schemas"][0]["db_schema_tables"]
    assert [table["table_name"] for table in tables] == ["loose", "orders", "venues"]
