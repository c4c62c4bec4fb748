"""A command of one's own: each event on its standard input, and what is asked for most in its environment.

The endpoint's URL is `exec:` and the command line, as a shell would split it; no shell is there. Exit status 0 is success, 65
(sysexits' EX_DATAERR) says that the event is at fault, and anything else is tried again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime

from marzhook.delivery import Delivery, Outcome
from marzhook.destinations.base import Destination, done
from marzhook.destinations.webhook import documented
from marzhook.endpoint import MISSING, NO_PROGRAM, TOO_LONG, UNENDED, unusable
from marzhook.request import Command, Job, Response

SCHEME = "exec:"


def argv_of(url: str) -> tuple[str, ...]:
    """The program and its arguments. Raises InvalidError."""
    try:
        argv = shlex.split(url.removeprefix(SCHEME))
    except ValueError:
        raise unusable(UNENDED) from None
    if not argv or not argv[0].startswith("/") or "\0" in url:
        raise unusable(NO_PROGRAM)
    return tuple(argv)


class Exec(Destination):
    """A program of this machine."""

    concurrency = 4

    @classmethod
    def checked_url(cls, url: object) -> str:
        if not isinstance(url, str) or not url:
            raise unusable(MISSING)
        if len(url) > 2048:
            raise unusable(TOO_LONG)
        argv_of(url)
        return SCHEME + url.removeprefix(SCHEME).strip()

    def item(self, delivery: Delivery, now: datetime) -> str:
        return documented(delivery.event, delivery.tries, delivery.event.detail_at(self.endpoint.detail))

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Job:
        event = json.loads(items[0])
        environment = {
            "MARZHOOK_EVENT_ID": f"msg_{self._instance}_{ids[0]}",
            "MARZHOOK_EVENT_ACTION": event["action"],
            "MARZHOOK_EVENT_USERNAME": event["username"],
            "MARZHOOK_EVENT_ENQUEUED_AT": repr(event["enqueued_at"]),
            "MARZHOOK_EVENT_TRIES": str(event["tries"]),
        }
        return self._job(Command(argv_of(self._url), items[0].encode(), environment))

    def judge(self, response: Response, now: datetime) -> Outcome:
        return done(response)
