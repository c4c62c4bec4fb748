"""Messages to people: an event as a few lines of text, in their language, with their calendar and units.

Whatever stands in an event is data: marks that turn the direction of text, and what takes no room, are replaced, and each
value is isolated, so that a Latin name in a Persian line, or the other way round, moves nothing around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard
from zoneinfo import ZoneInfo

from marzhook.destinations.discord import INVISIBLE
from marzhook.destinations.languages import LANGUAGES
from marzhook.destinations.template import Template
from marzhook.endpoint import NO_ZONE, check_choice, wrong_option
from marzhook.errors import InvalidError, RenderError
from marzhook.event import JSON, Event, check_action

OPTIONS: Final = ("language", "timezone", "templates")
NO_TEXT: Final = "it makes no text"
ANY_ACTION: Final = "*"
"""The template of all actions that have none of their own."""
_SHOWN: Final = 300
"""Characters of a value that are shown."""
# U+2068 and U+2069 isolate what is between them: its direction is its own (Unicode's UAX 9).
FACTS: Final = "{% for fact in facts %}{{ fact.name }}: \u2068{{ fact.value }}\u2069\n{% endfor %}"
"""A template's lines with what is known of the user and the event."""
_EXAMPLE: Final[dict[str, JSON]] = {
    "by": {"username": "admin", "is_sudo": True},
    "user": {
        "username": "alice", "status": "active", "used_traffic": 1, "data_limit": 2, "expire": 1800000000, "note": "note",
        "admin": {"username": "admin"},
    },
    "used_percent": 80.0, "days_left": 3, "reason": "reason",
}  # fmt: skip


def visible(value: object) -> str:
    """A value as a message may show it: no controls, nothing invisible, nothing that turns the direction of text."""
    if value is None:
        return ""
    text = INVISIBLE.sub(_replaced, value if isinstance(value, str) else str(value))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _replaced(found: re.Match[str]) -> str:
    # The two joiners take no room either, but Persian and emoji are written with them.
    return found[0] if found[0] in "\u200c\u200d" else "�"


class Messages:
    """Makes the text of events, by the options of one endpoint (`checked`)."""

    def __init__(self, options: Mapping[str, JSON], *, default: str, written: Callable[[Any], str] = visible) -> None:
        """`default`: the template where the options name none; `written`: how values become text."""
        self._language = LANGUAGES[options.get("language", "en")]
        self._zone = ZoneInfo(options.get("timezone") or self._language.zone)
        sources = {ANY_ACTION: default, **options.get("templates", {})}
        self._templates = {action: Template(source, written=written) for action, source in sources.items()}

    def text(self, event: Event, detail: Mapping[str, JSON]) -> str:
        """Raises RenderError where its template fails on this event, or makes nothing of it."""
        template = self._templates.get(event.action) or self._templates[ANY_ACTION]
        text = template.render(self.values(event, detail)).strip()
        if not text:
            raise RenderError(f"the template for {event.action} makes no text", reason=NO_TEXT)
        return text

    def title(self, event: Event) -> str:
        """What happened, in a few words."""
        return self._language.titles.get(event.action) or f"🔔 {event.action}"

    def values(self, event: Event, detail: Mapping[str, JSON]) -> dict[str, JSON]:
        """What templates know. `docs/reference.md` lists it."""
        language, words = self._language, self._language.words
        user = detail.get("user") if isinstance(detail.get("user"), dict) else None
        values: dict[str, JSON] = {
            "action": event.action, "username": event.username, "title": self.title(event),
            "time": language.date(event.time.astimezone(self._zone)),
            "admin": _name(user.get("admin")) if user else None, "by": _name(detail.get("by")),
            "user": user, "detail": dict(detail),
        }  # fmt: skip
        if user is not None:
            values |= self._of_user(user)
        percent, days = detail.get("used_percent"), detail.get("days_left")
        if _is_number(percent):
            values["used_percent"] = language.digits(f"{percent:g} %")
        if _is_number(days):
            values["days_left"] = language.digits(f"{days:g}")
        for key in ("reason", "endpoint"):
            value = detail.get(key)
            values[key] = value.get("name") if isinstance(value, dict) else value
        if "used" in values:
            values["traffic"] = words["of"].format(used=values["used"], limit=values["limit"])
        shown = ("status", "traffic", "expires", "used_percent", "days_left", "reason", "endpoint", "admin", "by")
        values["facts"] = [
            {"name": words[key], "value": values[key]} for key in shown if values.get(key) not in (None, "")
        ]
        return values

    def _of_user(self, user: Mapping[str, JSON]) -> dict[str, JSON]:
        language, words = self._language, self._language.words
        used, limit, status = user.get("used_traffic"), user.get("data_limit"), user.get("status")
        values: dict[str, JSON] = {"status": language.statuses.get(status, status) if isinstance(status, str) else None}
        if _is_number(used):
            values["used"] = language.bytes(used)
            values["limit"] = language.bytes(limit) if _is_number(limit) and limit else words["unlimited"]
        if "expire" in user:
            values["expires"] = self._moment(user["expire"])
        return values

    def _moment(self, seconds: JSON) -> str:
        if not _is_number(seconds) or not seconds:
            return self._language.words["never"]
        try:
            return self._language.date(datetime.fromtimestamp(seconds, UTC).astimezone(self._zone))
        except (ValueError, OverflowError, OSError):
            # Beyond the year 9999 (somebody's "never"), or no time at all.
            return self._language.digits(str(seconds))


def _name(admin: JSON) -> JSON:
    return admin.get("username") if isinstance(admin, dict) else None


def _is_number(value: JSON) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked(
    options: Mapping[str, JSON], *, written: Callable[[Any], str], proof: Callable[[str], None]
) -> dict[str, JSON]:
    """The options that are about messages, if they make sense; `proof` raises InvalidError for text that cannot be sent.

    Raises InvalidError for the first wrong one.
    """
    found = {key: options[key] for key in OPTIONS if options.get(key) not in (None, "", {})}
    if "language" in found:
        check_choice("language", found["language"], LANGUAGES)
    if "timezone" in found:
        try:
            ZoneInfo(found["timezone"])
        except (OSError, ValueError, TypeError, LookupError):
            raise wrong_option("timezone", NO_ZONE) from None
    templates = found.get("templates", {})
    if not isinstance(templates, dict) or len(templates) > 64:
        raise InvalidError('templates maps actions (or "*") to texts', code="invalid_options")
    for action, source in templates.items():
        if action != ANY_ACTION:
            check_action(action)
        example = Event(1, "user_updated" if action == ANY_ACTION else action, "alice", 1800000000.0)
        try:
            proof(Messages({**found, "templates": {}}, default=source, written=written).text(example, _EXAMPLE))
        except RenderError as error:
            told = f"the template for {action}: {error}"
            raise InvalidError(told, code="invalid_template", reason=error.reason, values=error.values) from None
    return found
