"""The configuration: where values come from, which wins, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tickflight_server.config import FeedSettings, Settings, TierSettings, load_settings
from tickflight_server.errors import ConfigError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("TICKFLIGHT_")]:
        monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "tickflight.yaml"
    path.write_text(text)
    return path


def sections(model: type[BaseModel] = Settings) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind)
    return found


def test_the_specifications_defaults_hold() -> None:
    lakehouse = load_settings().lakehouse
    assert (lakehouse.buffer_size_mb, lakehouse.flush_interval_seconds) == (256, 60)
    assert (lakehouse.compression, lakehouse.partition_scheme) == ("zstd", "exchange_symbol_date")
    assert (lakehouse.query_engine, lakehouse.enabled, lakehouse.numeric_type) == ("duckdb", True, "float64")


@pytest.mark.parametrize(
    "section",
    sorted({s for s in sections() if s is not Settings}, key=lambda s: s.__name__),
    ids=lambda s: s.__name__,
)
def test_every_setting_is_described(section: type[BaseModel]) -> None:
    assert section.__doc__
    assert [n for n, f in section.model_fields.items() if not f.description] == []


def test_arguments_win_over_the_environment_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "lakehouse: {buffer_size_mb: 1, ring_mb: 1, wal_file_mb: 1}")
    monkeypatch.setenv("TICKFLIGHT_LAKEHOUSE__RING_MB", "2")
    monkeypatch.setenv("TICKFLIGHT_LAKEHOUSE__WAL_FILE_MB", "2")
    lakehouse = load_settings(path, {"lakehouse": {"wal_file_mb": 3}}).lakehouse
    assert (lakehouse.buffer_size_mb, lakehouse.ring_mb, lakehouse.wal_file_mb) == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lakehouse: {bufer_size_mb: 1}", r"'lakehouse\.bufer_size_mb'.*Did you mean 'buffer_size_mb'\?"),
        ("lakehose: {}", r"'lakehose'.*Did you mean 'lakehouse'\?"),
        ("lakehouse: {zzz: 1}", r"'lakehouse\.zzz'.*Known keys here: enabled, storage_path"),
        ("lakehouse: {buffer_size_mb: 0}", r"lakehouse\.buffer_size_mb"),
        ("lakehouse: {wal_record_mb: 4096}", r"lakehouse\.wal_record_mb"),
        ("lakehouse: {compression: gzip}", r"lakehouse\.compression"),
        ("lakehouse: {enabled: false}", r"lakehouse\.enabled is false"),
        ("lakehouse: {dedup: {trade: [exchange, symbol, id]}}", r"lakehouse\.dedup.*no stored table 'trade'"),
        ("lakehouse: {dedup: {trades: [exchange, symbol, ids]}}", r"table trades has no column 'ids'"),
        ("lakehouse: {dedup: {trades: [exchange, symbol, seq]}}", r"table trades has no column 'seq'"),
        ("lakehouse: {dedup: {trades: [exchange, symbol, price]}}", r"column 'price' of table trades holds numbers"),
        (
            "lakehouse: {dedup: {l2_book: [exchange, symbol, bid_prices]}}",
            r"'bid_prices' of table l2_book holds numbers",
        ),
        ("lakehouse: {dedup: {trades: [exchange, id]}}", r"needs exchange, symbol and a column more"),
        ("lakehouse: {dedup: {trades: [exchange, symbol]}}", r"needs exchange, symbol and a column more"),
        ("lakehouse: {dedup: {trades: [exchange, symbol, id, id]}}", r"each once"),
        ("lakehouse: {dedup_mb: 0}", r"lakehouse\.dedup_mb"),
        ("feeds: [{exchange: X, symbols: [], channels: [trades]}]", r"feeds\.0\.symbols"),
        ("feeds: [{exchange: X, symbols: [A], channels: [b], credentials: {key: x}}]", "unknown credential 'key'"),
        ("[1, 2]", "must hold a mapping of sections"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_names_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(write(tmp_path, text))
    assert caught.value.hint


def test_a_key_may_be_given_for_each_table_and_switched_off(tmp_path: Path) -> None:
    assert load_settings().lakehouse.dedup_columns == {"trades": ("id",)}
    fills = "lakehouse: {dedup: {fills: [order_id, exchange, symbol, id]}}"
    assert load_settings(write(tmp_path, fills)).lakehouse.dedup_columns == {
        "trades": ("id",),
        "fills": ("order_id", "id"),
    }
    book = "lakehouse: {dedup: {trades: [], l2_book: [exchange, symbol, timestamp, sequence_number]}}"
    columns = load_settings(write(tmp_path, book)).lakehouse.dedup_columns
    assert columns == {"l2_book": ("timestamp", "sequence_number")}


def test_a_missing_file_is_a_mistake_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.yaml")
    assert load_settings(write(tmp_path, "")) == load_settings()


def test_overrides_are_validated_and_leave_other_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "flight: {host: 0.0.0.0}")
    assert load_settings(path, {"flight": {"port": 0}}).flight.host == "0.0.0.0"
    with pytest.raises(ConfigError):
        load_settings(path, {"flight": {"port": -1}})
    feed: dict[str, Any] = {"exchange": "X", "symbols": ["A"], "channels": ["trades"]}
    assert load_settings(None, {"feeds": [feed]}).feeds == [FeedSettings(**feed)]


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.lakehouse.ring_mb = 1  # type: ignore[misc]


def test_secrets_are_not_printed() -> None:
    settings = load_settings(None, {"auth": {"users": {"me": "hunter2"}}})
    assert "hunter2" not in repr(settings)


def test_a_tier_comes_from_file_and_environment_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().lakehouse.tier is None
    path = write(tmp_path, "lakehouse: {tier: {url: s3://a/b, cache_mb: 7, options: {allow_http: true, region: x}}}")
    tier = load_settings(path).lakehouse.tier
    assert tier is not None
    assert (tier.url, tier.cache_mb, tier.options) == ("s3://a/b", 7, {"allow_http": "true", "region": "x"})
    monkeypatch.setenv("TICKFLIGHT_LAKEHOUSE__TIER__URL", "gs://c")
    monkeypatch.setenv("TICKFLIGHT_LAKEHOUSE__TIER__CREDENTIALS", '{"service_account_key": "MY_KEY"}')
    monkeypatch.setenv("TICKFLIGHT_LAKEHOUSE__TIER__AFTER_DAYS", "0.5")
    tier = load_settings(path).lakehouse.tier
    assert tier is not None
    assert (tier.url, tier.cache_mb, tier.after_days) == ("gs://c", 7, 0.5)
    assert tier.credentials == {"service_account_key": "MY_KEY"}
    assert load_settings(write(tmp_path, "")).lakehouse.tier == TierSettings(
        url="gs://c", after_days=0.5, credentials={"service_account_key": "MY_KEY"}
    )


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("/mnt/old/", "file:///mnt/old"),
        ("file:///mnt//old disk%20", "file:///mnt/old disk%20"),
        ("s3://bucket", "s3://bucket"),
        ("az://box/a/b/", "az://box/a/b"),
    ],
)
def test_a_tiers_url_has_one_form(url: str, normal: str) -> None:
    assert TierSettings(url=url).url == normal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"lakehouse\.tier\.url.*Field required"),
        ("{url: old}", "a folder must be absolute"),
        ("{url: 'file://host/old'}", "a folder must be absolute"),
        ("{url: 'ftp://a'}", "'ftp' are not known: file, s3, gs and az are"),
        ("{url: 's3://'}", "there must be a bucket or a folder"),
        ("{url: /a/../b}", "there must be a bucket or a folder"),
        ("{url: /lake/old}", "must not lie in each other"),
        ("{url: /}", "there must be a bucket or a folder"),
        ("{url: 's3://a', cash_mb: 1}", r"'lakehouse\.tier\.cash_mb'.*Did you mean 'cache_mb'\?"),
        ("{url: 's3://a', options: {Secret_Access_Key: x}}", "Secret_Access_Key is a secret"),
        ("{url: 's3://a', options: {sas_token: x}}", "sas_token is a secret"),
        ("{url: 's3://a', options: 3}", r"lakehouse\.tier\.options"),
    ],
)
def test_a_mistake_in_a_tier_names_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(write(tmp_path, f"lakehouse: {{storage_path: /lake, tier: {text}}}"))
