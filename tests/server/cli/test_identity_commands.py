"""The commands for users, tokens and certificates: what they write and print, and what they never do."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from cryptography import x509
from identity_here import with_token, with_user

from tickflight_server.cli import cli
from tickflight_server.errors import ServerError
from tickflight_server.identity.tokens import digest, tokens_file
from tickflight_server.identity.users import users_file
from tickflight_server.paths import Layout


@pytest.fixture
def run(tmp_path, command_logs):
    def run(*arguments, text=None, fails=None):
        storage = [] if arguments[0] == "certs" else ["--storage-path", str(tmp_path / "lake")]
        done = CliRunner().invoke(cli, [*arguments, *storage], input=text)
        if fails is not None:
            assert isinstance(done.exception, ServerError | SystemExit), done.output
            assert re.search(fails, f"{done.exception} {done.output}")
        else:
            assert done.exception is None, done.exception
        return done

    return run


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "lake")


def test_a_user_is_added_changed_and_removed(run, layout):
    assert (
        "ann may log in (reader)"
        in run("users", "add", "ann", "--role", "reader", "--password-file", "-", text="longer one\n").output
    )
    first = users_file(layout.users).load()["ann"]
    assert first.roles == ("reader",)
    run("users", "passwd", "ann", "--password-file", "-", text="another one\n")
    second = users_file(layout.users).load()["ann"]
    assert second.hash != first.hash
    assert second.generation == 1
    run("users", "set", "ann", "--disable", "--role", "user")
    third = users_file(layout.users).load()["ann"]
    assert (third.roles, third.enabled, third.hash) == (("user",), False, second.hash)
    assert re.search(r"ann +user +disabled", run("users", "list").output)
    run("users", "remove", "ann")
    assert users_file(layout.users).load() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "ann", "--password-file", "-"], "already"),
        (["add", "a:b", "--password-file", "-"], "no colon"),
        (["add", "bob", "--role", "quant", "--password-file", "-"], "no role 'quant'"),
        (["add", "bob", "--password-file", "-"], "less than 8"),
        (["add", "bob"], "no terminal"),
        (["passwd", "bob", "--password-file", "-"], "no user 'bob'"),
        (["set", "bob"], "no user 'bob'"),
        (["remove", "bob"], "no user 'bob'"),
        (["add", "bob", "--password", "x"], "No such option"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(run, layout, arguments, message):
    with_user(layout.root)
    before = layout.users.read_bytes()
    run("users", *arguments, text="short\n", fails=message)
    assert layout.users.read_bytes() == before


def test_a_token_is_shown_once(run, layout):
    with_user(layout.root)
    secret = run("tokens", "add", "dash", "--user", "ann", "--scope", "read", "--expires", "12h").stdout.strip()
    assert secret.startswith("tickflight_")
    token = tokens_file(layout.tokens).load()["dash"]
    assert token.digest == digest(secret)
    assert token.expires_us - token.created_us == 12 * 3600 * 1_000_000
    listed = run("tokens", "list").output
    assert re.search(r"dash +ann +read +\d{4}-", listed)
    assert secret not in listed
    run("tokens", "revoke", "dash")
    assert tokens_file(layout.tokens).load() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "dash"], "either --user or --role"),
        (["add", "dash", "--user", "ann", "--role", "reader"], "either --user or --role"),
        (["add", "dash", "--user", "bob"], "no user 'bob'"),
        (["add", "dash", "--role", "quant"], "no role 'quant'"),
        (["add", "dash", "--user", "ann", "--scope", "all"], "there are read, write"),
        (["add", "dash", "--user", "ann", "--expires", "soon"], "write 12h"),
        (["add", "dash", "--user", "ann", "--expires", "2020-01-01"], "is over"),
        (["add", "held", "--user", "ann"], "already"),
        (["revoke", "dash"], "no token 'dash'"),
    ],
)
def test_a_token_that_cannot_be_made_says_why(run, layout, arguments, message):
    with_user(layout.root)
    with_token(layout.root, "held", "ann")
    run("tokens", *arguments, fails=message)
    assert set(tokens_file(layout.tokens).load()) == {"held"}


def test_certificates_have_names_and_keys_of_their_owners_alone(run, tmp_path):
    folder = tmp_path / "certs"
    done = run("certs", str(folder), "--host", "lake.example.com", "--host", "10.0.0.7", "--client", "robot")
    assert len(done.output.splitlines()) == 6
    for name in ("ca", "server", "robot"):
        assert (folder / f"{name}.key").stat().st_mode & 0o777 == 0o600
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "lake.example.com"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"127.0.0.1", "::1", "10.0.0.7"} <= {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    authority = (folder / "ca.pem").read_bytes()
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    run("certs", str(folder))
    assert (folder / "ca.pem").read_bytes() == authority, "who trusts it goes on to"
    run("certs", str(folder), "--client", "../x", fails="cannot be the name")
    run("certs", str(folder), "--host", "ü", fails="neither a host's name")


def test_no_command_takes_a_secret_as_an_argument():
    def options(command):
        for one in getattr(command, "commands", {}).values():
            yield from options(one)
        yield from (name for parameter in command.params for name in parameter.opts)

    secret = [name for name in options(cli) if re.search("password|secret|token|key", name)]
    assert secret == ["--password-file", "--password-file"]
