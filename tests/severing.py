"""A way to a PostgreSQL server that can be cut at the worst moment: when a commit was done and its answer is on its way."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Severed:
    """Listens on `port` and passes everything on to the server's. `at_commit` counts the commits whose answers are still to
    be lost, each with its connection; `lost`, those that were."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.at_commit = 0
        self.word = b"COMMIT"
        """What to wait for in its place."""
        self.lost = 0
        self.silent = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.silent:
                    self._open.append(client)
                    continue
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open += [client, server]
                cut = threading.Event()
                threading.Thread(target=self._forth, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client, cut), daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.word in data and self.at_commit:
                    self.at_commit -= 1
                    cut.set()
                server.sendall(data)
        _end(server)

    def _back(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    self.lost += 1
                    break
                client.sendall(data)
        _end(client)
        _end(server)

    def fall_silent(self) -> None:
        """As if the host were gone: who is connected is cut off, and who comes gets no answer, and no refusal either."""
        self.silent = True
        for one in self._open:
            _end(one)

    def __enter__(self) -> Severed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._open):
            _end(one)
            one.close()


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
