"""/api/v1/usage: nodes and scripts report the traffic of users."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from marzhook.api.auth import Caller, UsageWriter
from marzhook.api.context import Patient, ServicesDep, answer_text, example, parse_json
from marzhook.api.once import IdempotencyKey, once
from marzhook.errors import InvalidError
from marzhook.event import check_username
from marzhook.runtime import Services
from marzhook.store.database import Transaction

router = APIRouter(route_class=Patient, prefix="/api/v1/usage", tags=["Usage"])

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 2**60
"""An exbibyte in one report is a mistake, and sums of such reports would not fit the database's integers."""

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "example": [{"username": "alice", "bytes": 1048576}],
                "schema": {"type": "array", "maxItems": MAX_ROWS},
            }
        },
    }
}


@router.post(
    "",
    summary="Report traffic",
    responses=example({"accepted": 1, "unknown": ["bob"]}),
    openapi_extra=_BODY,
)
async def report(
    request: Request, services: ServicesDep, caller: UsageWriter, idempotency_key: IdempotencyKey = None
) -> Response:
    """An array of up to 10,000 `{username, bytes}`, all of it in one transaction, with the events that follow from it.
    Names that nobody has are listed in `unknown`; the others are charged. Send an `Idempotency-Key`, and a report
    whose answer was lost can be sent again without charging twice."""
    raw = await request.body()
    return await run_in_threadpool(_report, services, caller, idempotency_key, raw)


def _report(services: Services, caller: Caller, key: str | None, raw: bytes) -> Response:
    rows = _rows_of(parse_json(raw))

    def work(tx: Transaction) -> str:
        unknown = services.registry.charge(rows, tx=tx)
        # Each unknown name is there once, as it was first spelt; users' names do not differ by case.
        missing = {name.lower() for name in unknown}
        accepted = sum(1 for name, _ in rows if name.lower() not in missing) if missing else len(rows)
        return json.dumps({"accepted": accepted, "unknown": list(unknown)})

    text, replayed = once(services, caller, key, "/api/v1/usage", raw, work)
    return answer_text(text, 200, replayed)


def _rows_of(body: Any) -> list[tuple[str, int]]:
    """(username, bytes) of each row. Raises InvalidError, naming the first that is wrong."""
    if not isinstance(body, list) or not 1 <= len(body) <= MAX_ROWS:
        raise InvalidError(
            f'expected an array of 1 to {MAX_ROWS} rows like {{"username": "alice", "bytes": 1048576}}',
            code="invalid_batch",
        )
    rows = []
    for index, item in enumerate(body):
        try:
            name, count = item["username"], item["bytes"]
        except (TypeError, KeyError, IndexError):
            raise InvalidError(
                f"row {index}: expected an object with username and bytes; nothing was charged", code="invalid_row"
            ) from None
        # bool is an int to Python, but not to whoever wrote `true` there.
        if type(count) is not int or not 0 <= count <= MAX_BYTES:
            raise InvalidError(
                f"row {index}: bytes must be a whole number from 0 to 2^60; nothing was charged", code="invalid_bytes"
            )
        try:
            rows.append((check_username(name), count))
        except InvalidError as error:
            raise InvalidError(f"row {index}: {error}; nothing was charged", code=error.code) from None
    return rows
