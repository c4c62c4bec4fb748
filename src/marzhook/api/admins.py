"""The panel's tokens and admins: same paths and shapes as there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field

from marzhook import operations
from marzhook.api.auth import CurrentAdmin, SudoAdmin
from marzhook.api.context import MAX_ID, Patient, ServicesDep, answer, example
from marzhook.endpoint import check_url
from marzhook.store import admins

router = APIRouter(route_class=Patient, prefix="/api", tags=["Admins"])

_SHOWN = {
    "username": "admin",
    "is_sudo": True,
    "telegram_id": None,
    "discord_webhook": None,
    "users_usage": 0,
}
TelegramId = Annotated[int | None, Field(ge=-MAX_ID, le=MAX_ID)]
DiscordUrl = Annotated[str | None, AfterValidator(lambda url: check_url(url) if url else url)]


class NewAdmin(BaseModel):
    """An admin to be made. Further fields, which the panel's clients send, are ignored."""

    username: str
    password: str = Field(repr=False)
    is_sudo: bool = False
    telegram_id: TelegramId = None
    discord_webhook: DiscordUrl = None


class AdminChange(BaseModel):
    """What is null or missing stays as it is; 0 and "" take the telegram_id and the discord_webhook away."""

    password: str | None = Field(default=None, repr=False)
    is_sudo: bool | None = None
    telegram_id: TelegramId = None
    discord_webhook: DiscordUrl = None


@router.post(
    "/admin/token",
    summary="Log in",
    responses=example({"access_token": "eyJhbGciOi…", "token_type": "bearer"}),
)
def log_in(
    request: Request,
    services: ServicesDep,
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
    grant_type: Annotated[str | None, Form(description="`password`, empty or missing")] = None,
    scope: Annotated[str | None, Form(description="ignored")] = None,
) -> Response:
    """A bearer token for an admin's name and password. After 5 wrong ones in 5 minutes from one address, or 20 with several
    names, the answer is 429 for as long as its Retry-After says."""
    address = request.client.host if request.client else ""
    token = operations.sign_in(services, username, password, address=address)
    return answer({"access_token": token, "token_type": "bearer"})


@router.get("/admin", summary="Who am I?", responses=example(_SHOWN))
def me(admin: CurrentAdmin) -> Response:
    """The admin whose token this is."""
    return answer(admin.shown())


@router.get("/admins", summary="List admins", responses=example([_SHOWN]))
def list_admins(
    services: ServicesDep,
    _admin: SudoAdmin,
    offset: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
    limit: Annotated[int | None, Query(ge=0, le=MAX_ID)] = None,
    username: Annotated[str | None, Query(description="part of the name")] = None,
) -> Response:
    """All admins, or those whose name contains `username`. Sudo only."""
    with services.database.read() as conn:
        found = admins.find(conn, username=username, offset=offset, limit=limit)
    return answer([admin.shown() for admin in found])


@router.post("/admin", summary="Make an admin", responses=example(_SHOWN))
def create(services: ServicesDep, _admin: SudoAdmin, new: NewAdmin) -> Response:
    """A new admin. Sudo only."""
    password_hash = admins.hash_password(new.password)
    made = services.database.transact(
        lambda tx: admins.create(
            tx,
            username=new.username,
            password_hash=password_hash,
            is_sudo=new.is_sudo,
            telegram_id=new.telegram_id or None,
            discord_webhook=new.discord_webhook or None,
            now=services.clock.now(),
        )
    )
    return answer(made.shown())


@router.put("/admin/{username}", summary="Change an admin", responses=example(_SHOWN))
def modify(services: ServicesDep, _admin: SudoAdmin, username: str, change: AdminChange) -> Response:
    """Change an admin; a new password voids his tokens. Sudo only."""
    values: dict[str, Any] = {}
    if change.password is not None:
        values["password_hash"] = admins.hash_password(change.password)
    if change.is_sudo is not None:
        values["is_sudo"] = change.is_sudo
    if change.telegram_id is not None:
        values["telegram_id"] = change.telegram_id or None
    if change.discord_webhook is not None:
        values["discord_webhook"] = change.discord_webhook or None
    changed = services.database.transact(lambda tx: admins.change(tx, username, values, now=services.clock.now()))
    return answer(changed.shown())


@router.delete(
    "/admin/{username}", summary="Delete an admin", responses=example({"detail": "Admin successfully deleted"})
)
def delete(services: ServicesDep, _admin: SudoAdmin, username: str) -> Response:
    """Delete an admin; his users stay, without an owner. Sudo only."""
    services.database.transact(lambda tx: admins.delete(tx, username))
    return answer({"detail": "Admin successfully deleted"})


@router.get("/admin/usage/{username}", summary="Traffic of an admin's users", responses=example(1073741824))
def usage(services: ServicesDep, _admin: SudoAdmin, username: str) -> Response:
    """Bytes that his users have used since the last reset. Sudo only."""
    with services.database.read() as conn:
        return answer(admins.get(conn, username).users_usage)


@router.post("/admin/usage/reset/{username}", summary="Count an admin's traffic anew", responses=example(_SHOWN))
def reset_usage(services: ServicesDep, _admin: SudoAdmin, username: str) -> Response:
    """Begin at 0 again; his users' own traffic stays as it is. Sudo only."""
    changed = services.database.transact(
        lambda tx: admins.change(tx, username, {"users_usage": 0}, now=services.clock.now())
    )
    return answer(changed.shown())
