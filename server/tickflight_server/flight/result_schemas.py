"""The exact schemas of the results of the catalog commands.

The rule of this file: literals only, as section 7 of the Flight SQL facts has them. Clients compare names, types and
nullability and refuse a result that differs ("Invalid schema returned"), so that GetFlightInfo, GetSchema and DoGet all
hand out these very objects.

Where the implementations of the protocol differ: ``key_sequence`` stands before ``key_name`` in the primary keys, as in
the C++, Go and Java servers and unlike the protocol's text; the children of the SqlInfo union are nullable, as in the
text and in Go, since two codes (the Substrait versions) have no value here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from tickflight.wire import commands as c


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _columns(*fields: pa.Field | tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(fields)


SQL_INFO_VALUE: Final = pa.dense_union(
    [
        pa.field("string_value", pa.string()),
        pa.field("bool_value", pa.bool_()),
        pa.field("bigint_value", pa.int64()),
        pa.field("int32_bitmask", pa.int32()),
        pa.field("string_list", pa.list_(pa.string())),
        pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
    ],
    type_codes=[0, 1, 2, 3, 4, 5],
)

SQL_INFO: Final = _columns(_required("info_name", pa.uint32()), _required("value", SQL_INFO_VALUE))

CATALOGS: Final = _columns(_required("catalog_name", pa.string()))

DB_SCHEMAS: Final = _columns(("catalog_name", pa.string()), _required("db_schema_name", pa.string()))

TABLES: Final = _columns(
    ("catalog_name", pa.string()),
    ("db_schema_name", pa.string()),
    _required("table_name", pa.string()),
    _required("table_type", pa.string()),
)

TABLES_WITH_SCHEMA: Final = TABLES.append(_required("table_schema", pa.binary()))

TABLE_TYPES: Final = _columns(_required("table_type", pa.string()))

PRIMARY_KEYS: Final = _columns(
    ("catalog_name", pa.string()),
    ("db_schema_name", pa.string()),
    _required("table_name", pa.string()),
    _required("column_name", pa.string()),
    _required("key_sequence", pa.int32()),
    ("key_name", pa.string()),
)

FOREIGN_KEYS: Final = _columns(
    ("pk_catalog_name", pa.string()),
    ("pk_db_schema_name", pa.string()),
    _required("pk_table_name", pa.string()),
    _required("pk_column_name", pa.string()),
    ("fk_catalog_name", pa.string()),
    ("fk_db_schema_name", pa.string()),
    _required("fk_table_name", pa.string()),
    _required("fk_column_name", pa.string()),
    _required("key_sequence", pa.int32()),
    ("fk_key_name", pa.string()),
    ("pk_key_name", pa.string()),
    _required("update_rule", pa.uint8()),
    _required("delete_rule", pa.uint8()),
)

XDBC_TYPE_INFO: Final = _columns(
    _required("type_name", pa.string()),
    _required("data_type", pa.int32()),
    ("column_size", pa.int32()),
    ("literal_prefix", pa.string()),
    ("literal_suffix", pa.string()),
    ("create_params", pa.list_(_required("item", pa.string()))),
    _required("nullable", pa.int32()),
    _required("case_sensitive", pa.bool_()),
    _required("searchable", pa.int32()),
    ("unsigned_attribute", pa.bool_()),
    _required("fixed_prec_scale", pa.bool_()),
    ("auto_increment", pa.bool_()),
    ("local_type_name", pa.string()),
    ("minimum_scale", pa.int32()),
    ("maximum_scale", pa.int32()),
    _required("sql_data_type", pa.int32()),
    ("datetime_subcode", pa.int32()),
    ("num_prec_radix", pa.int32()),
    ("interval_precision", pa.int32()),
)

CatalogCommand = (
    c.CommandGetSqlInfo
    | c.CommandGetXdbcTypeInfo
    | c.CommandGetCatalogs
    | c.CommandGetDbSchemas
    | c.CommandGetTables
    | c.CommandGetTableTypes
    | c.CommandGetPrimaryKeys
    | c.CommandGetExportedKeys
    | c.CommandGetImportedKeys
    | c.CommandGetCrossReference
)

RESULT_SCHEMAS: Final[Mapping[type[CatalogCommand], pa.Schema]] = {
    c.CommandGetSqlInfo: SQL_INFO,
    c.CommandGetXdbcTypeInfo: XDBC_TYPE_INFO,
    c.CommandGetCatalogs: CATALOGS,
    c.CommandGetDbSchemas: DB_SCHEMAS,
    c.CommandGetTables: TABLES,
    c.CommandGetTableTypes: TABLE_TYPES,
    c.CommandGetPrimaryKeys: PRIMARY_KEYS,
    c.CommandGetExportedKeys: FOREIGN_KEYS,
    c.CommandGetImportedKeys: FOREIGN_KEYS,
    c.CommandGetCrossReference: FOREIGN_KEYS,
}


def result_schema(command: CatalogCommand) -> pa.Schema:
    """Return the schema of the result of a catalog command."""
    if isinstance(command, c.CommandGetTables) and command.include_schema:
        return TABLES_WITH_SCHEMA
    return RESULT_SCHEMAS[type(command)]
