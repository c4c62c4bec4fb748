"""Alerts by Apprise: Telegram, e-mail, Slack and a hundred services more. The endpoint's URL is Apprise's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from marzhook import request as carried
from marzhook.delivery import Delivery, Outcome
from marzhook.destinations import messages
from marzhook.destinations.base import Destination, done
from marzhook.destinations.messages import FACTS, Messages, visible
from marzhook.endpoint import NO_SERVICE, Endpoint, unusable
from marzhook.event import JSON
from marzhook.request import LONGEST_ALERT, Job, Response

_TEMPLATE = "{{ username }}\n" + FACTS


class Alert(Destination):
    """A service that Apprise knows."""

    known_options = messages.OPTIONS
    # What a service takes at once is not known; what it wants between two, each answer says.
    concurrency = 1
    longest = LONGEST_ALERT  # each recipient of its URL has a request's time

    def __init__(self, endpoint: Endpoint, **values: Any) -> None:
        super().__init__(endpoint, **values)
        self._messages = Messages(endpoint.options, default=_TEMPLATE)

    @classmethod
    def checked_url(cls, url: object) -> str:
        if not isinstance(url, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\x00-\x20\x7f]{1,2000}", url):
            raise unusable(NO_SERVICE)
        return url

    @classmethod
    def _checked(cls, options: Mapping[str, JSON]) -> dict[str, JSON]:
        return messages.checked(options, written=visible, proof=lambda text: None)

    def item(self, delivery: Delivery, now: datetime) -> str:
        event = delivery.event
        return json.dumps([self._messages.title(event), self._messages.text(event, event.detail)])

    def readable(self, item: str) -> str:
        return "\n\n".join(json.loads(item))

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Job:
        title, text = json.loads(items[0])
        return self._job(carried.Alert(self._url, title, text))

    def judge(self, response: Response, now: datetime) -> Outcome:
        return done(response)._replace(pause=response.pause)
