"""Which addresses may be connected to.

Asked when the socket is about to open, after the name was resolved: an answer that changes between a check and the
connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import inet_aton, inet_ntoa

Network = IPv4Network | IPv6Network

# RFC 6052: an IPv4 address in the last 32 bits, reached through a translator.
_NAT64 = IPv6Network("64:ff9b::/96")
# RFC 8215: the same for local use; what is behind it cannot be known.
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
# IANA's special-purpose registries have them; `ipaddress` of older Pythons takes them for global.
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv6Network("3fff::/20"), IPv6Network("5f00::/16"))
# RFC 1918, RFC 6598 (a provider's own), RFC 4193.
_LOCAL = (
    IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/10"),
    IPv6Network("fc00::/7"),
)  # fmt: skip
# RFC 4291 2.5.5.1, deprecated: "IPv4-compatible".
_COMPATIBLE = IPv6Network("::/96")


_NOT_ALLOWED = ", and MARZHOOK_ALLOW_ADDRESSES does not allow that"
_MACHINE = "it is this machine itself" + _NOT_ALLOWED
_LINK_LOCAL = "it is link-local, where clouds keep a machine's credentials" + _NOT_ALLOWED
_PRIVATE = "it is in a private network" + _NOT_ALLOWED
_OTHER = "it is not a public address" + _NOT_ALLOWED
REASONS = (_MACHINE, _LINK_LOCAL, _PRIVATE, _OTHER)
"""Why nothing would be sent to an address, as the end of a sentence; to be translated by who shows it."""


class Guard:
    """Public addresses, and the networks that the operator allows."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def permits(self, address: str) -> bool:
        """Whether `address` (a literal, possibly with a %zone) may be connected to."""
        try:
            ip = ip_address(address.split("%")[0])
        except ValueError:
            return False
        if self._allows(ip):
            return True
        # All of them: a Teredo address names a server and a client, and one that is allowed does not vouch for the other.
        return _public(ip) and all(self._allows(form) or _public(form) for form in _embedded(ip))

    def refusal(self, host: str) -> str | None:
        """Why nothing would be sent to this host of a URL, one of REASONS; None for what is permitted, and for names, which
        are asked about when they were resolved."""
        found = _literal(host)
        refused = [address for address in found if not self.permits(address)]
        # `localhost` has two addresses, and one is enough.
        return _reason(refused[0]) if refused and len(refused) == len(found) else None

    def _allows(self, ip: IPv4Address | IPv6Address) -> bool:
        return any(ip in network for network in self._allowed if ip.version == network.version)


def _literal(host: str) -> list[str]:
    """The addresses that libcurl connects to without asking anybody; none: it is a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return ["127.0.0.1", "::1"]
    with suppress(ValueError):
        ip_address(host.split("%")[0])
        return [host]
    with suppress(OSError):
        # 127.1, 0x7f000001 and 2130706433 are spellings of an IPv4 address.
        return [inet_ntoa(inet_aton(host))]
    return []


def _reason(address: str) -> str:
    ip = ip_address(address.split("%")[0])
    forms = [*_embedded(ip), ip]
    # Linux connects to the unspecified address as to itself.
    if any(form.is_loopback or form.is_unspecified for form in forms):
        return _MACHINE
    if any(form.is_link_local for form in forms):
        return _LINK_LOCAL
    local = any(form in network for form in forms for network in _LOCAL if form.version == network.version)
    return _PRIVATE if local else _OTHER


def _embedded(ip: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if isinstance(ip, IPv4Address):
        return []
    low = IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    if ip.sixtofour is not None:
        return [ip.sixtofour]
    if ip.teredo is not None:
        return list(ip.teredo)
    if ip in _NAT64 or ip in _COMPATIBLE:
        return [low]
    return []


def _public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv6Address):
        if ip in _NAT64_LOCAL or ip in _COMPATIBLE or ip.is_site_local:
            return False
        # Its own registry entry says "not global"; where it leads was checked as an embedded address.
        if ip.ipv4_mapped is not None or ip.sixtofour is not None or ip in _NAT64:
            return True
    if any(ip in network for network in _SPECIAL if ip.version == network.version):
        return False
    return ip.is_global and not (
        ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    )
