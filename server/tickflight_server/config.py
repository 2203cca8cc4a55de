"""The configuration: every setting and every limit of the server, once, with its unit and its default.

The rule of this file: a limit is declared here and nowhere else, and has a description. Values come, strongest first,
from arguments, environment variables (``TICKFLIGHT_LAKEHOUSE__STORAGE_PATH``), a YAML file, and the defaults.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tickflight_server.errors import ConfigError
from tickflight_server.schemas import STORED

MIB = 1 << 20
# names of obstore's settings that hold a secret
_SECRET_NAME = re.compile(r"access_key|account_key|master_key|customer_key|secret|password|token$|sas")
DEDUP_DEFAULT = {"trades": ["exchange", "symbol", "id"]}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TierSettings(_Section):
    """The place where old parts live: a folder on another disk, or an object store."""

    url: str = Field(description="an absolute folder, plain or as file:///…, or s3://bucket/prefix, gs://… or az://…")
    after_days: float = Field(30.0, ge=0, description="age of a part's newest row at which it moves there")
    cache_mb: int = Field(
        10_240, ge=1, description="disk for copies of remote parts; what one query needs of them must fit"
    )
    fetches_max: int = Field(8, ge=1, le=256, description="parts fetched at once")
    timeout_s: float = Field(
        30.0, gt=0, description="longest wait for the store's answer; failed requests are repeated for twice as long"
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="obstore's settings of the store: endpoint, region, allow_http, virtual_hosted_style_request, …",
    )
    credentials: dict[str, str] = Field(
        default_factory=dict,
        description="access_key_id, secret_access_key, …: the names of the environment variables that hold them",
    )

    @field_validator("url")
    @classmethod
    def _known_place(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not separator:
            scheme, rest = "file", value
        if scheme not in ("file", "s3", "gs", "az"):
            raise ValueError(f"places of scheme {scheme!r} are not known: file, s3, gs and az are")
        if scheme == "file" and not rest.startswith("/"):
            raise ValueError("a folder must be absolute: /mnt/old or file:///mnt/old")
        parts = [part for part in rest.split("/") if part]
        if not parts or {".", ".."} & set(parts):
            raise ValueError("there must be a bucket or a folder, without . and .. in it")
        return f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(parts)}"

    @field_validator("options", mode="before")
    @classmethod
    def _plain_options(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # YAML reads true and 3 as what they are; the store's settings are texts
        return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if _SECRET_NAME.search(name.lower()):
                raise ValueError(f"{name} is a secret: name its environment variable in credentials instead")
        return value


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
    flush_files_max: int = Field(
        64, ge=1, description="a flush of a table writes all its partitions up to so many; of more, the large and old"
    )
    flush_partition_mb: int = Field(8, ge=1, description="rows in memory that make a partition large for a flush")
    flush_partition_seconds: float = Field(
        14_400.0,
        gt=0,
        description="longest time that a partition's rows wait for a part when there are many partitions",
    )
    wal_mb: int = Field(4096, ge=1, description="log on disk; more forces a flush of everything")
    wal_commit_interval_ms: float = Field(
        10.0, ge=0, description="shortest time between two syncs of the log; what arrives meanwhile shares one"
    )
    wal_file_mb: int = Field(64, ge=1, description="the log goes on in a new file above this size")
    wal_pending_mb: int = Field(128, ge=1, description="batches waiting for the log; above it, append blocks")
    wal_record_mb: int = Field(256, ge=1, le=2047, description="largest batch that is taken in one piece")
    ring_mb: int = Field(
        1024, ge=1, description="all rows in memory, those already in parts included; above it, the oldest are released"
    )
    ring_seconds: float = Field(3600.0, gt=0, description="rows in parts leave memory so long after their flush")
    ring_segment_rows: int = Field(131_072, ge=1024, description="small batches are merged up to this many rows")
    row_group_rows: int = Field(131_072, ge=1024, description="row-group size of the parts")
    verify_parts: Literal["first_use", "never"] = Field(
        "first_use", description="when the checksum of a part is compared: before a process first reads it, or never"
    )
    compact_parts_min: int = Field(8, ge=2, description="so many parts of a partition and a size are merged into one")
    compact_target_mb: int = Field(64, ge=1, description="parts of half of this and more are not merged any further")
    compact_settle_seconds: float = Field(
        3600.0, ge=0, description="so long after a day's end its partitions are merged as far as they can be"
    )
    compact_share: float = Field(
        0.25, ge=0, le=1, description="part of a core's time for compaction; 0 leaves it to the command line"
    )
    keep_interval_seconds: float = Field(60.0, gt=0, description="how often retention, tiering and vacuum look")
    retention_days: dict[str, float] = Field(
        default_factory=dict, description='days that rows are kept, by table; "*" is every other table; absent is ever'
    )
    vacuum_hours: float = Field(
        24.0, ge=0, description="removed parts and old versions stay readable so long; longer than the longest query"
    )
    disk_free_min_mb: int = Field(
        256, ge=0, description="free disk, at most a twentieth of it, below which nothing is accepted"
    )
    append_timeout_s: float = Field(30.0, gt=0, description="longest wait for room before append gives up")
    dedup: dict[str, list[str]] = Field(
        default_factory=lambda: dict(DEDUP_DEFAULT),
        description="key columns by table; of rows with the same key and UTC day the first is stored; [] stores all",
    )
    dedup_mb: int = Field(
        256,
        ge=1,
        description="memory of each table's keys, beside those of rows not in parts; above it, parts are read",
    )
    pins_max: int = Field(1000, ge=1, description="snapshots that clients hold at once")
    pin_seconds_max: int = Field(2_592_000, ge=1, description="longest time a snapshot is held without being renewed")
    tier: TierSettings | None = Field(None, description="where old parts move; none: they stay in storage_path")

    @field_validator("dedup")
    @classmethod
    def _known_keys(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, columns in value.items():
            _check_key(name, columns)
        return DEDUP_DEFAULT | value

    @property
    def dedup_columns(self) -> dict[str, tuple[str, ...]]:
        """The key columns besides exchange and symbol, by table; tables that store all rows are not in it."""
        found = {name: tuple(c for c in columns if c not in _PARTITION) for name, columns in self.dedup.items()}
        return {name: columns for name, columns in found.items() if columns}

    @model_validator(mode="after")
    def _tier_is_elsewhere(self) -> LakehouseSettings:
        """Keep the tier out of the data folder, whose tools take what no table lists there for rubbish."""
        if self.tier is not None and self.tier.url.startswith("file://"):
            folder = Path(self.tier.url.removeprefix("file://")).resolve()
            root = self.storage_path.absolute().resolve()
            if folder.is_relative_to(root) or root.is_relative_to(folder):
                raise ValueError("tier.url and storage_path must not lie in each other")
        return self

    @field_validator("retention_days")
    @classmethod
    def _known_tables(cls, value: dict[str, float]) -> dict[str, float]:
        for name, days in value.items():
            if name != "*" and name not in STORED:
                raise ValueError(f"there is no table {name!r}")
            if days <= 0:
                raise ValueError(f"table {name!r} would keep nothing")
        return value

    def keep_days(self, table: str) -> float | None:
        """How long the rows of ``table`` are kept, None is for ever."""
        return self.retention_days.get(table, self.retention_days.get("*"))


_PARTITION = ("exchange", "symbol")
_KEY_KINDS = ("label", "text", "int", "time", "flag")  # a list has no order, and equal numbers have many spellings


def _check_key(name: str, columns: list[str]) -> None:
    """Refuse what is no key of a table. No columns at all are fine."""
    table = STORED.get(name)
    if table is None:
        raise ValueError(f"there is no stored table {name!r}; tables are {', '.join(STORED)}")
    if not columns:
        return
    kinds = {c.name: c.kind for c in table.columns if c.name != "seq"}
    for column in columns:
        if column not in kinds:
            raise ValueError(f"table {name} has no column {column!r} to be a key; its columns are {', '.join(kinds)}")
        if kinds[column] not in _KEY_KINDS:
            raise ValueError(f"column {column!r} of table {name} holds numbers or lists and cannot be part of a key")
    if len(set(columns)) < len(columns) or not set(_PARTITION) < set(columns):
        raise ValueError(f"the key of table {name} needs exchange, symbol and a column more, each once")


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
    stall_seconds: float = Field(
        300.0, ge=0, description="a symbol without an event for longer is told in system.gaps; 0 is off"
    )
    stall_channels: list[str] = Field(
        default_factory=lambda: ["trades", "ticker", "l1_book", "l2_book", "l3_book"],
        description="channels whose silence is told; others pause for hours by their nature",
    )


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
