"""A user's fields as API clients send them, made into attributes of `marzhook.user.User`.

Clients of the panel send many nulls, numbers as text, and fields of their own; all that is accepted. What is wrong is
told field by field, in the way of the panel's 422 answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from marzhook.clock import from_unix
from marzhook.errors import InvalidUserError
from marzhook.event import JSON
from marzhook.user import ACTIVE, DISABLED, ON_HOLD, RESET_DAYS, NextPlan

MAX_BYTES: Final = 2**60
MAX_EXPIRE: Final = 253_402_300_799
"""Unix seconds of the last second of the year 9999, where datetimes end."""
MAX_DURATION: Final = 100 * 365 * 86_400
MAX_DAYS: Final = 36_500
MAX_NOTE: Final = 500
NOT_TEXT: Final = "contains characters that are not text"
MAX_JSON: Final = 32 * 1024
"""Characters that each of proxies, inbounds, excluded_inbounds and links may take: an event carries all of them."""

_DIGITS = re.compile(r"\s*-?[0-9]{1,20}\s*", re.ASCII)
_USERNAME = re.compile(r"[A-Za-z0-9_@.-]{3,32}", re.ASCII)


def for_creation(fields: Mapping[str, JSON]) -> dict[str, Any]:
    """Attributes of a new user; null, 0 and omitted are left at their default. Raises InvalidUserError."""
    errors: dict[str, str] = {}
    values = {name: value for name, value in _checked(fields, errors).items() if value is not None}
    username = fields.get("username")
    if isinstance(username, str) and _USERNAME.fullmatch(username):
        values["username"] = username
    else:
        errors["username"] = "must have 3 to 32 characters: letters, digits and - _ @ ."
    status = _choice(fields, "status", (ACTIVE, ON_HOLD), errors)
    if status == ON_HOLD and not errors:
        if "on_hold_expire_duration" not in values:
            errors["status"] = "on_hold needs an on_hold_expire_duration above 0 (seconds)"
        if "expire" in values:
            errors["expire"] = "a user on hold has no expire yet; leave it out, or send 0"
    return _passed(values | ({"status": status} if status else {}), errors)


def for_change(fields: Mapping[str, JSON]) -> dict[str, Any]:
    """Attributes to change: null and omitted are unchanged, 0 becomes None (unlimited). Raises InvalidUserError."""
    errors: dict[str, str] = {}
    values = _checked(fields, errors)
    status = _choice(fields, "status", (ACTIVE, DISABLED, ON_HOLD), errors)
    if status == ON_HOLD and values.get("expire") is not None:
        errors["expire"] = "a user on hold has no expire yet; leave it out, or send 0"
    return _passed(values | ({"status": status} if status else {}), errors)


def _passed(values: dict[str, Any], errors: dict[str, str]) -> dict[str, Any]:
    if errors:
        raise InvalidUserError({name: f"Value error, {text}" for name, text in errors.items()})
    return values


def _checked(fields: Mapping[str, JSON], errors: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, read in _READERS.items():
        given = fields.get(name)
        if given is None:
            continue
        try:
            values[name] = read(given)
        except ValueError as error:
            errors[name] = str(error)
    strategy = _choice(fields, "data_limit_reset_strategy", tuple(RESET_DAYS), errors)
    if strategy is not None:
        values["data_limit_reset_strategy"] = strategy
    return values


def _choice(fields: Mapping[str, JSON], name: str, choices: tuple[str, ...], errors: dict[str, str]) -> str | None:
    given = fields.get(name)
    if given is None:
        return None
    if isinstance(given, str) and given in choices:
        return given
    errors[name] = f"must be one of {', '.join(choices)}"
    return None


def _integer(given: JSON, lowest: int, highest: int) -> int:
    if isinstance(given, str) and _DIGITS.fullmatch(given):
        given = int(given)
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if not isinstance(given, int) or isinstance(given, bool) or not lowest <= given <= highest:
        raise ValueError(f"must be a whole number from {lowest} to {highest}")
    return given


def _amount(highest: int) -> Callable[[JSON], int | None]:
    """Reads a number of which 0 means unlimited."""
    return lambda given: _integer(given, 0, highest) or None


def _boolean(given: JSON, default: bool) -> bool:
    if given is None:
        return default
    if not isinstance(given, bool):
        raise ValueError("next_plan's add_remaining_traffic and fire_on_either must be true or false")
    return given


def read_time(given: JSON) -> datetime | None:
    """ISO 8601 (without an offset: UTC) or Unix seconds."""
    try:
        if isinstance(given, str) and given.strip() and not _DIGITS.fullmatch(given):
            at = datetime.fromisoformat(given.strip())
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        return from_unix(_integer(given, 0, MAX_EXPIRE)) if given not in (0, "", "0") else None
    except (ValueError, OverflowError):
        raise ValueError("must be a time like 2026-01-31T12:00:00 (UTC), or Unix seconds") from None


def _note(given: JSON) -> str:
    if not isinstance(given, str) or len(given) > MAX_NOTE:
        raise ValueError(f"must be text of at most {MAX_NOTE} characters")
    if any(0xD800 <= ord(c) <= 0xDFFF or c == "\0" for c in given):
        raise ValueError(NOT_TEXT)
    return given


def _object(given: JSON) -> dict[str, JSON]:
    if not isinstance(given, dict):
        raise ValueError("must be an object")
    _check_size(given)
    return given


def _links(given: JSON) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(link, str) for link in given):
        raise ValueError("must be an array of strings")
    _check_size(given)
    return tuple(given)


def _check_size(given: JSON) -> None:
    try:
        size = len(json.dumps(given, allow_nan=False))
    except (ValueError, RecursionError):
        raise ValueError("contains numbers or nesting that JSON cannot carry") from None
    if size > MAX_JSON:
        raise ValueError(f"takes {size} characters; at most {MAX_JSON} are kept")


def _next_plan(given: JSON) -> NextPlan:
    if not isinstance(given, dict):
        raise ValueError("must be an object {data_limit, expire, add_remaining_traffic, fire_on_either}, or null")
    limit, expire = given.get("data_limit"), given.get("expire")
    return NextPlan(
        data_limit=None if limit is None else _amount(MAX_BYTES)(limit),
        expire=None if expire is None else _amount(MAX_EXPIRE)(expire),
        add_remaining_traffic=_boolean(given.get("add_remaining_traffic"), False),
        fire_on_either=_boolean(given.get("fire_on_either"), True),
    )


_READERS: Final[dict[str, Callable[[JSON], Any]]] = {
    "proxies": _object,
    "inbounds": _object,
    "excluded_inbounds": _object,
    "links": _links,
    "expire": _amount(MAX_EXPIRE),
    "data_limit": _amount(MAX_BYTES),
    "note": _note,
    "on_hold_expire_duration": _amount(MAX_DURATION),
    "on_hold_timeout": read_time,
    # Negative is the panel's "never".
    "auto_delete_in_days": lambda given: _integer(given, -MAX_DAYS, MAX_DAYS),
    "next_plan": _next_plan,
}

NULLABLE: Final = frozenset(
    {"expire", "data_limit", "note", "on_hold_expire_duration", "on_hold_timeout", "auto_delete_in_days", "next_plan"}
)
"""Fields that the panel shows as null where a user has none."""
