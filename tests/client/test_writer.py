"""Every batch gets one answer when its rows are durable; whatever the server does, no row is lost or doubled."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
import pytest

import tickflight
from tickflight_server.store import Ack as StoredAck

Make = Callable[..., pa.RecordBatch]


def count(client: tickflight.Client, more: str = "") -> int:
    (n,) = client.sql(f"SELECT count(*) AS n FROM trades {more}").arrow()["n"].to_pylist()
    return int(n)


def test_every_batch_has_its_acknowledgement(client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades") as writer:
        futures = [writer.write(make_trades(3)) for _ in range(200)]
    acks = [f.result(0) for f in futures]
    assert [a.first_seq for a in acks] == list(range(1, 601, 3))
    assert all((a.rows, a.rejected, a.duplicate) == (3, 0, False) for a in acks)
    assert count(client) == 600


def test_acknowledgement_counts_the_rows_that_were_there(
    server: Any, client: tickflight.Client, make_trades: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: Future[StoredAck] = Future()
    stored.set_result(StoredAck(first_seq=1, rows=2, repeated=1))
    monkeypatch.setattr(server.store, "append", lambda *_, **__: stored)
    with client.writer("trades") as writer:
        ack = writer.write(make_trades(3)).result(60)
    assert ack == tickflight.Ack(first_seq=1, rows=2, rejected=0, duplicate=False, repeated=1)


def test_acknowledged_rows_are_visible(client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("market.trades") as writer:
        for n in range(1, 6):
            writer.write(make_trades(2)).result(60)
            assert count(client) == 2 * n


def test_flush_returns_when_all_before_it_have_answers(client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades") as writer:
        for _ in range(20):
            futures = [writer.write(make_trades(1)) for _ in range(10)]
            writer.flush(10)
            assert all(f.done() for f in futures)
        writer.flush()


def test_flush_does_not_wait_for_what_others_write_meanwhile(client: tickflight.Client, make_trades: Make) -> None:
    # little is on its way at a time, so that what a flush waits for is little on any machine
    with client.writer("trades", inflight_bytes_max=16 << 10) as writer:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                writer.write(make_trades(1))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):
                writer.flush(60)
        finally:
            stop.set()
            thread.join()


def test_table_is_sent_as_one_batch(client: tickflight.Client, make_trades: Make) -> None:
    table = pa.Table.from_batches([make_trades(3), make_trades(4, "ETH-USDT")])
    with client.writer("trades") as writer:
        assert writer.write(table).result(60).rows == 7
        assert writer.write(table.slice(0, 0)).result(60).rows == 0
        labels = table.set_column(1, "symbol", table["symbol"].dictionary_encode())
        assert writer.write(labels).result(60).rows == 7


def test_rejected_rows_are_counted(client: tickflight.Client, make_trades: Make) -> None:
    batch = make_trades(3).set_column(1, "symbol", pa.array(["A", None, "B"]))
    with client.writer("trades") as writer:
        ack = writer.write(batch).result(60)
    assert (ack.rows, ack.rejected) == (2, 1)


def test_refused_batch_fails_alone(client: tickflight.Client, make_trades: Make) -> None:
    wrong = make_trades(1).append_column("nix", pa.array([1]))
    with client.writer("trades") as writer:
        futures = [writer.write(b) for b in (make_trades(1), wrong, make_trades(1), wrong, make_trades(1))]
        with pytest.raises(tickflight.WriteError, match=r"no column 'nix'\. Hint: Its columns are") as caught:
            futures[1].result(60)
        assert caught.value.code == "rows"
        assert futures[3].exception(10) is not None
        assert [futures[i].result(60).first_seq for i in (0, 2, 4)] == [1, 2, 3]


def test_columns_may_change_from_batch_to_batch(client: tickflight.Client, make_trades: Make) -> None:
    plain = make_trades(2)
    labels = plain.set_column(1, "symbol", plain["symbol"].dictionary_encode())
    with client.writer("trades") as writer:
        futures = []
        for i in range(60):
            more = plain.append_column("id", pa.array([f"x{i}", f"y{i}"]))
            futures.append(writer.write((plain, labels, more)[i % 3]))
    assert [f.result(0).first_seq for f in futures] == list(range(1, 121, 2))


def test_dictionaries_may_change_from_batch_to_batch(client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades") as writer:
        for number in range(30):
            names = pa.array([f"S{number}-{i}" for i in range(5)]).dictionary_encode()
            writer.write(make_trades(5).set_column(1, "symbol", names))
    assert count(client, "WHERE symbol LIKE 'S%'") == 150
    assert client.sql("SELECT count(DISTINCT symbol) AS n FROM trades").arrow()["n"].to_pylist() == [150]


def test_writer_waits_while_too_much_is_without_an_answer(client: tickflight.Client, make_trades: Make) -> None:
    batch = make_trades(100)
    with client.writer("trades", inflight_bytes_max=batch.nbytes * 2) as writer:
        most = 0
        for _ in range(50):
            writer.write(batch)
            most = max(most, writer._bytes)
    assert 0 < most <= batch.nbytes * 2
    assert count(client) == 5_000


def test_batch_above_the_bound_goes_alone(client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades", inflight_bytes_max=1) as writer:
        for _ in range(5):
            writer.write(make_trades(10))
    assert count(client) == 50


def test_slice_counts_for_what_it_shows(client: tickflight.Client, make_trades: Make) -> None:
    large = make_trades(10_000)
    with client.writer("trades", inflight_bytes_max=large.nbytes // 10) as writer:
        writer.write(large.slice(0, 10))
        assert writer._bytes < large.nbytes / 100


def test_threads_share_a_writer(client: tickflight.Client, make_trades: Make) -> None:
    futures: list[Future[tickflight.Ack]] = []

    def write(symbol: str) -> None:
        futures.extend(writer.write(make_trades(2, symbol, first=2 * i)) for i in range(50))

    with client.writer("trades") as writer:
        threads = [threading.Thread(target=write, args=(f"S{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(f.result(0).first_seq for f in futures) == list(range(1, 401, 2))
    rows = client.sql("SELECT symbol, list(price ORDER BY seq) AS p FROM trades GROUP BY 1").arrow().to_pylist()
    assert [r["p"] for r in rows] == [[float(i) for i in range(100)]] * 4


def test_acknowledgement_cannot_be_cancelled(client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades") as writer:
        futures = [writer.write(make_trades(1)) for _ in range(20)]
        assert not any(f.cancel() for f in futures)
    assert all(f.result(0).rows == 1 for f in futures)


def test_callback_that_fails_harms_nobody(client: tickflight.Client, make_trades: Make) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("of the caller's")

    with client.writer("trades") as writer:
        for _ in range(5):
            writer.write(make_trades(1)).add_done_callback(fail)
    assert count(client) == 5


def test_closed_writer_takes_nothing(client: tickflight.Client, make_trades: Make) -> None:
    writer = client.writer("trades")
    writer.close()
    writer.close()
    with pytest.raises(tickflight.WriteError, match="the writer is closed") as caught:
        writer.write(make_trades(1))
    assert caught.value.code == "closed"
    with client.writer("trades"):
        pass


@pytest.mark.parametrize("first", [0, -1])
def test_batches_are_counted_from_one(client: tickflight.Client, first: int) -> None:
    with pytest.raises(tickflight.WriteError, match="counted from 1"):
        client.writer("trades", first_sequence=first)


@pytest.mark.parametrize(
    ("table", "options", "kind", "match"),
    [
        ("nix", {}, tickflight.NotFoundError, r"there is no table market\.nix"),
        ("system.parts", {}, tickflight.NotFoundError, r"there is no table system\.parts"),
        ("trades", {"producer": b"x" * 65}, tickflight.QueryError, "at most 64"),
    ],
)
def test_writer_to_nowhere_fails_its_batches(
    client: tickflight.Client, make_trades: Make, table: str, options: Any, kind: type[Exception], match: str
) -> None:
    with client.writer(table, **options) as writer:
        for _ in range(2):
            with pytest.raises(kind, match=match):
                writer.write(make_trades(1)).result(60)


def test_producer_is_known_again(client: tickflight.Client, make_trades: Make) -> None:
    for duplicate in (False, True):
        with client.writer("trades", producer=b"me") as writer:
            acks = [writer.write(make_trades(2)).result(60) for _ in range(3)]
        assert [a.duplicate for a in acks] == [duplicate] * 3
    with client.writer("trades", producer=b"me", first_sequence=4) as writer:
        assert not writer.write(make_trades(2)).result(60).duplicate
    assert count(client) == 8


def test_server_that_comes_back_gets_each_row_once(
    server: Any, client: tickflight.Client, make_trades: Make, until: Callable[..., None]
) -> None:
    futures: list[Future[tickflight.Ack]] = []
    stop = threading.Event()
    with client.writer("trades") as writer:

        def write() -> None:
            while not stop.is_set():
                futures.append(writer.write(make_trades(7, first=7 * len(futures))))
                time.sleep(0.001)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(3):
                known = len(futures)
                until(lambda known=known: len(futures) > known + 50)  # type: ignore[misc]
                server.stop(wait_s=0.2)
                server.start()
                answered = sum(f.done() for f in futures)
                until(lambda answered=answered: sum(f.done() for f in futures) > answered)  # type: ignore[misc]
        finally:
            stop.set()
            thread.join()
        writer.flush(30)
    acks = [f.result(0) for f in futures]
    assert all(a.rows == 7 for a in acks)
    with tickflight.connect(server.address) as fresh:
        prices = fresh.sql("SELECT price FROM trades ORDER BY seq").arrow()["price"].to_pylist()
    assert prices == [float(i) for i in range(7 * len(acks))]


def test_writer_that_was_idle_over_a_restart_goes_on(server: Any, client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades") as writer:
        assert writer.write(make_trades(2)).result(60).first_seq == 1
        server.stop(wait_s=0.2)
        server.start()
        assert writer.write(make_trades(2)).result(60).first_seq == 3


def test_login_that_the_server_forgot_is_made_again(make_server: Callable[..., Any], make_trades: Make) -> None:
    server = make_server({"users": {"ada": "a"}})
    with (
        tickflight.connect(server.address, username="ada", password="a") as client,
        client.writer("trades") as writer,
    ):
        assert writer.write(make_trades(2)).result(60).first_seq == 1
        server.stop(wait_s=0.2)
        server.start()
        assert writer.write(make_trades(2)).result(60).first_seq == 3


def test_server_that_stays_away_fails_the_waiting_batches(
    server: Any, client: tickflight.Client, make_trades: Make
) -> None:
    with client.writer("trades", retry_timeout_s=0.5) as writer:
        writer.write(make_trades(1)).result(60)
        server.stop(wait_s=0.2)
        begun = time.monotonic()
        futures = [writer.write(make_trades(1)) for _ in range(3)]
        for future in futures:
            with pytest.raises(tickflight.UnavailableError):
                future.result(60)
        assert time.monotonic() - begun < 15
        with pytest.raises(tickflight.UnavailableError):
            writer.write(make_trades(1)).result(60)


def test_flush_says_how_much_is_left_when_time_is_up(server: Any, client: tickflight.Client, make_trades: Make) -> None:
    with client.writer("trades", retry_timeout_s=1) as writer:
        writer.write(make_trades(1)).result(60)
        server.stop(wait_s=0.2)
        writer.write(make_trades(1))
        writer.write(make_trades(1))
        with pytest.raises(tickflight.UnavailableError, match=r"2 batches have no answer after 0\.1 s"):
            writer.flush(0.1)


def test_unexpected_failure_ends_in_an_answer(client: tickflight.Client, make_trades: Make) -> None:
    writer = client.writer("trades", retry_timeout_s=0.2)
    writer._stream = lambda: 1 / 0  # type: ignore[assignment, method-assign]
    with pytest.raises(tickflight.ServerError, match="division by zero"):
        writer.write(make_trades(1)).result(60)
    writer.close()


@pytest.mark.parametrize("end", ["", "w.flush()", "w.close()"])
def test_process_that_ends_with_a_live_writer_ends_well(server: Any, end: str) -> None:
    code = (
        "import pyarrow as pa, tickflight, datetime; "
        f"w = tickflight.connect({server.address!r}).writer('trades'); "
        "b = pa.record_batch({'exchange': ['X'], 'symbol': ['Y'], "
        "'timestamp': pa.array([datetime.datetime(2026, 1, 1)], pa.timestamp('us'))}); "
        f"w.write(b).result(); w.write(b); {end}"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
