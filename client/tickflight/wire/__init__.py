"""The wire: every message that goes over Flight SQL, as frozen dataclasses with ``parse`` and ``serialize``.

    codec      bytes to dataclasses, generically; WireError
    commands   FlightDescriptor.cmd              parse_command
    tickets    Ticket.ticket                     parse_ticket
    actions    Action.body and Result.body       parse_action_request, parse_action_result
    append     app_metadata of batches and put results
    streams    tails, replays, live queries, and their marks
    flight     parts of the above that belong to Flight itself
    enums      numbers with names

There is no I/O here and no pyarrow: proto-notes/flight-sql.md is the page of it.
"""

from tickflight.wire.codec import Message, WireError, Wrapped

__all__ = ["Message", "WireError", "Wrapped"]
