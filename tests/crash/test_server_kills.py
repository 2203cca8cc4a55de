"""Servers that are killed -9 again and again under load: collectors go on, and every row is there once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from server_kills import MOMENTS, kill_servers


def test_collectors_go_on_over_any_kill_without_loss_or_repeat(
    shim: Path, campaign: Any, seed: int, scratch: Path, counts: Counter[str]
) -> None:
    kills = kill_servers(shim, scratch, seed, campaign.kills)
    counts["kills -9"] += sum(kills.values())
    assert sum(kills.values()) == campaign.kills
    if campaign.kills >= 2 * len(MOMENTS):
        assert set(kills) == {m.name for m in MOMENTS}
