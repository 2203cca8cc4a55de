"""A connection says early what is wrong with it, and mends a login that the server forgot."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

import tickflight
from tickflight.connection import Credentials, normalise_address

AUTH = {"users": {"ada": "pass:wörd"}, "tokens": {"robot": "r0b0t"}}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:8815", "grpc://localhost:8815"),
        ("grpc://localhost:8815", "grpc://localhost:8815"),
        ("grpc://localhost:8815/", "grpc://localhost:8815"),
        ("grpc+tcp://h:1", "grpc://h:1"),
        ("grpc+tls://h:1", "grpc+tls://h:1"),
        ("grpcs://h:1", "grpc+tls://h:1"),
        ("[::1]:8815", "grpc://[::1]:8815"),
    ],
)
def test_address_is_taken_in_the_usual_forms(address: str, expected: str) -> None:
    assert normalise_address(address) == expected


@pytest.mark.parametrize("address", ["", "http://localhost:8815", "grpc://", "flightsql://h:1"])
def test_other_address_is_refused_with_a_hint(address: str) -> None:
    with pytest.raises(tickflight.QueryError, match="is no address: write grpc://host:port"):
        tickflight.connect(address)


@pytest.mark.parametrize(
    ("credentials", "match"),
    [
        ({"username": "a"}, "a user needs a password"),
        ({"password": "a"}, "and a password a user"),
        ({"username": "a", "password": "b", "token": "c"}, "not both"),
    ],
)
def test_half_of_the_credentials_is_refused(credentials: dict[str, str], match: str) -> None:
    with pytest.raises(tickflight.AuthenticationError, match=match):
        tickflight.connect("localhost:1", **credentials)


def test_secrets_are_not_shown() -> None:
    assert "hunter2" not in repr(Credentials("ada", "hunter2"))
    assert "hunter2" not in repr(Credentials(token="hunter2"))


@pytest.mark.parametrize("credentials", [{"username": "ada", "password": "pass:wörd"}, {"token": "r0b0t"}])
def test_right_credentials_get_in(make_server: Callable[..., Any], credentials: dict[str, str]) -> None:
    with tickflight.connect(make_server(AUTH).address, **credentials) as client:
        assert client.sql("SELECT 1 AS x").arrow()["x"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("credentials", "match"),
    [
        ({}, r"asks who you are\. Hint: .*\.$"),
        (
            {"username": "ada", "password": "x"},
            r"^wrong user or password\. Hint: Check both; they are case-sensitive\.$",
        ),
        ({"token": "x"}, r"^the bearer token is unknown or has ended\. Hint: Log in again\.$"),
    ],
)
def test_wrong_credentials_show_when_connecting(
    make_server: Callable[..., Any], credentials: dict[str, str], match: str
) -> None:
    with pytest.raises(tickflight.AuthenticationError, match=match):
        tickflight.connect(make_server(AUTH).address, **credentials)


@pytest.mark.parametrize("credentials", [{}, {"username": "a", "password": "b"}, {"token": "c"}])
def test_open_server_takes_any_credentials(served: Any, credentials: dict[str, str]) -> None:
    with tickflight.connect(served.address, **credentials) as client:
        assert client.tables()


@pytest.mark.parametrize("credentials", [{}, {"username": "a", "password": "b"}])
def test_nobody_at_the_address_is_told_at_once(credentials: dict[str, str]) -> None:
    begun = time.monotonic()
    with pytest.raises(tickflight.UnavailableError, match=r"127\.0\.0\.1:1: .*(refused|nobody answers)"):
        tickflight.connect("127.0.0.1:1", **credentials)
    assert time.monotonic() - begun < 5


def test_login_that_the_server_forgot_is_made_again(make_server: Callable[..., Any]) -> None:
    server = make_server(AUTH)
    with tickflight.connect(server.address, username="ada", password="pass:wörd") as client:
        server.stop()
        server.start()
        for _ in range(50):
            try:
                found = client.sql("SELECT 1 AS x").arrow()["x"].to_pylist()
                break
            except tickflight.UnavailableError:  # gRPC tries the address again after a moment
                time.sleep(0.1)
        assert found == [1]
        assert client.tables()


def test_token_that_the_server_does_not_know_any_more_is_an_error(make_server: Callable[..., Any]) -> None:
    server = make_server(AUTH)
    with tickflight.connect(server.address, token="r0b0t") as client:
        client._connection._header = (b"authorization", b"Bearer old")
        with pytest.raises(tickflight.AuthenticationError, match="Log in again"):
            client.sql("SELECT 1")


def test_time_limit_is_for_calls_and_not_for_results(served: Any) -> None:
    with tickflight.connect(served.address, timeout_s=0.3) as client:
        rows = 0
        begun = time.monotonic()
        for batch in client.sql("SELECT x FROM range(100000000000) r(x)"):
            rows += batch.num_rows
            if time.monotonic() - begun > 0.5:
                break
        assert rows > 0


@pytest.mark.parametrize("credentials", [{}, {"username": "a", "password": "b"}, {"token": "c"}])
def test_wait_for_a_silent_server_is_bounded(credentials: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises((tickflight.CancelledError, tickflight.UnavailableError)):
            tickflight.connect(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2, **credentials)
        assert time.monotonic() - begun < 5
