from dataclasses import replace

import adbc_driver_flightsql.dbapi
import duckdb
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from tickflight.wire import actions
from tickflight.wire.commands import CommandGetSqlInfo, parse_command
from tickflight.wire.enums import SqlSupportsConvert
from tickflight.wire.tickets import parse_ticket
from tickflight_server.flight import sqlinfo_names
from tickflight_server.flight.result_schemas import SQL_INFO as SCHEMA
from tickflight_server.flight.sqlinfo import CONVERSIONS, SQL_INFO, SqlInfoFacts, sql_info_table

FACTS = SqlInfoFacts("v2.0.0", "0.1.0", "26.0.1", statement_timeout_ms=60_000, transaction_timeout_ms=30_000)


def answer(*codes):
    table = sql_info_table(codes, FACTS)
    return dict(zip(table["info_name"].to_pylist(), table["value"].to_pylist(), strict=True))


def test_all_codes_of_the_protocol_are_answered_in_one_batch():
    table = sql_info_table([], FACTS)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    table.validate(full=True)
    assert len(table.to_batches()) == 1
    assert table["info_name"].to_pylist() == [*range(12), 100, 101, *range(500, 577)]


def test_asked_codes_alone_are_answered_and_unknown_ones_left_out():
    assert list(answer(101, 4, 4, 9999, 0)) == [0, 4, 101]
    assert sql_info_table([9999], FACTS).num_rows == 0


def test_each_value_travels_in_its_child():
    table = sql_info_table([], FACTS)
    kinds = table["value"].chunk(0).type_codes.to_pylist()
    children = [SCHEMA.field("value").type.field(kind).name for kind in kinds]
    assert children == [info.child for info in SQL_INFO]


def test_version_starts_with_duckdb_for_the_sqlalchemy_dialect():
    assert answer(0, 1, 2) == {0: "tickflight", 1: "duckdb v2.0.0 (tickflight 0.1.0)", 2: "26.0.1"}


def test_timeouts_are_those_of_the_server():
    assert answer(100, 101) == {100: 60_000, 101: 30_000}


def test_transactions_exist_and_savepoints_do_not():
    assert answer(8, 562, 563, 564, 573) == {8: 1, 562: 2, 563: True, 564: 1 << 2, 573: False}


def test_limits_are_those_of_the_server():
    facts = replace(FACTS, statement_length_max=7, statements_max=8, connections_max=9)
    table = sql_info_table([549, 557, 558], facts)
    assert table["value"].to_pylist() == [9, 7, 8]


def test_default_isolation_is_64_bit_for_jdbc():
    assert next(info for info in SQL_INFO if info.code == 562).child == "bigint_value"


def test_keywords_are_those_of_duckdb():
    rows = duckdb.connect().execute("SELECT DISTINCT keyword_name FROM duckdb_keywords() ORDER BY 1").fetchall()
    assert list(sqlinfo_names.KEYWORDS) == [row[0] for row in rows]


def test_functions_are_scalar_functions_of_duckdb():
    rows = (
        duckdb.connect()
        .execute("SELECT function_name FROM duckdb_functions() WHERE function_type IN ('scalar', 'macro')")
        .fetchall()
    )
    existing = {row[0] for row in rows}
    for group in ("NUMERIC", "STRING", "SYSTEM", "DATETIME"):
        listed = getattr(sqlinfo_names, f"{group}_FUNCTIONS")
        assert set(listed) <= existing
        assert list(listed) == sorted(set(listed))


SAMPLES = {
    "BIGINT": ("BIGINT", "1"),
    "BINARY": ("BLOB", "'1'::BLOB"),
    "BIT": ("BOOLEAN", "true"),
    "CHAR": ("VARCHAR", "'1'"),
    "DATE": ("DATE", "DATE '2020-01-01'"),
    "DECIMAL": ("DECIMAL(18,3)", "1.5"),
    "FLOAT": ("DOUBLE", "1"),
    "INTEGER": ("INTEGER", "1"),
    "INTERVAL_DAY_TIME": ("INTERVAL", "INTERVAL 1 DAY"),
    "INTERVAL_YEAR_MONTH": ("INTERVAL", "INTERVAL 1 MONTH"),
    "LONGVARBINARY": ("BLOB", "'1'::BLOB"),
    "LONGVARCHAR": ("VARCHAR", "'1'"),
    "NUMERIC": ("DECIMAL(18,3)", "1.5"),
    "REAL": ("FLOAT", "1"),
    "SMALLINT": ("SMALLINT", "1"),
    "TIME": ("TIME", "TIME '10:00:00'"),
    "TIMESTAMP": ("TIMESTAMP", "TIMESTAMP '2020-01-01'"),
    "TINYINT": ("TINYINT", "1"),
    "VARBINARY": ("BLOB", "'1'::BLOB"),
    "VARCHAR": ("VARCHAR", "'1'"),
}


def test_conversions_are_the_casts_of_duckdb():
    con = duckdb.connect()
    values = ", ".join(f'CAST({value} AS {kind}) AS "{name}"' for name, (kind, value) in SAMPLES.items())
    con.execute(f"CREATE TABLE samples AS SELECT {values}")

    def casts(source, target):
        try:
            con.execute(f'SELECT CAST("{source}" AS {SAMPLES[target][0]}) FROM samples').fetchall()
        except duckdb.ConversionException as error:  # the value does not fit, or there is no such cast at all
            return "nimplemented" not in str(error)
        return True

    assert len(SAMPLES) == len(SqlSupportsConvert)
    found = {
        int(SqlSupportsConvert[f"SQL_CONVERT_{source}"]): [
            int(SqlSupportsConvert[f"SQL_CONVERT_{target}"]) for target in SAMPLES if casts(source, target)
        ]
        for source in SAMPLES
    }
    assert found == CONVERSIONS


@pytest.mark.parametrize(
    ("code", "expected", "statement"),
    [
        (504, '"', 'SELECT "a b" FROM (SELECT 1 AS "a b")'),
        (503, 1, "SELECT A FROM (SELECT 1 AS a)"),
        (505, 1, 'SELECT "A" FROM (SELECT 1 AS "a")'),
        (514, "$", "SELECT 1 AS a$b"),
        (515, True, "SELECT 1 AS x"),
        (516, True, "SELECT 1 WHERE (NULL || 'x') IS NULL"),
        (518, True, "SELECT t.a FROM (SELECT 1 AS a) AS t"),
        (519, False, "WITH t AS (SELECT 1 AS a) SELECT t.a FROM t AS t"),
        (520, True, "SELECT a FROM (SELECT 1 AS a) ORDER BY a + 1"),
        (521, True, "SELECT a FROM (SELECT 1 AS a, 2 AS b) ORDER BY b"),
        (522, 3, "SELECT a, sum(c) FROM (SELECT 1 AS a, 2 AS b, 3 AS c) GROUP BY a, b"),
        (523, True, "SELECT 1 WHERE 'a%' LIKE 'a!%' ESCAPE '!'"),
        (528, 2, "SELECT * FROM (SELECT 1 AS a) FULL OUTER JOIN (SELECT 2 AS a) USING (a)"),
        (538, 15, "SELECT 1 WHERE 1 = (SELECT 1) AND EXISTS (SELECT 1) AND 1 IN (SELECT 1) AND 1 <= ALL (SELECT 1)"),
        (539, True, "SELECT a FROM (SELECT 1 AS a) t WHERE EXISTS (SELECT 1 WHERE t.a = 1)"),
        (540, 3, "SELECT 1 UNION SELECT 2 UNION ALL SELECT 2"),
    ],
)
def test_claim_about_the_dialect_is_true_of_duckdb(code, expected, statement):
    assert answer(code) == {code: expected}
    assert duckdb.connect().execute(statement).fetchall()


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
def test_nulls_sort_at_the_end_both_ways(direction):
    rows = duckdb.connect().execute(f"SELECT x FROM (VALUES (NULL), (1)) t(x) ORDER BY x {direction}").fetchall()
    assert rows[-1] == (None,)
    assert answer(507) == {507: 3}


class InfoServer(fl.FlightServerBase):
    """Answers GetSqlInfo alone."""

    def get_flight_info(self, context, descriptor):
        command = parse_command(descriptor.command)
        return fl.FlightInfo(SCHEMA, descriptor, [fl.FlightEndpoint(command.serialize(), [])], -1, -1)

    def do_get(self, context, ticket):
        command = parse_ticket(ticket.ticket)
        assert isinstance(command, CommandGetSqlInfo)
        return fl.RecordBatchStream(sql_info_table(command.info, FACTS))

    def do_action(self, context, action):
        self.actions = [*getattr(self, "actions", []), action.type]
        request = actions.parse_action_request(action.type, action.body.to_pybytes())
        if isinstance(request, actions.ActionBeginTransactionRequest):
            return [actions.ActionBeginTransactionResult(b"t").serialize()]
        if isinstance(request, actions.CloseSessionRequest):
            return [actions.CloseSessionResult(actions.CloseSessionStatus.CLOSED).serialize()]
        return []


def test_adbc_reads_the_union_and_begins_transactions_because_of_code_8():
    with InfoServer("grpc://127.0.0.1:0") as server:
        with adbc_driver_flightsql.dbapi.connect(f"grpc://127.0.0.1:{server.port}") as connection:
            info = connection.adbc_get_info()
        assert "BeginTransaction" in server.actions
    assert info["vendor_name"] == "tickflight"
    assert info["vendor_version"] == "duckdb v2.0.0 (tickflight 0.1.0)"
    assert info["vendor_arrow_version"] == "26.0.1"


def test_the_result_survives_ipc():
    table = sql_info_table([], FACTS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    back = pa.ipc.open_stream(sink.getvalue()).read_all()
    assert back.schema.equals(SCHEMA)
    assert back["value"].to_pylist() == table["value"].to_pylist()
