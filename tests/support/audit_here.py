"""An audit of a folder of its own, by a clock that a test moves."""

import threading

from tickflight_server.audit import Audit, Chain
from tickflight_server.config import AuditSettings
from tickflight_server.metrics import Metrics

KEY = b"a key that no file of these holds"


class SteppingClock:
    """Wall time that a test moves, a microsecond on with every look; monotonic time goes with it."""

    def __init__(self):
        self.us = 1_790_000_000_000_000
        self._lock = threading.Lock()

    def now_us(self):
        with self._lock:
            self.us += 1
            return self.us

    def monotonic(self):
        return self.us / 1e6

    def move(self, seconds):
        self.us += int(seconds * 1e6)


class AuditHere:
    """Opens audits of one folder, one after the other."""

    def __init__(self, folder):
        self.folder = folder / "audit"
        self.folder.mkdir(mode=0o700)
        self.clock = SteppingClock()
        self.metrics = Metrics()
        self.told = []
        self.chains = [Chain()]
        self.audit = None

    def open(self, key=None, **settings):
        self.chains = [Chain(key), Chain()] if key else [Chain()]
        settings = {"write_interval_ms": 0, "sync_interval_ms": 0, **settings}
        self.audit = Audit(
            AuditSettings(**settings),
            self.clock,
            self.metrics,
            self.folder,
            self.chains,
            lambda what, _: self.told.append(what),
        )
        return self.audit

    def files(self):
        return sorted(self.folder.glob("*.jsonl"))

    def close(self):
        if self.audit is not None:
            self.audit.close()
            self.audit = None


def fill(audit, lines=10):
    """Write so many lines, each of another user."""
    for number in range(lines):
        audit.login(f"user{number}", "password", f"ipv4:127.0.0.1:{number + 1}")
    assert audit._writer.drain()
