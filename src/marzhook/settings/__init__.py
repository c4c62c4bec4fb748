"""Settings: what the operator wrote in the environment or in `.env`, checked and typed.

`SETTINGS` is the one table of them: loading, checking, masking and the documentation derive from it.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from dotenv.parser import Binding, parse_stream

from marzhook import endpoint, event
from marzhook.errors import InvalidError, SettingError
from marzhook.event import JSON
from marzhook.retry import RetryPolicy
from marzhook.settings import opentelemetry, parsers
from marzhook.settings.parsers import Network


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `parse` raises ValueError (what is expected) or InvalidError (a whole, safe sentence)."""

    name: str
    field: str | None
    """Of Settings; None: it has none of its own, but takes part in `retry_policy` or `published_actions`."""
    default: str | None
    """As one would write it; None: unset, and then so is an empty value."""
    parse: Callable[[str], Any]
    doc: str
    secret: bool = False
    actions: tuple[str, ...] = ()
    """Those that are published only where this is true."""

    def shown(self, value: Any) -> JSON:
        """The value as anyone may see it, as JSON."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return [f"{name}={item}" for name, item in value.items()]
        if isinstance(value, tuple):
            return [self.shown(item) for item in value]
        if self.secret:
            return f"set ({_count(value)})"
        if self.parse in (parsers.database_url, parsers.postgresql_url):
            return parsers.masked_database_url(value)
        return endpoint.masked_url(value) if self.parse in (parsers.url, parsers.urls) else str(value)


@dataclass(frozen=True, slots=True)
class Entry:
    """What `marzhook config` shows of one setting; nothing in it is secret."""

    name: str
    value: JSON
    source: str
    """`default`, `environment`, `.env line 12`, or the setting from which the value is taken."""


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Every setting's effective value, and where it came from (`entries`)."""

    webhook_addresses: tuple[str, ...]
    webhook_secret: str | None
    webhook_secret_mode: str
    signatures: str
    webhook_detail: str
    webhook_format: str
    send_interval: float | None
    """Seconds between two looks at the queue; None: at once."""
    discord_webhook_url: str | None
    telegram_token: str | None
    telegram_admins: tuple[int, ...]
    telegram_channel: int | None
    telegram_url: str
    """Of the Bot API."""
    telegram_chats: Mapping[str, int | str]
    """By the names of the admins whose messages go there."""
    language: str
    """Of messages to people."""
    alert_urls: tuple[str, ...]
    """Apprise's."""
    sql_url: str | None
    exec_command: str | None
    exec_allow: tuple[str, ...]
    """Programs, and folders of programs."""
    api_kinds: tuple[str, ...]
    """Of LOCAL_KINDS those that may be made over the API."""
    retry_policy: RetryPolicy
    published_actions: frozenset[str]
    """Of the panel's actions; one that is not the panel's is not gated by a setting."""
    usage_percents: tuple[int, ...]
    days_left: tuple[int, ...]
    sudo_username: str | None
    sudo_password: str | None
    host: str
    port: int
    """0: any free one."""
    proxies: tuple[Network, ...]
    token_minutes: int
    """0: a token never expires, as in the panel."""
    ingest_secret: str | None
    database_url: str
    worker_database_url: str | None
    poll_interval: float
    """Seconds from the end of a pass over a followed panel's users to the next."""
    retention_days: int
    dead_retention_days: int
    secret_keys: tuple[str, ...]
    """The first seals the secrets in the database, each may open them; empty: a key file beside the SQLite database."""
    connect_timeout: float
    """Seconds."""
    request_timeout: float
    """Seconds, from the start to the end of the answer."""
    endpoint_concurrency: int
    rejected_schedule: tuple[float, ...]
    allow_addresses: tuple[Network, ...]
    ca_file: Path | None
    log_format: str
    log_level: str
    otel: Mapping[str, str]
    """The variables of OpenTelemetry that are set."""
    entries: tuple[Entry, ...]
    unused: tuple[str, ...]
    """Names in `.env` that are the panel's, and that Marzhook does not use."""

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{entry.name}={entry.value!r}' for entry in self.entries)})"


def _notify(name: str, *actions: str) -> Setting:
    return Setting(f"NOTIFY_{name}", None, "true", parsers.flag, f"publish {', '.join(actions)}", actions=actions)


TIMES: Final = "NUMBER_OF_RECURRENT_NOTIFICATIONS"
EVERY: Final = "RECURRENT_NOTIFICATIONS_TIMEOUT"
SETTINGS: Final = (
    Setting("WEBHOOK_ADDRESS", "webhook_addresses", "", parsers.urls, "URLs, comma-separated; each is an endpoint"),
    Setting("WEBHOOK_SECRET", "webhook_secret", None, parsers.secret, "sent as x-webhook-secret with every request", True),
    Setting("WEBHOOK_SECRET_MODE", "webhook_secret_mode", "auto", partial(parsers.choice, endpoint.SECRET_MODES),
            "plain: the secret itself; hmac: hex HMAC-SHA256 of the body; auto: what the receiver accepts"),
    Setting("WEBHOOK_DETAIL", "webhook_detail", "safe", partial(parsers.choice, endpoint.DETAILS),
            "what follows the four documented keys: none; safe: no credentials; full: as the panel sends it"),
    Setting("WEBHOOK_FORMAT", "webhook_format", "event", partial(parsers.choice, endpoint.FORMATS),
            "event: one object a request; list: an array, as Marzban >= 0.4; standard: Standard Webhooks"),
    Setting("JOB_SEND_NOTIFICATIONS_INTERVAL", "send_interval", None, partial(parsers.seconds, 86_400),
            "seconds between two looks at the queue; unset: at once"),
    Setting("DISCORD_WEBHOOK_URL", "discord_webhook_url", None, parsers.url, "events as Discord embeds"),
    Setting("TELEGRAM_API_TOKEN", "telegram_token", None, parsers.bot_token, "events as messages of this Telegram bot", True),
    Setting("TELEGRAM_ADMIN_ID", "telegram_admins", "", parsers.chats, "chats that the bot writes to, comma-separated"),
    Setting("TELEGRAM_LOGGER_CHANNEL_ID", "telegram_channel", None, parsers.chat,
            "the group or channel that it writes to, in place of TELEGRAM_ADMIN_ID"),
    Setting("MARZHOOK_TELEGRAM_CHATS", "telegram_chats", "", parsers.chats_of_admins,
            "chats for the events of single admins' users: admin=chat, comma-separated; *=telegram_id: all others' own"),
    Setting("MARZHOOK_TELEGRAM_URL", "telegram_url", "https://api.telegram.org", parsers.url,
            "the Telegram Bot API's address"),
    Setting("MARZHOOK_LANGUAGE", "language", "en", partial(parsers.choice, endpoint.LANGUAGES),
            "of messages to people: en, fa, ru or zh"),
    Setting("MARZHOOK_ALERT_URLS", "alert_urls", "", parsers.alert_urls,
            "events as alerts: Apprise URLs, comma-separated", True),
    Setting("MARZHOOK_SQL_URL", "sql_url", None, parsers.sql_url,
            "keeps users and events in tables there: an SQLAlchemy URL", True),
    Setting("MARZHOOK_EXEC_COMMAND", "exec_command", None, parsers.command,
            "a command that is run for each event, with the event on its standard input", True),
    Setting("MARZHOOK_EXEC_ALLOW", "exec_allow", "", parsers.paths,
            "programs, or folders of programs, that other endpoints of the kind exec may run, comma-separated"),
    Setting("MARZHOOK_API_KINDS", "api_kinds", "", parsers.kinds,
            "kinds that may be made over the API and the dashboard, too: alert, sql, exec (no guard watches what they reach)"),
    Setting(TIMES, None, None, partial(parsers.whole, 0, 1_000), "retries, as Marzban's; unset: Standard Webhooks' schedule"),
    Setting(EVERY, None, None, partial(parsers.whole, 1, 604_800), "seconds between two tries, as Marzban's"),
    _notify("STATUS_CHANGE", event.USER_LIMITED, event.USER_EXPIRED, event.USER_DISABLED, event.USER_ENABLED),
    _notify("USER_CREATED", event.USER_CREATED),
    _notify("USER_UPDATED", event.USER_UPDATED),
    _notify("USER_DELETED", event.USER_DELETED),
    _notify("USER_DATA_USED_RESET", event.DATA_USAGE_RESET, event.DATA_RESET_BY_NEXT),
    _notify("USER_SUB_REVOKED", event.SUBSCRIPTION_REVOKED),
    _notify("IF_DATA_USAGE_PERCENT_REACHED", event.REACHED_USAGE_PERCENT),
    _notify("IF_DAYS_LEFT_REACHED", event.REACHED_DAYS_LEFT),
    Setting("NOTIFY_REACHED_USAGE_PERCENT", "usage_percents", "80", partial(parsers.wholes, 1, 100),
            "percentages of the data limit, comma-separated, at which reached_usage_percent is published"),
    Setting("NOTIFY_DAYS_LEFT", "days_left", "3", partial(parsers.wholes, 1, 3_650),
            "days before expiry, comma-separated, at which reached_days_left is published"),
    Setting("SUDO_USERNAME", "sudo_username", None, parsers.admin_name, "the first admin's name; unset: admin"),
    Setting("SUDO_PASSWORD", "sudo_password", None, parsers.password,
            "the first admin's password; unset: one is made and shown", True),
    Setting("UVICORN_HOST", "host", "127.0.0.1", parsers.host, "the address on which Marzhook listens"),
    Setting("UVICORN_PORT", "port", "8787", partial(parsers.whole, 0, 65_535), "the port there; 0: any free one"),
    Setting("FORWARDED_ALLOW_IPS", "proxies", "127.0.0.1,::1", parsers.proxies,
            "proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: networks (CIDR), comma-separated; *: all"),
    Setting("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", "token_minutes", "1440", partial(parsers.whole, 0, 5_256_000),
            "how long an admin's token is valid; 0: for ever"),
    Setting("MARZHOOK_INGEST_SECRET", "ingest_secret", None, parsers.secret,
            "what a panel must send to /ingest/…; unset: WEBHOOK_SECRET", True),
    Setting("MARZHOOK_DATABASE_URL", "database_url", "sqlite:///marzhook.db", parsers.database_url,
            "where all is kept: a file, or PostgreSQL (postgresql://user:password@host/database)"),
    Setting("MARZHOOK_WORKER_DATABASE_URL", "worker_database_url", None, parsers.postgresql_url,
            "PostgreSQL's own address, where MARZHOOK_DATABASE_URL is that of a pooler (PgBouncer); unset: the same"),
    Setting("MARZHOOK_SECRET_KEY", "secret_keys", "", parsers.secret_keys,
            "encrypts secrets in the database: 32 bytes in base64 (several: the first encrypts, all decrypt); unset: a file",
            True),
    Setting("MARZHOOK_RETRY_SCHEDULE", None, "5,300,1800,7200,18000,36000,50400,72000,86400", parsers.schedule,
            "seconds between the tries of a failed delivery, where Marzban's two settings are unset"),
    Setting("MARZHOOK_REJECTED_SCHEDULE", "rejected_schedule", "5,60,300", parsers.schedule,
            "the same for an event that its receiver refuses (400, 422 …) while it accepts others"),
    Setting("MARZHOOK_SIGNATURES", "signatures", "v1", partial(parsers.choice, endpoint.SIGNATURES),
            "Standard Webhooks signatures of requests to WEBHOOK_ADDRESS: v1 (HMAC), v1a (ed25519) or both"),
    Setting("MARZHOOK_POLL_INTERVAL", "poll_interval", "60", partial(parsers.seconds, 86_400),
            "seconds between two looks at the users of a panel that is followed (marzhook source)"),
    Setting("MARZHOOK_RETENTION_DAYS", "retention_days", "30", partial(parsers.whole, 1, 3_650),
            "days for which delivered and cancelled deliveries and their events are kept"),
    Setting("MARZHOOK_DEAD_RETENTION_DAYS", "dead_retention_days", "90", partial(parsers.whole, 1, 3_650),
            "days for which dead deliveries are kept, and can be replayed"),
    Setting("MARZHOOK_CONNECT_TIMEOUT", "connect_timeout", "5", partial(parsers.seconds, 600), "seconds to connect in"),
    Setting("MARZHOOK_REQUEST_TIMEOUT", "request_timeout", "15", partial(parsers.seconds, 600), "seconds for a whole request"),
    Setting("MARZHOOK_ENDPOINT_CONCURRENCY", "endpoint_concurrency", "32", partial(parsers.whole, 1, 1_000),
            "requests that one endpoint gets at the same time, at the most"),
    Setting("MARZHOOK_ALLOW_ADDRESSES", "allow_addresses", "", parsers.networks,
            "networks (CIDR, comma-separated) that endpoints made over the API may reach besides public addresses"),
    Setting("MARZHOOK_CA_FILE", "ca_file", None, parsers.readable_file, "certificates (PEM) to trust, not the usual ones"),
    Setting("MARZHOOK_LOG_FORMAT", "log_format", "auto", partial(parsers.choice, ("auto", "text", "json")),
            "auto: text on a terminal, else json"),
    Setting("MARZHOOK_LOG_LEVEL", "log_level", "info", partial(parsers.choice, ("debug", "info", "warning", "error")),
            "how much is logged: debug, info, warning, error"),
)  # fmt: skip
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}

# So that the panel's own `.env` can be used as it is. SQLIALCHEMY_… is the panel's spelling.
PANEL_ONLY: Final = frozenset(
    """
    ACTIVE_STATUS_TEXT ALLOWED_ORIGINS CLASH_SETTINGS_TEMPLATE CLASH_SUBSCRIPTION_TEMPLATE CUSTOM_TEMPLATES_DIRECTORY
    DASHBOARD_PATH DEBUG DISABLED_STATUS_TEXT DISABLE_RECORDING_NODE_USAGE DOCS EXPIRED_STATUS_TEXT EXTERNAL_CONFIG
    GRPC_USER_AGENT_TEMPLATE HOME_PAGE_TEMPLATE JOB_CORE_HEALTH_CHECK_INTERVAL JOB_RECORD_NODE_USAGES_INTERVAL
    JOB_RECORD_USER_USAGES_INTERVAL JOB_REVIEW_USERS_INTERVAL LIMITED_STATUS_TEXT LOGIN_NOTIFY_WHITE_LIST MUX_TEMPLATE
    MYSQL_DATABASE MYSQL_PASSWORD MYSQL_ROOT_PASSWORD MYSQL_USER NOTIFY_LOGIN ONHOLD_STATUS_TEXT
    SINGBOX_SETTINGS_TEMPLATE SINGBOX_SUBSCRIPTION_TEMPLATE SQLALCHEMY_DATABASE_URL SQLALCHEMY_MAX_OVERFLOW
    SQLALCHEMY_POOL_SIZE SQLIALCHEMY_MAX_OVERFLOW SUBSCRIPTION_PAGE_TEMPLATE SUB_PROFILE_TITLE SUB_SUPPORT_URL
    SUB_UPDATE_INTERVAL TELEGRAM_ADMINS_ID TELEGRAM_DEFAULT_VLESS_FLOW
    TELEGRAM_PROXY_URL USERS_AUTODELETE_DAYS USER_AGENT_TEMPLATE
    USER_AUTODELETE_INCLUDE_LIMITED_ACCOUNTS USE_CUSTOM_JSON_DEFAULT USE_CUSTOM_JSON_FOR_HAPP
    USE_CUSTOM_JSON_FOR_STREISAND USE_CUSTOM_JSON_FOR_V2RAYN USE_CUSTOM_JSON_FOR_V2RAYNG UVICORN_SSL_CA_TYPE
    UVICORN_SSL_CERTFILE UVICORN_SSL_KEYFILE UVICORN_UDS V2RAY_SETTINGS_TEMPLATE V2RAY_SUBSCRIPTION_TEMPLATE
    VITE_BASE_API XRAY_ASSETS_PATH XRAY_EXCLUDE_INBOUND_TAGS XRAY_EXECUTABLE_PATH XRAY_FALLBACKS_INBOUND_TAG
    XRAY_FALLBACK_INBOUND_TAG XRAY_JSON XRAY_SUBSCRIPTION_PATH XRAY_SUBSCRIPTION_URL_PREFIX
    """.split()  # noqa: SIM905
)


# -- loading


def load(environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> Settings:
    """Read every setting; the environment wins over `env_file` (which need not exist). Raises SettingError."""
    environ = os.environ if environ is None else environ
    for name in environ:
        # Commands that are run for an event find it under such names, and may call `marzhook`.
        if name.startswith("MARZHOOK_") and not name.startswith("MARZHOOK_EVENT_") and name not in _BY_NAME:
            raise _unknown(name, "in the environment")
    written, unused = _read(env_file) if env_file else ({}, ())
    names = (*_BY_NAME, *opentelemetry.NAMES)
    written |= {name: (environ[name], "environment") for name in names if name in environ}
    texts = {s.name: written.get(s.name, (s.default, "default")) for s in SETTINGS}
    values = {s.name: _parse(s, *texts[s.name]) for s in SETTINGS}
    sources = {name: source for name, (_, source) in texts.items()}
    policy = _complete(values, sources)
    otel = {name: written[name] for name in sorted(opentelemetry.NAMES & written.keys()) if written[name][0]}
    return Settings(
        **{s.field: values[s.name] for s in SETTINGS if s.field},
        retry_policy=policy,
        published_actions=frozenset(action for s in SETTINGS if values[s.name] for action in s.actions),
        otel={name: text for name, (text, _) in otel.items()},
        entries=(
            *(Entry(s.name, s.shown(values[s.name]), sources[s.name]) for s in SETTINGS),
            *(Entry(name, opentelemetry.shown(name, text), source) for name, (text, source) in otel.items()),
        ),
        unused=unused,
    )


def _parse(setting: Setting, text: str | None, source: str) -> Any:
    if text is None or (text == "" and setting.default is None):
        return None
    try:
        if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise ValueError("one line without control characters (is a quote missing?)")
        return setting.parse(text)
    except InvalidError as error:
        raise SettingError(f"{setting.name} ({source}): {error}") from None
    except ValueError as error:
        shown = (
            _count(text)
            if setting.secret
            or setting.parse in (parsers.url, parsers.urls, parsers.database_url, parsers.postgresql_url)
            else _quoted(text)
        )
        raise SettingError(f"{setting.name} is {shown} ({source}); expected {error}") from None


def _complete(values: dict[str, Any], sources: dict[str, str]) -> RetryPolicy:
    """Fill in the settings whose default depends on another one."""
    if values["MARZHOOK_INGEST_SECRET"] is None and values["WEBHOOK_SECRET"] is not None:
        values["MARZHOOK_INGEST_SECRET"], sources["MARZHOOK_INGEST_SECRET"] = values["WEBHOOK_SECRET"], "WEBHOOK_SECRET"
    if values[TIMES] is None and values[EVERY] is None:
        return RetryPolicy(values["MARZHOOK_RETRY_SCHEDULE"])
    # Whoever sets one of the two wants Marzban's schedule, so the other is Marzban's default.
    for name, default in ((TIMES, 3), (EVERY, 180)):
        if values[name] is None:
            values[name], sources[name] = default, "default"
    return RetryPolicy.fixed(values[TIMES], values[EVERY])


def _read(path: Path) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """The file's settings as name -> (value, source), and the names in it that only the panel uses."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return {}, ()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingError(f"{path} cannot be read: {reason}") from None
    written: dict[str, tuple[str, str]] = {}
    unused: dict[str, None] = {}
    for binding in parse_stream(io.StringIO(text)):
        line = _line_of(binding)
        if binding.error or (binding.key is not None and binding.value is None):
            # The line itself is not shown: it may hold a secret.
            raise SettingError(f'{path} line {line} cannot be read; expected NAME = "value", or a comment after #')
        if binding.key is None or binding.value is None:
            continue
        if binding.key in PANEL_ONLY:
            unused[binding.key] = None
        elif binding.key not in _BY_NAME and binding.key not in opentelemetry.NAMES:
            raise _unknown(binding.key, f"in {path} line {line}")
        elif binding.key in written:
            first = written[binding.key][1]
            raise SettingError(f"{binding.key} in {path} line {line} is already set in {first}: keep one of them")
        else:
            written[binding.key] = (binding.value, f"{path.name} line {line}")
    return written, tuple(unused)


def _line_of(binding: Binding) -> int:
    """The parser counts from the blank lines before a setting; people count the line on which it is."""
    before = re.match(r"\s*", binding.original.string)
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", before.group() if before else ""))


def _unknown(name: str, where: str) -> SettingError:
    # Marzhook's own names first: a typo in one of them is what must not pass.
    near = [
        match
        for names in (_BY_NAME, opentelemetry.NAMES, PANEL_ONLY)
        for match in difflib.get_close_matches(name.upper(), names, 1)
    ]
    advice = f"did you mean {near[0]}?" if near else "see .env.example for all there are, or remove it"
    return SettingError(f"{_quoted(name)[1:-1]} {where} is not a setting: {advice}")


def _quoted(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:76] + "...'"


def _count(text: str) -> str:
    return f"{len(text)} character" + ("" if len(text) == 1 else "s")
