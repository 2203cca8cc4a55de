"""Section ``audit``: what is written down of who did what, and how long it is kept.

The rule of this file: a limit of the audit is declared here and nowhere else, and has a description.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from tickflight_server.config.section import Section


class AuditSettings(Section):
    """The chained files of who did what."""

    enabled: bool = Field(True, description="whether anything is written; false keeps no record of who did what")
    folder: Path | None = Field(None, description="folder of the files; none: _tickflight/audit in the data folder")
    key: SecretStr | None = Field(None, description="key that the lines are sealed with, at least 16 characters")
    key_file: Path | None = Field(None, description="file that holds the key, readable by its owner only")
    old_key_files: list[Path] = Field(
        default_factory=list, description="keys of earlier files, for checking them after the key was changed"
    )
    queue_max: int = Field(10_000, ge=1, description="lines that wait to be written; see when_full")
    when_full: Literal["wait", "drop"] = Field(
        "wait", description="new statements and logins wait for room, or lines are dropped, counted and noted"
    )
    wait_s: float = Field(10.0, ge=0, description="longest wait for room; then the statement is refused")
    write_interval_ms: float = Field(10.0, ge=0, description="lines of so long are written together")
    sync_interval_ms: float = Field(1000.0, ge=0, description="longest time between a line and its sync to the disk")
    file_mb: float = Field(64.0, gt=0, description="the next file is begun above this size")
    file_hours: float = Field(24.0, gt=0, description="and after so long")
    keep_days: float = Field(400.0, gt=0, description="files whose last line is older are removed, and that is noted")
    text_bytes_max: int = Field(8192, ge=64, description="longest SQL text in a line; of a longer one its hash is kept")
    running_after_s: float = Field(10.0, gt=0, description="what runs for longer has a line while it runs, too")
    totals_interval_s: float = Field(600.0, gt=0, description="time between two lines of a stream that goes on")
    refused_per_s: int = Field(100, ge=1, description="lines of refused logins a second; further ones are summed up")
    anchor_s: float = Field(
        3600.0, gt=0, description="how often the server's log is told the last line's number and hash"
    )
    recent_lines: int = Field(10_000, ge=1, description="newest lines that system.audit shows")

    @model_validator(mode="after")
    def _one_key(self) -> AuditSettings:
        if self.key is not None and self.key_file is not None:
            raise ValueError("key and key_file are two keys: set one of them")
        if self.key is not None and len(self.key.get_secret_value()) < KEY_CHARS_MIN:
            raise ValueError(f"key has fewer than {KEY_CHARS_MIN} characters")
        return self


KEY_CHARS_MIN = 16
