"""Telegram's HTML: the little of HTML that its messages know ("HTML style" in the Bot API's documentation)."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Final

from marzhook.errors import InvalidError

TAGS: Final = frozenset(
    {
        "b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "span", "tg-spoiler", "a", "tg-emoji", "code", "pre",
        "blockquote",
    }
)  # fmt: skip
NOT_CLOSED, NO_TAG, NOT_OPEN = MARKUP_PROBLEMS = (
    "%(tag)s is not closed",
    "Telegram knows no %(tag)s; it knows %(known)s, and a line's end",
    "%(tag)s closes nothing",
)
_TAG = re.compile(r"<[^>]*>")


def plain(text: str) -> str:
    """The text without its formatting, as it is counted."""
    return html.unescape(_TAG.sub("", text))


def check_markup(text: str) -> None:
    """Raises InvalidError where Telegram would not understand it."""
    parser = _Markup()
    parser.feed(text)
    parser.close()
    if parser.open:
        raise _wrong(NOT_CLOSED, tag=f"<{parser.open[-1]}>")


def _wrong(reason: str, **values: str) -> InvalidError:
    return InvalidError(f"the template: {reason % values}", code="invalid_template", reason=reason, values=values)


class _Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise _wrong(NO_TAG, tag=f"<{tag}>", known=", ".join(sorted(TAGS)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise _wrong(NOT_OPEN, tag=f"</{tag}>")
