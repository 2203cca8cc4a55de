"""What is given bytes of an attacker's, each as a function that returns, or raises what it found.

The rule of this file: a target calls the server's own code, and what that code may say of bad input is written beside
it; whatever else is raised, and the end of the process, is a finding.
"""

from __future__ import annotations

import base64
import hmac
import os
import random
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import arrow_noise
import pyarrow as pa
from arrow_noise import TABLES
from pydantic import SecretStr

from tickflight.wire import WireError
from tickflight.wire.actions import ACTIONS, parse_action_request, parse_action_result
from tickflight.wire.append import AppendBatch, AppendResult, DoPutPreparedStatementResult, DoPutUpdateResult
from tickflight.wire.codec import Message
from tickflight.wire.commands import parse_command
from tickflight.wire.flight import FlightInfo
from tickflight.wire.tickets import parse_ticket
from tickflight_server.clock import SystemClock
from tickflight_server.config import AuthSettings
from tickflight_server.config.identity import JwtSettings
from tickflight_server.config.settings import load_settings
from tickflight_server.errors import (
    AuthenticationError,
    BusyError,
    ConfigError,
    InputError,
    NotFoundError,
    StatementError,
)
from tickflight_server.flight.handles import Handles
from tickflight_server.flight.incoming import checked, chunks, schema_of
from tickflight_server.flight.parameters import read_batches, rows_of
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.identity.rights import Roles
from tickflight_server.identity.tokens import tokens_file
from tickflight_server.identity.users import users_file
from tickflight_server.identity.web_tokens import WebTokens
from tickflight_server.metrics import Metrics
from tickflight_server.paths import decode_component, encode_component, partition_folder
from tickflight_server.schemas import STORED
from tickflight_server.store.rows import fit

BYTES_MAX = 1 << 20
PARSERS: Mapping[str, Callable[[bytes], Message]] = {
    "command": parse_command,
    "ticket": parse_ticket,
    "FlightInfo": FlightInfo.parse,
    "AppendBatch": AppendBatch.parse,
    "AppendResult": AppendResult.parse,
    "DoPutUpdateResult": DoPutUpdateResult.parse,
    "DoPutPreparedStatementResult": DoPutPreparedStatementResult.parse,
    **{f"request of {n}": lambda data, n=n: parse_action_request(n, data) for n in ACTIONS},
    **{f"result of {n}": lambda data, n=n: parse_action_result(n, data) for n in ACTIONS},
}
_NAMES = tuple(PARSERS)
_CUT = re.compile("~[0-9a-f]{16}$")


def wire(data: bytes) -> None:
    """The first byte chooses who decodes the rest; what it made is written in one way only, and read as the same."""
    if not data:
        return
    for name in ("command", "ticket", _NAMES[data[0] % len(_NAMES)]):
        try:
            found = PARSERS[name](data[1:])
        except WireError as error:
            _check_is_short(str(error), 1000)
            continue
        try:
            written = found.serialize()
        except WireError:
            continue  # a timestamp that protobuf reads and does not write
        assert type(found).parse(written).serialize() == written


def _check_is_short(text: str, most: int) -> None:
    assert 0 < len(text) < most, text[:1000]


class _Reader:
    """A stream of a client's, as a DoPut gives it."""

    def __init__(self, data: bytes) -> None:
        self._reader = pa.ipc.open_stream(pa.py_buffer(data))
        self.schema = self._reader.schema

    def read_chunk(self) -> pa.RecordBatchWithMetadata:
        return self._reader.read_next_batch_with_custom_metadata()


class _Chunk:
    def __init__(self, batch: pa.RecordBatch) -> None:
        self.data = batch


def ingest(data: bytes) -> None:
    """The first byte chooses the table; a batch that is taken is of its schema, and no row is lost."""
    if not data:
        return
    table = STORED[TABLES[data[0] % len(TABLES)]]
    try:
        reader = _Reader(data[1:])
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError):
        return  # in a DoPut, Arrow says so itself
    try:
        schema_of(reader)
        for chunk in chunks(_Batches(reader)):
            batch = checked(chunk.data, BYTES_MAX)
            fitted = fit(table, batch, "float64", now_us=1)
            fitted.batch.validate(full=True)
            assert fitted.batch.schema.equals(table.arrow_input("float64", memory=True))
            assert fitted.batch.num_rows + fitted.rejected_rows == batch.num_rows
            for row in fitted.batch.select(["exchange", "symbol"]).to_pylist():
                names(str(row["exchange"]).encode() + b"\n" + str(row["symbol"]).encode())
    except InputError as error:
        _check_is_short(error.message, 10_000)


class _Batches:
    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def read_chunk(self) -> _Chunk:
        return _Chunk(self._reader.read_chunk().batch)


def parameters(data: bytes) -> None:
    """The values that come with a statement."""
    try:
        batches = read_batches(data)
        for batch in batches:
            list(rows_of([batch], tuple(str(i) for i in range(batch.num_columns))))
    except StatementError as error:
        _check_is_short(error.message, 10_000)


def configuration(data: bytes) -> None:
    """A configuration file; a fault names itself in one error."""
    with tempfile.NamedTemporaryFile(suffix=".yaml", dir=_scratch()) as file:
        file.write(data)
        file.flush()
        try:
            load_settings(Path(file.name))
        except ConfigError as error:
            _check_is_short(error.message, 100_000)


def _scratch() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


_KEY = "a-secret-that-is-shared-with-the-issuer"
_JWT = JwtSettings(secret=SecretStr(_KEY), issuer="us", audience="tickflight")
_MANY = 10**9


def _authenticator() -> Authenticator:
    settings = AuthSettings(
        users={"ada": SecretStr("secret-of-ada")},
        tokens={"feed": SecretStr("token-of-feed")},
        jwt=_JWT,
        attempts_max=_MANY,
        attempts_address_max=_MANY,
    )
    return Authenticator(settings, Roles({}), SystemClock())


_AUTHENTICATOR = _authenticator()
_WEB_TOKENS = WebTokens(_JWT, SystemClock(), Metrics())


def authorization(data: bytes) -> None:
    """An authorization header: a session of somebody known, or a refusal that repeats nothing."""
    try:
        text = data.decode()  # pyarrow refuses a header that is no text before it is read
    except UnicodeDecodeError:
        return
    try:
        session = _AUTHENTICATOR.identify(text, login=bool(data) and data[-1] & 1 == 1)
    except (AuthenticationError, BusyError) as error:
        _check_is_short(error.message, 200)
    else:
        assert session.user in ("ada", "feed")


def claims(data: bytes) -> None:
    """A JSON Web Token that the issuer has signed, whatever stands in it."""
    body = (
        base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=") + b"." + base64.urlsafe_b64encode(data).rstrip(b"=")
    )
    signature = base64.urlsafe_b64encode(hmac.digest(_KEY.encode(), body, "sha256")).rstrip(b"=")
    try:
        bearer = _WEB_TOKENS.check((body + b"." + signature).decode())
    except AuthenticationError as error:
        _check_is_short(error.message, 1000)
    else:
        assert isinstance(bearer.user, str)


def identities(data: bytes) -> None:
    """The files of users and API tokens."""
    with tempfile.NamedTemporaryFile(dir=_scratch()) as file:
        file.write(data)
        file.flush()
        for made in (users_file(Path(file.name)), tokens_file(Path(file.name))):
            try:
                made.load()
            except ConfigError as error:
                _check_is_short(error.message, 100_000)


def tickets(data: bytes) -> None:
    """Handles that nobody was given find nothing."""
    handles: Handles[int] = Handles("ticket", SystemClock(), most=10, idle_s=60)
    known = handles.add("ada", 1)
    try:
        assert handles.get("ada", data) == 1
        assert data == known
    except NotFoundError:
        pass
    with suppress(InputError):
        handles.keep("bob", data, 2)
    assert handles.find("ada", data) is None or data == known
    handles.remove("bob", data)


def names(data: bytes) -> None:
    """Names of exchange and symbol that become folders: one part of a path each, safe anywhere, and told apart."""
    exchange, _, symbol = data.decode("utf-8", "replace").partition("\n")
    if not exchange or not symbol or "\0" in exchange + symbol:
        return
    folder = partition_folder(2026, 11, 22, exchange, symbol)
    parts = folder.split("/")
    assert len(parts) == 5, folder
    assert all(len(part.encode()) <= 255 and part not in (".", "..") for part in parts)
    assert folder.isascii()
    assert folder.isprintable()
    for name in (exchange, symbol):
        text = encode_component(name)
        assert decode_component(text) == name or _CUT.search(text)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "wire": wire,
    "ingest": ingest,
    "parameters": parameters,
    "configuration": configuration,
    "authorization": authorization,
    "claims": claims,
    "identities": identities,
    "tickets": tickets,
    "names": names,
}


def arrow_of(data: bytes, seed: int, *, lead: bool) -> bytes:
    """Return another input for a target of ``STREAMS``: a new one, or ``data`` damaged; ``lead``: a byte before it."""
    pick = random.Random(seed)
    head = bytes([pick.randrange(len(TABLES))]) if lead else b""
    if pick.random() < 0.6 or len(data) < 9:
        body = arrow_noise.stream(pick)
        return head + (arrow_noise.damaged(pick, body) if pick.random() < 0.8 else body)
    return data[: len(head)] + arrow_noise.damaged(pick, data[len(head) :])


STREAMS: Mapping[str, bool] = {"ingest": True, "parameters": False}
"""Targets that read streams of Arrow's format, and whether a byte comes before it."""
