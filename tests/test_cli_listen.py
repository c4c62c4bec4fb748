"""`marzhook listen`, as people and senders meet it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Running, as_json, made, marzhook
from marzhook import signing
from marzhook.cli.inbox import Received
from marzhook.cli.journal import Journal, JsonJournal, TextJournal
from marzhook.testing import eventually

EVENT = {"username": "alice", "action": "user_updated", "enqueued_at": 1680506457.636369, "tries": 0}


def address_of(listener: Running) -> int:
    found = re.search(r":(\d+)/", listener.line("Listening on"))
    assert found
    return int(found[1])


def post(port: int, body: Any, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/", raw, {name.replace("_", "-"): value for name, value in headers.items()})
    status = connection.getresponse().status
    connection.close()
    return status


def test_prints_event_and_ends_with_count(tmp_path: Path) -> None:
    """An event is printed with its action, name, tries and who did it; Ctrl-C ends with exit 0 and a count."""
    with Running(tmp_path, "listen", "--port", "0") as listener:
        port = address_of(listener)
        assert post(port, {**EVENT, "by": {"username": "boss"}, "used_percent": 81.5}) == 200
        assert "tries 0" in listener.line("  user_updated  alice")
        listener.line("by boss")
        listener.line("used_percent: 81.5")
        assert listener.stop() == 0
        listener.line("Received 1 event in 1 request.")


@pytest.mark.parametrize("mode", ["plain", "hmac"])
def test_accepts_secret_both_ways_and_says_which(tmp_path: Path, mode: str) -> None:
    """Both ways in which the panel's pages send the secret are right, and the line says which one came."""
    body = json.dumps(EVENT).encode()
    value = "sesame" if mode == "plain" else signing.hex_hmac("sesame", body)
    with Running(tmp_path, "listen", "--port", "0", "--secret", "sesame") as listener:
        assert post(address_of(listener), body, x_webhook_secret=value) == 200
        assert f"({mode})" in listener.line("x-webhook-secret right")


def test_refuses_wrong_and_missing_secret(tmp_path: Path) -> None:
    """A wrong or missing secret is answered 403, said in words, and the right secret is not shown."""
    with Running(tmp_path, "listen", "--port", "0", "--secret", "sesame") as listener:
        port = address_of(listener)
        assert post(port, EVENT, x_webhook_secret="wrong") == 403
        assert "differ" in listener.line("x-webhook-secret")
        assert post(port, EVENT) == 403
        listener.line("no x-webhook-secret came")
        listener.stop(signal.SIGTERM)
        assert not any("sesame" in line for line in listener.seen)


def test_verifies_standard_webhooks_signature(tmp_path: Path) -> None:
    """With the signing secret, a right signature passes, a forged one and an old one are answered 403."""
    secret, body, now = signing.new_secret(), json.dumps(EVENT).encode(), int(time.time())

    def signed(at: int, key: str) -> dict[str, str]:
        return {
            "webhook_id": "msg_1", "webhook_timestamp": str(at),
            "webhook_signature": signing.sign_v1(signing.key_of(key), "msg_1", at, body),
        }  # fmt: skip

    with Running(tmp_path, "listen", "--port", "0", "--signing-secret", secret) as listener:
        port = address_of(listener)
        assert post(port, body, **signed(now, secret)) == 200
        assert post(port, body, **signed(now, signing.new_secret())) == 403
        assert post(port, body, **signed(now - 3600, secret)) == 403
        assert post(port, body) == 403
        listener.line("signature right")
        listener.line("signature is wrong")
        listener.line("clocks")
        listener.line("no Standard Webhooks signature came")


def test_fails_as_often_as_asked(tmp_path: Path) -> None:
    """--fail 503:2 answers 503 to the first two requests and 200 from then on; one that comes again is marked. Each answer
    waits for --delay, and with --host others may reach it, too."""
    options = ("--fail", "503:2", "--delay", "0.1", "--host", "0.0.0.0")
    with Running(tmp_path, "listen", "--port", "0", *options) as listener:
        port = address_of(listener)
        began = time.monotonic()
        assert [post(port, EVENT, webhook_id="msg_7") for _ in range(4)] == [503, 503, 200, 200]
        assert time.monotonic() - began >= 0.4
        listener.line("answered 503")
        listener.line("answered 200 (again)")


def test_understands_every_format(tmp_path: Path) -> None:
    """Lists, Standard Webhooks and Discord messages are read; other JSON and text are shown as they came."""
    standard = {
        "type": "user_expired",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {**EVENT, "action": "user_expired"},
    }
    discord = {"content": "", "embeds": [{"title": "Created", "fields": [{"name": "Username", "value": "zoe"}]}]}
    with Running(tmp_path, "listen", "--port", "0") as listener:
        port = address_of(listener)
        post(port, [EVENT, {**EVENT, "username": "bob"}])
        listener.line("alice")
        listener.line("bob")
        post(port, standard)
        listener.line("user_expired")
        post(port, discord)
        listener.line("Discord message")
        listener.line("Username: zoe")
        post(port, {"hello": ["world"]})
        listener.line('"world"')
        post(port, b"\x1b[31mplain text")
        assert "\\x1b[31mplain text" in listener.line("plain text")


def test_json_is_one_object_a_line(tmp_path: Path) -> None:
    """With --json every line is an object: the address, each request with its verdicts, the counts."""
    with Running(tmp_path, "listen", "--port", "0", "--json") as listener:
        port = int(json.loads(listener.line("listening"))["listening"].split(":")[2].rstrip("/"))
        post(port, EVENT)
        request = json.loads(listener.line('"body"'))
        assert (request["kind"], request["status"], request["body"]) == ("event", 200, EVENT)
        assert listener.stop() == 0
        assert json.loads(listener.line("requests")) == {"requests": 1, "events": 1}


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    """A port that is taken ends the command with exit 2 and one line that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = marzhook(tmp_path, "listen", "--port", str(port), expect=2)
    assert ended.stderr.count("\n") == 1
    assert f"port {port}" in ended.stderr
    assert "--port 0" in ended.stderr


@pytest.mark.parametrize("fail", ["503", "nonsense:3", "503:0", "200:3", "999:1"])
def test_malformed_fail_is_one_line(tmp_path: Path, fail: str) -> None:
    """A malformed --fail ends with exit 2 and one line that shows how it is written."""
    ended = marzhook(tmp_path, "listen", "--fail", fail, expect=2)
    assert ended.stderr.count("\n") == 1
    assert "503:3" in ended.stderr or "300 to 599" in ended.stderr


def test_attached_listener_is_an_endpoint_while_it_runs(tmp_path: Path) -> None:
    """--attach makes it an endpoint of the service here: an event sent by hand arrives, verified, until it ends."""
    with Running(tmp_path, "run", UVICORN_PORT="0") as service:
        service.line("ready")
        with Running(tmp_path, "listen", "--port", "0", "--attach") as listener:
            listener.line("This is an endpoint")
            assert "restart it" not in marzhook(tmp_path, "check").stdout
            marzhook(tmp_path, "send", "user_created", "alice")
            listener.line("  user_created  alice")
            listener.line("signature right")
            assert listener.stop() == 0
        assert as_json(tmp_path, "endpoints", "list") == []
        assert service.stop() == 0


def test_attached_listener_outlives_a_service_that_starts(tmp_path: Path) -> None:
    """A service that starts later, whose settings do not name the listener, delivers to it all the same."""
    made(tmp_path)
    with Running(tmp_path, "listen", "--port", "0", "--attach") as listener:
        listener.line("This is an endpoint")
        with Running(tmp_path, "run", UVICORN_PORT="0") as service:
            service.line("ready")
            eventually(lambda: as_json(tmp_path, "endpoints", "list")[0]["enabled"], what="the listener's return")
            marzhook(tmp_path, "send", "user_created", "alice")
            listener.line("  user_created  alice")


@pytest.mark.parametrize("kind", [TextJournal, JsonJournal])
def test_nothing_is_told_behind_the_count(kind: type[Journal], capsys: pytest.CaptureFixture[str]) -> None:
    """Of a replay that was stopped, what a program elsewhere answers too late: nobody waits for it."""
    journal = kind()
    received = Received(1.0, "/", 200, "event", (), b"{}", None, False, None, None, ())
    journal(received)
    journal.ended()
    assert "1" in capsys.readouterr().out.splitlines()[-1]
    journal(received)
    assert capsys.readouterr().out == ""
