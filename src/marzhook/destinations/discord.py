"""Discord: events as embeds, up to ten a message.

Limits from Discord's documentation: 10 embeds a message, 6,000 characters in all of them together, 1,024 a field's value.
Titles and colours are the panel's. Names are escaped and mentions are off: a username is data, never markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from marzhook.delivery import Delivery, Outcome, Verdict
from marzhook.destinations.base import MAX_RETRY_AFTER, Destination, failed, json_body, retry_after
from marzhook.event import JSON
from marzhook.request import Request, Response

_LOOKS = {
    "user_created": ("🆕 Created", 65280),
    "user_updated": ("✏️ Modified", 65535),
    "user_deleted": ("🗑️ Deleted", 16711680),
    "user_limited": ("🪫 Limited", 16295848),
    "user_expired": ("🕔 Expired", 16503693),
    "user_disabled": ("❌ Disabled", 4344665),
    "user_enabled": ("✅ Activated", 10151604),
    "data_usage_reset": ("🔁 Usage reset", 65535),
    "data_reset_by_next": ("🔁 Next plan started", 65535),
    "subscription_revoked": ("🔁 Subscription revoked", 16711680),
    "reached_usage_percent": ("📊 Usage warning", 16295848),
    "reached_days_left": ("⏳ Expires soon", 16503693),
}
_OTHER_COLOUR = 9807270
_FIELD = 160
"""Characters of a value that are shown. However a message is packed, it stays below Discord's 6,000 in all, also where an
emoji is counted as two."""
_UNLIMITED = "unlimited"
_MOST_BYTES = 1 << 100
_MARKUP = re.compile(r"([\\*_~`|>#\[\]()<@:\-+.!])")
# Controls, marks that turn the direction of text, whatever takes no room, and halves of surrogate pairs: those come out of
# JSON, but do not go into UTF-8, and one of them would keep a whole message from being sent.
INVISIBLE = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


class Discord(Destination):
    """A Discord webhook."""

    max_items = 10
    # Characters count, not bytes; JSON text is never shorter than what it says.
    max_bytes = 5500
    # Discord counts requests per webhook in windows of a few seconds: more at once only earns refusals.
    concurrency = 1

    def item(self, delivery: Delivery, now: datetime) -> str:
        event = delivery.event
        detail = event.detail
        title, colour = _LOOKS.get(event.action, (f"🔔 {escape(event.action)}", _OTHER_COLOUR))
        user = detail.get("user")
        embed: dict[str, Any] = {
            "title": title,
            "color": colour,
            "fields": [_field("Username", escape(event.username)), *_facts(user, detail)],
            "timestamp": event.time.isoformat(),
        }
        footer = _footer(user, detail.get("by"))
        if footer:
            embed["footer"] = {"text": footer}
        return json.dumps(embed, ensure_ascii=False)

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Request:
        body = f'{{"content": "", "embeds": [{", ".join(items)}], "allowed_mentions": {{"parse": []}}}}'
        return self._request((), body.encode())

    def judge(self, response: Response, now: datetime) -> Outcome:
        status = response.status or 0
        if 200 <= status < 300:
            return Outcome(Verdict.ACCEPTED, pause=_window_left(response))
        if status == 429:
            wait = _asked_to_wait(response, now)
            return Outcome(Verdict.FAILED, retry_after=wait, pause=wait)
        if status == 410 or (status == 404 and json_body(response).get("code") == _UNKNOWN_WEBHOOK):
            return Outcome(Verdict.GONE)
        return failed(response, now)


_UNKNOWN_WEBHOOK = 10015
"""Discord's code for a webhook that was deleted."""


def escape(text: str) -> str:
    """A name as Discord shows it literally: no formatting, no mention, no link, no invisible characters."""
    return _MARKUP.sub(r"\\\1", INVISIBLE.sub("�", text))


def readable_bytes(count: float) -> str:
    """1,073,741,824 as `1.0 GB`, with the panel's units (powers of 1,024)."""
    # JSON knows whole numbers that no float can hold.
    count = max(-_MOST_BYTES, min(count, _MOST_BYTES))
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PB"


def _facts(user: JSON, detail: Mapping[str, JSON]) -> list[dict[str, Any]]:
    fields = []
    if isinstance(user, dict):
        used, limit, expire = user.get("used_traffic"), user.get("data_limit"), user.get("expire")
        if isinstance(used, int):
            allowed = readable_bytes(limit) if isinstance(limit, int) and limit else _UNLIMITED
            fields.append(_field("Traffic", f"{readable_bytes(used)} of {allowed}"))
        if "expire" in user:
            # Discord shows <t:…> in each reader's own time zone and language.
            fields.append(_field("Expires", f"<t:{expire}:f>" if isinstance(expire, int) and expire else "never"))
        if isinstance(user.get("status"), str):
            fields.append(_field("Status", escape(user["status"])))
        if user.get("data_limit_reset_strategy") not in (None, "no_reset"):
            fields.append(_field("Traffic resets every", escape(str(user["data_limit_reset_strategy"]))))
    for key, name, unit in (("used_percent", "Used", " %"), ("days_left", "Days left", ""), ("reason", "Reason", "")):
        value = detail.get(key)
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else escape(str(value))
            fields.append(_field(name, shown + unit))
    return fields


def _footer(user: JSON, by: JSON) -> str:
    owner = user.get("admin") if isinstance(user, dict) else None
    lines = []
    for label, admin in (("Belongs to", owner), ("By", by)):
        if isinstance(admin, dict) and isinstance(admin.get("username"), str):
            # A footer knows no markup, so nothing is to be escaped there.
            lines.append(f"{label}: {_cut(INVISIBLE.sub('�', admin['username']))}")
    return "\n".join(lines)


def _field(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": _cut(value) or "—", "inline": True}


def _cut(text: str) -> str:
    return text if len(text) <= _FIELD else text[: _FIELD - 1] + "…"


def _asked_to_wait(response: Response, now: datetime) -> float:
    value = json_body(response).get("retry_after")
    if isinstance(value, int | float) and value >= 0:
        # In this order: a whole number can be too large for a float.
        return float(min(value, MAX_RETRY_AFTER))
    return retry_after(response, now) or 1.0


def _window_left(response: Response) -> float | None:
    """Seconds until Discord's window ends, where this request was the last one that it allows."""
    if response.headers.get("x-ratelimit-remaining") != "0":
        return None
    try:
        seconds = float(response.headers.get("x-ratelimit-reset-after", ""))
    except ValueError:
        return None
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None
