"""The asyncio client has the blocking one's verbs; what is cancelled ends on the server, and no thread is left."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio

import tickflight
import tickflight.aio
from tickflight.aio import AsyncClient

SILENT = "SELECT count(*) FROM range(10000000000000) WHERE range % 3 = 1"
ENDLESS = "SELECT x FROM range(100000000000000) r(x)"
Check = Callable[[], Awaitable[None]]


def threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("tickflight"))


@pytest_asyncio.fixture
async def aio(served: Any) -> AsyncIterator[AsyncClient]:
    async with tickflight.aio.connect(served.address) as client:
        yield client
    assert threads() == []


@pytest.fixture
def idle(served: Any) -> Check:
    """Check that the server runs nothing within a second."""

    async def check() -> None:
        end = time.monotonic() + 1
        while served.free_places != 8:
            assert time.monotonic() < end, "queries go on"
            await asyncio.sleep(0.005)

    return check


async def busy(served: Any) -> None:
    while served.free_places == 8:  # noqa: ASYNC110 - the server in this process tells it nobody
        await asyncio.sleep(0.005)


def test_every_verb_of_the_blocking_client_is_there() -> None:
    verbs = {name for name in vars(tickflight.Client) if not name.startswith("_")}
    assert verbs <= set(vars(AsyncClient)), "what the blocking client can"
    assert all(getattr(AsyncClient, name).__doc__ for name in verbs)


async def test_rows_come_in_every_form(aio: AsyncClient) -> None:
    result = await aio.sql("SELECT symbol, count(*) AS n FROM trades WHERE price >= ? GROUP BY 1 ORDER BY 1", [50])
    assert result.schema.names == ["symbol", "n"]
    assert (await result.arrow()).to_pylist() == [{"symbol": "BTC-USDT", "n": 50}, {"symbol": "ETH-USDT", "n": 50}]
    assert (await result.polars()).height == len(await result.pandas()) == 2
    assert "BTC-USDT" in repr(result)
    assert "BTC-USDT" in result._repr_html_()


async def test_batches_come_one_by_one(aio: AsyncClient) -> None:
    rows = 0
    async for batch in await aio.sql("FROM range(1000000)"):
        rows += batch.num_rows
    assert rows == 1_000_000


async def test_what_the_server_says_is_awaited(aio: AsyncClient) -> None:
    assert "market.trades" in await aio.tables()
    assert (await aio.schema("trades")).names[0] == "exchange"
    assert (await aio.health()).state == "ok"
    assert aio.numeric_type == "float64"
    assert repr(aio).startswith("<tickflight.AsyncClient of grpc://")


async def test_errors_are_the_blocking_clients(aio: AsyncClient) -> None:
    with pytest.raises(tickflight.QueryError, match="pricee"):
        await aio.sql("SELECT pricee FROM trades")
    with pytest.raises(tickflight.NotFoundError):
        await aio.schema("nix")
    with pytest.raises(tickflight.QueryError, match="pricee"):
        async with aio.tail("trades", where="pricee > 1"):
            pass
    with pytest.raises(tickflight.UnavailableError):
        await tickflight.aio.connect("127.0.0.1:1")


async def test_snapshot_holds_rows(aio: AsyncClient) -> None:
    async with await aio.snapshot(60) as pin:
        assert pin.cuts["trades"] == 200
        await pin.renew(90)
        rows = await (await aio.sql("FROM trades", snapshot=pin)).arrow()
        assert rows.num_rows == 200
    with pytest.raises(tickflight.NotFoundError):
        await aio.sql("FROM trades", snapshot=pin)


async def test_queries_run_at_the_same_time(aio: AsyncClient) -> None:
    async def count(number: int) -> int:
        return (await (await aio.sql("SELECT ?::INT AS x", [number])).arrow())["x"][0].as_py()  # type: ignore[no-any-return]

    assert await asyncio.gather(*(count(i) for i in range(20))) == list(range(20))


async def run_silent(aio: AsyncClient) -> None:
    await aio.sql(SILENT)


async def pull_endless(aio: AsyncClient) -> None:
    await (await aio.sql(ENDLESS)).arrow()


async def iterate_endless(aio: AsyncClient) -> None:
    async for _ in await aio.sql(ENDLESS):
        pass


async def iterate_silent(aio: AsyncClient) -> None:
    async for _ in await aio.sql("SELECT x FROM range(10000000000000) r(x) WHERE x < 3 OR x > 9999999999998"):
        pass


@pytest.mark.parametrize("run", [run_silent, pull_endless, iterate_endless, iterate_silent])
@pytest.mark.parametrize("pause_s", [0.0, 0.1])
async def test_cancelled_task_cancels_its_query(
    served: Any, aio: AsyncClient, idle: Check, run: Callable[[AsyncClient], Any], pause_s: float
) -> None:
    task = asyncio.create_task(run(aio))
    await busy(served)
    await asyncio.sleep(pause_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle()


async def test_time_limit_cancels_too(aio: AsyncClient, idle: Check) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await aio.sql(SILENT)
    await idle()


async def test_break_and_forgetting_end_a_query(aio: AsyncClient, idle: Check) -> None:
    async for _ in await aio.sql(ENDLESS):
        break
    gc.collect()
    async with await aio.sql(ENDLESS) as result:
        assert result.schema.names == ["x"]
    await aio.sql(ENDLESS)
    gc.collect()
    await idle()


async def test_close_ends_what_goes_on(served: Any, idle: Check) -> None:
    client = await tickflight.aio.connect(served.address)
    running = [asyncio.create_task(iterate_endless(client)), asyncio.create_task(iterate_silent(client))]
    await busy(served)
    async with client.tail("trades") as tail:
        waiting = asyncio.create_task(anext(tail, None))
        await asyncio.sleep(0.05)
        await client.close()
        assert await waiting is None
    await asyncio.wait(running)
    await idle()
    assert threads() == []


@pytest_asyncio.fixture
async def own(server: Any) -> AsyncIterator[AsyncClient]:
    async with tickflight.aio.connect(server.address) as client:
        yield client
    assert threads() == []


async def test_tail_gives_what_a_writer_writes(own: AsyncClient, make_trades: Callable[..., pa.RecordBatch]) -> None:
    async with own.tail("trades", since=0, columns=["seq", "price"]) as tail, own.writer("trades") as writer:
        seen: list[int] = []
        for first in range(0, 30, 10):
            acked = await writer.write(make_trades(10, first=first))
            assert (await acked).rows == 10
            while len(seen) < first + 10:
                seen += (await anext(tail))["seq"].to_pylist()
        await writer.flush(5)
        assert seen == list(range(1, 31))
        assert tail.schema.names == ["seq", "price"]
        token = tail.token
        assert (tail.seq, tail.lag, tail.skipped) == (30, 0, [])
        assert await tail.next(0.05) is None, "nothing comes, and nothing ends"
        late = asyncio.create_task(tail.next(5))
        await writer.write(make_trades(5, first=30))
        batch = await late
        assert batch is not None
        assert batch["seq"].to_pylist() == [31, 32, 33, 34, 35]
    async with own.tail("trades", resume=token) as again:
        assert (await anext(again))["seq"].to_pylist() == [31, 32, 33, 34, 35]


async def test_item_that_comes_after_its_time_is_not_lost(
    own: AsyncClient, make_trades: Callable[..., pa.RecordBatch]
) -> None:
    async with own.tail("trades") as tail, own.writer("trades") as writer:
        assert await tail.next(0.01) is None
        await (await writer.write(make_trades(3)))
        batch = await tail.next(5)
        assert batch is not None
        assert batch.num_rows == 3


async def test_cancelled_reader_of_a_tail_closes_it(own: AsyncClient) -> None:
    tail = own.tail("trades")
    task = asyncio.create_task(anext(tail))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [batch async for batch in tail] == []
    await tail.aclose()
    assert threads() == []


async def test_live_query_gives_updates(own: AsyncClient, make_trades: Callable[..., pa.RecordBatch]) -> None:
    async with own.live("SELECT count(*) AS n FROM trades", every=0.02) as live, own.writer("trades") as writer:
        assert (await anext(live))["n"].to_pylist() == [0]
        await (await writer.write(make_trades(7)))
        assert (await anext(live))["n"].to_pylist() == [7]
        assert live.mode
        assert live.schema.names == ["n"]


async def test_replay_gives_batches_and_events_in_order(aio: AsyncClient) -> None:
    async with aio.replay("trades", symbols=["BTC-USDT"], digest=True) as replay:
        rows = [row async for table, batch in replay.batches() for row in batch["price"].to_pylist() if table]
    assert rows == [float(n) for n in range(100)]
    assert len(replay.digest) == 64
    async with aio.replay("trades", columns=["symbol", "price"]) as replay:
        events = [event async for event in replay.events()]
    assert len(events) == 200
    assert {event.symbol for event in events[:2]} == {"BTC-USDT", "ETH-USDT"}


async def test_bars_are_a_result(aio: AsyncClient) -> None:
    bars = await (await aio.bars("BTC-USDT", "1m")).arrow()
    assert bars.num_rows >= 2
    assert bars.schema.names[:3] == ["exchange", "symbol", "start"]


async def test_books_are_there_too(own: AsyncClient) -> None:
    at = pa.array([1_790_000_000_000_000], pa.int64()).cast(pa.timestamp("us"))
    levels = {"bid_prices": [[9.0]], "bid_sizes": [[1.0]], "ask_prices": [[11.0]], "ask_sizes": [[2.0]]}
    row = {"exchange": ["BINANCE"], "symbol": ["BTC-USDT"], "is_snapshot": [True], "timestamp": at, **levels}
    async with own.writer("l2_book") as writer:
        await (await writer.write(pa.record_batch(row)))
    async with await own.snapshot(60) as pin:
        book = await own.book("BINANCE", "BTC-USDT", "2026-12-31", snapshot=pin)
        assert (book.mid, book.spread) == (10.0, 2.0)
        grid = await own.books("BINANCE", "BTC-USDT", "2026-12-30", "2026-12-31", 43_200, snapshot=pin)
        assert (await grid.arrow()).num_rows >= 2


async def test_the_event_loop_goes_on_meanwhile(aio: AsyncClient) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aio.sql(SILENT), 0.3)
    ticking.cancel()
    assert ticks > 10


async def test_stream_that_is_not_open_says_so(aio: AsyncClient) -> None:
    with pytest.raises(tickflight.TickflightError, match="not open yet"):
        _ = aio.tail("trades").token
