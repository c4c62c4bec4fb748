"""Whether an address can be reached, step by step: its name, its port, its certificate. Sends nothing."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

from marzhook.cli.output import duration
from marzhook.endpoint import Endpoint
from marzhook.transport.guard import Guard

SOON = 14 * 86_400
"""Seconds before its end from which a certificate is remarked on."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reach:
    """How far one got. `problem` None: all the way."""

    words: str
    problem: str | None = None
    mend: str = ""
    remarks: tuple[str, ...] = ()


class Stopped(Exception):
    """It goes no further: why, and what to do."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.problem, self.mend = problem, mend


def reach(endpoint: Endpoint, *, timeout: float, guard: Guard, ca_file: str | None) -> Reach:
    """Resolve, connect and, for https, shake hands; each step within `timeout` seconds."""
    parts = urlsplit(endpoint.url)
    host = parts.hostname or ""
    secure = parts.scheme.lower() == "https"
    port = parts.port or (443 if secure else 80)
    remarks = []
    try:
        addresses = resolve(host, port, timeout)
        if endpoint.guarded:
            addresses = _permitted(addresses, guard)
        began = time.monotonic()
        with connect(host, addresses, port, timeout, _start(addresses[0], port)) as connection:
            took = time.monotonic() - began
            words = f"{connection.getpeername()[0]} answers on port {port} ({duration(took)})"
            if secure:
                ends = _handshake(connection, host, port, ca_file)
                words += f", certificate valid until {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}"
                if ends - time.time() < SOON:
                    remarks.append("its certificate ends soon: renew it")
            elif endpoint.secret and not _loopback(connection.getpeername()[0]):
                remarks.append("the secret travels unencrypted: use https:// where the receiver can")
    except Stopped as stop:
        return Reach("", stop.problem, stop.mend)
    return Reach(words, remarks=tuple(remarks))


def resolve(host: str, port: int, timeout: float) -> list[str]:
    """The addresses behind a name. Raises Stopped."""
    try:
        found = _within(timeout, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except TimeoutError:
        raise Stopped(
            f"nobody could say within {timeout:g} s what address {host} has",
            "Check this machine's network and its DNS server (/etc/resolv.conf).",
        ) from None
    except (OSError, UnicodeError):
        raise Stopped(
            f"there is no machine named {host}", "Check the spelling, or wait until its DNS entry is there."
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _permitted(addresses: list[str], guard: Guard) -> list[str]:
    allowed = [address for address in addresses if guard.permits(address)]
    if not allowed:
        raise Stopped(
            f"its address {addresses[0]} is not a public one, and it was made over the API, which may not use others",
            "Put it into WEBHOOK_ADDRESS instead, or allow its network with MARZHOOK_ALLOW_ADDRESSES.",
        )
    return allowed


def _start(address: str, port: int) -> str:
    mend = "Start the receiver, or correct the port in the address."
    return f"{mend} To try: `marzhook listen --port {port}`." if _loopback(address) else mend


def connect(host: str, addresses: list[str], port: int, timeout: float, start: str) -> socket.socket:
    """A connection to the first address that takes one. `start`: what to do where nothing listens. Raises Stopped."""
    failure: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=timeout)
        except OSError as error:
            failure = error
    if isinstance(failure, ConnectionRefusedError):
        raise Stopped(f"nothing listens on {host} port {port}", start)
    if isinstance(failure, TimeoutError):
        raise Stopped(
            f"{host} port {port} did not answer within {timeout:g} s",
            "Is the machine on? Does its firewall let this one in on that port?",
        )
    reason = failure.strerror if failure else "no address"
    raise Stopped(f"{host} port {port} cannot be reached: {reason}", "Check the network between the two machines.")


def _handshake(connection: socket.socket, host: str, port: int, ca_file: str | None) -> float:
    """When the certificate ends, in Unix seconds."""
    import certifi

    context = ssl.create_default_context(cafile=ca_file or certifi.where())
    try:
        with context.wrap_socket(connection, server_hostname=host) as secured:
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise Stopped(*_certificate_in_words(error, host)) from None
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            raise Stopped(
                f"{host} port {port} does not speak https", "Write http:// in the address, or the port of https."
            ) from None
        raise Stopped(
            f"{host} port {port} does not agree on https ({error.reason or error})",
            "Update the receiver's TLS settings.",
        ) from None
    except TimeoutError:
        raise Stopped(
            f"{host} port {port} takes connections, but does not answer to https",
            "Write http:// in the address, or the port of https.",
        ) from None
    except OSError as error:
        raise Stopped(
            f"{host} port {port} broke off while https was set up ({error.strerror or error})",
            "Does that port speak https? Is there a firewall in between?",
        ) from None
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _certificate_in_words(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    # OpenSSL's X509_V_ERR_… numbers.
    match error.verify_code:
        case 9:
            return f"the certificate of {host} is not valid yet", "Check the clock of this machine."
        case 10:
            return (
                f"the certificate of {host} has expired",
                "Renew it on the receiver (and check this machine's clock).",
            )
        case 18 | 19:
            return (
                f"the certificate of {host} is self-signed, so anybody could have made it",
                "Get one from a public authority (Let's Encrypt is free), or name yours in MARZHOOK_CA_FILE.",
            )
        case 20 | 21:
            return (
                f"the certificate of {host} comes from an authority that is not known here, or its chain is incomplete",
                "Let the receiver send the whole chain, or name the authority's certificate in MARZHOOK_CA_FILE.",
            )
        case 62 | 64:
            return f"the certificate is not for {host}", "Use the name in the address for which it was made."
    return f"the certificate of {host} is not accepted: {error.verify_message}", "Replace it on the receiver."


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, which cannot be told to hurry itself. Raises TimeoutError, and what `work` raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
