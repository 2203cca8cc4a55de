"""The results of the catalog commands, from a list of tables: pure functions, no server and no engine.

The rule of this file: a result is one batch (none when it is empty), sorted as the protocol says, in the very schema of
``result_schemas``; clients read the first batch and compare schemas. Which tables the caller may see is decided before:
what is not in the list does not exist here.

Filters: None does not narrow; "" means objects that have no catalog or no schema; a catalog is compared as it is; a
pattern knows % and _ and the escape that SqlInfo 513 names. Names are compared as they are stored, by upper and lower
case too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from tickflight.wire import commands as c
from tickflight_server.flight import result_schemas
from tickflight_server.flight.duckdb_types import XDBC_TYPES, type_name
from tickflight_server.flight.result_schemas import CatalogCommand
from tickflight_server.flight.sqlinfo import SqlInfoFacts, sql_info_table

TABLE_TYPES: Final = ("table", "view")
"""In lower case: sqlalchemy-adbc finds no tables of the type "TABLE"."""

ESCAPE: Final = "\\"
_NO_ACTION: Final = 3  # UpdateDeleteRules: the engine knows no other
_METADATA_PREFIX: Final = "ARROW:FLIGHT:SQL:"


@dataclass(frozen=True)
class TableInfo:
    """A table or view as clients see it.

    ``table_type`` is one of TABLE_TYPES. ``arrow_schema`` is the schema of ``SELECT *``; a field's metadata ``comment``
    becomes the column's remarks. ``remarks`` is the table's comment.
    """

    catalog: str | None
    schema: str | None
    name: str
    table_type: str
    arrow_schema: pa.Schema
    remarks: str = ""
    writable: bool = False


@dataclass(frozen=True)
class KeyInfo:
    """A primary key, or a foreign key when it has a ``target``; tables are (catalog, schema, name)."""

    table: tuple[str | None, str | None, str]
    columns: tuple[str, ...]
    name: str | None
    target: tuple[str | None, str | None, str] | None = None
    target_columns: tuple[str, ...] = ()
    target_key: str | None = None


@dataclass(frozen=True)
class SchemaInfo:
    """A schema that is there even when no table is in it."""

    catalog: str | None
    name: str


def catalog_table(
    command: CatalogCommand,
    tables: Sequence[TableInfo],
    facts: SqlInfoFacts,
    schemas: Iterable[SchemaInfo] = (),
    keys: Iterable[KeyInfo] = (),
) -> pa.Table:
    """Return the result of any catalog command, in one batch and with the schema ``result_schema(command)``."""
    if isinstance(command, c.CommandGetSqlInfo):
        return sql_info_table(command.info, facts)
    if isinstance(command, c.CommandGetXdbcTypeInfo):
        return get_xdbc_type_info(command)
    if isinstance(command, c.CommandGetCatalogs):
        return get_catalogs(tables, schemas)
    if isinstance(command, c.CommandGetDbSchemas):
        return get_db_schemas(command, tables, schemas)
    if isinstance(command, c.CommandGetTables):
        return get_tables(command, tables)
    if isinstance(command, c.CommandGetTableTypes):
        return get_table_types()
    return get_keys(command, keys)


def get_catalogs(tables: Iterable[TableInfo], schemas: Iterable[SchemaInfo] = ()) -> pa.Table:
    """Return the names of the catalogs that anything is in."""
    names = {table.catalog for table in tables} | {item.catalog for item in schemas}
    return _table(result_schemas.CATALOGS, sorted((name,) for name in names if name is not None))


def get_db_schemas(
    command: c.CommandGetDbSchemas, tables: Iterable[TableInfo], schemas: Iterable[SchemaInfo] = ()
) -> pa.Table:
    """Return the schemas that pass the filters: those of the tables and those named in ``schemas``."""
    in_catalog, in_schema = _exact(command.catalog), _pattern(command.db_schema_filter_pattern)
    pairs = {(table.catalog, table.schema) for table in tables} | {(item.catalog, item.name) for item in schemas}
    rows = [pair for pair in pairs if pair[1] is not None and in_catalog(pair[0]) and in_schema(pair[1])]
    return _table(result_schemas.DB_SCHEMAS, sorted(rows, key=_nulls_first))


def get_tables(command: c.CommandGetTables, tables: Iterable[TableInfo]) -> pa.Table:
    """Return the tables that pass the filters, each with its IPC-encapsulated schema if the command asks for it.

    A table type is found in any case: clients ask for "TABLE" by habit.
    """
    in_catalog, in_schema = _exact(command.catalog), _pattern(command.db_schema_filter_pattern)
    in_table = _pattern(command.table_name_filter_pattern)
    types = {name.lower() for name in command.table_types}
    found = [
        table
        for table in tables
        if in_catalog(table.catalog)
        and in_schema(table.schema)
        and in_table(table.name)
        and (not types or table.table_type.lower() in types)
    ]
    found.sort(key=lambda table: _nulls_first((table.catalog, table.schema, table.name, table.table_type)))
    rows: list[tuple[object, ...]] = [(table.catalog, table.schema, table.name, table.table_type) for table in found]
    if not command.include_schema:
        return _table(result_schemas.TABLES, rows)
    described = [(*row, table_schema(table).serialize().to_pybytes()) for row, table in zip(rows, found, strict=True)]
    return _table(result_schemas.TABLES_WITH_SCHEMA, described)


def get_table_types() -> pa.Table:
    """Return the table types."""
    return _table(result_schemas.TABLE_TYPES, [(name,) for name in sorted(TABLE_TYPES)])


def get_keys(
    command: (
        c.CommandGetPrimaryKeys | c.CommandGetExportedKeys | c.CommandGetImportedKeys | c.CommandGetCrossReference
    ),
    keys: Iterable[KeyInfo] = (),
) -> pa.Table:
    """Return the keys that the command asks for, a row a column; market data has none that a database enforces."""
    schema = result_schemas.RESULT_SCHEMAS[type(command)]
    if isinstance(command, c.CommandGetPrimaryKeys):
        wanted = _names(command.catalog, command.db_schema, command.table)
        found = [key for key in keys if key.target is None and wanted(key.table)]
        return _table(schema, [(*k.table, col, n, k.name) for k in found for n, col in enumerate(k.columns, 1)])
    foreign = [key for key in keys if key.target is not None and _is_asked_for(command, key)]
    rows = [
        (*key.target, theirs, *key.table, ours, number, key.name, key.target_key, _NO_ACTION, _NO_ACTION)
        for key in foreign
        if key.target is not None
        for number, (ours, theirs) in enumerate(zip(key.columns, key.target_columns, strict=True), 1)
    ]
    exported = isinstance(command, c.CommandGetExportedKeys)
    place = slice(4, 7) if exported else slice(0, 3)
    rows.sort(key=lambda row: (_nulls_first(row[place]), row[8]))  # type: ignore[arg-type]
    return _table(schema, rows)


def _is_asked_for(
    command: c.CommandGetExportedKeys | c.CommandGetImportedKeys | c.CommandGetCrossReference, key: KeyInfo
) -> bool:
    assert key.target is not None
    if isinstance(command, c.CommandGetExportedKeys):
        return _names(command.catalog, command.db_schema, command.table)(key.target)
    if isinstance(command, c.CommandGetImportedKeys):
        return _names(command.catalog, command.db_schema, command.table)(key.table)
    referenced = _names(command.pk_catalog, command.pk_db_schema, command.pk_table)
    referring = _names(command.fk_catalog, command.fk_db_schema, command.fk_table)
    return referenced(key.target) and referring(key.table)


def _names(catalog: str | None, schema: str | None, table: str) -> Callable[[tuple[str | None, str | None, str]], bool]:
    in_catalog, in_schema = _exact(catalog), _exact(schema)
    return lambda names: in_catalog(names[0]) and in_schema(names[1]) and names[2] == table


def get_xdbc_type_info(command: c.CommandGetXdbcTypeInfo) -> pa.Table:
    """Return DuckDB's types, or those of one XdbcDataType."""
    types = [t for t in XDBC_TYPES if command.data_type is None or t.data_type == command.data_type]
    types.sort(key=lambda t: (t.data_type, t.name))
    return _table(result_schemas.XDBC_TYPE_INFO, [t.row() for t in types])


def table_schema(table: TableInfo) -> pa.Schema:
    """Return the table's Arrow schema with the field metadata of Flight SQL, and no other."""
    fields = [field.with_metadata(column_metadata(table, field)) for field in table.arrow_schema]
    return pa.schema(fields, metadata={_METADATA_PREFIX + "REMARKS": table.remarks} if table.remarks else None)


def column_metadata(table: TableInfo, field: pa.Field) -> dict[str, str]:
    """Return the metadata of a column: where it is from, DuckDB's name of its type, what can be done with it.

    The schema's name goes under two keys: the protocol's text has DB_SCHEMA_NAME, the C++, Go and Java libraries (ADBC
    and JDBC among them) read SCHEMA_NAME.
    """
    name = type_name(field.type)
    found = {
        "CATALOG_NAME": table.catalog,
        "DB_SCHEMA_NAME": table.schema,
        "SCHEMA_NAME": table.schema,
        "TABLE_NAME": table.name,
        "TYPE_NAME": name,
        "IS_AUTO_INCREMENT": "0",
        "IS_CASE_SENSITIVE": "1" if name == "VARCHAR" else "0",
        "IS_READ_ONLY": "0" if table.writable else "1",
        "IS_SEARCHABLE": "1",
    }
    if pa.types.is_decimal(field.type):
        found |= {"PRECISION": str(field.type.precision), "SCALE": str(field.type.scale)}
    comment = (field.metadata or {}).get(b"comment")
    if comment:
        found["REMARKS"] = comment.decode()
    return {_METADATA_PREFIX + key: value for key, value in found.items() if value is not None}


def like(pattern: str) -> Callable[[str], bool]:
    """Return the test whether a name is LIKE the pattern, in time linear in pattern times name.

    % is any text, _ any character; the escape makes either of them, or itself, a plain character, and is one itself
    before anything else. Clients send whole SQL texts as patterns (pandas asks whether its query is a table), so that
    no pattern is an error and none is expensive.
    """
    plain, one, many = 0, 1, 2
    tokens: list[tuple[int, str]] = []
    place = 0
    while place < len(pattern):
        char = pattern[place]
        if char == ESCAPE and pattern[place + 1 : place + 2] in {"%", "_", ESCAPE}:
            place += 1
            tokens.append((plain, pattern[place]))
        else:
            tokens.append((many if char == "%" else one if char == "_" else plain, char))
        place += 1

    def matches(name: str) -> bool:
        token = at = 0
        last_many, retry = -1, 0
        while at < len(name):
            if token < len(tokens) and tokens[token][0] == many:
                last_many, retry = token, at
                token += 1
            elif token < len(tokens) and (tokens[token][0] == one or tokens[token][1] == name[at]):
                token += 1
                at += 1
            elif last_many >= 0:  # let the last % take one character more
                retry += 1
                token, at = last_many + 1, retry
            else:
                return False
        return all(kind == many for kind, _ in tokens[token:])

    return matches


def _exact(wanted: str | None) -> Callable[[str | None], bool]:
    if wanted is None:
        return lambda name: True
    return lambda name: (name or "") == wanted


def _pattern(pattern: str | None) -> Callable[[str | None], bool]:
    if not pattern:
        return _exact(pattern)
    matches = like(pattern)
    return lambda name: name is not None and matches(name)


def _nulls_first(row: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(value or "" for value in row)


def _table(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return the rows as a table of one batch; without rows, pyarrow sends the schema alone."""
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=schema)])
