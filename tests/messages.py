"""Every text of the dashboard that is to be translated, as its templates and modules, the settings and the checks of
forms have it.

`python tests/messages.py` brings the `.po` files up to date: new texts come in, unused ones go out.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

from marzhook import dashboard
from marzhook.condition import CONDITION_PROBLEMS
from marzhook.dashboard.languages import FOLDER, NAMES, SOURCE, UNITS
from marzhook.destinations.kinds import NO_KIND
from marzhook.destinations.markup import MARKUP_PROBLEMS
from marzhook.destinations.messages import NO_TEXT
from marzhook.destinations.template import TEMPLATE_PROBLEMS
from marzhook.destinations.values import VALUE_PROBLEMS
from marzhook.destinations.webhook import NO_JSON
from marzhook.endpoint import KIND_URL_PROBLEMS, NO_CHOICE, OPTION_PROBLEMS, URL_PROBLEMS
from marzhook.filter import FILTER_PROBLEMS
from marzhook.preflight import PREFLIGHT_PROBLEMS
from marzhook.settings import SETTINGS
from marzhook.transport.guard import REASONS

ROOT = Path(dashboard.__file__).parent
TRANSLATED = tuple(code for code in NAMES if code != SOURCE)
METHODS = [("templates/**.html", "jinja2"), ("*.py", "python")]
OPTIONS = {"templates/**.html": {"newstyle_gettext": "true", "trim_blocks": "true", "lstrip_blocks": "true"}}
KEYWORDS = {"_": None, "N_": None, "gettext": None, "ngettext": (1, 2)}


def extracted() -> Catalog:
    catalog = Catalog()
    found = extract_from_dir(str(ROOT), METHODS, OPTIONS, keywords=KEYWORDS)
    for _file, _line, message, comments, context in found:
        catalog.add(message, auto_comments=comments, context=context)
    for text in (
        *URL_PROBLEMS,
        *KIND_URL_PROBLEMS,
        *OPTION_PROBLEMS,
        *FILTER_PROBLEMS,
        *CONDITION_PROBLEMS,
        *TEMPLATE_PROBLEMS,
        *VALUE_PROBLEMS,
        *MARKUP_PROBLEMS,
        NO_KIND,
        NO_CHOICE,
        *PREFLIGHT_PROBLEMS,
        NO_TEXT,
        NO_JSON,
        *REASONS,
        *UNITS,
    ):
        catalog.add(text)
    for setting in SETTINGS:
        if not setting.actions:
            catalog.add(setting.doc)
    return catalog


def catalog_of(code: str) -> Catalog:
    with (FOLDER / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code)


def main() -> None:
    template = extracted()
    for code in TRANSLATED:
        catalog = catalog_of(code)
        catalog.update(template, no_fuzzy_matching=True)
        save(catalog, code)


def save(catalog: Catalog, code: str) -> None:
    """Sorted and without dates, so that a change shows what changed."""
    catalog.obsolete.clear()
    catalog.header_comment = "# Translations of Marzhook's dashboard."
    written = BytesIO()
    write_po(written, catalog, width=120, no_location=True, sort_output=True)
    lines = written.getvalue().decode().splitlines(keepends=True)
    kept = ("Language:", "Plural-Forms:", "Content-Type:")
    head = lines.index("\n")
    lines[:head] = [
        one for one in lines[:head] if not one.startswith('"') or one.startswith(tuple(f'"{k}' for k in kept))
    ]
    (FOLDER / f"{code}.po").write_text("".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
