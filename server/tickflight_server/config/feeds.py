"""Sections ``feeds`` and ``collector``: what is taken in from exchanges, and how it is handed to the server.

The rule of this file: a limit of feeds is declared here and nowhere else, and has a description.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from tickflight_server.config.section import Section, check_variables


class Endpoints(Section):
    """Where an exchange is reached instead of its own addresses: a sandbox, a recorder, a relay."""

    websocket: str = Field(description="wss:// address")
    rest: str = Field(description="http:// or https:// address")
    ca_file: Path | None = Field(None, description="authority to trust for wss, PEM")


class FeedSettings(Section):
    """One exchange handler of cryptofeed: what it subscribes to and how it connects."""

    exchange: str = Field(description="cryptofeed's name of the exchange, such as BINANCE")
    symbols: list[str] = Field(description="cryptofeed's normalised names, such as BTC-USDT", min_length=1)
    channels: list[str] = Field(description="cryptofeed's names, such as trades, ticker, l2_book", min_length=1)
    candle_interval: str = Field("1m", description="interval of channel candles")
    candle_closed_only: bool = Field(False, description="only finished candles")
    max_depth: int = Field(0, ge=0, description="levels a side kept of a book; 0 is all")
    snapshots_only: bool = Field(False, description="store full books only, no deltas")
    snapshot_interval: int = Field(
        0, ge=0, description="extra full books: one after so many deltas of a symbol; 0 never"
    )
    http_proxy: str | None = Field(None, description="proxy of REST calls")
    ws_proxy: str | None = Field(None, description="proxy of WebSockets")
    timeout_s: int = Field(120, ge=-1, description="silence after which the connection is made anew; -1 never")
    retries: int = Field(-1, ge=-1, description="attempts to connect; -1 is without end")
    credentials: dict[str, str] = Field(
        default_factory=dict,
        description="key_id, key_secret, key_passphrase: the names of the environment variables that hold them",
    )
    endpoints: Endpoints | None = Field(None, description="where to connect instead of the exchange's own addresses")

    @field_validator("credentials")
    @classmethod
    def _known_credentials(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(value) - {"key_id", "key_secret", "key_passphrase"})
        if unknown:
            raise ValueError(f"unknown credential {unknown[0]!r}: key_id, key_secret and key_passphrase exist")
        return check_variables(value)


class CollectorSettings(Section):
    """How a feed process hands rows to the server."""

    address: str | None = Field(None, description="server; the one of section flight when absent")
    username: str | None = Field(None, description="user to log in as")
    password: SecretStr | None = Field(None, description="its password")
    password_file: Path | None = Field(None, description="file with the password, readable by its owner only")
    token: SecretStr | None = Field(None, description="bearer token instead of user and password")
    token_file: Path | None = Field(None, description="file with the token")
    queue_rows_max: int = Field(1_000_000, ge=1, description="events kept while the server is away")
    overflow: Literal["block", "drop_oldest"] = Field("block", description="what a full queue does to new events")
    batch_interval_ms: float = Field(10.0, gt=0, description="events of so long go in one batch")
    batch_rows_max: int = Field(65_536, ge=1, description="largest batch")
    drain_timeout_s: float = Field(30.0, gt=0, description="longest wait for acknowledgements when stopping")
    stall_seconds: float = Field(
        300.0, ge=0, description="a symbol without an event for longer is told in system.gaps; 0 is off"
    )
    stall_channels: list[str] = Field(
        default_factory=lambda: ["trades", "ticker", "l1_book", "l2_book", "l3_book"],
        description="channels whose silence is told; others pause for hours by their nature",
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> CollectorSettings:
        for name in ("password", "token"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"{name} and {name}_file are two secrets: set one of them")
        return self
