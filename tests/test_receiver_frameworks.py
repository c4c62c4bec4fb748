"""The receiver kit behind every framework, each with its real server on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from framework_process import FrameworkReceiver
from marzhook import signing
from marzhook.testing import eventually, webhook_request
from receiver_frameworks import MAX_BODY, NAMES

KEY, PRIVATE, PLAIN = signing.new_secret(), signing.new_private_key(), "geheimnis-ü"


@pytest.fixture(scope="module", params=NAMES)
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrameworkReceiver]:
    folder = tmp_path_factory.mktemp(request.param)
    with FrameworkReceiver(request.param, folder, KEY, signing.public_part(PRIVATE), PLAIN) as found:
        yield found


def event(username: str, action: str = "user_created", **fields: Any) -> dict[str, Any]:
    return {"action": action, "username": username, **fields}


def of(receiver: FrameworkReceiver, username: str) -> list[tuple[str, str, str, int | None]]:
    return [effect for effect in receiver.effects() if effect[1] == username]


@pytest.mark.parametrize("format", ["event", "list", "standard"])
def test_takes_an_event_once(receiver: FrameworkReceiver, format: str) -> None:
    """A signed request is accepted, its effect is there when it is answered, and the next try is a duplicate."""
    username = f"{format} کاربر"
    number = ["event", "list", "standard"].index(format) + 1_000_000
    first = webhook_request(event(username), secret=KEY, format=format, first_id=number)
    assert receiver.post(first.headers, first.body) == (200, {"results": {"done": 1}})
    assert len(of(receiver, username)) == 1
    fields = {"enqueued_at": json.loads(first.body)[0]["enqueued_at"]} if format == "list" else {}
    again = webhook_request(event(username, **fields), secret=KEY, format=format, first_id=number, tries=1)
    assert receiver.post(again.headers, again.body) == (200, {"results": {"duplicate": 1}})
    assert len(of(receiver, username)) == 1


def test_takes_every_proof(receiver: FrameworkReceiver) -> None:
    """ed25519, the HMAC, and a raw secret beyond ASCII, in Latin-1 and in UTF-8, pass through the framework's headers."""
    for how in ({"secret": PRIVATE}, {"secret": PLAIN}, {"secret": PLAIN, "hmac": True}):
        request = webhook_request(event("proven"), **how)
        assert receiver.post(request.headers, request.body)[0] == 200, how
    request = webhook_request(event("proven"), secret=PLAIN)
    request.headers["x-webhook-secret"] = PLAIN.encode().decode("latin-1")
    assert receiver.post(request.headers, request.body)[0] == 200
    assert len(of(receiver, "proven")) == 4


def test_answers_a_list_by_its_items(receiver: FrameworkReceiver) -> None:
    """The good events of a list are done, the bad ones named with their place, and leave no effect."""
    names = ("good 1", "bad", "refused", "good 2")
    request = webhook_request(*map(event, names), secret=KEY, format="list")
    status, answer = receiver.post(request.headers, request.body)
    assert status == 422
    assert answer == {
        "results": {"done": 2, "failed": 1, "refused": 1},
        "items": [
            {"index": 1, "result": "failed", "reason": "ValueError"},
            {"index": 2, "result": "refused", "reason": "not one of ours"},
        ],
    }
    assert [len(of(receiver, name)) for name in names] == [1, 0, 0, 1]


def test_async_handlers_share_the_transaction(receiver: FrameworkReceiver) -> None:
    """An `async` handler runs, on the server's loop where there is one, before the transaction is committed; one that fails
    takes the effects of the others back. (Django lets nobody use its connections in a loop.)"""
    request = webhook_request(event("slow", "awaited", number=1), secret=KEY)
    assert receiver.post(request.headers, request.body)[0] == 200
    assert [effect[3] for effect in of(receiver, "slow")] == [1 if receiver.framework == "django" else 42]
    request = webhook_request(event("slow", "awaited", number=-1), secret=KEY)
    assert receiver.post(request.headers, request.body)[0] == 500
    assert len(of(receiver, "slow")) == 1


def test_handlers_may_use_the_threads_of_the_servers_loop(receiver: FrameworkReceiver) -> None:
    """Forty requests at once, whose `async` handlers each wait for a thread of asyncio's own, as every look-up of a name
    does: all are answered, though these threads are fewer."""
    requests = [
        webhook_request(event(f"threads {n}", "threads"), secret=KEY, first_id=2_000_000 + n) for n in range(40)
    ]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda one: receiver.post(one.headers, one.body)[0], requests))
    assert answers == [200] * len(requests)


def test_refuses_with_status_and_reason(receiver: FrameworkReceiver) -> None:
    """Forged, re-encoded, compressed, of another charset, too large, malformed: refused through every framework alike."""
    before = receiver.effects()
    good = webhook_request(event("mallory"), secret=KEY)
    small = json.dumps(json.loads(good.body), separators=(",", ":")).encode()
    huge = good.body + b" " * MAX_BODY
    forged = webhook_request(event("mallory"), secret=signing.new_secret())
    twice = webhook_request(event("mallory"), secret=PLAIN)
    double = twice.body.replace(b'"tries": 0', b'"tries": 0, "tries": 1')
    for expected, headers, body in (
        ((403, "wrong_signature"), forged.headers, forged.body),
        ((403, "wrong_signature"), good.headers, small),
        ((403, "no_proof"), {"Content-Type": "application/json"}, good.body),
        ((415, "encoded"), {**good.headers, "Content-Encoding": "x-own"}, good.body),
        ((415, "wrong_charset"), {**good.headers, "Content-Type": "application/json; charset=latin-1"}, good.body),
        ((413, "too_large"), good.headers, huge),
        ((400, "duplicate_key"), twice.headers, double),
    ):
        status, answer = receiver.post(headers, body)
        assert (status, answer["code"]) == expected
    assert receiver.effects() == before


def test_other_methods_are_refused(receiver: FrameworkReceiver) -> None:
    """A look with a browser does no harm."""
    assert receiver.post({}, b"", method="GET")[0] == 405


def test_chunks_are_read_or_refused(receiver: FrameworkReceiver) -> None:
    """A body without Content-Length is read where the server can; where it cannot, the answer is 411, and never a hang."""
    request = webhook_request(event("chunky"), secret=KEY)
    headers = {**request.headers, "Transfer-Encoding": "chunked"}
    try:
        status, _ = receiver.post(headers, iter([request.body[:10], request.body[10:]]))
        assert status in (200, 411)
    except ConnectionError:  # it has refused before all was sent
        status = 411
    assert len(of(receiver, "chunky")) == (status == 200)


def test_a_connection_that_breaks_is_no_event(receiver: FrameworkReceiver) -> None:
    """Of a body that ends before its announced length nothing is handled, even where what came is good JSON; the server
    goes on."""
    request = webhook_request(event("cut"), secret=PLAIN)
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    text = "\r\n".join(["POST / HTTP/1.1", "Host: x", f"Content-Length: {len(request.body) + 2}", *head, "", ""])
    with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
        connection.sendall(text.encode("latin-1") + request.body)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(20)
        answer = connection.recv(100)
    assert b" 200 " not in answer
    after = webhook_request(event("after the break"), secret=KEY)
    eventually(lambda: receiver.post(after.headers, after.body)[0] == 200)
    assert of(receiver, "cut") == []
