"""docs/receiving.md: what it shows works, and is well typed."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from flask import Flask

from examples import ROOT, blocks, runner
from marzhook.receiver import Receiver
from marzhook.receiver.secrets import Secrets
from marzhook.testing import WebhookRequest, webhook_request

PAGE = "docs/receiving.md"
BLOCKS = blocks(PAGE, "python")
SECRET = "something-very-very-secret"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs the page's examples one after the other, up to the one that contains a text; gives what they defined."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)

    return runner(PAGE)


def created(username: str = "alice") -> WebhookRequest:
    return webhook_request({"action": "user_created", "username": username}, secret=SECRET)


def test_the_first_example_greets(shown: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """The Flask application answers 200, and every handler has printed its line."""
    app, request = shown("Flask(__name__)")["app"], created()
    assert isinstance(app, Flask)
    assert app.test_client().post("/webhook", data=request.body, headers=request.headers).status_code == 200
    assert capsys.readouterr().out == "welcome, alice\nuser_created alice {}\n"


def test_the_fastapi_example(shown: Callable[[str], dict[str, Any]]) -> None:
    """The FastAPI application takes a request and refuses a forged one."""
    app, request = shown("FastAPI()")["app"], created()
    assert isinstance(app, FastAPI)

    async def post(headers: dict[str, str]) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            return await client.post("/webhook", content=request.body, headers=headers)

    assert asyncio.run(post(request.headers)).json() == {"results": {"done": 1}}
    assert asyncio.run(post({})).status_code == 403


def test_the_django_example(shown: Callable[[str], dict[str, Any]]) -> None:
    """The URL's view takes a request."""
    from django.conf import settings
    from django.test import RequestFactory

    (pattern,) = shown("django")["urlpatterns"]
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"])
    request = created()
    made = RequestFactory().post(
        "/webhook", data=request.body, content_type="application/json", headers=request.headers
    )
    assert pattern.callback(made).status_code == 200


def test_the_aiohttp_example(shown: Callable[[str], dict[str, Any]]) -> None:
    """The aiohttp application takes a request."""
    from aiohttp.test_utils import TestClient as AiohttpClient
    from aiohttp.test_utils import TestServer

    app, request = shown("web.Application()")["app"], created()

    async def post() -> int:
        async with AiohttpClient(TestServer(app)) as client, client.post(
            "/webhook", data=request.body, headers=request.headers
        ) as answer:  # fmt: skip
            return answer.status

    assert asyncio.run(post()) == 200


def test_the_plain_examples(shown: Callable[[str], dict[str, Any]]) -> None:
    """WSGI, ASGI, http.server and one's own function take requests."""
    names = shown("def webhook(")
    names["server"].server_close()
    statuses: list[Any] = []
    request = created("wsgi")
    environ = {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in request.headers.items()}
    environ |= {
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.input": io.BytesIO(request.body),
    }
    names["wsgi_application"](names["receiver"])(environ, lambda status, headers: statuses.append(status))
    request = created("asgi")
    scope = {
        "type": "http", "method": "POST",
        "headers": [(k.lower().encode(), v.encode()) for k, v in request.headers.items()],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    asyncio.run(names["app"](scope, receive, send))
    request = created("own")
    statuses.append(names["webhook"](request.headers, request.body)[0])
    assert statuses == ["200 OK", 200, None, 200]


def test_the_database_examples(shown: Callable[[str], dict[str, Any]]) -> None:
    """The customer is booked once, in the same file in which the other example's receiver then finds the mark."""
    request = created()
    names = shown('SQLite("shop.db")')
    for expected in ({"done"}, {"duplicate"}):
        results = names["receiver"].receive(request.headers, request.body).results
        assert {result.what for result in results} == expected
    later = shown("DBAPI(")["receiver"]
    assert isinstance(later, Receiver)
    later.on("*")(lambda event: None)
    assert [result.what for result in later.receive(request.headers, request.body).results] == ["duplicate"]


def test_the_refusing_example(shown: Callable[[str], dict[str, Any]]) -> None:
    """An event without the user is answered 422 with the words of the example."""
    receiver = shown("EventRefused(")["receiver"]
    request = webhook_request({"action": "user_updated", "username": "alice"}, secret=SECRET)
    answer = receiver.receive(request.headers, request.body)
    assert answer.status == 422
    assert b"WEBHOOK_DETAIL=safe" in answer.body


def test_the_testing_example(shown: Callable[[str], dict[str, Any]]) -> None:
    """The shown test passes."""
    shown("def test_a_new_user")["test_a_new_user_is_welcomed_once"]()


def test_the_rotation_example_has_real_secrets(shown: Callable[[str], dict[str, Any]]) -> None:
    """Both of the shown secrets verify what they sign."""
    both = re.findall(r'"(whsec_[^"]+)"', next(block for block in BLOCKS if "secret=[" in block))
    assert len(both) == 2
    for secret in both:
        request = webhook_request({"action": "a", "username": "b"}, secret=secret)
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert Secrets(both).verify(headers, request.body, float(headers["webhook-timestamp"])) == "v1"


def test_every_code_is_documented() -> None:
    """Whatever reason a request can be refused with is in the page's table."""
    source = "".join(path.read_text() for path in (ROOT / "src/marzhook/receiver").glob("*.py"))
    codes = set(re.findall(r'RequestRefused\(\s*\d+,\s*"(\w+)"', source)) | set(
        re.findall(r'_refused\(\s*"(\w+)"', source)
    )
    assert len(codes) >= 17
    text = (ROOT / PAGE).read_text()
    assert all(f"`{code}`" in text for code in codes)


def test_the_examples_are_well_typed(tmp_path: Path) -> None:
    """A user who checks his code with mypy --strict finds nothing in what the pages show."""
    # Each by itself with the first one's names: they define some names again.
    names = ("import os\nfrom marzhook.receiver import ReceivedEvent, Receiver\nreceiver = Receiver('x')\n",)
    files = []
    for number, block in enumerate(BLOCKS):
        files.append(tmp_path / f"example_{number}.py")
        again = "app = asgi_application(receiver)"
        files[-1].write_text("".join(names) * (number > 0) + block.replace(again, again[6:]))
    for number, block in enumerate(blocks("docs/webhooks.md", "python")):
        files.append(tmp_path / f"guide_{number}.py")
        files[-1].write_text(block)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", *map(str, files)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
