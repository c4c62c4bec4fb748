"""Who is asking, and whether they may: admins' tokens and API keys, both as `Authorization: Bearer …`.

The panel's routes take admins' tokens only (`CurrentAdmin`, `SudoAdmin`). Marzhook's own take `require(scope)`: an API
key with that scope, or a sudo admin's token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import Connection

from marzhook.admin import SCOPES, Admin
from marzhook.api.context import ServicesDep, found, patiently
from marzhook.errors import ForbiddenError, UnauthorizedError
from marzhook.runtime import Services
from marzhook.store import admins, api_keys

T = TypeVar("T")

REFUSED = "Could not validate credentials"
"""Clients of the panel ask for a new token on exactly this text."""

_bearer = OAuth2PasswordBearer("/api/admin/token", auto_error=False)
Token = Annotated[str | None, Depends(_bearer)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks Marzhook's own API."""

    owner: str
    """`admin:<id>` or `key:<id>`: whose idempotency keys these are."""
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


# The dependencies below are `async`: a plain function would always cost a trip through the thread pool, see `found`.


async def current_admin(services: ServicesDep, token: Token) -> Admin:
    """The admin whose token this is. Raises UnauthorizedError, or ForbiddenError for an API key."""
    if token is not None and token.startswith(api_keys.PREFIX):
        raise ForbiddenError(
            "API keys open /api/v1 only; the panel's routes need an admin's token from POST /api/admin/token",
            code="api_key_not_accepted",
        )
    return await _admin(services, token)


CurrentAdmin = Annotated[Admin, Depends(current_admin)]


async def sudo_admin(admin: CurrentAdmin) -> Admin:
    """As current_admin; raises ForbiddenError for an admin without sudo."""
    if not admin.is_sudo:
        raise ForbiddenError("You're not allowed")
    return admin


SudoAdmin = Annotated[Admin, Depends(sudo_admin)]


def require(scope: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets in who has the scope. Raises UnauthorizedError, ForbiddenError."""
    assert scope in SCOPES

    async def caller(services: ServicesDep, token: Token) -> Caller:
        if token is not None and token.startswith(api_keys.PREFIX):
            key = await _key(services, token)
            if not key.may(scope):
                raise ForbiddenError(
                    f"this API key has the scopes {', '.join(sorted(key.scopes))}; this call needs {scope}",
                    code="missing_scope",
                )
            return key
        admin = await _admin(services, token)
        if not admin.is_sudo:
            raise ForbiddenError(
                f"{admin.username} is not a sudo admin; /api/v1 needs a sudo admin's token"
                f" or an API key with the scope {scope}",
                code="missing_scope",
            )
        return Caller(f"admin:{admin.id}", frozenset(SCOPES))

    return caller


Reader = Annotated[Caller, Depends(require("read"))]
Manager = Annotated[Caller, Depends(require("admin"))]
EventWriter = Annotated[Caller, Depends(require("events:write"))]
UsageWriter = Annotated[Caller, Depends(require("usage:write"))]


async def _admin(services: Services, token: str | None) -> Admin:
    if token is not None:
        admin = await _found(services, partial(admins.admin_of_token, token=token, now=services.clock.now()))
        if admin is not None:
            return admin
    raise UnauthorizedError(REFUSED)


async def _key(services: Services, token: str) -> Caller:
    key = await _found(services, partial(api_keys.lookup, text=token))
    if key is None:
        raise UnauthorizedError("this API key is unknown or was revoked; make one with POST /api/v1/keys")
    return Caller(f"key:{key.id}", key.scopes)


async def _found(services: Services, look: Callable[[Connection], T]) -> T:
    def once() -> T:
        with services.database.read() as conn:
            return look(conn)

    return await patiently(partial(found, services, once))
