"""Who may do what: the panel's admins, and API keys with scopes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

SCOPES: Final = ("events:write", "usage:write", "read", "admin")
"""What an API key may do; `admin` includes the others."""

MAX_NAME: Final = 34
"""Characters of an admin's name: the panel's own limit."""
MAX_PASSWORD: Final = 1024


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin of the panel. A sudo admin may do everything; another one sees his own users only."""

    id: int
    username: str
    is_sudo: bool
    telegram_id: int | None = None
    discord_webhook: str | None = field(default=None, repr=False)
    users_usage: int = 0
    """Bytes that his users have used."""
    password_reset_at: datetime | None = None
    """Tokens issued before are void."""

    def shown(self) -> dict[str, Any]:
        """As the panel's API and events show an admin, in the order of its keys."""
        return {
            "username": self.username,
            "is_sudo": self.is_sudo,
            "telegram_id": self.telegram_id,
            "discord_webhook": self.discord_webhook,
            "users_usage": self.users_usage,
        }
