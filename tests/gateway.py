"""What stands before a service on a bad day: passes bytes on, keeps answers back, or has lost it and answers in its place."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

LOST = "HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad"


class Gateway:
    """On a port of its own, before this one."""

    def __init__(self, behind: int, lost: str = "502 Bad Gateway") -> None:
        """`lost`: what it answers where it has lost the service."""
        self._behind = behind
        self._answer = (LOST % lost).encode()
        self._lost = False
        self._passing = threading.Event()
        self._passing.set()
        self.asked: list[str] = []
        """First lines of requests, each alone on its way."""
        self.told = 0
        """Changes that pages were told of."""
        self._posting = set[socket.socket]()
        self._streams = set[socket.socket]()
        self._forgotten = set[socket.socket]()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def loses(self) -> None:
        """Cuts what is open, and answers in its place from now on."""
        self._lost = True
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def finds(self) -> None:
        self._lost = False

    def posted(self, after: int) -> list[str]:
        """Of `asked`, without the first ones, the forms."""
        return [line for line in self.asked[after:] if line.startswith("POST ")]

    @property
    def streams(self) -> int:
        """Of pages that follow along: those that are open."""
        return len(self._streams)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Forms get through, and their answers when the block has ended."""
        self._passing.clear()
        try:
            yield
        finally:
            self._passing.set()

    def forgets(self) -> None:
        """The pages' streams: they stay open, and nobody hears any more what is said on them."""
        self._forgotten |= self._streams

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self._lost:
                client.recv(65536)
                client.sendall(self._answer)
                return
            with socket.create_connection(("127.0.0.1", self._behind)) as service:
                self._open += (client, service)

                def asks(data: bytes) -> bool:
                    line = data.partition(b"\r\n")[0].decode("latin-1")
                    for start, group in (("POST ", self._posting), ("GET /live?", self._streams)):
                        (group.add if line.startswith(start) else group.discard)(client)
                    self.asked.append(line)
                    return True

                def answers(data: bytes) -> bool:
                    if client in self._posting:
                        self._passing.wait()
                    self.told += data.count(b"event: change")
                    return client not in self._forgotten

                threading.Thread(target=_pump, args=(client, service, asks), daemon=True).start()
                _pump(service, client, answers)
                self._streams.discard(client)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.loses()


def _pump(source: socket.socket, target: socket.socket, passes: Callable[[bytes], bool]) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if passes(data):
                target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
