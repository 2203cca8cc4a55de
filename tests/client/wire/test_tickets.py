import pytest

from tickflight.wire import WireError
from tickflight.wire.commands import CommandGetTables, CommandStatementUpdate
from tickflight.wire.tickets import TICKETS, Query, Ticket, TicketStatementQuery, parse_ticket


def test_every_row_of_the_table_is_the_url_of_its_class():
    assert {url: cls.type_url() for url, cls in TICKETS.items()} == {url: url for url in TICKETS}
    assert set(TICKETS.values()) == set(Ticket.__args__)


@pytest.mark.parametrize(
    "ticket", [TicketStatementQuery(b"\x00h"), Query("SELECT ?", b"ipc", b"id"), CommandGetTables(catalog="")]
)
def test_a_ticket_comes_back_as_it_was(ticket):
    assert parse_ticket(ticket.serialize()) == ticket


def test_query_has_the_bytes_that_its_field_numbers_say():
    url = b"type.googleapis.com/tickflight.v1.Query"
    assert Query(sql="SELECT 1").serialize() == b"\x0a\x27" + url + b"\x12\x0a" + b"\x0a\x08SELECT 1"


@pytest.mark.parametrize("data", [b"", b"\x00", b"ticket", CommandStatementUpdate("DROP").serialize()])
def test_what_is_no_ticket_is_refused(data):
    with pytest.raises(WireError, match="a ticket is expected"):
        parse_ticket(data)
