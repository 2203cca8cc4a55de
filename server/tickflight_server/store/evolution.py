"""Schemas that change between versions of the server: what may change without migration, and how old rows are read.

The rule of this file: a new nullable column and a wider type need no migration, old rows then read as null and as the
same value; everything else is refused, with both schemas shown.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tickflight_server.errors import StorageError

_INTS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())


def widens(old: pa.DataType, new: pa.DataType) -> bool:
    """Return whether every value of ``old`` is also one of ``new``."""
    if old == new:
        return True
    if pa.types.is_list(old) and pa.types.is_list(new):
        return widens(old.value_type, new.value_type)
    if old in _INTS:
        if new in _INTS:
            return _INTS.index(old) < _INTS.index(new)
        if pa.types.is_decimal(new):
            return bool(new.precision - new.scale >= len(str(2 ** (old.bit_width - 1))))
        return bool(new == pa.float64() and old != pa.int64())
    if pa.types.is_decimal(old) and pa.types.is_decimal(new):
        return bool(new.scale >= old.scale and new.precision - new.scale >= old.precision - old.scale)
    return bool(old == pa.float32() and new == pa.float64())


def evolve(table: str, stored: pa.Schema, wanted: pa.Schema, required: tuple[str, ...]) -> pa.Schema | None:
    """Return the schema that holds the rows of both, or None if ``stored`` does already.

    Columns that only ``stored`` has stay: a newer server made them.

    Raises:
        StorageError: a type changed in another way than by widening, or a new column may not be null.
    """
    names = set(stored.names)
    fields = {f.name: f for f in stored}
    changed = False
    for field in wanted:
        if field.name not in names:
            if field.name in required:
                raise _incompatible(table, f"column {field.name!r} is new and may not be null", stored, wanted)
            fields[field.name] = field
            changed = True
        elif field.type != (old := fields[field.name].type):
            if widens(old, field.type):
                fields[field.name] = field
                changed = True
            elif not widens(field.type, old):
                reason = f"column {field.name!r} is stored as {old} and cannot become {field.type}"
                raise _incompatible(table, reason, stored, wanted)
    return pa.schema(list(fields.values())) if changed else None


def _incompatible(table: str, reason: str, stored: pa.Schema, wanted: pa.Schema) -> StorageError:
    return StorageError(
        f"table {table}: {reason}. Stored: {_text(stored)}. Wanted: {_text(wanted)}.",
        hint="lakehouse.numeric_type must stay what it was when the table was made; other changes need a new table.",
    )


def _text(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} {f.type}" for f in schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def adapt(rows: Any, schema: pa.Schema) -> Any:
    """Return ``rows``, a table or a batch, in ``schema``: columns by name, missing ones null, narrower types widened.

    Raises:
        pa.ArrowInvalid: a type is not one that widens to the schema's.
    """
    if rows.schema.equals(schema):
        return rows
    columns = []
    for field in schema:
        place = rows.schema.get_field_index(field.name)
        if place < 0:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows.column(place)
        if not widens(_plain(column.type), _plain(field.type)):
            raise pa.ArrowInvalid(f"column {field.name!r} is {column.type}, which is not {field.type} or narrower")
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        columns.append(column.cast(field.type))
    return type(rows).from_arrays(columns, schema=schema)
