"""A server process that is sent SQL that nobody would write answers each text in time, and lives."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import adbc_driver_flightsql.dbapi as flight_sql
from flight_here import trades
from sql_mutations import Mutations
from system_processes import ServerProgram

import tickflight

THREADS = 2
ANSWER_S = 20.0  # after a second of its time limit the engine is told to stop; it looks when a step is done
FORBIDDEN = ("Traceback", "INTERNAL Error", "/tickflight_server/", "/site-packages/")


def run(address: str, seed: int, texts: int, counts: Counter[str], faults: list[str]) -> None:
    """Send the texts of a seed; note what is wrong with their answers."""
    mutations = Mutations(seed)
    with flight_sql.connect(address, autocommit=True) as connection:
        for _ in range(texts):
            sql = mutations.next()
            begun = time.monotonic()
            with connection.cursor() as cursor:
                try:
                    cursor.execute(sql)
                    cursor.fetchmany(100)
                    answer = "OK"
                except Exception as error:
                    answer = str(error)
            took = time.monotonic() - begun
            status = answer.partition(":")[0].replace("_", " ")
            counts[status if len(status) < 25 else "other"] += 1
            wrong = [word for word in FORBIDDEN if word in answer]
            if wrong or took > ANSWER_S or "Unavailable" in answer:
                faults.append(f"{took:.1f} s, {answer[:300]!r} for {sql[:2000]!r}")


def test_sql_that_nobody_would_write_ends_no_server(
    tmp_path: Path, seed: int, messages: Callable[[int, int], int], counts: Counter[str]
) -> None:
    number = messages(300, 200_000)
    config = tmp_path / "config.yaml"
    config.write_text("query: {memory_mb: 256, statement_timeout_s: 1, sessions_max: 100}")
    server = ServerProgram(tmp_path, "--config", str(config))
    try:
        with tickflight.connect(server.address) as client, client.writer("trades") as writer:
            writer.write(trades(2000)).result(30)
        answered, faults = Counter[str](), list[str]()
        threads = [
            threading.Thread(target=run, args=(server.address, THREADS * seed + i, number // THREADS, answered, faults))
            for i in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.process.poll() is None, f"it ended with {server.process.poll()}: {server.log.read_text()[-2000:]}"
        assert faults == [], "\n\n".join(faults[:20])
        assert answered.total() == number // THREADS * THREADS
        assert answered["OK"] > number / 50
        assert server.query("SELECT count(*) AS n FROM trades") == [{"n": 2000}]
    finally:
        server.stop()
    counts.update({"SQL texts": number, "of them answered with rows": answered["OK"]})
