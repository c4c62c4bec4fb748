"""Errors as the API answers them; which error has which HTTP status is for `marzhook.errors`.

Every error is `{"detail": …, "code": …}`. `detail` is a text, or for wrong fields an object {field: text}, as the
panel's API has it; `code` is stable and for programs.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marzhook import errors
from marzhook.api.context import answer

log = logging.getLogger(__name__)

HTTP_CODES: Final = {
    400: "malformed_body",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "body_too_large",
    422: "invalid",
}

MEGABYTE = 1024 * 1024
MAX_BODY = 4 * MEGABYTE
MAX_BODY_OF: Final = {
    "/api/v1/events": 16 * MEGABYTE,
    # A panel sends all that has waited in one request, some 1 KB an event, and knows no other way.
    "/ingest/marzban": 32 * MEGABYTE,
    "/ingest/pasarguard": 32 * MEGABYTE,
}


def install(app: FastAPI) -> None:
    """Make the app answer errors in our way, and refuse bodies that are too large."""
    app.add_exception_handler(errors.MarzhookError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(BodyLimit)
    app.add_middleware(LastResort)


async def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.MarzhookError)
    status = errors.http_status(error)
    seconds = error.seconds if isinstance(error, errors.ThrottledError) else 1
    retry = {"Retry-After": str(seconds)}
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: retry, 503: retry}.get(status)
    if status >= 500 and error.code != "database_unreachable":  # that is told once for all
        log.error("%s: %s", error.code, error)
    detail = error.fields if isinstance(error, errors.InvalidUserError) else str(error)
    return answer({"detail": detail, "code": error.code}, status, headers)


_BODY: Final = "send a JSON object, with the header Content-Type: application/json"
"""Without that header a body counts as text, and "Input should be a valid dictionary" puzzles whoever sees a dictionary."""


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        reason = next(one["ctx"]["error"] for one in found if one["type"] == "json_invalid")
        return answer({"detail": f"the body is not JSON: {reason}", "code": "malformed_json"}, 400)
    # Never the input itself: it may be a password.
    fields = {_field(one["loc"]): _BODY if one["loc"] == ("body",) else one["msg"] for one in found}
    return answer({"detail": fields, "code": "invalid"}, 422)


def _field(place: tuple[Any, ...]) -> str:
    """("body", "next_plan", "expire") -> "next_plan.expire"."""
    return ".".join(str(part) for part in (place[1:] or place))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail: Any = error.detail
    if detail == "Not Found":
        detail = f"there is no {request.url.path}; /docs lists what there is"
    elif detail == "There was an error parsing the body":
        detail = "the body cannot be read: it is not UTF-8, or nested too deeply"
    elif detail == "Method Not Allowed":
        detail = f"{request.url.path} does not take {request.method}; /docs lists what it takes"
    code = HTTP_CODES.get(error.status_code, "error")
    return answer({"detail": detail, "code": code}, error.status_code, error.headers)


class LastResort:
    """Turns what nobody expected into a 500 that shows nothing, and a log entry that shows all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            # The service stops, and has waited for it as long as it does: nobody's bug.
            log.warning("%s %s was not done before the service stopped", scope["method"], scope["path"])
            if started:
                raise
            detail = (
                "the service stops, and nobody knows whether this was done; look, or repeat it with its Idempotency-Key"
            )
            await _send(send, 503, {"detail": detail, "code": "outcome_unknown"})
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:  # too late for another answer: the server must cut the connection
                raise
            detail = "something went wrong inside Marzhook; its log has the details"
            await _send(send, 500, {"detail": detail, "code": "internal"})


class BodyLimit:
    """Refuses bodies that are too large: by their Content-Length, or while they are read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        limit = MAX_BODY_OF.get(scope["path"], MAX_BODY)
        for name, value in scope["headers"]:
            if name == b"content-length":
                # The server has checked that it is a number, and that no more than this arrives.
                if len(value) > 12 or int(value) > limit:
                    await _send(send, 413, {"detail": _too_large(limit), "code": "body_too_large"})
                else:
                    await self.app(scope, receive, send)
                return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                # Of the web framework's own kind, because it turns other errors in a body into a 400.
                raise HTTPException(413, _too_large(limit))
            return message

        await self.app(scope, counted, send)


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit // MEGABYTE} MiB; send it in several parts"


async def _send(send: Send, status: int, content: Any) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
