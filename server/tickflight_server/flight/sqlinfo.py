"""The answer to GetSqlInfo: what this server is and which SQL it speaks.

The rule of this file: every code of the protocol is a row of ``SQL_INFO``, with a value that is true of this server and
that ``tests/server/flight/test_sqlinfo_truth.py`` tries on one. Leaving a code out breaks older JDBC drivers, so that
there is a value even where nothing is to be said: a limit of 0 is "none of its own", a bitmask of 0 is "none of it".

What SQL writes is the users' own schemas; the market data grows by ingest alone. The protocol has no word for that, so
that code 3 says that the server is not read-only. The core grammar (525) is not claimed, since it lists GRANT. SQL-92's
entry level (526) is, for what it asks of queries, rows and tables; what it says of privileges and cursors is not there,
but every JDBC driver has to claim the level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

import pyarrow as pa

from tickflight.wire.enums import (
    SqlNullOrdering,
    SqlOuterJoinsSupportLevel,
    SqlSupportedCaseSensitivity,
    SqlSupportedElementActions,
    SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency,
    SqlSupportedResultSetType,
    SqlSupportedSubqueries,
    SqlSupportedTransaction,
    SqlSupportedUnions,
    SqlSupportsConvert,
    SqlTransactionIsolationLevel,
    SupportedAnsi92SqlGrammarLevel,
    SupportedSqlGrammar,
)
from tickflight_server.flight import sqlinfo_names as names
from tickflight_server.flight.result_schemas import SQL_INFO as SQL_INFO_SCHEMA
from tickflight_server.flight.result_schemas import SQL_INFO_VALUE

Child = Literal["string_value", "bool_value", "bigint_value", "int32_bitmask", "string_list", "int32_to_int32_list_map"]
Value = str | bool | int | Sequence[str] | Mapping[int, Sequence[int]] | None


@dataclass(frozen=True)
class SqlInfoFacts:
    """What is known only where the server runs. ``duckdb_version`` is as ``SELECT version()`` says it: "v2.0.0".

    ``statement_timeout_ms`` and ``transaction_timeout_ms``: idle life of a prepared statement and of a transaction;
    0 = unlimited. ``statement_length_max``: bytes of a statement. ``statements_max``: prepared statements that are kept
    at once, ``connections_max``: sessions; beyond either the longest unused ends. 0 = unlimited.
    """

    duckdb_version: str
    tickflight_version: str
    arrow_version: str
    statement_timeout_ms: int = 0
    transaction_timeout_ms: int = 0
    statement_length_max: int = 0
    statements_max: int = 0
    connections_max: int = 0


@dataclass(frozen=True)
class SqlInfo:
    """One code: its name in the protocol, the union's child that it travels in, and its value or where to get it."""

    code: int
    name: str
    child: Child
    value: Value | Callable[[SqlInfoFacts], Value]

    def resolve(self, facts: SqlInfoFacts) -> Value:
        """Return the value on a server with these facts."""
        return self.value(facts) if callable(self.value) else self.value


def _bits(*members: IntEnum) -> int:
    """Return the bitmask of the enum's members: bit 2^value for each."""
    return sum(1 << member for member in members)


def _version(facts: SqlInfoFacts) -> str:
    # It starts with "duckdb ": a SQLAlchemy dialect for DuckDB behind Flight SQL looks for that word.
    return f"duckdb {facts.duckdb_version} (tickflight {facts.tickflight_version})"


_NUMBERS: Final = (
    SqlSupportsConvert.SQL_CONVERT_BIGINT,
    SqlSupportsConvert.SQL_CONVERT_BIT,
    SqlSupportsConvert.SQL_CONVERT_DECIMAL,
    SqlSupportsConvert.SQL_CONVERT_FLOAT,
    SqlSupportsConvert.SQL_CONVERT_INTEGER,
    SqlSupportsConvert.SQL_CONVERT_NUMERIC,
    SqlSupportsConvert.SQL_CONVERT_REAL,
    SqlSupportsConvert.SQL_CONVERT_SMALLINT,
    SqlSupportsConvert.SQL_CONVERT_TINYINT,
)
_TEXTS: Final = (
    SqlSupportsConvert.SQL_CONVERT_CHAR,
    SqlSupportsConvert.SQL_CONVERT_LONGVARCHAR,
    SqlSupportsConvert.SQL_CONVERT_VARCHAR,
)
_BYTES: Final = (
    SqlSupportsConvert.SQL_CONVERT_BINARY,
    SqlSupportsConvert.SQL_CONVERT_LONGVARBINARY,
    SqlSupportsConvert.SQL_CONVERT_VARBINARY,
)
_INTERVALS: Final = (
    SqlSupportsConvert.SQL_CONVERT_INTERVAL_DAY_TIME,
    SqlSupportsConvert.SQL_CONVERT_INTERVAL_YEAR_MONTH,
)
_DATE: Final = SqlSupportsConvert.SQL_CONVERT_DATE
_TIME: Final = SqlSupportsConvert.SQL_CONVERT_TIME
_TIMESTAMP: Final = SqlSupportsConvert.SQL_CONVERT_TIMESTAMP

_CASTS: Final = (  # sources → targets of CAST, as duckdb has them
    (_NUMBERS, (*_NUMBERS, *_TEXTS)),
    (_TEXTS, tuple(SqlSupportsConvert)),
    (_BYTES, (*_BYTES, *_TEXTS)),
    (_INTERVALS, (*_INTERVALS, *_TEXTS)),
    ((_DATE,), (_DATE, _TIMESTAMP, *_TEXTS)),
    ((_TIME,), (_TIME, *_TEXTS)),
    ((_TIMESTAMP,), (_DATE, _TIME, _TIMESTAMP, *_TEXTS)),
)
CONVERSIONS: Final[Mapping[int, Sequence[int]]] = {
    int(source): sorted(int(target) for target in targets) for sources, targets in _CASTS for source in sources
}

_READ_ONLY: Final = _bits(SqlSupportedResultSetConcurrency.SQL_RESULT_SET_CONCURRENCY_READ_ONLY)
_IN_INDEXES: Final = _bits(SqlSupportedElementActions.SQL_ELEMENT_IN_INDEX_DEFINITIONS)
_CASE_INSENSITIVE: Final = int(SqlSupportedCaseSensitivity.SQL_CASE_SENSITIVITY_CASE_INSENSITIVE)
_READ_COMMITTED: Final = SqlTransactionIsolationLevel.SQL_TRANSACTION_READ_COMMITTED

SQL_INFO: Final = (
    SqlInfo(0, "FLIGHT_SQL_SERVER_NAME", "string_value", "tickflight"),
    SqlInfo(1, "FLIGHT_SQL_SERVER_VERSION", "string_value", _version),
    SqlInfo(2, "FLIGHT_SQL_SERVER_ARROW_VERSION", "string_value", lambda facts: facts.arrow_version),
    SqlInfo(3, "FLIGHT_SQL_SERVER_READ_ONLY", "bool_value", False),  # tables of the users' own
    SqlInfo(4, "FLIGHT_SQL_SERVER_SQL", "bool_value", True),
    SqlInfo(5, "FLIGHT_SQL_SERVER_SUBSTRAIT", "bool_value", False),
    SqlInfo(6, "FLIGHT_SQL_SERVER_SUBSTRAIT_MIN_VERSION", "string_value", None),  # no Substrait
    SqlInfo(7, "FLIGHT_SQL_SERVER_SUBSTRAIT_MAX_VERSION", "string_value", None),  # no Substrait
    SqlInfo(
        8,
        "FLIGHT_SQL_SERVER_TRANSACTION",
        "int32_bitmask",
        int(SqlSupportedTransaction.SQL_SUPPORTED_TRANSACTION_TRANSACTION),
    ),
    SqlInfo(9, "FLIGHT_SQL_SERVER_CANCEL", "bool_value", True),
    SqlInfo(10, "FLIGHT_SQL_SERVER_BULK_INGESTION", "bool_value", True),
    # into the users' tables; one of market data that names a transaction is refused
    SqlInfo(11, "FLIGHT_SQL_SERVER_INGEST_TRANSACTIONS_SUPPORTED", "bool_value", True),
    SqlInfo(100, "FLIGHT_SQL_SERVER_STATEMENT_TIMEOUT", "int32_bitmask", lambda facts: facts.statement_timeout_ms),
    SqlInfo(101, "FLIGHT_SQL_SERVER_TRANSACTION_TIMEOUT", "int32_bitmask", lambda facts: facts.transaction_timeout_ms),
    SqlInfo(500, "SQL_DDL_CATALOG", "bool_value", False),
    SqlInfo(501, "SQL_DDL_SCHEMA", "bool_value", True),
    SqlInfo(502, "SQL_DDL_TABLE", "bool_value", True),
    SqlInfo(503, "SQL_IDENTIFIER_CASE", "int32_bitmask", _CASE_INSENSITIVE),
    SqlInfo(504, "SQL_IDENTIFIER_QUOTE_CHAR", "string_value", '"'),
    SqlInfo(505, "SQL_QUOTED_IDENTIFIER_CASE", "int32_bitmask", _CASE_INSENSITIVE),  # "A" and a are one name
    SqlInfo(506, "SQL_ALL_TABLES_ARE_SELECTABLE", "bool_value", True),  # only what the user may read is listed
    SqlInfo(507, "SQL_NULL_ORDERING", "int32_bitmask", int(SqlNullOrdering.SQL_NULLS_SORTED_AT_END)),
    SqlInfo(508, "SQL_KEYWORDS", "string_list", names.KEYWORDS),
    SqlInfo(509, "SQL_NUMERIC_FUNCTIONS", "string_list", names.NUMERIC_FUNCTIONS),
    SqlInfo(510, "SQL_STRING_FUNCTIONS", "string_list", names.STRING_FUNCTIONS),
    SqlInfo(511, "SQL_SYSTEM_FUNCTIONS", "string_list", names.SYSTEM_FUNCTIONS),
    SqlInfo(512, "SQL_DATETIME_FUNCTIONS", "string_list", names.DATETIME_FUNCTIONS),
    SqlInfo(513, "SQL_SEARCH_STRING_ESCAPE", "string_value", "\\"),
    SqlInfo(514, "SQL_EXTRA_NAME_CHARACTERS", "string_value", "$"),  # beyond letters of any script
    SqlInfo(515, "SQL_SUPPORTS_COLUMN_ALIASING", "bool_value", True),
    SqlInfo(516, "SQL_NULL_PLUS_NULL_IS_NULL", "bool_value", True),
    SqlInfo(517, "SQL_SUPPORTS_CONVERT", "int32_to_int32_list_map", CONVERSIONS),
    SqlInfo(518, "SQL_SUPPORTS_TABLE_CORRELATION_NAMES", "bool_value", True),
    SqlInfo(519, "SQL_SUPPORTS_DIFFERENT_TABLE_CORRELATION_NAMES", "bool_value", False),
    SqlInfo(520, "SQL_SUPPORTS_EXPRESSIONS_IN_ORDER_BY", "bool_value", True),
    SqlInfo(521, "SQL_SUPPORTS_ORDER_BY_UNRELATED", "bool_value", True),
    SqlInfo(522, "SQL_SUPPORTED_GROUP_BY", "int32_bitmask", _bits(*SqlSupportedGroupBy)),
    SqlInfo(523, "SQL_SUPPORTS_LIKE_ESCAPE_CLAUSE", "bool_value", True),
    SqlInfo(524, "SQL_SUPPORTS_NON_NULLABLE_COLUMNS", "bool_value", True),
    SqlInfo(525, "SQL_SUPPORTED_GRAMMAR", "int32_bitmask", _bits(SupportedSqlGrammar.SQL_MINIMUM_GRAMMAR)),
    SqlInfo(526, "SQL_ANSI92_SUPPORTED_LEVEL", "int32_bitmask", _bits(SupportedAnsi92SqlGrammarLevel.ANSI92_ENTRY_SQL)),
    # keys, references, checks and defaults
    SqlInfo(527, "SQL_SUPPORTS_INTEGRITY_ENHANCEMENT_FACILITY", "bool_value", True),
    SqlInfo(528, "SQL_OUTER_JOINS_SUPPORT_LEVEL", "int32_bitmask", int(SqlOuterJoinsSupportLevel.SQL_FULL_OUTER_JOINS)),
    SqlInfo(529, "SQL_SCHEMA_TERM", "string_value", "schema"),
    SqlInfo(530, "SQL_PROCEDURE_TERM", "string_value", ""),  # there are none
    SqlInfo(531, "SQL_CATALOG_TERM", "string_value", "catalog"),
    SqlInfo(532, "SQL_CATALOG_AT_START", "bool_value", True),
    SqlInfo(533, "SQL_SCHEMAS_SUPPORTED_ACTIONS", "int32_bitmask", _IN_INDEXES),
    SqlInfo(534, "SQL_CATALOGS_SUPPORTED_ACTIONS", "int32_bitmask", _IN_INDEXES),
    SqlInfo(535, "SQL_SUPPORTED_POSITIONED_COMMANDS", "int32_bitmask", 0),
    SqlInfo(536, "SQL_SELECT_FOR_UPDATE_SUPPORTED", "bool_value", False),
    SqlInfo(537, "SQL_STORED_PROCEDURES_SUPPORTED", "bool_value", False),
    SqlInfo(538, "SQL_SUPPORTED_SUBQUERIES", "int32_bitmask", _bits(*SqlSupportedSubqueries)),
    SqlInfo(539, "SQL_CORRELATED_SUBQUERIES_SUPPORTED", "bool_value", True),
    SqlInfo(540, "SQL_SUPPORTED_UNIONS", "int32_bitmask", _bits(*SqlSupportedUnions)),
    SqlInfo(541, "SQL_MAX_BINARY_LITERAL_LENGTH", "bigint_value", 0),
    SqlInfo(542, "SQL_MAX_CHAR_LITERAL_LENGTH", "bigint_value", 0),
    SqlInfo(543, "SQL_MAX_COLUMN_NAME_LENGTH", "bigint_value", 0),
    SqlInfo(544, "SQL_MAX_COLUMNS_IN_GROUP_BY", "bigint_value", 0),
    SqlInfo(545, "SQL_MAX_COLUMNS_IN_INDEX", "bigint_value", 0),
    SqlInfo(546, "SQL_MAX_COLUMNS_IN_ORDER_BY", "bigint_value", 0),
    SqlInfo(547, "SQL_MAX_COLUMNS_IN_SELECT", "bigint_value", 0),
    SqlInfo(548, "SQL_MAX_COLUMNS_IN_TABLE", "bigint_value", 0),
    SqlInfo(549, "SQL_MAX_CONNECTIONS", "bigint_value", lambda facts: facts.connections_max),
    SqlInfo(550, "SQL_MAX_CURSOR_NAME_LENGTH", "bigint_value", 0),  # there are none
    SqlInfo(551, "SQL_MAX_INDEX_LENGTH", "bigint_value", 0),
    SqlInfo(552, "SQL_DB_SCHEMA_NAME_LENGTH", "bigint_value", 0),
    SqlInfo(553, "SQL_MAX_PROCEDURE_NAME_LENGTH", "bigint_value", 0),  # there are none
    SqlInfo(554, "SQL_MAX_CATALOG_NAME_LENGTH", "bigint_value", 0),
    SqlInfo(555, "SQL_MAX_ROW_SIZE", "bigint_value", 0),
    SqlInfo(556, "SQL_MAX_ROW_SIZE_INCLUDES_BLOBS", "bool_value", True),
    SqlInfo(557, "SQL_MAX_STATEMENT_LENGTH", "bigint_value", lambda facts: facts.statement_length_max),
    SqlInfo(558, "SQL_MAX_STATEMENTS", "bigint_value", lambda facts: facts.statements_max),
    SqlInfo(559, "SQL_MAX_TABLE_NAME_LENGTH", "bigint_value", 0),
    SqlInfo(560, "SQL_MAX_TABLES_IN_SELECT", "bigint_value", 0),
    SqlInfo(561, "SQL_MAX_USERNAME_LENGTH", "bigint_value", 200),
    # int64: the JDBC driver insists, the text says int32. A transaction that has written reads one state of the users'
    # tables; one that has not reads the newest rows with each statement, so that no more than this is promised
    SqlInfo(562, "SQL_DEFAULT_TRANSACTION_ISOLATION", "bigint_value", int(_READ_COMMITTED)),
    SqlInfo(563, "SQL_TRANSACTIONS_SUPPORTED", "bool_value", True),
    SqlInfo(564, "SQL_SUPPORTED_TRANSACTIONS_ISOLATION_LEVELS", "int32_bitmask", _bits(_READ_COMMITTED)),
    SqlInfo(565, "SQL_DATA_DEFINITION_CAUSES_TRANSACTION_COMMIT", "bool_value", False),
    SqlInfo(566, "SQL_DATA_DEFINITIONS_IN_TRANSACTIONS_IGNORED", "bool_value", False),
    SqlInfo(
        567,
        "SQL_SUPPORTED_RESULT_SET_TYPES",
        "int32_bitmask",
        _bits(SqlSupportedResultSetType.SQL_RESULT_SET_TYPE_FORWARD_ONLY),
    ),
    # none is unspecified here; what there is only reads
    SqlInfo(568, "SQL_SUPPORTED_CONCURRENCIES_FOR_RESULT_SET_UNSPECIFIED", "int32_bitmask", _READ_ONLY),
    SqlInfo(569, "SQL_SUPPORTED_CONCURRENCIES_FOR_RESULT_SET_FORWARD_ONLY", "int32_bitmask", _READ_ONLY),
    # no such result sets
    SqlInfo(570, "SQL_SUPPORTED_CONCURRENCIES_FOR_RESULT_SET_SCROLL_SENSITIVE", "int32_bitmask", 0),
    SqlInfo(571, "SQL_SUPPORTED_CONCURRENCIES_FOR_RESULT_SET_SCROLL_INSENSITIVE", "int32_bitmask", 0),
    SqlInfo(572, "SQL_BATCH_UPDATES_SUPPORTED", "bool_value", True),
    SqlInfo(573, "SQL_SAVEPOINTS_SUPPORTED", "bool_value", False),
    SqlInfo(574, "SQL_NAMED_PARAMETERS_SUPPORTED", "bool_value", False),  # of callable statements: there are none
    SqlInfo(575, "SQL_LOCATORS_UPDATE_COPY", "bool_value", False),
    SqlInfo(576, "SQL_STORED_FUNCTIONS_USING_CALL_SYNTAX_SUPPORTED", "bool_value", False),
)

_CHILDREN: Final = tuple(SQL_INFO_VALUE.field(i).name for i in range(SQL_INFO_VALUE.num_fields))


def sql_info_table(codes: Sequence[int], facts: SqlInfoFacts) -> pa.Table:
    """Return the result of GetSqlInfo in one batch, ordered by code.

    No codes at all ask for every code; a code that is not known is left out, one asked twice is answered once.
    """
    wanted = set(codes)
    rows = [info for info in SQL_INFO if not wanted or info.code in wanted]
    values: dict[str, list[object]] = {child: [] for child in _CHILDREN}
    kinds: list[int] = []
    offsets: list[int] = []
    for info in rows:
        value = info.resolve(facts)
        kinds.append(_CHILDREN.index(info.child))
        offsets.append(len(values[info.child]))
        values[info.child].append(list(value.items()) if isinstance(value, Mapping) else value)
    union = pa.UnionArray.from_dense(
        pa.array(kinds, pa.int8()),
        pa.array(offsets, pa.int32()),
        [pa.array(values[child], SQL_INFO_VALUE.field(i).type) for i, child in enumerate(_CHILDREN)],
        list(_CHILDREN),
        SQL_INFO_VALUE.type_codes,
    )
    info_name = pa.array([info.code for info in rows], pa.uint32())
    batch = pa.RecordBatch.from_arrays([info_name, union], schema=SQL_INFO_SCHEMA)
    return pa.Table.from_batches([batch])
