"""docs/webhooks.md: the receivers that it shows, in each language, do with real requests what the shared vectors say."""

from __future__ import annotations

import base64
import hmac
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from examples import ROOT, blocks, pages, runner
from marzhook.testing import eventually, webhook_request
from postgresql import free_port
from programs import program

PAGE = "docs/webhooks.md"
PERSIAN = "docs/fa/index.md"
VECTORS: list[dict[str, Any]] = json.loads((ROOT / "tests/vectors/requests.json").read_text())
SECRET = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY"
# Refused for something that these examples leave to the web server in front of them.
LEFT_OUT = {"too_large", "encoded", "wrong_charset", "truncated"}
ASKED = [
    vector for vector in VECTORS
    if vector["secrets"] == [SECRET] and vector["expect"]["code"] not in LEFT_OUT
    and vector["expect"]["status"] != 415 and vector["expect"]["proof"] in ("v1", None)
]  # fmt: skip
NOW = 1767225600
assert all(int(vector["now"]) == NOW for vector in ASKED if vector["expect"]["code"] is None)


def source(language: str) -> str:
    (text,) = blocks(PAGE, language)
    return text


@contextmanager
def serving(*command: str, folder: Path, **environment: str) -> Iterator[int]:
    """A program that serves on the port that it is given, until it is left."""
    port = int(environment["PORT"])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "SIGNING_SECRET": SECRET, **environment}, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 20
        while not _answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, "it does not listen"
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/", b"{}")
        return connection.getresponse().status == 403
    except OSError:
        return False
    finally:
        connection.close()


def post(port: int, headers: dict[str, str], body: bytes) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("POST", "/")
    for name, value in ({"content-type": "application/json", **headers, "content-length": str(len(body))}).items():
        connection.putheader(name, value.encode("latin-1" if max(value, default="") < "\u0100" else "utf-8"))
    connection.endheaders(body)
    status = connection.getresponse().status
    connection.close()
    return status


def body_of(vector: dict[str, Any]) -> bytes:
    return base64.b64decode(vector["body_base64"]) if "body" not in vector else vector["body"].encode()


def check(port: int, folder: Path) -> None:
    """403 where nothing proves the request, and only there; 200 for an event; nothing makes it stumble."""
    statuses = set()
    for vector in ASKED:
        expect, status = vector["expect"], post(port, vector["headers"], body_of(vector))
        statuses.add(status)
        assert (status == 403) == (expect["proof"] is None), (vector["name"], status)
        assert status in (200, 400, 403, 422), (vector["name"], status, (folder / "log").read_text())
    assert statuses >= {200, 403}
    one = next(vector for vector in ASKED if vector["name"] == "v1")
    assert post(port, one["headers"], body_of(one)) == 200


def handled(port: int) -> None:
    """A new event, twice."""
    from marzhook.clock import from_unix

    request = webhook_request(
        {"action": "user_created", "username": "only_once"}, secret=SECRET, now=from_unix(NOW), first_id=4711
    )
    headers = {name.lower(): value for name, value in request.headers.items()}
    for _ in range(2):
        assert post(port, headers, request.body) == 200
    broken = {**headers, "webhook-id": "another"}
    assert post(port, broken, request.body) == 403


def php_with_sqlite() -> bool:
    """Debian has the extension in a package of its own (php-sqlite3)."""
    php = shutil.which("php")
    return php is not None and b"pdo_sqlite" in subprocess.run([php, "-m"], capture_output=True, check=False).stdout


def test_the_node_example(tmp_path: Path) -> None:
    """With a clock of the vectors' time it agrees with each of them, and handles a repeated event once."""
    node, port = program("node", package="nodejs"), free_port()
    (tmp_path / "receiver.mjs").write_text(source("js"))
    (tmp_path / "clock.cjs").write_text(f"Date.now = () => {NOW * 1000};")
    with serving(node, "--require", "./clock.cjs", "receiver.mjs", folder=tmp_path, PORT=str(port)):
        check(port, tmp_path)
        handled(port)
    assert (tmp_path / "log").read_text().count("user_created only_once") == 1


@pytest.mark.skipif(not php_with_sqlite(), reason="no php with pdo_sqlite on this machine")
def test_the_php_example(tmp_path: Path) -> None:
    """The same; the mark and what the handler wrote are in one database."""
    port = free_port()
    (tmp_path / "receiver.php").write_text(source("php"))
    (tmp_path / "clock.php").write_text(f"<?php $_SERVER['REQUEST_TIME'] = {NOW}; require 'receiver.php';")
    command = ("php", "-S", f"127.0.0.1:{port}", "clock.php")
    with serving(*command, folder=tmp_path, PORT=str(port)):
        check(port, tmp_path)
        handled(port)
    import sqlite3

    with sqlite3.connect(tmp_path / "received.db") as database:
        assert database.execute("SELECT count(*) FROM journal WHERE username = 'only_once'").fetchone() == (1,)


@pytest.mark.skipif(not shutil.which("go"), reason="no go on this machine")
def test_the_go_example(tmp_path: Path) -> None:
    """It is formatted as gofmt does, `go vet` finds nothing, and it does the same as the others."""
    port = free_port()
    (tmp_path / "receiver.go").write_text(source("go"))
    (tmp_path / "clock.go").write_text(
        f'package main\n\nimport "time"\n\nfunc init() {{ now = func() time.Time {{ return time.Unix({NOW}, 0) }} }}\n'
    )
    (tmp_path / "go.mod").write_text("module receiver\n\ngo 1.19\n")
    for command in (("gofmt", "-l", "receiver.go"), ("go", "vet", "."), ("go", "build", "-o", "receiver", ".")):
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
        assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    with serving("./receiver", folder=tmp_path, PORT=str(port)):
        check(port, tmp_path)
        handled(port)
    assert (tmp_path / "log").read_text().count("user_created only_once") == 1


def test_the_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that comes twice is in the journal once; a forged one is not."""
    import sqlite3

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGNING_SECRET", SECRET)
    monkeypatch.setenv("PORT", "0")
    server = runner(PAGE)("serve_forever")["server"]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        request = webhook_request({"action": "user_created", "username": "only_once"}, secret=SECRET)
        for _ in range(2):
            assert post(server.server_port, dict(request.headers), request.body) == 200
        assert post(server.server_port, dict(request.headers), request.body.replace(b"once", b"0nce")) == 403
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with sqlite3.connect(tmp_path / "received.db") as database:
        assert database.execute("SELECT * FROM journal").fetchall() == [("only_once", "user_created")]


def forged(port: int) -> int | None:
    """What becomes of an event that somebody signed who has no key; None: nobody listens."""
    body, at = b'{"username": "mallory", "action": "user_created"}', int(time.time())
    mac = hmac.digest(b"", b"forged.%d.%s" % (at, body), "sha256")
    signature = f"v1,{base64.b64encode(mac).decode()}"
    headers = {"webhook-id": "forged", "webhook-timestamp": str(at), "webhook-signature": signature}
    try:
        return post(port, headers, body)
    except OSError:
        return None


def attacked(command: tuple[str, ...], folder: Path, secret: str | None) -> tuple[set[int | None], str]:
    """What a receiver with this SIGNING_SECRET answers to forged events, until it has ended or answered, and what it says."""
    port, statuses = free_port(), set[int | None]()
    environment = {name: value for name, value in os.environ.items() if name != "SIGNING_SECRET"}
    environment |= {"PORT": str(port)} if secret is None else {"PORT": str(port), "SIGNING_SECRET": secret}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [one.format(port=port) for one in command], cwd=folder, env=environment, stdout=log, stderr=log
        )

    def over() -> bool:
        statuses.add(forged(port))
        return statuses != {None} or process.poll() is not None

    try:
        eventually(over)
    finally:
        process.kill()
        process.wait(10)
    return statuses, (folder / "log").read_text()


@pytest.mark.parametrize(
    ("language", "file", "command"),
    [
        ("python", "receiver.py", (sys.executable, "receiver.py")),
        ("js", "receiver.mjs", ("node", "receiver.mjs")),
        pytest.param(
            "php", "receiver.php", ("php", "-S", "127.0.0.1:{port}", "receiver.php"),
            marks=pytest.mark.skipif(not shutil.which("php"), reason="no php on this machine"),
        ),
        pytest.param(
            "go", "receiver.go", ("./receiver",),
            marks=pytest.mark.skipif(not shutil.which("go"), reason="no go on this machine"),
        ),
    ],
    ids=["python", "js", "php", "go"],
)  # fmt: skip
def test_without_a_secret_nothing_is_taken(language: str, file: str, command: tuple[str, ...], tmp_path: Path) -> None:
    """A variable that is missing, as php-fpm leaves it, or empty is no key that others could have, too: the receiver does not
    start, or answers 500, and says why."""
    (tmp_path / file).write_text(source(language))
    if language == "js":
        command = (program("node", package="nodejs"), *command[1:])
    if language == "go":
        (tmp_path / "go.mod").write_text("module receiver\n\ngo 1.19\n")
        subprocess.run(("go", "build", "-o", "receiver", "."), cwd=tmp_path, check=True, timeout=110)
    # In Python the kit says it, which knows no variable's name.
    kit = "KeyError: 'SIGNING_SECRET'", "receiver needs a secret", "something behind it", "followed by base64"
    for secret, words in zip((None, "", "whsec_", "whsec_*"), kit, strict=True):
        says = words if language == "python" else "SIGNING_SECRET"
        statuses, said = attacked(command, tmp_path, secret)
        assert statuses <= {None, 500}, (secret, said)
        assert says in said, (secret, said)


def test_no_python_is_shown_that_does_not_run() -> None:
    """Pages with Python are those whose examples a test runs."""
    shown = {str(page.relative_to(ROOT)) for page in pages() if blocks(page, "python")}
    assert shown - {PERSIAN} == {"docs/receiving.md", PAGE}


@pytest.mark.parametrize("language", ["python", "js", "php", "go", "sql", "http"])
def test_the_persian_page_shows_the_same_examples(language: str) -> None:
    """What was run is what it shows."""
    assert blocks(PERSIAN, language) == blocks(PAGE, language)
    assert blocks(PAGE, language)
