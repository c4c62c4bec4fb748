"""Endpoints: where events go."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from marzhook.errors import InvalidError
from marzhook.event import JSON
from marzhook.filter import Filter

KINDS: Final = ("webhook", "discord", "telegram", "alert", "sql", "exec")
LOCAL_KINDS: Final = ("alert", "sql", "exec")
"""Those that are no HTTP requests: no guard sees which addresses they reach."""
SECRET_URLS: Final = ("alert", "sql")
"""Kinds whose URLs are shown to nobody, but for their scheme."""
FORMATS: Final = ("event", "list", "standard")
SECRET_MODES: Final = ("plain", "hmac", "auto")
DETAILS: Final = ("none", "safe", "full")
SIGNATURES: Final = ("v1", "v1a", "both")
LANGUAGES: Final = ("en", "fa", "ru", "zh")
SOURCES: Final = ("environment", "api")

REMOVED: Final = "no longer in the environment's settings"
"""Why an endpoint of the environment is disabled that the settings name no longer."""

SETTINGS_OF: Final = {
    "webhook": "WEBHOOK_ADDRESS, WEBHOOK_SECRET, WEBHOOK_SECRET_MODE, WEBHOOK_DETAIL or WEBHOOK_FORMAT",
    "discord": "DISCORD_WEBHOOK_URL",
    "telegram": "TELEGRAM_API_TOKEN, TELEGRAM_ADMIN_ID, TELEGRAM_LOGGER_CHANNEL_ID or MARZHOOK_LANGUAGE",
    "alert": "MARZHOOK_ALERT_URLS or MARZHOOK_LANGUAGE",
    "sql": "MARZHOOK_SQL_URL",
    "exec": "MARZHOOK_EXEC_COMMAND",
}
"""By kind: the first one names the endpoint, the others shape it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and how it is spoken to."""

    id: int
    name: str
    kind: str
    url: str = field(repr=False)
    format: str = "event"
    secret: str | None = field(default=None, repr=False)
    """What goes into `x-webhook-secret`, in the way of `secret_mode`; None: no such header."""
    secret_mode: str = "auto"
    learned_mode: str | None = None
    """What `auto` found that the receiver accepts: plain or hmac; None: not known yet."""
    detail: str = "safe"
    actions: frozenset[str] | None = None
    """The actions that are owed to it; None: all. This and the next three are its filter: all must hold (`filter.py`)."""
    admins: frozenset[str] | None = None
    """Owed are events of these admins' users, and what these admins did; None: of all."""
    usernames: tuple[str, ...] | None = None
    """Patterns of users' names, such as `vip_*` and `!test_*`; None: all."""
    condition: str | None = None
    """A JMESPath expression over the event that must be true; None: none."""
    template: str | None = field(default=None, repr=False)
    """What makes a webhook's body (`destinations/template.py`), and may hold a receiver's token; None: its `format` says."""
    signing_secret: str = field(default="", repr=False)
    """`whsec_…`, of the Standard Webhooks signature."""
    previous_signing_secret: str | None = field(default=None, repr=False)
    previous_expires_at: datetime | None = None
    """Until then requests are signed with the previous secret and key too."""
    signatures: str = "v1"
    """Of Standard Webhooks: v1 (HMAC, with the signing secret), v1a (ed25519, with the signing key) or both."""
    signing_key: str | None = field(default=None, repr=False)
    """`whsk_…`; None: v1a was never asked for."""
    previous_signing_key: str | None = field(default=None, repr=False)
    ordered: bool = True
    concurrency: int = 32
    """Requests in flight at the most."""
    rate_limit: float | None = None
    """Requests a second at the most; None: no limit."""
    options: Mapping[str, JSON] = field(default_factory=dict, repr=False)
    """What else its kind wants to know, as that kind's `checked_options` has it."""
    own_chats: Mapping[str, int] = field(default_factory=dict, repr=False)
    """Telegram: chats by admins' names (`store/telegram_ids.py`), where its options ask for them. No column of its own."""
    enabled: bool = True
    disabled_reason: str | None = None
    failing_since: datetime | None = None
    """Since when its breaker is open without a success in between; None: it is well."""
    failing_stage: int = 0
    """How many of the notices about that were published (`dispatch/health.py`)."""
    hastened_at: datetime | None = None
    """When somebody last asked that one of its deliveries be tried at once."""
    judged_from: datetime | None = None
    """When it was last resumed, or got another address: older tries do not tell how it fares. None: all do."""
    source: str = "api"
    revision: int = 1
    """Grows with every change, so that a dispatcher notices."""
    created_at: datetime | None = None

    @property
    def address(self) -> tuple[str, ...]:
        """What tells it from the settings' other endpoints: a bot writes to several chats."""
        return self.kind, self.url, str(self.options.get("chat", ""))

    @property
    def settings(self) -> str:
        """What in the settings names and shapes it, where it comes from there."""
        return SETTINGS_OF.get(self.kind, "the settings")

    @property
    def guarded(self) -> bool:
        """Who writes the environment owns the machine, and may point anywhere; others reach public addresses only."""
        return self.source != "environment"

    @property
    def filter(self) -> Filter:
        """What is owed to it."""
        return Filter(self.actions, self.admins, self.usernames, self.condition)


EACH, OWN_CHAT = "*", "telegram_id"
"""In Telegram's option `chats`: every admin whom it does not name, and that his chat is that of his `telegram_id`."""

LONGEST_SHOWN = 20
"""Characters of a path's first word that are shown whole."""


def masked_url(url: str) -> str:
    """The URL as logs and metrics may show it: without user info and query, and of the path no more than its first word.

    The paths of Discord, Slack and their like are passwords; a long word may be one anywhere.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "exec":
        program, *arguments = rest.split()
        return f"exec:{program}" + (" …" if arguments else "")
    if scheme not in ("http", "https"):
        # Tokens and passwords may be anywhere in Apprise's and SQLAlchemy's.
        return f"{scheme.partition('+')[0]}://…" if colon else "…"
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None:
        host += f":{parts.port}"
    first, _, rest = parts.path.removeprefix("/").partition("/")
    if len(first) > LONGEST_SHOWN:
        first, rest = "…", ""
    path = ("/" + first if parts.path else "") + ("/…" if rest else "")
    return f"{parts.scheme}://{host}{path}" + ("?…" if parts.query else "")


def check_url(url: object) -> str:
    """Return an absolute http(s) URL, or raise InvalidError with what is expected."""
    if not isinstance(url, str) or not url:
        raise InvalidError("url is missing; expected http://… or https://…", code="invalid_url", reason=MISSING)
    problem = _problem(url)
    if problem:
        raise InvalidError(f"{_safe(url)} is not a usable URL: {problem}", code="invalid_url", reason=problem)
    return url


MISSING, TOO_LONG, SPACES, NOT_ASCII, UNREADABLE, NO_HTTP, NO_HOST, PORT_0, FRAGMENT = URL_PROBLEMS = (
    "it is missing",
    "it is longer than 2048 characters",
    "it contains spaces or control characters",
    "it contains characters outside ASCII; write the host in punycode (xn--…) and percent-encode the path",
    "its host or its port cannot be read",
    "it must start with http:// or https://",
    "it has no host",
    "port 0 cannot be connected to",
    "it has a #fragment, which is never sent",
)
NO_BOT, NO_SERVICE, NO_DATABASE, CUT_PASSWORD, NO_PROGRAM, UNENDED = KIND_URL_PROBLEMS = (
    "a Telegram bot's is its token, or https://api.telegram.org/bot<token>",
    "Apprise's look like tgram://token/chat or mailto://…",
    "a database's looks like sqlite:////var/lib/users.db or postgresql://user:password@host/database",
    "an @ within its password is written %40",
    "a command begins with a program's whole path: exec:/usr/local/bin/told",
    "the command ends within quotes or behind a backslash",
)
NO_CHAT, NO_ZONE, NO_PREFIX, NO_LINE = OPTION_PROBLEMS = (
    "a chat is a number (of a person, or below 0: of a group or channel), or @name of a public channel",
    "a time zone is written like Asia/Tehran or UTC",
    "a prefix begins with a letter: a-z, 0-9 and _, at most 31 of them",
    "one line for each admin is expected: name=chat",
)


def unusable(reason: str) -> InvalidError:
    """The error about a URL of which this is the matter, one of the above."""
    return InvalidError(f"this address cannot be used: {reason}", code="invalid_url", reason=reason)


def wrong_option(field: str, reason: str) -> InvalidError:
    """The error about an option of which this is the matter, one of the above."""
    return InvalidError(f"{field}: {reason}", code="invalid_options", field=field, reason=reason)


def cut_password(url: str) -> bool:
    """Whether an @ in a database's URL would part its password, and what is behind it be taken for the host. SQLAlchemy ends
    the user at the first colon or slash, and the password at the first @ behind it: in the user an @ is none too many."""
    return re.match(r"[^:/]*:[^@]*@[^/?]*@", url.partition("://")[2]) is not None


def _problem(url: str) -> str | None:
    if len(url) > 2048:
        return TOO_LONG
    if any(ord(c) <= 32 or ord(c) == 127 for c in url):
        return SPACES
    if not url.isascii():
        return NOT_ASCII
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return UNREADABLE
    if parts.scheme.lower() not in ("http", "https"):
        return NO_HTTP
    if not parts.hostname:
        return NO_HOST
    if port == 0:
        return PORT_0
    if parts.fragment:
        return FRAGMENT
    return None


def _safe(url: str) -> str:
    """As much of a broken URL as an error may show: what might be a password or a token stays out."""
    head = url.split("?")[0].split("#")[0]
    scheme, slashes, rest = head.rpartition("//")
    return ascii(scheme + slashes + rest.rpartition("@")[2])[1:-1][:120]


NO_CHOICE: Final = "%(name)s must be one of %(choices)s, not %(found)s"


def check_choice(name: str, value: object, choices: Collection[str]) -> str:
    """Return the value if it is one of the choices, or raise InvalidError."""
    if not isinstance(value, str) or value not in choices:
        values = {"name": name, "choices": ", ".join(choices), "found": ascii(value)[:60]}
        raise InvalidError(NO_CHOICE % values, code=f"invalid_{name}", reason=NO_CHOICE, values=values)
    return value
