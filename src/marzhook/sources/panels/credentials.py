"""What of a panel's event gives access to something, and is not stored unless somebody is to get it."""

from __future__ import annotations

from typing import Final

from marzhook.event import JSON

DROPPED: Final = frozenset({"links", "subscription_url", "discord_webhook", "password", "hashed_password"})
PROXIES: Final = frozenset({"proxies", "proxy_settings"})
_SHOWN_OF_PROXY: Final = frozenset({"flow", "method", "encryption"})
"""Of a proxy only what is known to be harmless: ids, passwords and private keys have many names."""


def without_credentials(value: JSON, more: frozenset[str] = frozenset()) -> JSON:
    """The value without what gives access, wherever in it that stands. `more`: further keys to drop."""
    if isinstance(value, dict):
        return {
            key: _proxies(part) if key in PROXIES else without_credentials(part, more)
            if isinstance(part, dict | list) else part
            for key, part in value.items()
            if key not in DROPPED and key not in more
        }  # fmt: skip
    if isinstance(value, list):
        return [without_credentials(part, more) if isinstance(part, dict | list) else part for part in value]
    return value


def _proxies(value: JSON) -> JSON:
    """The kinds of proxies, each with its harmless settings."""
    if not isinstance(value, dict):
        return None
    return {
        kind: {name: part for name, part in settings.items() if name in _SHOWN_OF_PROXY and isinstance(part, str)}
        for kind, settings in value.items()
        if isinstance(settings, dict)
    }


def cut_before_credentials(text: str, more: frozenset[str] = frozenset()) -> str:
    """The head of a text that cannot be parsed, up to the first key that may hold a credential."""
    names = DROPPED | PROXIES | more
    found = [place for place in (text.find(f'"{name}"') for name in names) if place >= 0]
    return text[: min(found)] if found else text
