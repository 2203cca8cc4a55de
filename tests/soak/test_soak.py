"""A short sample of the soak: with so few seconds on shared cores it judges what is lost, not how fast all is."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak


@pytest.mark.slow
def test_server_under_attack_serves_honest_clients_and_keeps_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = int(request.config.getoption("--crash-seed"))
    found = soak(tmp_path, seed, clients=30, alone_s=1.0, attacked_s=4.0, settle_s=3.0)
    assert found.rows_kept, "a row that was acknowledged is missing, or there twice"
    assert not found.failed["attacked"], "an honest client was refused"
    assert found.answered["attacked"] > 20
    threads = found.after.threads - found.before.threads
    assert threads <= 40, "gRPC keeps threads that are idle"
    assert found.after.descriptors <= found.before.descriptors + 8 + max(0, threads), "and for each what wakes it"
    assert found.rss_mb["peak"] < 2000
    assert len([name for name in found.attacks if name.endswith(": done")]) >= 3
