"""What `marzhook listen` does with requests beside printing them, on real programs, files and senders."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import Running, marzhook, marzhook_process
from marzhook import signing
from marzhook.cli import relay
from marzhook.testing import eventually
from receivers import Receiver, header_of
from test_cli_listen import EVENT, address_of, post
from test_commands import gone, script

WRITES = "import sys, os; open('got', 'a').write(os.environ['MARZHOOK_ACTION'] + ' ' + sys.stdin.read() + chr(10))"


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_forwards_as_it_came_and_answers_as_the_program_does(tmp_path: Path) -> None:
    """Body and headers byte for byte, so signatures stay right; what the program refuses, the sender hears."""
    body = json.dumps({**EVENT, "note": "سلام"}, ensure_ascii=False).encode()
    with (
        Receiver() as program,
        Running(tmp_path, "listen", "--port", "0", "--forward", program.url + "hook?a=b") as own,
    ):
        port = address_of(own)
        assert post(port, body, x_webhook_secret="sesame", webhook_id="msg_1") == 200
        own.line("forwarded: 200")
        [got] = program.wait(1)
        assert got["body"].encode() == body
        assert (header_of(got, "x-webhook-secret"), header_of(got, "webhook-id")) == ("sesame", "msg_1")
        program.do(status=503)
        assert post(port, EVENT) == 503
        program.stop()
        assert post(port, EVENT) == 502
        own.line("forwarded: ")


def test_what_was_not_verified_is_not_passed_on(tmp_path: Path) -> None:
    """Neither to a program nor to a command nor into a file."""
    with Receiver() as program:
        steps = ("--forward", program.url, "--exec", f"{sys.executable} -c pass", "--save", "saved")
        with Running(tmp_path, "listen", "--port", "0", "--secret", "sesame", *steps) as own:
            port = address_of(own)
            assert post(port, EVENT, x_webhook_secret="wrong") == 403
            assert post(port, EVENT, x_webhook_secret="sesame") == 200
            assert len(program.wait(1)) == 1
    assert len(lines(tmp_path / "saved")) == 1


def test_runs_a_command_for_each_event(tmp_path: Path) -> None:
    """A list is several events, one after the other; the first that fails is the answer, with what the command said."""
    code = f"{WRITES}; sys.exit(os.environ['MARZHOOK_USERNAME'] == 'bad' and 'no such user here')"
    with Running(tmp_path, "listen", "--port", "0", "--exec", f'{sys.executable} -c "{code}"') as own:
        port = address_of(own)
        assert post(port, [EVENT, {**EVENT, "username": "bob"}]) == 200
        found = [line.partition(" ") for line in lines(tmp_path / "got")]
        assert [(action, json.loads(text)["username"]) for action, _, text in found] == [
            ("user_updated", "alice"), ("user_updated", "bob"),
        ]  # fmt: skip
        assert post(port, [{**EVENT, "username": "bad"}, EVENT]) == 500
        own.line("no such user here")
        assert len(lines(tmp_path / "got")) == 3


def test_half_a_character_reaches_the_command(tmp_path: Path) -> None:
    """JSON may have `\\ud800` alone, which is no text: the command gets the same JSON; so it does of a saved request."""
    code = f"{WRITES}; open('name', 'w').write(os.environ['MARZHOOK_USERNAME'] + os.environ['MARZHOOK_WEBHOOK_ID'])"
    command = ("--exec", f'{sys.executable} -c "{code}"')
    with Running(tmp_path, "listen", "--port", "0", "--save", "saved", *command) as own:
        assert post(address_of(own), json.dumps({**EVENT, "note": "a\ud800ش"}).encode()) == 200
        own.line("ended well")
    saved = json.loads((tmp_path / "saved").read_text())
    saved["headers"]["webhook-id"] = "m\0\ud800"
    (tmp_path / "saved").write_text(json.dumps(saved))
    marzhook_process(tmp_path, "listen", "--replay", "saved", *command)
    found = [json.loads(line.partition(" ")[2])["note"] for line in lines(tmp_path / "got")]
    assert found == ["a\ud800ش", "a\ud800ش"]
    assert (tmp_path / "name").read_text() == "alicem?"


def test_a_saved_header_that_cannot_be_sent_is_told_of(tmp_path: Path) -> None:
    """The request is listed, as one that was not accepted."""
    record = {"at": 1.0, "path": "/", "headers": {"x-note": "a\nb"}, "body": "{}"}
    (tmp_path / "saved").write_text(json.dumps(record) + "\n")
    ended = marzhook(tmp_path, "listen", "--replay", "saved", "--forward", "http://127.0.0.1:1/", expect=1)
    assert "forwarded: Invalid header value" in ended.stdout


def test_a_command_that_is_none(tmp_path: Path) -> None:
    """The sender hears that it failed, and tries again once it is mended."""
    with Running(tmp_path, "listen", "--port", "0", "--exec", "./nothing") as own:
        assert post(address_of(own), EVENT) == 500
        own.line("cannot be run: No such file or directory")


def ran(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """What becomes of an event for which this script is run, with a second to end in."""
    monkeypatch.setattr(relay, "EXEC_TIMEOUT", 1.0)
    return relay.runner(str(script(folder, text)), relay.Commands())(relay.Incoming(1.0, "/", {}, b"{}"))


def test_a_command_that_leaves_somebody_behind_has_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that holds stderr open keeps no sender waiting, and gets no event sent again."""
    status, said = ran(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child", monkeypatch)
    assert (status, said) == (200, f"{tmp_path}/told ended well")
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_a_hanging_command_is_killed_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children, too, also those that ignore what they can ignore."""
    text = f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/me; echo at it >&2; wait"
    status, said = ran(tmp_path, text, monkeypatch)
    assert status == 504
    assert said.endswith("did not end within 1 s, and was killed with all that it had started: at it")
    for name in ("child", "me"):
        eventually(lambda name=name: gone(int((tmp_path / name).read_text())))


def test_a_command_that_runs_ends_with_the_listener(tmp_path: Path) -> None:
    """Ctrl-C ends both, as in a pipe."""
    program = script(tmp_path, f"echo $$ > {tmp_path}/me; mv {tmp_path}/me {tmp_path}/pid; sleep 600")
    with (
        Running(tmp_path, "listen", "--port", "0", "--exec", str(program)) as own,
        socket.create_connection(("127.0.0.1", address_of(own))) as sender,
    ):
        sender.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        eventually((tmp_path / "pid").exists)
        assert own.stop() == 0
    eventually(lambda: gone(int((tmp_path / "pid").read_text())))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_runs_ends_with_a_replay(tmp_path: Path, by: signal.Signals) -> None:
    """Whatever ends it; how far it came is told."""
    program = script(tmp_path, f"echo $$ > {tmp_path}/me; mv {tmp_path}/me {tmp_path}/pid; sleep 600")
    (tmp_path / "saved").write_text(json.dumps({"at": 1, "path": "/", "headers": {}, "body": "{}"}) + "\n")
    with Running(tmp_path, "listen", "--replay", "saved", "--exec", str(program)) as own:
        eventually((tmp_path / "pid").exists)
        own.process.send_signal(by)
        own.line("Stopped after 0 of 1.")
        assert own.process.wait(10) == 1
    eventually(lambda: gone(int((tmp_path / "pid").read_text())))


def test_a_command_that_is_just_being_started_ends_with_the_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is there, and nobody knows of it yet: that is waited for. After that none is started."""
    start, commands, ended = subprocess.Popen, relay.Commands(), threading.Event()

    def end() -> None:
        commands.end()
        ended.set()

    def popen(*values: Any, **more: Any) -> Any:
        process = start(*values, **more)
        threading.Thread(target=end).start()
        # Nothing keeps the listener any more once it has ended all that it knows of.
        assert not ended.wait(0.05)
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    program = script(tmp_path, f"touch {tmp_path}/begun; exec sleep 600")
    run = relay.runner(str(program), commands)
    assert run(relay.Incoming(1.0, "/", {}, b"{}")) == (500, f"{program}: signal 9 ended it")
    assert ended.wait(10)
    (tmp_path / "begun").unlink(missing_ok=True)
    assert run(relay.Incoming(1.0, "/", {}, b"{}"))[0] == 503
    assert not (tmp_path / "begun").exists()


def test_saves_and_takes_again(tmp_path: Path) -> None:
    """What was saved is verified by the time at which it came, and passed on as it was, also what is no text."""
    secret, body, now = signing.new_secret(), json.dumps(EVENT).encode(), int(time.time())
    signature = signing.sign_v1(signing.key_of(secret), "msg_1", now, body)
    signed = {"webhook_id": "msg_1", "webhook_timestamp": str(now), "webhook_signature": signature}
    with Running(tmp_path, "listen", "--port", "0", "--save", "saved", "--signing-secret", secret) as own:
        assert post(address_of(own), body, **signed) == 200
    file = tmp_path / "saved"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    with Receiver() as program:
        ended = marzhook_process(tmp_path, "listen", "--replay", "saved", "--forward", program.url)
        assert "Received 1 event in 1 request." in ended.stdout
        [got] = program.wait(1)
        assert got["body"].encode() == body
        assert header_of(got, "webhook-signature") == signature
        program.do(status=500)
        failed = marzhook(tmp_path, "listen", "--replay", "saved", "--forward", program.url, expect=1)
        assert "1 of them not accepted" in failed.stdout
    wrong = marzhook(tmp_path, "listen", "--replay", "saved", "--signing-secret", signing.new_secret(), expect=1)
    assert "signature is wrong" in wrong.stdout


def test_what_is_no_text_is_saved_as_it_was(tmp_path: Path) -> None:
    """Byte for byte, from the sender through the file to the command."""
    with Running(tmp_path, "listen", "--port", "0", "--save", "saved") as own:
        assert post(address_of(own), b"\xff\x00\n") == 200
    code = "import sys; open('got', 'wb').write(sys.stdin.buffer.read())"
    marzhook_process(tmp_path, "listen", "--replay", "saved", "--exec", f'{sys.executable} -c "{code}"')
    assert (tmp_path / "got").read_bytes() == b"\xff\x00\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--forward", "ftp://x"), "must start with http://"),
        (("--forward", "http://x:99999/"), "its port cannot be read"),
        (("--forward", "http://127.0.0.1:1/مسیر"), "percent-encode the path"),
        (("--forward", "http://127.0.0.1:1/a b"), "spaces"),
        (("--exec", "'"), "--exec"),
        (("--exec", " "), "needs a command"),
        (("--save", "nowhere/file"), "cannot be written"),
        (("--replay", "nothing"), "cannot be read"),
        (("--replay", "odd"), "line 2 of odd is no request"),
        (("--replay", "odd", "--attach"), "leave --attach"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Before anything is received or done."""
    record: dict[str, Any] = {"at": 1.0, "path": "/", "headers": {}, "body": "{}"}
    (tmp_path / "odd").write_text(json.dumps(record) + "\n" + '{"at": 2}\n')
    ended = marzhook(tmp_path, "listen", "--port", "0", *arguments, expect=2)
    assert said in " ".join(ended.stderr.split())
    assert "user_" not in ended.stdout
