"""What else a kind of endpoint wants to know, as fields of a form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from marzhook.endpoint import NO_LINE, wrong_option
from marzhook.errors import InvalidError, MarzhookError

FIELDS: Final = {
    "telegram": ("chat", "chats", "language", "timezone", "message"),
    "alert": ("language", "timezone", "message"),
    "sql": ("prefix",),
}
"""By kind, in the order of the form; a kind that is missing has none."""
NAMES: Final = tuple(dict.fromkeys(name for fields in FIELDS.values() for name in fields))

PLACES: Final = {
    "invalid_url": "url",
    "address_not_allowed": "url",
    "program_not_allowed": "url",
    "kind_not_allowed": "kind",
    "invalid_name": "name",
    "invalid_secret": "secret",
    "invalid_action": "actions",
    "invalid_admins": "admins",
    "invalid_usernames": "usernames",
    "invalid_condition": "condition",
}
"""The field that an error's code is about."""


def written(options: Mapping[str, Any]) -> dict[str, str]:
    """The options as the form's fields have them."""
    fields = {name: str(options.get(name, "")) for name in NAMES}
    chats = options.get("chats") or {}
    fields["chats"] = "\n".join(f"{admin}={chat}" for admin, chat in chats.items())
    fields["message"] = (options.get("templates") or {}).get("*", "")
    return fields


def read(
    kind: str, given: Callable[[str], str], before: Mapping[str, Any], changed: Collection[str] = NAMES
) -> dict[str, Any]:
    """The form's `changed` fields as options; all else stays as it was `before`. Raises InvalidError."""
    options = dict(before)
    for name in FIELDS.get(kind, ()):
        if name not in changed:
            continue
        text = given(name)
        match name:
            case "chats":
                options["chats"] = _chats(text)
            case "message":
                others = {action: one for action, one in before.get("templates", {}).items() if action != "*"}
                options["templates"] = others | ({"*": text} if text.strip() else {})
            case _:
                options[name] = text or None
    return {name: value for name, value in options.items() if value not in (None, {})}


def place(kind: str, error: MarzhookError) -> str:
    """The field beside which the form of this kind says what is wrong; empty: above them all."""
    if isinstance(error, InvalidError) and error.field:
        return error.field
    if error.code == "invalid_template":
        return "template" if kind == "webhook" else "message" if "message" in FIELDS.get(kind, ()) else ""
    return PLACES.get(error.code, "")


def _chats(text: str) -> dict[str, str]:
    chats = {}
    for line in text.splitlines():
        admin, equals, chat = line.partition("=")
        if not line.strip():
            continue
        if not equals or not admin.strip():
            raise wrong_option("chats", NO_LINE)
        chats[admin.strip()] = chat.strip()
    return chats
