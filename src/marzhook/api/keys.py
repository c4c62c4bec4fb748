"""/api/v1/keys: API keys for scripts, nodes and shops."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from marzhook.api.auth import Manager
from marzhook.api.context import Id, Patient, ServicesDep, answer, example, iso
from marzhook.store import api_keys
from marzhook.store.api_keys import ApiKey

router = APIRouter(route_class=Patient, prefix="/api/v1/keys", tags=["API keys"])

_SHOWN = {
    "id": 1,
    "name": "node 3",
    "scopes": ["usage:write"],
    "created_at": "2026-01-01T00:00:00Z",
    "revoked_at": None,
}


class NewKey(BaseModel):
    """A key to be made. Scopes: events:write, usage:write, read, admin (which includes the others)."""

    model_config = ConfigDict(extra="forbid")

    name: str
    scopes: list[str]


@router.post(
    "",
    summary="Make an API key",
    status_code=201,
    responses=example(_SHOWN | {"key": "mzk_…"}, "The key is shown this once", 201),
)
def create(services: ServicesDep, _caller: Manager, new: NewKey) -> Response:
    """A new key. Its text is in this answer and nowhere else: Marzhook keeps only a hash."""
    key, text = services.database.transact(
        lambda tx: api_keys.create(tx, name=new.name, scopes=new.scopes, now=services.clock.now())
    )
    return answer(_shown(key) | {"key": text}, 201)


@router.get("", summary="List API keys", responses=example({"keys": [_SHOWN]}))
def list_keys(services: ServicesDep, _caller: Manager) -> Response:
    """All keys, the revoked ones too, without their text."""
    with services.database.read() as conn:
        return answer({"keys": [_shown(key) for key in api_keys.all_keys(conn)]})


@router.delete("/{key_id}", summary="Revoke an API key", responses=example(_SHOWN))
def revoke(services: ServicesDep, _caller: Manager, key_id: Id) -> Response:
    """From now on the key opens nothing."""
    revoked = services.database.transact(
        lambda tx: api_keys.revoke(tx, key_id, now=services.clock.now()), repeatable=True
    )
    return answer(_shown(revoked))


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": iso(key.created_at),
        "revoked_at": iso(key.revoked_at),
    }
