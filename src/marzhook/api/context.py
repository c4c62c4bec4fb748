"""What every handler needs: the services, parameters with their limits, and JSON answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import AfterValidator

from marzhook.errors import InvalidError, TransientError
from marzhook.runtime import Services
from marzhook.store.database import Tries

T = TypeVar("T")

MAX_ID = 2**63 - 1
"""The largest id that the databases can hold; a larger one is the caller's mistake, not a crash."""


async def _services(request: Request) -> Services:
    # `async`, although it awaits nothing: a plain function would cost a trip through the thread pool.
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
"""Write `services: ServicesDep` as a handler's parameter."""


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


async def patiently(look: Callable[[], Awaitable[T]]) -> T:
    """What `look` returns, which changes nothing, and is done again while the database is away for a moment: it restarts,
    fails over, has ended the session. Raises TransientError when it stays away."""
    tries = Tries()
    while True:
        try:
            return await look()
        except TransientError as error:
            wait = tries.after(error)
        await asyncio.sleep(wait)


async def found(services: Services, look: Callable[[], T]) -> T:
    """What `look` finds by a key in the database.

    On SQLite at once: the trip through the thread pool takes longer, and in WAL no writer keeps a reader waiting. A server, or
    the way to it, may; then all that the event loop does would wait, too.
    """
    return look() if services.database.kind == "SQLite" else await run_in_threadpool(look)


class Patient(APIRoute):
    """A route whose GET is answered again where the database was away for a moment. What changes something tries again by
    itself, each transaction for its own sake."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        if self.methods != {"GET"}:
            return handler

        async def patient(request: Request) -> Response:
            return await patiently(partial(handler, request))

        return patient


Id = Annotated[int, Path(ge=1, le=MAX_ID)]
Time = Annotated[datetime, AfterValidator(_aware)]
"""ISO 8601 (UTC where it names no zone) or Unix seconds; aware."""
Since = Annotated[Time | None, Query(description="from this time on (ISO 8601 or Unix seconds)")]
Until = Annotated[Time | None, Query(description="before this time (ISO 8601 or Unix seconds)")]
Limit = Annotated[int, Query(ge=1, le=500, description="rows a page")]


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer, all ASCII: what came in as an escape that UTF-8 cannot write goes out as one again."""
    return answer_text(json.dumps(content, allow_nan=False), status, headers)


def answer_text(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is JSON text already."""
    return Response(text, status, headers, "application/json")


def parse_json(raw: bytes) -> Any:
    """Strict JSON. Raises InvalidError with code `malformed_json`."""
    try:
        return json.loads(raw, parse_constant=_refuse)
    except RecursionError:
        raise InvalidError("the body is nested too deeply", code="malformed_json") from None
    except ValueError as error:
        # UnicodeDecodeError is a ValueError whose text shows the body's bytes.
        what = "not UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise InvalidError(f"the body is not JSON: {what}", code="malformed_json") from None


def iso(time: datetime | None) -> str | None:
    """As the answers show times: ISO 8601, UTC, with a Z."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def example(content: Any, description: str = "Done", status: int = 200) -> dict[int | str, dict[str, Any]]:
    """A route's `responses=`: what the answer looks like, for /docs."""
    return {status: {"description": description, "content": {"application/json": {"example": content}}}}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
