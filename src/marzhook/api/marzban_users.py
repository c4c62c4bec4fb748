"""The panel's users API: same paths, shapes, statuses and texts as Marzban 0.8, so that its clients work unchanged.

Users come and go as plain JSON, without models: what a client sends is checked field by field by the registry, and
what it gets is `User.shown()`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, HTTPException, Query, Response

from marzhook.api.auth import CurrentAdmin, SudoAdmin
from marzhook.api.context import Patient, ServicesDep, answer, example, found
from marzhook.sources.user_fields import read_time
from marzhook.store.user_lists import UserQuery
from marzhook.user import User

router = APIRouter(route_class=Patient, prefix="/api", tags=["Users, as Marzban has them"])

USAGE_PERIOD: Final = timedelta(days=30)
"""What `usage` covers where no start is given."""

_SENT: Final = {
    "username": "alice",
    "proxies": {"vless": {"id": "35e4e39c-7d5c-4f4b-8b71-558e4f37ff53"}},
    "inbounds": {"vless": ["VLESS TCP"]},
    "expire": 1798016774,
    "data_limit": 5368709120,
    "data_limit_reset_strategy": "no_reset",
    "status": "active",
    "note": None,
    "on_hold_expire_duration": None,
    "on_hold_timeout": None,
    "auto_delete_in_days": None,
    "next_plan": None,
}
_SHOWN: Final = {
    **_SENT,
    "used_traffic": 0,
    "lifetime_used_traffic": 0,
    "created_at": "2026-11-23T09:06:14.892176",
    "links": [],
    "subscription_url": "/sub/oAwgItLtGzZvnSCy4n_XCZ2zyswC0B8V",
    "excluded_inbounds": {},
    "admin": {"username": "root", "is_sudo": True, "telegram_id": None, "discord_webhook": None, "users_usage": 0},
}
_USER: Final = example(_SHOWN, "The user")

NewUser = Annotated[dict[str, Any], Body(examples=[_SENT])]
ChangedUser = Annotated[dict[str, Any], Body(examples=[{"status": "disabled"}, {"data_limit": 0, "note": "renewed"}])]
Moment = Annotated[str | None, Query(description="ISO 8601 (without an offset: UTC) or Unix seconds")]
Status = Literal["active", "disabled", "limited", "expired", "on_hold"]


@router.post("/user", responses=_USER)
def add_user(fields: NewUser, services: ServicesDep, admin: CurrentAdmin) -> Response:
    """A new user, owned by who makes it. 0 or null in data_limit and expire mean unlimited."""
    return _shown(services.registry.create(fields, admin))


@router.get("/user/{username}", responses=_USER)
async def get_user(username: str, services: ServicesDep, admin: CurrentAdmin) -> Response:
    # `async` as the dependencies are, and for their reason.
    return _shown(await found(services, partial(services.registry.get, username, admin)))


@router.put("/user/{username}", responses=_USER)
def modify_user(username: str, fields: ChangedUser, services: ServicesDep, admin: CurrentAdmin) -> Response:
    """Change what is given: null and omitted stay as they are, 0 is unlimited. Disable and enable with `status`."""
    return _shown(services.registry.modify(username, fields, admin))


@router.delete("/user/{username}", responses=example({"detail": "User successfully deleted"}))
def remove_user(username: str, services: ServicesDep, admin: CurrentAdmin) -> Response:
    services.registry.delete(username, admin)
    return answer({"detail": "User successfully deleted"})


@router.post("/user/{username}/reset", responses=_USER)
def reset_user_data_usage(username: str, services: ServicesDep, admin: CurrentAdmin) -> Response:
    """Nothing used any more; who was limited is active again."""
    return _shown(services.registry.reset(username, admin))


@router.post("/user/{username}/revoke_sub", responses=_USER)
def revoke_user_subscription(username: str, services: ServicesDep, admin: CurrentAdmin) -> Response:
    """New credentials and a new subscription address."""
    return _shown(services.registry.revoke_sub(username, admin))


@router.get("/user/{username}/usage", responses=example(
    {"username": "alice", "usages": [{"node_id": None, "node_name": "Master", "used_traffic": 0}]}
))  # fmt: skip
def get_user_usage(
    username: str, services: ServicesDep, admin: CurrentAdmin, start: Moment = None, end: Moment = None
) -> Response:
    """Bytes used, by the hour, from start (30 days before the end) to end (now)."""
    until = _moment("end", end) or services.clock.now()
    since = _moment("start", start) or until - USAGE_PERIOD
    if since > until:
        raise HTTPException(400, "start must not be after end")
    user, used = services.registry.usage(username, since, until, admin)
    usage = {"node_id": None, "node_name": "Master", "used_traffic": used}
    # aiomarzban (1.0.4) looks for the node beside the list instead of in it, and fails at the panel's own answer.
    return answer({"username": user.username, "usages": [usage], **usage})


@router.put("/user/{username}/set-owner", responses=_USER)
def set_owner(
    username: str,
    admin_username: Annotated[str, Query(description="who is to own the user")],
    services: ServicesDep,
    admin: SudoAdmin,
) -> Response:
    return _shown(services.registry.set_owner(username, admin_username, admin))


@router.get("/users", responses=example({"users": [_SHOWN], "total": 1}))
def get_users(
    services: ServicesDep,
    admin: CurrentAdmin,
    offset: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    username: Annotated[list[str] | None, Query(description="may be repeated")] = None,
    search: Annotated[str | None, Query(description="part of the username or of the note")] = None,
    owner: Annotated[list[str] | None, Query(alias="admin", description="admin's name; may be repeated")] = None,
    status: Status | None = None,
    sort: Annotated[str | None, Query(description="username, used_traffic, data_limit, expire, created_at; - before "
                                      "a name turns it round; several with commas")] = None,
) -> Response:  # fmt: skip
    """The users that an admin sees: his own, or all if he is sudo. `total` ignores offset and limit."""
    query = UserQuery(offset, limit, username, search, owner, status, sort)
    users, total = services.registry.list(query, admin)
    return answer({"users": [user.shown() for user in users], "total": total})


@router.post("/users/reset", responses=example({"detail": "Users successfully reset."}))
def reset_users_data_usage(services: ServicesDep, admin: SudoAdmin) -> Response:
    """Reset the traffic of all users."""
    services.registry.reset_all(admin)
    return answer({"detail": "Users successfully reset."})


@router.get("/users/expired", responses=example(["alice"]))
def get_expired_users(
    services: ServicesDep, admin: CurrentAdmin, expired_after: Moment = None, expired_before: Moment = None
) -> Response:
    """Names of the users whose time ended between the two moments (ever; until now)."""
    after, before = _moment("expired_after", expired_after), _moment("expired_before", expired_before)
    return answer(services.registry.expired(after, before, admin))


@router.delete("/users/expired", responses=example(["alice"]))
def delete_expired_users(
    services: ServicesDep, admin: CurrentAdmin, expired_after: Moment = None, expired_before: Moment = None
) -> Response:
    """Delete them; return their names."""
    after, before = _moment("expired_after", expired_after), _moment("expired_before", expired_before)
    return answer(services.registry.delete_expired(after, before, admin))


@router.post("/admin/{username}/users/disable", responses=example({"detail": "Users successfully disabled"}))
def disable_all_active_users(username: str, services: ServicesDep, admin: SudoAdmin) -> Response:
    """Disable all active users, and those on hold, of an admin."""
    services.registry.disable_all(username, admin)
    return answer({"detail": "Users successfully disabled"})


@router.post("/admin/{username}/users/activate", responses=example({"detail": "Users successfully activated"}))
def activate_all_disabled_users(username: str, services: ServicesDep, admin: SudoAdmin) -> Response:
    """Activate all disabled users of an admin."""
    services.registry.activate_all(username, admin)
    return answer({"detail": "Users successfully activated"})


def _shown(user: User) -> Response:
    return answer(user.shown())


def _moment(name: str, text: str | None) -> datetime | None:
    """Clients send empty parameters for "any"."""
    if text is None or not text.strip():
        return None
    try:
        return read_time(text)
    except ValueError as error:
        raise HTTPException(400, f"{name} {error}") from None
