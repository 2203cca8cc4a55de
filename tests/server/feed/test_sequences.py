"""Every exchange that numbers its books has its place in the tables of numbers."""

from __future__ import annotations

import inspect

from tickflight_server.feed import compat
from tickflight_server.feed.sequences import DENSE, RENEWED, SILENT, kinds


def numbers_its_books(handler: type) -> bool:
    own = [one for one in handler.__mro__ if ".exchanges." in one.__module__]
    return any("sequence_number=" in inspect.getsource(one) for one in own)


def test_every_exchange_that_numbers_its_books_is_named_once() -> None:
    numbering = {name for name, handler in compat.exchanges().items() if numbers_its_books(handler)}
    assert numbering
    assert numbering <= DENSE | RENEWED | set(SILENT)
    assert len(DENSE) + len(RENEWED) + len(SILENT) == len(DENSE | RENEWED | set(SILENT))


def test_every_silence_has_a_reason_and_no_hole_is_told_of_it() -> None:
    assert all(SILENT.values())
    assert all(kinds(exchange) == (False, False) for exchange in (*SILENT, "KRAKEN", "nobody"))
    assert kinds("KRAKEN_FUTURES") == (True, False)
    assert kinds("BINANCE") == (False, True)
