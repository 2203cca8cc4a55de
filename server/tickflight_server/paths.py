"""Every file and folder name of the store is built and parsed here, and nowhere else.

    <storage_path>/
      _tickflight/writer            the server's identity (a UUID as text)
      _tickflight/lock              held by the running server
      _tickflight/users.json        who may log in, passwords hashed
      _tickflight/tokens.json       API tokens, hashed
      _tickflight/pins.json         the snapshots that clients hold
      _tickflight/log/<number>.log  the write-ahead log, numbered in order
      _tickflight/workspace.duckdb  the users' own tables
      _tickflight/audit/            who did what, in chained files
      _tickflight/spill/            what queries put aside when memory is short
      _tickflight/cache/<16 hex>-<name of a part>   copies of parts that live in the tier
      _tickflight/damaged/<time>/   what a repair set aside, and its report.json
      <table>/_delta_log/           the table's versions
      <table>/year=2026/month=11/day=22/exchange=BINANCE/symbol=BTC-USDT/<first>-<last>-<checksums>.parquet

Exchange and symbol come from outside, so a folder name holds only letters, digits and ``._-``; everything else is
percent-encoded, byte by byte of UTF-8. The names inside the files and in the catalog are the originals.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

PINS_NAME = "pins.json"
LOG_NAME = re.compile(r"(\d{12})\.log")
# the last field is the xxh3_64 of the file's contents and that of its end; until version 0.3 only the first, until
# version 0.2 it was 8 random digits
PART_NAME = re.compile(r"(\d{19})-(\d{19})-([0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{8})\.parquet")
CACHE_NAME = re.compile(r"[0-9a-f]{16}-[^/]+(?<!\.partial)")
_PARTIAL = ".partial"
_COMPONENT_MAX = 200  # file systems take 255 bytes; the key ("exchange=") and the rest of the encoding need some


@dataclass(frozen=True)
class Layout:
    """The places of a store below its storage path."""

    root: Path

    @property
    def internal(self) -> Path:
        """Folder of what is not a table."""
        return self.root / "_tickflight"

    @property
    def writer(self) -> Path:
        """File with the writer's identity."""
        return self.internal / "writer"

    @property
    def lock(self) -> Path:
        """File that the running server holds locked."""
        return self.internal / "lock"

    @property
    def users(self) -> Path:
        """File of those who may log in."""
        return self.internal / "users.json"

    @property
    def tokens(self) -> Path:
        """File of the API tokens."""
        return self.internal / "tokens.json"

    @property
    def log(self) -> Path:
        """Folder of the write-ahead log."""
        return self.internal / "log"

    @property
    def spill(self) -> Path:
        """Folder of what queries put aside when memory is short; emptied at the start."""
        return self.internal / "spill"

    @property
    def audit(self) -> Path:
        """Folder of the lines about who did what."""
        return self.internal / "audit"

    @property
    def cache(self) -> Path:
        """Folder of the copies of parts that live in the tier."""
        return self.internal / "cache"

    @property
    def workspace(self) -> Path:
        """File of the users' own tables, the engine's."""
        return self.internal / "workspace.duckdb"

    @property
    def damaged(self) -> Path:
        """Folder of what repairs set aside, one folder a repair."""
        return self.internal / "damaged"

    def table(self, name: str) -> Path:
        """Folder of a table."""
        return self.root / name


def log_file_name(number: int) -> str:
    """Return the name of log file ``number``."""
    return f"{number:012d}.log"


def parse_log_file_name(name: str) -> int | None:
    """Return the number of a log file, or None for a name that is not one."""
    match = LOG_NAME.fullmatch(name)
    return int(match[1]) if match else None


def encode_component(value: str) -> str:
    """Return ``value`` as a folder name; ``unquote`` gives it back unless it was over 200 characters long."""
    text = quote(value, safe="-_")
    # quote leaves dots alone; a name of only dots would climb out of its folder
    if not text.strip("."):
        text = text.replace(".", "%2E")
    if len(text) > _COMPONENT_MAX:
        text = f"{text[: _COMPONENT_MAX - 17].rsplit('%', 1)[0]}~{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return text


def decode_component(text: str) -> str:
    """Return the value that a folder name was made from."""
    return unquote(text)


def partition_folder(year: int, month: int, day: int, exchange: str, symbol: str) -> str:
    """Return the folder of a partition, relative to its table's."""
    return (
        f"year={year:04d}/month={month:02d}/day={day:02d}"
        f"/exchange={encode_component(exchange)}/symbol={encode_component(symbol)}"
    )


def part_file_name(first_seq: int, last_seq: int, checksum: str) -> str:
    """Return the name of a part.

    With its partition's other live parts it holds every row of the partition from ``first_seq`` to ``last_seq`` of the
    table, both included; ``checksum`` is the xxh3_64 of the file's contents in 16 hexadecimal digits, and then that of
    its end (``part_sums.py``).
    """
    return f"{first_seq:019d}-{last_seq:019d}-{checksum}.parquet"


def parse_part_file_name(name: str) -> tuple[int, int] | None:
    """Return the first and last ``seq`` that a part's name says, or None for another file."""
    match = PART_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def part_checksum(name: str) -> str | None:
    """Return the checksum that a part's name carries, xxh3 as 16 hex digits; None for an older name or another file."""
    match = PART_NAME.fullmatch(name)
    return match[3][:16] if match and len(match[3]) >= 16 else None


def part_end_checksum(name: str) -> str | None:
    """Return the checksum of the file's end that a part's name carries; None for an older name or another file."""
    match = PART_NAME.fullmatch(name)
    return match[3][16:] if match and len(match[3]) == 32 else None


def cache_file_name(url: str) -> str:
    """Return the name of the copy of the part at ``url``: other places of a part of the same name are other copies."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2]}"


def is_cache_file_name(name: str) -> bool:
    """Return whether ``name`` is that of a whole copy in the cache."""
    return CACHE_NAME.fullmatch(name) is not None


def partial_file_name(name: str) -> str:
    """Return what a file is called while it is copied and not yet whole."""
    return name + _PARTIAL


def is_partial_file_name(name: str) -> bool:
    """Return whether ``name`` is that of a file that is not whole."""
    return name.endswith(_PARTIAL)
