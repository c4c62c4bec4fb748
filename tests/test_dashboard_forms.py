"""What the dashboard's forms hold: what is saved comes back as it was, and saving it once more changes nothing."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY
from urllib.parse import urlencode

import pytest

from dashboard_client import Form
from marzhook.dashboard import rendering
from marzhook.dashboard.visit import number
from marzhook.delivery import DEAD
from marzhook.errors import InvalidError
from marzhook.store import endpoints
from marzhook.testing import eventually

if TYPE_CHECKING:
    from dashboard_client import Browser
    from marzhook.endpoint import Endpoint

pytest_plugins = ["api_client", "dashboard_client"]

ODD = "\u2068سلام\u2069\r\n\u200fmore"
"""What Persian text is written with, in two lines, as a browser sends them."""
BOT = {"kind": "telegram", "url": "123456:" + "A" * 35, "chat": "-1001234567890", "language": "en"}
WEBHOOK = {"kind": "webhook", "url": "https://shop.example/hook", "name": "shop", "which": "all", "concurrency": "2"}
SQL = {"kind": "sql", "url": "sqlite:////srv/users.db"}
FORMS = {
    "/endpoints/new": [
        (WEBHOOK, ("url", "name", "admins", "usernames", "condition", "template", "concurrency", "rate_limit")),
        (BOT, ("chat", "chats", "timezone", "message")),
        (SQL, ("prefix",)),
    ],
    "/users/new": [({"username": "alice"}, ("username", "data_limit", "expire", "note"))],
}
SPECIAL = {
    "template": '{"text":\r\n"\u2068{{ username }}\u2069\u200f"}',
    "condition": "username ==\r\n'\u2068a\u200f'",
    "chats": "shop1=12\r\nshop\u20682\u200f=34",
    "message": "{username}\r\n" + ODD,
    "name": "\u2068فروشگاه\u2069\u200f",
    "admins": "a\u200fb\u2068",
}
"""Where the field wants a certain form."""


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [(path, fields, name) for path, kinds in FORMS.items() for fields, names in kinds for name in names],
)
def test_a_field_comes_back_as_it_was_written(browser: Browser, path: str, fields: dict[str, Any], name: str) -> None:
    """Saved, opened and saved again it is the same; refused, it is still there to be corrected."""
    written = SPECIAL.get(name, ODD)
    made = browser.post(path, fields | {name: written}, on=path)
    if made.status_code == 422:
        assert lines(Form(made.text, name).fields[name]) == lines(written)
        return
    assert made.status_code == 303, made.text
    edit = "/endpoints/1/edit" if path == "/endpoints/new" else "/user/alice/edit"
    first = Form(browser.page(edit), name).fields
    assert lines(first[name]) == lines(written)
    kept = stored(browser)
    assert r"\r" not in repr(kept)
    assert browser.post(edit, first, on=edit).status_code == 303
    assert stored(browser) == kept
    assert Form(browser.page(edit), name).fields == first | {"form_key": ANY}


def lines(text: str) -> list[str]:
    return text.split("\r\n") if "\r" in text else text.split("\n")


def stored(browser: Browser) -> tuple[Any, ...]:
    with browser.services.database.read() as conn:
        users = conn.exec_driver_sql("SELECT note, data_limit, expire FROM users").all()
        return *(
            (one.options, one.name, one.template, one.condition, one.admins) for one in endpoints.all_endpoints(conn)
        ), *(field for user in users for field in user)


def test_every_field_of_the_forms_is_tried(browser: Browser) -> None:
    """A text field that is new is among them, or it is a password."""
    for path, kinds in FORMS.items():
        tried = {name for _, names in kinds for name in names}
        page = browser.page(path)
        texts = re.findall(
            r"<textarea name=\"(\w+)\"|<input name=\"(\w+)\"(?! type=\"(?:checkbox|radio|password))", page
        )
        assert {one or other for one, other in texts} == tried


@pytest.mark.parametrize("comma", [",", "، ", "，", "、", ";", "؛ ", "；"])
def test_names_stand_apart_by_any_keyboards_comma(browser: Browser, comma: str) -> None:
    """Two patterns are never taken for one that no name matches."""
    fields = WEBHOOK | {"usernames": f"vip_*{comma}!vip_test", "admins": f"alice{comma}bob"}
    assert browser.post("/endpoints/new", fields, on="/endpoints/new").status_code == 303
    with browser.services.database.read() as conn:
        [endpoint] = endpoints.all_endpoints(conn)
    assert (endpoint.usernames, endpoint.admins) == (("vip_*", "!vip_test"), {"alice", "bob"})


@pytest.mark.parametrize("name", ["usernames", "admins"])
def test_names_with_only_a_space_between_them_are_refused(browser: Browser, name: str) -> None:
    """Beside their field, with what to do; the preview says it before."""
    for path in ("/endpoints/new", "/endpoints/preview"):
        refused = browser.post(path, WEBHOOK | {name: "alice bob, carol"}, on="/endpoints/new").text
        assert refused.count("Put a comma between two names") == 1 + (path == "/endpoints/new")
    assert re.search(
        rf'name="{name}"[^>]* aria-describedby="wrong"', browser.post("/endpoints/new", WEBHOOK | {name: "a b"}).text
    )


@pytest.mark.parametrize("amount", ["", " "])
def test_no_traffic_at_all_is_not_charged(browser: Browser, amount: str) -> None:
    """A blank passes a browser's own check: it must not look as if something had been charged."""
    browser.post("/users/new", {"username": "alice"})
    refused = browser.post("/user/alice/charge", {"amount": amount})
    assert (refused.status_code, "A number is expected here." in refused.text) == (422, True)


@pytest.mark.parametrize("amount", ["1e300", "1e308", "1073741825", "1e-10", "-1"])
def test_traffic_that_nobody_can_have_is_refused(browser: Browser, amount: str) -> None:
    """With the form as it was filled in; so little that it would be 0, which means no limit, is refused, too."""
    browser.post("/users/new", {"username": "alice", "data_limit": "1"})
    said = "This number is too large or too small."
    for path, fields in (
        ("/users/new", {"username": "bob", "data_limit": amount, "note": "kept"}),
        ("/user/alice/edit", {"data_limit": amount, "note": "kept"}),
        ("/user/alice/charge", {"amount": amount}),
    ):
        refused = browser.post(path, fields)
        assert (refused.status_code, refused.text.count(said)) == (422, 1)
        assert ("note" in fields) == ("kept" in refused.text)
        assert f'value="{amount}"' in refused.text
    assert stored(browser) == ("", 1024**3, None)
    assert browser.post("/user/alice/edit", {"data_limit": "0"}).status_code == 303
    assert stored(browser) == ("", None, None)
    assert browser.post("/user/alice/charge", {"amount": "1073741824"}).status_code == 303


def test_without_scripts_a_page_asks_before_what_cannot_be_taken_back(browser: Browser) -> None:
    """And only then does it, with all that the form held."""
    browser.post("/users/new", {"username": "alice"})
    endpoint, event = browser.api.endpoint(), browser.api.publish()
    browser.api.publish()
    browser.post(f"/endpoints/{endpoint}/pause")
    pages = {f"/events/{event}": 1, f"/endpoints/{endpoint}": 3, "/user/alice": 1}
    for page, count in pages.items():
        forms = [
            form for form in browser.page(page).split("<form ")[1:] if 'name="asks"' in form.partition("</form>")[0]
        ]
        assert len(forms) == count
        for form in forms:
            action, asking = form.split('"')[5], Form(f"<form {form}", "asks").fields
            asked = browser.client.post(action, data=asking)
            assert (asked.status_code, "Are you sure?" in asked.text) == (200, True)
            assert f'href="{page}">Cancel' in asked.text
            assert f'action="{action}"' in browser.page(page)
            fields = Form(asked.text.partition("<main")[2], "form_token").fields
            assert asking == fields | {"asks": asking["asks"], "form_key": ANY}
            assert browser.client.post(action, data=fields).status_code == 303
    assert [browser.get(page).status_code for page in pages] == [200, 404, 404]


def test_a_user_keeps_what_nobody_changed(browser: Browser) -> None:
    """Also what a field cannot hold exactly, and what somebody else has changed while the form was open."""
    browser.post("/users/new", {"username": "alice", "data_limit": "1", "expire": "2027-01-31T10:00:30"})
    registry, edit = browser.services.registry, "/user/alice/edit"
    for limit in (50 * 10**9, 10**12, 1):
        registry.modify("alice", {"data_limit": limit}, None)
        form = Form(browser.page(edit), "note").fields
        assert browser.post(edit, form | {"note": f"{limit}"}).status_code == 303
        assert stored(browser)[:2] == (f"{limit}", limit)
    form = Form(browser.page(edit), "note").fields
    registry.modify("alice", {"data_limit": 5 * 1024**3, "expire": 0, "note": "by another"}, None)
    # Without seconds, as browsers shorten it, and as the script sends it: untouched, all the same.
    form["expire"] = "2027-01-31T10:00:30.000Z"
    refused = browser.post(edit, form | {"data_limit": "much"})
    again = Form(refused.text, "note").fields
    assert again["data_limit"] == "much"
    changed = again | {"data_limit": form["data_limit"], "data_limit_reset_strategy": "month"}
    assert browser.post(edit, changed).status_code == 303
    assert stored(browser) == ("by another", 5 * 1024**3, None)
    assert registry.get("alice", None).data_limit_reset_strategy == "month"


@pytest.mark.parametrize(("code", "unit"), [("en", "B"), ("ru", "Б"), ("fa", "B")])
def test_a_small_limit_is_shown_as_people_read_it(browser: Browser, code: str, unit: str) -> None:
    """In bytes, and saved as it is shown it is the same."""
    browser.client.cookies.set("marzhook_language", code)
    browser.post("/users/new", {"username": "alice"})
    for limit, shown in ((1000, f"1000 {unit}"), (1, f"1 {unit}"), (2**19, "0.00048828125"), (2**60, "1073741824")):
        browser.services.registry.modify("alice", {"data_limit": limit}, None)
        form = Form(browser.page("/user/alice/edit"), "data_limit").fields
        assert form["data_limit"] == shown
        assert browser.post("/user/alice/edit", {"data_limit": shown}).status_code == 303
        assert stored(browser)[1] == limit


@pytest.mark.parametrize(
    ("written", "limit"),
    [("500 MiB", 500 * 2**20), ("1.5tib", 3 * 2**39), ("۲ گیگ", None), ("2 ГиБ", 2**31), ("5 GB", None), ("B", None)],
)
def test_a_size_can_be_written_with_its_unit(browser: Browser, written: str, limit: int | None) -> None:
    """One that everybody reads alike."""
    browser.client.cookies.set("marzhook_language", "ru")
    got = browser.post("/users/new", {"username": "alice", "data_limit": written})
    assert got.status_code == (303 if limit else 422)
    assert stored(browser)[1:2] == ((limit,) if limit else ())


def test_an_endpoint_keeps_what_nobody_changed(browser: Browser) -> None:
    """Also what the form cannot show; what was written is changed, and no more."""
    browser.post("/endpoints/new", WEBHOOK | {"secret": "old"}, on="/endpoints/new")
    kept = {
        "rate_limit": 12345.6789012345, "usernames": ("a,b", "two words"), "admins": frozenset({"c d"}), "secret": "new",
        "actions": frozenset({"user_created", "endpoint_failing"}), "template": '{"text":\n"x"} ',
    }  # fmt: skip
    edit = "/endpoints/1/edit"
    with browser.services.database.write() as tx:
        endpoints.update(tx, 1, **kept)
    form = Form(browser.page(edit), "concurrency").fields
    assert (
        browser.post(edit, form | {"actions": ["user_created", "endpoint_failing"], "concurrency": "7"}).status_code
        == 303
    )
    with browser.services.database.read() as conn:
        after = endpoints.get(conn, 1)
    assert after.concurrency == 7
    assert {name: getattr(after, name) for name in kept} == kept
    # Whoever had the form open before does not undo what was done meanwhile.
    with browser.services.database.write() as tx:
        endpoints.update(tx, 1, url="https://other.example/", secret=None, concurrency=9, options={"x": "y"})
    assert browser.post(edit, form | {"actions": ["user_created"], "name": "renamed"}).status_code == 303
    with browser.services.database.read() as conn:
        after = endpoints.get(conn, 1)
    assert (after.name, after.url, after.secret, after.concurrency) == ("renamed", "https://other.example/", None, 9)


@pytest.mark.parametrize("shown", ["", "x", "[]", "[" * 100_000, '{"note": []}'])
def test_a_form_that_does_not_say_what_it_showed_changes_all_that_it_holds(browser: Browser, shown: str) -> None:
    """As a program sends it."""
    browser.post("/users/new", {"username": "alice", "data_limit": "1"})
    sent = {"shown": shown, "data_limit": "2", "note": "new"}
    assert browser.post("/user/alice/edit", sent).status_code == 303
    assert stored(browser) == ("new", 2 * 1024**3, None)


@pytest.mark.parametrize("template", sorted(rendering.TEMPLATES.glob("*.html")), ids=lambda path: path.stem)
def test_what_a_field_holds_is_escaped_and_no_more(template: Any) -> None:
    """What is shown is made harmless; what is sent again is not, or the form would change it."""
    text = template.read_text()
    held = re.findall(r'value="\{\{ (.*?) \}\}"', text) + re.findall(r"\{\{ ([^{}]*) \}\}</textarea>", text)
    assert [one for one in held if not one.endswith("|field")] == []
    assert "<option>" not in text


def test_a_search_keeps_what_is_searched_for(browser: Browser) -> None:
    """Searching once more, or replaying what was counted, is about the same user, whatever his name is made of."""
    name = "alice\u202e\u200f&<"
    endpoint, event = browser.api.endpoint(), browser.api.publish(username=name)
    browser.api.settle(endpoint, event, DEAD)
    browser.api.clock.advance(1)
    for path, asked in (("/events", "username"), ("/events", "action"), ("/dead", "username"), ("/users", "search")):
        # No action is called so, and that is said.
        page = browser.page(f"{path}?{urlencode({asked: name})}", 422 if asked == "action" else 200)
        assert Form(page, asked).fields[asked] == name
    counted = browser.page(f"/dead?{urlencode({'username': name, 'count': 'yes'})}")
    assert "1 delivery matches." in counted
    [replays] = re.findall('action="(/dead/replay[^"]*)"', counted)
    browser.post(unescape(replays))
    eventually(lambda: "1 delivery is owed again." in browser.page("/dead"))


@pytest.mark.parametrize("path", ["/events", "/dead"])
def test_every_event_can_be_searched_for(browser: Browser, path: str) -> None:
    """Those of Marzhook itself, too, in words; and the form goes on to say for what."""
    page = browser.page(path)
    for action, words in (("endpoint_failing", "Endpoint is failing"), ("marzhook_test", "Test event")):
        assert f'<option value="{action}">{words}</option>' in page
        assert f'<option value="{action}" selected>{words}</option>' in browser.page(f"{path}?action={action}")
    assert '<option value="told_by_others" selected>told_by_others</option>' in browser.page(
        f"{path}?action=told_by_others"
    )


@pytest.mark.parametrize(
    ("came", "held"),
    [
        ("2027-01-31T10:00", "2027-01-31T10:00:00"), ("2027-01-31T06:30:00.000Z", "2027-01-31T06:30:00"),
        ("2027-01-31T10:00:30+03:30", "2027-01-31T06:30:30"), ("0001-01-01T00:00+14:00", ""), ("soon", ""),
    ],
)  # fmt: skip
def test_a_time_comes_back_in_utc(browser: Browser, came: str, held: str) -> None:
    """Whatever zone it was sent in: such a field cannot say one. A time that is none is refused."""
    for path in ("/events", "/dead"):
        page = browser.page(f"{path}?{urlencode({'since': came})}", 200 if held else 422)
        assert Form(page, "since").fields["since"] == (held or came)


def test_a_character_that_no_page_can_hold_breaks_none() -> None:
    """Half of a pair of surrogates, as a stored JSON text may have it."""
    assert rendering.field('a\ud800"') == "a&#55296;&#34;"
    assert rendering.field(None) == ""


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None), ("1000", 1000), ("۱۰۰۰", 1000), ("۱٬۰۰۰", 1000), ("۱٬۲۳۴٬۵۶۷٫۵", 1234567.5), ("1 000", 1000), ("2,5", 2.5),
        ("1\N{NO-BREAK SPACE}234,5", 1234.5), ("1\N{NARROW NO-BREAK SPACE}000.25", 1000.25), ("0,125", 0.125), ("1.000", 1),
        ("1,0000", 1), ("1,000", "ambiguous_number"), ("12,345", "ambiguous_number"), ("1,000,000", "ambiguous_number"),
        ("۱,۰۰۰", "ambiguous_number"), ("1,000.5", "ambiguous_number"), ("+1,000", "ambiguous_number"), ("+0,125", 0.125),
        ("1 0", "invalid_number"), ("1٬00", "invalid_number"),
        ("nan", "invalid_number"), ("-1", "number_out_of_range"), ("1e999", "number_out_of_range"),
    ],
)  # fmt: skip
def test_a_number_is_read_as_its_writer_means_it(written: str, value: float | str | None) -> None:
    """In the digits and with the thousands of each language; what would be a thousand to one and one to another is refused."""
    if isinstance(value, str):
        with pytest.raises(InvalidError) as refused:
            number(written, field="amount")
        assert (refused.value.code, refused.value.field) == (value, "amount")
    else:
        assert number(written) == value


def made(browser: Browser) -> Endpoint:
    with browser.services.database.read() as conn:
        return endpoints.all_endpoints(conn)[-1]


def test_what_only_webhooks_have_is_nothing_to_another_kind(browser: Browser) -> None:
    """Written before another kind was chosen, it stands in fields that are hidden now: no error about what nobody sees."""
    fields = {"kind": "discord", "url": "https://discord.com/api/webhooks/1/x", "template": "{{ no", "secret": "s3cret"}
    assert "cannot be used" not in browser.post("/endpoints/preview", fields, on="/endpoints/new").text
    assert browser.post("/endpoints/new", fields | {"which": "all", "format": "list"}).status_code == 303
    assert (made(browser).template, made(browser).secret, made(browser).format) == (None, None, "event")


def test_a_secret_of_a_refused_form_is_asked_for_again(browser: Browser) -> None:
    """It does not come back with the form: saved without another look, the endpoint would have none, or the old one."""
    told = "Write the secret again"
    refused = browser.post("/endpoints/new", WEBHOOK | {"url": "http://10.0.0.1/", "secret": "s3cret"})
    assert (refused.status_code, refused.text.count(told), "s3cret" in refused.text) == (422, 1, False)
    again = Form(refused.text, "url").fields | {"url": "https://shop.example/hook"}
    asked = browser.post("/endpoints/new", again)
    assert (asked.status_code, asked.text.count(told)) == (422, 1)
    assert re.search(r'name="secret"[^>]* aria-describedby="wrong"', asked.text)
    assert browser.post("/endpoints/new", Form(asked.text, "url").fields).status_code == 303
    assert made(browser).secret is None
    assert browser.post("/endpoints/new", again | {"secret": "other", "form_key": ""}).status_code == 303
    assert made(browser).secret == "other"
    edit = f"/endpoints/{made(browser).id}/edit"
    held = Form(browser.page(edit), "url").fields
    refused = browser.post(edit, held | {"concurrency": "x", "secret": "newer"})
    assert (refused.status_code, refused.text.count(told)) == (422, 1)
    for concurrency in ("y", "7"):  # wrong once more, and then right
        refused = browser.post(edit, Form(refused.text, "url").fields | {"concurrency": concurrency})
        assert (refused.status_code, refused.text.count(told)) == (422, 1)
    assert made(browser).secret == "other"


def test_an_address_with_a_password_is_not_shown_and_stays(browser: Browser) -> None:
    """In the user's part of it or in its query; a new one takes its place."""
    for secret in ("https://eve:s3cret@shop.example/hook", "https://shop.example/hook?token=s3cret"):
        assert browser.post("/endpoints/new", WEBHOOK | {"url": secret}).status_code == 303
        edit = f"/endpoints/{made(browser).id}/edit"
        page = browser.page(edit)
        assert ("s3cret" in page, "It is not shown; empty: as it is." in page) == (False, True)
        assert browser.post(edit, Form(page, "url").fields | {"name": "renamed"}, on=edit).status_code == 303
        assert (made(browser).url, made(browser).name) == (secret, "renamed")
        assert (
            browser.post(edit, Form(page, "url").fields | {"url": "https://a.example/", "form_key": ""}).status_code
            == 303
        )
        assert made(browser).url == "https://a.example/"


def test_actions_that_no_panel_knows_stay_chosen(browser: Browser) -> None:
    """Given over the API, they are boxes of the form, too."""
    endpoint = browser.api.endpoint(actions=frozenset({"odd_action", "user_created"}))
    edit = f"/endpoints/{endpoint}/edit"
    page = browser.page(edit)
    assert re.search('value="odd_action" checked', page)
    assert browser.post(edit, Form(page, "url").fields | {"actions": ["odd_action", "user_deleted"]}).status_code == 303
    assert made(browser).actions == {"odd_action", "user_deleted"}


def test_an_endpoint_of_the_settings_has_no_form(browser: Browser) -> None:
    """What it is, its page says."""
    browser.post("/inbox")
    path = f"/endpoints/{made(browser).id}"
    assert browser.get(f"{path}/edit").headers["location"] == path


def test_a_wrong_name_is_explained_in_the_readers_language(browser: Browser) -> None:
    """With how long it may be, and not in English."""
    browser.get("/look?language=fa")
    refused = browser.post("/endpoints/new", WEBHOOK | {"name": "a\x07"})
    assert (refused.status_code, "۲۰۰ نویسهٔ" in refused.text, "characters" in refused.text) == (422, True, False)
