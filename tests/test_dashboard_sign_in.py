from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx2
import pytest
from fastapi.testclient import TestClient

from dashboard_client import PASSWORD, Form
from marzhook import operations
from marzhook.dashboard.session import SESSION
from marzhook.errors import ThrottledError, UnauthorizedError
from marzhook.store import admins
from marzhook.testing import FakeClock
from marzhook.throttle import ADDRESS_FAILURES, FAILURES, WITHIN, Throttle

if TYPE_CHECKING:
    from dashboard_client import Browser
    from marzhook.admin import Admin
    from marzhook.store.database import Database

pytest_plugins = ["api_client", "dashboard_client"]


def test_a_stranger_is_asked_who_he_is_and_then_goes_on(stranger: Browser) -> None:
    """A link to a page leads to it, after the sign-in."""
    asked = stranger.get("/events?username=alice")
    assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=%2Fevents%3Fusername%3Dalice")
    form = asked.headers["location"]
    refused = stranger.post(form, {"username": "root", "password": "guess"}, on=form)
    # As the first time, also at its reload and in another language: all that the page knows of itself is its address.
    assert f'data-here="{form}"' in refused.text
    signed = stranger.post(form, {"username": "root", "password": PASSWORD}, on=form)
    assert (signed.status_code, signed.headers["location"]) == (303, "/events?username=alice")
    assert stranger.get("/events").status_code == 200


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/users/new", "/users/new"), ("/user/alice/charge", "/user/alice"), ("/events/1/2/retry", "/events/1"),
        ("/endpoints/1/edit", "/endpoints/1/edit"), ("/dead/replay", "/dead"),
        ("/dead/replay?states=dead&states=cancelled&username=a", "/dead?states=dead&states=cancelled&username=a"),
    ],
)  # fmt: skip
def test_a_form_sent_after_the_sessions_end_leads_back_to_its_page(stranger: Browser, path: str, page: str) -> None:
    """After the sign-in, which says that what was sent was not done; to what was to be replayed, too."""
    sent = stranger.client.post(path, data={"username": "bob"})
    assert sent.status_code == 303
    address = sent.headers["location"]
    form = stranger.page(address)
    assert "what you sent was not done" in form
    assert "what you sent was not done" not in stranger.page("/sign-in?next=/users")
    fields = Form(form, "username").fields
    assert "bob" not in form
    fields |= {"username": "root", "password": PASSWORD}
    assert stranger.client.post(address, data=fields).headers["location"] == page


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:1", "x"]
)
def test_signing_in_leads_to_this_site_only(stranger: Browser, elsewhere: str) -> None:
    """A link to our sign-in cannot be used to lead somebody to another site."""
    form = f"/sign-in?{urlencode({'next': elsewhere})}"
    assert stranger.post(form, {"username": "root", "password": PASSWORD}, on=form).headers["location"] == "/"
    assert stranger.client.get("/look", params={"next": elsewhere}).headers["location"] == "/"


def test_the_session_is_kept_from_scripts_and_other_sites(stranger: Browser) -> None:
    """The cookie is HttpOnly and SameSite=Lax, and over https Secure."""
    cookie = stranger.sign_in().headers["set-cookie"]
    assert cookie.startswith("marzhook_session=")
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    secure = TestClient(stranger.client.app, base_url="https://testserver", follow_redirects=False)
    token = re.search(r'name="form_token" value="(\w+)"', secure.get("/sign-in").text)
    assert token
    got = secure.post("/sign-in", data={"username": "root", "password": PASSWORD, "form_token": token[1]})
    assert "Secure" in got.headers["set-cookie"]


def test_a_wrong_password_signs_nobody_in_and_says_no_more(stranger: Browser) -> None:
    """Whether the name exists is not told; what was typed as a password does not come back."""
    answers = [stranger.sign_in(name, "guess-123") for name in ("root", "nobody")]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert all("The name or the password is wrong." in answer.text for answer in answers)
    assert all("guess-123" not in answer.text for answer in answers)
    assert stranger.get("/").status_code == 303


def test_guessing_is_slowed_down(stranger: Browser) -> None:
    """After five wrong guesses not even the right password is looked at, for five minutes."""
    for _ in range(FAILURES):
        assert stranger.sign_in("root", "guess").status_code == 401
    stopped = stranger.sign_in()
    assert stopped.status_code == 429
    assert "Too many failed sign-ins" in stopped.text
    stranger.api.clock.advance(WITHIN + 1)
    assert stranger.sign_in().status_code == 303


def test_the_throttle_counts_networks_and_forgets(clock: FakeClock) -> None:
    """One who has a /64 is one guesser, not so all who have IPv4; others are not stopped by him; memory is bounded."""
    throttle = Throttle(clock.monotonic)
    for i in range(FAILURES):
        throttle.failed(f"2001:db8::{i:x}", "root")
        clock.advance(1)
    assert throttle.wait("2001:db8::ffff", "root") == WITHIN - FAILURES
    assert throttle.wait("2001:db8:0:1::1", "root") == 0
    assert throttle.wait("2001:db8::1", "bot") == 0
    throttle.succeeded("2001:db8::1", "bot")
    assert throttle.wait("2001:db8::1", "root") > 0
    clock.advance(WITHIN - FAILURES)
    assert throttle.succeeded("2001:db8::1", "root") == 0
    for _ in range(FAILURES - 1):
        throttle.failed("2001:db8::1", "root")
    assert throttle.wait("2001:db8::1", "root") == 0
    for i in range(ADDRESS_FAILURES):
        throttle.failed("192.0.2.1", f"name{i}")
    assert throttle.wait("192.0.2.1", "anybody") == WITHIN
    clock.advance(WITHIN)
    assert throttle.wait("192.0.2.1", "anybody") == 0
    for i in range(ADDRESS_FAILURES):
        throttle.failed("::ffff:192.0.2.2", f"name{i}")
    assert throttle.wait("192.0.2.2", "anybody") == WITHIN
    assert throttle.wait("::ffff:192.0.2.3", "anybody") == throttle.wait("::1", "anybody") == 0
    for i in range(12_000):
        throttle.failed(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", "root")
    assert len(throttle._failed) == 10_000


def test_there_is_no_way_round_the_throttle(stranger: Browser) -> None:
    """Tokens of the API count with the dashboard's sign-ins, and who signs in with an account of his own gains no guesses."""
    stranger.admin("seller", is_sudo=False)

    def token(name: str, password: str) -> httpx2.Response:
        form = {"username": name, "password": password}
        got: httpx2.Response = stranger.client.post("/api/admin/token", data=form)
        return got

    for _ in range(FAILURES - 1):
        assert token("root", "guess").status_code == 401
    assert stranger.sign_in("seller").status_code == 303
    assert token("seller", PASSWORD).status_code == 200
    assert stranger.another().sign_in("root", "guess").status_code == 401
    assert stranger.another().sign_in("root").status_code == 429
    stopped = token("root", PASSWORD)
    assert (stopped.status_code, stopped.json()["code"]) == (429, "too_many_sign_ins")
    assert stopped.json()["detail"] == f"too many failed sign-ins; try again in {WITHIN:.0f} seconds"
    assert stopped.headers["retry-after"] == f"{WITHIN:.0f}"
    stranger.api.clock.advance(WITHIN)
    assert token("root", PASSWORD).status_code == 200


def test_guesses_at_once_are_worth_no_more(stranger: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the right password is being checked others are refused: nobody is told that it was right."""
    real = admins.authenticate

    def authenticate(database: Database, name: str, password: str) -> Admin | None:
        if password == PASSWORD:
            for _ in range(FAILURES):
                with pytest.raises(UnauthorizedError):
                    operations.sign_in(stranger.services, name, "guess", address="192.0.2.1")
        return real(database, name, password)

    monkeypatch.setattr(admins, "authenticate", authenticate)
    with pytest.raises(ThrottledError):
        operations.sign_in(stranger.services, "root", PASSWORD, address="192.0.2.1")


def test_bots_that_sign_in_rightly_are_never_throttled(stranger: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty of them, each minute, from one address, beside three whose passwords are out of date."""
    # Without the hash, which is slow on purpose: who is right is not what is looked at here.
    monkeypatch.setattr(admins, "_verifies", lambda _hash, password: password == PASSWORD)
    names = [f"bot{i}" for i in range(20)]
    for name in names:
        stranger.admin(name, is_sudo=False)
    services = stranger.services
    for _minute in range(6):
        for name in names:
            assert operations.sign_in(services, name, PASSWORD, address="192.0.2.1")
        for name in ("old1", "old2", "old3"):
            for _again in range(10):
                with pytest.raises((UnauthorizedError, ThrottledError)):
                    operations.sign_in(services, name, "old", address="192.0.2.1")
        stranger.api.clock.advance(60)


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
def test_a_forged_form_is_refused(browser: Browser, token: str | None) -> None:
    """Another site cannot make a signed-in admin's browser do anything: it does not know the form's token."""
    endpoint = browser.api.endpoint()
    fields = {} if token is None else {"form_token": token}
    for path in (f"/endpoints/{endpoint}/pause", "/sign-out", "/users/new", "/inbox"):
        got = browser.client.post(path, data=fields)
        assert got.status_code == 403
        assert "This form is out of date" in got.text
    assert "badge paused" not in browser.page(f"/endpoints/{endpoint}")


def test_a_forged_sign_in_is_refused(stranger: Browser) -> None:
    """Nor can it sign somebody in as another."""
    stranger.page("/sign-in")
    fields = {"username": "root", "password": PASSWORD, "form_token": stranger.another().token("/sign-in")}
    assert stranger.client.post("/sign-in", data=fields).status_code == 403


def test_who_signed_in_in_another_tab_may_sign_in_in_this_one(stranger: Browser) -> None:
    """A browser that was opened again has several tabs that ask. Whoever is named in the form is signed in."""
    stranger.admin("seller", is_sudo=False)
    form = "/sign-in?next=/events"
    fields = {"username": "root", "password": PASSWORD, "form_token": stranger.token(form)}
    for _ in range(2):
        signed = stranger.client.post(form, data=fields)
        assert (signed.status_code, signed.headers["location"]) == (303, "/events")
    wrong = stranger.client.post("/sign-in", data=fields | {"password": "guess"})
    assert (wrong.status_code, stranger.get("/events").status_code) == (401, 200)
    again = Form(wrong.text, "password").fields | {"username": "seller", "password": PASSWORD}
    assert stranger.client.post("/sign-in", data=again).status_code == 303
    assert stranger.get("/events").status_code == 403
    # Other forms are bound to the session.
    assert stranger.client.post("/sign-out", data=fields).status_code == 403


def test_who_is_signed_out_already_can_sign_out(browser: Browser) -> None:
    """In another window, or with a second click: nothing is left undone, so nothing is said of it."""
    fields = {"form_token": browser.token("/users")}
    session = browser.client.cookies[SESSION]
    for _ in range(2):
        # As the browser sends it before it has read the first answer.
        browser.client.cookies.set(SESSION, session, domain="testserver.local")
        assert browser.client.post("/sign-out", data=fields).headers["location"] == "/sign-in"


def test_signing_out_and_a_new_password_end_the_session(browser: Browser) -> None:
    """A lost computer is locked out by changing the password."""
    # Tokens tell each other apart by the moment at which they were issued.
    browser.api.clock.advance(1)
    other = browser.another()
    assert other.sign_in().status_code == 303
    stolen = browser.client.cookies[SESSION]
    assert browser.post("/sign-out").headers["location"] == "/sign-in"
    thief = browser.another()
    thief.client.cookies.set(SESSION, stolen, domain="testserver.local")
    assert thief.get("/").status_code == 303
    assert browser.get("/").status_code == 303
    assert other.get("/").status_code == 200
    browser.api.clock.advance(1)
    with browser.services.database.write() as tx:
        hashed = admins.hash_password("another one")
        admins.change(tx, "root", {"password_hash": hashed}, now=browser.api.clock.now())
    assert other.get("/").status_code == 303


def test_an_admin_without_sudo_sees_his_users_and_nothing_else(browser: Browser) -> None:
    """He may manage his own users; everything else is refused, also by its address."""
    browser.admin("seller", is_sudo=False)
    browser.post("/users/new", {"username": "foreign"})
    seller = browser.another()
    assert seller.sign_in("seller").status_code == 303
    assert seller.get("/").headers["location"] == "/users"
    assert seller.post("/users/new", {"username": "own_user"}).headers["location"] == "/user/own_user"
    page = seller.page("/users")
    assert "own_user" in page
    assert "foreign" not in page
    assert 'href="/endpoints"' not in page
    # And leads to a page that he has.
    for path, status in (("/user/foreign", 403), ("/user/nobody", 404), ("/nowhere", 404)):
        refused = seller.page(path, status, accept="text/html").partition("<main")[2]
        assert '<p><a href="/users">To the users</a></p>' in refused
        assert "overview" not in refused
    assert '<p><a href="/">To the overview</a></p>' in browser.page("/user/nobody", 404)
    assert seller.post("/user/foreign/delete").status_code == 403
    endpoint = browser.api.endpoint()
    for path in ("/endpoints", f"/endpoints/{endpoint}", "/events", "/dead", "/settings", "/inbox"):
        assert seller.get(path).status_code == 403
    for path in (f"/endpoints/{endpoint}/delete", "/dead/replay", "/inbox", "/user/own_user/charge"):
        assert seller.post(path).status_code == 403
    assert seller.get("/live").status_code == 204
    # His pages are not told of changes, and look for them.
    pages = [one.page("/user/own_user") for one in (seller, browser)]
    assert [page.count(" data-live") for page in pages] == [2, 3]
    assert ["data-told" in page for page in pages] == [False, True]
