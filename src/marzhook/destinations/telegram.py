"""Telegram: events as a bot's messages, each to the chat of the admin whose user it is about.

The endpoint's URL is the bot's: https://api.telegram.org/bot<token>, or the same at a server of one's own. Limits from
Telegram's "Bots FAQ" and Bot API: a message a second to a chat, 20 a minute to a group, 4,096 UTF-16 units a message. An
endpoint goes at the pace of its slowest chat; what waits meanwhile goes together, several events in a message.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from marzhook.delivery import ACCEPTED, Delivery, Outcome, Verdict
from marzhook.destinations import messages
from marzhook.destinations.base import MAX_RETRY_AFTER, Destination, failed, json_body
from marzhook.destinations.markup import check_markup, plain
from marzhook.destinations.messages import FACTS, Messages, visible
from marzhook.endpoint import EACH, NO_BOT, NO_CHAT, OWN_CHAT, Endpoint, check_url, unusable, wrong_option
from marzhook.errors import InvalidError
from marzhook.event import JSON
from marzhook.request import Request, Response

API: Final = "https://api.telegram.org"
MAX_MESSAGE: Final = 4096
PRIVATE_PACE, GROUP_PACE = 1.0, 20 / 60
"""Messages a second."""
_TEMPLATE: Final = "<b>{{ title }}</b>\n\u2068<code>{{ username }}</code>\u2069\n" + FACTS
_TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,100}", re.ASCII)
_CHAT = re.compile(r"-?[1-9][0-9]{0,18}|@[A-Za-z][A-Za-z0-9_]{3,31}", re.ASCII)
_ABOUT_THE_TEXT = ("can't parse entities", "message is too long", "text is empty", "text must be")
"""Of 400's descriptions those that speak of the event; the others speak of the chat or the bot."""


class Telegram(Destination):
    """A bot, and the chats that it writes to."""

    known_options = ("chat", "chats", *messages.OPTIONS)
    max_items = 10
    # Characters before entities are parsed, each two UTF-16 units at the most: always below MAX_MESSAGE.
    max_bytes = 2000
    concurrency = 1

    def __init__(self, endpoint: Endpoint, **values: Any) -> None:
        super().__init__(endpoint, **values)
        options = endpoint.options
        self._chat = str(options.get("chat", ""))
        named = {admin.casefold(): chat for admin, chat in options.get("chats", {}).items() if admin != EACH}
        self._chats = {admin: str(chat) for admin, chat in {**endpoint.own_chats, **named}.items()}
        private = all(chat.isdigit() for chat in (self._chat, *self._chats.values()))
        self.rate_limit = PRIVATE_PACE if private else GROUP_PACE
        self._messages = Messages(options, default=_TEMPLATE, written=escape)

    # -- what an operator may say

    @classmethod
    def checked_url(cls, url: object) -> str:
        if isinstance(url, str) and _TOKEN.fullmatch(url.strip()):
            return f"{API}/bot{url.strip()}"
        if isinstance(url, str) and url and "://" not in url:
            # Half a token, and not half a URL.
            raise unusable(NO_BOT)
        address = check_url(url).rstrip("/")
        parts = urlsplit(address)
        if parts.query or not _TOKEN.fullmatch(parts.path.rpartition("/bot")[2]):
            raise unusable(NO_BOT)
        return address

    @classmethod
    def _checked(cls, options: Mapping[str, JSON]) -> dict[str, JSON]:
        found: dict[str, JSON] = {"chat": _checked_chat(options.get("chat"), "chat")}
        chats = options.get("chats") or {}
        if not isinstance(chats, dict) or len(chats) > 1000:
            raise InvalidError("chats maps admins' names to chats", code="invalid_options", field="chats")
        if chats:
            found["chats"] = {
                str(admin): OWN_CHAT if (admin, chat) == (EACH, OWN_CHAT) else _checked_chat(chat, "chats")
                for admin, chat in chats.items()
            }
        return found | messages.checked(options, written=escape, proof=check_markup)

    # -- render

    def item(self, delivery: Delivery, now: datetime) -> str:
        event = delivery.event
        detail = event.detail
        user, by = detail.get("user"), detail.get("by")
        owner = user.get("admin") if isinstance(user, dict) else by
        name = owner.get("username") if isinstance(owner, dict) else None
        chat = self._chats.get(name.casefold(), self._chat) if isinstance(name, str) else self._chat
        return f"{chat}\n{_fitting(self._messages.text(event, detail))}"

    def readable(self, item: str) -> str:
        return plain(item.partition("\n")[2])

    def together(self, first: str, item: str) -> bool:
        return first.partition("\n")[0] == item.partition("\n")[0]

    def mode(self, items: Sequence[str]) -> str:
        """The chat that it goes to."""
        return items[0].partition("\n")[0]

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Request:
        message = {
            "chat_id": int(mode) if mode.lstrip("-").isdigit() else mode,
            "text": "\n\n".join(item.partition("\n")[2] for item in items),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        body = json.dumps(message, ensure_ascii=False).encode()
        return self._request((), body)._replace(url=f"{self._url}/sendMessage")

    # -- judge

    def other_mode(self, mode: str, response: Response) -> str | None:
        """A group that became a supergroup has another number; what an admin's chat does not take goes to all's."""
        if response.status == 400:
            moved = json_body(response).get("parameters")
            chat = moved.get("migrate_to_chat_id") if isinstance(moved, dict) else None
            if isinstance(chat, int):
                return str(chat)
        refused = response.status == 403 or (response.status == 400 and not _speaks_of_text(response))
        return self._chat if refused and mode != self._chat else None

    def learned(self, items: Sequence[str], mode: str) -> Mapping[str, Any]:
        """The supergroup's number in the group's place."""
        old = self.mode(items)
        if mode in (old, self._chat):
            return {}
        options = dict(self.endpoint.options)
        if old == self._chat:
            options["chat"] = int(mode)
        if options.get("chats"):
            options["chats"] = {admin: int(mode) if str(c) == old else c for admin, c in options["chats"].items()}
        return {"options": options}

    def judge(self, response: Response, now: datetime) -> Outcome:
        status = response.status or 0
        if 200 <= status < 300:
            return ACCEPTED
        if status == 429:
            wait = _asked_to_wait(response)
            return Outcome(Verdict.FAILED, retry_after=wait, pause=wait)
        if status == 400 and not _speaks_of_text(response):
            return Outcome(Verdict.FAILED)
        return failed(response, now)


def escape(value: object) -> str:
    """A value as Telegram's HTML shows it literally."""
    return html.escape(visible(value))


def _checked_chat(chat: JSON, field: str) -> int | str:
    text = str(chat).strip() if isinstance(chat, int | str) and not isinstance(chat, bool) else ""
    if not _CHAT.fullmatch(text):
        raise wrong_option(field, NO_CHAT)
    return text if text.startswith("@") else int(text)


def _fitting(text: str) -> str:
    """The text, or as much of it, without formatting, as a message may have."""
    shown = plain(text)
    if _units(shown) <= MAX_MESSAGE:
        return text
    while _units(shown) >= MAX_MESSAGE:
        shown = shown[: len(shown) - max(1, (_units(shown) - MAX_MESSAGE) // 2)]
    return html.escape(shown + "…")


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _speaks_of_text(response: Response) -> bool:
    description = str(json_body(response).get("description", "")).lower()
    return any(part in description for part in _ABOUT_THE_TEXT)


def _asked_to_wait(response: Response) -> float:
    parameters = json_body(response).get("parameters")
    value = parameters.get("retry_after") if isinstance(parameters, dict) else None
    return float(min(value, MAX_RETRY_AFTER)) if isinstance(value, int | float) and value >= 0 else 1.0
