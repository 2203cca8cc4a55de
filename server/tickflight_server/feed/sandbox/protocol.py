"""What a wire protocol of the sandbox is: formats, and nothing but formats.

The rule of this file: a protocol opens no socket, reads no clock and decides nothing about the market. The server asks
it what a client's words mean (`Topic`) and how an event reads for a topic (text); one text serves all who subscribed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tickflight_server.errors import InputError
from tickflight_server.feed.sandbox.events import BookSnapshot, Channel, Event, Instrument

TopicKey = tuple[Channel, str, str]
"""A channel, a symbol and, for candles, an interval: what an event must match."""


class SubscriptionError(InputError):
    """A client asked for what this exchange does not have: the client's to mend."""

    code = "subscription"


@dataclass(frozen=True, slots=True)
class Topic:
    """What a client subscribed to: the events it wants, and the label by which it asked for them."""

    channel: Channel
    symbol: str
    interval: str
    label: str

    @property
    def key(self) -> TopicKey:
        """What the topic's events match."""
        return self.channel, self.symbol, self.interval


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client's message leads to: texts to send back at once, then topics to send from now on."""

    texts: tuple[str, ...] = ()
    topics: tuple[Topic, ...] = ()


@dataclass(frozen=True, slots=True)
class RestRoute:
    """One REST call: the name it is counted by, and the function from the query to the JSON text."""

    name: str
    answer: Callable[[Mapping[str, str]], str]


class MarketView(Protocol):
    """What a protocol may see of the market."""

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """The instruments by symbol."""
        ...

    def snapshot(self, symbol: str, depth: int | None = None) -> BookSnapshot:
        """Return the book of a symbol as of now."""
        ...


class WireProtocol(Protocol):
    """One exchange's public protocol over one market."""

    @property
    def name(self) -> str:
        """The exchange's identifier in cryptofeed."""
        ...

    @property
    def websocket_base(self) -> str:
        """What follows ``wss://host:port`` in the address that a handler is given."""
        ...

    @property
    def websocket_paths(self) -> tuple[str, ...]:
        """Paths that clients may connect to."""
        ...

    def rest_routes(self) -> Mapping[str, RestRoute]:
        """Return the REST calls by path."""
        ...

    def connected(self, query: Mapping[str, str]) -> Answer:
        """Return what the query of the WebSocket address asks for.

        Raises:
            SubscriptionError: It asks for something that is not there.
        """
        ...

    def received(self, text: str) -> Answer:
        """Return what a client's message leads to; what cannot be served is answered with the exchange's error."""
        ...

    def opening(self, topic: Topic) -> str | None:
        """Return what a new subscriber of the topic gets first, or None.

        The server calls this between steps of the market: what was rendered before is in, what comes after follows on.
        """
        ...

    def render(self, topic: Topic, event: Event) -> str:
        """Return the text of an event of the topic. Called once per topic and event, in order."""
        ...


def json_text(value: object) -> str:
    """Return JSON without spaces, as exchanges send it."""
    return json.dumps(value, separators=(",", ":"))


def event_key(event: Event) -> TopicKey:
    """Return what topics must have as their key to get the event."""
    return event.channel, event.symbol, getattr(event, "interval", "")
