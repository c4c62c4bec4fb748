"""Serving the API: uvicorn on a thread of its own, so that the main thread is free for signals."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import uvicorn

from marzhook.errors import StartError

log = logging.getLogger(__name__)

GRACE = 10
"""Seconds that requests in progress have to end when the service stops."""


class Server:
    """Binds at once (so that a port in use is noticed before anything starts), serves between `start` and `stop`."""

    def __init__(self, app: Any, host: str, port: int, *, proxies: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        """`proxies`: who is believed about where a request comes from."""
        self._socket = _bind(host, port)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE, server_header=False, lifespan="off",
            ws="none", forwarded_allow_ips=list(_believed(proxies)),
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="api", daemon=True)

    @property
    def address(self) -> str:
        """`http://host:port` as one types it into a browser."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def own_address(self) -> str:
        """The same for programs on this machine: one that listens everywhere is found on loopback."""
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what is replaced
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(GRACE + 5)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def _believed(proxies: Iterable[IPv4Network | IPv6Network]) -> Iterator[str]:
    """As uvicorn takes them; a socket for both shows IPv4 addresses in the form of IPv6."""
    for network in proxies:
        yield str(network)
        if isinstance(network, IPv4Network):
            yield f"::ffff:{network.network_address}/{96 + network.prefixlen}"


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; set UVICORN_HOST or UVICORN_PORT to others",
            code="address_unusable",
        ) from None
    return bound
