"""Endpoints on the dashboard: their forms of each kind, what is wrong at its place, and the request in sight."""

from __future__ import annotations

import html
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from marzhook.api.shown import endpoint_shown
from marzhook.dashboard.session import ONCE, SESSION, is_once
from marzhook.endpoint import KINDS
from marzhook.store import endpoints

if TYPE_CHECKING:
    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]

ODD = "سلام\u200f 'it''s' $(id) `id` \u202e \U000e0041 !"
BOT = {"kind": "telegram", "url": "123456:" + "A" * 35, "chat": "-1001234567890"}


def test_an_endpoint_is_made_changed_paused_and_deleted(browser: Browser) -> None:
    """Its whole life, over forms alone; the signing secret is shown once."""
    fields = {
        "kind": "webhook", "url": "https://shop.example/hook", "name": "shop", "format": "list", "secret": "s3cret",
        "secret_mode": "hmac", "detail": "none", "which": "some", "actions": ["user_created", "user_deleted"],
        "ordered": "yes", "concurrency": "8", "rate_limit": "2,5",
    }  # fmt: skip
    made = browser.post("/endpoints/new", fields, on="/endpoints/new")
    secret = re.search(r"whsec_[\w+/=]+", browser.page(made.headers["location"]))
    assert secret
    with browser.services.database.read() as conn:
        [endpoint] = endpoints.all_endpoints(conn)
    assert endpoint.signing_secret == secret[0]
    assert (endpoint.format, endpoint.secret, endpoint.secret_mode) == ("list", "s3cret", "hmac")
    assert endpoint.actions == {"user_created", "user_deleted"}
    assert (endpoint.ordered, endpoint.concurrency, endpoint.rate_limit) == (True, 8, 2.5)
    path = f"/endpoints/{endpoint.id}"
    assert "whsec_" not in browser.page(path)

    form = browser.page(f"{path}/edit")
    assert "s3cret" not in form
    changed = fields | {"secret": "", "keep_secret": "yes", "which": "all", "actions": []}
    changed |= {"name": "Лавка", "rate_limit": "۳٫۵"}
    assert browser.post(f"{path}/edit", changed).headers["location"] == path
    with browser.services.database.read() as conn:
        after = endpoints.get(conn, endpoint.id)
    assert (after.secret, after.actions, after.name, after.rate_limit) == ("s3cret", None, "Лавка", 3.5)

    browser.post(f"{path}/pause")
    assert "what happens meanwhile is kept for it" in browser.page(path)
    assert browser.post(f"{path}/test").status_code == 409
    browser.post(f"{path}/resume")
    assert browser.post(f"{path}/test").headers["location"] == "/events/1"
    assert "Test event" in browser.page("/events/1")

    assert browser.post(f"{path}/rotate").headers["location"] == path
    rotated = browser.page(path)
    assert secret[0] not in rotated
    assert "whsec_" in rotated
    assert browser.post(f"{path}/delete").headers["location"] == "/endpoints"
    assert browser.get(path).status_code == 404


def test_a_new_secret_is_shown_to_its_session_once(browser: Browser) -> None:
    """On the endpoint's page, by whichever process; not in its address, not in a cookie, not again, and to nobody else."""
    fields = {"kind": "webhook", "url": "https://shop.example/hook", "which": "all"}
    browser.post("/endpoints/new", fields, on="/endpoints/new")
    new, again = browser.page("/endpoints/1"), browser.page("/endpoints/1")
    assert "whsec_" in new
    assert "whsec_" not in again
    # Another language would be another page, which shows it no more.
    assert "/look?" not in new
    assert "/look?" in again
    rotated = browser.post("/endpoints/1/rotate")
    assert rotated.headers["location"] == "/endpoints/1"
    assert "whsec_" not in str(rotated.headers)
    cookie = rotated.headers["set-cookie"]
    value = cookie.partition("=")[2].partition(";")[0]
    assert "Path=/endpoints/1;" in cookie
    assert "HttpOnly" in cookie
    browser.client.cookies.delete(ONCE)
    another = browser.another()
    another.admin("second", is_sudo=True)
    another.sign_in("second")
    later = f"{int(value.partition('.')[0]) + 1}.{value.partition('.')[2]}"
    for one, given in (
        (another, value),
        (browser, later),
        (browser, "9"),
        (browser, "9" * 12 + ".x"),
        (browser, "x.y"),
    ):
        session = one.client.cookies[SESSION]
        assert "whsec_" not in one.page("/endpoints/1", cookie=f"{SESSION}={session}; {ONCE}={given}")
    mine = f"{SESSION}={browser.client.cookies[SESSION]}; {ONCE}={value}"
    assert "whsec_" in browser.page("/endpoints/1", cookie=mine)
    assert not is_once("9" * 12 + ".\xe9", "secret", "session", 0)
    browser.api.clock.advance(61)
    assert "whsec_" not in browser.page("/endpoints/1", cookie=mine)


def test_a_second_new_secret_asks_about_the_one_that_it_ends(browser: Browser) -> None:
    """Requests are signed with two at the most: while they are, another new one cuts off who still has the older."""
    path, ends = f"/endpoints/{browser.api.endpoint()}", "the one before this stops working at once"
    for expected in (False, True):
        assert (ends in browser.page(path)) is expected
        browser.post(f"{path}/rotate")
    browser.api.clock.advance(24 * 3600 + 1)
    browser.sign_in()
    assert ends not in browser.page(path)


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"url": "ftp://shop.example/"}, "url", "it must start with http:// or https://"),
        ({"which": "some"}, "actions", "Choose at least one action"),
        ({"which": "all", "actions": "user_created"}, "actions", "All events were chosen, and single ones as well."),
        ({"concurrency": "many"}, "concurrency", "A number is expected here."),
        ({"concurrency": "1.5"}, "concurrency", "(a whole number from 1 to 1000 is expected)"),
        ({"concurrency": "0"}, "concurrency", "too large or too small. (a whole number from 1 to 1000 is expected)"),
        ({"rate_limit": "0"}, "rate_limit", "too large or too small. (a number of more than 0 is expected"),
        ({"secret": "geheim ü"}, "secret", "This secret cannot be used"),
        ({"admins": "x" * 200}, "admins", "These names of admins cannot be used."),
        ({"usernames": "vip_*, !"}, "usernames", "These patterns of names cannot be used."),
        ({"condition": 'user.status == "active"'}, "condition", "write a text as 'active'"),
        ({"template": "{\r\n{{ 1 + }}\r\n}"}, "template", "line 2: }} is not possible there"),
        ({"kind": "telegram"}, "url", "a Telegram bot's is its token"),
        ({"kind": "telegram", "url": "123456:A A"}, "url", "a Telegram bot's is its token"),
        (BOT | {"chat": ""}, "chat", "a chat is a number"),
        (BOT | {"chats": "shop1"}, "chats", "one line for each admin"),
        (BOT | {"chats": "shop1=everybody"}, "chats", "a chat is a number"),
        (BOT | {"timezone": "Tehran"}, "timezone", "written like Asia/Tehran"),
        (BOT | {"message": "<b>{username}"}, "message", "<b> is not closed"),
        ({"kind": "alert", "url": "nowhere"}, "url", "Apprise's look like tgram"),
        ({"kind": "sql", "url": "here"}, "url", "a database's looks like sqlite"),
        ({"kind": "sql", "url": "postgresql://u:x@hunter2@h/d"}, "url", "an @ within its password is written %40"),
        ({"kind": "sql", "url": "sqlite:////srv/users.db", "prefix": "1 "}, "prefix", "a prefix begins with a letter"),
        ({"kind": "exec", "url": "told"}, "url", "a program's whole path"),
        ({"kind": "exec", "url": "exec:/bin/told"}, "kind", "Endpoints of this kind are made by who runs Marzhook"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told_at_its_place_and_the_rest_is_kept(
    browser: Browser, wrong: dict[str, str], field: str, said: str
) -> None:
    """The page opens at that field, which refers to what is said. Nothing has to be typed twice, but the secret."""
    fields = {"kind": "webhook", "url": "https://a.example/", "name": "kept", "secret": "hidden-word"} | wrong
    got = browser.post("/endpoints/new", fields, on="/endpoints/new")
    assert got.status_code == 422 if field != "kind" else 403
    [told] = re.findall(r'<small class="wrong" id="wrong" role="alert">(.*?)</small>', got.text)
    assert said in re.sub("</?bdi.*?>", "", html.unescape(told))
    if field not in ("kind", "actions"):
        [marked] = re.findall(r"<(?:input|textarea) [^>]*aria-invalid[^>]*>", got.text)
        assert f'name="{field}"' in marked
        assert 'aria-describedby="wrong" autofocus' in marked
    assert 'value="kept"' in got.text
    assert "hidden-word" not in got.text


def test_a_filter_and_a_template_are_written_into_the_form(browser: Browser) -> None:
    """They are kept as they were written, shown again, and taken away where their field is emptied."""
    fields = {
        "kind": "webhook", "url": "https://shop.example/hook", "name": "shop", "admins": "alice, bob",
        "usernames": "vip_*,!vip_2", "condition": " user.status == 'active' ", "template": '{\r\n"who": "{{ username }}"}',
    }  # fmt: skip
    assert browser.post("/endpoints/new", fields, on="/endpoints/new").headers["location"] == "/endpoints/1"
    with browser.services.database.read() as conn:
        [endpoint] = endpoints.all_endpoints(conn)
    assert (endpoint.admins, endpoint.usernames) == ({"alice", "bob"}, ("vip_*", "!vip_2"))
    assert (endpoint.condition, endpoint.template) == ("user.status == 'active'", '{\n"who": "{{ username }}"}')
    path = f"/endpoints/{endpoint.id}"
    page = html.unescape(browser.page(path))
    for shown in ("alice", "!vip_2", "user.status == 'active'", '"who": "vip_test_user"'):
        assert shown in page
    form = html.unescape(browser.page(f"{path}/edit"))
    for written in ('value="alice, bob"', 'value="vip_*, !vip_2"', '"who": "{{ username }}"}</textarea>'):
        assert written in form

    emptied = fields | dict.fromkeys(["admins", "usernames", "condition", "template"], "")
    assert browser.post(f"{path}/edit", emptied).headers["location"] == path
    with browser.services.database.read() as conn:
        after = endpoints.get(conn, endpoint.id)
    assert (after.admins, after.usernames, after.condition, after.template) == (None,) * 4


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"template": '{"who": "{{ username }}"}'}, '{"who": "marzban_test_user"}'),
        ({"template": "{{ 1 + "}, "This template cannot be used."),
        ({"template": "{{ username }}"}, "The template makes no JSON of this event."),
        ({"template": "\n{{ username + 1 }}"}, "line 1: + wants two numbers"),
        ({"condition": "user.status == "}, "it ends too early"),
        ({"admins": "x" * 200}, "These names of admins cannot be used."),
    ],
)
def test_the_preview_keeps_up_with_the_template(browser: Browser, written: dict[str, str], said: str) -> None:
    """It shows the body that is made, or in words why there is none."""
    fields = {"kind": "webhook", "url": "https://shop.example/hook", "name": "", **written}
    got = html.unescape(browser.post("/endpoints/preview", fields, on="/endpoints/new").text)
    assert said in re.sub("</?bdi.*?>", "", got)


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        ({}, "user_updated"),
        ({"which": "some", "actions": "user_created"}, "user_created"),
        ({"which": "some", "actions": ["user_created", "user_updated"]}, "user_updated"),
        ({"which": "some"}, "user_updated"),
    ],
)
def test_the_preview_is_of_an_event_that_is_sent(browser: Browser, chosen: dict[str, str], shown: str) -> None:
    """Of the actions that were chosen, where any was."""
    got = browser.post(
        "/endpoints/preview", {"kind": "webhook", "url": "https://a.example/", **chosen}, on="/endpoints/new"
    )
    assert f'"action": "{shown}"' in html.unescape(got.text)


def test_a_name_is_taken_away_in_the_form(browser: Browser) -> None:
    """Its field is emptied, and is empty again when the form is opened: the address is no name that somebody gave."""
    made = {"kind": "webhook", "url": "https://a.example/hook", "name": "shop"}
    browser.post("/endpoints/new", made, on="/endpoints/new")
    for field, name in ((r'name="name" value="shop"', "shop"), (r'name="name" value=""', "https://a.example/hook")):
        page = browser.page("/endpoints/1/edit")
        assert field in page
        assert f"<h1><bdi>{name}</bdi></h1>" in page
        assert browser.post("/endpoints/1/edit", made | {"name": ""}).status_code == 303


def test_ticks_beside_all_actions_are_asked_about(browser: Browser) -> None:
    """Without styles and a script all boxes are in sight: who ticks some, and leaves the choice of all as it was, does not
    want all. Ticks that the form had before all was chosen mean nothing."""
    fields = {
        "kind": "webhook",
        "url": "https://a.example/",
        "which": "all",
        "actions": ["user_created", "user_expired"],
    }
    refused = browser.post("/endpoints/new", fields, on="/endpoints/new")
    assert refused.status_code == 422
    assert 'value="some" checked' in refused.text
    assert re.findall(r'value="(\w+)" checked> (?:User|Data)', refused.text) == fields["actions"]
    assert '"action": "user_created"' in html.unescape(refused.text)

    def stored() -> frozenset[str] | None:
        with browser.services.database.read() as conn:
            return endpoints.all_endpoints(conn)[0].actions

    browser.post("/endpoints/new", fields | {"which": "some"}, on="/endpoints/new")
    assert stored() == set(fields["actions"])
    [shown] = re.findall(r'name="shown" value="([^"]+)"', browser.page("/endpoints/1/edit"))
    fields["shown"] = html.unescape(shown)
    assert browser.post("/endpoints/1/edit", fields | {"actions": ["user_created"]}).status_code == 422
    assert browser.post("/endpoints/1/edit", fields).status_code == 303
    assert stored() is None


@pytest.mark.parametrize(
    ("narrowed", "shown", "said"),
    [
        ({"usernames": "vip_*"}, '"username": "vip_test_user"', ""),
        ({"usernames": "VIP_?[0-9]"}, '"username": "VIP_10"', ""),
        ({"usernames": "vip_*, !vip_test*"}, '"username": "vip_user"', ""),
        ({"usernames": "!marzban_*, !user1"}, '"username": "alice"', ""),
        ({"usernames": "vip_*, !vip*"}, '"username": "marzban_test_user"', "no name could be found"),
        ({"admins": "alice, root"}, '"by": {"username": "root", "is_sudo": true}', ""),
        ({"admins": "bob, alice"}, '"by": {"username": "alice", "is_sudo": false}', ""),
        ({"condition": "user.status == 'active'"}, '"username": "marzban_test_user"', ""),
        (
            {"condition": "user.status == 'limited'"},
            '"username": "marzban_test_user"',
            "the condition is not true of it",
        ),
        ({"condition": "abs(username) > `1`"}, '"username": "marzban_test_user"', ""),
        ({"which": "some"}, '"username": "marzban_test_user"', "Choose at least one action"),
        ({"template": "{{ nope }}"}, "\nnull</pre>", "The template makes nothing of this event"),
        ({"template": "{{ nope }}", "condition": "nope"}, "\nnull</pre>", "not true of it. The template makes nothing"),
        ({"template": '"{{ username }}"'}, '\n"marzban_test_user"</pre>', ""),
        ({"template": "{{ nope }}", "format": "list"}, "\n[null]</pre>", "The template makes nothing of this event"),
    ],
)
def test_the_preview_is_of_a_user_that_the_filter_lets_pass(
    browser: Browser, narrowed: dict[str, str], shown: str, said: str
) -> None:
    """Or says that nothing like it is sent; here and on the endpoint's page."""
    fields = {"kind": "webhook", "url": "https://a.example/", **narrowed}
    pages = [browser.post("/endpoints/preview", fields, on="/endpoints/new").text]
    if "which" not in narrowed:
        made = browser.post("/endpoints/new", fields, on="/endpoints/new").headers["location"]
        pages.append(browser.page(made))
    for got in map(html.unescape, pages):
        assert shown in got
        assert said in got
        assert ('<p role="status">' in got) == bool(said)


@pytest.mark.parametrize(
    ("chosen", "secret", "signature"),
    [
        ({"secret_mode": "plain"}, "***", "v1,<base64 HMAC-SHA256>"),
        ({"secret_mode": "hmac", "signatures": "v1a"}, "<hex HMAC-SHA256>", "v1a,<base64 ed25519>"),
        ({"signatures": "both"}, "***", "v1,<base64 HMAC-SHA256> v1a,<base64 ed25519>"),
    ],
)
def test_the_preview_tells_how_a_secret_is_sent(
    browser: Browser, chosen: dict[str, str], secret: str, signature: str
) -> None:
    """What is itself secret is not shown, but what form it has."""
    fields = {"kind": "webhook", "url": "https://a.example/", "secret": "s3cret", **chosen}
    got = html.unescape(browser.post("/endpoints/preview", fields, on="/endpoints/new").text)
    assert got.count(f"x-webhook-secret: {secret}\n") == 1
    assert got.count(f"webhook-signature: {signature}\n") == 1
    assert f"-H 'x-webhook-secret: {secret}'" in got
    assert "s3cret" not in got


def test_an_endpoint_of_the_settings_is_not_changed_here(browser: Browser) -> None:
    """They would say something else at the next start."""
    with browser.services.database.write() as tx:
        now = browser.api.clock.now()
        made = endpoints.create(tx, now=now, kind="webhook", url="http://127.0.0.1:1/", source="environment")
    path = f"/endpoints/{made.id}"
    assert f'href="{path}/edit"' not in browser.page(path)
    for step in ("edit", "delete"):
        got = browser.post(f"{path}/{step}", {"url": "https://a.example/"})
        assert got.status_code == 409
        assert "comes from the settings" in got.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_shows_the_request_that_will_be_sent(browser: Browser, kind: str) -> None:
    """What is chosen is seen before it is saved, also while an address is half typed."""
    fields = {"kind": kind, "url": "https://sh", "format": "standard", "detail": "safe", "secret": "s3cret"}
    got = browser.post("/endpoints/preview", fields, on="/endpoints/new")
    assert got.status_code == 200
    assert "s3cret" not in got.text
    assert ('"type": "user_updated"' in html.unescape(got.text)) == (kind == "webhook")
    for broken in ("", "http://[", "https://user:pass@host/secret/path"):
        got = browser.post("/endpoints/preview", fields | {"url": broken}, on="/endpoints/new")
        assert got.status_code == 200
        assert "user:pass" not in got.text
        assert "secret/path" not in got.text


@pytest.mark.parametrize("fields", [BOT, {"kind": "alert", "url": "mailto://user:word@mail.example"}])
def test_a_message_is_previewed_as_people_read_it(browser: Browser, fields: dict[str, str]) -> None:
    """In its language, without markup, each value in a direction of its own; a bot's request is still JSON."""
    got = browser.post("/endpoints/preview", fields | {"language": "fa"}, on="/endpoints/new").text
    assert "<bdi>فعال</bdi>" in got
    assert "U+2068" not in got
    message, _, request = got.partition("</pre>")
    assert "&lt;" not in message
    assert "\\u" not in message
    assert ("\\u2068فعال\\u2069" in request) == (fields["kind"] == "telegram")


@pytest.mark.parametrize(
    ("fields", "url", "sent"),
    [
        (
            {
                "kind": "webhook",
                "url": "https://a.example/{x}[1-9]",
                "template": '{"text": "' + ODD + '",\r\n "by": "{{ by.username }}"}',
            },
            "https://a.example/{x}[1-9]",
            {"text": ODD, "by": "root"},
        ),
        (BOT | {"message": ODD}, "https://…", {"text": ODD}),
    ],
)
def test_what_is_copied_as_curl_is_the_request(
    browser: Browser, fields: dict[str, str], url: str, sent: dict[str, str]
) -> None:
    """A shell hands curl the same JSON, whatever is in it, though the page shows each character that could make it lie."""
    got = browser.post("/endpoints/preview", fields, on="/endpoints/new").text
    command = re.search('class="curl"[^>]*>(.*?)</pre>', got, re.DOTALL)
    assert command, got
    script = "curl() { printf '%s\\0' \"$@\"; }; " + html.unescape(command[1])
    words = (
        subprocess.run(["sh", "-c", script], capture_output=True, check=True, timeout=30).stdout.decode().split("\0")
    )
    assert words[:2] == ["-i", "-g"]
    assert words[2] == url
    assert json.loads(words[-2]).items() >= sent.items()
    assert "\u202e" not in got


def test_what_was_chosen_is_shown_in_the_forms_words(browser: Browser) -> None:
    """An endpoint's page says in the reader's language what its form asked, and not how the program calls it."""
    fields = {
        "url": "https://a.example/",
        "format": "list",
        "secret": "s3cret",
        "secret_mode": "hmac",
        "detail": "full",
    }
    browser.post("/endpoints/new", {"kind": "webhook", "which": "all"} | fields, on="/endpoints/new")
    browser.get("/look?language=fa")
    chosen = re.findall(
        "<option value=.(?:list|hmac|full|v1). selected>(.*?)</option>", browser.page("/endpoints/1/edit")
    )
    assert len(chosen) == 4
    page = browser.page("/endpoints/1")
    assert "⟨U+" not in page
    for words in chosen:
        assert f"<dd>{words}</dd>" in page


def test_an_endpoint_is_shown_with_what_its_kind_knows(browser: Browser) -> None:
    """A bot's page names its chat, and says nothing of formats and secrets, which it has not."""
    fields = BOT | {
        "name": "bot", "language": "fa", "timezone": "Asia/Tehran", "message": "{username}", "chats": "*=telegram_id",
    }  # fmt: skip
    assert browser.post("/endpoints/new", fields, on="/endpoints/new").status_code == 303
    page = browser.page("/endpoints/1")
    for shown in ("<dd>Telegram</dd>", ">-1001234567890<", ">Asia/Tehran<", ">*=telegram_id<", "<dd>فارسی</dd>"):
        assert shown in page
    assert "<dt>Format</dt>" not in page
    assert "signing secret" not in page
    assert "AAAA" not in page
    form = browser.page("/endpoints/1/edit")
    assert 'value="-1001234567890"' in form
    assert "{username}</textarea>" in form
    assert 'name="format"' not in form
    assert "AAAA" not in form
    browser.post("/endpoints/1/edit", fields | {"url": "", "chat": "@channel"})
    with browser.services.database.read() as conn:
        after = endpoints.get(conn, 1)
    assert (after.url[-4:], after.options["chat"]) == ("AAAA", "@channel")


def test_options_of_a_newer_version_stay_when_a_form_is_saved(browser: Browser) -> None:
    """What this version does not know of them is not taken away, and not in the way."""
    services = browser.services
    with services.database.write() as tx:
        made = endpoints.create(
            tx, now=services.clock.now(), kind="telegram", url="https://api.telegram.org/bot1:" + "A" * 35,
            options={"chat": 5, "wings": {"left": 1}},
        )  # fmt: skip
    path = f"/endpoints/{made.id}/edit"
    fields = {"name": "bot", "url": "", "chat": "7", "all_actions": "yes"}
    assert browser.post(path, fields, on=path).status_code == 303
    with services.database.read() as conn:
        assert endpoints.get(conn, made.id).options == {"chat": 7, "wings": {"left": 1}}


def test_an_endpoint_of_a_newer_version_says_why_it_rests(browser: Browser) -> None:
    """One of a kind, or with options, that this version does not know: its page, the list, the API and the overview say so in
    words; it is not changed here, but paused and deleted like any other."""
    services = browser.services
    with services.database.write() as tx:
        made = endpoints.create(tx, now=services.clock.now(), kind="pigeon", url="loft://coop/9")
        endpoints.create(
            tx, now=services.clock.now(), kind="alert", url="mailto://a@b.example", options={"timezone": "Mars/Base"}
        )
    path = f"/endpoints/{made.id}"
    for page in (browser.page(path), browser.page("/endpoints"), browser.page("/")):
        assert re.search("this version of Marzhook has no endpoints of the kind <bdi[^>]*>&#39;pigeon&#39;</bdi>", page)
    browser.get("/look?language=fa")
    assert "این نسخهٔ Marzhook مقصدی از نوع" in browser.page(path)
    browser.get("/look?language=en")
    assert "ZoneInfoNotFoundError" in browser.page("/endpoints")
    with services.database.read() as conn:
        shown = [endpoint_shown(one, full=False)["problem"] for one in endpoints.all_endpoints(conn)]
    assert shown[0] == "this version of Marzhook has no endpoints of the kind 'pigeon'"
    assert shown[1].startswith("ZoneInfoNotFoundError")
    assert "nothing was sent yet" not in browser.page("/endpoints")
    assert "must be one of" in browser.post(f"{path}/edit", {"url": "loft://coop/8"}).text
    browser.post(f"{path}/pause")
    assert "what happens meanwhile is kept for it" in browser.page(path)
    assert browser.post(f"{path}/delete").headers["location"] == "/endpoints"


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "alert", "url": "mailto://a@b.example", "options": {"language": "tlh"}},
        {"kind": "webhook", "url": "https://a.example/", "signatures": "tlh"},
    ],
    ids=["language", "signatures"],
)
def test_a_choice_of_a_newer_version_is_shown_as_it_is(browser: Browser, values: dict[str, Any]) -> None:
    """All pages of such an endpoint work, and saving its form does not choose another in silence."""
    services = browser.services
    with services.database.write() as tx:
        made = endpoints.create(tx, now=services.clock.now(), **values)
    path = f"/endpoints/{made.id}"
    browser.page("/")
    browser.page("/endpoints")
    assert "<dd>tlh</dd>" in browser.page(path)
    form = browser.page(f"{path}/edit")
    assert '<option value="tlh" selected>tlh</option>' in form
    assert form.count(" selected>") == form.count("<select ")
    refused = browser.post(f"{path}/edit", {**values, **values.get("options", {}), "all_actions": "yes"})
    assert "must be one of" in refused.text
    browser.post(f"{path}/pause")
    assert browser.post(f"{path}/delete").headers["location"] == "/endpoints"


@pytest.mark.parametrize(
    ("url", "english", "persian"),
    [
        ("http://127.0.0.1:9000/", "it is this machine itself, and MARZHOOK_ALLOW_ADDRESSES", "خودِ همین دستگاه است"),
        ("http://169.254.169.254/", "it is link-local", "MARZHOOK_ALLOW_ADDRESSES"),
        ("ftp://a.example/", "it must start with http:// or https://", "آغاز شود."),
        ("http://a.example:x/", "its host or its port cannot be read", "خوانده نمی‌شود"),
    ],
)
def test_an_address_that_gets_nothing_is_refused_in_words(
    browser: Browser, url: str, english: str, persian: str
) -> None:
    """On the form, in the reader's language, before a try fails; and over the API, which has a code for it."""
    fields = {"kind": "webhook", "which": "all", "url": url}
    for path in ("/endpoints/new", f"/endpoints/{browser.api.endpoint()}/edit"):
        got = browser.post(path, fields, on="/endpoints/new")
        assert got.status_code == 422
        assert english in html.unescape(got.text)
    browser.get("/look?language=fa")
    got = browser.post("/endpoints/new", fields, on="/endpoints/new")
    assert persian in html.unescape(got.text)
    assert english not in html.unescape(got.text)
    told = browser.api.post("/api/v1/endpoints", json={"url": url})
    assert told.status_code == 422
    assert english in told.json()["detail"]
    assert told.json()["code"] == ("invalid_url" if "a.example" in url else "address_not_allowed")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "telegram", "url": "x"}, {"kind": "telegram", "url": "https://api.telegram.org/x"},
        {"kind": "alert", "url": "nowhere"}, {"kind": "sql", "url": "here"}, {"kind": "exec", "url": "told"},
        {"kind": "exec", "url": "exec:/bin/told 'a"}, {"kind": "exec", "url": "exec:/" + "x" * 2048}, {"kind": "exec"},
        {"kind": "sql", "url": "sqlite:////srv/users.db", "prefix": "1 "}, BOT | {"chat": "x"}, BOT | {"chats": "shop1"},
        BOT | {"timezone": "Tehran"},
    ],
)  # fmt: skip
def test_what_is_wrong_with_any_kinds_fields_is_said_in_the_readers_language(
    browser: Browser, fields: dict[str, str]
) -> None:
    """Beside the field, in one sentence: nothing is left in English, and no mark of direction is shown as text."""
    browser.get("/look?language=fa")
    got = browser.post("/endpoints/new", {"which": "all"} | fields, on="/endpoints/new")
    assert got.status_code == 422
    said = re.search('<small class="wrong"[^>]*>(.*?)</small>', got.text)
    assert said
    assert "نمی‌توان استفاده کرد:" in said[1]
    assert 'lang="en"' not in said[1]
    assert "⟨" not in said[1]


def test_an_endpoint_that_may_no_longer_be_reached_can_be_changed(browser: Browser) -> None:
    """The operator has taken a network back: all but its address can still be set."""
    made = browser.api.endpoint("http://10.0.0.1/hook")
    fields = {"which": "all", "url": "http://10.0.0.1/hook", "name": "renamed"}
    assert browser.post(f"/endpoints/{made}/edit", fields, on="/endpoints/new").status_code == 303
    assert "renamed" in browser.page(f"/endpoints/{made}")
