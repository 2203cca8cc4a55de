import re
import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from enum import IntEnum
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given, settings
from hypothesis import strategies as st

import tickflight.wire
from tickflight.wire import (
    Message,
    WireError,
    Wrapped,
    actions,
    append,
    codec,
    commands,
    enums,
    flight,
    flight_pb2,
    flight_sql_pb2,
    pool,
    streams,
    tickets,
    tickflight_pb2,
)
from tickflight.wire.append import AppendBatch
from tickflight.wire.commands import CommandGetTables, CommandStatementQuery
from tickflight.wire.tickets import Query

FILES = (flight_sql_pb2, flight_pb2, tickflight_pb2)
MODULES = (commands, tickets, actions, append, flight, streams)
ALL_MESSAGES = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value not in (Message, Wrapped)
    },
    key=lambda cls: cls.full_name,
)

RANGES = {
    "uint32": st.integers(0, 2**32 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SESSION_VALUE = st.one_of(
    st.none(), TEXT, st.booleans(), RANGES["int64"], st.floats(allow_nan=False), st.lists(TEXT, max_size=3).map(tuple)
)
NANOSECONDS = st.integers(0, 4_000_000_000 * 10**9)
INTEGERS = {  # by field name, where it is narrower than int64
    "info": RANGES["uint32"],
    "data_type": RANGES["int32"],
    "sequence": RANGES["uint64"],
    "expiration_time": NANOSECONDS,
}


def values(hint, name):
    if hint == codec.SessionValue:
        return SESSION_VALUE
    if isinstance(hint, types.UnionType):
        members = [values(m, name) for m in typing.get_args(hint) if m is not type(None)]
        return st.one_of(st.none(), *members)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return st.lists(values(args[0], name), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(TEXT, values(args[1], name), max_size=3)
    if issubclass(hint, IntEnum):
        return st.sampled_from(list(hint))
    if issubclass(hint, Message):
        return messages(hint)
    if hint is int:
        return INTEGERS.get(name, RANGES["int64"])
    return {str: TEXT, bytes: st.binary(max_size=12), bool: st.booleans()}[hint]


def messages(cls):
    if cls is append.AppendResult:
        return st.one_of(
            messages(append.AppendAck).map(lambda ack: append.AppendResult(ack=ack)),
            messages(append.AppendError).map(lambda error: append.AppendResult(error=error)),
        )
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name], field.name) for field in fields(cls)})


@pytest.mark.parametrize("cls", ALL_MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(cls, data):
    message = data.draw(messages(cls))
    assert cls.parse(message.serialize()) == message


@pytest.mark.parametrize("cls", ALL_MESSAGES, ids=lambda cls: cls.__name__)
def test_dataclass_has_the_fields_of_the_protocol_in_its_order(cls):
    described = sorted(codec._plan(cls)[0].DESCRIPTOR.fields, key=lambda field: field.number)
    assert [field.name for field in fields(cls)] == [field.name for field in described]


def test_every_message_of_the_proto_files_has_a_dataclass():
    plain = set(codec.PLAIN_VALUES) | {"arrow.flight.protocol.SessionOptionValue.StringListValue"}
    names = set()
    for file in FILES:
        for described in file.DESCRIPTOR.message_types_by_name.values():
            nested = [n for n in described.nested_types if not n.GetOptions().map_entry]
            names |= {described.full_name, *(n.full_name for n in nested)}
    assert names - plain == {cls.full_name for cls in ALL_MESSAGES}


def test_every_enum_has_the_names_and_numbers_of_the_proto_files():
    renamed = {"arrow.flight.protocol.CloseSessionResult.Status": "CloseSessionStatus"}

    def enums_of(owner):
        yield from owner.enum_types_by_name.values()
        inner = owner.nested_types if hasattr(owner, "nested_types") else owner.message_types_by_name.values()
        for message in inner:
            yield from enums_of(message)

    checked = set()
    for file in FILES:
        for described in enums_of(file.DESCRIPTOR):
            ours = getattr(enums, renamed.get(described.full_name, described.name))
            assert {name: int(member) for name, member in ours.__members__.items()} == {
                value.name: value.number for value in described.values
            }
            checked.add(ours)
    assert checked == {e for e in IntEnum.__subclasses__() if e.__module__ == enums.__name__}


def test_absent_is_not_empty():
    assert CommandGetTables.parse(CommandGetTables().serialize()).catalog is None
    assert CommandGetTables.parse(CommandGetTables(catalog="").serialize()).catalog == ""


def test_fields_that_are_not_known_are_skipped():
    body = AnyMessage(type_url=Query.type_url(), value=bytes.fromhex("0a0131") + bytes.fromhex("fa3e0178"))
    assert Query.parse(body.SerializeToString()) == Query(sql="1")


def test_only_the_end_of_the_type_url_counts():
    body = AnyMessage(type_url="example.org/x/tickflight.v1.Query", value=bytes.fromhex("0a0131"))
    assert Query.parse(body.SerializeToString()) == Query(sql="1")


def test_a_bare_message_is_not_taken_for_a_wrapped_one():
    with pytest.raises(WireError, match=r"arrow\.flight\.protocol\.sql\.CommandStatementQuery is expected"):
        CommandStatementQuery.parse(bytes.fromhex("0a0131"))


def test_another_message_is_refused_by_name():
    with pytest.raises(WireError, match=r"tickflight\.v1\.Query where .*CommandStatementQuery is expected") as caught:
        CommandStatementQuery.parse(Query(sql="1").serialize())
    assert (caught.value.kind, caught.value.message_type) == ("unknown", "tickflight.v1.Query")


@pytest.mark.parametrize("cls", ALL_MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=60))
def test_noise_is_a_message_or_a_wire_error(cls, noise):
    data = AnyMessage(type_url=cls.type_url(), value=noise).SerializeToString() if issubclass(cls, Wrapped) else noise
    for candidate in (data, noise):
        with suppress(WireError):
            assert isinstance(cls.parse(candidate), cls)


def test_a_value_that_does_not_fit_is_reported_with_the_message():
    with pytest.raises(WireError, match=r"tickflight\.v1\.AppendBatch cannot be written"):
        AppendBatch(sequence=-1).serialize()


def test_text_that_is_not_unicode_is_reported():
    with pytest.raises(WireError, match="Query cannot be written"):
        Query(sql="\ud800").serialize()


def test_proto_files_and_generated_code_are_of_one_generation():
    for file in FILES:
        path = Path(tickflight.wire.__file__).parent / Path(file.DESCRIPTOR.name).name
        text = re.sub(r"//.*", "", path.read_text())
        declared = set(re.findall(r"^\s*message (\w+)", text, re.M))
        generated = {m.name for m in file.DESCRIPTOR.message_types_by_name.values()}
        nested = {n.name for m in file.DESCRIPTOR.message_types_by_name.values() for n in m.nested_types}
        entries = {n for n in nested if n.endswith("Entry")}
        assert declared == (generated | nested) - entries
        assert f"package {file.DESCRIPTOR.package};" in text


def test_messages_are_in_a_pool_of_their_own():
    assert all(file.DESCRIPTOR.pool is pool.Default() for file in FILES)
    assert pool.Default() is not descriptor_pool.Default()


@pytest.mark.parametrize("ours_first", [True, False])
def test_another_package_may_define_the_same_messages_in_the_process(ours_first):
    theirs = """
        from google.protobuf import descriptor_pb2, descriptor_pool
        file = descriptor_pb2.FileDescriptorProto(
            name="FlightSql.proto", package="arrow.flight.protocol.sql", syntax="proto3")
        file.message_type.add(name="CommandGetCatalogs")
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    """
    ours = """
        from tickflight.wire.commands import CommandGetCatalogs, parse_command
        assert parse_command(CommandGetCatalogs().serialize()) == CommandGetCatalogs()
    """
    parts = [textwrap.dedent(part) for part in ((ours, theirs) if ours_first else (theirs, ours))]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(parts)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(tickflight.wire.__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr


def test_message_is_the_base_of_all():
    assert all(issubclass(cls, Message) for cls in ALL_MESSAGES)
