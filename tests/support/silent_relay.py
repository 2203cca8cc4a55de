"""A network between a client and a server that swallows what is sent: nobody is told that a connection is dead."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Relay:
    """A relay in front of a server, whose connections can fall silent without being closed.

    To the server they come from ``source``.
    """

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._port = port
        self._source = source
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._muted: set[socket.socket] = set()
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port), source_address=(self._source, 0))
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def fall_silent(self) -> None:
        """Swallow all that comes over the connections that there are."""
        self._muted |= set(self._sockets)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if source not in self._muted:
                    target.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        """End all connections, which lets calls over them fail."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
