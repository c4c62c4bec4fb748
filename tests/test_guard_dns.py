"""Names that lie: what is judged is the address that is connected to, whatever the name meant a moment before.

The look-ups are real ones. libcurl can ask a name server over HTTPS, and one that is ours needs no rights and no change to
the machine: it answers each question as the test says, with a time to live of 0. 127.0.0.2 stands for a public address (it
is the one that is allowed), 127.0.0.1 for what must not be reached.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pycurl
import pytest

from marzhook.clock import SystemClock
from marzhook.delivery import Delivery
from marzhook.destinations.kinds import destination
from marzhook.event import Event
from marzhook.request import Request, Response
from marzhook.store import endpoints
from marzhook.transport.guard import Guard
from marzhook.transport.http import HttpTransport, _Pool
from tls_server import certificate, server_context

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
A, AAAA = 1, 28


class Server(ThreadingHTTPServer):
    """A server on a thread of its own, which knows who has come."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.came = 0
        """Connections, also those that sent nothing."""
        super().__init__(address, handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def get_request(self) -> Any:
        self.came += 1
        return super().get_request()

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join(5)
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Whoever hangs up has his reasons."""


class Place(Server):
    """A receiver at one address. `redirect`: where it sends everybody."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.requests: list[list[tuple[str, str]]] = []
        self.redirect: str | None = None
        super().__init__((host, port), _Answer)

    def connections(self) -> int:
        """How many there were so far. Ours comes after all of them, and connections are taken in their order."""
        connection = http.client.HTTPConnection(str(self.server_address[0]), self.server_port, timeout=5)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
        self.came -= 1
        return self.came


class _Answer(BaseHTTPRequestHandler):
    server: Place

    def do_POST(self) -> None:
        self.server.requests.append(self.headers.items())
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(302 if self.server.redirect else 200)
        if self.server.redirect:
            self.send_header("Location", self.server.redirect)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class NameServer(Server):
    """Answers questions over HTTPS (RFC 8484). `say`: the addresses of each look-up in turn, the last one for ever."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._answers: list[tuple[str, ...]] = []
        self.asked = {A: 0, AAAA: 0}
        super().__init__(("127.0.0.1", 0), _Resolve)
        self.socket = server_context(certificate, key).wrap_socket(self.socket, server_side=True)

    def say(self, *answers: tuple[str, ...]) -> None:
        self._answers, self.asked = list(answers), {A: 0, AAAA: 0}

    def answer(self, question: bytes) -> bytes:
        """The whole message; RFC 1035 section 4."""
        kind = int.from_bytes(question[-4:-2], "big")
        turn = min(self.asked[kind], len(self._answers) - 1)
        self.asked[kind] += 1
        found = [ip_address(text).packed for text in self._answers[turn]]
        found = [packed for packed in found if len(packed) == (4 if kind == A else 16)]
        head = question[:2] + b"\x81\x80\x00\x01" + len(found).to_bytes(2, "big") + bytes(4) + question[12:]
        # The name (a pointer to the question's), type, class IN, time to live 0.
        record = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\x00\x01" + bytes(4)
        return head + b"".join(record + len(packed).to_bytes(2, "big") + packed for packed in found)


class _Resolve(BaseHTTPRequestHandler):
    server: NameServer

    def do_POST(self) -> None:
        message = self.server.answer(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/dns-message")
        self.send_header("Content-Length", str(len(message)))
        self.end_headers()
        self.wfile.write(message)

    def log_message(self, *_: Any) -> None:
        pass


class AskingTransport(HttpTransport):
    """The transport as it is, but for whom it asks about names."""

    def __init__(self, names: NameServer, ca_file: Path) -> None:
        self._names = f"https://127.0.0.1:{names.server_port}/"
        super().__init__(SystemClock(), allowed=[ip_network(f"{PUBLIC}/32")], ca_file=str(ca_file))

    def _pools(self) -> tuple[_Pool, _Pool]:
        pools = tuple(
            AskingPool(self._clock, self._sockets, self._ca_file, guard) for guard in (None, Guard(self._allowed))
        )
        for pool in pools:
            pool.names = self._names
        return pools[0], pools[1]


class AskingPool(_Pool):
    names = ""

    def _handle(self) -> Any:
        curl = super()._handle()
        curl.setopt(pycurl.DOH_URL, self.names)
        curl.setopt(pycurl.DNS_CACHE_TIMEOUT, 0)
        return curl


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("names"))


@pytest.fixture
def names(shown: tuple[Path, Path]) -> Iterator[NameServer]:
    with NameServer(*shown) as names:
        yield names


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    """A receiver at the public address, and one at the private address on the same port."""
    with ExitStack() as stack:
        public = Place(PUBLIC)
        stack.enter_context(public)
        private = Place(PRIVATE, public.server_port)
        stack.enter_context(private)
        yield public, private


@pytest.fixture
def transport(names: NameServer, shown: tuple[Path, Path]) -> Iterator[HttpTransport]:
    transport = AskingTransport(names, shown[0])
    yield transport
    transport.close()


def ask(transport: HttpTransport, url: str, *, guarded: bool = True) -> Response:
    transport.send(Request(url, (), b"{}", 5.0, 5.0, guarded), "token")
    while True:
        for _, response in transport.poll(5):
            return response


# -- the name server changes its mind


def test_a_name_that_changes_its_meaning_gains_nothing(
    names: NameServer, places: tuple[Place, Place], transport: HttpTransport
) -> None:
    """A name that was public at the first look-up and is loopback at the next one is refused, and nothing connects there;
    public once more, it is reached again."""
    public, private = places
    names.say((PUBLIC,), (PRIVATE,), (PUBLIC,))
    url = f"http://rebind.example:{public.server_port}/"
    assert ask(transport, url).status == 200
    response = ask(transport, url)
    assert (response.status, response.error) == (None, "refused_address")
    assert response.message.startswith(PRIVATE)
    assert ask(transport, url).status == 200
    assert names.asked[A] == 3
    assert (public.connections(), private.connections()) == (2, 0)


def test_each_address_of_an_answer_is_judged(
    names: NameServer, places: tuple[Place, Place], transport: HttpTransport
) -> None:
    """Of several addresses in one answer, in any order, only those that may be connected to are tried."""
    public, private = places
    url = f"http://mixed.example:{public.server_port}/"
    for answer in ((PRIVATE, PUBLIC), (PUBLIC, PRIVATE), ("::1", PUBLIC), ("::ffff:127.0.0.1", PRIVATE, PUBLIC)):
        names.say(answer)
        assert ask(transport, url).status == 200, answer
    names.say((PRIVATE, "::1", "::ffff:127.0.0.1"))
    assert ask(transport, url).error == "refused_address"
    assert (public.connections(), private.connections()) == (4, 0)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "10.0.0.1", "100.64.0.1", "169.254.169.254", "::", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::"]
)  # fmt: skip
def test_a_name_of_a_private_address_is_refused(names: NameServer, transport: HttpTransport, address: str) -> None:
    """A name that means an address inside, in whatever form, is refused with that address in the message."""
    names.say((address,))
    response = ask(transport, "http://inside.example/")
    assert response.error == "refused_address"
    assert ip_address(response.message.split()[0]) == ip_address(address)


def test_the_environments_names_may_mean_anything(
    names: NameServer, places: tuple[Place, Place], transport: HttpTransport
) -> None:
    """Who writes the settings may name a host inside; that opens nothing to the others."""
    public, private = places
    names.say((PRIVATE,))
    url = f"http://panel.internal:{public.server_port}/"
    assert ask(transport, url, guarded=False).status == 200
    assert ask(transport, url).error == "refused_address"
    assert private.connections() == 1


# -- other ways round the guard


def test_a_redirect_to_loopback_is_not_followed(places: tuple[Place, Place], transport: HttpTransport) -> None:
    """A receiver that may be reached cannot send us to one that may not: its redirect is the answer."""
    public, private = places
    public.redirect = f"http://{PRIVATE}:{private.server_port}/"
    response = ask(transport, f"http://{PUBLIC}:{public.server_port}/")
    assert (response.status, response.headers["location"]) == (302, public.redirect)
    assert private.connections() == 0


def test_a_proxy_of_the_environment_does_not_connect_for_us(
    places: tuple[Place, Place], transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reachable proxy in the environment, guarded requests go straight to their receiver, or are refused."""
    public, private = places
    with Place(PUBLIC) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{PUBLIC}:{proxy.server_port}")
        assert ask(transport, f"http://{PRIVATE}:{private.server_port}/").error == "refused_address"
        assert ask(transport, f"http://{PUBLIC}:{public.server_port}/").status == 200
        assert proxy.connections() == 0
    assert (public.connections(), private.connections()) == (1, 0)


# -- header injection

BREAKS = [
    "\r\nX-Evil: 1", "\nX-Evil: 1", "\rX-Evil: 1", "\0", "\t", "\x0b", "\x7f", "\x85", " ", "\u2028",
    "\u010a\u010d",  # whose low bytes are line breaks
]  # fmt: skip


@pytest.mark.parametrize("text", BREAKS)
def test_headers_cannot_be_injected_over_the_api(api: Api, text: str) -> None:
    """A line break, or what some decoder makes one of, is refused in URL and secret, when it is made and when changed."""
    good = api.post("/api/v1/endpoints", json={"url": "https://shop.example/", "secret": "s"}).json()["id"]
    for values, code in (
        ({"url": f"https://shop.example/a{text}b"}, "invalid_url"),
        ({"url": f"https://user{text}:p@shop.example/"}, "invalid_url"),
        ({"url": f"https://shop.example{text}/"}, "invalid_url"),
        *([({"secret": f"a{text}b"}, "invalid_secret")] if text != " " else []),
    ):
        for answer in (
            api.post("/api/v1/endpoints", json={"url": "https://shop.example/", **values}),
            api.call("PATCH", f"/api/v1/endpoints/{good}", json=values),
        ):
            assert (answer.status_code, answer.json()["code"]) == (422, code), values


def test_what_is_accepted_stays_in_its_place(api: Api, places: tuple[Place, Place], transport: HttpTransport) -> None:
    """Percent-encoded line breaks in user, password, path and query, and a secret full of punctuation, arrive as no header
    of their own."""
    public, _ = places
    evil = "%0d%0aX-Evil:%201"
    url = f"http://u{evil}:p{evil}@{PUBLIC}:{public.server_port}/a{evil}?b={evil}"
    secret = 'a\\r\\nX-Evil: 1; b="%0d%0a",c:'
    allowing = replace(api.services.settings, allow_addresses=(ip_network(f"{PUBLIC}/32"),))
    there = api.over(replace(api.services, settings=allowing))
    made = there.post("/api/v1/endpoints", json={"url": url, "secret": secret, "secret_mode": "plain"})
    assert made.status_code == 201
    with api.services.database.read() as conn:
        endpoint = endpoints.get(conn, made.json()["id"])
    assert endpoint.guarded
    target, now = destination(endpoint, instance="test"), SystemClock().now()
    event = Event(1, "user_created", "u", now.timestamp())
    transport.send(target.request([target.item(Delivery(1, event), now)], [1], now, mode="plain"), "token")
    while not (done := transport.poll(5)):
        pass
    assert done[0][1].status == 200
    [headers] = public.requests
    assert "x-evil" not in {name.lower() for name, _ in headers}
    assert [value for name, value in headers if name.lower() == "x-webhook-secret"] == [secret]
