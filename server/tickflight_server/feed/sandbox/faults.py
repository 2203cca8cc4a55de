"""What goes wrong on purpose: connections that are cut, book changes that are not sent, symbols that fall silent.

The rule of this file: market and protocols know nothing of it. What is held back here has happened, was numbered and
rendered, and a snapshot shows it; it was only never sent, which is what a hole is.

Over REST, ``POST /faults/WHAT?symbol=SYMBOL`` on the sandbox's address:

    WHAT      does
    drop      cuts every WebSocket; no symbol
    skip      holds back the next change of the symbol's book
    silence   holds back everything of the symbol
    speak     ends the silence
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from tickflight_server.feed.sandbox.events import Channel, Event

PATH = "/faults/{what}"


class Faults:
    """The faults of a sandbox. ``drop`` cuts its connections and returns how many."""

    def __init__(self, drop: Callable[[], int]) -> None:
        self._drop = drop
        self._silent: set[str] = set()
        self._to_skip: set[str] = set()

    def skip(self, symbol: str) -> None:
        """Hold back the next change of a book."""
        self._to_skip.add(symbol)

    def silence(self, symbol: str) -> None:
        """Hold back everything of a symbol from now on."""
        self._silent.add(symbol)

    def speak(self, symbol: str) -> None:
        """End the silence of a symbol."""
        self._silent.discard(symbol)

    def held_back(self, events: Sequence[Event]) -> frozenset[int]:
        """Return the places of the events that are not to be sent."""
        if not (self._silent or self._to_skip):
            return frozenset()
        return frozenset(place for place, event in enumerate(events) if self._held_back(event))

    def _held_back(self, event: Event) -> bool:
        if event.symbol in self._silent:
            return True
        if event.channel is Channel.L2_BOOK and event.symbol in self._to_skip:
            self._to_skip.remove(event.symbol)
            return True
        return False

    async def handle(self, request: web.Request) -> web.Response:
        """Answer the REST call."""
        what, symbol = request.match_info["what"], request.query.get("symbol", "")
        if what == "drop":
            return web.json_response({"connections": self._drop()})
        does = {"skip": self.skip, "silence": self.silence, "speak": self.speak}.get(what)
        if does is None or not symbol:
            return web.Response(text="POST /faults/drop, or skip, silence, speak with ?symbol=", status=400)
        does(symbol)
        return web.json_response({})
