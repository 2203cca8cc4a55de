"""Section ``lakehouse``: what is stored, where, how it moves, and how long it is kept.

The rule of this file: a limit of the store is declared here and nowhere else, and has a description.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tickflight_server.config.section import Section, check_variables
from tickflight_server.schemas import STORED

# names of obstore's settings that hold a secret
_SECRET_NAME = re.compile(r"access_key|account_key|master_key|customer_key|secret|password|token$|sas")
DEDUP_DEFAULT = {"trades": ["exchange", "symbol", "id"]}


class TierSettings(Section):
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

    @field_validator("credentials")
    @classmethod
    def _names_of_variables(cls, value: dict[str, str]) -> dict[str, str]:
        return check_variables(value)

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if _SECRET_NAME.search(name.lower()):
                raise ValueError(f"{name} is a secret: name its environment variable in credentials instead")
        return value


class LakehouseSettings(Section):
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
    wal_file_mb: int = Field(128, ge=1, description="the log goes on in a new file above this size")
    wal_pending_mb: int = Field(128, ge=1, description="batches waiting for the log; above it, append blocks")
    wal_record_mb: int = Field(256, ge=1, le=2047, description="largest batch that is taken in one piece")
    ring_mb: int = Field(
        1024, ge=1, description="all rows in memory, those already in parts included; above it, the oldest are released"
    )
    ring_seconds: float = Field(3600.0, gt=0, description="rows in parts leave memory so long after their flush")
    ring_segment_rows: int = Field(131_072, ge=1024, description="small batches are merged up to this many rows")
    row_group_rows: int = Field(131_072, ge=1024, description="row-group size of the parts")
    verify_parts: Literal["first_use", "never"] = Field(
        "first_use", description="when checksums of parts are compared: before the first answer from a column, or never"
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
