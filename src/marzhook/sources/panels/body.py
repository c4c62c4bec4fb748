"""A request's body, item by item: one that cannot be read does not keep the others from being read.

Panels send what they have not delivered yet in one array, and send it again as a whole, or drop it as a whole. Where a
single item is at fault (a key twice, a number that is none, nested too deeply), the array is taken apart by its brackets
and each item is read by itself. That is slow, and happens only then.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from marzhook.errors import InvalidError
from marzhook.event import JSON

TOO_DEEP: Final = "it is nested too deeply"
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item that is no value that we could take; `text` is how it came."""

    reason: str
    text: str = field(repr=False)


class _Refused(ValueError):
    """JSON by its grammar, but not a value that means one thing."""


def items_of(body: bytes) -> list[JSON | Unreadable]:
    """The items of an array, or the body itself as the only one.

    Raises InvalidError with code `malformed_json` where the body is no JSON at all.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidError("the body is not UTF-8", code="malformed_json") from None
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(error) from None
    except (RecursionError, ValueError):
        return list(_one_by_one(text))
    return value if isinstance(value, list) else [value]


def texts_of(body: bytes) -> list[str]:
    """How each item of `items_of(body)` was written."""
    return list(_texts(body.decode("utf-8-sig")))


def is_deeper(text: str, levels: int) -> bool:
    """Whether objects and arrays are nested more than so many levels deep in this JSON."""
    if text.count("[") + text.count("{") <= levels:
        return False
    depth = 0
    for found in _TOKEN.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            if depth > levels:
                return True
        elif found[0] in ("]", "}"):
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused("a key occurs twice in one object")
    return value


def _no_number(constant: str) -> None:
    raise _Refused(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Refused("a number in it is larger than can be kept")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)


def _one_by_one(text: str) -> Iterator[JSON | Unreadable]:
    for piece in _texts(text):
        try:
            yield _decoder.decode(piece)
        except json.JSONDecodeError as error:
            raise _malformed(error) from None
        except RecursionError:
            yield Unreadable(TOO_DEEP, piece)
        except ValueError as error:
            # Python's own, of a number with thousands of digits, explains Python.
            yield Unreadable(str(error) if isinstance(error, _Refused) else "a number in it is too long", piece)


def _texts(text: str) -> Iterator[str]:
    """What stands between the brackets and commas of the outermost array; all of it, where there is none."""
    if not text.lstrip().startswith("["):
        yield text
        return
    depth = start = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in ("[", "{"):
            depth += 1
            if depth == 1:
                start = found.end()
        elif token in ("]", "}"):
            depth -= 1
            if depth == 0:
                yield text[start : found.start()]
                if text[found.end() :].strip():
                    break
                return
        elif token == "," and depth == 1:
            yield text[start : found.start()]
            start = found.end()
    raise InvalidError("the body is not JSON: its brackets do not match", code="malformed_json")


def _malformed(error: json.JSONDecodeError) -> InvalidError:
    return InvalidError(f"the body is not JSON: {error}", code="malformed_json")
