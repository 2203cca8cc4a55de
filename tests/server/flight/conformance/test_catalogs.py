"""CommandGetCatalogs, CommandGetDbSchemas, CommandGetTables and CommandGetTableTypes over the wire."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from by_hand import ByHand, refused

from tickflight.wire.commands import (
    CommandGetCatalogs,
    CommandGetDbSchemas,
    CommandGetTables,
    CommandGetTableTypes,
)
from tickflight_server.schemas import MARKET


@pytest.fixture(autouse=True)
def made(ada: ByHand) -> None:
    ada.run(
        "DROP SCHEMA IF EXISTS own CASCADE",
        "CREATE SCHEMA own",
        'CREATE TABLE own.made (id INT PRIMARY KEY, "a b" DECIMAL(9, 2) NOT NULL)',
        "CREATE VIEW own.seen AS SELECT id FROM own.made",
        "COMMENT ON TABLE own.made IS 'what was made'",
    )


def fetch(client: ByHand, command: Any) -> list[dict[str, Any]]:
    """Fetch by the ticket that the flight's information gives."""
    (endpoint,) = client.info(command).endpoints
    return client.get(endpoint.ticket.ticket).to_pylist()


def test_there_is_one_catalog(ada: ByHand) -> None:
    assert fetch(ada, CommandGetCatalogs()) == [{"catalog_name": "tickflight"}]


def test_there_are_two_types_of_tables(ada: ByHand) -> None:
    assert fetch(ada, CommandGetTableTypes()) == [{"table_type": "table"}, {"table_type": "view"}]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["market", "own", "system", "workspace"]),
        ({"catalog": "tickflight"}, ["market", "own", "system", "workspace"]),
        ({"catalog": "TICKFLIGHT"}, []),
        ({"catalog": "tick%"}, []),
        ({"catalog": ""}, []),
        ({"db_schema_filter_pattern": "%"}, ["market", "own", "system", "workspace"]),
        ({"db_schema_filter_pattern": "o_n"}, ["own"]),
        ({"db_schema_filter_pattern": ""}, []),
        ({"db_schema_filter_pattern": "nix' OR 1 = 1 --"}, []),
        ({"db_schema_filter_pattern": "%" * 10_000 + "x"}, []),
    ],
    ids=lambda value: str(value)[:50],
)
def test_schemas(ada: ByHand, filters: dict[str, str], expected: list[str]) -> None:
    rows = fetch(ada, CommandGetDbSchemas(**filters))  # type: ignore[arg-type]
    assert rows == [{"catalog_name": "tickflight", "db_schema_name": name} for name in expected]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"db_schema_filter_pattern": "own"}, [("made", "table"), ("seen", "view")]),
        ({"db_schema_filter_pattern": "own", "table_types": ("view",)}, [("seen", "view")]),
        ({"db_schema_filter_pattern": "own", "table_types": ("TABLE",)}, [("made", "table")]),
        ({"db_schema_filter_pattern": "own", "table_types": ("nix",)}, []),
        ({"db_schema_filter_pattern": "own", "table_types": ("nix", "view")}, [("seen", "view")]),
        ({"table_name_filter_pattern": "mad_"}, [("made", "table")]),
        ({"table_name_filter_pattern": "mad\\_"}, []),
        ({"table_name_filter_pattern": ""}, []),
        ({"catalog": "", "table_name_filter_pattern": "made"}, []),
        ({"db_schema_filter_pattern": "market"}, [(name, "table") for name in sorted(MARKET)]),
        ({"table_name_filter_pattern": "x" * 1_000_000}, []),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tables(ada: ByHand, filters: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    rows = fetch(ada, CommandGetTables(**filters))
    assert [(row["table_name"], row["table_type"]) for row in rows] == expected


def test_table_is_gone_when_it_was_dropped(ada: ByHand) -> None:
    command = CommandGetTables(db_schema_filter_pattern="own")
    ticket = ada.info(command).endpoints[0].ticket.ticket
    ada.run("DROP VIEW own.seen")
    assert [row["table_name"] for row in ada.get(ticket).to_pylist()] == ["made"]


def test_schema_of_a_table_is_that_of_its_rows_with_metadata(ada: ByHand) -> None:
    (row,) = fetch(ada, CommandGetTables(table_name_filter_pattern="made", include_schema=True))
    schema = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
    assert (schema.names, schema.types) == (["id", "a b"], [pa.int32(), pa.decimal128(9, 2)])
    metadata = schema.field("a b").metadata
    assert metadata[b"ARROW:FLIGHT:SQL:TABLE_NAME"] == b"made"
    assert metadata[b"ARROW:FLIGHT:SQL:DB_SCHEMA_NAME"] == b"own"
    assert metadata[b"ARROW:FLIGHT:SQL:CATALOG_NAME"] == b"tickflight"
    assert (metadata[b"ARROW:FLIGHT:SQL:PRECISION"], metadata[b"ARROW:FLIGHT:SQL:SCALE"]) == (b"9", b"2")
    assert "table_schema" not in fetch(ada, CommandGetTables(table_name_filter_pattern="made"))[0]


def test_temporary_tables_are_nobody_elses(ada: ByHand, bob: ByHand) -> None:
    ada.run("CREATE TEMP TABLE passing (a INT)")
    assert fetch(bob, CommandGetTables(table_name_filter_pattern="passing")) == []


@pytest.mark.parametrize("command", [CommandGetCatalogs(), CommandGetTableTypes(), CommandGetTables()], ids=str)
def test_they_only_list(ada: ByHand, command: Any) -> None:
    with refused("UNIMPLEMENTED", "is not offered here"):
        ada.put(command)


def test_adbc_walks_the_tree(adbc_ada: adbc.Connection) -> None:
    tree = adbc_ada.adbc_get_objects(depth="all", db_schema_filter="own", table_types_filter=["table"]).read_all()
    (catalog,) = tree.to_pylist()
    (schema,) = catalog["catalog_db_schemas"]
    (table,) = schema["db_schema_tables"]
    assert (catalog["catalog_name"], schema["db_schema_name"]) == ("tickflight", "own")
    assert (table["table_name"], table["table_type"]) == ("made", "table")
    assert [column["column_name"] for column in table["table_columns"]] == ["id", "a b"]
    assert adbc_ada.adbc_get_table_types() == ["table", "view"]
    assert adbc_ada.adbc_get_table_schema("made", db_schema_filter="own").names == ["id", "a b"]
