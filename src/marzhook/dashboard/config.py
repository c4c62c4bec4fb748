"""Settings in effect: each one's value, where it came from, and what would change it."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape
from starlette.responses import Response

from marzhook.dashboard import words
from marzhook.dashboard.languages import Language
from marzhook.dashboard.visit import Pages, Visit
from marzhook.event import JSON
from marzhook.settings import SETTINGS, Setting

pages = Pages()

_MASKED: Final = re.compile(r"set \((\d+) characters?\)")
"""As settings show a secret."""
_LINE: Final = re.compile(r"(\S+) line (\d+)")
"""As settings name a line of a file."""


@pages.get("/settings")
def show(visit: Visit) -> Response:
    settings = visit.services.settings
    # Ours, as all texts of templates are: what turns direction in them, a translator has put there.
    docs = {setting.name: escape(_doc(visit.language, setting)) for setting in SETTINGS}
    # What OpenTelemetry's own variables mean, its documentation says.
    other = visit.language.gettext("where spans go, and how, as OpenTelemetry defines it")
    rows = [
        (
            entry,
            _text(visit.language, entry.value),
            docs.get(entry.name, other if entry.name.startswith("OTEL_") else ""),
            _place(visit.language, entry.source),
        )
        for entry in settings.entries
    ]
    return visit.page("settings.html", rows=rows, unused=settings.unused)


def _doc(language: Language, setting: Setting) -> str:
    """What it means. The texts of the settings themselves are translated, too (`tests/messages.py` finds them)."""
    if setting.actions:
        actions = " · ".join(words.action(language, action) for action in setting.actions)
        return language.gettext("published where this is true: %(actions)s") % {"actions": actions}
    return language.gettext(setting.doc)


def _place(language: Language, source: str) -> Markup:
    """The line of a file, in words, or the other setting."""
    code = Markup('<code dir="ltr">{}</code>').format
    if line := _LINE.fullmatch(source):
        told = escape(language.gettext("line %(number)s of %(file)s"))
        return told % {"number": language.number(int(line[2]), "0"), "file": code(line[1])}
    return code(source)


def _text(language: Language, value: JSON) -> str:
    """The value as one would write it; "" where it is unset, and a secret's length in words."""
    if value is None or value == []:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_text(language, one) for one in value)
    if isinstance(value, str) and (masked := _MASKED.fullmatch(value)):
        length = int(masked[1])
        told = language.ngettext("set (%(number)s character)", "set (%(number)s characters)", length)
        return told % {"number": language.number(length)}
    return f"{value:g}" if isinstance(value, float) else str(value)
