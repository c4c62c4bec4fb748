"""Bodies: from bytes to items, strictly. What two programs could understand differently is refused."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

from marzhook.receiver.event import content_id
from marzhook.receiver.refusal import RequestRefused
from marzhook.receiver.secrets import well_formed_id

TYPE_CHECKING = False  # see `event`
if TYPE_CHECKING:
    from typing import Any, Final

    from marzhook.receiver.event import Format
    from marzhook.receiver.secrets import Proof

MAX_DEPTH: Final = 64
"""Objects and arrays within one another; a user with all his proxies has six."""


class Body:
    """A body's items, each with the ids by which it is recognised; the first is the event's own."""

    __slots__ = ("format", "items", "message_id")

    def __init__(self, format: Format, message_id: str | None, items: tuple[tuple[Any, tuple[str, ...]], ...]) -> None:
        self.format: Format = format
        self.message_id = message_id
        self.items = items


def check_head(headers: Mapping[str, str], body: bytes, *, max_body: int) -> None:
    """Raise RequestRefused for what need not be verified to be refused: 413, 400 (cut off), 415."""
    if len(body) > max_body:
        raise RequestRefused(413, "too_large", f"the body has more than {max_body} bytes")
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers and not body:
        raise RequestRefused(411, "no_length", "this server cannot read a body without Content-Length")
    if length.isascii() and length.isdigit() and length.lstrip("0") != str(len(body) or ""):
        raise RequestRefused(400, "truncated", f"the body has {len(body)} bytes, and Content-Length says {length[:20]}")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestRefused(
            415, "encoded", "a body with a Content-Encoding is not read: what is signed are its plain bytes"
        )
    media, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    if media and media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise RequestRefused(415, "not_json", "Content-Type must be application/json")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise RequestRefused(415, "wrong_charset", "JSON comes in UTF-8 (RFC 8259, 8.1)")


def read(message_id: str | None, body: bytes, proof: Proof) -> Body:
    """The items of a body that was proven. Raises RequestRefused (400)."""
    value = parse(body)
    if message_id is not None and not well_formed_id(message_id):
        message_id = None
    recognisable = message_id is not None or proof == "hmac"
    match value:
        case list():
            return Body("list", message_id, _listed(value, recognisable=recognisable))
        case {"action": _}:
            form: Format = "event"
        case {"type": str(action), "data": dict(data)}:
            form = "standard"
            value = {"enqueued_at": _unix(value.get("timestamp")), **data, "action": action}
        case _:
            raise RequestRefused(
                400, "not_an_event", "the JSON is no event, no list of events and no Standard Webhooks message"
            )
    ids = () if message_id is None else (message_id,)
    if proof == "hmac":
        # It covers the body only: a captured request could come again under another id.
        ids = (*ids, content_id(value))
    return Body(form, message_id, ((value, ids),))


def _listed(items: list[Any], *, recognisable: bool) -> tuple[tuple[Any, tuple[str, ...]], ...]:
    """A list is cut differently when it comes again, so its items are recognised one by one; twins are told apart by
    their number."""
    if not recognisable:
        return tuple((item, ()) for item in items)
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        own = item.get("id") if isinstance(item, dict) else None
        if isinstance(own, str) and well_formed_id(own):
            found.append((item, (own,)))
            continue
        name = content_id(item)
        seen[name] += 1
        found.append((item, (name if seen[name] == 1 else f"{name}.{seen[name]}",)))
    return tuple(found)


def _unix(timestamp: Any) -> float | None:
    from datetime import datetime  # of all formats, one has such times

    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


# -- JSON

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse(body: bytes) -> Any:
    """Strict JSON: UTF-8 without BOM, no key twice, no NaN or infinity, not nested deeper than MAX_DEPTH.

    Raises RequestRefused (400): `not_utf8`, `not_json`, `duplicate_key`, `number_out_of_range`, `too_deep`.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestRefused(400, "not_utf8", f"byte {error.start} of the body is not UTF-8") from None
    _check_depth(body)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise RequestRefused(400, "not_json", f"{error.msg} at character {error.pos} of {len(text)}") from None
    except ValueError:  # a whole number of thousands of digits
        raise _out_of_range() from None


def _check_depth(body: bytes) -> None:
    """Before parsing, whose own limit depends on who calls it from where."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise RequestRefused(400, "too_deep", f"the JSON is nested deeper than {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RequestRefused(400, "duplicate_key", f"the key {ascii(twice)[:80]} is there twice in one object")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _out_of_range()
    return number


def _no_constant(name: str) -> Any:
    raise RequestRefused(400, "not_json", f"{name} is not JSON")


def _out_of_range() -> RequestRefused:
    return RequestRefused(400, "number_out_of_range", "a number is larger than can be kept")
