"""Values in templates: what filters make of them, and how they are written where they are put out.

A filter gets values of JSON (or Undefined: what is not there) that were paid for, and must make nothing that is much larger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2 import Undefined

from marzhook.clock import from_unix
from marzhook.destinations.discord import readable_bytes
from marzhook.errors import RenderError

MAX_TEXT: Final = 512 * 1024
"""Characters of a text that a filter may make."""
MAX_DIGITS: Final = 15
"""Behind the point: more of them a float does not have."""


TOO_LARGE, TRUNCATE, NO_LIST, ROUND = VALUE_PROBLEMS = (
    f"a filter would make more than {MAX_TEXT} characters",
    "truncate wants how many characters are to be left",
    "a list or an object is wanted here",
    f"round wants 0 to {MAX_DIGITS} digits behind the point",
)


class Written(str):
    """Text that is put out as it stands: what `tojson` made."""

    __slots__ = ()


def json_text(value: Any) -> str:
    """As it stands within JSON: a text escaped, without its quotes, so that `"{{ username }}"` is a string whatever the name;
    everything else as `json` writes it, what is not there as null."""
    text = json.dumps(value)
    return text[1:-1] if isinstance(value, str) else text


def plain_text(value: Any) -> str:
    """As people read it; what is not there is nothing."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _missing(value: Any) -> bool:
    return value is None or isinstance(value, Undefined)


def _text(value: Any) -> str:
    return plain_text(None if _missing(value) else value)


def _bounded(size: int) -> None:
    if size > MAX_TEXT:
        raise RenderError(TOO_LARGE, reason=TOO_LARGE)


def _tojson(value: Any) -> Written:
    return Written(json.dumps(None if isinstance(value, Undefined) else value))


def _default(value: Any, other: Any = "") -> Any:
    return other if _missing(value) else value


def _replace(value: Any, old: str, new: str) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    _bounded(len(text) + (text.count(old)) * len(new))
    return text.replace(old, new)


def _truncate(value: Any, length: int, end: str = "…") -> str:
    text = _text(value)
    if not isinstance(length, int) or length < 0:
        raise RenderError(TRUNCATE, reason=TRUNCATE)
    return text if len(text) <= length else text[: max(0, length - len(end))] + end


def _join(value: Any, separator: str = "") -> str:
    parts = [_text(part) for part in _list(value)]
    _bounded(sum(map(len, parts)) + len(parts) * len(separator))
    return separator.join(parts)


def _list(value: Any) -> list[Any]:
    if _missing(value):
        return []
    if not isinstance(value, list | tuple | dict):
        raise RenderError(NO_LIST, reason=NO_LIST)
    return list(value)


def _items(value: Any) -> list[Any]:
    return [list(pair) for pair in value.items()] if isinstance(value, dict) else []


def _map(value: Any, attribute: str) -> list[Any]:
    return [one.get(attribute) if isinstance(one, dict) else None for one in _list(value)]


def _round(value: float, precision: int = 0) -> float:
    if not isinstance(precision, int) or not 0 <= precision <= MAX_DIGITS:
        raise RenderError(ROUND, reason=ROUND)
    return round(value, precision) if precision else round(value)


def _time(value: Any) -> str | None:
    """Unix seconds as ISO 8601 in UTC; 0, which is the panel's never, and nothing are nothing."""
    if _missing(value) or value == 0:
        return None
    return from_unix(value).isoformat(timespec="seconds").replace("+00:00", "Z")


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "tojson": _tojson,
    "default": _default,
    "upper": lambda value: _text(value).upper(),
    "lower": lambda value: _text(value).lower(),
    "trim": lambda value: _text(value).strip(),
    "replace": _replace,
    "truncate": _truncate,
    "join": _join,
    "string": _text,
    "length": lambda value: 0 if _missing(value) else len(value),
    "first": lambda value: next(iter(_list(value)), None),
    "last": lambda value: (_list(value) or [None])[-1],
    "items": _items,
    "map": _map,
    "int": lambda value: 0 if _missing(value) else int(value),
    "float": lambda value: 0.0 if _missing(value) else float(value),
    "round": _round,
    "abs": abs,
    "time": _time,
    "bytes": lambda value: readable_bytes(0 if _missing(value) else value),
}
"""By their names; `docs/reference.md` says what each does."""

TESTS: Final[Mapping[str, Callable[..., bool]]] = {
    "defined": lambda value: not isinstance(value, Undefined),
    "none": _missing,
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "mapping": lambda value: isinstance(value, dict),
    "sequence": lambda value: isinstance(value, list | tuple),
}
