import duckdb
import pyarrow as pa
import pytest

from tickflight_server.flight.duckdb_types import SIMPLE_NAMES, XDBC_TYPES, type_name

COMPOSED = [
    pa.decimal128(38, 18),
    pa.decimal64(9, 2),
    pa.binary(16),
    pa.duration("us"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("s", "Europe/Berlin"),
    pa.timestamp("ns", "UTC"),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.float64()),
    pa.large_list(pa.list_(pa.decimal128(38, 18))),
    pa.list_(pa.int32(), 3),
    pa.map_(pa.string(), pa.list_(pa.int32())),
    pa.struct([("a", pa.int32()), ("b c", pa.string()), ('q"', pa.bool_())]),
]
SAMPLES = {
    "'": {"VARCHAR": "x", "JSON": "1", "UUID": "00000000-0000-0000-0000-000000000001", "BLOB": "x"},
    "DATE '": "2020-01-02",
    "INTERVAL '": "1 day",
}


@pytest.mark.parametrize("arrow_type", [*SIMPLE_NAMES, *COMPOSED], ids=str)
def test_name_is_the_one_that_duckdb_gives_the_column(arrow_type):
    source = pa.schema([("x", arrow_type)]).empty_table()
    con = duckdb.connect()
    con.register("source", source)
    assert type_name(arrow_type) == str(con.sql("SELECT * FROM source").types[0])


def test_type_that_duckdb_does_not_take_still_has_a_name():
    assert type_name(pa.float16()) == "VARCHAR"


@pytest.mark.parametrize("xdbc", XDBC_TYPES, ids=lambda xdbc: xdbc.name)
def test_type_of_the_table_exists_and_its_literals_are_of_it(xdbc):
    con = duckdb.connect()
    kind = str(con.sql(f"SELECT CAST(NULL AS {xdbc.name})").types[0])
    assert kind.partition("(")[0] == xdbc.name
    if xdbc.prefix is None:
        return
    sample = SAMPLES.get(xdbc.prefix, "10:00:00" if xdbc.name.startswith("TIME") else "")
    if xdbc.name.startswith("TIMESTAMP"):
        sample = "2020-01-02 10:00:00"
    text = sample[xdbc.name] if isinstance(sample, dict) else sample
    assert str(con.sql(f"SELECT {xdbc.prefix}{text}{xdbc.suffix}").types[0]) == kind


def test_sizes_of_decimals_are_those_of_duckdb():
    decimal = next(xdbc for xdbc in XDBC_TYPES if xdbc.name == "DECIMAL")
    assert duckdb.connect().execute(f"SELECT 0::DECIMAL({decimal.column_size}, {decimal.scale_max})").fetchall()
    with pytest.raises(duckdb.Error):
        duckdb.connect().execute(f"SELECT 1::DECIMAL({decimal.column_size + 1}, 0)")
