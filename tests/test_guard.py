"""Which addresses endpoints of the API may reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from marzhook.clock import SystemClock
from marzhook.request import Request, Response
from marzhook.transport.guard import REASONS, Guard
from marzhook.transport.http import HttpTransport
from receivers import Receiver

REFUSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.127.255.255", "169.254.169.254", "169.254.0.1", "192.0.0.8", "192.0.0.192", "3fff::1", "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1", "203.0.113.5", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::8.8.8.8", "fe80::1", "fe80::1%eth0", "fd00::1", "fd00:ec2::254", "fc00::1", "fec0::1",
    "ff02::1", "ff0e::1", "100::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:100.64.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a00:1::1",
    "2002:a9fe:a9fe::", "2001:0:808:808::f5ff:fffe", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "4000::1",
    "", "localhost", "127.1", "0x7f000001", "2130706433", "8.8.8.8.8", "/run/socket",
]  # fmt: skip
PERMITTED = [
    "8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "2606:4700:4700::1111",
    "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    """Loopback, private, shared, link-local, metadata, multicast, reserved, and whatever leads there, is refused."""
    assert not Guard().permits(address)


@pytest.mark.parametrize("address", PERMITTED)
def test_public_addresses_are_permitted(address: str) -> None:
    """Public addresses, also where they are embedded in IPv6, may be connected to."""
    assert Guard().permits(address)


def test_the_operator_can_allow_networks() -> None:
    """An allowed network is reached in each of its forms; its neighbours are not."""
    guard = Guard([ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"), ip_network("127.0.0.1/32")])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "127.0.0.1", "64:ff9b::10.1.2.3", "8.8.8.8"):
        assert guard.permits(address), address
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:2::5", "127.0.0.2", "::1", "169.254.169.254"):
        assert not guard.permits(address), address


@pytest.mark.parametrize(
    ("host", "words"),
    [
        *((host, "this machine itself") for host in ("127.0.0.1", "::1", "127.1", "2130706433", "0x7f000001", "0.0.0.0")),
        *((host, "this machine itself") for host in ("localhost", "a.localhost", "::ffff:127.0.0.1", "64:ff9b::7f00:1")),
        *((host, "link-local") for host in ("169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254")),
        *((host, "a private network") for host in ("10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "2002:a00:1::1")),
        *((host, "not a public address") for host in ("240.0.0.1", "224.0.0.1", "2001:db8::1", "fec0::1")),
    ],
)  # fmt: skip
def test_a_refusal_names_the_network_and_the_setting(host: str, words: str) -> None:
    """Also in the spellings that only libcurl takes for an address; what is public, or a name, is asked about later."""
    reason = Guard().refusal(host)
    assert reason in REASONS
    assert words in reason
    assert "MARZHOOK_ALLOW_ADDRESSES" in reason
    assert Guard([ip_network("0.0.0.0/0"), ip_network("::/0")]).refusal(host) is None
    for fine in ("8.8.8.8", "2606:4700:4700::1111", "shop.example", "localhost.example", ""):
        assert Guard().refusal(fine) is None


@pytest.mark.parametrize("network", ["127.0.0.0/8", "::1/128"])
def test_one_address_of_localhost_is_enough(network: str) -> None:
    """libcurl tries both, and connects to the one that it may."""
    assert Guard([ip_network(network)]).refusal("localhost") is None


def test_an_allowed_address_does_not_vouch_for_another() -> None:
    """A Teredo address whose server is allowed is still refused where its client is loopback, and so the other way round."""
    guard = Guard([ip_network("10.0.0.0/8")])
    assert not guard.permits("2001:0:a00:1::80ff:fffe")  # server 10.0.0.1, client 127.0.0.1
    assert not guard.permits("2001:0:7f00:1::f5ff:fffe")  # server 127.0.0.1, client 10.0.0.1


# -- in the transport


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    transport = HttpTransport(SystemClock())
    yield transport
    transport.close()


def ask(transport: HttpTransport, url: str, *, guarded: bool) -> Response:
    transport.send(Request(url, (), b"{}", 2.0, 2.0, guarded), "token")
    while True:
        for _, response in transport.poll(5):
            return response


def test_a_guarded_request_does_not_use_an_open_connection(receiver: Receiver, transport: HttpTransport) -> None:
    """Where an unguarded request has left a connection to the same place, a guarded one is refused and sends nothing."""
    receiver.forget()
    assert ask(transport, receiver.url, guarded=False).status == 200
    response = ask(transport, receiver.url, guarded=True)
    assert (response.status, response.error) == (None, "refused_address")
    assert "127.0.0.1" in response.message
    assert ask(transport, receiver.url, guarded=False).status == 200
    assert len(receiver.seen()) == 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0"])
def test_every_name_of_loopback_is_refused(receiver: Receiver, transport: HttpTransport, host: str) -> None:
    """What counts is the address that would be connected to, not how it is written."""
    receiver.forget()
    response = ask(transport, f"http://{host}:{receiver.port}/", guarded=True)
    assert response.error == "refused_address"
    assert receiver.seen() == []


def test_an_allowed_network_is_reached(receiver: Receiver) -> None:
    """With the address allowed, a guarded request goes through, again and again over one connection."""
    transport = HttpTransport(SystemClock(), allowed=[ip_network("127.0.0.0/8")])
    try:
        for _ in range(3):
            assert ask(transport, receiver.url, guarded=True).status == 200
    finally:
        transport.close()


def test_wake_does_nothing_after_close() -> None:
    """A publisher that comes late does not write into whatever has the descriptor's number by then."""
    transport = HttpTransport(SystemClock())
    transport.close()
    thread = threading.Thread(target=transport.wake)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
