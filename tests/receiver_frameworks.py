"""A receiver built on the kit in a process of its own: `receiver_frameworks.py FRAMEWORK FOLDER PORT SECRET…`.

It prints its port and serves. Handlers write to the table `effects` of FOLDER/app.db, in the transaction of the event's mark.
The user `bad` fails, the creation of `refused` is refused. `KILL=handler:3` dies by SIGKILL in the third handler, when it has
written; `KILL=answer:3` when the third answer is ready and everything is committed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from marzhook.receiver import Answer, EventRefused, ReceivedEvent, Receiver
from marzhook.receiver.database import SQLite

MAX_BODY = 300_000
TABLE = "CREATE TABLE IF NOT EXISTS effects (id TEXT, username TEXT, action TEXT, number INTEGER)"
TO_LIVE = dict([os.environ["KILL"].split(":")]) if "KILL" in os.environ else {}


def passed(place: str) -> None:
    if place in TO_LIVE:
        TO_LIVE[place] = str(int(TO_LIVE[place]) - 1)
        if TO_LIVE[place] == "0":
            os.kill(os.getpid(), signal.SIGKILL)


class Mortal(Receiver):
    def receive(self, *args: Any, **how: Any) -> Answer:
        answer = super().receive(*args, **how)
        passed("answer")
        return answer


def built(secrets: list[str], dedupe: Any, mark: str = "?") -> Receiver:
    receiver = Mortal(secrets, dedupe=dedupe, max_body=MAX_BODY)

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        values = (event.id, event.username, event.action, event.extra.get("number"))
        cursor = event.connection.cursor()
        cursor.execute(f"INSERT INTO effects VALUES ({', '.join([mark] * 4)})", values)
        passed("handler")
        if event.username == "bad":
            raise ValueError("a bad event")
        if (event.username, event.action) == ("refused", "user_created"):
            raise EventRefused("not one of ours")

    @receiver.on("awaited")
    async def awaited(event: ReceivedEvent) -> None:
        await asyncio.sleep(0)
        if event.extra["number"] < 0:
            raise ValueError("a bad event")
        if mark == "?":
            event.connection.execute("UPDATE effects SET number = 42 WHERE id = ?", (event.id,))

    @receiver.on("threads")
    async def threads(event: ReceivedEvent) -> None:
        await asyncio.to_thread(os.getpid)

    return receiver


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


class ThreadingWSGIServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


def serve_wsgi(app: Any, port: int) -> None:
    server = make_server("127.0.0.1", port, app, server_class=ThreadingWSGIServer, handler_class=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


def listening(port: int) -> socket.socket:
    found = socket.create_server(("127.0.0.1", port), backlog=512)
    print(found.getsockname()[1], flush=True)
    return found


def serve_asgi(app: Any, port: int) -> None:
    import uvicorn

    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening(port)])


def flask(receiver: Receiver, port: int) -> None:
    from flask import Flask
    from werkzeug.serving import make_server as werkzeug_server

    from marzhook.receiver.flask import view

    app = Flask(__name__)
    app.post("/")(view(receiver))
    server = werkzeug_server("127.0.0.1", port, app, threaded=True)
    print(server.port, flush=True)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - a line for every request, for the process's whole life
    server.serve_forever()


def fastapi(receiver: Receiver, port: int) -> None:
    from fastapi import FastAPI

    from marzhook.receiver.starlette import endpoint

    app = FastAPI()
    app.post("/")(endpoint(receiver))
    serve_asgi(app, port)


def starlette(receiver: Receiver, port: int) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from marzhook.receiver.starlette import endpoint

    serve_asgi(Starlette(routes=[Route("/", endpoint(receiver), methods=["POST"])]), port)


def aiohttp(receiver: Receiver, port: int) -> None:
    from aiohttp import web

    from marzhook.receiver.aiohttp import handler

    app = web.Application()
    app.router.add_post("/", handler(receiver))
    web.run_app(app, sock=listening(port), print=None)


def wsgi(receiver: Receiver, port: int) -> None:
    from marzhook.receiver.wsgi import application

    serve_wsgi(application(receiver), port)


def asgi(receiver: Receiver, port: int) -> None:
    from marzhook.receiver.asgi import application

    serve_asgi(application(receiver), port)


def http_server(receiver: Receiver, port: int) -> None:
    from marzhook.receiver.http_server import handler

    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", port), handler(receiver))
    print(server.server_port, flush=True)
    server.serve_forever()


def django(folder: Path, secrets: list[str], port: int) -> None:
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": {
            "ENGINE": "django.db.backends.sqlite3", "NAME": folder / "app.db", "ATOMIC_REQUESTS": True,
            "OPTIONS": {"timeout": 30},
        }},
    )  # fmt: skip
    app = get_wsgi_application()
    from marzhook.receiver.django import database, view

    global urlpatterns
    urlpatterns = [path("", view(built(secrets, database(), "%s")))]
    serve_wsgi(app, port)


urlpatterns: list[Any] = []
FRAMEWORKS: dict[str, Callable[[Receiver, int], None]] = {
    "flask": flask, "fastapi": fastapi, "starlette": starlette, "aiohttp": aiohttp, "wsgi": wsgi, "asgi": asgi,
    "http_server": http_server,
}  # fmt: skip
NAMES = (*FRAMEWORKS, "django")


def main() -> None:
    name, folder, port, *secrets = sys.argv[1:]
    dedupe = SQLite(Path(folder) / "app.db")
    with dedupe.session() as session:
        session.connection.execute(TABLE)
    if name == "django":
        dedupe.close()
        django(Path(folder), secrets, int(port))
    else:
        FRAMEWORKS[name](built(secrets, dedupe), int(port))


if __name__ == "__main__":
    main()
