import pyarrow as pa
import pytest

from tickflight.wire import commands as c
from tickflight_server.flight.result_schemas import RESULT_SCHEMAS, SQL_INFO_VALUE, result_schema

TYPES = {
    "utf8": pa.string(),
    "int32": pa.int32(),
    "uint32": pa.uint32(),
    "uint8": pa.uint8(),
    "bool": pa.bool_(),
    "binary": pa.binary(),
    "list": pa.list_(pa.field("item", pa.string(), nullable=False)),
    "union": SQL_INFO_VALUE,
}
KEYS = (
    "pk_catalog_name utf8; pk_db_schema_name utf8; pk_table_name utf8 NN; pk_column_name utf8 NN; "
    "fk_catalog_name utf8; fk_db_schema_name utf8; fk_table_name utf8 NN; fk_column_name utf8 NN; "
    "key_sequence int32 NN; fk_key_name utf8; pk_key_name utf8; update_rule uint8 NN; delete_rule uint8 NN"
)
TABLES = "catalog_name utf8; db_schema_name utf8; table_name utf8 NN; table_type utf8 NN"
FACTS = [
    (c.CommandGetSqlInfo(), "info_name uint32 NN; value union NN"),
    (c.CommandGetCatalogs(), "catalog_name utf8 NN"),
    (c.CommandGetDbSchemas(), "catalog_name utf8; db_schema_name utf8 NN"),
    (c.CommandGetTables(), TABLES),
    (c.CommandGetTables(include_schema=True), TABLES + "; table_schema binary NN"),
    (c.CommandGetTableTypes(), "table_type utf8 NN"),
    (
        c.CommandGetPrimaryKeys(),
        (
            "catalog_name utf8; db_schema_name utf8; table_name utf8 NN; column_name utf8 NN; key_sequence int32 NN; "
            "key_name utf8"
        ),
    ),
    (c.CommandGetExportedKeys(), KEYS),
    (c.CommandGetImportedKeys(), KEYS),
    (c.CommandGetCrossReference(), KEYS),
    (
        c.CommandGetXdbcTypeInfo(),
        (
            "type_name utf8 NN; data_type int32 NN; column_size int32; literal_prefix utf8; literal_suffix utf8; "
            "create_params list; nullable int32 NN; case_sensitive bool NN; searchable int32 NN; "
            "unsigned_attribute bool; fixed_prec_scale bool NN; auto_increment bool; local_type_name utf8; "
            "minimum_scale int32; maximum_scale int32; sql_data_type int32 NN; datetime_subcode int32; "
            "num_prec_radix int32; interval_precision int32"
        ),
    ),
]


@pytest.mark.parametrize(("command", "columns"), FACTS, ids=lambda value: type(value).__name__)
def test_schema_is_the_one_of_the_facts(command, columns):
    parts = [column.split() for column in columns.split("; ")]
    expected = pa.schema([pa.field(name, TYPES[kind], nullable=not rest) for name, kind, *rest in parts])
    assert result_schema(command).equals(expected, check_metadata=True)


def test_every_catalog_command_has_a_schema():
    catalog = {cls for cls in c.COMMANDS.values() if cls.__name__.startswith("CommandGet")}
    assert set(RESULT_SCHEMAS) == catalog


def test_no_result_has_metadata():
    for schema in RESULT_SCHEMAS.values():
        assert schema.metadata is None
        assert all(field.metadata is None for field in schema)


def test_union_children_have_the_ids_0_to_5_in_order():
    assert SQL_INFO_VALUE.mode == "dense"
    assert list(SQL_INFO_VALUE.type_codes) == [0, 1, 2, 3, 4, 5]
    assert [(SQL_INFO_VALUE.field(i).name, SQL_INFO_VALUE.field(i).type) for i in range(6)] == [
        ("string_value", pa.string()),
        ("bool_value", pa.bool_()),
        ("bigint_value", pa.int64()),
        ("int32_bitmask", pa.int32()),
        ("string_list", pa.list_(pa.string())),
        ("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
    ]
