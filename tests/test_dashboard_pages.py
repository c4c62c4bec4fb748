from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from jinja2 import DictLoader, Environment
from markupsafe import Markup

from marzhook.dashboard import overview
from marzhook.dashboard.languages import NAMES, load
from marzhook.dashboard.overview import percentile
from marzhook.dashboard.rendering import environment, harmless
from marzhook.dashboard.site import _compiled
from marzhook.delivery import DEAD, DELIVERED, PENDING
from marzhook.errors import StoreBusyError
from marzhook.testing import eventually
from settling import settlement

if TYPE_CHECKING:
    from dashboard_client import Browser
    from marzhook.dashboard.visit import Visit

pytest_plugins = ["api_client", "dashboard_client"]

EVIL = "<script>alert(1)</script>"
TURNED = "alice\u202egnp.exe"


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def paths(browser: Browser) -> list[str]:
    """A panel in which much has happened; every page of it."""
    api = browser.api
    endpoint = api.endpoint(name="shop", secret="very-secret-word")
    evil = api.endpoint(name=EVIL + TURNED, enabled=False)
    events = [
        api.publish(username=name, user={"note": EVIL}, by={"username": EVIL}) for name in (EVIL, TURNED, "carol")
    ]
    for event, state in zip(events, (PENDING, DEAD, DELIVERED), strict=True):
        api.settle(endpoint, event, state, 200 if state == DELIVERED else 503)
    browser.post("/users/new", {"username": "alice", "note": EVIL, "data_limit": "1"})
    browser.post("/inbox")
    api.clock.advance(60)
    return [
        "/", "/endpoints", f"/endpoints/{endpoint}", f"/endpoints/{endpoint}/edit", "/endpoints/new", "/events",
        f"/endpoints/{evil}", f"/endpoints/{evil}/edit",
        f"/events?username={EVIL}&state=dead&action=evil.action", *(f"/events/{event}" for event in events), "/dead?count=yes",
        f"/dead?username={EVIL}", "/users", "/users/new", "/user/alice", "/user/alice/edit", "/inbox", "/settings",
    ]  # fmt: skip


@pytest.mark.parametrize("code", NAMES)
def test_every_page_in_every_language(browser: Browser, paths: list[str], code: str) -> None:
    """Each page answers, says which language it is in and which way it reads, and loads nothing from elsewhere."""
    browser.get(f"/look?language={code}")
    for path in paths:
        page = browser.page(path)
        elements = Elements(page).found
        [html] = [attrs for tag, attrs in elements if tag == "html"]
        assert html["lang"] == {"zh": "zh-Hans"}.get(code, code)
        assert html["dir"] == ("rtl" if code == "fa" else "ltr")
        for tag, attrs in elements:
            assert not [name for name in attrs if name.startswith("on") or name == "style"], (path, tag)
            for address in (attrs.get("src"), attrs.get("action"), attrs.get("href") if tag == "link" else None):
                assert address is None or re.match("/(?!/)", address), (path, address)
            assert tag not in ("iframe", "object", "base")
        assert len([1 for tag, attrs in elements if tag == "script"]) == 1
        labelled = [1 for tag, attrs in elements if tag == "form" and attrs.get("method") == "post"]
        assert page.count('name="form_token"') == page.count('name="form_key"') == len(labelled), path


def test_names_are_shown_harmless(browser: Browser, paths: list[str]) -> None:
    """Markup in a name is text, and a character that turns the direction round is shown by its number; only a field, which is
    sent again, holds the character itself."""
    for path in paths:
        page = browser.page(path)
        assert EVIL not in page, path
        assert "\u202e" not in re.sub(' value="[^"]*"', "", page), path
    page = browser.page("/events")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "alice⟨U+202E⟩gnp.exe" in page


def test_harmless_keeps_what_languages_need() -> None:
    """Persian's zero-width non-joiner stays; what is invisible or breaks out of its place does not."""
    assert harmless("می\u200cشود") == "می\u200cشود"
    assert harmless("a\u2066b\x1b\u200f\ud800") == "a⟨U+2066⟩b⟨U+001B⟩⟨U+200F⟩⟨U+D800⟩"
    assert harmless(7) == 7


def test_secrets_are_on_no_page(browser: Browser, paths: list[str]) -> None:
    """Neither the endpoint's secrets nor what would be signed with them."""
    with browser.services.database.read() as conn:
        [row] = conn.exec_driver_sql("SELECT count(*) FROM endpoints WHERE name = 'shop'")
    assert row[0] == 1
    for path in paths:
        page = browser.page(path)
        assert "very-secret-word" not in page, path
        assert "whsec_" not in page, path
        assert not re.search("webhook-signature: v1a?,(?!&lt;)", page), path


def test_every_answer_has_the_headers_that_keep_it_safe(browser: Browser, paths: list[str]) -> None:
    """A strict policy for content, nothing in frames, nothing in caches; on errors, too."""
    for path in [*paths, "/endpoints/99", "/sign-in"]:
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


def test_the_first_view_is_light(browser: Browser, paths: list[str]) -> None:
    """On a slow link the first view is there soon: all of it takes less than 100 KB, before any packing."""
    page = browser.page("/")
    addresses = {
        attrs.get("src") or attrs.get("href") for tag, attrs in Elements(page).found if tag in ("img", "link", "script")
    }
    addresses |= {"/static/times.js", "/static/live.js", "/static/forms.js"}
    weight = len(page.encode()) + sum(len(browser.get(str(one)).content) for one in addresses)
    assert weight < 60_000
    assert browser.get("/static/style.css").headers["content-encoding"] == "gzip"


def test_files_are_kept_by_browsers_until_they_change(browser: Browser) -> None:
    """The second view asks for the page alone."""
    found = re.search(r'href="(/static/style.css\?\w+)"', browser.page("/"))
    assert found
    got = browser.get(found[1])
    assert "immutable" in got.headers["cache-control"]
    assert browser.get("/static/live.js", **{"If-None-Match": got.headers["etag"]}).status_code == 304
    assert browser.get("/static/nothing.js").status_code == 404
    assert browser.get("/static/..%2fsite.py").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/endpoints/99", f"/endpoints/{2**63}", "/events/99", "/user/nobody", "/endpoints/99/edit", "/events/1/1/retry"],
)
def test_what_is_not_there_is_said_so(browser: Browser, path: str) -> None:
    """A page in the visitor's language, with the way back; not a stack trace."""
    got = browser.post(path) if path.endswith("retry") else browser.get(path)
    assert got.status_code == 404
    assert "There is no such" in got.text
    assert 'href="/"' in got.text


def test_an_address_that_is_none_is_a_page_to_browsers_and_json_to_programs(browser: Browser) -> None:
    """Who mistypes an address reads so in his language; what a program reads stays as it was."""
    html = {"accept": "text/html,*/*;q=0.8"}
    got = browser.get("/nowhere", **html)
    assert got.status_code == 404
    assert "There is no such page." in got.text
    assert "default-src 'none'" in got.headers["content-security-policy"]
    assert "چنین" in browser.get("/nowhere", **html, **{"accept-language": "fa"}).text
    for path, headers in (("/nowhere", {}), ("/api/v1/nowhere", html)):
        got = browser.get(path, **headers)
        assert (got.status_code, got.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/no-such-page"])
def test_a_database_that_is_away_is_said_on_a_page(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Also where it is not even known who asks: in his language, and not as a program is told. Nobody is signed out."""
    browser.get("/look?language=ru")

    def look(_work: object) -> None:
        raise StoreBusyError("it does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(browser.services.database, "look", look)
        answered = browser.get(path, Accept="text/html")
    assert answered.status_code == (503 if path == "/" else 404)
    assert answered.headers["content-type"].startswith("text/html")
    assert '<html lang="ru"' in answered.text
    assert "set-cookie" not in answered.headers
    assert browser.get("/").status_code == 200


def test_what_nobody_expected_is_said_without_its_details(browser: Browser) -> None:
    """A bug shows nothing of the inside to the outside."""
    browser.site.figures.get = lambda: 1 / 0  # type: ignore[assignment,return-value]
    got = browser.get("/")
    assert got.status_code == 500
    assert "Something went wrong" in got.text
    assert "ZeroDivision" not in got.text


def test_the_choice_of_language_and_colours_is_kept(browser: Browser) -> None:
    """It outlives the visit, and leads back to where one was."""
    got = browser.get("/look?language=fa&theme=dark&next=/users")
    assert got.headers["location"] == "/users"
    page = browser.page("/users")
    assert '<html lang="fa" dir="rtl" data-theme="dark">' in page
    browser.get("/look?language=xx&theme=loud")
    assert '<html lang="fa" dir="rtl" data-theme="dark">' in browser.page("/users")


def test_the_answer_to_a_form_leads_to_pages_that_can_be_opened(browser: Browser) -> None:
    """Whatever a form's address, the languages and colours of what it answers lead back to the nearest page, and a page that
    follows along fetches that one."""
    endpoint, event = browser.api.endpoint(enabled=False), browser.api.publish()
    browser.post("/users/new", {"username": "alice"})
    refused = {
        "/user/alice/charge": "/user/alice",
        "/users/new": "/users/new",
        f"/endpoints/{endpoint}/test": f"/endpoints/{endpoint}",
        f"/endpoints/{endpoint}/edit": f"/endpoints/{endpoint}/edit",
        f"/events/{event}/99/cancel": f"/events/{event}",
    }
    for path, above in refused.items():
        got = browser.post(path, {"amount": "-1"})
        assert got.status_code in (404, 409, 422), path
        assert set(re.findall(r'next=([^"]*)"', got.text)) == {above}
        assert re.findall(r'data-here="([^"]*)"', got.text) == [above]
        assert browser.get(above).status_code == 200
    assert 'data-here="/events?username=a&amp;state=dead"' in browser.page("/events?username=a&state=dead")
    assert browser.site.page_above("/sign-out") == "/"


def test_the_api_stays_as_it_was(browser: Browser) -> None:
    """Its paths and its errors are not the dashboard's."""
    assert browser.get("/api/nothing").json()["code"] == "not_found"
    assert browser.client.post("/api/v1/endpoints/x").json()["code"] == "method_not_allowed"
    assert browser.get("/healthz").status_code == 200


# -- the overview


def test_the_overview_says_what_is_wrong_in_words(browser: Browser) -> None:
    """The endpoint that fails is first, with the reason, how often, and since when; the figures add up."""
    api = browser.api
    well, ill = api.endpoint("https://well.example/", name="well"), api.endpoint("https://ill.example/", name="ill")
    events = [api.publish() for _ in range(3)]
    began = api.clock.now()
    for event in events:
        api.settle(well, event, DELIVERED, 200)
        api.settle(ill, event, PENDING)
        api.clock.advance(60)
    page = browser.page("/")
    assert page.index(">ill<") < page.index(">well<")
    assert "reports an error of its own (503) — 3 in a row since" in page
    assert f'datetime="{began.isoformat(timespec="milliseconds").replace("+00:00", "Z")}"' in page
    # By the events' time: what was delivered late, of older ones, is not among these, and nobody is to think so.
    assert re.search(r"<strong>3</strong> delivered\s+<small>of the events of the last 24 hours</small>", page)
    assert "<strong>3</strong> failing now" in page
    assert page.count('<rect class="delivered"') == 1


@pytest.mark.parametrize("error", ["other", "render"])
def test_what_only_the_try_itself_says_is_told_with_the_health(browser: Browser, error: str) -> None:
    """Of a program that is not there, say, no words of our own tell what is to be mended."""
    api = browser.api
    endpoint, event = api.endpoint(), api.publish()
    [delivery] = api.services.outbox.load(endpoint, [event])
    failed = settlement(delivery, PENDING, 503, api.clock)
    attempt = failed.attempt._replace(status=None, error=error, message="it cannot be run: <nothing> there")
    api.services.outbox.settle([failed._replace(attempt=attempt)], now=api.clock.now())
    for path in ("/", "/endpoints", f"/endpoints/{endpoint}"):
        assert ': <bdi lang="en">it cannot be run: &lt;nothing&gt; there</bdi> — 1 time since' in browser.page(path)


def test_the_oldest_that_waits_is_told_by_a_time(browser: Browser) -> None:
    """An age would be an old one a minute later, on a page on which nothing else happens."""
    api = browser.api
    api.endpoint()
    began = api.clock.now()
    for name in ("first", "second"):
        api.publish(username=name)
        assert ("none is late" in browser.page("/")) == (name == "first")
        api.clock.advance(12.5)
    [said] = re.findall(r"<small>the oldest since <time datetime=\"([^\"]+)\" data-style=\"second\"", browser.page("/"))
    assert said == began.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_what_failed_before_it_was_resumed_or_changed_is_not_held_against_an_endpoint(browser: Browser) -> None:
    """With nothing waiting its next try may be hours away; that somebody has only renamed it mends nothing."""
    api = browser.api
    endpoint = api.endpoint()
    path, anew = f"/endpoints/{endpoint}", "nothing was sent since it was changed or resumed"

    def fails(status: int) -> None:
        api.clock.advance(60)
        api.settle(endpoint, api.publish(), DEAD, status)

    fails(410)
    browser.post(f"{path}/pause")
    assert "1 time since" in browser.page(path)
    api.clock.advance(60)
    browser.post(f"{path}/resume", {"backlog": "skip"})
    for page in ("/", "/endpoints", path):
        assert anew in browser.page(page)
        assert "wants no more events" not in browser.page(page)
    fails(503)
    assert "reports an error of its own (503) — 1 time since" in browser.page(path)
    api.clock.advance(60)
    for change, told in (({"name": "shop"}, "1 time since"), ({"url": "https://other.example/"}, anew)):
        assert api.call("PATCH", f"/api/v1{path}", json=change).status_code == 200
        assert told in browser.page(path)
    api.clock.advance(60)
    api.settle(endpoint, api.publish(), DELIVERED, 200)
    assert "accepts what is sent" in browser.page(path)


def test_a_fresh_panel_offers_its_inbox(browser: Browser) -> None:
    """A newcomer sees what to do first."""
    page = browser.page("/")
    assert "Events go nowhere yet" in page
    assert "Use the inbox" in page


def test_figures_are_not_made_for_each_visitor(browser: Browser) -> None:
    """Twenty open pages cost as much as one; one that was served figures of an older state is told when to ask again."""
    assert 'data-again="0.0"' in browser.page("/")
    made, _ = browser.site.figures.get()
    assert 'data-again="0.0"' in browser.page("/")
    browser.api.publish()
    again = re.search(r'data-again="([\d.]+)"', browser.page("/"))
    assert again
    # Not before it would be told, and where many are open that is later.
    assert float(again[1]) == 3.0
    browser.site.pulse._listeners = 20
    assert 'data-again="22.0"' in browser.page("/")
    assert browser.site.figures.get()[0] is made
    browser.api.clock.advance(1)
    assert browser.site.figures.get()[0] is not made


def test_figures_are_not_kept_for_long_that_took_long(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they waited for: who makes an endpoint sees it soon."""
    real = overview._snapshot

    def slow(*given: Any) -> overview.Snapshot:
        browser.api.clock.advance(5)
        return real(*given)

    monkeypatch.setattr(overview, "_snapshot", slow)
    made, _ = browser.site.figures.get()
    assert browser.site.figures.get()[0] is made
    browser.api.clock.advance(10)
    assert browser.site.figures.get()[0] is not made


def test_figures_are_written_once_for_each_language(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are they rendered for each visitor; what is one visitor's own is not in what they share."""
    written: list[str] = []
    real = overview._figures

    def noted(visit: Visit, snapshot: overview.Snapshot) -> Markup:
        written.append(visit.language.code)
        return real(visit, snapshot)

    monkeypatch.setattr(overview, "_figures", noted)
    pages = {code: [browser.page("/", **{"Accept-Language": code}) for _ in range(3)] for code in ("en", "fa")}
    assert written == ["en", "fa"]
    assert all("The events of the last 24 hours" in page for page in pages["en"])
    assert not any("The events of the last 24 hours" in page for page in pages["fa"])
    [token] = {*re.findall(r'name="form_token" value="(\w+)"', "".join(pages["en"]))}
    assert token not in "".join(browser.site.figures.get()[0]._shown.values())


def test_an_endpoints_last_days_are_a_chart_that_reads_as_a_table(browser: Browser) -> None:
    """What became of each day's events at this endpoint, and not at others; the days are those of UTC."""
    api = browser.api
    one, two = api.endpoint("https://one.example/"), api.endpoint("https://two.example/")
    days = []
    for states in ((DELIVERED,), (DELIVERED, DEAD), ()):
        days.append(f"{api.clock.now():%Y-%m-%dT00:00:00.000Z}")
        for state in states:
            event = api.publish()
            api.settle(one, event, state, 200 if state == DELIVERED else 503)
            api.settle(two, event, DEAD)
        api.clock.advance(86_400)
    browser.sign_in()
    page = browser.page(f"/endpoints/{one}")
    chart = page[page.index("Health of the last days") : page.index("Newest deliveries")]
    assert chart.count('<rect class="delivered"') == 2
    assert chart.count('<rect class="dead"') == 1
    cells = [re.findall(r'data-label="[^"]*">(?:<time[^>]*>)?([^<]+)', row) for row in re.findall("<tr>.*", chart)[1:]]
    assert len(cells) == 14
    assert [row[1:] for row in cells[1:4]] == [["0", "0", "0", "0"], ["1", "0", "1", "0"], ["1", "0", "0", "0"]]
    assert days[1] in chart


def test_percentiles() -> None:
    """The least value that so many are not above."""
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99)] == [50.0, 95.0, 99.0]
    assert percentile([4.0], 0.5) == 4.0
    assert percentile([], 0.5) is None


def test_the_next_pages_are_prepared_while_the_first_is_read(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates are compiled once for all languages, and not while somebody waits for each."""
    browser.page("/")
    eventually(lambda: _compiled.cache_info().currsize)
    monkeypatch.setattr(Environment, "_parse", lambda *_: pytest.fail("a template is compiled again"))
    for code in NAMES:
        again = environment(browser.site.languages[code])
        assert all(again.get_template(name) for name in again.list_templates())


@pytest.mark.parametrize("first", ["en", "fa"])
def test_constants_too_are_in_the_language_of_who_reads(first: str) -> None:
    """Whoever's language compiles a template first decides about no other's."""
    source = "{{ 12|number }} {{ 0.5|percent }} {{ 3|seconds }} {{ 2048|size }} {{ 'dead'|state }} {{ 'user_created'|action }}"
    pages = DictLoader({f"first-{first}.html": source + "{% set kept = 7|number %}{{ kept }} {{ 'expired'|status }}"})
    found = {}
    for code in sorted(NAMES, key=lambda code: code != first):
        language = load()[code]
        env = environment(language)
        env.loader = pages
        found[code] = env.get_template(f"first-{first}.html").render()
        for text in (
            language.number(12),
            language.percent(0.5),
            language.seconds(3),
            language.size(2048),
            language.number(7),
        ):
            assert text in found[code]
    assert len(set(found.values())) == len(NAMES)


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/user/alice/charge", "/user/alice"), ("/endpoints/1/rotate", "/endpoints/1"), ("/dead/replay", "/dead"),
        ("/sign-out", "/"), ("/inbox/token", "/inbox"),
    ],
)  # fmt: skip
def test_an_address_that_takes_forms_leads_to_the_page_above_it(browser: Browser, path: str, page: str) -> None:
    """As the address bar has it after a form was refused; programs are told that it takes no GET."""
    opened = browser.get(path, accept="text/html")
    assert (opened.status_code, opened.headers["location"]) == (303, page)
    assert browser.get(path, accept="application/json").status_code == 405
