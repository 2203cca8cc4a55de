"""The worked examples of proto-notes/flight-sql.md."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tickflight.wire.actions import ACTIONS, CreatePin, HealthComponent, Pin
from tickflight.wire.append import AppendAck, AppendResult
from tickflight.wire.commands import COMMANDS, AppendStream, parse_command
from tickflight.wire.streams import Selection, Tail
from tickflight.wire.tickets import Query, parse_ticket

NOTES = Path(__file__).parents[3] / "proto-notes"
PAGE = (NOTES / "flight-sql.md").read_text()


def example(name, page=PAGE):
    (block,) = re.findall(rf"```hex {name}\n(.*?)```", page, re.DOTALL)
    return bytes.fromhex(re.sub(r"#.*", "", block))


def claimed(cls, page=PAGE):
    (text,) = re.findall(rf"^`({cls.__name__}\(.*?\))`", page, re.MULTILINE | re.DOTALL)
    return eval(text, {cls.__name__: cls, "Selection": Selection})


def test_worked_example_of_a_tail_is_what_its_page_claims():
    page = (NOTES / "tail.md").read_text()
    assert parse_ticket(example("Tail", page)) == claimed(Tail, page) == parse_command(example("Tail", page))
    assert claimed(Tail, page).serialize() == example("Tail", page)


@pytest.mark.parametrize(
    ("cls", "parse"),
    [
        (Query, parse_ticket),
        (AppendStream, parse_command),
        (AppendAck, AppendAck.parse),
        (Pin, Pin.parse),
        (HealthComponent, HealthComponent.parse),
    ],
)
def test_worked_example_is_what_the_page_claims(cls, parse):
    assert parse(example(cls.__name__)) == claimed(cls)
    assert claimed(cls).serialize() == example(cls.__name__)


def test_acknowledgement_in_a_put_result_is_as_the_page_says():
    assert AppendResult(ack=claimed(AppendAck)).serialize() == bytes.fromhex("0a0a") + example("AppendAck")


def test_short_messages_are_as_the_page_says():
    assert replace(claimed(AppendAck), repeated=2).serialize() == example("AppendAck") + bytes.fromhex("3002")
    assert CreatePin(seconds=3600).serialize() == bytes.fromhex("08901c")
    assert "`CreatePin(seconds=3600)`, which is `08 90 1c`" in PAGE


def test_every_action_is_on_the_page():
    assert not [name for name in ACTIONS if f"`{name}`" not in PAGE]


def test_every_command_is_on_the_page():
    short = [cls.__name__.replace("CommandGet", "") for cls in COMMANDS.values()]
    assert not [name for name in short if name not in PAGE]
