"""Bytes to frozen dataclasses and back: the one place that touches protobuf messages.

The rule of this file: nothing here knows a particular message. What a message looks like is read from two sources that
a test holds together, the dataclass's annotations and the protobuf descriptor of the same name; the few messages that
are nicer as a plain Python value are rows of the table ``PLAIN_VALUES``. There is no I/O.

    Message     travels bare: PutResult.app_metadata, actions of Flight itself
    Wrapped     travels inside a google.protobuf.Any: commands, tickets, actions of Flight SQL

A field whose annotation admits None is None when it is absent, which is not the same as empty. Fields that the
protocol may add later are skipped.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, ClassVar, Final, Literal, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.message_factory import GetMessageClass

from tickflight.wire import flight_pb2, flight_sql_pb2, tickflight_pb2

FLIGHT_SQL: Final = "arrow.flight.protocol.sql"
FLIGHT: Final = "arrow.flight.protocol"
TICKFLIGHT: Final = "tickflight.v1"
URL_PREFIX: Final = "type.googleapis.com/"

_FILES: Final = {FLIGHT_SQL: flight_sql_pb2, FLIGHT: flight_pb2, TICKFLIGHT: tickflight_pb2}
_PROTOBUF_ERRORS: Final = (DecodeError, EncodeError, ValueError, TypeError)

SessionValue = str | bool | int | float | tuple[str, ...] | None
MessageT = TypeVar("MessageT", bound="Message")


class WireError(ValueError):
    """Bytes that are not the message they should be, or values that fit no message: the sender's to mend.

    ``message_type`` is the full name of the message, empty when the bytes do not even tell one. ``kind`` is
    "unknown" for a well-formed message that has no place here, else "malformed".
    """

    def __init__(
        self, text: str, *, message_type: str = "", kind: Literal["malformed", "unknown"] = "malformed"
    ) -> None:
        super().__init__(text)
        self.message_type = message_type
        self.kind = kind


class Message:
    """Base of the frozen dataclasses that travel bare. ``full_name`` is the protocol's name of the message."""

    full_name: ClassVar[str]
    package: ClassVar[str]

    def __init_subclass__(cls, *, package: str = "", name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if package:
            cls.package = package
            cls.full_name = f"{package}.{name or cls.__name__}"

    def serialize(self) -> bytes:
        """Return the bytes that go on the wire.

        Raises:
            WireError: a value does not fit its field (a number out of range, text that is not Unicode).
        """
        return _to_bytes(self)

    @classmethod
    def parse(cls: type[MessageT], data: bytes) -> MessageT:
        """Return the message that ``serialize`` wrote.

        Raises:
            WireError: the bytes are not this message.
        """
        return _from_bytes(cls, data)


class Wrapped(Message):
    """Base of the frozen dataclasses that travel inside a google.protobuf.Any."""

    @classmethod
    def type_url(cls) -> str:
        """Return the URL by which the Any names the message."""
        return URL_PREFIX + cls.full_name

    def serialize(self) -> bytes:
        """Return the bytes that go on the wire: an Any that holds the message."""
        return bytes(AnyMessage(type_url=self.type_url(), value=_to_bytes(self)).SerializeToString(deterministic=True))

    @classmethod
    def parse(cls: type[MessageT], data: bytes) -> MessageT:
        """Return the message out of its Any, which must name this very message."""
        return parse_wrapped(data, {URL_PREFIX + cls.full_name: cls}, cls.full_name)


def parse_wrapped(data: bytes, table: Mapping[str, type[MessageT]], expected: str) -> MessageT:
    """Return the message inside the Any ``data``, its class found in ``table`` by type URL.

    As the Any's own rules have it, only what follows the URL's last slash counts.

    Raises:
        WireError: no Any, or one that names a message which is not in the table, or a malformed message.
    """
    try:
        wrapper = AnyMessage.FromString(data)
    except _PROTOBUF_ERRORS as error:
        raise WireError(f"not a google.protobuf.Any where {expected} is expected: {error}") from error
    name = wrapper.type_url.rpartition("/")[2]
    if not name:
        raise WireError(f"a google.protobuf.Any without a type where {expected} is expected")
    cls = table.get(URL_PREFIX + name)
    if cls is None:
        raise WireError(f"{name[:200]} where {expected} is expected", message_type=name[:200], kind="unknown")
    return _from_bytes(cls, wrapper.value)


# Messages that are a plain value in Python: full name → (value to message, message to value).


def _session_value_to(value: SessionValue, target: Any) -> None:
    if isinstance(value, bool):  # before int, which a bool is too
        target.bool_value = value
    elif isinstance(value, int):
        target.int64_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif value is not None:
        target.string_list_value.SetInParent()  # so that an empty list is not an erased option
        target.string_list_value.values.extend(value)


def _session_value_from(source: Any) -> SessionValue:
    member: str | None = source.WhichOneof("option_value")
    if member == "string_list_value":
        return tuple(source.string_list_value.values)
    return None if member is None else typing.cast("SessionValue", getattr(source, member))


def _nanoseconds_to(value: int, target: Any) -> None:
    target.FromNanoseconds(value)


def _nanoseconds_from(source: Any) -> int:
    return int(source.ToNanoseconds())


def _error_value_to(value: IntEnum, target: Any) -> None:
    target.value = int(value)


def _error_value_from(source: Any) -> int:
    return int(source.value)


PLAIN_VALUES: Final[Mapping[str, tuple[Callable[[Any, Any], None], Callable[[Any], Any]]]] = {
    "arrow.flight.protocol.SessionOptionValue": (_session_value_to, _session_value_from),
    "arrow.flight.protocol.SetSessionOptionsResult.Error": (_error_value_to, _error_value_from),
    "google.protobuf.Timestamp": (_nanoseconds_to, _nanoseconds_from),
}


@dataclasses.dataclass(frozen=True)
class _Field:
    """How one field goes over: what the protocol says of it and what Python wants for it."""

    name: str
    shape: Literal["one", "many", "map"]
    presence: bool
    """The protocol tells absent from empty."""
    optional: bool
    """Python takes None for absent."""
    message: str | None
    """Full name of the message that the value (for a map: the map's value) is, or None for a scalar."""
    python: Any
    """Class to make of a scalar or message: an IntEnum, a Message, or None to keep it as it is."""


def _descriptor(cls: type[Any]) -> Any:
    path = cls.full_name.removeprefix(cls.package + ".").split(".")
    found: Any = _FILES[cls.package].DESCRIPTOR.message_types_by_name[path[0]]
    for name in path[1:]:
        found = found.nested_types_by_name[name]
    return found


def _value_class(hint: Any) -> tuple[Any, bool]:
    """Return the innermost class of an annotation that is an IntEnum or a Message, and whether None is admitted."""
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is not None and args:  # tuple[X, ...] or Mapping[str, X]
        inner = args[1] if origin is Mapping else args[0]
        return _value_class(inner)[0], optional
    wanted = isinstance(hint, type) and issubclass(hint, (IntEnum, Message))
    return (hint if wanted else None), optional


_PLANS: dict[type[Any], tuple[Any, tuple[_Field, ...]]] = {}


def _plan(cls: type[Any]) -> tuple[Any, tuple[_Field, ...]]:
    """Return the protobuf class of ``cls`` and how each of its fields goes over; made once for each class."""
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _make_plan(cls)
    return plan


def _make_plan(cls: type[Any]) -> tuple[Any, tuple[_Field, ...]]:
    descriptor = _descriptor(cls)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    by_name = descriptor.fields_by_name
    assert set(names) == set(by_name), f"{cls.__name__} and {descriptor.full_name} have different fields"
    fields = []
    for name in names:
        described = by_name[name]
        is_map = described.message_type is not None and described.message_type.GetOptions().map_entry
        value = described.message_type.fields_by_name["value"] if is_map else described
        python, optional = _value_class(hints[name])
        presence = described.has_presence
        assert presence or not optional, f"{cls.__name__}.{name} cannot be None: the protocol has no absence for it"
        shape: Literal["one", "many", "map"] = "map" if is_map else "many" if described.is_repeated else "one"
        message = value.message_type.full_name if value.message_type is not None else None
        fields.append(_Field(name, shape, presence, optional, message, python))
    return GetMessageClass(descriptor), tuple(fields)


def _to_bytes(message: Message) -> bytes:
    target = _plan(type(message))[0]()
    try:
        _fill(message, target)
        return bytes(target.SerializeToString(deterministic=True))
    except WireError:
        raise
    except _PROTOBUF_ERRORS as error:
        name = message.full_name
        raise WireError(f"{name} cannot be written: {error}", message_type=name) from error


def _fill(message: Message, target: Any) -> None:
    for field in _plan(type(message))[1]:
        value = getattr(message, field.name)
        if value is None and field.optional:
            continue
        if field.message is None:
            if field.shape == "one":
                setattr(target, field.name, value)
            elif field.shape == "many":
                getattr(target, field.name).extend(value)
            else:
                getattr(target, field.name).update(value)
            continue
        place = getattr(target, field.name)
        if field.shape == "one":
            place.SetInParent()
            _fill_value(field.message, value, place)
        elif field.shape == "many":
            for item in value:
                _fill_value(field.message, item, place.add())
        else:
            for key, item in value.items():
                _fill_value(field.message, item, place[key])


def _fill_value(message_name: str, value: Any, target: Any) -> None:
    if message_name in PLAIN_VALUES:
        PLAIN_VALUES[message_name][0](value, target)
    else:
        _fill(value, target)


def _from_bytes(cls: type[MessageT], data: bytes) -> MessageT:
    name = cls.full_name
    try:
        return _read(cls, _plan(cls)[0].FromString(data))
    except WireError:
        raise
    except _PROTOBUF_ERRORS as error:
        raise WireError(f"malformed {name}: {error}", message_type=name) from error


def _read(cls: type[MessageT], source: Any) -> MessageT:
    values: dict[str, Any] = {}
    for field in _plan(cls)[1]:
        if field.presence and not source.HasField(field.name):
            if not field.optional:
                raise WireError(f"malformed {cls.full_name}: no {field.name}", message_type=cls.full_name)
            values[field.name] = None
            continue
        value = getattr(source, field.name)
        if field.shape == "one":
            values[field.name] = _read_value(field, value)
        elif field.shape == "many":
            values[field.name] = tuple(_read_value(field, item) for item in value)
        else:
            values[field.name] = {key: _read_value(field, item) for key, item in value.items()}
    return cls(**values)


def _read_value(field: _Field, value: Any) -> Any:
    if field.message is not None:
        if field.message not in PLAIN_VALUES:
            return _read(field.python, value)
        value = PLAIN_VALUES[field.message][1](value)
    return field.python(value) if field.python is not None else value
