"""The server's side of feed processes: credentials, and living without cryptofeed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from tickflight_server.app.serve import _feed_token
from tickflight_server.config import AuthSettings, CollectorSettings, FeedSettings, Settings

OWN_USER = CollectorSettings(username="ann", password=SecretStr("secret"))
FEED = FeedSettings(exchange="BINANCE", symbols=["BTC-USDT"], channels=["trades"])
USERS = AuthSettings(users={"ann": SecretStr("secret")})


@pytest.mark.parametrize(
    ("settings", "gets_token"),
    [
        (Settings(feeds=[FEED], auth=USERS), True),
        (Settings(auth=USERS), False),
        (Settings(feeds=[FEED]), True),  # users may be added while it runs
        (Settings(feeds=[FEED], auth=USERS, collector=CollectorSettings(token=SecretStr("mine"))), False),
        (
            Settings(feeds=[FEED], auth=USERS, collector=OWN_USER),
            False,
        ),
    ],
)
def test_the_feed_gets_a_token_only_where_it_needs_one_and_has_none(settings: Settings, gets_token: bool) -> None:
    assert (_feed_token(settings) is not None) == gets_token


def test_a_server_without_feeds_needs_no_cryptofeed() -> None:
    program = """
import sys
from pathlib import Path
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cryptofeed":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import tickflight_server.app.serve
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "tickflight_server.cli", "serve", "--die-with-stdin", "--port", "0"),
        *("--storage-path", str(tmp_path / "store")),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert b"ready" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(60) == 0
