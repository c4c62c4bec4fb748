"""Marzban: a list of notifications (one object up to 0.3.0), as it calls them itself.

What tells that two of them are the same event (read from the panel's sender, 0.8.4): `enqueued_at` is that of the panel's
start for all events of a process, so it names the process and not the event. The sender keeps an event as it was made and
changes two fields of it at each try: `tries` (one more) and `send_at`. The rest is the identity. It is not always
enough: two deletions of the same name look alike. A user's snapshot bears its time, to the second, in the token of
`subscription_url`, which the panel makes anew for each event.
"""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar

from marzhook.event import JSON
from marzhook.sources.panels.base import Panel, Reading, detail_of, field_of, tries_of

_VARIABLE = frozenset({"tries", "send_at"})
"""What differs between two tries of the same event."""
_SIGNATURE = 10
"""Characters of a subscription token's signature."""


class Marzban(Panel):
    name: ClassVar[str] = "marzban"

    def read(self, item: dict[str, JSON]) -> Reading:
        username = field_of(item, "username")
        return Reading(
            field_of(item, "action"),
            username,
            detail_of(item),
            identity={key: value for key, value in item.items() if key not in _VARIABLE},
            tries=tries_of(item),
            dated=_dated(item.get("user"), username),
        )


def _dated(user: JSON, username: JSON) -> bool:
    """Whether the snapshot's subscription URL ends in a token of `base64(name,seconds)` and its signature."""
    url = user.get("subscription_url") if isinstance(user, dict) else None
    if not isinstance(url, str) or not isinstance(username, str):
        return False
    token = url.rpartition("/")[2][:-_SIGNATURE]
    try:
        name, comma, seconds = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True).rpartition(b",")
    except (binascii.Error, ValueError):
        return False
    return bool(comma) and seconds.isdigit() and name == username.encode("utf-8", "surrogatepass")
