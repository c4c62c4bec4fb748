"""Which destination speaks to which kind of endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from marzhook.delivery import ACCEPTED, Delivery, Outcome
from marzhook.destinations.alert import Alert
from marzhook.destinations.base import Destination, failed
from marzhook.destinations.discord import Discord
from marzhook.destinations.exec import Exec
from marzhook.destinations.sql import Sql
from marzhook.destinations.telegram import Telegram
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError, MarzhookError, RenderError
from marzhook.request import Request, Response

KINDS: dict[str, type[Destination]] = {
    "webhook": Webhook,
    "discord": Discord,
    "telegram": Telegram,
    "alert": Alert,
    "sql": Sql,
    "exec": Exec,
}
NO_KIND: Final = "this version of Marzhook has no endpoints of the kind %(found)s"


def destination(endpoint: Endpoint, **values: Any) -> Destination:
    """The destination that speaks to this endpoint."""
    kind = KINDS.get(endpoint.kind)
    if kind is None:
        found = {"found": ascii(endpoint.kind)[:60]}
        return _Unspoken(endpoint, InvalidError(NO_KIND % found, code="invalid_kind", reason=NO_KIND, values=found))
    try:
        return kind(endpoint, **values)
    except MarzhookError as error:
        return _Unspoken(endpoint, error)
    except Exception as error:
        return _Unspoken(endpoint, InvalidError(f"{type(error).__name__}: {error}"))


def problem(endpoint: Endpoint) -> str | None:
    """Why nothing can be sent to it as it is stored, in words; None: it can."""
    return destination(endpoint, instance="").problem


def trouble(endpoint: Endpoint) -> MarzhookError | None:
    """The same as an error, whose reason can be translated."""
    one = destination(endpoint, instance="")
    return one.error if isinstance(one, _Unspoken) else None


class _Unspoken(Destination):
    """An endpoint that no destination can be made for, because of a template or a time zone that another version took, say, or
    a kind that only a newer one knows.

    It rests: what it is owed waits until it is changed, or a version runs that understands it.
    """

    def __init__(self, endpoint: Endpoint, error: MarzhookError) -> None:
        super().__init__(endpoint, instance="")
        self.error, self.problem = error, str(error)

    def item(self, delivery: Delivery, now: datetime) -> str:
        raise RenderError(self.problem or "")

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Request:
        raise RenderError(self.problem or "")

    def judge(self, response: Response, now: datetime) -> Outcome:
        # Of what was on its way before. What success is, all kinds agree on, jobs too.
        status = response.status
        return ACCEPTED if status == 0 or 200 <= (status or 0) < 300 else failed(response, now)
