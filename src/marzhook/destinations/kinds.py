"""Which destination speaks to which kind of endpoint."""

from __future__ import annotations

from typing import Any

from marzhook.destinations.base import Destination
from marzhook.destinations.discord import Discord
from marzhook.destinations.telegram import Telegram
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint

KINDS: dict[str, type[Destination]] = {"webhook": Webhook, "discord": Discord, "telegram": Telegram}


def destination(endpoint: Endpoint, **values: Any) -> Destination:
    """The destination that speaks to this endpoint."""
    return KINDS[endpoint.kind](endpoint, **values)
