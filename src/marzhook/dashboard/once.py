"""Forms that act once, however often they are sent: clicked twice before a script keeps watch, or sent again by the browser.

Each page's forms carry a key that no other page has. The key is taken before anything is changed and the answer is noted
afterwards, both in the database: what comes again may reach another process.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from marzhook import errors
from marzhook.store import idempotency
from marzhook.store.database import Transaction

if TYPE_CHECKING:
    from marzhook.dashboard.visit import Visit

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds, from when a form was first sent, for which it waits for that answer when it is sent again; then whoever had to
answer is held up, or gone."""
LOOK: Final = 0.1


def once(visit: Visit, act: Callable[[], Response]) -> Response:
    """What `act` answers; where this very form has led on to another page before, that answer again, and nothing is done.
    Until there is one, the time at which the key was taken stands in its place.

    Raises ConflictError where nobody knows whether it was done, and what `act` raises.
    """
    if not visit.given("form_key"):
        return act()
    sent = [visit.request.url.path, visit.request.url.query, *map(list, visit.form.multi_items())]
    # Who goes back and writes something else means something else.
    key = hashlib.sha256(json.dumps(sent).encode()).hexdigest()
    owner, database, now = f"form:{visit.who.id}", visit.services.database, visit.services.clock.now()
    began = monotonic()

    def taken(tx: Transaction) -> str | None:
        known = idempotency.recall(tx, owner, key, b"", now=now)
        if known is None:
            idempotency.remember(tx, owner, key, b"", str(now.timestamp()), now=now)
        return known

    # Of several who send it again at once, one makes up for the note.
    with suppress(KeyError):
        visit.site.refused.remove(key)
        _note(visit, owner, key, None)
    while (known := database.transact(taken)) is not None:
        # Who waits writes nothing: whoever is waited for has to.
        while known is not None:
            if known.startswith("["):
                return _again(known)
            before = max(0.0, now.timestamp() - float(known or 0))
            if before + monotonic() - began > PATIENCE:
                raise errors.ConflictError("whether this was done is not known yet", code="form_repeated")
            sleep(LOOK)
            known = database.look(partial(idempotency.kept, owner=owner, key=key))
    try:
        response = act()
    except errors.OutcomeUnknownError:
        raise
    except errors.MarzhookError:
        _note(visit, owner, key, None)
        raise
    _note(visit, owner, key, response)
    return response


def _note(visit: Visit, owner: str, key: str, response: Response | None) -> None:
    """What became of it. Where it does not lead on, nothing was changed: it may be sent again."""
    text = None
    if response is not None and "location" in response.headers:
        text = json.dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers])
    try:
        visit.services.database.transact(lambda tx: idempotency.answer(tx, owner, key, text), repeatable=True)
    except errors.MarzhookError as error:
        if text is None:
            visit.site.refused.add(key)
        # Else it is done; sent again, it says that this is not known.
        log.warning("what a form led to could not be noted: %s", error)


def _again(known: str) -> Response:
    response = Response(status_code=303)
    response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(known)]
    return response
