"""The fault matrix: the same steps again and again, each time with another operation of the disk failing.

The rule of this file: a fault comes, stays for some operations, and goes; the process lives, nobody is told anything
wrong meanwhile, and afterwards all works again: at the latest after a reopening, or in place where that is demanded.
The steps run in this process, which is under the shim, one folder after the other:
``python -m fault_points --seed S --points 17:EIO …`` prints a line of JSON for each point.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crash_batches import Ledger
from crash_check import ViolationError
from crash_points import describe
from crash_workload import STEPS, STORE, Workload, be_quiet
from disk_shim import Action, Control, mark

from tickflight_server.errors import ServerError

STEPS_OF_A_POINT: tuple[tuple[str, int], ...] = (
    *(("append", 3), ("burst", 4), ("flush", 0), ("append", 2), ("big", 5), ("append", 2), ("flush", 0)),
    *(("resend", 6), ("append", 2), ("reopen", 0), ("burst", 5), ("reopen_unflushed", 0), ("append", 3)),
    *(("flush", 0), ("append", 2), ("resend", 6)),
)
SHORT = "SHORT"
_RECOVERY_S = 30.0
_POINT_S = 150.0  # a point that hangs ends the process, with a traceback of every thread
# What an error must tell: which thing of the store failed, not only how.
_NOUN = re.compile(r"\b(log|part|table|data folder|writer|identity|lock|commit)\b")


@dataclass(frozen=True)
class Fault:
    """The ``number``-th operation of the steps fails, and so do the next ones, as the seed decides.

    ``error`` is a name of ``errno``, or ``SHORT``: the operation is a write that does half of its work and says so.
    """

    number: int
    error: str

    def __str__(self) -> str:
        return f"{self.number}:{self.error}"


class FaultRun:
    """One run of the steps in ``folder`` with one fault."""

    def __init__(self, folder: Path, control: Control, seed: int, fault: Fault, *, in_place: bool) -> None:
        self._control = control
        self._fault = fault
        self._in_place = in_place
        self._chance = random.Random(f"fault/{seed}/{fault}")
        self._workload = Workload(folder, Ledger(seed), say=mark, behind=self._chance.random() < 0.5)
        self.errors: list[str] = []

    def run(self) -> None:
        """Run the steps under the fault.

        Raises:
            ViolationError: the store broke its word, or does not come back.
        """
        length = self._chance.choice((1, 1, 2, 5, 20, 80))
        action = self._chance.choice((Action.FAIL, Action.FAIL, Action.SHORT_THEN_FAIL))
        if self._fault.error == SHORT:
            length, action = 1, Action.SHORT_THEN_FAIL
        first = self._fault.number
        error = getattr(errno, self._fault.error, errno.EIO)
        self._control.arm(action, first=first, last=first + length - 1, error=error)
        try:
            for name, count in STEPS_OF_A_POINT:
                self._step(name, count)
            # a store that refused everything since has used up few of the failing operations
            self._control.disarm()
            self._come_back()
            self._finish()
        finally:
            self._control.disarm()
            self._shut()

    def _step(self, name: str, count: int) -> None:
        if self._try(lambda: STEPS[name](self._workload, count)) and self._control.hits == 0:
            return
        # readers compare: in the middle of the trouble and after it
        self._try(self._workload.check)

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except ServerError as error:
            self._heed(error)
            return False
        return True

    def _heed(self, error: ServerError) -> None:
        text = str(error)
        if self._control.hits == 0:
            raise ViolationError(f"an error without a fault: {text}") from error
        if not _NOUN.search(text):
            raise ViolationError(f"an error that does not name what failed: {text}") from error
        self.errors.append(type(error).__name__)

    def _come_back(self) -> None:
        """Append once more; where the store refuses, open it anew."""
        end = time.monotonic() + (_RECOVERY_S if self._in_place else 0)
        while not self._try(lambda: self._workload.append(1)):
            if time.monotonic() < end:
                time.sleep(0.05)  # how soon it tries again is the store's own affair
                continue
            if self._in_place:
                raise ViolationError(f"the fault is gone, and after {_RECOVERY_S} s the store still refuses rows")
            self._try(self._workload.close)
            self._workload.append(1)
            return

    def _finish(self) -> None:
        """Use the store as if nothing had been; no error is allowed any more."""
        work = self._workload
        work.check()
        work.append(2)
        work.store.flush()
        work.check()
        work.reopen(flush=False)
        work.check()
        work.resend(10)
        work.append(1)
        work.reopen(flush=True)
        work.check()

    def _shut(self) -> None:
        try:
            self._workload.close(flush=False)
        except ServerError as error:
            self.errors.append(type(error).__name__)


def run_without_fault(folder: Path, seed: int) -> None:
    """Run the steps with nothing failing: its journal says which operations there are."""
    workload = Workload(folder, Ledger(seed), say=mark)
    for name, count in STEPS_OF_A_POINT:
        STEPS[name](workload, count)
        workload.check()
    mark({"step": "end"})
    workload.close()


def run_points(faults: list[Fault], seed: int, *, in_place: bool) -> Iterator[dict[str, object]]:
    """Run each point in a new folder; yield what became of it, its name first so that a crash is known."""
    folder = Path(os.environ["DISK_SHIM_ROOT"]) / STORE
    control = Control(Path(os.environ["DISK_SHIM_CONTROL"]))
    for fault in faults:
        yield {"point": str(fault)}
        run = FaultRun(folder, control, seed, fault, in_place=in_place)
        said = None
        faulthandler.dump_traceback_later(_POINT_S, exit=True)
        try:
            run.run()
        except Exception as error:  # whatever it is, the point failed
            said = describe(error)
        faulthandler.cancel_dump_traceback_later()
        mark({"step": "end"})
        yield {"done": str(fault), "hit": control.hit, "hits": control.hits, "errors": run.errors, "failed": said}
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run points, with one line of JSON for each, or without any the steps alone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--points", nargs="*", default=[])
    parser.add_argument("--in-place", action="store_true", help="the store must go on without being opened anew")
    options = parser.parse_args()
    be_quiet()
    if not options.points:
        run_without_fault(Path(os.environ["DISK_SHIM_ROOT"]) / STORE, options.seed)
        return
    faults = [Fault(int(number), error) for number, _, error in (p.partition(":") for p in options.points)]
    for line in run_points(faults, options.seed, in_place=options.in_place):
        print(json.dumps(line))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
