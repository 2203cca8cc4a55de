"""JSON Web Tokens: only the issuer's, for this server, while they last, by the configured algorithms."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from stopped_clock import StoppedClock

from tickflight_server.config import JwtSettings
from tickflight_server.errors import AuthenticationError, BusyError, ConfigError
from tickflight_server.identity.web_tokens import Bearer, WebTokens
from tickflight_server.metrics import Metrics

SECRET = "a secret of thirty-two bytes, or more"
RSA_KEY = rsa.generate_private_key(65_537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
NOW_S = StoppedClock().now_us() // 1_000_000
SHARED = {"issuer": "https://login", "audience": "tickflight"}
CLAIMS = {"sub": "ann", "exp": NOW_S + 600, "iss": "https://login", "aud": "tickflight"}


@pytest.fixture
def clock():
    return StoppedClock()


def make(clock, **settings):
    return WebTokens(JwtSettings(**settings), clock, Metrics())


def jwk(key, kid, **more):
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def signed(claims=None, key=SECRET, algorithm="HS256", **headers):
    return jwt.encode({**CLAIMS, **(claims or {})}, key, algorithm, headers=headers or None)


def test_a_good_token_says_who_and_until_when(clock):
    bearer = make(clock, secret=SECRET, leeway_s=10).check(signed())
    assert bearer == Bearer("ann", None, NOW_S + 610)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"exp": NOW_S - 31}, "has expired"),
        ({"nbf": NOW_S + 31}, "is not valid yet"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["another", "third"]}, "another audience"),
        ({"iss": "https://elsewhere"}, "another issuer"),
        ({"exp": True}, "is none, or damaged"),
        ({"exp": 1e300}, "is none, or damaged"),
        ({"sub": 7}, "no claim sub with a name"),
        ({"sub": ""}, "no good name"),
        ({"sub": "a\nb"}, "no good name"),
        ({"sub": "anonymous"}, "no good name"),
        ({"roles": {"admin": True}}, "no list of names"),
    ],
)
def test_a_token_that_is_not_good_says_why(clock, claims, message):
    with pytest.raises(AuthenticationError, match=message) as caught:
        make(clock, secret=SECRET, **SHARED).check(signed(claims))
    assert SECRET not in str(caught.value)


def test_a_token_without_an_end_or_a_needed_claim_is_refused(clock):
    for missing in ("exp", "aud", "iss"):
        claims = {name: value for name, value in CLAIMS.items() if name != missing}
        with pytest.raises(AuthenticationError, match="lacks a claim"):
            make(clock, secret=SECRET, **SHARED).check(jwt.encode(claims, SECRET, "HS256"))


def test_leeway_is_for_clocks_that_differ(clock):
    tokens = make(clock, secret=SECRET, leeway_s=60)
    assert tokens.check(signed({"exp": NOW_S - 59, "nbf": NOW_S + 59})).user == "ann"


@pytest.mark.parametrize(
    ("roles", "found"),
    [(["reader", "x"], ("reader", "x")), ("reader feed", ("reader", "feed")), ([], ()), ([1, "a", None], ("a",))],
)
def test_roles_are_a_list_or_words(clock, roles, found):
    assert make(clock, secret=SECRET).check(signed({"roles": roles})).roles == found


def test_roles_may_be_deep_and_have_other_names(clock):
    tokens = make(clock, secret=SECRET, roles_claim="realm.roles", role_map={"quants": ["reader"], "ops": ["admin"]})
    assert tokens.check(signed({"realm": {"roles": ["quants", "admin"]}})).roles == ("reader",)
    assert tokens.check(signed({"realm.roles": ["ops"]})).roles == ("admin",)
    assert tokens.check(signed({"realm": "x"})).roles is None


def test_a_public_key_takes_no_secrets_and_no_unsigned_tokens(clock, tmp_path):
    (tmp_path / "key.pem").write_bytes(PUBLIC)
    tokens = make(clock, key_file=tmp_path / "key.pem")
    assert tokens.check(signed(key=RSA_KEY, algorithm="RS256")).user == "ann"
    head, claims, _ = signed(key=RSA_KEY, algorithm="RS256").split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    # a public key as the secret of HS256, which PyJWT itself would not sign with
    hs = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    mac = hmac.digest(PUBLIC, f"{hs}.{claims}".encode(), hashlib.sha256)
    forged = f"{hs}.{claims}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    for token in (
        f"{none}.{claims}.",
        f"{none}.{claims}",
        f"{head}.{claims}.",
        forged,
        signed(),
        f"{head}.{claims}.AAAA",
    ):
        with pytest.raises(AuthenticationError):
            tokens.check(token)


def test_a_key_file_is_read_again_and_a_bad_one_changes_nothing(clock, tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    tokens = make(clock, secret_file=path)
    assert tokens.check(signed())
    path.write_text("short")
    tokens.refresh()
    assert (tokens.check(signed()).user, tokens.generation) == ("ann", 0)
    path.write_text("another secret of thirty-two bytes, or more")
    tokens.refresh()
    assert tokens.generation == 1
    with pytest.raises(AuthenticationError, match="signature is wrong"):
        tokens.check(signed())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of"),
        ({"secret": SECRET, "jwks_url": "https://x"}, "give one of"),
        ({"secret": "short"}, "less than 32 bytes"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, "does not go with this key"),
        ({"key_file": "x", "algorithms": ["HS256"]}, "does not go with this key"),
        ({"key_file": "x", "algorithms": ["none"]}, "does not go with this key"),
        ({"jwks_url": "http://login.example.com", **SHARED}, "fetched by https"),
        ({"jwks_url": "file:///etc/passwd", **SHARED}, "fetched by https"),
        ({"jwks_url": "https://x", "issuer": "y"}, "issuer and audience"),
    ],
)
def test_settings_that_would_let_somebody_in_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        JwtSettings(**settings)


def test_a_file_that_holds_no_key_is_refused(clock, tmp_path):
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ConfigError, match="holds no public key"):
        make(clock, key_file=tmp_path / "key.pem")
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        make(clock, secret_file=tmp_path / "secret")


def test_a_set_of_keys_is_chosen_from_by_name(clock, tmp_path):
    path = tmp_path / "keys.json"
    oct_ = {"kty": "oct", "kid": "c", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()}
    path.write_text(json.dumps({"keys": [jwk(RSA_KEY, "a", alg="RS256"), jwk(EC_KEY, "b"), oct_]}))
    tokens = make(clock, jwks_file=path, **SHARED)
    assert tokens.check(signed(key=RSA_KEY, algorithm="RS256", kid="a")).user == "ann"
    assert tokens.check(signed(key=EC_KEY, algorithm="ES256", kid="b")).user == "ann"
    for token in (
        signed(key=EC_KEY, algorithm="ES256", kid="a"),
        signed(key=RSA_KEY, algorithm="RS256", kid="b"),
        signed(key=RSA_KEY, algorithm="RS512", kid="a"),
        signed(key=RSA_KEY, algorithm="RS256"),
        signed(kid="c"),
        signed(key=RSA_KEY, algorithm="RS256", kid="zzz"),
    ):
        with pytest.raises(AuthenticationError):
            tokens.check(token)


@contextmanager
def issuer(keys: list[dict[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """A login server's keys over HTTP; the list has the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/keys")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[" * 2_000_000 if self.path == "/huge" else json.dumps({"keys": keys}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_keys_are_fetched_once_and_again_for_a_new_one_but_not_for_every_forged_one(clock):
    keys = [jwk(RSA_KEY, "a")]
    with issuer(keys) as (url, asked):
        tokens = make(clock, jwks_url=f"{url}/keys", refresh_min_s=30, **SHARED)
        for _ in range(5):
            assert tokens.check(signed(key=RSA_KEY, algorithm="RS256", kid="a")).user == "ann"
        assert len(asked) == 1
        for number in range(20):
            with pytest.raises(AuthenticationError):
                tokens.check(signed(key=EC_KEY, algorithm="ES256", kid=f"forged{number}"))
        assert len(asked) == 1
        keys.append(jwk(EC_KEY, "b"))
        clock.us += 31_000_000
        assert tokens.check(signed(key=EC_KEY, algorithm="ES256", kid="b")).user == "ann"
        assert len(asked) == 2
        before = tokens.generation
        keys.clear()
        keys.append(jwk(EC_KEY, "b"))
        clock.us += 3601_000_000
        tokens.refresh()
        assert tokens._keys._background is not None
        tokens._keys._background.join()
        assert tokens.generation == before + 1
        with pytest.raises(AuthenticationError):
            tokens.check(signed({"exp": NOW_S + 9999}, key=RSA_KEY, algorithm="RS256", kid="a"))
    # the issuer is away: what was known stays good
    clock.us += 3601_000_000
    tokens.refresh()
    tokens._keys._background.join()
    assert tokens.check(signed({"exp": NOW_S + 9999}, key=EC_KEY, algorithm="ES256", kid="b")).user == "ann"


@pytest.mark.parametrize("path", ["/moved", "/huge"])
def test_keys_are_taken_from_nowhere_else_and_not_without_bound(clock, path):
    with issuer([jwk(RSA_KEY, "a")]) as (url, asked):
        tokens = make(clock, jwks_url=f"{url}{path}", **SHARED)
        with pytest.raises(BusyError, match="cannot be had"):
            tokens.check(signed(key=RSA_KEY, algorithm="RS256", kid="a"))
        assert asked == [path]


@given(st.one_of(st.text(), st.lists(st.binary(max_size=40), min_size=2, max_size=4)))
def test_noise_is_refused_clean(noise):
    if isinstance(noise, list):
        noise = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in noise)
    with pytest.raises(AuthenticationError):
        make(StoppedClock(), secret=SECRET).check(noise)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["sub", "exp", "nbf", "aud", "iss", "roles", "iat", "jti"]),
)
def test_a_signed_token_with_odd_claims_is_taken_or_refused_clean(value, name):
    token = jwt.api_jws.encode(json.dumps({**CLAIMS, name: value}).encode(), SECRET, "HS256")
    try:
        bearer = make(StoppedClock(), secret=SECRET, **SHARED).check(token)
    except AuthenticationError:
        return
    assert bearer.user.isprintable()
    assert bearer.expires_s > NOW_S
