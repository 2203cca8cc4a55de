"""Who gets in by what, who is thrown out when, and what nobody gets in by."""

from __future__ import annotations

import time

import jwt
import pytest
from identity_here import PASSWORD, basic, with_token, with_user
from stopped_clock import StoppedClock

from tickflight_server.config import AuthSettings, FlightSettings, RoleSettings, TlsSettings
from tickflight_server.errors import AuthenticationError, ConfigError
from tickflight_server.identity.authenticator import Authenticator
from tickflight_server.identity.exposure import check_exposure
from tickflight_server.identity.rights import Roles
from tickflight_server.identity.tokens import revoke_token, tokens_file
from tickflight_server.identity.users import change_user, remove_user, users_file
from tickflight_server.metrics import Metrics
from tickflight_server.paths import Layout

SECRET = "a secret of thirty-two bytes, or more"
HOME, AWAY = ("10.0.0.1",), ("10.9.9.9",)


@pytest.fixture
def clock():
    return StoppedClock(time.time_ns() // 1000)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "lake"


@pytest.fixture
def make(root, clock):
    def make(*, tls=None, told=None, **settings):
        return Authenticator(
            AuthSettings(**settings),
            Roles({"quant": RoleSettings(workspace=True)}),
            clock,
            layout=Layout(root),
            metrics=Metrics(),
            tls=tls,
            on_login=(lambda *event: told.append(event)) if told is not None else None,
        )

    return make


def get_in(authenticator, header, addresses=HOME, login=True):
    return authenticator.identify(header, login=login, addresses=lambda needed: addresses)


def seen(authenticator, clock):
    """Let the next call look at the files."""
    clock.us += 200_000
    authenticator.refresh()


def test_each_handshake_gives_another_token_and_old_ones_end_in_time(make, root, clock):
    with_user(root, "ann", "reader")
    authenticator = make(session_max_s=1000, session_idle_s=900)
    first, second = get_in(authenticator, basic("ann")), get_in(authenticator, basic("ann"))
    assert first.token != second.token
    for _ in range(2):
        clock.us += 500_000_000
        if not first.over(clock.monotonic()):
            assert get_in(authenticator, f"Bearer {first.token}") is first
    clock.us += 1_000_000
    with pytest.raises(AuthenticationError, match="unknown or has ended"):
        get_in(authenticator, f"Bearer {first.token}")


def test_rights_come_of_the_file_then_of_the_configuration(make, root):
    with_user(root, "ann", "reader")
    with_user(root, "bob")
    with_user(root, "cid")
    authenticator = make(roles={"bob": ["feed"]}, default_roles=["quant"])
    rights = {name: get_in(authenticator, basic(name)).rights for name in ("ann", "bob", "cid")}
    roles = Roles({"quant": RoleSettings(workspace=True)})
    assert rights == {
        "ann": roles.rights(["reader"]),
        "bob": roles.rights(["feed"]),
        "cid": roles.rights(["quant"]),
    }


@pytest.mark.parametrize("change", ["hash", "disable", "roles", "remove", "again"])
def test_logins_and_tokens_of_a_changed_user_end(make, root, clock, change):
    for name in ("ann", "bob"):
        with_user(root, name, "reader")
    secret = with_token(root, user="ann")
    authenticator = make()
    ended = [get_in(authenticator, basic("ann")), get_in(authenticator, f"Bearer {secret}")]
    other = get_in(authenticator, basic("bob"))
    file = users_file(Layout(root).users)
    if change == "remove":
        remove_user(file, "ann")
    elif change == "hash":
        change_user(file, "ann", hash=users_file(Layout(root).users).load()["bob"].hash + "=")
    else:
        how = {"disable": {"enabled": False}, "roles": {"roles": ("feed",)}, "again": {}}
        change_user(file, "ann", **how[change])
    seen(authenticator, clock)
    assert [session.ended for session in (*ended, other)] == [True, True, False]
    with pytest.raises(AuthenticationError):
        get_in(authenticator, f"Bearer {ended[0].token}")


def test_a_disabled_user_gets_in_by_nothing(make, root, clock):
    with_user(root, "ann", "reader")
    secret = with_token(root, user="ann")
    tls = TlsSettings(cert_file="x", key_file="y", client_ca_file="z", subjects=[{"pattern": "*"}])
    authenticator = make(tls=tls, jwt={"secret": SECRET}, tokens={"ann": "fixed"})
    web = jwt.encode({"sub": "ann", "exp": clock.us // 1_000_000 + 999}, SECRET, "HS256")
    ways = [basic("ann"), f"Bearer {secret}", f"Bearer {web}", "Bearer fixed"]
    sessions = [get_in(authenticator, way) for way in ways]
    sessions.append(authenticator.by_certificate("ann", ""))
    assert {session.how for session in sessions} == {"password", "API token", "JWT", "token", "certificate"}
    change_user(users_file(Layout(root).users), "ann", enabled=False)
    seen(authenticator, clock)
    assert all(session.ended for session in sessions)
    for way in ways:
        with pytest.raises(AuthenticationError):
            get_in(authenticator, way)
    with pytest.raises(AuthenticationError):
        authenticator.by_certificate("ann", "")


def test_a_token_ends_when_it_is_over_or_revoked(make, root, clock):
    short = with_token(root, "short", roles=("reader",), expires_us=clock.us + 60_000_000)
    long = with_token(root, "long", roles=("reader", "feed"))
    authenticator = make()
    sessions = [get_in(authenticator, f"Bearer {secret}") for secret in (short, long)]
    assert [session.user for session in sessions] == ["short", "long"]
    assert not sessions[0].over(clock.monotonic())
    clock.us += 61_000_000
    assert sessions[0].over(clock.monotonic())
    with pytest.raises(AuthenticationError, match="has expired"):
        get_in(authenticator, f"Bearer {short}")
    assert get_in(authenticator, f"Bearer {long}") is sessions[1]
    revoke_token(tokens_file(Layout(root).tokens), "long")
    seen(authenticator, clock)
    assert sessions[1].ended
    with pytest.raises(AuthenticationError, match="unknown or was revoked"):
        get_in(authenticator, f"Bearer {long}")


def test_a_token_is_narrowed_to_its_scope(make, root):
    with_user(root, "ann", "admin")
    session = get_in(make(), f"Bearer {with_token(root, user='ann', scopes=('read',))}")
    assert session.rights.tables
    assert (session.rights.write, session.rights.workspace, session.rights.admin) == (frozenset(), None, False)


def test_what_is_sent_as_one_kind_is_not_found_as_another(make, root):
    with_user(root, "ann")
    tls = TlsSettings(cert_file="x", key_file="y", client_ca_file="z", subjects=[{"pattern": "*"}])
    authenticator = make(tls=tls)
    authenticator.by_certificate("robot", "")
    for text in ("robot", "certificate robot", "certificate\0robot", "anonymous", ""):
        with pytest.raises(AuthenticationError):
            get_in(authenticator, f"Bearer {text}")


def test_a_certificates_name_is_its_user_or_what_fits_first(make):
    subjects = [
        {"pattern": "*.feeds", "user": "collector", "roles": ["feed"]},
        {"pattern": "quant-?"},
    ]
    authenticator = make(tls=TlsSettings(cert_file="x", key_file="y", client_ca_file="z", subjects=subjects))
    assert authenticator.by_certificate("a.feeds", "").user == "collector"
    assert authenticator.by_certificate("quant-7", "").user == "quant-7"
    for name in ("QUANT-7", "quant-77", "", "quant-\n", "anonymous"):
        with pytest.raises(AuthenticationError, match="of nobody known here"):
            authenticator.by_certificate(name, "")
    with pytest.raises(AuthenticationError, match="asks who you are"):
        get_in(authenticator, None)


def test_web_tokens_have_roles_that_there_are(make, clock):
    authenticator = make(jwt={"secret": SECRET}, default_roles=["feed"])

    def rights(**claims):
        token = jwt.encode({"sub": "ann", "exp": clock.us // 1_000_000 + 999, **claims}, SECRET, "HS256")
        return get_in(authenticator, f"Bearer {token}").rights

    roles = Roles({})
    assert rights(roles=["reader", "ceo"]) == roles.rights(["reader"])
    assert rights(roles=["ceo"]) == roles.rights([])
    assert rights() == roles.rights(["feed"])


def test_a_web_token_is_checked_once_and_ends_in_time(make, clock):
    authenticator = make(jwt={"secret": SECRET, "leeway_s": 0})
    header = f"Bearer {jwt.encode({'sub': 'ann', 'exp': clock.us // 1_000_000 + 60}, SECRET, 'HS256')}"
    session = get_in(authenticator, header)
    assert get_in(authenticator, header) is session
    clock.us += 61_000_000
    with pytest.raises(AuthenticationError, match="has expired"):
        get_in(authenticator, header)


def test_nobody_configured_lets_anyone_in_until_somebody_is(make, root, clock):
    authenticator = make()
    nameless, named = get_in(authenticator, None), get_in(authenticator, basic("x"))
    assert nameless.rights.admin
    assert authenticator.open
    with_user(root)
    seen(authenticator, clock)
    assert nameless.ended
    assert named.ended
    for header in (None, basic("x"), f"Bearer {named.token}"):
        with pytest.raises(AuthenticationError):
            get_in(authenticator, header)
    remove_user(users_file(Layout(root).users), "ann")
    seen(authenticator, clock)
    assert not authenticator.anonymous
    Layout(root).users.unlink()
    seen(authenticator, clock)
    assert not authenticator.anonymous


def test_an_empty_file_is_not_nobody(make, root):
    with_user(root)
    remove_user(users_file(Layout(root).users), "ann")
    assert not make().anonymous


def test_anonymous_is_what_the_configuration_says(make, root):
    with_user(root, "ann", "admin")
    authenticator = make(anonymous=True, roles={"anonymous": ["reader"]})
    assert get_in(authenticator, None).rights == Roles({}).rights(["reader"])
    for wrong in (basic("ann", "wrong"), "Bearer wrong"):
        with pytest.raises(AuthenticationError):
            get_in(authenticator, wrong)
    closed = make(anonymous=False)
    with pytest.raises(AuthenticationError):
        get_in(closed, None)


def test_anonymous_false_needs_nobody_to_be_closed(make):
    with pytest.raises(AuthenticationError):
        get_in(make(anonymous=False), None)


@pytest.mark.parametrize(
    ("host", "refused"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("10.1.1.1", True)]
)
def test_no_address_of_others_is_listened_on_without_logins(make, root, host, refused):
    for settings in ({}, {"anonymous": True, "users": {"a": "secret"}}):
        authenticator = make(**settings)
        if refused:
            with pytest.raises(ConfigError, match=rf"flight.host is {host} and .* Hint: Add users"):
                check_exposure(FlightSettings(host=host), authenticator)
        else:
            check_exposure(FlightSettings(host=host), authenticator)
    check_exposure(FlightSettings(host=host), make(users={"a": "secret"}))


@pytest.mark.parametrize(
    "settings",
    [{"roles": {"a": ["ceo"]}}, {"default_roles": ["ceo"]}, {"jwt": {"secret": SECRET, "role_map": {"x": ["ceo"]}}}],
)
def test_a_role_that_there_is_not_is_refused_at_the_start(make, settings):
    with pytest.raises(ConfigError, match="there is no role 'ceo'"):
        make(**settings)


@pytest.mark.parametrize("of", ["file", "configuration"])
def test_a_lock_keeps_right_guesses_out_too(make, root, of):
    if of == "file":
        with_user(root, "ann")
    users = {} if of == "file" else {"ann": PASSWORD}
    authenticator = make(users=users, tokens={"x": "y"}, attempts_max=3)
    get_in(authenticator, basic("ann"), HOME)  # its password is known to be right from now on
    for _ in range(3):
        with pytest.raises(AuthenticationError, match="wrong user or password"):
            get_in(authenticator, basic("ann", "guess"), AWAY)
    for login in (True, False):
        with pytest.raises(AuthenticationError, match="too many failed logins"):
            get_in(authenticator, basic("ann"), AWAY, login)
        assert get_in(authenticator, basic("ann"), HOME, login).user == "ann"


def test_a_locked_address_is_not_told_by_a_right_guess(make):
    authenticator = make(users={"ann": PASSWORD, "bob": PASSWORD}, attempts_address_max=3)
    get_in(authenticator, basic("ann"), HOME)
    for name in "xyz":
        with pytest.raises(AuthenticationError, match="wrong user or password"):
            get_in(authenticator, basic(name), AWAY)
    for login in (True, False):
        for name in ("ann", "bob"):
            with pytest.raises(AuthenticationError, match="too many failed logins"):
                get_in(authenticator, basic(name), AWAY, login)


def test_every_login_and_refusal_is_told_without_its_secret(make, root):
    with_user(root, "ann")
    told = []
    authenticator = make(told=told)
    get_in(authenticator, basic("ann"), HOME)
    for header in (None, basic("ann", "wrong secret"), "Bearer wrong secret", "Basic wrong", "wrong secret"):
        with pytest.raises(AuthenticationError):
            get_in(authenticator, header, AWAY)
    assert told[0] == ("ann", "password", "10.0.0.1", True, "")
    assert [event[3] for event in told] == [True] + [False] * 5
    assert all(event[2] == "10.9.9.9" and event[4] for event in told[1:])
    assert "wrong secret" not in str(told)
    assert PASSWORD not in str(told)
    assert authenticator._metrics.read()["logins_refused"] == 5


def test_one_who_logs_in_without_end_ends_only_its_own(make, root):
    for name in ("ann", "bob"):
        with_user(root, name)
    authenticator = make(sessions_max=5)
    honest = get_in(authenticator, basic("bob"))
    for _ in range(20):
        get_in(authenticator, basic("ann"))
    assert not honest.ended
    assert len(authenticator._logins) == 5


def test_a_file_that_others_may_write_stops_the_start(make, root):
    with_user(root)
    Layout(root).users.chmod(0o666)
    with pytest.raises(ConfigError, match="by others"):
        make()
