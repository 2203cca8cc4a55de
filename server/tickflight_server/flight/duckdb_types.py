"""DuckDB's names for types: of Arrow columns, and the table of types that XDBC clients ask for.

The rule of this file: a type has the name that DuckDB prints for it, so that what a client reads in the metadata can be
written into a CAST. Both tables are literals; tests hold them against the installed duckdb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from tickflight.wire.enums import Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode
from tickflight_server.query.trees import quoted

UNKNOWN: Final = "VARCHAR"
"""Name for an Arrow type that DuckDB does not take: what a client can always read it as."""

SIMPLE_NAMES: Final[Mapping[pa.DataType, str]] = {
    pa.null(): '"NULL"',
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.string_view(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.binary_view(): "BLOB",
    pa.date32(): "DATE",
    pa.date64(): "DATE",
    pa.time32("s"): "TIME",
    pa.time32("ms"): "TIME",
    pa.time64("us"): "TIME",
    pa.time64("ns"): "TIME_NS",
    pa.timestamp("s"): "TIMESTAMP_S",
    pa.timestamp("ms"): "TIMESTAMP_MS",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("ns"): "TIMESTAMP_NS",
    pa.month_day_nano_interval(): "INTERVAL",
    pa.uuid(): "UUID",
    pa.json_(): "JSON",
    pa.bool8(): "BOOLEAN",
}

_COMPOSED: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], str]], ...]] = (
    (pa.types.is_decimal, lambda t: f"DECIMAL({t.precision},{t.scale})"),
    (pa.types.is_fixed_size_binary, lambda t: "BLOB"),
    (pa.types.is_duration, lambda t: "INTERVAL"),
    (pa.types.is_timestamp, lambda t: "TIMESTAMPTZ_NS" if t.unit == "ns" else "TIMESTAMP WITH TIME ZONE"),
    (pa.types.is_dictionary, lambda t: type_name(t.value_type)),
    (pa.types.is_fixed_size_list, lambda t: f"{type_name(t.value_type)}[{t.list_size}]"),
    (pa.types.is_list, lambda t: f"{type_name(t.value_type)}[]"),
    (pa.types.is_large_list, lambda t: f"{type_name(t.value_type)}[]"),
    (pa.types.is_map, lambda t: f"MAP({type_name(t.key_type)}, {type_name(t.item_type)})"),
    (pa.types.is_struct, lambda t: f"STRUCT({', '.join(f'{_quoted(f.name)} {type_name(f.type)}' for f in t)})"),
)


def type_name(arrow_type: pa.DataType) -> str:
    """Return the name that DuckDB has for the type of an Arrow column."""
    name = SIMPLE_NAMES.get(arrow_type)
    if name is not None:
        return name
    for applies, compose in _COMPOSED:
        if applies(arrow_type):
            return compose(arrow_type)
    return UNKNOWN


def _quoted(name: str) -> str:
    plain = name.isidentifier() and name.isascii() and name == name.lower()
    return name if plain else quoted(name)


@dataclass(frozen=True)
class XdbcType:
    """One row of GetXdbcTypeInfo. What is not told here is the same for all: see ``row``."""

    name: str
    data_type: XdbcDataType
    column_size: int | None = None
    prefix: str | None = None
    suffix: str | None = None
    create_params: tuple[str, ...] = ()
    unsigned: bool | None = None
    scale_max: int | None = None
    radix: int | None = None
    subcode: XdbcDatetimeSubcode | None = None

    def row(self) -> tuple[object, ...]:
        """Return the values in the order of ``result_schemas.XDBC_TYPE_INFO``."""
        is_text = self.data_type == XdbcDataType.XDBC_VARCHAR
        kind = XdbcDataType.XDBC_DATETIME if self.subcode is not None else self.data_type  # the verbose type
        return (
            self.name,
            int(self.data_type),
            self.column_size,
            self.prefix,
            self.suffix,
            list(self.create_params) or None,
            int(Nullable.NULLABILITY_NULLABLE),
            is_text,
            int(Searchable.SEARCHABLE_FULL if is_text else Searchable.SEARCHABLE_BASIC),
            self.unsigned,
            False,  # fixed_prec_scale: there is no money type
            None if self.unsigned is None else False,  # auto_increment
            self.name,
            None if self.scale_max is None else 0,
            self.scale_max,
            int(kind),
            None if self.subcode is None else int(self.subcode),
            self.radix,
            None,  # interval_precision
        )


_T = XdbcDataType
_S = XdbcDatetimeSubcode

# Composed types (LIST, STRUCT, MAP, ARRAY, UNION, ENUM) have no one name and are left out.
XDBC_TYPES: Final = (
    XdbcType("BOOLEAN", _T.XDBC_BIT, 1),
    XdbcType("TINYINT", _T.XDBC_TINYINT, 3, unsigned=False, scale_max=0, radix=10),
    XdbcType("SMALLINT", _T.XDBC_SMALLINT, 5, unsigned=False, scale_max=0, radix=10),
    XdbcType("INTEGER", _T.XDBC_INTEGER, 10, unsigned=False, scale_max=0, radix=10),
    XdbcType("BIGINT", _T.XDBC_BIGINT, 19, unsigned=False, scale_max=0, radix=10),
    XdbcType("HUGEINT", _T.XDBC_NUMERIC, 39, unsigned=False, scale_max=0, radix=10),
    XdbcType("UTINYINT", _T.XDBC_TINYINT, 3, unsigned=True, scale_max=0, radix=10),
    XdbcType("USMALLINT", _T.XDBC_SMALLINT, 5, unsigned=True, scale_max=0, radix=10),
    XdbcType("UINTEGER", _T.XDBC_INTEGER, 10, unsigned=True, scale_max=0, radix=10),
    XdbcType("UBIGINT", _T.XDBC_BIGINT, 20, unsigned=True, scale_max=0, radix=10),
    XdbcType("UHUGEINT", _T.XDBC_NUMERIC, 39, unsigned=True, scale_max=0, radix=10),
    XdbcType("FLOAT", _T.XDBC_REAL, 24, unsigned=False, radix=2),
    XdbcType("DOUBLE", _T.XDBC_DOUBLE, 53, unsigned=False, radix=2),
    XdbcType(
        "DECIMAL", _T.XDBC_DECIMAL, 38, create_params=("precision", "scale"), unsigned=False, scale_max=38, radix=10
    ),
    XdbcType("VARCHAR", _T.XDBC_VARCHAR, None, "'", "'"),
    XdbcType("JSON", _T.XDBC_VARCHAR, None, "'", "'::JSON"),
    XdbcType("UUID", _T.XDBC_CHAR, 36, "'", "'::UUID"),
    XdbcType("BLOB", _T.XDBC_VARBINARY, None, "'", "'::BLOB"),
    XdbcType("DATE", _T.XDBC_DATE, 10, "DATE '", "'", subcode=_S.XDBC_SUBCODE_DATE),
    XdbcType("TIME", _T.XDBC_TIME, 15, "TIME '", "'", scale_max=6, subcode=_S.XDBC_SUBCODE_TIME),
    XdbcType("TIME_NS", _T.XDBC_TIME, 18, "TIME_NS '", "'", scale_max=9, subcode=_S.XDBC_SUBCODE_TIME),
    XdbcType(
        "TIME WITH TIME ZONE",
        _T.XDBC_TIME,
        21,
        "TIMETZ '",
        "'",
        scale_max=6,
        subcode=_S.XDBC_SUBCODE_TIME_WITH_TIMEZONE,
    ),
    XdbcType("TIMESTAMP", _T.XDBC_TIMESTAMP, 26, "TIMESTAMP '", "'", scale_max=6, subcode=_S.XDBC_SUBCODE_TIMESTAMP),
    XdbcType("TIMESTAMP_S", _T.XDBC_TIMESTAMP, 19, "TIMESTAMP_S '", "'", subcode=_S.XDBC_SUBCODE_TIMESTAMP),
    XdbcType(
        "TIMESTAMP_MS", _T.XDBC_TIMESTAMP, 23, "TIMESTAMP_MS '", "'", scale_max=3, subcode=_S.XDBC_SUBCODE_TIMESTAMP
    ),
    XdbcType(
        "TIMESTAMP_NS", _T.XDBC_TIMESTAMP, 29, "TIMESTAMP_NS '", "'", scale_max=9, subcode=_S.XDBC_SUBCODE_TIMESTAMP
    ),
    XdbcType(
        "TIMESTAMP WITH TIME ZONE",
        _T.XDBC_TIMESTAMP,
        32,
        "TIMESTAMPTZ '",
        "'",
        scale_max=6,
        subcode=_S.XDBC_SUBCODE_TIMESTAMP_WITH_TIMEZONE,
    ),
    XdbcType("INTERVAL", _T.XDBC_INTERVAL, None, "INTERVAL '", "'"),
)
