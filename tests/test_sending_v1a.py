"""ed25519 signatures as the sender makes them: verified by the kit, with the public key that the API shows."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from marzhook import signing
from marzhook.delivery import Delivery
from marzhook.destinations.kinds import destination
from marzhook.endpoint import Endpoint
from marzhook.event import Event
from marzhook.receiver import RequestRefused, Secrets
from marzhook.request import Request
from marzhook.store import endpoints, schema
from marzhook.store.database import Database
from marzhook.testing import FakeClock

URL = "http://127.0.0.1:9000/"


def made(database: Database, clock: FakeClock, **values: object) -> Endpoint:
    with database.write() as tx:
        return endpoints.create(tx, now=clock.now(), kind="webhook", url=URL, **values)


def sent(endpoint: Endpoint, clock: FakeClock) -> Request:
    target = destination(endpoint, instance="abcd")
    delivery = Delivery(endpoint.id, Event(7, "user_created", "ann", 1.5))
    return target.request([target.item(delivery, clock.now())], [7], clock.now(), mode="plain")


def proof(request: Request, clock: FakeClock, *keys: str) -> str:
    """How the request convinces who has these keys. Raises RequestRefused."""
    headers = {name.lower(): value for name, value in request.headers}
    return Secrets(*keys).verify(headers, request.body, clock.now().timestamp())


def public(endpoint: Endpoint) -> str:
    assert endpoint.signing_key is not None
    return signing.public_part(endpoint.signing_key)


@pytest.mark.parametrize(("signatures", "known"), [("v1", {"v1"}), ("v1a", {"v1a"}), ("both", {"v1", "v1a"})])
def test_either_or_both(database: Database, clock: FakeClock, signatures: str, known: set[str]) -> None:
    """Who has the signing secret verifies v1, who has the public key v1a; what was not asked for is not there."""
    endpoint = made(database, clock, signatures=signatures)
    request = sent(endpoint, clock)
    kinds = {one.partition(",")[0] for one in dict(request.headers)["webhook-signature"].split(" ")}
    assert kinds == known
    assert (endpoint.signing_key is None) == (signatures == "v1")
    if "v1" in known:
        assert proof(request, clock, endpoint.signing_secret) == "v1"
    if "v1a" in known:
        assert proof(request, clock, public(endpoint)) == "v1a"
        with pytest.raises(RequestRefused):
            proof(request, clock, signing.public_part(signing.new_private_key()))


def test_a_rotation_changes_the_key_too(database: Database, clock: FakeClock) -> None:
    """For a day both keys verify, then the new one alone."""
    before = made(database, clock, signatures="v1a")
    with database.write() as tx:
        after = endpoints.rotate_secret(tx, before.id, now=clock.now())
    assert public(after) != public(before)
    request = sent(after, clock)
    assert proof(request, clock, public(before)) == proof(request, clock, public(after)) == "v1a"
    clock.advance(timedelta(hours=25).total_seconds())
    request = sent(after, clock)
    assert proof(request, clock, public(after)) == "v1a"
    with pytest.raises(RequestRefused):
        proof(request, clock, public(before))


def test_a_key_is_made_when_it_is_first_asked_for_and_kept(database: Database, clock: FakeClock) -> None:
    """Switching to and fro does not leave a receiver behind that has noted the public key."""
    endpoint = made(database, clock)
    keys = []
    for signatures in ("v1a", "v1", "both"):
        with database.write() as tx:
            endpoint = endpoints.update(tx, endpoint.id, signatures=signatures)
        keys.append(public(endpoint))
    assert len(set(keys)) == 1


def test_the_private_key_is_nowhere_to_be_read(database: Database, clock: FakeClock) -> None:
    """Neither on disk nor in what is printed of an endpoint."""
    endpoint = made(database, clock, signatures="both")
    assert endpoint.signing_key is not None
    with database.read() as conn:
        [stored] = conn.execute(sa.select(schema.endpoints.c.signing_key)).scalars()
    assert endpoint.signing_key.removeprefix("whsk_") not in stored
    assert endpoint.signing_key not in repr(endpoint)
