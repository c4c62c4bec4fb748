"""Templates: escaped throughout, strict about what is missing, and with filters that speak the reader's language."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.bccache import Bucket
from markupsafe import Markup, escape

from marzhook.clock import from_unix
from marzhook.dashboard import words
from marzhook.dashboard.characters import harmless
from marzhook.dashboard.languages import Language
from marzhook.dashboard.visit import for_field

TEMPLATES: Final = Path(__file__).with_name("templates")

_ISOLATED: Final = re.compile("\u2068([^\u2068\u2069]*)\u2069")


def field(value: Any) -> Markup:
    """What a form's field holds. It comes back when the form is sent, so no character is exchanged for another one."""
    text = escape("" if value is None else value)
    return Markup(text.encode("utf-8", "xmlcharrefreplace").decode())  # noqa: S704 - it is escaped


def isolated(text: str) -> Markup:
    """A text in which U+2068 and U+2069 stand around values, as who gets it sees it."""
    parts = [escape(harmless(part)) for part in _ISOLATED.split(text)]
    parts[1::2] = [Markup("<bdi>{}</bdi>").format(part) for part in parts[1::2]]
    return Markup("").join(parts)


def time_tag(at: datetime | float | None, style: str = "full") -> Markup:
    """A moment: ISO 8601 for the browser, which writes it as its reader does; without JavaScript, in UTC."""
    if at is None:
        return Markup("—")
    at = (from_unix(at) if isinstance(at, float | int) else at).astimezone(UTC)
    iso = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" data-style="{}" dir="ltr">{}</time>').format(iso, style, text)


class _Shared(BytecodeCache):
    """What was compiled for one language: templates are the same in all, and compiling one takes longer than filling it in."""

    def __init__(self) -> None:
        self._made: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._made:
            bucket.bytecode_from_string(self._made[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._made[bucket.key] = bucket.bytecode_to_string()


_shared: Final = _Shared()


def _at_each_page(filter_: Callable[..., object]) -> Callable[..., object]:
    """A filter that differs by language: of a constant, too, it is never called while the template is compiled, for all."""
    return pass_context(lambda _context, *args, **named: filter_(*args, **named))


def environment(language: Language) -> Environment:
    """The templates in one language."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=_shared,
        extensions=["jinja2.ext.i18n"],
        finalize=harmless,
    )
    env.install_gettext_callables(language.gettext, language.ngettext, newstyle=True)  # type: ignore[attr-defined]
    env.filters |= {
        "time": time_tag,
        "field": field,
        "isolated": isolated,
        "for_field": for_field,
    }
    spoken: dict[str, Callable[..., object]] = {
        "number": language.number,
        "percent": language.percent,
        "seconds": language.seconds,
        # Isolated: a number in Persian digits and a Latin unit would change places with what is around them.
        "size": lambda value: Markup('<bdi dir="ltr">{}</bdi>').format(language.size(value)),
        "state": lambda state: words.state(language, state),
        "called": lambda endpoint: words.called(language, endpoint),
        "action": lambda action: words.action(language, action),
        "status": lambda status: words.status(language, status),
        "last_try": lambda row: words.last_try(language, row),
        "try_words": lambda attempt: words.attempt(language, attempt),
    }
    env.filters |= {name: _at_each_page(filter_) for name, filter_ in spoken.items()}
    env.globals |= {"language": language}
    return env
