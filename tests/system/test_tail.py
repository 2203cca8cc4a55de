"""Readers that are cut off, killed, and whose server is killed: together they got each row once, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tail_campaign import Campaign

_SIZES = {"sample": (24, 2, 3), "full": (1_000, 40, 100)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_row_is_missed_or_repeated_over_any_disconnect(
    tmp_path: Path, request: pytest.FixtureRequest, record_property: Any
) -> None:
    disconnects, servers, readers = _SIZES[request.config.getoption("--campaign")]
    campaign = Campaign(tmp_path, request.config.getoption("--crash-seed"), before=20_000)
    try:
        campaign.run(disconnects, server_kills=servers, reader_kills=readers)
        rows = campaign.check()
        print(f"{dict(campaign.counts)} disconnects, rows by reader {rows}")
        assert sum(campaign.counts.values()) == disconnects
        record_property("crash testing", {f"disconnects ({k})": n for k, n in campaign.counts.items()})
    finally:
        campaign.close()
