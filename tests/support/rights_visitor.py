"""Somebody at the server, who notes whatever is not as it is to be.

The rule of this file: it asks over the wire, as any client would, and every text and every table that comes back is
searched for what the user may not see.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight
from rights_cases import CASES, Case
from rights_market import RightsMarket

import tickflight
from tickflight.errors import (
    NotFoundError,
    PermissionDeniedError,
    QueryError,
    TickflightError,
    UnsupportedError,
    translate,
)
from tickflight.wire.codec import Message
from tickflight.wire.commands import Command
from tickflight_server.query.system import TABLES as SYSTEM

T = TypeVar("T")
NOWHERE = "zzqv"
"""A name that nothing has, nor anything like it."""
MISSING = (QueryError, NotFoundError)
# what the engine proposes where a name is not known
_PROPOSED = re.compile(r"(?:Did you mean|Candidate (?:bindings|tables|functions)|Hint:)[^\n]*", re.DOTALL)
_PLACE = re.compile(r"\^+|LINE \d+:[^\n]*")


class Visitor:
    """A user's client, and what was seen through it: ``faults``, and how many checks each road has made."""

    def __init__(self, address: str, case: Case, market: RightsMarket, *, seed: int = 1, full: bool = False) -> None:
        self.address = address
        self.case = case
        self.market = market
        self.client = tickflight.connect(address, token=case.token)
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.road = ""
        self.random = random.Random(f"{seed} {case.name}")
        self._full = full
        secrets = sorted(case.secrets(market), key=len, reverse=True)
        self._secret = re.compile("|".join(rf"(?<![\w.]){re.escape(s)}(?!\w)" for s in secrets)) if secrets else None

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def some(self, items: Iterable[T], most: int) -> list[T]:
        """Return the items, ``most`` of them by chance in the sample."""
        found = list(items)
        return found if self._full or len(found) <= most else self.random.sample(found, most)

    # --- asking

    def options(self, *headers: tuple[bytes, bytes]) -> flight.FlightCallOptions:
        return self.client._connection.options(headers=headers)

    @property
    def flight(self) -> flight.FlightClient:
        return self.client._connection.client

    def get(self, command: Message) -> pa.Table:
        """Return what a ticket gives."""
        return self.client._connection.get(command.serialize()).arrow()

    def action(self, kind: str, request: Message) -> Message | None:
        return self.client._connection.action(kind, request)

    def table(self, sql: str, params: Any = None, **more: Any) -> pa.Table:
        return self.client.sql(sql, params, **more).arrow()

    def by_endpoints(self, command: Command) -> tuple[flight.FlightInfo, pa.Table]:
        """Return flight information, and the rows of all of its endpoints together."""
        descriptor = flight.FlightDescriptor.for_command(command.serialize())
        try:
            info = self.flight.get_flight_info(descriptor, self.options())
        except (flight.FlightError, pa.ArrowException) as error:
            raise translate(error) from None
        return info, pa.concat_tables([self.redeem(e.ticket.ticket) for e in info.endpoints])

    def redeem(self, ticket: bytes) -> pa.Table:
        """Return what a ticket gives, read in one piece."""
        try:
            return self.flight.do_get(flight.Ticket(ticket), self.options()).read_all()
        except (flight.FlightError, pa.ArrowException) as error:
            raise translate(error) from None

    # --- checking

    def on(self, road: str) -> None:
        self.road = road

    def note(self, fault: str) -> None:
        self.faults.append(f"{self.case.name} on {self.road}: {fault}")

    def check(self, good: bool, fault: str) -> None:
        self.counts[self.road] += 1
        if not good:
            self.note(fault)

    def clean(self, text: str, what: str, said: str = "") -> None:
        """See that a text has nothing in it that may not be seen, but for what its user has ``said``."""
        own = set(re.findall(r"[\w.-]+", said))
        text = re.sub(r"[\w.-]+", lambda m: "_" if m[0] in own else m[0], text) if own else text
        found = self._secret.search(text) if self._secret else None
        around = text[max(0, found.start() - 60) :][:160] if found else ""
        self.check(found is None, f"{what} shows {found and found[0]!r}: …{around}")

    def clean_table(self, table: pa.Table, what: str) -> None:
        """See that a table has nothing in it that may not be seen, also in its dictionaries."""
        texts = []
        for column in table.columns:
            for chunk in column.chunks:
                dictionary = chunk.dictionary if pa.types.is_dictionary(chunk.type) else None
                texts.append(repr((chunk if dictionary is None else dictionary).to_pylist()))
        self.clean("\n".join(texts), what)

    def same(
        self, sql: str, expected: Sequence[dict[str, Any]], params: Any = None, *, ordered: bool = False, **more: Any
    ) -> None:
        """See that a query gives these rows."""
        try:
            table = self.table(sql, params, **more)
        except TickflightError as error:
            self.check(False, f"{sql!r} with {params}: {type(error).__name__}: {error}")
            return
        self.rows(sql, table, expected, ordered=ordered)

    def rows(self, what: str, table: pa.Table, expected: Sequence[dict[str, Any]], *, ordered: bool = False) -> None:
        """See that a table has these rows."""
        got, wanted = [plain(r) for r in table.to_pylist()], [plain(r) for r in expected]
        if not ordered:
            got, wanted = sorted(got), sorted(wanted)
        self.check(got == wanted, f"{what!r} gives {_difference(got, wanted)}")
        self.clean_table(table, what)

    def fails(self, run: Callable[[], object] | str, kinds: tuple[type[Exception], ...] = MISSING) -> str:
        """See that something is refused, in one of the ways of ``kinds`` and in clean words; return these."""
        what = run if isinstance(run, str) else getattr(run, "__doc__", None) or "a call"
        try:
            got = self.table(run) if isinstance(run, str) else run()
        except TickflightError as error:
            self.check(isinstance(error, kinds), f"{what!r} fails as {type(error).__name__}: {error}")
            self.clean(str(error), f"the refusal of {what!r}", what)
            return str(error)
        self.check(False, f"{what!r} goes through: {str(got)[:200]}")
        return ""

    def missing(self, sql: str, name: str, ask: Callable[[str], object] | None = None) -> None:
        """See that a name in ``sql`` is told to be missing just as one is that nothing has."""
        ask = ask or self.table
        told = [_words(self._told(lambda text=text: ask(text)), n) for text, n in self._both(sql, name)]
        self.check(told[0] == told[1], f"{sql!r} is told {told[0]!r}, and of no name {told[1]!r}")

    def _both(self, sql: str, name: str) -> tuple[tuple[str, str], tuple[str, str]]:
        return (sql, name), (re.sub(rf"\b{re.escape(name)}\b", NOWHERE, sql), NOWHERE)

    def _told(self, run: Callable[[], object]) -> tuple[str, str]:
        try:
            run()
        except TickflightError as error:
            text = str(error)
            self.clean(text, "a refusal")
            self.proposes(text)
            return type(error).__name__, text
        return "", "goes through"

    def proposes(self, text: str) -> None:
        """See that what an error proposes is there for the user."""
        for proposed in _PROPOSED.findall(text):
            quoted = set(re.findall(r"\w+", " ".join(re.findall(r'"([^"]*)"', proposed))))
            hidden = set(re.findall(r"\w+", proposed)) & hidden_tables(self.case) | quoted & hidden_columns(self.case)
            self.check(not hidden, f"an error proposes {sorted(hidden)}: {text!r}")


def hidden_tables(case: Case) -> set[str]:
    """Return the stored tables that are not there for a user, but for those that are called as a column is."""
    every = {t for c in CASES.values() for t in c.sees}
    columns = {c for t in case.sees for c in case.columns(t)}
    return every - set(case.sees) - columns - case.writes


def hidden_columns(case: Case) -> set[str]:
    """Return the columns that no table has for a user."""
    ada = CASES["ada"]
    seen = {c for t in case.sees for c in case.columns(t)} | set(case.sees)
    seen |= {name for schema, _, _ in SYSTEM.values() for name in schema.names}
    return {c for t in ada.sees for c in ada.columns(t)} - seen


def plain(row: dict[str, Any]) -> str:
    """Return a row as a text that equal rows have in common."""
    return repr({k: (v.isoformat() if hasattr(v, "isoformat") else v) for k, v in row.items()})


def _difference(got: list[str], wanted: list[str]) -> str:
    extra, lacking = Counter(got) - Counter(wanted), Counter(wanted) - Counter(got)
    return (
        f"{len(got)} rows, wanted {len(wanted)}; too many: {list(extra)[:2]}, missing: {list(lacking)[:2]}"
        if extra or lacking
        else "another order"
    )


def _words(told: tuple[str, str], name: str) -> tuple[str, str]:
    """Return an error's words without the name, what is proposed in its place, and where it stands."""
    kind, text = told
    text = _PLACE.sub("", _PROPOSED.sub("", text))
    return kind, " ".join(re.sub(rf"\b{re.escape(name)}\b", NOWHERE, text).split())


REFUSED = (PermissionDeniedError, QueryError, NotFoundError, UnsupportedError)
