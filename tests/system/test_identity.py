"""Every way to say who one is, to a real server by real drivers: who gets in, who does not, and who is thrown out."""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import adbc_driver_flightsql.dbapi as flight_sql
import jwt
import pytest
from adbc_driver_flightsql import DatabaseOptions
from identity_here import PASSWORD, with_token, with_user
from pyarrow import flight
from silent_relay import Relay
from system_processes import ServerProgram, wait_for

import tickflight
from tickflight.wire.streams import Selection, Tail
from tickflight_server.identity.certificates import make_certificates
from tickflight_server.identity.passwords import hash_password
from tickflight_server.identity.tokens import revoke_token, tokens_file
from tickflight_server.identity.users import change_user, remove_user, users_file
from tickflight_server.paths import Layout

# the driver leaves a connection that was refused half made, and complains of it when it is collected
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

HEADER = DatabaseOptions.AUTHORIZATION_HEADER.value
SECRET = "a secret of thirty-two bytes, or more"
CONFIG = f"""
auth:
  attempts_max: 5
  attempts_window_s: 600
  jwt: {{secret: "{SECRET}", audience: tickflight}}
flight:
  tls:
    cert_file: CERTS/server.pem
    key_file: CERTS/server.key
    client_ca_file: CERTS/ca.pem
    client_port: 0
    reload_s: 0.05
    subjects:
      - {{pattern: "robot*", user: robot, roles: [reader]}}
"""


def certs(folder: Path, *clients: str) -> None:
    make_certificates(folder / "certs", [], clients, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity")
    certs(folder, "robot7", "stranger")
    (folder / "config.yaml").write_text(CONFIG.replace("CERTS", str(folder / "certs")))
    for name in ("ann", "bob", "eve"):
        with_user(folder / "store", name, "user")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    program = ServerProgram(folder, "--config", str(folder / "config.yaml"))
    yield program
    program.stop()


@pytest.fixture(scope="module")
def client_port(server, folder):
    text = wait_for(lambda: re.search(r'"port": (\d+), "event": "server.client_port"', server.log.read_text()), "log")
    return int(text[1])


def roots(folder):
    return (folder / "certs" / "ca.pem").read_text()


@contextmanager
def driver(address, folder, **options):
    options[DatabaseOptions.TLS_ROOT_CERTS.value] = roots(folder)
    with flight_sql.connect(address, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
        yield cursor


def one(address, folder, **options):
    with driver(address, folder, **options) as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


def refused(address, folder, match="UNAUTHENTICATED", **options):
    with pytest.raises(flight_sql.Error, match=match):
        one(address, folder, **options)


class Following:
    """A tail over the wire, read by a thread until it ends."""

    def __init__(self, server, folder, authorization):
        self.client = flight.FlightClient(server.address, tls_root_certs=roots(folder).encode())
        self.options = flight.FlightCallOptions(headers=[(b"authorization", authorization.encode())])
        ticket = flight.Ticket(Tail(Selection("trades")).serialize())
        self.stream = self.client.do_get(ticket, self.options)
        _ = self.stream.schema
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            while True:
                self.stream.read_chunk()
        except (StopIteration, flight.FlightError, OSError):
            self.ended.set()

    def close(self):
        self.stream.cancel()
        self.client.close()


def test_a_password_gets_in_and_a_wrong_one_does_not(server, folder):
    assert one(server.address, folder, username="ann", password=PASSWORD)
    refused(server.address, folder, "wrong user or password", username="ann", password="wrong")
    refused(server.address, folder, "wrong user or password", username="nobody", password=PASSWORD)
    refused(server.address, folder, "asks who you are")


def test_a_changed_password_ends_logins_and_streams_at_once(server, folder):
    users = users_file(Layout(folder / "store").users)
    with flight.FlightClient(server.address, tls_root_certs=roots(folder).encode()) as client:
        _, header = client.authenticate_basic_token("bob", PASSWORD)
        following = Following(server, folder, header.decode())
        assert not following.ended.is_set()
        change_user(users, "bob", hash=hash_password("second password"))
        assert following.ended.wait(10)
        following.close()
        with pytest.raises(flight.FlightUnauthenticatedError):
            list(client.list_actions(flight.FlightCallOptions(headers=[(b"authorization", header)])))
    refused(server.address, folder, "wrong user or password", username="bob", password=PASSWORD)
    assert one(server.address, folder, username="bob", password="second password")
    remove_user(users, "bob")
    right = {"username": "bob", "password": "second password"}
    wait_for(lambda: not _works(server, folder, right), "the server sees that the user is gone")


def test_a_token_gets_in_until_it_is_revoked(server, folder):
    secret = with_token(folder / "store", "dash", "ann", scopes=("read",))
    login = {HEADER: f"Bearer {secret}"}
    wait_for(lambda: _works(server, folder, login), "the server sees the token")
    with driver(server.address, folder, **login) as cursor, pytest.raises(flight_sql.Error):
        cursor.execute("CREATE TABLE workspace.narrowed (a INTEGER)")
    following = Following(server, folder, f"Bearer {secret}")
    revoke_token(tokens_file(Layout(folder / "store").tokens), "dash")
    assert following.ended.wait(10)
    following.close()
    refused(server.address, folder, "unknown or was revoked", **login)


def _works(server, folder, login):
    try:
        return one(server.address, folder, **login)
    except flight_sql.Error:
        return False


def test_a_web_token_gets_in_until_it_has_expired(server, folder):
    claims = {"sub": "cleo", "aud": "tickflight", "roles": ["reader"], "exp": int(time.time()) + 600}
    assert one(server.address, folder, **{HEADER: f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"})
    for change in ({"exp": int(time.time()) - 60}, {"aud": "another"}):
        refused(server.address, folder, **{HEADER: f"Bearer {jwt.encode(claims | change, SECRET, 'HS256')}"})
    refused(server.address, folder, **{HEADER: f"Bearer {jwt.encode(claims, SECRET[::-1], 'HS256')}"})


def mutual(folder, name):
    return {
        DatabaseOptions.MTLS_CERT_CHAIN.value: (folder / "certs" / f"{name}.pem").read_text(),
        DatabaseOptions.MTLS_PRIVATE_KEY.value: (folder / "certs" / f"{name}.key").read_text(),
    }


def test_a_certificate_says_who_it_is_where_nothing_else_does(server, folder, client_port, tmp_path):
    address = f"grpc+tls://127.0.0.1:{client_port}"
    assert one(address, folder, **mutual(folder, "robot7"))
    refused(address, folder, "of nobody known here", **mutual(folder, "stranger"))
    refused(address, folder, r"tls|certificate|connection|UNAVAILABLE|pipe|reset")
    certs(tmp_path, "robot7")  # of another authority
    refused(address, folder, r"tls|certificate|connection|UNAVAILABLE|pipe|reset", **mutual(tmp_path, "robot7"))
    # who sends something is who that says
    token = jwt.encode({"sub": "cleo", "aud": "tickflight", "exp": int(time.time()) + 600}, SECRET, "HS256")
    assert one(address, folder, **mutual(folder, "stranger"), **{HEADER: f"Bearer {token}"})
    refused(address, folder, **mutual(folder, "robot7"), **{HEADER: "Bearer nonsense"})


def test_the_client_logs_in_every_way(server, folder, client_port):
    shown = {"tls_roots": folder / "certs" / "ca.pem"}
    pair = {"tls_cert": folder / "certs" / "robot7.pem", "tls_key": folder / "certs" / "robot7.key"}
    second = f"grpc+tls://127.0.0.1:{client_port}"
    ways = [
        (server.address, {"username": "ann", "password": PASSWORD}),
        (second, pair),
        (second, {**pair, "username": "ann", "password": PASSWORD}),  # there is no handshake there
    ]
    for address, how in ways:
        with tickflight.connect(address, **shown, **how) as client:
            assert client.sql("SELECT 1 AS a").arrow().to_pylist() == [{"a": 1}]
    with pytest.raises(tickflight.AuthenticationError, match="wrong user or password"):
        tickflight.connect(second, **shown, **pair, username="ann", password="wrong")


def test_new_certificates_are_shown_while_streams_go_on(server, folder):
    old = roots(folder)
    login = {"username": "ann", "password": PASSWORD}
    _, header = flight.FlightClient(server.address, tls_root_certs=old.encode()).authenticate_basic_token(
        *login.values()
    )
    following = Following(server, folder, header.decode())
    for name in ("ca.key", "ca.pem"):
        (folder / "certs" / name).unlink()
    certs(folder, "robot7", "stranger")
    assert roots(folder) != old
    wait_for(lambda: _works(server, folder, login), "the server shows the new certificate")
    assert not following.ended.is_set()
    with tickflight.connect(server.address, tls_roots=old.encode() + roots(folder).encode(), **login) as client:
        assert client.sql("SELECT 1").arrow().num_rows == 1
    following.close()
    (folder / "certs" / "server.pem").write_text("half a certific")
    wait_for(lambda: "tls.files_refused" in server.log.read_text(), "the server refuses it")
    assert one(server.address, folder, **login)
    before = reloads(server)
    certs(folder)
    wait_for(lambda: reloads(server) > before, "the server takes good ones again")
    wait_for(lambda: _works(server, folder, login), "it answers")


def reloads(server):
    return server.log.read_text().count("tls.reloaded")


def test_who_guesses_waits_and_who_was_in_before_does_not(server, folder):
    right = {"username": "eve", "password": PASSWORD}
    assert one(server.address, folder, **right)
    guesser = Relay(server.port, "127.0.0.2")
    address = f"grpc+tls://127.0.0.1:{guesser.port}"
    for number in range(5):
        refused(address, folder, "wrong user or password", username="eve", password=f"guess {number}")
    refused(address, folder, r"too many failed logins.*Try again in \d+ s", username="eve", password="guess")
    refused(address, folder, "too many failed logins", **right)
    assert one(server.address, folder, **right)
    guesser.close()


def test_no_secret_is_in_the_servers_log(server):
    text = server.log.read_text()
    for secret in (PASSWORD, "second password", "guess 1", SECRET, "PRIVATE KEY"):
        assert secret not in text
    assert "tickflight_" not in text.replace("tickflight_server", "")
