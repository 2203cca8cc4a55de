"""The tier: parts go to a folder or an object store and come back whole, and what goes wrong there is said."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ports import free_port
from s3_server import BreakingProxy, S3Server, change

from tickflight_server.config import MIB, TierSettings
from tickflight_server.errors import ConfigError, StorageError
from tickflight_server.paths import is_partial_file_name
from tickflight_server.store.tier import Tier, file_checksum, part_fault

Settings = Callable[..., TierSettings]
MakePart = Callable[..., Path]
# a key as the store makes them: encoded bytes, spaces and other letters must come back as they went
FOLDER = "trades/year=2026/month=11/day=22/exchange=X/symbol=A%2FB%20~é x"


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> TierSettings:
    if request.param == "s3":
        made: TierSettings = request.getfixturevalue("s3_settings")()
        return made
    (tmp_path / "disk").mkdir()
    return TierSettings(url=str(tmp_path / "disk"))


@pytest.fixture
def place(settings: TierSettings, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder in which the tier's keys are files."""
    bucket: Path = request.getfixturevalue("bucket") / "old" if settings.url.startswith("s3") else tmp_path / "disk"
    return bucket


@pytest.mark.parametrize("nbytes", [1000, 20 * MIB + 1], ids=["small", "in pieces"])
def test_a_part_comes_back_as_it_went(
    settings: TierSettings, place: Path, tmp_path: Path, make_part: MakePart, nbytes: int
) -> None:
    tier = Tier(settings)
    part = make_part(tmp_path / "table", nbytes=nbytes)
    url = tier.put(part, f"{FOLDER}/{part.name}")
    assert url == f"{settings.url}/{FOLDER}/{part.name}"
    assert (place / FOLDER / part.name).read_bytes() == part.read_bytes()
    tier.fetch(url, tmp_path / "copy", nbytes)
    assert (tmp_path / "copy").read_bytes() == part.read_bytes()
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert tier.size(url) == nbytes
    counted = tier.metrics.read()
    assert (counted["tier_puts"], counted["tier_put_bytes"]) == (1, nbytes)
    assert (counted["tier_fetches"], counted["tier_fetch_bytes"]) == (1, nbytes)
    assert "tier_failures" not in counted


def test_the_same_part_twice_is_one(settings: TierSettings, place: Path, tmp_path: Path, make_part: MakePart) -> None:
    tier = Tier(settings)
    part = make_part(tmp_path / "table")
    key = f"trades/{part.name}"
    assert tier.put(part, key) == tier.put(part, key)
    assert tier.metrics.read()["tier_puts"] == 1
    change(place / key, part.read_bytes()[:-1])  # what an earlier, worse copier left
    tier.put(part, key)
    assert (place / key).read_bytes() == part.read_bytes()
    change(place / key, b"x" * part.stat().st_size)
    tier.put(part, key)
    assert (place / key).read_bytes() == part.read_bytes()


def test_what_is_listed_is_what_was_put(
    settings: TierSettings, place: Path, tmp_path: Path, make_part: MakePart
) -> None:
    tier = Tier(settings)
    before_us = time.time_ns() // 1000
    parts = [make_part(tmp_path / "table", number, 1000 + number) for number in range(3)]
    urls = {tier.put(p, f"{folder}/{p.name}") for p, folder in zip(parts, ["a", "a/b c", "ab"], strict=True)}
    found = list(tier.list())
    assert {url for url, _, _ in found} == urls
    assert {nbytes for _, nbytes, _ in found} == {1000, 1001, 1002}
    assert all(abs(changed - before_us) < 60_000_000 for _, _, changed in found)
    assert {url for url, _, _ in tier.list("a")} == {url for url in urls if "/a/" in url}
    assert list(tier.list("none")) == []
    assert all(tier.owns(url) for url in urls)


def test_deleted_is_gone_and_missing_is_fine(settings: TierSettings, tmp_path: Path, make_part: MakePart) -> None:
    tier = Tier(settings)
    part = make_part(tmp_path / "table")
    url = tier.put(part, f"{FOLDER}/{part.name}")
    tier.delete(url)
    tier.delete(url)
    assert list(tier.list()) == []
    with pytest.raises(StorageError, match=r"not there|No such file") as caught:
        tier.fetch(url, tmp_path / "copy")
    assert url in caught.value.message
    assert caught.value.hint
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("copy")]
    assert tier.metrics.read()["tier_failures"] == 1


def test_another_places_url_is_refused(settings: TierSettings, tmp_path: Path) -> None:
    tier = Tier(settings)
    for url in (f"{settings.url}-more/a", "s3://elsewhere/a", f"{settings.url}/../a", f"{settings.url}//a", "a/b"):
        assert not tier.owns(url)
        for call in (tier.delete, tier.local_path, tier.size):
            with pytest.raises(StorageError, match=r"is not in lakehouse.tier.url"):
                call(url)
    assert tier.owns(f"{settings.url}/a/b")


def test_a_folder_is_read_in_place_and_an_object_store_is_not(settings: TierSettings, place: Path) -> None:
    path = Tier(settings).local_path(f"{settings.url}/a/b c")
    assert path == (place / "a/b c" if settings.url.startswith("file") else None)


@pytest.mark.parametrize("checked", [True, False], ids=["checksum in the name", "older name"])
def test_a_damaged_part_is_not_moved_and_not_taken_back(
    settings: TierSettings, place: Path, tmp_path: Path, make_part: MakePart, checked: bool
) -> None:
    tier = Tier(settings)
    part = make_part(tmp_path / "table", checked=checked)
    url = tier.put(part, f"trades/{part.name}")
    contents = part.read_bytes()
    damaged = contents[:500] + b"?" + contents[501:] if checked else contents[:500]
    change(place / "trades" / part.name, damaged)
    with pytest.raises(StorageError, match=r"checksum|no whole Parquet file") as caught:
        tier.fetch(url, tmp_path / "copy")
    assert url in caught.value.message
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("copy")] == []
    part.write_bytes(damaged)
    with pytest.raises(StorageError, match="source is damaged"):
        tier.put(part, f"trades/again-{part.name}")
    assert len(list(tier.list())) == 1


def test_a_fetch_does_not_touch_what_was_there_when_it_fails(
    settings: TierSettings, tmp_path: Path, make_part: MakePart
) -> None:
    tier = Tier(settings)
    part = make_part(tmp_path / "table")
    url = tier.put(part, f"trades/{part.name}")
    (tmp_path / "copy").write_text("before")
    with pytest.raises(StorageError, match="1000 bytes instead of 999"):
        tier.fetch(url, tmp_path / "copy", 999)
    assert (tmp_path / "copy").read_text() == "before"


def in_threads(work: Callable[[int], None], count: int = 8) -> None:
    """Call ``work`` with every number below ``count``, all at once; raise what any of them raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def test_many_threads_put_and_fetch(settings: TierSettings, place: Path, tmp_path: Path, make_part: MakePart) -> None:
    tier = Tier(settings)
    parts = [[make_part(tmp_path / "table", 4 * worker + i) for i in range(4)] for worker in range(8)]

    def work(worker: int) -> None:
        for part in parts[worker]:
            url = tier.put(part, f"trades/{part.name}")
            tier.fetch(url, tmp_path / f"copy{worker}")
            assert (tmp_path / f"copy{worker}").read_bytes() == part.read_bytes()

    in_threads(work)
    assert {p.name for p in place.rglob("*.parquet*")} == {part.name for mine in parts for part in mine}


# --- a folder


def test_many_threads_put_the_same_parts(tmp_path: Path, make_part: MakePart) -> None:
    # of the places a folder alone: rclone's server takes an object away while it replaces it
    (tmp_path / "disk").mkdir()
    tier = Tier(TierSettings(url=f"file://{tmp_path}/disk"))
    parts = [make_part(tmp_path / "table", number) for number in range(4)]

    def work(worker: int) -> None:
        for part in parts:
            url = tier.put(part, f"trades/{part.name}")
            tier.fetch(url, tmp_path / f"copy{worker}")
            assert (tmp_path / f"copy{worker}").read_bytes() == part.read_bytes()

    in_threads(work)
    assert {p.name for p in (tmp_path / "disk").rglob("*.parquet*")} == {p.name for p in parts}


def test_a_disk_that_is_not_mounted_is_not_written_to(tmp_path: Path, make_part: MakePart) -> None:
    part = make_part(tmp_path / "table")
    tier = Tier(TierSettings(url=f"file://{tmp_path}/disk"))
    for call in (lambda: tier.put(part, "a"), lambda: list(tier.list()), lambda: tier.delete(f"{tier.url}/a")):
        with pytest.raises(StorageError, match="No such file or directory") as caught:
            call()
        assert caught.value.hint
        assert "mounted" in caught.value.hint
    assert not (tmp_path / "disk").exists()


def test_a_copy_that_a_crash_left_is_not_listed_and_is_written_over(tmp_path: Path, make_part: MakePart) -> None:
    part = make_part(tmp_path / "table")
    (tmp_path / "disk" / "trades").mkdir(parents=True)
    left = tmp_path / "disk" / "trades" / f"{part.name}.partial"
    left.write_bytes(b"x" * 5000)
    assert is_partial_file_name(left.name)
    tier = Tier(TierSettings(url=str(tmp_path / "disk")))
    assert list(tier.list()) == []
    tier.put(part, f"trades/{part.name}")
    assert [p.name for p in left.parent.iterdir()] == [part.name]


def test_a_full_or_read_only_disk_is_named(
    tmp_path: Path, make_part: MakePart, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = make_part(tmp_path / "table")
    (tmp_path / "disk").mkdir()
    tier = Tier(TierSettings(url=str(tmp_path / "disk")))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot move a part to file:///.*: No space left on device\."):
        tier.put(part, "part")
    assert list((tmp_path / "disk").rglob("*")) == []


# --- an object store


def test_wrong_credentials_are_refused_and_not_told(
    s3_settings: Settings, bucket: Path, tmp_path: Path, make_part: MakePart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_TIER_SECRET", "hunter2-hunter2")
    tier = Tier(s3_settings())
    part = make_part(tmp_path / "table")
    url = f"{tier.url}/a"
    for call in (
        lambda: tier.put(part, "a"),
        lambda: tier.fetch(url, tmp_path / "copy"),
        lambda: list(tier.list()),
        lambda: tier.delete(url),
        lambda: tier.size(url),
    ):
        with pytest.raises(StorageError, match=r"the store refuses \(") as caught:
            call()
        assert "hunter2" not in str(caught.value)
        assert caught.value.hint
        assert "lakehouse.tier.credentials" in caught.value.hint
        assert caught.value.__cause__ is None
    assert list(bucket.rglob("*")) == []


def test_credentials_that_are_not_there_are_named(s3_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_TIER_SECRET")
    with pytest.raises(ConfigError, match="TEST_TIER_SECRET for secret_access_key is not set"):
        Tier(s3_settings())


def test_credentials_come_from_obstores_own_environment(
    s3_settings: Settings, tmp_path: Path, make_part: MakePart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", os.environ["TEST_TIER_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", os.environ["TEST_TIER_SECRET"])
    part = make_part(tmp_path / "table")
    tier = Tier(s3_settings(credentials={}))
    tier.fetch(tier.put(part, "a"), tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"no_such_option": "1"}}, "no_such_option"),
        ({"options": {"allow_http": "perhaps"}}, "perhaps"),
        ({"credentials": {"no_such_key": "TEST_TIER_KEY"}}, "no_such_key"),
    ],
)
def test_an_unknown_option_is_the_operators_fault(
    s3_settings: Settings, changes: dict[str, dict[str, str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Tier(s3_settings(**changes))


def test_a_bucket_that_is_not_there_is_named(s3_settings: Settings, tmp_path: Path, make_part: MakePart) -> None:
    with pytest.raises(StorageError, match="s3://nobody-made-it/old/a: there is no such bucket"):
        Tier(s3_settings(url="s3://nobody-made-it/old")).put(make_part(tmp_path / "table"), "a")


def test_a_store_that_takes_nothing_is_named_and_can_be_read(
    s3_settings: Settings, bucket: Path, tmp_path: Path, make_part: MakePart
) -> None:
    part = make_part(tmp_path / "table")
    url = Tier(s3_settings()).put(part, f"trades/{part.name}")
    server = S3Server(bucket.parent, "--read-only")
    try:
        tier = Tier(s3_settings(options={"endpoint": server.endpoint}))
        with pytest.raises(StorageError, match=r"cannot move a part to s3://.*500.*InternalError"):
            tier.put(part, "trades/another")
        tier.fetch(url, tmp_path / "copy")
    finally:
        server.stop()
    assert [p.name for p in bucket.rglob("*") if p.is_file()] == [part.name]


def test_a_store_that_cannot_be_reached_fails_in_time(
    s3_settings: Settings, tmp_path: Path, make_part: MakePart
) -> None:
    tier = Tier(s3_settings(options={"endpoint": f"http://127.0.0.1:{free_port()}"}, timeout_s=2))
    started = time.monotonic()
    for call in (lambda: tier.put(make_part(tmp_path / "t"), "a"), lambda: tier.fetch(f"{tier.url}/a", tmp_path / "c")):
        with pytest.raises(StorageError, match="the store does not answer") as caught:
            call()
        assert caught.value.hint == "Check lakehouse.tier.options.endpoint and the network."
    assert time.monotonic() - started < 30


def test_a_store_that_stalls_fails_in_time(s3_settings: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tier = Tier(s3_settings(options={"endpoint": endpoint}, timeout_s=0.5))
        started = time.monotonic()
        with pytest.raises(StorageError, match="the store does not answer"):
            tier.fetch(f"{tier.url}/a", tmp_path / "copy")
        assert 0.5 <= time.monotonic() - started < 20


@pytest.mark.parametrize("nbytes", [3 * MIB, 20 * MIB], ids=["one request", "in pieces"])
def test_an_upload_that_breaks_off_is_tried_again(
    s3_settings: Settings, s3_server: S3Server, tmp_path: Path, make_part: MakePart, nbytes: int
) -> None:
    part = make_part(tmp_path / "table", nbytes=nbytes)
    with BreakingProxy(s3_server.port) as proxy:
        proxy.up = [MIB, MIB]
        tier = Tier(s3_settings(options={"endpoint": proxy.endpoint}))
        url = tier.put(part, f"trades/{part.name}")
        assert proxy.cuts  # a connection that the client opens in vain may take the second one
    tier = Tier(s3_settings())
    tier.fetch(url, tmp_path / "copy")
    assert [u for u, _, _ in tier.list()] == [url]


def test_an_upload_that_never_ends_well_leaves_nothing_that_counts(
    s3_settings: Settings, s3_server: S3Server, tmp_path: Path, make_part: MakePart
) -> None:
    part = make_part(tmp_path / "table", nbytes=20 * MIB)
    with BreakingProxy(s3_server.port) as proxy:
        proxy.up = [MIB] * 1000
        tier = Tier(s3_settings(options={"endpoint": proxy.endpoint}, timeout_s=1))
        with pytest.raises(StorageError, match="cannot move a part to"):
            tier.put(part, f"trades/{part.name}")
    tier = Tier(s3_settings())
    assert list(tier.list()) == []
    tier.put(part, f"trades/{part.name}")
    assert [nbytes for _, nbytes, _ in tier.list()] == [20 * MIB]


def test_a_download_that_breaks_off_is_tried_again_once(
    s3_settings: Settings, s3_server: S3Server, tmp_path: Path, make_part: MakePart
) -> None:
    part = make_part(tmp_path / "table", nbytes=20 * MIB)
    url = Tier(s3_settings()).put(part, f"trades/{part.name}")
    with BreakingProxy(s3_server.port) as proxy:
        tier = Tier(s3_settings(options={"endpoint": proxy.endpoint}))
        proxy.down = [5 * MIB]
        tier.fetch(url, tmp_path / "copy")
        assert proxy.cuts == 1
    assert (tmp_path / "copy").read_bytes() == part.read_bytes()


def test_a_store_that_comes_back_is_found_again(
    s3_settings: Settings, bucket: Path, tmp_path: Path, make_part: MakePart
) -> None:
    part = make_part(tmp_path / "table", nbytes=20 * MIB)
    server = S3Server(bucket.parent)
    tier = Tier(s3_settings(options={"endpoint": server.endpoint}))
    try:
        url = tier.put(part, f"trades/{part.name}")
        server.stop()
        back = threading.Timer(0.5, server.start)
        back.start()
        tier.fetch(url, tmp_path / "copy")  # waits for it
        back.join()
        server.stop()
        with pytest.raises(StorageError, match="the store does not answer"):
            tier.fetch(url, tmp_path / "copy")
        server.start()
        tier.fetch(url, tmp_path / "copy")
    finally:
        server.stop()


def test_other_names_are_not_checked_and_parts_are(tmp_path: Path, make_part: MakePart) -> None:
    part = make_part(tmp_path)
    assert part_fault(part, part.name) is None
    assert part_fault(part, part.name, 1) == "it has 1000 bytes instead of 1"
    assert file_checksum(part) in part.name
    (tmp_path / "empty").touch()
    assert part_fault(tmp_path / "empty", "notes.txt") is None
    assert part_fault(tmp_path / "empty", part.name)
    assert part_fault(tmp_path / "empty", make_part(tmp_path, checked=False).name) == "it is no whole Parquet file"
