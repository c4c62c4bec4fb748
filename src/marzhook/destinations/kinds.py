"""Which destination speaks to which kind of endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from marzhook.delivery import ACCEPTED, Delivery, Outcome
from marzhook.destinations.alert import Alert
from marzhook.destinations.base import Destination, failed
from marzhook.destinations.discord import Discord
from marzhook.destinations.exec import Exec
from marzhook.destinations.sql import Sql
from marzhook.destinations.telegram import Telegram
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint
from marzhook.errors import MarzhookError, RenderError
from marzhook.request import Request, Response

KINDS: dict[str, type[Destination]] = {
    "webhook": Webhook,
    "discord": Discord,
    "telegram": Telegram,
    "alert": Alert,
    "sql": Sql,
    "exec": Exec,
}


def destination(endpoint: Endpoint, **values: Any) -> Destination:
    """The destination that speaks to this endpoint."""
    kind = KINDS.get(endpoint.kind)
    if kind is None:
        return _Unspoken(endpoint, f"this version of Marzhook has no endpoints of the kind {ascii(endpoint.kind)[:60]}")
    try:
        return kind(endpoint, **values)
    except Exception as error:
        return _Unspoken(
            endpoint, str(error) if isinstance(error, MarzhookError) else f"{type(error).__name__}: {error}"
        )


def problem(endpoint: Endpoint) -> str | None:
    """Why nothing can be sent to it as it is stored, in words; None: it can."""
    return destination(endpoint, instance="").problem


class _Unspoken(Destination):
    """An endpoint that no destination can be made for, because of a template or a time zone that another version took, say, or
    a kind that only a newer one knows.

    It rests: what it is owed waits until it is changed, or a version runs that understands it.
    """

    def __init__(self, endpoint: Endpoint, reason: str) -> None:
        super().__init__(endpoint, instance="")
        self.problem = reason

    def item(self, delivery: Delivery, now: datetime) -> str:
        raise RenderError(self.problem or "")

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Request:
        raise RenderError(self.problem or "")

    def judge(self, response: Response, now: datetime) -> Outcome:
        # Of what was on its way before. What success is, all kinds agree on, jobs too.
        status = response.status
        return ACCEPTED if status == 0 or 200 <= (status or 0) < 300 else failed(response, now)
