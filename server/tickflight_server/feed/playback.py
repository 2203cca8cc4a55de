"""Recorded exchange messages through cryptofeed's handlers into a server: ``tickflight-server replay PATH…``.

The rule of this file: a recording is played by cryptofeed's own playback of the release that made it, through the same
backends as live events; a row is written for every callback, and the result says so by channel.

    release   a recording is                                             named
    2.4.1     a folder, or its files: EXCHANGE.0, EXCHANGE.ws.N.0, …     EXCHANGE.* of text
    3.x       one capture file, with EXCHANGE.meta.json beside it        *.pcap, *.pcap.zst
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from tickflight_server.errors import InputError, NotFoundError, UnsupportedError
from tickflight_server.feed import compat
from tickflight_server.feed.backend import Tickflight
from tickflight_server.feed.backends import BACKENDS, backend_for
from tickflight_server.feed.handlers import exchange_class

LOG = structlog.get_logger(__name__)

Observe = Callable[[str, Any, Any], None]
"""Sees channel, object and time of receipt of every callback, before it is kept."""

_TEXT_NAME = re.compile(r"^(?P<exchange>[A-Z0-9_.]+?)(\.(ws|http)\.\d+)?\.\d+$")
_PCAP_SUFFIXES = (".pcap", ".pcap.zst")


@dataclass(frozen=True)
class Recording:
    """What is played in one piece: the files of one exchange (2.4.1), or one capture (3.x)."""

    exchange: str | None
    files: tuple[Path, ...]
    major: int


@dataclass
class ReplayResult:
    """What a replay did. ``rows`` are acknowledged rows by channel, ``rejected`` those in table ``rejected``."""

    messages: int = 0
    callbacks: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every callback became a row."""
        return self.callbacks == self.rows and not any(self.failed.values())


def replay(
    paths: Sequence[Path | str],
    address: str | None = None,
    *,
    embedded: Any = None,
    observe: Observe | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> ReplayResult:
    """Play all recordings found at ``paths``, one after the other, and wait until their rows are durable. Blocks.

    ``options`` are those of ``Tickflight``; ``config`` is cryptofeed's own, for channels that need credentials.

    Raises:
        NotFoundError: a path does not exist or holds no recording, or its exchange is unknown.
        UnsupportedError: the recording is of the other release of cryptofeed.
        InputError: playing it failed; the message says where.
    """
    recordings = find_recordings(paths)
    _check_readable(recordings)
    result = ReplayResult()
    options = {"gaps": False} | options  # recordings of different days, one after the other, are no hole of a feed
    backends = {channel: backend_for(channel, address, embedded=embedded, **options) for channel in BACKENDS}
    settings = dict(compat.QUIET_CONFIG) | dict(config or {})
    for backend in backends.values():
        backend.start()  # held until the end, so that the collector lives from one recording to the next
    try:
        for recording in recordings:
            _play(recording, backends, observe, settings, result)
    finally:
        for backend in backends.values():
            backend.close()
    for channel, backend in backends.items():
        metrics = backend.get_metrics()
        for counts, name in ((result.rows, "acknowledged"), (result.rejected, "rejected"), (result.failed, "failed")):
            if metrics[name]:
                counts[channel] = metrics[name]
    return result


def play(
    paths: Sequence[Path | str], callbacks: Mapping[str, Any], *, config: Mapping[str, Any] | None = None
) -> ReplayResult:
    """Play all recordings found at ``paths`` to ``callbacks`` by channel, which have a ``start`` as backends do.

    Nothing is stored by it and nothing waited for: ``rows`` stays empty. Raises what ``replay`` does.
    """
    recordings = find_recordings(paths)
    _check_readable(recordings)
    result = ReplayResult()
    for recording in recordings:
        _play(recording, callbacks, None, dict(compat.QUIET_CONFIG) | dict(config or {}), result)
    return result


def find_recordings(paths: Sequence[Path | str]) -> list[Recording]:
    """Return the recordings at ``paths``: folders of recordings, recordings, or their files."""
    found: list[Recording] = []
    for path in map(Path, paths):
        if not path.exists():
            raise NotFoundError(f"no such file or folder: {path}.", hint="A recording is a folder or its files.")
        here = list(_recordings_of([path])) if path.is_file() else list(_recordings_in(path))
        if not here:
            raise NotFoundError(
                f"no recording in {path}.",
                hint="Expected EXCHANGE.0 with EXCHANGE.ws.N.0 (cryptofeed 2.4.1) or *.pcap.zst (3.x).",
            )
        found.extend(here)
    return _joined(found)


def _recordings_in(folder: Path) -> Iterator[Recording]:
    yield from _recordings_of(sorted(child for child in folder.iterdir() if child.is_file()))
    for child in sorted(child for child in folder.iterdir() if child.is_dir()):
        yield from _recordings_of(sorted(each for each in child.iterdir() if each.is_file()))


def _recordings_of(files: Iterable[Path]) -> Iterator[Recording]:
    by_exchange: dict[str, list[Path]] = {}
    for path in files:
        if path.name.endswith(_PCAP_SUFFIXES):
            yield Recording(None, (path,), 3)
        elif (match := _TEXT_NAME.match(path.name)) is not None:
            by_exchange.setdefault(match["exchange"], []).append(path)
    for exchange, members in by_exchange.items():
        yield Recording(exchange, tuple(sorted(members, key=_file_order)), 2)


def _joined(recordings: Sequence[Recording]) -> list[Recording]:
    """Put files that were named one by one together again: those of one exchange in one folder are one recording."""
    joined: dict[Any, Recording] = {}
    for recording in recordings:
        key = (recording.exchange, recording.files[0].parent) if recording.exchange else recording.files
        files = tuple(dict.fromkeys([*joined[key].files, *recording.files])) if key in joined else recording.files
        joined[key] = Recording(recording.exchange, tuple(sorted(files, key=_file_order)), recording.major)
    return list(joined.values())


def _file_order(path: Path) -> tuple[Any, ...]:
    """Order configuration and symbols first, then the connections by number."""
    match = _TEXT_NAME.match(path.name)
    connection = match is not None and match[2] is not None
    return connection, tuple(int(part) if part.isdigit() else -1 for part in path.name.split(".")), path.name


def _check_readable(recordings: Sequence[Recording]) -> None:
    mine = 3 if compat.MAJOR >= 3 else 2
    for recording in recordings:
        if recording.major != mine:
            form = {2: "text files of cryptofeed 2.4.1", 3: "a pcap capture of cryptofeed 3.x"}[recording.major]
            needs = {2: "Python 3.11 or 3.12 with cryptofeed 2.4.1", 3: "Python 3.13 with cryptofeed 3.x"}[
                recording.major
            ]
            raise UnsupportedError(
                f"{recording.files[0]} is of {form}, and cryptofeed {compat.VERSION} is installed.",
                hint=f"Use {needs}.",
            )


def _play(
    recording: Recording,
    backends: Mapping[str, Any],
    observe: Observe | None,
    config: dict[str, Any],
    result: ReplayResult,
) -> None:
    callbacks: dict[str, Any] = {
        channel: backend if observe is None else _Observed(channel, backend, observe)
        for channel, backend in backends.items()
    }
    play = _play_text if recording.major == 2 else _play_capture
    for name, messages, called in play(recording, callbacks, config):
        LOG.info("replayed", recording=name, messages=messages, callbacks=called)
        result.messages += messages
        for channel, count in called.items():
            result.callbacks[channel] = result.callbacks.get(channel, 0) + count


Played = Iterator[tuple[str, int, dict[str, int]]]


def _play_text(recording: Recording, callbacks: Mapping[str, Any], config: dict[str, Any]) -> Played:
    assert recording.exchange is not None, "text recordings are grouped by exchange"
    handler = _handler(recording.exchange, recording.files[0])
    handler = _where_recorded(handler, None, _recorded_url(recording.files))
    for backend in callbacks.values():
        backend.start()  # 2.4.1's playback stops backends and never starts them
    with compat.in_place_of(recording.exchange, handler):
        try:
            files = [_FileName(path.resolve()) for path in recording.files]
            messages, called = compat.play_text(recording.exchange, files, callbacks, config)
        except Exception as error:
            raise _failed(recording.files[0].parent, error) from error
    yield recording.exchange, messages, called


def _play_capture(recording: Recording, callbacks: Mapping[str, Any], config: dict[str, Any]) -> Played:
    files = [str(path) for path in recording.files]
    try:
        addresses = compat.capture_addresses(compat.read_capture(files))
    except Exception as error:
        raise _failed(recording.files[0], error) from error
    for exchange, (socket, url) in addresses.items():
        handler = _where_recorded(_handler(exchange, recording.files[0]), socket, url)
        with compat.in_place_of(exchange, handler):
            try:
                messages, called = compat.play_capture(files, exchange, callbacks, config)
            except Exception as error:
                raise _failed(recording.files[0], error) from error
        yield exchange, messages, called


def _handler(exchange: str, where: Path) -> type:
    try:
        return exchange_class(exchange)
    except Exception as error:
        hint = getattr(error, "hint", None)
        raise NotFoundError(f"{where}: cryptofeed {compat.VERSION} has no exchange {exchange!r}.", hint=hint) from None


def _failed(where: Path, error: Exception) -> InputError:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return InputError(f"{where}: playing it failed: {text}.", hint="What was called back until then is stored.")


def _recorded_url(files: Sequence[Path]) -> str | None:
    """Return the address of the first REST call of a text recording."""
    for path in files:
        if ".http." in path.name:
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.startswith("http"):
                        return line.split(" -> ", 1)[0]
    return None


def _where_recorded(handler: type, socket: str | None, url: str | None) -> type:
    """Return ``handler``, moved to where the recording was made if that is not one of its own hosts.

    Playback finds what was recorded by whole addresses, and a sandbox or relay may have given them.
    """
    sockets, rests = compat.hosts(handler)
    websocket = None if socket is None or urlsplit(socket).netloc in sockets else _base(socket)
    rest = None if url is None or urlsplit(url).netloc in rests else _base(url)
    return (
        handler
        if websocket is None and rest is None
        else compat.with_endpoints(handler, websocket=websocket, rest=rest)
    )


def _base(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


class _FileName(str):
    """A path that 2.4.1's playback reads rightly.

    It looks for "ws", "http" and exchanges' names anywhere in the path; folders must not count.
    """

    __slots__ = ()

    def __contains__(self, part: object) -> bool:
        return isinstance(part, str) and part in self.rsplit("/", 1)[-1]


class _Observed:
    """A backend with an onlooker."""

    def __init__(self, channel: str, backend: Tickflight, observe: Observe) -> None:
        self._channel = channel
        self._backend = backend
        self._observe = observe
        self.start = backend.start
        self.start_writer = backend.start_writer
        self.begin_shutdown = backend.begin_shutdown
        self.stop = backend.stop

    async def __call__(self, obj: Any, receipt_timestamp: Any) -> None:
        self._observe(self._channel, obj, receipt_timestamp)
        await self._backend(obj, receipt_timestamp)
