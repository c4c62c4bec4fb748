"""/ingest/…: where panels send their webhooks to; and what of that could not be taken."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from marzhook.api.auth import Reader
from marzhook.api.context import MAX_ID, Limit, Patient, ServicesDep, answer, example, iso
from marzhook.runtime import Services
from marzhook.sources.panels import PANELS
from marzhook.sources.panels.base import Panel
from marzhook.store import rejected
from marzhook.store.rejected import Rejected

router = APIRouter(route_class=Patient, tags=["Panels"])

ON_BEHALF: Final = frozenset(
    {
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "via",
        "origin",
        "sec-fetch-site",
    }
)
"""Headers of proxies and browsers: who stands behind those is somewhere else (any web page can make a browser on this
machine post something here). No panel sends them."""

_TAKEN = {"accepted": 12, "duplicates": 0, "rejected": 0}
_REJECTED = {
    "id": 1, "at": "2026-01-01T00:00:00Z", "source": "marzban", "code": "invalid_username",
    "reason": "username is missing", "body": '{"action": "user_updated"}', "length": 26,
}  # fmt: skip


def _body(example: Any) -> dict[str, Any]:
    schema = {"anyOf": [{"type": "object"}, {"type": "array"}]}
    content = {"application/json": {"example": example, "schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_EVENT = {"enqueued_at": 1680506457.636369, "send_at": 1680506457.63638, "tries": 0,
          "username": "marzban_test_user", "action": "user_updated", "by": None}  # fmt: skip
_DONE = example(_TAKEN, "On disk, and owed to every endpoint that wants them")


@router.post("/ingest/marzban", summary="Take Marzban's events", responses=_DONE, openapi_extra=_body([_EVENT]))
async def marzban(request: Request, services: ServicesDep) -> Response:
    """For the panel's `WEBHOOK_ADDRESS`: its list, or the single object of versions before 0.4."""
    return await _ingest(request, services, PANELS["marzban"])


@router.post("/ingest/pasarguard", summary="Take PasarGuard's events", responses=_DONE, openapi_extra=_body([_EVENT]))
async def pasarguard(request: Request, services: ServicesDep) -> Response:
    """For the address of a webhook in the panel's settings, with the secret that is set there."""
    return await _ingest(request, services, PANELS["pasarguard"])


@router.post(
    "/ingest/marzneshin",
    summary="Take Marzneshin's events",
    responses=_DONE,
    openapi_extra=_body(
        {"created_at": 1680506457.6, "action": "user_activated", "user": {"username": "alice"}, "by": None}
    ),
)
async def marzneshin(request: Request, services: ServicesDep) -> Response:
    """For the panel's `WEBHOOK_ADDRESS`. Its own actions get Marzban's names."""
    return await _ingest(request, services, PANELS["marzneshin"])


@router.post(
    "/ingest/remnawave",
    summary="Take Remnawave's events",
    responses=_DONE,
    openapi_extra=_body(
        {
            "scope": "user",
            "event": "user.modified",
            "timestamp": "2026-01-01T00:00:00.000Z",
            "data": {"username": "alice"},
        }
    ),
)
async def remnawave(request: Request, services: ServicesDep) -> Response:
    """For the panel's `WEBHOOK_URL`, with its `WEBHOOK_SECRET_HEADER` as the secret. Its events get Marzban's names and
    fields where there are any."""
    return await _ingest(request, services, PANELS["remnawave"])


@router.get(
    "/api/v1/ingest/rejected",
    summary="List what panels sent and could not be taken",
    responses=example({"rejected": [_REJECTED], "next_before": None}),
)
def list_rejected(
    services: ServicesDep,
    caller: Reader,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID, description="`next_before` of the page before")] = None,
    limit: Limit = 100,
) -> Response:
    """Newest first, of the last 1,000. The body is for the scope `admin`; of a long one, its first 65,536 characters."""
    with services.database.read() as conn:
        found = rejected.newest(conn, before=before, limit=limit)
    shown = [_rejected_shown(one, full=caller.may("admin")) for one in found]
    return answer({"rejected": shown, "next_before": found[-1].id if len(found) == limit else None})


async def _ingest(request: Request, services: Services, panel: Panel) -> Response:
    headers, local = dict(request.headers), _is_local(request)
    # Who is not let in need not be listened to, unless it takes the body to tell.
    body = b"" if not panel.signs else await request.body()
    services.ingest.admit(panel, headers, body, local=local)
    given = request.query_params.get("source", "")
    # What is no number is the number of none, which is warned of.
    number = int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else 0
    source = number if given else None
    taken = await run_in_threadpool(services.ingest.take, panel, body or await request.body(), source_id=source)
    return answer({"accepted": taken.accepted, "duplicates": taken.duplicates, "rejected": taken.rejected})


def _is_local(request: Request) -> bool:
    """Whether this comes from this machine, and on nobody else's behalf."""
    if request.client is None or any(name in ON_BEHALF for name in request.headers):
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _rejected_shown(one: Rejected, *, full: bool) -> dict[str, Any]:
    return {
        "id": one.id,
        "at": iso(one.at),
        "source": one.source,
        "code": one.code,
        "reason": one.reason,
        "body": one.body if full else None,
        "length": one.length,
    }
