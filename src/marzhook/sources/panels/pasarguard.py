"""PasarGuard: Marzban's list in chunks of 50, with other names and types within a user (read from the panel, 5.2).

Its `tries` count as Marzban's do. Newer versions take `enqueued_at` anew for each event, older ones at the panel's start;
a request does not tell which, so only the tries tell a retry.
"""

from __future__ import annotations

from typing import ClassVar, Final

from marzhook.event import DATA_RESET_BY_NEXT, DATA_USAGE_RESET, JSON
from marzhook.sources.panels.base import Reading, unix_of
from marzhook.sources.panels.marzban import Marzban

FIELDS: Final = {"proxy_settings": "proxies", "edit_at": "edited_at"}
"""A user's field -> Marzban's; the others have the same names."""


class PasarGuard(Marzban):
    name: ClassVar[str] = "pasarguard"

    def read(self, item: dict[str, JSON]) -> Reading:
        reading = super().read(item)
        action, detail = reading.action, reading.detail
        # The panel sends the start of a next plan under the name of a reset, but without the admin that a reset always has.
        if action == DATA_USAGE_RESET and "by" not in item:
            action = DATA_RESET_BY_NEXT
            detail["source_action"] = item["action"]
        user = detail.get("user")
        if isinstance(user, dict):
            detail["user"] = {
                FIELDS.get(name, name): unix_of(value) if name == "expire" else value for name, value in user.items()
            }
        return Reading(action, reading.username, detail, reading.identity, reading.tries)
