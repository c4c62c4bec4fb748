"""Which destination speaks to which kind of endpoint."""

from __future__ import annotations

from typing import Any

from marzhook.destinations.alert import Alert
from marzhook.destinations.base import Destination
from marzhook.destinations.discord import Discord
from marzhook.destinations.exec import Exec
from marzhook.destinations.sql import Sql
from marzhook.destinations.telegram import Telegram
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint

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
    return KINDS[endpoint.kind](endpoint, **values)
