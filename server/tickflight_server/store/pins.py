"""Pins: a hold on the rows that every table has at one moment, so that a query gives the same rows again later.

The rule of this file: a pin counts from when it is on disk, and memory never says what the disk does not; a file that
is not what was written here is refused, since to forget a pin would free its rows.

    <folder>/pins.json     {"format": 1, "pins": [{"id", "cuts", "created_us", "expires_us"}, …]}

Reading takes no lock: the pins are one mapping that is replaced as a whole.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tickflight_server.clock import Clock
from tickflight_server.errors import BusyError, InputError, NotFoundError, StorageError, TooLargeError
from tickflight_server.files import make_folder, sync_folder
from tickflight_server.paths import PINS_NAME

_FORMAT = 1
_ID_BYTES = 12


@dataclass(frozen=True)
class Pin:
    """A hold on the rows with ``seq`` up to ``cuts[table]``; times in microseconds since 1970, UTC."""

    id: str
    cuts: Mapping[str, int] = field(hash=False)
    created_us: int
    expires_us: int


class PinBoard:
    """The pins of one data folder. Threads may share it.

    Args:
        folder: where ``pins.json`` lies; it is made with the first pin.
        clock: whose wall time pins begin and end by.
        pins_max: how many may be active.
        seconds_max: how long a pin may hold from its creation or renewal on.

    Raises:
        StorageError: there is a file, and it cannot be read.
    """

    def __init__(self, folder: Path, clock: Clock, *, pins_max: int = 1000, seconds_max: int = 30 * 86_400) -> None:
        self._folder = folder
        self._clock = clock
        self._pins_max = pins_max
        self._seconds_max = seconds_max
        self._lock = threading.Lock()
        self._pins: Mapping[str, Pin] = _load(folder / PINS_NAME)

    def create(self, cuts: Mapping[str, int], seconds: int) -> Pin:
        """Hold the rows up to ``cuts``, the last ``seq`` by table; when this returns the pin survives a crash.

        Raises:
            InputError: ``seconds`` is below 1, or above ``lakehouse.pin_seconds_max``.
            BusyError: ``lakehouse.pins_max`` pins are active.
            StorageError: it could not be written; there is no such pin.
        """
        self._check_seconds(seconds)
        with self._lock:
            now = self._clock.now_us()
            kept = self._kept(now)
            if len(kept) >= self._pins_max:
                raise BusyError(
                    f"{len(kept)} pins are active (lakehouse.pins_max).", hint="Release pins, or wait for one to end."
                )
            pin = Pin(secrets.token_hex(_ID_BYTES), dict(cuts), now, now + seconds * 1_000_000)
            self._store({**kept, pin.id: pin})
            return pin

    def renew(self, pin_id: str, seconds: int) -> Pin:
        """Let a pin end ``seconds`` from now, be that sooner or later than before; return it.

        Raises:
            NotFoundError: there is no such pin, or it has ended.
            InputError: ``seconds`` is below 1, or above ``lakehouse.pin_seconds_max``.
            StorageError: it could not be written; the pin ends when it did.
        """
        self._check_seconds(seconds)
        with self._lock:
            now = self._clock.now_us()
            renewed = replace(self._find(pin_id, now), expires_us=now + seconds * 1_000_000)
            self._store({**self._kept(now), pin_id: renewed})
            return renewed

    def release(self, pin_id: str) -> bool:
        """End a pin; return whether there was one.

        Raises:
            StorageError: it could not be written; the pin holds on.
        """
        with self._lock:
            kept = self._kept(self._clock.now_us())
            if pin_id not in kept:
                return False
            del kept[pin_id]
            self._store(kept)
            return True

    def get(self, pin_id: str) -> Pin:
        """Return an active pin.

        Raises:
            NotFoundError: there is no such pin, or it has ended.
        """
        return self._find(pin_id, self._clock.now_us())

    def active(self) -> tuple[Pin, ...]:
        """Return the pins that hold now, the oldest first."""
        return tuple(self._kept(self._clock.now_us()).values())

    def protected_seq(self, table: str) -> int:
        """Return the ``seq`` up to which some active pin wants ``table``'s rows to stay, 0 if none does."""
        return max((pin.cuts.get(table, 0) for pin in self.active()), default=0)

    def _kept(self, now_us: int) -> dict[str, Pin]:
        return {pin.id: pin for pin in self._pins.values() if pin.expires_us > now_us}

    def _find(self, pin_id: str, now_us: int) -> Pin:
        pin = self._pins.get(pin_id)
        if pin is None or pin.expires_us <= now_us:
            raise NotFoundError(
                f"there is no snapshot {pin_id[:100]!r}, or it has ended.",
                hint="Make one with action tickflight.pin, and renew it before it ends.",
            )
        return pin

    def _check_seconds(self, seconds: int) -> None:
        if seconds < 1:
            raise InputError(f"a snapshot cannot hold for {seconds} seconds.", hint="Hold it for 1 second or more.")
        if seconds > self._seconds_max:
            raise TooLargeError(
                f"a snapshot of {seconds} seconds is above lakehouse.pin_seconds_max ({self._seconds_max}).",
                hint="Hold it for less, and renew it.",
            )

    def _store(self, pins: Mapping[str, Pin]) -> None:
        """Write ``pins`` aside, put them in place, and only then believe them; the caller holds the lock."""
        document = {"format": _FORMAT, "pins": [asdict(pin) for pin in pins.values()]}
        path = self._folder / PINS_NAME
        aside = path.with_suffix(".new")
        try:
            make_folder(self._folder)
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise StorageError(f"cannot write the snapshots: {error.strerror}.", hint="Look at the disk.") from None
        self._pins = pins


def _load(path: Path) -> dict[str, Pin]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(str(error)) from None
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise _damaged(f"format {document['format']}")
        pins = [_parse(item) for item in document["pins"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(type(error).__name__) from None
    return {pin.id: pin for pin in pins}


def _parse(item: Mapping[str, Any]) -> Pin:
    cuts = {str(table): int(seq) for table, seq in item["cuts"].items()}
    return Pin(str(item["id"]), cuts, int(item["created_us"]), int(item["expires_us"]))


def _damaged(what: str) -> StorageError:
    return StorageError(
        f"_tickflight/{PINS_NAME} cannot be read ({what}).",
        hint="Restore it from a backup; without the file there are no snapshots, and what they held may be deleted.",
    )
