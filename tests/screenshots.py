"""Pictures of the dashboard's main pages: in each language, at 390 and at 1280 pixels, light and dark (`make screenshots`).

`python tests/screenshots.py FOLDER` starts a service in which much has happened, and ends with 1 where something does not fit.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chromium import chromium
from eventful import Eventful, eventful
from marzhook.dashboard.languages import NAMES
from person import Person
from unfit import unfit, unfold

WIDTHS = (390, 1280)
THEMES = ("light", "dark")


def main(folder: Path) -> int:
    """Prints what does not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    well = True
    with tempfile.TemporaryDirectory() as data, eventful(Path(data)) as panel, chromium() as page:
        for code in NAMES:
            reader = Person(page, panel.service, code)
            reader.comes_back()
            for path in panel.main:
                for what in pictured(reader, panel, path, folder):
                    print(f"{code} {path}: {what}")
                    well = False
            print(f"{code}: {len([*folder.glob(f'{code}-*.png')])} pictures in {folder}", flush=True)
    return 0 if well else 1


def pictured(reader: Person, panel: Eventful, path: str, folder: Path) -> Iterator[str]:
    """Take the pictures of one page, as it opens; gives what does not fit, with all unfolded too."""
    page, code = reader.page, reader.language.code
    if path == panel.main[-1]:
        page.delete_cookie("marzhook_session")
    reader.opens(path)
    if path in panel.wrong:
        reader.is_refused(panel.wrong[path])
    root = page.find_element("tag name", "html")
    if root.get_attribute("dir") != reader.language.direction:
        yield f"its direction is {root.get_attribute('dir')}"
    name = re.sub(r"\W+", "-", path).strip("-") or "overview"
    for width in WIDTHS:
        reader.measures(width)
        yield from (f"at {width}: {what}" for what in unfit(page))
        # As high as the page is: all of it is seen, and nothing scrolls.
        reader.measures(width, max(844, page.execute_script("return document.documentElement.scrollHeight")))
        for theme in THEMES:
            page.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
            (folder / f"{code}-{name}-{width}-{theme}.png").write_bytes(page.get_screenshot_as_png())
    unfold(page)
    for width in WIDTHS:
        reader.measures(width)
        yield from (f"unfolded, at {width}: {what}" for what in unfit(page))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
