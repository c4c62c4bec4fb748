"""The transport against receivers that misbehave: real ones, each in its own process."""

from __future__ import annotations

import gc
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marzhook.clock import SystemClock
from marzhook.delivery import Attempt, Phases
from marzhook.request import MAX_RESPONSE, Request, Response
from marzhook.transport.http import HttpTransport
from receivers import Receiver, header_of
from tls_server import certificate, server_context, tls_receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def transport(receiver: Receiver) -> Iterator[HttpTransport]:
    receiver.do()
    receiver.forget()
    transport = HttpTransport(SystemClock())
    yield transport
    transport.close()


def request(
    url: str, *, timeout: float = 5.0, connect: float = 5.0, body: bytes = b'{"a": 1}', **headers: str
) -> Request:
    named = tuple(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())
    return Request(url, named, body, connect, timeout, guarded=False)


def collect(transport: HttpTransport, count: int, *, seconds: float = 20.0) -> dict[Any, Response]:
    deadline = time.monotonic() + seconds
    found: dict[Any, Response] = {}
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} answers"
        found.update(transport.poll(1.0))
    return found


def ask(transport: HttpTransport, url: str, **values: Any) -> Response:
    transport.send(request(url, **values), 1)
    return collect(transport, 1)[1]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- answers


def test_a_request_goes_out_as_it_was_made(receiver: Receiver, transport: HttpTransport) -> None:
    """Headers and body arrive as given, as one POST, and nothing is added but what HTTP needs."""
    assert ask(transport, receiver.url + "p?q=1", x_webhook_secret="sé", body=b"{}\n").status == 200
    (record,) = receiver.seen()
    assert (record["method"], record["path"], record["body"]) == ("POST", "/p?q=1", "{}\n")
    assert header_of(record, "x-webhook-secret") == "sé"
    names = {name.lower() for name, _ in record["headers"]}
    assert names <= {"host", "x-webhook-secret", "content-length", "content-type", "accept", "user-agent"}


def test_status_headers_and_body_come_back(receiver: Receiver, transport: HttpTransport) -> None:
    """Any status is an answer; header names are in lower case; the body is kept."""
    for status in (200, 204, 302, 403, 429, 500, 599):
        receiver.do(status=status, headers={"Retry-After": "7", "X-Ü": "ü"}, body="" if status == 204 else "why")
        response = ask(transport, receiver.url)
        assert (response.status, response.error) == (status, None)
        assert response.headers["retry-after"] == "7"
        assert response.body == (b"" if status == 204 else b"why")
        assert 0 <= response.duration < 5


def test_redirects_are_not_followed(receiver: Receiver, transport: HttpTransport) -> None:
    """A redirect is the answer: nothing is sent to where it points."""
    for status in (301, 302, 303, 307, 308):
        receiver.do(status=status, headers={"Location": receiver.url + "elsewhere"})
        assert ask(transport, receiver.url).status == status
    assert {record["path"] for record in receiver.seen()} == {"/"}


def test_connections_are_kept(receiver: Receiver, transport: HttpTransport) -> None:
    """Requests one after the other share one connection, and one that failed does not spoil the next."""
    ask(transport, receiver.url)
    before = descriptors()
    for _ in range(20):
        assert ask(transport, receiver.url).status == 200
    assert descriptors() == before
    receiver.do(mode="close", times=1)
    ask(transport, receiver.url)
    assert ask(transport, receiver.url).status == 200


# -- receivers that misbehave


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_slow_receiver_is_given_up_in_time(receiver: Receiver, transport: HttpTransport, mode: str) -> None:
    """No answer, or one that comes byte by byte, ends with `timeout` at the time that the request has."""
    receiver.do(mode=mode, every=0.05)
    response = ask(transport, receiver.url, timeout=0.4)
    assert (response.status, response.error) == (None, "timeout")
    assert 0.35 <= response.duration < 1.5
    assert "0.4 s" in response.message


def test_a_timeout_on_a_kept_connection_says_what_was_slow(receiver: Receiver, transport: HttpTransport) -> None:
    """Where the connection stood, the message does not claim that there was none."""
    ask(transport, receiver.url)
    receiver.do(mode="hang")
    assert "no complete answer" in ask(transport, receiver.url, timeout=0.2).message


def test_a_connection_that_does_not_come_about_is_given_up(transport: HttpTransport) -> None:
    """A host whose queue is full, so that it does not answer to a connection, costs the connect timeout and no more."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        response = ask(transport, f"http://127.0.0.1:{port}/", connect=0.3, timeout=5.0)
        for one in fillers:
            one.close()
    assert (response.error, response.status) == ("timeout", None)
    assert "no connection within 0.3 s" in response.message
    assert response.duration < 2


def test_a_timeout_that_rounds_to_nothing_is_still_a_timeout(receiver: Receiver, transport: HttpTransport) -> None:
    """Less than a millisecond does not become "no limit"."""
    receiver.do(mode="hang")
    assert ask(transport, receiver.url, timeout=0.0001).error == "timeout"


@pytest.mark.parametrize(
    ("mode", "errors"),
    [("reset", {"reset"}), ("close", {"reset"}), ("garbage", {"protocol", "reset"})],
)
def test_a_broken_answer_is_an_error(receiver: Receiver, transport: HttpTransport, mode: str, errors: set[str]) -> None:
    """An answer cut off, none at all, or what is not HTTP: no status, and a kind and words for it."""
    receiver.do(mode=mode)
    response = ask(transport, receiver.url)
    assert response.status is None
    assert response.error in errors
    assert response.message


def test_nobody_there(transport: HttpTransport) -> None:
    """A port where nobody listens is `connect`, a name that does not exist `dns`, at once."""
    with Receiver() as gone:
        url = gone.url
    assert ask(transport, url).error == "connect"
    assert ask(transport, "http://no-such-host.invalid/").error == "dns"


@pytest.mark.parametrize("mode", ["huge", "endless"])
def test_a_body_without_end_is_cut(receiver: Receiver, transport: HttpTransport, mode: str) -> None:
    """A gigabyte, or chunks without end, are judged by the status; 16 KiB are kept, quickly and in little memory."""
    receiver.do(mode=mode)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        response = ask(transport, receiver.url)
        assert (response.status, response.error, len(response.body)) == (200, None, MAX_RESPONSE)
        assert response.duration < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 101 X\r\n\r\n", b"hello", b"\r\n" * 10, b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \xc3\xff\x1b[2J\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-A: b\r\n" * 100_000,
    ],
)  # fmt: skip
def test_an_answer_has_a_status_or_an_error(transport: HttpTransport, answer: bytes) -> None:
    """Whatever comes, exactly one of the two is known, and heads without end are not collected."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(answer)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        response = ask(transport, f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=2.0)
        thread.join(5)
    assert (response.status is None) != (response.error is None)
    assert len(response.headers) < 10
    assert response.message.isprintable()
    assert response.message.encode().decode() == response.message


def test_no_proxy_from_the_environment(
    receiver: Receiver, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the shell names as a proxy is not asked: the guard looks at the address that is connected to."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert ask(transport, receiver.url).status == 200


# -- many, and life


def test_many_requests_at_once(receiver: Receiver, transport: HttpTransport) -> None:
    """200 requests are in flight together, and each gets its own answer."""
    receiver.do(delay=0.3)
    started = time.monotonic()
    for i in range(200):
        transport.send(request(receiver.url, body=b"%d" % i), i)
    assert transport.in_flight == 200
    found = collect(transport, 200)
    assert time.monotonic() - started < 5
    assert set(found) == set(range(200))
    assert {response.status for response in found.values()} == {200}
    assert transport.in_flight == 0
    assert {record["body"] for record in receiver.seen()} == {str(i) for i in range(200)}
    assert receiver.most_in_flight() > 100


def test_as_many_connections_are_kept_as_are_used(transport: HttpTransport) -> None:
    """Where hundreds of requests are on their way all the time, none of them has to open a connection of its own."""
    with Receiver() as busy:
        for _ in range(2):
            busy.forget()
            busy.do(hold=True)
            for i in range(400):
                transport.send(request(busy.url), i)
            deadline = time.monotonic() + 20
            while busy.most_in_flight() < 400:
                assert time.monotonic() < deadline
                transport.poll(0.01)
            busy.do()
            collect(transport, 400)
            assert busy.connections() == 400


def test_wake_ends_a_poll(transport: HttpTransport) -> None:
    """Another thread can end a poll, and a wake that came before ends the next one."""
    timer = threading.Timer(0.1, transport.wake)
    timer.start()
    started = time.monotonic()
    assert transport.poll(30.0) == []
    timer.join()
    transport.wake()
    assert transport.poll(30.0) == []
    assert time.monotonic() - started < 5


def test_reset_drops_what_is_in_flight(receiver: Receiver, transport: HttpTransport) -> None:
    """After a reset nothing of before comes back, no descriptor is left, and requests go on as ever."""
    before = descriptors()
    for _ in range(3):
        receiver.forget()
        receiver.do(mode="hang")
        for i in range(20):
            transport.send(request(receiver.url), i)
        deadline = time.monotonic() + 10
        while len(receiver.seen()) < 20:
            assert time.monotonic() < deadline
            transport.poll(0.05)
        transport.reset()
        assert transport.in_flight == 0
        receiver.do()
        assert ask(transport, receiver.url).status == 200
        assert transport.poll(0.0) == []
    gc.collect()
    assert descriptors() <= before + 5


def test_close_leaves_nothing_open(receiver: Receiver) -> None:
    """Opened, used, interrupted and closed again and again, the process holds no more descriptors than before."""
    receiver.do()
    gc.collect()
    before = descriptors()
    for _ in range(10):
        transport = HttpTransport(SystemClock())
        ask(transport, receiver.url)
        transport.send(request(receiver.url), "on its way")
        transport.poll(0.0)
        transport.close()
        del transport
    gc.collect()
    assert descriptors() <= before + 1


def test_nothing_grows(receiver: Receiver) -> None:
    """Thousands of requests, good and bad, leave neither memory nor descriptors behind, and a finished request none of
    its body."""
    # In a process of its own: what other tests left in this one's memory would hide what is looked for.
    receiver.do(body="x" * 1000)
    with Receiver() as gone:
        refused = gone.url
    script = Path(__file__).with_name("transport_growth.py")
    done = subprocess.run(
        [sys.executable, str(script), receiver.url, refused], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def phases_of(response: Response) -> Phases:
    found = Attempt(1, response.started_at, response.duration, 200, None, "", "", timing=response.timing).phases
    assert found is not None
    assert sum(found) == pytest.approx(response.duration, abs=1e-5)
    return found


def test_a_new_connection_says_what_it_took(tmp_path: Path) -> None:
    """DNS, connecting and TLS each have their share of a try that had to connect."""
    shown, key = certificate(tmp_path, "DNS:localhost")
    with tls_receiver(server_context(shown, key)) as port:
        transport = HttpTransport(SystemClock(), ca_file=str(shown))
        try:
            first = phases_of(ask(transport, f"https://localhost:{port}/"))
        finally:
            transport.close()
    assert min(first) > 0
    assert first.tls > first.dns


def test_a_connection_that_stood_already_has_nothing_but_waiting(transport: HttpTransport, receiver: Receiver) -> None:
    """The second request over a connection took no DNS and no connecting."""
    assert phases_of(ask(transport, receiver.url)).connect > 0
    response = ask(transport, receiver.url)
    assert response.timing == ""
    assert phases_of(response) == (0, 0, 0, response.duration)


def test_a_try_without_an_answer_says_where_its_time_went(transport: HttpTransport, receiver: Receiver) -> None:
    """A name that is not found took its time for DNS, a refused connection for connecting, a hung receiver for waiting."""
    unknown = phases_of(ask(transport, "http://nowhere.invalid/"))
    assert (unknown.connect, unknown.tls, round(unknown.wait, 5)) == (0, 0, 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = phases_of(ask(transport, f"http://127.0.0.1:{closed.getsockname()[1]}/"))
    assert refused.connect > 0
    assert (refused.tls, round(refused.wait, 5)) == (0, 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = phases_of(ask(transport, f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3))
    assert hung.wait > 0.25
