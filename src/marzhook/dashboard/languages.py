"""The dashboard's languages: translations from `.po` files, read at start, and numbers as people of each write them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Final

from babel import Locale, negotiate_locale
from babel.dates import format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from babel.support import Translations

FOLDER: Final = Path(__file__).with_name("locale")
SOURCE: Final = "en"
NAMES: Final = {"en": "English", "fa": "فارسی", "ru": "Русский", "zh": "中文"}
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TAGS: Final = {"zh": "zh-Hans"}
"""Where the tag for browsers differs from ours."""

_DIGITS: Final = {"arabext": str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")}
"""By the name that the locale has for its digits."""


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """One language. Made by `load` only: there is one of each."""

    code: str
    translations: Translations
    locale: Locale

    @property
    def direction(self) -> str:
        return self.locale.text_direction

    @property
    def tag(self) -> str:
        """For the attribute `lang`."""
        return _TAGS.get(self.code, self.code)

    def gettext(self, message: str) -> str:
        return str(self.translations.ugettext(message))

    def ngettext(self, one: str, many: str, count: int) -> str:
        return str(self.translations.ungettext(one, many, count))

    def number(self, value: float, pattern: str | None = None) -> str:
        return self._digits(format_decimal(value, pattern, self.locale, numbering_system="default"))

    def percent(self, share: float) -> str:
        sign = self.locale.number_symbols[self.locale.default_numbering_system]["percentSign"]
        return self._digits(format_percent(share, locale=self.locale, numbering_system="default")).replace("%", sign)

    def seconds(self, value: float) -> str:
        """A short time with the unit that suits it: 12 ms, 3.4 s, 2 hr."""
        if value < 0.9995:
            # What took less than one did not take none.
            pattern = "0" if value >= 0.00095 else "0.#"
            return self.gettext("%(number)s ms") % {"number": self.number(value * 1000, pattern)}
        if value < 120:
            return self.gettext("%(number)s s") % {"number": self.number(value, "0.#")}
        return self._digits(format_timedelta(timedelta(seconds=value), format="short", locale=self.locale))

    def size(self, value: float) -> str:
        """Bytes with the unit that suits them, in powers of 1,024."""
        unit = 0
        while value >= 1024 and unit < len(UNITS) - 1:
            value /= 1024
            unit += 1
        return f"{self.number(value, '0.##')} {self.gettext(UNITS[unit])}"

    def measured(self, text: str, unit: str) -> tuple[str, int]:
        """A size as somebody has written it: its number, and how many bytes it counts; without a unit, in this one."""
        for name in reversed(UNITS):
            for called in (name, self.gettext(name)):
                number = text[: -len(called)].rstrip()
                if number and text.casefold().endswith(called.casefold()):
                    return number, 1024 ** UNITS.index(name)
        return text, 1024 ** UNITS.index(unit)

    def _digits(self, text: str) -> str:
        """The library has the separators of each language, and Latin digits in all."""
        return text.translate(_DIGITS.get(self.locale.default_numbering_system, {}))


def load() -> dict[str, Language]:
    """Every language, by code. Takes some 50 ms: once, at start."""
    return {code: Language(code, _translations(code), Locale.parse(code)) for code in NAMES}


def choose(wanted: str | None, header: str) -> str:
    """The code of the language that was chosen, or the best of an Accept-Language header (RFC 9110, 12.5.4)."""
    if wanted in NAMES:
        return wanted
    weighed = []
    for index, part in enumerate(header[:500].split(",")):
        tag, _, weight = part.partition(";q=")
        try:
            weighed.append((-float(weight or 1), index, tag.strip()))
        except ValueError:
            continue
    return negotiate_locale([tag for _, _, tag in sorted(weighed)], [*NAMES], sep="-") or SOURCE


def _translations(code: str) -> Translations:
    if code == SOURCE:
        # The null translations know no plural but English's, which is right here.
        return Translations()
    with (FOLDER / f"{code}.po").open("rb") as file:
        catalog = read_po(file, locale=code)
    compiled = BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return Translations(compiled)
