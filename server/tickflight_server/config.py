"""The configuration: every setting and every limit of the server, once, with its unit and its default.

The rule of this file: a limit is declared here and nowhere else, and has a description. Values come, strongest first,
from arguments, environment variables (``TICKFLIGHT_LAKEHOUSE__STORAGE_PATH``), a YAML file, and the defaults.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tickflight_server.errors import ConfigError

MIB = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LakehouseSettings(_Section):
    """What is stored, where, and how soon it moves from log to memory to disk."""

    enabled: bool = Field(True, description="false refuses to start: there is nothing to serve without the store")
    storage_path: Path = Field(Path("data/tickflight"), description="folder of log and tables; made if missing")
    buffer_size_mb: int = Field(256, ge=1, description="rows in memory and not yet in parts; more forces a flush")
    flush_interval_seconds: float = Field(60.0, gt=0, description="longest time a row waits before it is in a part")
    compression: Literal["zstd", "lz4", "snappy", "none"] = Field("zstd", description="codec of the parts")
    partition_scheme: Literal["exchange_symbol_date"] = Field(
        "exchange_symbol_date", description="folders of the parts: day, exchange, symbol"
    )
    query_engine: Literal["duckdb"] = Field("duckdb", description="what runs SQL")
    numeric_type: Literal["float64", "decimal"] = Field(
        "float64", description="type of prices and sizes; decimal keeps the exchange's digits as decimal(38,18)"
    )
    wal_commit_interval_ms: float = Field(
        10.0, ge=0, description="shortest time between two syncs of the log; what arrives meanwhile shares one"
    )
    wal_file_mb: int = Field(64, ge=1, description="the log goes on in a new file above this size")
    wal_pending_mb: int = Field(128, ge=1, description="batches waiting for the log; above it, append blocks")
    wal_record_mb: int = Field(256, ge=1, le=2047, description="largest batch that is taken in one piece")
    ring_mb: int = Field(
        1024, ge=1, description="all rows in memory, those already in parts included; above it, the oldest are released"
    )
    ring_segment_rows: int = Field(131_072, ge=1024, description="small batches are merged up to this many rows")
    row_group_rows: int = Field(131_072, ge=1024, description="row-group size of the parts")
    append_timeout_s: float = Field(30.0, gt=0, description="longest wait for room before append gives up")
    pins_max: int = Field(1000, ge=1, description="snapshots that clients hold at once")
    pin_seconds_max: int = Field(2_592_000, ge=1, description="longest time a snapshot is held without being renewed")


class QuerySettings(_Section):
    """What a query may use."""

    threads: int = Field(0, ge=0, description="threads of the engine; 0 is one per core")
    memory_mb: int = Field(2048, ge=64, description="memory of all queries together")
    spill_mb: int = Field(0, ge=0, description="disk that queries may spill to; 0 is none")
    concurrent_max: int = Field(64, ge=1, description="queries under way at once; further ones wait")
    queue_timeout_s: float = Field(30.0, gt=0, description="longest wait for a place among them")
    sql_bytes_max: int = Field(1 * MIB, ge=1024, description="longest SQL text")
    probe_timeout_s: float = Field(2.0, gt=0, description="longest search for filters; after it, nothing is pruned")
    batch_bytes: int = Field(2 * MIB, ge=65_536, description="aimed size of a record batch on the wire")
    handles_max: int = Field(10_000, ge=1, description="open tickets and prepared statements")
    handle_idle_s: float = Field(600.0, gt=0, description="an unused ticket or prepared statement is dropped after it")


class FlightSettings(_Section):
    """Where the Flight SQL server listens."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8815, ge=0, le=65_535, description="port; 0 takes a free one and tells it")
    message_bytes_max: int = Field(64 * MIB, ge=MIB, description="largest batch taken from a producer")


class AuthSettings(_Section):
    """Who may connect. With neither users nor tokens, anyone who reaches the address may: loopback only."""

    users: dict[str, SecretStr] = Field(default_factory=dict, description="password by user name")
    tokens: dict[str, SecretStr] = Field(default_factory=dict, description="long-lived bearer token by its name")
    session_idle_s: float = Field(86_400.0, gt=0, description="a bearer token of a login ends after so long unused")
    sessions_max: int = Field(10_000, ge=1, description="logins alive at once; the longest unused goes first")

    @field_validator("users", "tokens")
    @classmethod
    def _not_empty(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            if not secret.get_secret_value():
                raise ValueError(f"the secret of {name!r} is empty")
        return value

    @property
    def anonymous(self) -> bool:
        """Whether nobody has to say who they are."""
        return not self.users and not self.tokens


class Endpoints(_Section):
    """Where an exchange is reached instead of its own addresses: a sandbox, a recorder, a relay."""

    websocket: str = Field(description="wss:// address")
    rest: str = Field(description="http:// or https:// address")
    ca_file: Path | None = Field(None, description="authority to trust for wss, PEM")


class FeedSettings(_Section):
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
        return value


class CollectorSettings(_Section):
    """How a feed process hands rows to the server."""

    address: str | None = Field(None, description="server; the one of section flight when absent")
    username: str | None = Field(None, description="user to log in as")
    password: SecretStr | None = Field(None, description="its password")
    token: SecretStr | None = Field(None, description="bearer token instead of user and password")
    queue_rows_max: int = Field(1_000_000, ge=1, description="events kept while the server is away")
    overflow: Literal["block", "drop_oldest"] = Field("block", description="what a full queue does to new events")
    batch_interval_ms: float = Field(10.0, gt=0, description="events of so long go in one batch")
    batch_rows_max: int = Field(65_536, ge=1, description="largest batch")
    drain_timeout_s: float = Field(30.0, gt=0, description="longest wait for acknowledgements when stopping")


class LogSettings(_Section):
    """What the process says about itself."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is written")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto is console on a terminal, else JSON")


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="TICKFLIGHT_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    lakehouse: LakehouseSettings = Field(default_factory=lambda: LakehouseSettings())
    query: QuerySettings = Field(default_factory=lambda: QuerySettings())
    flight: FlightSettings = Field(default_factory=lambda: FlightSettings())
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings())
    collector: CollectorSettings = Field(default_factory=lambda: CollectorSettings())
    feeds: list[FeedSettings] = Field(default_factory=list, description="feeds that serve starts and supervises")
    log: LogSettings = Field(default_factory=lambda: LogSettings())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose values come in as arguments."""
        return env_settings, init_settings


def load_settings(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read the configuration from ``path`` and the environment, and lay ``overrides`` on top.

    ``overrides`` has the shape of the file, ``{"flight": {"port": 0}}``, and wins over everything.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value does not fit; the message names the key.
    """
    try:
        settings = Settings(**_read_yaml(path))
        if overrides:
            settings = _override(settings, overrides)
    except ValidationError as error:
        raise _config_error(error, path) from None
    except SettingsError as error:
        raise ConfigError(f"an environment variable is not JSON: {error}.", hint="Write mappings as JSON.") from None
    if not settings.lakehouse.enabled:
        raise ConfigError("lakehouse.enabled is false.", hint="Set it to true: there is nothing to serve otherwise.")
    return settings


def _override(settings: Settings, overrides: dict[str, Any]) -> Settings:
    """Return ``settings`` with ``overrides`` laid on top, each touched section validated again."""
    changed: dict[str, Any] = {}
    for name, value in overrides.items():
        section = getattr(settings, name)
        if isinstance(section, BaseModel):
            changed[name] = type(section).model_validate(section.model_dump() | value)
        else:
            changed[name] = [FeedSettings.model_validate(item) for item in value]
    return settings.model_copy(update=changed)


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.", hint="Check --config.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {place}.", hint="Mend the file at that place.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping of sections.", hint=f"Sections are {', '.join(_sections())}.")
    return {str(key): value for key, value in document.items()}


def _sections() -> list[str]:
    return list(Settings.model_fields)


def _config_error(error: ValidationError, path: Path | None) -> ConfigError:
    """Turn pydantic's report into one line about the first fault, with the closest known key as a hint."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = [str(part) for part in first["loc"]]
    where = f"in {path}" if path else "in the environment"
    name = ".".join(location) or "(the whole file)"
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
        return ConfigError(f"unknown configuration key {name!r} {where}.", hint=hint)
    message = first["msg"].rstrip(".")
    return ConfigError(f"{name} {where}: {message}.", hint="See the table of settings in the README.")


def _known_keys(location: list[str]) -> list[str]:
    model: Any = Settings
    for part in location:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = arguments[0] if arguments else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)
