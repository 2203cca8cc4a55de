import re
import time

import adbc_driver_flightsql.dbapi
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickflight.wire import actions
from tickflight.wire import commands as c
from tickflight.wire.tickets import parse_ticket
from tickflight_server.flight.catalogs import (
    ESCAPE,
    SchemaInfo,
    TableInfo,
    catalog_table,
    get_catalogs,
    get_db_schemas,
    get_table_types,
    get_tables,
    get_xdbc_type_info,
    like,
    table_schema,
)
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS, result_schema
from tickflight_server.flight.sqlinfo import SqlInfoFacts, sql_info_table

FACTS = SqlInfoFacts("v2.0.0", "0.1.0", "26.0.1")
TRADES = pa.schema(
    [
        pa.field("symbol", pa.string(), metadata={"comment": "what is traded"}),
        pa.field("price", pa.decimal128(38, 18)),
        pa.field("timestamp", pa.timestamp("us"), nullable=False),
    ]
)
TABLES = [
    TableInfo("tickflight", "market", "trades", "table", TRADES, "every trade"),
    TableInfo("tickflight", "market", "l2_book", "table", pa.schema([("a", pa.int64())])),
    TableInfo("tickflight", "system", "parts", "view", pa.schema([("a", pa.int64())])),
    TableInfo("other", "market", "trades", "table", pa.schema([("a", pa.int64())])),
    TableInfo(None, None, "loose", "view", pa.schema([("a", pa.int64())])),
]


def names(**filters):
    return [row["table_name"] for row in get_tables(c.CommandGetTables(**filters), TABLES).to_pylist()]


@pytest.mark.parametrize("cls", RESULT_SCHEMAS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("tables", [TABLES, []], ids=["tables", "none"])
def test_every_result_is_one_batch_of_its_schema_or_none(cls, tables):
    for command in (cls(), *([c.CommandGetTables(include_schema=True)] if cls is c.CommandGetTables else [])):
        table = catalog_table(command, tables, FACTS)
        assert table.schema.equals(result_schema(command), check_metadata=True)
        assert len(table.to_batches()) == min(table.num_rows, 1)
        table.validate(full=True)


def test_flight_sends_a_result_as_one_batch():
    class Server(fl.FlightServerBase):
        def do_get(self, context, ticket):
            return fl.RecordBatchStream(get_tables(c.CommandGetTables(include_schema=True), TABLES * 300))

    with Server("grpc://127.0.0.1:0") as server, fl.connect(("127.0.0.1", server.port)) as client:
        reader = client.do_get(fl.Ticket(b""))
        assert reader.read_chunk().data.num_rows == 1500
        with pytest.raises(StopIteration):
            reader.read_chunk()


def test_catalogs_are_sorted_and_those_without_tables_are_there():
    assert get_catalogs(TABLES).column(0).to_pylist() == ["other", "tickflight"]
    assert get_catalogs([], [SchemaInfo("tickflight", "workspace")]).column(0).to_pylist() == ["tickflight"]


def test_schemas_are_sorted_by_catalog_then_name_and_those_without_tables_are_there():
    rows = get_db_schemas(c.CommandGetDbSchemas(), TABLES, [SchemaInfo("tickflight", "workspace")]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("other", "market"),
        ("tickflight", "market"),
        ("tickflight", "system"),
        ("tickflight", "workspace"),
    ]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"catalog": "tickflight"}, ["market", "system"]),
        ({"catalog": "tick%"}, []),
        ({"catalog": ""}, []),
        ({"db_schema_filter_pattern": "s%"}, ["system"]),
        ({"db_schema_filter_pattern": ""}, []),
    ],
)
def test_schema_filters(filters, expected):
    rows = get_db_schemas(c.CommandGetDbSchemas(**filters), TABLES).to_pylist()
    assert [row["db_schema_name"] for row in rows] == expected


def test_tables_are_sorted_by_all_columns_from_the_left():
    assert names() == ["loose", "trades", "l2_book", "trades", "parts"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"catalog": "tickflight"}, ["l2_book", "trades", "parts"]),
        ({"catalog": ""}, ["loose"]),
        ({"db_schema_filter_pattern": "market"}, ["trades", "l2_book", "trades"]),
        ({"db_schema_filter_pattern": ""}, ["loose"]),
        ({"db_schema_filter_pattern": "%"}, ["trades", "l2_book", "trades", "parts"]),
        ({"table_name_filter_pattern": "%s"}, ["trades", "trades", "parts"]),
        ({"table_name_filter_pattern": "l__book"}, ["l2_book"]),
        ({"table_name_filter_pattern": "l2\\_book"}, ["l2_book"]),
        ({"table_name_filter_pattern": "l\\__book"}, []),
        ({"table_name_filter_pattern": "Trades"}, []),
        ({"table_name_filter_pattern": "SELECT * FROM t WHERE a LIKE '%\\_%' -- 100%"}, []),
        ({"table_types": ("view",)}, ["loose", "parts"]),
        ({"table_types": ("TABLE", "MATERIALIZED")}, ["trades", "l2_book", "trades"]),
        ({"table_types": ("index",)}, []),
    ],
)
def test_table_filters(filters, expected):
    assert names(**filters) == expected


def test_table_types_are_sorted_and_in_lower_case():
    assert get_table_types().column(0).to_pylist() == ["table", "view"]


def test_table_schema_can_be_read_and_describes_each_column():
    command = c.CommandGetTables(catalog="tickflight", table_name_filter_pattern="trades", include_schema=True)
    (row,) = get_tables(command, TABLES).to_pylist()
    schema = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
    assert schema.equals(TRADES)
    common = {
        b"CATALOG_NAME": b"tickflight",
        b"DB_SCHEMA_NAME": b"market",
        b"SCHEMA_NAME": b"market",
        b"TABLE_NAME": b"trades",
        b"IS_AUTO_INCREMENT": b"0",
        b"IS_CASE_SENSITIVE": b"0",
        b"IS_READ_ONLY": b"1",
        b"IS_SEARCHABLE": b"1",
    }
    own = [
        {b"TYPE_NAME": b"VARCHAR", b"IS_CASE_SENSITIVE": b"1", b"REMARKS": b"what is traded"},
        {b"TYPE_NAME": b"DECIMAL(38,18)", b"PRECISION": b"38", b"SCALE": b"18"},
        {b"TYPE_NAME": b"TIMESTAMP"},
    ]
    for field, extra in zip(schema, own, strict=True):
        assert field.metadata == {b"ARROW:FLIGHT:SQL:" + key: value for key, value in (common | extra).items()}
    assert schema.metadata == {b"ARROW:FLIGHT:SQL:REMARKS": b"every trade"}


def test_a_table_without_catalog_and_schema_has_no_such_metadata():
    metadata = table_schema(TABLES[-1]).field(0).metadata
    assert not {b"ARROW:FLIGHT:SQL:CATALOG_NAME", b"ARROW:FLIGHT:SQL:SCHEMA_NAME"} & set(metadata)


def test_xdbc_types_are_sorted_by_number_then_name():
    rows = get_xdbc_type_info(c.CommandGetXdbcTypeInfo()).to_pylist()
    assert [(row["data_type"], row["type_name"]) for row in rows] == sorted(
        (row["data_type"], row["type_name"]) for row in rows
    )
    assert len({row["type_name"] for row in rows}) == len(rows)


def test_xdbc_types_of_one_number_are_all_of_it():
    rows = get_xdbc_type_info(c.CommandGetXdbcTypeInfo(data_type=-5)).to_pylist()
    assert [row["type_name"] for row in rows] == ["BIGINT", "UBIGINT"]
    assert [row["unsigned_attribute"] for row in rows] == [False, True]
    assert get_xdbc_type_info(c.CommandGetXdbcTypeInfo(data_type=0)).num_rows == 0


def test_xdbc_datetimes_have_the_verbose_type_and_a_subcode():
    rows = get_xdbc_type_info(c.CommandGetXdbcTypeInfo(data_type=93)).to_pylist()
    assert {(row["sql_data_type"], row["datetime_subcode"]) for row in rows} == {(9, 3), (9, 5)}


@given(pattern=st.text("ab%_\\", max_size=8), name=st.text("ab_%\\", max_size=8))
def test_like_is_the_regular_expression_of_the_pattern(pattern, name):
    tokens = re.findall(r"\\[%_\\]|.", pattern)
    expression = "".join({"%": ".*", "_": "."}.get(t) or re.escape(t[-1]) for t in tokens)
    assert like(pattern)(name) == (re.fullmatch(expression, name, re.DOTALL) is not None)


def test_like_stays_cheap_on_hostile_patterns():
    started = time.monotonic()
    assert not like("%a" * 200 + "b")("a" * 2000)
    assert time.monotonic() - started < 5


def test_escape_is_the_one_that_sql_info_names():
    assert sql_info_table([513], FACTS)["value"].to_pylist() == [ESCAPE]


class CatalogServer(fl.FlightServerBase):
    """Answers the catalog commands and what ADBC needs to connect."""

    def get_flight_info(self, context, descriptor):
        command = c.parse_command(descriptor.command)
        endpoint = fl.FlightEndpoint(command.serialize(), [])
        return fl.FlightInfo(result_schema(command), descriptor, [endpoint], -1, -1)

    def do_get(self, context, ticket):
        return fl.RecordBatchStream(catalog_table(parse_ticket(ticket.ticket), TABLES, FACTS))

    def do_action(self, context, action):
        request = actions.parse_action_request(action.type, action.body.to_pybytes())
        if isinstance(request, actions.ActionBeginTransactionRequest):
            return [actions.ActionBeginTransactionResult(b"t").serialize()]
        return []


@pytest.fixture(scope="module")
def adbc():
    with CatalogServer("grpc://127.0.0.1:0") as server:
        uri = f"grpc://127.0.0.1:{server.port}"
        with adbc_driver_flightsql.dbapi.connect(uri, autocommit=True) as connection:
            yield connection


def test_adbc_accepts_the_schemas_of_all_objects(adbc):
    objects = adbc.adbc_get_objects(depth="all").read_all().to_pylist()
    found = {
        (catalog["catalog_name"], schema["db_schema_name"], table["table_name"]): table
        for catalog in objects
        for schema in catalog["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }
    trades = found["tickflight", "market", "trades"]
    assert trades["table_type"] == "table"
    assert [column["column_name"] for column in trades["table_columns"]] == TRADES.names
    assert trades["table_columns"][1]["xdbc_type_name"] == "DECIMAL(38,18)"


@pytest.mark.parametrize("depth", ["catalogs", "db_schemas", "tables"])
def test_adbc_accepts_the_schemas_at_each_depth(adbc, depth):
    names = adbc.adbc_get_objects(depth=depth).read_all()["catalog_name"].to_pylist()
    assert {"other", "tickflight"} <= set(names)


def test_adbc_finds_no_table_for_a_query_that_pandas_asks_for(adbc):
    query = "SELECT * FROM trades WHERE symbol LIKE 'BTC\\_%' AND price > 1 -- 50%"
    objects = adbc.adbc_get_objects(depth="tables", table_name_filter=query).read_all().to_pylist()
    assert not [s["db_schema_tables"] for o in objects for s in o["catalog_db_schemas"] if s["db_schema_tables"]]


def test_adbc_reads_the_schema_of_a_table_whose_name_has_a_wildcard(adbc):
    assert adbc.adbc_get_table_schema("l2_book", db_schema_filter="market") == pa.schema([("a", pa.int64())])


def test_adbc_lists_the_table_types(adbc):
    assert adbc.adbc_get_table_types() == ["table", "view"]
