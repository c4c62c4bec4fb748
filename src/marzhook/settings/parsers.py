"""How the text of a setting becomes its value. Each parser raises ValueError with what is expected, or InvalidError with a
whole sentence that shows no secret."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from marzhook import admin, endpoint
from marzhook.endpoint import EACH, OWN_CHAT
from marzhook.errors import InvalidError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "y": True, "t": True}
_FLAGS |= {"false": False, "0": False, "no": False, "off": False, "n": False, "f": False}


def flag(value: str) -> bool:
    try:
        return _FLAGS[value.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def whole(low: int, high: int, value: str) -> int:
    # int() alone would also take 1_000 and digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return int(value)


def wholes(low: int, high: int, value: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({whole(low, high, item) for item in items(value)}))
    except ValueError:
        raise ValueError(f"whole numbers from {low} to {high}, separated by commas") from None


def schedule(value: str) -> tuple[float, ...]:
    """Delays in seconds, in their order."""
    try:
        return tuple(float(whole(1, 604800, item)) for item in items(value))
    except ValueError:
        raise ValueError("whole seconds from 1 to 604800, separated by commas") from None


def seconds(high: int, value: str) -> float:
    number = float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) else math.nan
    if not 0 < number <= high:
        raise ValueError(f"a number of seconds, more than 0 and at most {high}")
    return number


def choice(choices: tuple[str, ...], value: str) -> str:
    if value.lower() not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    return value.lower()


def secret(value: str) -> str:
    # HTTP drops blanks at either end of a header, and knows Latin-1 only.
    if value != value.strip() or any(0x7F <= ord(c) < 0xA0 or ord(c) > 0xFF for c in value):
        raise ValueError("what a header can carry: Latin-1, no control characters, no blanks at either end")
    return value


def admin_name(value: str) -> str:
    if not 1 <= len(value) <= admin.MAX_NAME or not value.isprintable() or value != value.strip():
        raise ValueError(f"1 to {admin.MAX_NAME} printable characters, no blanks at either end")
    return value


def password(value: str) -> str:
    if len(value) > admin.MAX_PASSWORD:
        raise ValueError(f"at most {admin.MAX_PASSWORD} characters")
    return value


def url(value: str) -> str:
    try:
        return endpoint.check_url(value)
    except InvalidError:
        # The token is in the path, so not even a part of a malformed one may be shown.
        raise ValueError("a URL like https://discord.com/api/webhooks/… without blanks and #fragment") from None


def urls(value: str) -> tuple[str, ...]:
    seen: set[tuple[object, ...]] = set()
    for url in (urls := items(value)):
        parts = urlsplit(endpoint.check_url(url))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        key = (parts.scheme, parts.hostname, port, parts.path or "/", parts.query, parts.username, parts.password)
        if key in seen:
            raise InvalidError(f"{endpoint.masked_url(url)} is there twice; name it once")
        seen.add(key)
    return urls


def bot_token(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,100}", value):
        raise ValueError("a bot's token as @BotFather gives it, such as 123456:ABC-DEF…")
    return value


def chat(value: str) -> int:
    if not re.fullmatch(r"-?[1-9][0-9]{0,18}", value):
        raise ValueError("a chat's number, below 0 for a group or channel")
    return int(value)


def chats(value: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(chat(item) for item in items(value)))
    except ValueError:
        raise ValueError("chats' numbers, separated by commas") from None


def chats_of_admins(value: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    try:
        for name, number in (item.split("=") for item in items(value)):
            own = (name.strip(), number.strip()) == (EACH, OWN_CHAT)
            found[EACH if own else admin_name(name)] = OWN_CHAT if own else chat(number)
    except ValueError:
        raise ValueError(
            "admin=chat, separated by commas, such as shop1=123456789; *=telegram_id is every other admin's own chat"
        ) from None
    return found


def alert_urls(value: str) -> tuple[str, ...]:
    # A comma may be part of one: it ends one only where the next begins.
    urls = tuple(
        dict.fromkeys(part.strip() for part in re.split(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)", value) if part.strip())
    )
    if not all(re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\x00-\x20\x7f]+", url) for url in urls):
        raise ValueError("URLs of Apprise's, such as tgram://token/chat, separated by commas")
    return urls


def sql_url(value: str) -> str:
    if endpoint.cut_password(value):
        raise InvalidError(endpoint.CUT_PASSWORD)
    if not re.fullmatch(r"[a-z0-9]+(\+[a-z0-9_]+)?://[\x21-\x7e]+", value):
        raise ValueError(
            "a database's URL, such as sqlite:////var/lib/users.db or postgresql://user:password@host/database"
        )
    return value


def command(value: str) -> str:
    try:
        good = shlex.split(value)[0].startswith("/")
    except (ValueError, IndexError):
        good = False
    if not good:
        raise ValueError("a command line that begins with a program's whole path, such as /usr/local/bin/told --all")
    return value


def paths(value: str) -> tuple[str, ...]:
    if not all(item.startswith("/") and os.path.normpath(item) != "/" for item in items(value)):
        raise ValueError("whole paths of programs or folders, separated by commas")
    return items(value)


def kinds(value: str) -> tuple[str, ...]:
    if not set(items(value)) <= set(endpoint.LOCAL_KINDS):
        raise ValueError(f"some of {', '.join(endpoint.LOCAL_KINDS)}, separated by commas")
    return tuple(dict.fromkeys(items(value)))


def host(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    # Digits and dots alone are a mistyped address: no top-level domain is a number.
    if len(value) > 253 or not re.fullmatch(rf"{label}(\.{label})*", value) or re.fullmatch(r"[0-9.]+", value):
        raise ValueError("an address or a host name without a port, such as 127.0.0.1, 0.0.0.0, :: or localhost")
    return value


def database_url(value: str) -> str:
    if re.match(r"(postgresql|postgres)://.", value):
        return postgresql_url(value)
    scheme = re.match(r"([a-z][a-z0-9]*)(\+[a-z0-9_]+)?://", value.lower())
    if scheme and scheme[1] not in ("sqlite", "postgresql", "postgres"):
        raise InvalidError(unsupported(scheme[1]))
    if scheme and scheme[2]:
        raise ValueError("an address without a driver's name, such as postgresql://user:password@host/database")
    path = value.removeprefix("sqlite:///")
    if path in (value, "", ":memory:") or path.endswith("/") or "?" in path:
        raise ValueError("a file, such as sqlite:///marzhook.db, or postgresql://user:password@host/database")
    return value


def unsupported(family: str) -> str:
    """What to say of another database: why not, and what instead."""
    name = {"mysql": "MySQL", "mariadb": "MariaDB"}.get(family, family)
    return (
        f"{name} is not supported, and not needed: Marzhook keeps its data in a file of its own, such as sqlite:///marzhook.db,"
        " or in PostgreSQL where one machine is not enough: postgresql://user:password@host/database"
    )


def postgresql_url(value: str) -> str:
    if not re.match(r"(postgresql|postgres)://.", value):
        raise ValueError("an address such as postgresql://user:password@host/database")
    # As libpq reads it: what has an @ before the first / is a user's up to the first @. What it takes for hosts and ports
    # behind that, and for the database, messages name.
    before, at, after = (rest := value.partition("//")[2]).partition("@")
    hosts, _, database = (after if at and "/" not in before else rest).partition("?")[0].partition("/")
    if "@" in hosts + database or not all(
        re.fullmatch(r"(\[[^]]*]|[^][:]*)(:\d*)?", host) for host in hosts.split(",")
    ):
        raise InvalidError(
            "an @ or a / within its user, password or database is written %40 or %2F; here the host cannot be told from it"
        )
    return value


def masked_database_url(value: str) -> str:
    """Without its passwords."""
    value = re.sub(r"^(\w+://[^:/?]*):.*@", r"\1:…@", value)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1…", value)


def secret_keys(value: str) -> tuple[str, ...]:
    keys = items(value)
    if not all(re.fullmatch(r"[A-Za-z0-9+/_-]{43}=?", key) for key in keys):
        raise ValueError("32 bytes in base64, as `openssl rand -base64 32` prints (several: separated by commas)")
    return keys


def networks(value: str) -> tuple[Network, ...]:
    try:
        return tuple(dict.fromkeys(ipaddress.ip_network(item) for item in items(value)))
    except ValueError:
        raise ValueError("networks such as 10.0.0.0/8,fd00::/8, no bits set after the prefix") from None


def proxies(value: str) -> tuple[Network, ...]:
    return networks("0.0.0.0/0,::/0" if value == "*" else value)


def readable_file(value: str) -> Path:
    if not os.path.isfile(value) or not os.access(value, os.R_OK):
        raise ValueError("the path of a file that exists and can be read")
    return Path(value)


def items(value: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in value.split(",") if item.strip())
