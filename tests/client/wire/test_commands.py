import pytest

from tickflight.wire import WireError
from tickflight.wire.commands import (
    COMMANDS,
    AppendStream,
    Command,
    CommandGetDbSchemas,
    CommandGetSqlInfo,
    CommandGetTables,
    CommandGetXdbcTypeInfo,
    CommandStatementIngest,
    CommandStatementQuery,
    TableDefinitionOptions,
    parse_command,
)
from tickflight.wire.enums import TableExistsOption, TableNotExistOption
from tickflight.wire.tickets import TicketStatementQuery

SQL = "type.googleapis.com/arrow.flight.protocol.sql."


def wrapped(url, value_hex):
    """The Any by hand: field 1 the URL, field 2 the message; no field 2 when it is empty."""
    url_bytes, value = url.encode(), bytes.fromhex(value_hex)
    return b"\x0a" + bytes([len(url_bytes)]) + url_bytes + (b"\x12" + bytes([len(value)]) + value if value else b"")


@pytest.mark.parametrize(
    ("command", "name", "value_hex"),
    [
        (CommandStatementQuery(query="SELECT 1"), "CommandStatementQuery", "0a08" + b"SELECT 1".hex()),
        (CommandStatementQuery(query="x", transaction_id=b""), "CommandStatementQuery", "0a0178" + "1200"),
        (CommandGetSqlInfo(info=(8, 300)), "CommandGetSqlInfo", "0a03" + "08" + "ac02"),
        (CommandGetXdbcTypeInfo(data_type=-5), "CommandGetXdbcTypeInfo", "08" + "fb" + "ff" * 8 + "01"),
        (CommandGetXdbcTypeInfo(data_type=0), "CommandGetXdbcTypeInfo", "0800"),
        (CommandGetDbSchemas(catalog=""), "CommandGetDbSchemas", "0a00"),
        (
            CommandGetTables(table_name_filter_pattern="t%", table_types=("table",), include_schema=True),
            "CommandGetTables",
            "1a027425" + "2205" + b"table".hex() + "2801",
        ),
        (
            CommandStatementIngest(
                table_definition_options=TableDefinitionOptions(
                    TableNotExistOption.TABLE_NOT_EXIST_OPTION_FAIL, TableExistsOption.TABLE_EXISTS_OPTION_APPEND
                ),
                table="t",
                schema="s",
                options={"k": "v"},
            ),
            "CommandStatementIngest",
            "0a0408021002" + "120174" + "1a0173" + "c23e06" + "0a016b" + "120176",
        ),
    ],
)
def test_command_has_the_bytes_that_its_field_numbers_say(command, name, value_hex):
    data = wrapped(SQL + name, value_hex)
    assert command.serialize() == data
    assert parse_command(data) == command


def test_every_row_of_the_table_is_the_url_of_its_class():
    assert {url: cls.type_url() for url, cls in COMMANDS.items()} == {url: url for url in COMMANDS}
    assert set(COMMANDS.values()) == set(Command.__args__)


@pytest.mark.parametrize("cls", COMMANDS.values(), ids=lambda cls: cls.__name__)
def test_every_command_is_found_by_its_url(cls):
    assert parse_command(cls().serialize()) == cls()


@pytest.mark.parametrize("data", [b"", b"\xff", b"SELECT 1", b"\x0a\x05ab", wrapped("", "0a00")])
def test_bytes_that_are_no_any_are_refused(data):
    with pytest.raises(WireError, match="Flight SQL command is expected") as caught:
        parse_command(data)
    assert caught.value.kind == "malformed"


def test_a_ticket_is_not_a_command():
    with pytest.raises(WireError, match="TicketStatementQuery where a Flight SQL command is expected") as caught:
        parse_command(TicketStatementQuery(b"h").serialize())
    assert caught.value.kind == "unknown"


def test_a_damaged_command_is_reported_by_its_name():
    with pytest.raises(WireError, match=r"malformed arrow\.flight\.protocol\.sql\.CommandGetTables") as caught:
        parse_command(wrapped(SQL + "CommandGetTables", "0a09"))
    assert caught.value.message_type == "arrow.flight.protocol.sql.CommandGetTables"


def test_an_enum_number_that_is_not_known_is_refused():
    with pytest.raises(WireError, match="9 is not a valid TableNotExistOption"):
        parse_command(wrapped(SQL + "CommandStatementIngest", "0a020809"))


def test_append_stream_has_the_bytes_that_its_field_numbers_say():
    command = AppendStream(table="trades", schema="market", producer=b"\x01\x02")
    value = "0a06" + b"trades".hex() + "1206" + b"market".hex() + "1a020102"
    assert command.serialize() == wrapped("type.googleapis.com/tickflight.v1.AppendStream", value)
