"""The guide as a site: it builds without a warning, loads nothing from elsewhere, and no link leads nowhere."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from examples import ROOT, pages

FOREIGN = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """What a page loads, where its links lead, and the ids that links can lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.ids = list[str](), list[str](), set[str]()
        self.root: dict[str, str] = {}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids |= {values["id"]} if "id" in values else set()
        if tag in ("html", "body"):
            self.root |= values
        if tag == "a":
            self.links += [values["href"]] if "href" in values else []
        elif tag == "link" and values.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.loads.append(values["href"])
        self.loads += [values[name] for name in ("src", "srcset", "poster") if name in values]


@pytest.fixture(scope="module")
def site() -> Path:
    built = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stdout.count("No issues found") + built.stderr.count("No issues found") == 2
    return ROOT / "build/site"


def test_every_page_is_in_the_site(site: Path) -> None:
    """Each page of docs/ was built, and is in the navigation of the start page."""
    start = Page(site / "index.html")
    for page in pages():
        if page.parent == ROOT:
            continue
        built = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / built).exists()
        assert {str(built), f"./{built}"} & set(start.links), built


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture of any page is another host's, nor what the styles load."""
    built = sorted(site.rglob("*.html"))
    assert len(built) > 8
    for page in built:
        loads = Page(page).loads
        assert loads
        assert not [url for url in loads if FOREIGN.match(url)], page
    for style in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import\s*)[\"']?([^\"')\s]+)", style.read_text())
        assert not [url for url in loaded if FOREIGN.match(url)], style


def test_no_link_leads_nowhere(site: Path) -> None:
    """Each link within the site has its file, and each fragment its heading."""
    # 404.html is served at any address, so its links are absolute; there is no address yet.
    known = {path.resolve(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    checked = 0
    for path, page in known.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or FOREIGN.match(link):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), (path, link)
            if parts.fragment and target in known:
                assert unquote(parts.fragment) in known[target].ids, (path, link)
            checked += 1
    assert checked > 100


def test_persian_pages_run_from_right_to_left(site: Path) -> None:
    """The Persian page says so, and so its language; the English one does not."""
    persian, english = Page(site / "fa/index.html").root, Page(site / "webhooks.html").root
    assert (persian["lang"], persian["dir"]) == ("fa", "rtl")
    assert (english["lang"], english.get("dir", "ltr")) == ("en", "ltr")
