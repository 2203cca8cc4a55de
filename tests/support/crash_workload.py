"""What the store is made to do while its disk is watched: a seeded collector, its steps, and the sessions of a run.

The rule of this file: it uses the store as a collector does. What has no answer is sent again, in order, before
anything new; a promise is noted after it was given, a batch before it is sent. A new kind of step is a line in
``STEPS`` and a place in ``SESSIONS``.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from crash_batches import Ledger, Sent, choose, rows_of
from crash_check import ViolationError, check_store
from disk_shim import Action, Control, Kind, mark, read_journal

from tickflight_server.config import LakehouseSettings
from tickflight_server.errors import ServerError
from tickflight_server.store import Ack, Store, committer

STORE = "store"  # the data folder, below the one that the shim watches: making it is watched, too
_ANSWER_S = 60.0
_BIG_TEXT_BYTES = 300_000  # four of them are a log file
_NEVER_BYTES = 1 << 40


class Workload:
    """A collector and its store in ``folder``; ``say`` hears every mark.

    With ``behind`` the log's second thread syncs all groups, as it does those of megabytes, while the next are written.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        say: Callable[[dict[str, Any]], None] | None = None,
        *,
        behind: bool = False,
    ) -> None:
        self.ledger = ledger
        self._behind = behind
        self._settings = LakehouseSettings(
            storage_path=folder, wal_file_mb=1, wal_commit_interval_ms=0, flush_interval_seconds=86_400
        )
        self._say = say or (lambda _: None)
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store, which is opened if it is not."""
        if self._store is None:
            committer.BEHIND_BYTES = 0 if self._behind else _NEVER_BYTES
            self._store = Store(self._settings)
        return self._store

    def close(self, *, flush: bool = True) -> None:
        """Close the store if it is open; it is closed also when this raises."""
        store, self._store = self._store, None
        if store is not None:
            store.close(flush=flush)

    def reopen(self, *, flush: bool) -> None:
        """Close and open again."""
        self.close(flush=flush)
        _ = self.store

    def send(self, batches: list[Sent]) -> None:
        """Send what has no answer, then ``batches``, without waiting in between; then wait for the answers."""
        for sent in batches:
            self.ledger.apply(sent.mark())
            self._say(sent.mark())
        again = list(self.ledger.unanswered())
        new = [s for s in batches if s.producer is None]
        waiting: list[tuple[Sent, Future[Ack]]] = []
        failure: ServerError | None = None
        for sent in sorted(again + new, key=lambda s: s.number):
            try:
                waiting.append((sent, self._append(sent)))
            except ServerError as error:
                failure = error
                break
        for sent, future in waiting:
            try:
                self._note(sent, future.result(_ANSWER_S))
            except ServerError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def deliver(self, sent: Sent) -> Ack:
        """Send one batch, again or not, and wait for its answer."""
        ack = self._append(sent).result(_ANSWER_S)
        if sent.number not in self.ledger.acked:
            self._note(sent, ack)
        return ack

    def _append(self, sent: Sent) -> Future[Ack]:
        batch = rows_of(self.ledger.seed, sent).batch
        return self.store.append(sent.table, batch, producer=sent.producer, sequence=sent.number)

    def _note(self, sent: Sent, ack: Ack) -> None:
        known = {"acked": sent.number, "first_seq": None if ack.duplicate or not ack.first_seq else ack.first_seq}
        self.ledger.apply(known)
        self._say(known)

    def new(self, count: int, *, table: str | None = None, text_bytes: int = 0) -> list[Sent]:
        """Return the next ``count`` batches."""
        first = max(self.ledger.sent, default=0) + 1
        chosen = (choose(self.ledger.seed, n, table=table, text_bytes=text_bytes) for n in range(first, first + count))
        return list(chosen)

    def append(self, count: int, *, table: str | None = None) -> None:
        """Send ``count`` batches, each when the one before is answered."""
        for _ in range(count):
            self.send(self.new(1, table=table))

    def flush_often(self, count: int) -> None:
        """Send and flush ``count`` small batches, enough of them for Delta to write a checkpoint."""
        for _ in range(count):
            self.send(self.new(1, table="ticker"))
            self.store.flush()

    def compact(self) -> None:
        """Merge all parts that can be merged, memory having let go of their rows."""
        for table in self.store.tables.values():
            while table.release_oldest():
                pass
        self.store.keeper.compact(all_of_it=True)

    def resend(self, count: int) -> None:
        """Send the last ``count`` answered batches again: the store must know them."""
        known = [s for n, s in self.ledger.sent.items() if n in self.ledger.acked and s.producer is not None]
        for sent in known[-count:]:
            if not self.deliver(sent).duplicate:
                raise ViolationError(
                    f"{sent.table}: batch {sent.number} was acknowledged and is stored again when resent"
                )

    def check(self) -> None:
        """Compare what is in the store with what was promised."""
        check_store(self.store, self.ledger)


STEPS: dict[str, Callable[[Workload, int], None]] = {
    "append": lambda w, n: w.append(n),
    "burst": lambda w, n: w.send(w.new(n)),
    "big": lambda w, n: w.send(w.new(n, table="trades", text_bytes=_BIG_TEXT_BYTES)),
    "flush": lambda w, _: _ignore(w.store.flush()),
    "flush_some": lambda w, _: _ignore(w.store.flush("memory")),
    "compact": lambda w, _: w.compact(),
    "vacuum": lambda w, _: _ignore(w.store.keeper.vacuum(hours=0)),
    "flush_often": lambda w, n: w.flush_often(n),
    "resend": lambda w, n: w.resend(n),
    "close": lambda w, _: w.close(),
    "reopen": lambda w, _: w.reopen(flush=True),
    "reopen_unflushed": lambda w, _: w.reopen(flush=False),
}
"""Every kind of step by its name; the number says how often, or how many."""


def _ignore(_: object) -> None:
    """Drop a result."""


@dataclass(frozen=True)
class Kill:
    """Where a session dies: at the ``nth`` operation of a kind and pattern after the steps before it."""

    kind: Kind
    pattern: str
    nth_max: int
    action: Action


Step = tuple[str, int] | Kill

SESSIONS: tuple[tuple[Step, ...], ...] = (
    (
        *(("append", 8), ("burst", 6), ("flush", 0), ("append", 4), ("big", 5), ("append", 3), ("resend", 4)),
        *(Kill(Kind.WRITE, "*_tickflight/log/*", 3, Action.KILL_MIDDLE), ("burst", 4), ("append", 6)),
    ),
    (
        *(("append", 4), ("flush_some", 0), ("resend", 20), ("burst", 5), ("flush_some", 0), ("append", 3)),
        ("compact", 0),
        *(Kill(Kind.WRITE, "*.parquet", 8, Action.KILL_MIDDLE), ("flush", 0), ("append", 3), ("flush", 0)),
    ),
    (
        *(("append", 3), ("big", 4), ("burst", 4)),
        *(Kill(Kind.LINK, "*/_delta_log/*", 3, Action.KILL_AFTER), ("flush", 0), ("append", 3), ("flush", 0)),
    ),
    (
        *(("append", 5), ("reopen_unflushed", 0), ("resend", 10), ("burst", 8), ("flush_often", 23)),
        *(("compact", 0), ("vacuum", 0), ("flush_some", 0), ("reopen", 0)),
    ),
    (
        *(("resend", 40), ("append", 3), ("big", 4), ("append", 2), ("flush_some", 0), ("append", 3)),
        *(("compact", 0), ("vacuum", 0), ("append", 2), ("close", 0)),
    ),
)
"""The sessions of a recorded run, one process each. A kill ends its session; the steps behind it are its occasion."""


RECOVERY = "recovery"
_BEHIND = ("0", "2", "4")
_RECOVERY_STEPS: tuple[Step, ...] = (("append", 3), ("flush", 0), ("resend", 5), ("append", 1), ("close", 0))


def run_session(folder: Path, ledger: Ledger, name: str, control: Control) -> None:
    """Run one session in this process, which is under the shim."""
    chance = random.Random(f"session/{ledger.seed}/{name}")
    workload = Workload(folder, ledger, say=mark, behind=name in _BEHIND)
    for step in _RECOVERY_STEPS if name == RECOVERY else SESSIONS[int(name)]:
        if isinstance(step, Kill):
            nth = chance.randrange(1, step.nth_max + 1)
            control.arm(step.action, first=nth, kinds=[step.kind], pattern=step.pattern)
            continue
        what, count = step
        mark({"step": what})
        STEPS[what](workload, count)
        if control.hits == 0:
            workload.check()
    workload.close()


def be_quiet() -> None:
    """Let the store log nothing: its warnings are expected here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> None:
    """Run one session; what earlier sessions sent and heard is in the journal."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--promises", type=Path, help="marks of the run before the crash that this one begins with")
    options = parser.parse_args()
    be_quiet()
    ledger = Ledger(options.seed)
    if options.promises is not None:
        ledger.load(options.promises)
    for entry in read_journal(Path(os.environ["DISK_SHIM_JOURNAL"])):
        if entry.kind is Kind.MARK:
            ledger.apply(entry.mark)
    control = Control(Path(os.environ["DISK_SHIM_CONTROL"]))
    run_session(Path(os.environ["DISK_SHIM_ROOT"]) / STORE, ledger, options.session, control)


if __name__ == "__main__":
    main()
