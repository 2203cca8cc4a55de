"""What is a secret goes, what is none stays, and no text takes long."""

import time

import pytest

from tickflight_server.redact import hide, hide_in_error, hide_in_sql, learn


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password: hunter2 and more", "password: *** and more"),
        ("{'password': 'a b', 'x': 1}", "{'password': ***, 'x': 1}"),
        ('{"api_key": "zz", "n": 2}', '{"api_key": ***, "n": 2}'),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("s3://key:value@host/x?secret=zz&a=b", "s3://***@host/x?secret=***&a=b"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmVk", "***"),
        ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nrest", "***\nrest"),
        ("password=None token: null", "password=None token: null"),
        ("compass = 'n', symbol = 'TOKEN-USDT', tokens", "compass = 'n', symbol = 'TOKEN-USDT', tokens"),
    ],
)
def test_what_looks_like_a_secret_goes(text, shown):
    assert hide(text) == shown
    assert hide(shown) == shown


def test_statements_about_secrets_lose_their_texts():
    assert hide_in_sql("CREATE SECRET s (KEY_ID 'a', SECRET 'b''c') -- 'd'") == (
        "CREATE SECRET s (KEY_ID '***', SECRET '***') -- '***'"
    )
    assert hide_in_sql("SELECT $$x$$ AS password, 'left open") == "SELECT '***' AS password, '***'"
    plain = "SELECT * FROM trades WHERE symbol = 'BTC-USDT'"
    assert hide_in_sql(plain) == plain
    assert hide_in_error("near 'b'", "CREATE SECRET s (SECRET 'b') x") == "***"
    assert hide_in_error("near 'b'", plain) == "near 'b'"


def test_a_secret_that_is_known_goes_wherever_it_stands():
    learn(["a secret of this test", "a secret of this test, and longer", "short"])
    assert hide("xa secret of this test, and longery") == "x***y"
    assert hide("it is short") == "it is short"


@pytest.mark.parametrize(
    "text",
    ["a", "a-", "token", "$x", "'", "x =", "a ", "eyJ", "eyJaaaaa.", "Basic ", "://", "passwor-", "-", "\\", '"'],
)
def test_no_text_takes_long(text):
    """Fifty thousand characters take milliseconds; were it their square, it would be minutes."""
    began = time.process_time()
    hide_in_sql(text * (50_000 // len(text)))
    assert time.process_time() - began < 1.0
