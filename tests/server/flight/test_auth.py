"""Who calls is known from the headers of the call, and whoever is not known gets no further."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest
from pyarrow import flight

from tickflight.wire.actions import CloseSessionRequest
from tickflight.wire.commands import CommandGetTableTypes
from tickflight_server.config import ANONYMOUS, AuthSettings
from tickflight_server.errors import AuthenticationError
from tickflight_server.flight.auth import Call
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.identity.rights import Roles
from tickflight_server.identity.sessions import Session

TICKET = flight.Ticket(CommandGetTableTypes().serialize())
CLOSED = {"users": {"ada": "pass:wörd", "bob": "b"}, "tokens": {"robot": "r0b0t"}}


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_us(self) -> int:
        return 0


def basic(user: str, password: str, *, padded: bool = True) -> str:
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Basic {value if padded else value.rstrip('=')}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, **settings: Any) -> Authenticator:
    return Authenticator(AuthSettings(**{**CLOSED, **settings}), Roles({}), clock)


def test_password_gives_a_token_that_is_known_afterwards(clock: Clock) -> None:
    authenticator = make(clock)
    session = authenticator.identify(basic("ada", "pass:wörd"), login=True)
    assert session.user == "ada"
    assert authenticator.identify(f"Bearer {session.token}", login=False) is session


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_padding_and_case_of_the_scheme_are_no_matter(clock: Clock, padded: bool, scheme: str) -> None:
    header = basic("bob", "b", padded=padded).replace("Basic", scheme)
    assert make(clock).identify(header, login=True).user == "bob"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ???",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        basic("ada", "wrong"),
        basic("ada", ""),
        basic("ADA", "pass:wörd"),
        basic("nobody", "b"),
        basic("", ""),
        "Bearer",
        "Bearer wrong",
        "Bearer pass:wörd",
        "Negotiate abc",
        "r0b0t",
    ],
)
@pytest.mark.parametrize("login", [True, False])
def test_who_is_not_known_is_refused_without_telling_why(clock: Clock, header: str | None, login: bool) -> None:
    with pytest.raises(AuthenticationError) as caught:
        make(clock).identify(header, login=login)
    for secret in ("pass:wörd", "r0b0t"):
        assert secret not in str(caught.value)


def test_token_of_the_configuration_names_its_user(clock: Clock) -> None:
    assert make(clock).identify("Bearer r0b0t", login=False).user == "robot"


def test_repeated_password_keeps_one_session(clock: Clock) -> None:
    authenticator = make(clock)
    first = authenticator.identify(basic("ada", "pass:wörd"), login=False)
    assert authenticator.identify(basic("ada", "pass:wörd"), login=False) is first
    assert authenticator.identify(basic("ada", "pass:wörd"), login=True) is not first
    assert authenticator.identify(f"Bearer {first.token}", login=False) is first


def test_session_ends_when_long_unused(clock: Clock) -> None:
    authenticator = make(clock, session_idle_s=10)
    session = authenticator.identify(basic("bob", "b"), login=True)
    for _ in range(3):
        clock.seconds += 9
        assert authenticator.identify(f"Bearer {session.token}", login=False) is session
    clock.seconds += 11
    with pytest.raises(AuthenticationError, match=r"has ended\. Hint: Log in again"):
        authenticator.identify(f"Bearer {session.token}", login=False)


def test_session_ends_when_its_user_ends_it(clock: Clock) -> None:
    authenticator = make(clock)
    session = authenticator.identify(basic("bob", "b"), login=True)
    assert authenticator.end(session)
    assert not authenticator.end(session)
    with pytest.raises(AuthenticationError):
        authenticator.identify(f"Bearer {session.token}", login=False)


def test_longest_unused_session_goes_first(clock: Clock) -> None:
    authenticator = make(clock, sessions_max=2)
    first, second = (authenticator.identify(basic("bob", "b"), login=True) for _ in range(2))
    authenticator.identify(f"Bearer {first.token}", login=False)
    third = authenticator.identify(basic("bob", "b"), login=True)
    for session in (first, third):
        assert authenticator.identify(f"Bearer {session.token}", login=False) is session
    with pytest.raises(AuthenticationError):
        authenticator.identify(f"Bearer {second.token}", login=False)


@pytest.mark.parametrize("header", [None, basic("anyone", "x"), basic("", ""), "Bearer of-another-run"])
def test_open_server_takes_whatever_is_sent(clock: Clock, header: str | None) -> None:
    session = Authenticator(AuthSettings(), Roles({}), clock).identify(header, login=False)
    assert session.user in (ANONYMOUS, "anyone", "")


def test_open_server_remembers_a_bounded_number_of_names(clock: Clock) -> None:
    authenticator = Authenticator(AuthSettings(sessions_max=5), Roles({}), clock)
    for i in range(50):
        authenticator.identify(basic(f"user{i}", "x"), login=False)
    assert len(authenticator._logins) == 5


def test_call_frees_what_it_held_once_and_last_first() -> None:
    call, freed = Call(Session("", "u", 0, Roles({}).rights(["user"])), {}), []
    for number in range(3):
        call.hold(lambda number=number: freed.append(number))  # type: ignore[misc]
    call.call_completed(None)
    call.call_completed(RuntimeError())
    assert freed == [2, 1, 0]


@pytest.fixture
def address(make_server: Callable[..., Any]) -> str:
    return str(make_server(auth=CLOSED).address)


@pytest.fixture
def client(address: str) -> Iterator[flight.FlightClient]:
    with flight.FlightClient(address) as made:
        yield made


def options(*headers: str) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(headers=[(b"authorization", h.encode()) for h in headers])


def test_handshake_gives_a_bearer_token(client: flight.FlightClient) -> None:
    name, value = client.authenticate_basic_token("ada", "pass:wörd")
    assert name == b"authorization"
    assert value.startswith(b"Bearer ")
    assert client.do_get(TICKET, flight.FlightCallOptions(headers=[(name, value)])).read_all().num_rows > 0


@pytest.mark.parametrize("header", [basic("bob", "b"), basic("bob", "b", padded=False), "Bearer r0b0t"])
def test_header_on_any_call_is_enough(client: flight.FlightClient, header: str) -> None:
    assert client.do_get(TICKET, options(header)).read_all().num_rows > 0


def test_every_call_without_identity_ends_before_its_handler(
    client: flight.FlightClient, raises_clean: Callable[..., Any]
) -> None:
    descriptor = flight.FlightDescriptor.for_command(CommandGetTableTypes().serialize())
    calls: list[Callable[[Any], Any]] = [
        lambda o: client.do_get(TICKET, o).read_all(),
        lambda o: client.get_flight_info(descriptor, o),
        lambda o: client.get_schema(descriptor, o),
        lambda o: list(client.do_action(flight.Action("CloseSession", b""), o)),
        lambda o: list(client.list_actions(o)),
    ]
    for call in calls:
        for refused in (flight.FlightCallOptions(), options("Bearer no"), options(basic("ada", "no")), options("X y")):
            # pyarrow's ListActions knows no statuses
            with raises_clean((flight.FlightUnauthenticatedError, OSError), "Hint: .*Unauthenticated"):
                call(refused)


def test_wrong_password_at_the_handshake_is_refused(
    client: flight.FlightClient, raises_clean: Callable[..., Any]
) -> None:
    with raises_clean(flight.FlightUnauthenticatedError, r"wrong user or password\. Hint: Check both"):
        client.authenticate_basic_token("ada", "wrong")


def test_session_is_over_after_close_session(client: flight.FlightClient, do_action: Callable[..., Any]) -> None:
    header = client.authenticate_basic_token("bob", "b")
    authorized = flight.FlightCallOptions(headers=[header])
    assert do_action(client, "CloseSession", CloseSessionRequest(), authorized)
    with pytest.raises(flight.FlightUnauthenticatedError):
        client.do_get(TICKET, authorized).read_all()


def one(connection: adbc.Connection) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


@pytest.mark.parametrize(
    "login",
    [
        {"username": "ada", "password": "pass:wörd"},
        {"adbc.flight.sql.authorization_header": "Bearer r0b0t"},
        {"adbc.flight.sql.authorization_header": basic("ada", "pass:wörd")},
    ],
)
def test_adbc_logs_in(address: str, login: dict[str, str]) -> None:
    with adbc.connect(address, db_kwargs=login, autocommit=True) as connection:
        assert one(connection) == (1,)


def test_adbc_gets_a_programming_error_for_a_wrong_password(address: str) -> None:
    with pytest.raises(adbc.ProgrammingError, match="wrong user or password"):
        adbc.connect(address, db_kwargs={"username": "ada", "password": "no"})


@pytest.mark.parametrize("login", [{}, {"username": "anyone", "password": "x"}])
def test_adbc_gets_into_an_open_server(make_server: Callable[..., Any], login: dict[str, str]) -> None:
    with adbc.connect(make_server().address, db_kwargs=login, autocommit=True) as connection:
        assert one(connection) == (1,)
