"""A snapshot gives the same rows until it is let go of, over any connection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tickflight
from tickflight.errors import NotFoundError, QueryError

COUNT = "SELECT count(*) AS n FROM trades"


@pytest.fixture
def snapshot(server: Any, client: tickflight.Client, make_trades: Callable[..., Any]) -> tickflight.Snapshot:
    """A snapshot of ten rows; five more came since."""
    server.store.append("trades", make_trades(10)).result()
    made = client.snapshot()
    server.store.append("trades", make_trades(5)).result()
    return made


def count(client: tickflight.Client, **options: Any) -> int:
    return int(client.sql(COUNT, **options).arrow()["n"][0].as_py())


def test_query_sees_the_snapshot_that_it_names(client: tickflight.Client, snapshot: tickflight.Snapshot) -> None:
    assert count(client) == 15
    assert count(client, snapshot=snapshot) == count(client, snapshot=snapshot.id) == 10
    assert client.sql(f"{COUNT} WHERE seq > ?", [4], snapshot=snapshot).arrow().to_pydict() == {"n": [6]}
    assert snapshot.cuts["trades"] == 10


def test_connection_may_see_a_snapshot_throughout(server: Any, snapshot: tickflight.Snapshot) -> None:
    with tickflight.connect(server.address, snapshot=snapshot.id) as other:
        assert count(other) == 10
        with other.snapshot(60) as newer:
            assert count(other, snapshot=newer) == 15


def test_snapshot_survives_a_restart_and_a_flush(server: Any, snapshot: tickflight.Snapshot) -> None:
    server.store.flush()
    server.stop()
    server.start()
    with tickflight.connect(server.address) as again:
        assert (count(again), count(again, snapshot=snapshot)) == (15, 10)


def test_snapshot_ends_when_it_is_released(client: tickflight.Client, snapshot: tickflight.Snapshot) -> None:
    with snapshot as same:
        assert count(client, snapshot=same) == 10
    snapshot.release()
    with pytest.raises(NotFoundError, match=r"there is no snapshot '\w+', or it has ended\. Hint: Make one"):
        client.sql(COUNT, snapshot=snapshot)
    with pytest.raises(NotFoundError):
        snapshot.renew()


def test_renewed_snapshot_lasts_longer(client: tickflight.Client, snapshot: tickflight.Snapshot) -> None:
    end = snapshot.expires
    assert timedelta(minutes=59) < end - datetime.now(UTC) <= timedelta(hours=1)
    snapshot.renew(7200)
    assert snapshot.expires - end >= timedelta(minutes=59)
    snapshot.renew()
    assert snapshot.expires - end >= timedelta(minutes=59)


def test_first_failure_is_the_one_that_is_seen(server: Any, client: tickflight.Client) -> None:
    snapshot = client.snapshot(60)
    server.stop()
    with pytest.raises(ZeroDivisionError), snapshot:
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["", "no such", "x\r\nauthorization: y", "é"])
def test_text_that_is_no_snapshot_is_refused(client: tickflight.Client, name: str) -> None:
    with pytest.raises(QueryError, match="is no snapshot"):
        client.sql(COUNT, snapshot=name)


def test_length_is_limited(client: tickflight.Client) -> None:
    with pytest.raises(QueryError, match=r"lakehouse\.pin_seconds_max"):
        client.snapshot(10**9)


def test_snapshot_tells_what_it_is(snapshot: tickflight.Snapshot) -> None:
    assert repr(snapshot) == f"<tickflight.Snapshot {snapshot.id} until {snapshot.expires:%Y-%m-%d %H:%M:%S}Z>"


def test_health_is_told(client: tickflight.Client) -> None:
    assert client.health().state in ("ok", "degraded", "failed")
