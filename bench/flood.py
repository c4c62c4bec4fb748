"""How many requests a second the receiver can take: the same request again and again, many in one write."""

from __future__ import annotations

import selectors
import socket
import time
from urllib.parse import urlsplit

from marzhook.cli.bench import rendering
from marzhook.cli.sink import ANSWER

CONNECTIONS = 16
AT_ONCE = 8
"""Requests in one write: what is measured is the receiver, not this loop."""


def flood(url: str, seconds: float) -> float:
    """Requests answered a second."""
    address = urlsplit(url)
    made = rendering(url)(1)
    head = "".join(f"{line}\r\n" for line in made.lines)
    one = f"POST / HTTP/1.1\r\nHost: {address.netloc}\r\n{head}Content-Length: {len(made.body)}\r\n\r\n".encode()
    batch, expected = (one + made.body) * AT_ONCE, len(ANSWER) * AT_ONCE
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((address.hostname or "", address.port or 80))
        connection.sendall(batch)
        selector.register(connection, selectors.EVENT_READ, [0])
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            key.data[0] += len(key.fileobj.recv(65536))
            if key.data[0] >= expected:
                key.data[0] = 0
                done += AT_ONCE
                key.fileobj.sendall(batch)
    taken = time.perf_counter() - begun
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    selector.close()
    return done / taken
