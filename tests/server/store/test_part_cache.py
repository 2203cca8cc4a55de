"""The cache of remote parts: bounded, fetched once however many ask, never evicted while held, never half."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import BreakingProxy, S3Server, change

from tickflight_server.config import MIB, TierSettings
from tickflight_server.errors import BusyError, StorageError, TooLargeError
from tickflight_server.paths import Layout, cache_file_name
from tickflight_server.store.part_cache import PartCache
from tickflight_server.store.tier import Tier, file_checksum

Settings = Callable[..., TierSettings]
MakePart = Callable[..., Path]
OpenCache = Callable[..., PartCache]


@pytest.fixture
def tier(s3_settings: Settings) -> Tier:
    return Tier(s3_settings())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Layout(tmp_path / "lake").cache


@pytest.fixture
def open_cache(folder: Path) -> Iterator[OpenCache]:
    opened: list[PartCache] = []

    def open_one(tier: Tier, bytes_max: int = MIB, fetches_max: int = 4) -> PartCache:
        opened.append(PartCache(folder, tier, bytes_max, fetches_max))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()


@pytest.fixture
def put(tier: Tier, tmp_path: Path, make_part: MakePart) -> Callable[..., list[str]]:
    """Put so many parts of 1000 bytes into the tier; return their URLs."""

    def put_many(count: int, nbytes: int = 1000) -> list[str]:
        parts = [make_part(tmp_path / "table", number, nbytes) for number in range(count)]
        return [tier.put(part, f"trades/{part.name}") for part in parts]

    return put_many


Put = Callable[..., list[str]]


def copies(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("sizes_known", [True, False])
def test_what_is_held_is_there_and_is_fetched_once(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path, sizes_known: bool
) -> None:
    urls = put(5)
    cache = open_cache(tier)
    for _ in range(2):
        with cache.hold(urls, [1000] * 5 if sizes_known else None) as held:
            assert list(held.paths) == urls
            for url, path in held.paths.items():
                assert path == folder / cache_file_name(url)
                assert file_checksum(path) in url
    counted = tier.metrics.read()
    assert (counted["tier_fetches"], counted["tier_cache_hits"], cache.nbytes) == (5, 5, 5000)


def test_nothing_and_the_same_twice_can_be_held(tier: Tier, open_cache: OpenCache, put: Put) -> None:
    (url,) = put(1)
    cache = open_cache(tier, 1000)
    with cache.hold([]) as held:
        assert held.paths == {}
    with cache.hold([url, url], [1000, 1000]) as held, cache.hold([url]) as again:
        assert held.paths == again.paths
    held.close()
    assert tier.metrics.read()["tier_fetches"] == 1


def test_many_queries_at_once_fetch_each_part_once(tier: Tier, open_cache: OpenCache, put: Put) -> None:
    urls = put(12)
    cache = open_cache(tier)
    failures: list[Exception] = []
    barrier = threading.Barrier(16)

    def query(seed: int) -> None:
        mine = random.Random(seed).sample(urls, 8)
        barrier.wait()
        try:
            with cache.hold(mine, [1000] * 8) as held:
                assert all(file_checksum(path) in url for url, path in held.paths.items())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=query, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert tier.metrics.read()["tier_fetches"] <= 12


def test_the_least_recently_used_goes_first(tier: Tier, open_cache: OpenCache, put: Put, folder: Path) -> None:
    first, second, third, fourth = put(4)
    cache = open_cache(tier, 3000)
    for urls in ([first, second, third], [first], [fourth]):
        cache.hold(urls).close()
    assert copies(folder) == {cache_file_name(url) for url in (first, third, fourth)}
    assert cache.nbytes == 3000


def test_a_held_copy_is_not_evicted_and_a_query_waits_for_room(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path, s3_settings: Settings
) -> None:
    first, second, third = put(3)
    cache = open_cache(tier, 2000)
    held = cache.hold([first, second])
    tier.timeout_s = 0.1
    with pytest.raises(BusyError, match="no room for remote parts"):
        cache.hold([third])
    assert all(path.exists() for path in held.paths.values())
    tier.timeout_s = 20
    letting_go = threading.Timer(0.2, held.close)
    letting_go.start()
    with cache.hold([third]) as later:
        assert later.paths[third].exists()
    letting_go.join()
    assert cache.nbytes == 2000
    assert copies(folder) == {cache_file_name(url) for url in (second, third)}


def test_a_query_that_needs_more_than_the_cache_is_told_what_to_do(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(3)
    cache = open_cache(tier, 2999)
    with pytest.raises(
        TooLargeError, match=r"3 remote parts of 3000 bytes together, above lakehouse\.tier\.cache_mb"
    ) as e:
        cache.hold(urls)
    assert e.value.hint
    assert "timestamp" in e.value.hint
    assert copies(folder) == set()


def test_many_queries_in_a_small_cache_stay_below_its_bound(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(10)
    cache = open_cache(tier, 4000)
    failures: list[Exception] = []
    most = 0

    def query(seed: int) -> None:
        nonlocal most
        chance = random.Random(seed)
        try:
            for _ in range(15):
                mine = chance.sample(urls, chance.randint(1, 4))
                with cache.hold(mine, [1000] * len(mine)) as held:
                    assert all(file_checksum(path) in url for url, path in held.paths.items())
                    most = max(most, cache.nbytes)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=query, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert most <= 4000
    assert sum(path.stat().st_size for path in folder.iterdir()) == cache.nbytes <= 4000


def test_copies_of_an_earlier_run_are_used_and_the_rest_is_removed(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(3)
    cache = open_cache(tier)
    cache.hold(urls).close()
    cache.close()
    half = folder / f"{cache_file_name(urls[0])}.0123abcd.partial"
    half.write_bytes(b"PAR1")
    (folder / "notes.txt").touch()
    good, bad, short = (folder / cache_file_name(url) for url in urls)
    bad.write_bytes(b"x" * 1000)
    short.write_bytes(short.read_bytes()[:10])
    cache = open_cache(tier)
    assert copies(folder) == {good.name, bad.name, short.name}
    with cache.hold(urls, [1000] * 3) as held:
        assert all(file_checksum(path) in url for url, path in held.paths.items())
    counted = tier.metrics.read()
    assert (counted["tier_fetches"], counted["tier_cache_hits"], cache.nbytes) == (5, 1, 3000)


def test_a_cache_that_became_smaller_evicts_at_the_start(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(3)
    cache = open_cache(tier)
    for url in urls:
        cache.hold([url]).close()
        time.sleep(0.01)  # files are told apart by their time
    cache.close()
    assert open_cache(tier, 1500).nbytes == 1000
    assert copies(folder) == {cache_file_name(urls[2])}


def test_a_copy_that_somebody_took_away_is_fetched_again(tier: Tier, open_cache: OpenCache, put: Put) -> None:
    urls = put(1)
    cache = open_cache(tier)
    with cache.hold(urls) as held:
        held.paths[urls[0]].unlink()
        with cache.hold(urls) as again:
            assert again.paths[urls[0]].exists()
    assert cache.nbytes == 1000


def test_a_damaged_object_is_named_and_fetched_once_it_is_mended(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path, bucket: Path
) -> None:
    urls = put(3)
    damaged = bucket / "old" / urls[1].removeprefix(f"{tier.url}/")
    contents = damaged.read_bytes()
    change(damaged, contents[:-1] + b"?")
    cache = open_cache(tier)
    with pytest.raises(StorageError, match="checksum") as caught:
        cache.hold(urls)
    assert urls[1] in caught.value.message
    assert cache_file_name(urls[1]) not in copies(folder)
    change(damaged, contents)
    with cache.hold(urls) as held:
        assert held.paths[urls[1]].read_bytes() == contents
    assert cache.nbytes == 3000


def test_a_failed_query_leaves_room_and_holds_nothing(
    tier: Tier, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(3)
    cache = open_cache(tier, 3000)
    gone = f"{tier.url}/trades/gone.parquet"
    for _ in range(3):
        with pytest.raises(StorageError, match="it is not there"):
            cache.hold([*urls[:2], gone], [1000] * 3)
    with cache.hold(urls):
        assert cache.nbytes == 3000


def test_a_server_that_goes_away_in_the_middle_and_comes_back(
    s3_settings: Settings, bucket: Path, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(4, 4 * MIB)
    server = S3Server(bucket.parent)
    tier = Tier(s3_settings(options={"endpoint": server.endpoint}))
    cache = open_cache(tier, 16 * MIB, 2)
    try:
        cache.hold(urls[:1]).close()
        server.stop()
        cache.hold(urls[:1], [4 * MIB]).close()  # it is here
        with pytest.raises(StorageError, match="the store does not answer"):
            cache.hold(urls, [4 * MIB] * 4)
        server.start()
        with cache.hold(urls, [4 * MIB] * 4) as held:
            assert all(file_checksum(path) in url for url, path in held.paths.items())
    finally:
        server.stop()
    assert copies(folder) == {cache_file_name(url) for url in urls}


def test_downloads_that_break_off_leave_no_half_copy(
    s3_settings: Settings, s3_server: S3Server, open_cache: OpenCache, put: Put, folder: Path
) -> None:
    urls = put(2, 4 * MIB)
    with BreakingProxy(s3_server.port) as proxy:
        proxy.down = [100_000] * 1000  # obstore goes on where a download broke off, a few times
        cache = open_cache(Tier(s3_settings(options={"endpoint": proxy.endpoint}, timeout_s=2)), 16 * MIB)
        with pytest.raises(StorageError, match="it broke off"):
            cache.hold(urls, [4 * MIB] * 2)
        cache.close()
    assert copies(folder) == set()
    assert cache.nbytes == 0


def test_parts_of_a_folder_are_read_in_place(
    tmp_path: Path, open_cache: OpenCache, make_part: MakePart, folder: Path
) -> None:
    (tmp_path / "disk").mkdir()
    tier = Tier(TierSettings(url=str(tmp_path / "disk")))
    part = make_part(tmp_path / "table")
    url = tier.put(part, f"trades/{part.name}")
    cache = open_cache(tier, 1)
    with cache.hold([url], [1000]) as held:
        assert held.paths == {url: tmp_path / "disk" / "trades" / part.name}
    assert copies(folder) == set()
    tier.delete(url)
    with pytest.raises(StorageError, match="is not there") as caught:
        cache.hold([url])
    assert url in caught.value.message


def test_a_closed_cache_says_so_and_ends_who_waits(tier: Tier, open_cache: OpenCache, put: Put) -> None:
    first, second = put(2)
    cache = open_cache(tier, 1000)
    ended: list[Exception] = []
    held = cache.hold([first])

    def wait() -> None:
        try:
            cache.hold([second], [1000])
        except StorageError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    cache.close()
    waiting.join()
    for sizes in ([1000], None):
        with pytest.raises(StorageError, match="is closed"):
            cache.hold([second], sizes)
    assert len(ended) == 1
    held.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, tier: Tier) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot use the folder"):
        PartCache(tmp_path / "file" / "cache", tier, MIB, 1)
