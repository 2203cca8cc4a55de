"""A client that sends noise, and looks at what it gets for it.

The rule of this file: an answer is a result, or one of the protocol's statuses with words for the caller; whatever else
comes back is a fault of the server.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from pyarrow import flight
from wire_noise import Noise, Sent

from tickflight.wire import WireError
from tickflight.wire.actions import parse_action_result
from tickflight.wire.streams import Live, Tail
from tickflight.wire.tickets import parse_ticket

ANSWER_S = 30.0
# what a server may say to a message that it cannot use; INTERNAL is not among them
STATUSES: dict[type[BaseException], str] = {
    pa.ArrowInvalid: "INVALID_ARGUMENT",
    pa.ArrowKeyError: "NOT_FOUND",
    pa.ArrowNotImplementedError: "UNIMPLEMENTED",
    flight.FlightUnauthorizedError: "PERMISSION_DENIED",
    flight.FlightUnauthenticatedError: "UNAUTHENTICATED",
    flight.FlightServerError: "UNKNOWN",  # of transactions
    flight.FlightCancelledError: "CANCELLED",
    flight.FlightTimedOutError: "DEADLINE_EXCEEDED",
    flight.FlightUnavailableError: "UNAVAILABLE",
}
ROWS_READ = 1000


class NoisyClient:
    """Sends messages to one server as one user, and counts what comes back; ``faults`` has what should not have.

    Args:
        forbidden: what may be in no answer: paths, tokens.
    """

    def __init__(self, address: str, seed: int, *, token: str = "", forbidden: Sequence[str] = ()) -> None:
        headers = [(b"authorization", b"Bearer " + token.encode())] if token else []
        self._options = flight.FlightCallOptions(timeout=ANSWER_S, headers=headers)
        self._client = flight.FlightClient(address)
        self._noise = Noise(seed)
        self._forbidden = ("Traceback", 'File "', "site-packages", ".py", *forbidden)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def __enter__(self) -> NoisyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, messages: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Send so many messages, fewer if ``stop`` says so."""
        for _ in range(messages):
            if stop():
                break
            self.send(self._noise.next())

    def send(self, sent: Sent) -> None:
        """Send one message, and take what comes back."""
        try:
            getattr(self, f"_{sent.rpc}")(sent)
            self.counts["OK"] += 1
        except (WireError, AssertionError) as error:
            self.faults.append(f"{sent}: an answer that cannot be read: {error}")
        except Exception as error:
            self._look(sent, error)

    def _look(self, sent: Sent, error: Exception) -> None:
        status = STATUSES.get(type(error))
        if sent.rpc == "schema" and type(error) is pa.ArrowException:
            status = "UNKNOWN"  # as pyarrow's client calls it in GetSchema
        self.counts[status or type(error).__name__] += 1
        text = str(error)
        if status is None or any(f in text for f in self._forbidden) or "Deadline Exceeded" in text:
            self.faults.append(f"{sent}: {type(error).__name__}: {text[:2000]}")

    # --- the calls

    def _descriptor(self, sent: Sent) -> flight.FlightDescriptor:
        return flight.FlightDescriptor.for_command(sent.body)

    def _info(self, sent: Sent) -> None:
        found = self._client.get_flight_info(self._descriptor(sent), self._options)
        assert found.schema is not None
        for endpoint in found.endpoints:
            self._noise.learn(ticket=endpoint.ticket.ticket)

    def _schema(self, sent: Sent) -> None:
        assert self._client.get_schema(self._descriptor(sent), self._options).schema is not None

    def _get(self, sent: Sent) -> None:
        reader = self._client.do_get(flight.Ticket(sent.body), self._options)
        rows = 0
        with suppress(StopIteration):
            while rows < ROWS_READ:
                rows += reader.read_chunk().data.num_rows
                if _never_ends(sent.body):  # rows, or a heartbeat
                    break
        reader.cancel()

    def _put(self, sent: Sent) -> None:
        schema = sent.batches[0][0].schema if sent.batches else pa.schema([])
        writer, reader = self._client.do_put(self._descriptor(sent), schema, self._options)
        try:
            for batch, note in sent.batches:
                writer.write_with_metadata(batch, pa.py_buffer(note)) if note else writer.write_batch(batch)
            writer.done_writing()
            while reader.read() is not None:
                pass
        finally:
            writer.close()

    def _action(self, sent: Sent) -> None:
        for result in self._client.do_action(flight.Action(sent.action, sent.body), self._options):
            answer: Any = parse_action_result(sent.action, result.body.to_pybytes())
            for name in ("prepared_statement_handle", "transaction_id"):
                self._noise.learn(handle=getattr(answer, name, b""))


def _never_ends(ticket: bytes) -> bool:
    try:
        return isinstance(parse_ticket(ticket), Live | Tail)
    except WireError:
        return False


def run_all(clients: Sequence[NoisyClient], messages: int) -> None:
    """Send so many messages in all, from a thread for each client."""
    threads = [threading.Thread(target=c.run, args=(messages // len(clients),)) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
