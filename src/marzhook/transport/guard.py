"""Which addresses may be connected to.

Asked when the socket is about to open, after the name was resolved: an answer that changes between a check and the
connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

# RFC 6052: an IPv4 address in the last 32 bits, reached through a translator.
_NAT64 = IPv6Network("64:ff9b::/96")
# RFC 8215: the same for local use; what is behind it cannot be known.
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
# IANA's special-purpose registries have them; `ipaddress` of older Pythons takes them for global.
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv6Network("3fff::/20"), IPv6Network("5f00::/16"))
# RFC 4291 2.5.5.1, deprecated: "IPv4-compatible".
_COMPATIBLE = IPv6Network("::/96")


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

    def _allows(self, ip: IPv4Address | IPv6Address) -> bool:
        return any(ip in network for network in self._allowed if ip.version == network.version)


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
