"""A feed process: it runs, reports, stops on a signal with nothing lost, and its exit code says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from tickflight_server.config import CollectorSettings, FeedSettings
from tickflight_server.errors import ConfigError
from tickflight_server.feed import runner
from tickflight_server.feed.runner import run_feeds

CHANNELS = ["trades", "ticker", "l2_book"]


def feed(sandbox: Any, exchange: str, **changed: Any) -> FeedSettings:
    where = {key: value for key, value in sandbox[exchange].items() if key != "exchange"}
    return FeedSettings.model_validate(
        {"exchange": exchange, "symbols": ["BTC-USDT"], "channels": CHANNELS, "endpoints": where} | changed
    )


def collector(**changed: Any) -> CollectorSettings:
    return CollectorSettings.model_validate({"drain_timeout_s": 10.0} | changed)


class StopWhen(threading.Thread):
    """Sets ``stop`` once ``said`` is true, or after half a minute."""

    def __init__(self, said: Any) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.said = said
        self.in_time = False
        self.start()

    def run(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and not self.in_time:
            self.in_time = bool(self.said())
            time.sleep(0.02)
        self.stop.set()


def test_feeds_run_report_and_stop_with_nothing_lost(sandbox: Any, sink: Any) -> None:
    reports: list[tuple[str, dict[str, Any]]] = []
    enough = StopWhen(lambda: min(sink.count(table) for table in CHANNELS) > 50 and len(reports) >= 4)
    code = run_feeds(
        [feed(sandbox, "BINANCE"), feed(sandbox, "OKX"), feed(sandbox, "BINANCE", symbols=["ETH-USDT"])],
        collector(),
        embedded=sink,
        stop=enough.stop,
        report=lambda name, state: reports.append((name, state)),
        install_signals=False,
    )
    assert enough.in_time
    assert code == 0
    assert {name for name, _ in reports} == {"BINANCE", "OKX", "BINANCE#2"}
    last = dict(reports[-3:])
    for state in last.values():
        assert state["received"] == state["acknowledged"] > 0
        assert (state["queue_rows"], state["failed"], state["dropped"]) == (0, 0, 0)
        assert set(state["channels"]) == set(CHANNELS)
    assert sum(state["acknowledged"] for state in last.values()) == sum(sink.count(table) for table in CHANNELS)
    running = next(state for _, state in reports if state["connections"])
    assert {"id", "open", "received", "last_message"} <= set(running["connections"][0])
    assert {row["exchange"] for row in sink.rows("trades")} == {"BINANCE", "OKX"}


def test_rows_that_cannot_be_stored_make_the_exit_code_1(sandbox: Any, sink: Any) -> None:
    sink.fail = OSError("disk gone")
    reports: list[dict[str, Any]] = []
    enough = StopWhen(lambda: any(state["failed"] for state in reports))
    with capture_logs() as logs:
        code = run_feeds(
            [feed(sandbox, "BINANCE", channels=["trades"])],
            collector(),
            embedded=sink,
            stop=enough.stop,
            report=lambda name, state: reports.append(state),
            install_signals=False,
        )
    assert code == 1
    (told,) = [log for log in logs if log["event"] == "rows were not delivered"]
    assert told["rows"] > 0
    assert reports[-1]["last_error"] == "OSError: disk gone"


def test_feed_that_gives_up_ends_the_run_and_makes_the_exit_code_1(sandbox: Any, sink: Any) -> None:
    asked = feed(sandbox, "BINANCE", channels=["trades"], retries=0)
    assert asked.endpoints is not None
    nowhere = asked.model_copy(
        update={"endpoints": asked.endpoints.model_copy(update={"websocket": "wss://127.0.0.1:9"})}
    )
    with capture_logs() as logs:
        code = run_feeds([nowhere], collector(), embedded=sink, install_signals=False)
    assert code == 1
    assert [log for log in logs if log["event"] == "feeds gave up"]


def test_report_that_fails_does_not_matter(sandbox: Any, sink: Any) -> None:
    asked: list[str] = []

    def report(name: str, state: dict[str, Any]) -> None:
        asked.append(name)
        raise ConnectionError("no server")

    enough = StopWhen(lambda: len(asked) >= 2 and sink.count("trades"))
    options = {"embedded": sink, "stop": enough.stop, "report": report, "install_signals": False}
    assert run_feeds([feed(sandbox, "BINANCE", channels=["trades"])], collector(), **options) == 0


def test_run_without_feeds_or_server_is_told(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no feeds"):
        run_feeds([], collector())
    with pytest.raises(ConfigError, match="no server"):
        run_feeds([feed(sandbox, "BINANCE")], collector())
    monkeypatch.setattr(runner, "CONNECT_TIMEOUT_S", 0.1)
    with pytest.raises(ConfigError, match="cannot send to"):
        run_feeds([feed(sandbox, "BINANCE")], collector(address="grpc://127.0.0.1:9"))


PROCESS = """
import json, sys
from concurrent.futures import Future
from tickflight_server.config import CollectorSettings, FeedSettings
from tickflight_server.feed.runner import run_feeds
from tickflight_server.store import Ack

class Sink:
    numeric, rows = "float64", 0
    def append(self, table, batch):
        Sink.rows += batch.num_rows
        future = Future()
        future.set_result(Ack(0, batch.num_rows))
        return future
    def query(self, sql, params=None): ...
    def flush(self): ...
    def close(self): ...

last = {}
feed = FeedSettings.model_validate(json.loads(sys.argv[1]))
code = run_feeds([feed], CollectorSettings(), embedded=Sink(), report=lambda n, s: last.update(s),
                 started=lambda: print("started", flush=True))
print(json.dumps([Sink.rows, last["received"], last["acknowledged"]]))
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_process_cleanly(number: signal.Signals, sandbox: Any) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROCESS, feed(sandbox, "BINANCE").model_dump_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "started\n":
            assert line, "it ended before it started"
        time.sleep(1.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    stored, received, acknowledged = eval(out.splitlines()[-1])
    assert stored == received == acknowledged > 0


def test_second_feed_of_an_exchange_has_its_own_name() -> None:
    feeds = [
        FeedSettings(exchange=name, symbols=["BTC-USDT"], channels=["trades"])
        for name in ("OKX", "KRAKEN", "OKX", "OKX")
    ]
    assert runner._names(feeds) == ["OKX", "KRAKEN", "OKX#2", "OKX#3"]
