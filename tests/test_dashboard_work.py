from __future__ import annotations

import html
import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from marzhook.dashboard import config
from marzhook.dashboard.events import failed_before
from marzhook.dashboard.languages import load
from marzhook.delivery import CANCELLED, DEAD, DELIVERED, PENDING, Attempt, Outcome, Verdict, settle
from marzhook.request import Response
from marzhook.retry import RetryPolicy
from marzhook.settings import SETTINGS
from marzhook.store import endpoints, history, inbox

if TYPE_CHECKING:
    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]


def state(browser: Browser, endpoint: int, event: int) -> str:
    with browser.services.database.read() as conn:
        return history.delivery(conn, endpoint, event).state


# -- events


def test_the_story_of_an_event(browser: Browser) -> None:
    """Who did it, what each endpoint answered at each try, what comes next, and the request to try it by hand."""
    api = browser.api
    one, two = api.endpoint(name="one", secret="s3cret"), api.endpoint("https://two.example/", name="two")
    user = {"status": "active", "proxies": {"vless": {"id": "credential-word"}}}
    event = api.publish(username="o'hara", by={"username": "seller"}, user=user)
    api.settle(one, event, PENDING)
    api.settle(one, event, DELIVERED, 200)
    api.settle(two, event, DEAD)
    page = html.unescape(browser.page(f"/events/{event}"))
    assert "<bdi>seller</bdi>" in page
    assert "after 2 tries" in page
    assert "no tries were left" in page
    assert "reports an error of its own (503)" in page
    assert "answer 1" in page
    assert "credential-word" not in page
    curl = re.search(r'class="curl"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert curl
    words = shlex.split(curl[1].replace("\\\n", ""))
    assert words[:4] == ["curl", "-i", "-g", "https://shop.example/hook"]
    assert "x-webhook-secret: ***" in words
    assert words[-1].startswith('{"username": "o\'hara", "action": "user_updated"')


def test_the_story_says_why_an_event_was_not_tried_yet(browser: Browser) -> None:
    """It is its turn; or an earlier one of its user is owed, which is a click away; or its endpoint rests."""
    api = browser.api
    endpoint = api.endpoint()
    first, later, other = (api.publish(username=name) for name in ("alice", "alice", "bob"))
    waits = f'<a href="/events/{first}">waits for an earlier event of this user</a>'
    assert "not tried yet" in browser.page(f"/events/{first}")
    assert waits in browser.page(f"/events/{later}")
    assert "not tried yet" in browser.page(f"/events/{other}")
    with browser.services.database.write() as tx:
        endpoints.update(tx, endpoint, failing_since=api.clock.now())
    assert "next try when the endpoint answers again" in browser.page(f"/events/{later}")
    browser.post(f"/endpoints/{endpoint}/pause")
    assert "the endpoint is paused: it is sent once you resume it" in browser.page(f"/events/{later}")


def test_what_was_tried_can_be_tried_now_unless_its_endpoint_is_paused(browser: Browser) -> None:
    """A paused one is sent nothing until somebody resumes it; and no try is announced for a moment that has passed."""
    api = browser.api
    endpoint, event = api.endpoint(), api.publish()
    api.settle(endpoint, event, PENDING)
    page = browser.page(f"/events/{event}")
    assert "next try at" in page
    assert "Try now" in page
    browser.post(f"/events/{event}/{endpoint}/retry")
    page = browser.page(f"/events/{event}")
    assert "due since" in page
    assert "next try at" not in page
    browser.post(f"/endpoints/{endpoint}/pause")
    page = browser.page(f"/events/{event}")
    assert "the endpoint is paused: it is sent once you resume it" in page
    assert "Try now" not in page


def test_a_story_with_many_deliveries_searches_no_longer_than_one_with_few(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each of them waits for is looked for in one time for all, and so are their requests made."""
    api = browser.api
    for number in range(50):
        api.endpoint(f"https://shop{number}.example/")
    first, later = (api.publish(username="alice") for _ in range(2))
    passed: list[float] = []

    def monotonic() -> float:
        """A slow machine's: each look at it takes 10 ms."""
        passed.append(0.01)
        return 1000 + sum(passed)

    with monkeypatch.context() as slow:
        slow.setattr(api.clock, "monotonic", monotonic)
        page = browser.page(f"/events/{later}")
    assert sum(passed) < 0.2
    assert f'<a href="/events/{first}">waits for an earlier event' in page
    assert 1 <= page.count("The request as it would be sent now") < 50
    assert page.count("Cancel the delivery") == 50
    assert "This endpoint was deleted." not in page


def test_what_never_changes_is_read_once_for_all_requests(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event's page makes the request of each try; the name of the database in them is not looked up for each."""
    api, asked = browser.api, list[str]()
    endpoint, event = api.endpoint(), api.publish()
    api.settle(endpoint, event, PENDING)
    real = browser.services.database.meta
    monkeypatch.setattr(browser.services.database, "meta", lambda conn, key: (asked.append(key), real(conn, key))[1])
    pages = [html.unescape(browser.page(f"/events/{event}")) for _ in range(2)]
    with browser.services.database.read() as conn:
        instance = real(conn, "instance")
    assert [page.count(f"webhook-id: msg_{instance}_{event}\n") for page in pages] == [2, 2]
    assert asked.count("instance") <= 1


def test_the_request_of_a_traced_event_bears_its_trace(browser: Browser) -> None:
    """As the receiver gets it."""
    api, given = browser.api, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    api.endpoint()
    sent = {"username": "ann", "action": "user_updated"}
    event = api.post("/api/v1/events", json=sent, headers={"traceparent": given}).json()["events"][0]["id"]
    assert f"traceparent: {given}" in html.unescape(browser.page(f"/events/{event}"))


@pytest.mark.parametrize(
    ("schedules", "failed", "said"),
    [
        (["standard", "outage", "standard", None], 2, [0, 1, 1, 2]),
        (["standard", "standard", "standard", None], 1, [0, 1, 0, 1]),
        (["standard", None, "rejected"], 1, [0, 1, 0]),
        (["standard", None, None], 0, [0, 1, 0]),
        ([], 0, []),
    ],
)
def test_each_try_is_shown_with_the_count_that_it_carried(
    schedules: list[str | None], failed: int, said: list[int]
) -> None:
    """Outages count nothing, and a replay begins anew."""
    now = datetime.now(UTC)
    tries = [Attempt(i + 1, now, 0.1, 500, None, "", "", schedule) for i, schedule in enumerate(schedules)]
    assert failed_before(tries, failed) == said


def test_a_try_shows_where_its_time_went_and_the_head_of_the_answer(browser: Browser) -> None:
    """The request is the one of that try, masked; what a receiver sends in confidence is not kept."""
    endpoint, event = browser.api.endpoint(secret="s3cret"), browser.api.publish()
    outbox, now = browser.services.outbox, browser.api.clock.now()
    for headers in ({"x-request-id": "ab12", "set-cookie": "sid=letmein", "x-webhook-secret": "s3cret"}, {}):
        [delivery] = outbox.window(endpoint, after=0, limit=10)
        response = Response(now, 0.5, 503, headers, b"busy", timing="100000 50000 150000" if headers else "")
        answered = settle([delivery], response, Outcome(Verdict.FAILED), RetryPolicy(), random=0.0)
        outbox.settle(answered, now=now)
    page = html.unescape(browser.page(f"/events/{event}"))
    first, second = page.split('<details id="try-')[1:]
    for phase in ("finding the name <b>100 ms", "connecting <b>50 ms", "TLS <b>150 ms", "answer <b>200 ms"):
        assert phase in first
    assert "x-request-id: ab12" in first
    assert '"tries": 0}' in first
    assert '"tries": 1}' in second
    assert f"webhook-timestamp: {int(now.timestamp())}" in second
    assert "The connection stood already." in second
    # Each try's request can be copied by itself.
    for number, told in enumerate((first, second)):
        command = told.partition(f'id="curl-{endpoint}-{number + 1}"')[2].partition("</pre>")[0]
        assert f'"tries": {number}}}' in command
    assert "s3cret" not in page
    assert "letmein" not in page
    shown = browser.api.get(f"/api/v1/deliveries/{endpoint}/{event}").json()["attempt_log"]
    assert shown[0]["phases"] == {"dns": 0.1, "connect": 0.05, "tls": 0.15, "wait": pytest.approx(0.2)}
    assert shown[0]["head"] == "x-request-id: ab12\nset-cookie: ***\nx-webhook-secret: ***"


@pytest.mark.parametrize(
    ("waited", "again", "told"),
    [(3, 0, "at once"), (6, 0, "at the first try"), (0, 1, "accepted 2 times, last at")],
    ids=["at once", "after a pause", "sent again"],
)
def test_the_story_tells_when_and_how_often_it_was_accepted(
    browser: Browser, waited: int, again: int, told: str
) -> None:
    """One that waited, however long it did, was not sent at once; and no try failed only because there were more."""
    api = browser.api
    endpoint, event = api.endpoint(), api.publish()
    api.clock.advance(waited)
    api.settle(endpoint, event, DELIVERED, 200)
    for _ in range(again):
        browser.post(f"/events/{event}/{endpoint}/retry", {"force": "yes"})
        api.settle(endpoint, event, DELIVERED, 200)
    [said] = re.findall(r'badge delivered">delivered</span>\s*(.*?) <time', browser.page(f"/events/{event}"))
    assert said == told


@pytest.mark.parametrize(
    ("error", "timing", "shown"),
    [
        ("dns", "2000 0 0", ["finding the name 2 ms"]),
        ("refused_address", "20 1980 0", ["connecting 2 ms"]),
        ("reset", "", ["waiting for the answer 2 ms", "The connection stood already."]),
    ],
)
def test_a_try_that_failed_says_nothing_of_what_it_did_not_come_to(
    browser: Browser, error: str, timing: str, shown: list[str]
) -> None:
    """No connection stood whose address was never found, and what took no time was not done."""
    endpoint, event = browser.api.endpoint(), browser.api.publish()
    [delivery] = browser.services.outbox.load(endpoint, [event])
    response = Response(browser.api.clock.now(), 0.0020004, error=error, message="broken", timing=timing)
    answered = settle([delivery], response, Outcome(Verdict.FAILED), RetryPolicy(), random=0.0)
    browser.services.outbox.settle(answered, now=browser.api.clock.now())
    caption = re.search(r"<figcaption>(.*?)</figcaption>", browser.page(f"/events/{event}"), re.DOTALL)
    assert caption
    assert re.findall(r"\w.*", re.sub("</span>", "\n", re.sub("</?b>|<span[^>]*>", "", caption[1]))) == shown


def test_a_delivery_is_retried_and_cancelled(browser: Browser) -> None:
    """A dead one is owed again, a waiting one is cancelled, and one that was delivered is sent twice only on purpose."""
    api = browser.api
    endpoint = api.endpoint()
    event = api.publish()
    path = f"/events/{event}/{endpoint}"
    api.settle(endpoint, event, DEAD)
    assert browser.post(f"{path}/retry").headers["location"] == f"/events/{event}"
    assert state(browser, endpoint, event) == PENDING
    browser.post(f"{path}/cancel")
    assert state(browser, endpoint, event) == CANCELLED
    assert browser.post(f"{path}/cancel").status_code == 409
    browser.post(f"{path}/retry")
    api.settle(endpoint, event, DELIVERED, 200)
    assert browser.post(f"{path}/retry").status_code == 409
    browser.post(f"{path}/retry", {"force": "yes"})
    assert state(browser, endpoint, event) == PENDING


def test_events_are_searched(browser: Browser) -> None:
    """By user, action, endpoint, state and time; what makes no sense is told, and the rest is searched for."""
    api = browser.api
    endpoint = api.endpoint()
    api.endpoint("https://other.example/", actions={"user_deleted"})
    first = api.publish("user_created", "alice")
    api.clock.advance(7200)
    second = api.publish("user_updated", "bob")
    api.settle(endpoint, first, DEAD)

    def found(query: str, status: int = 200) -> list[int]:
        return [int(one) for one in re.findall(r'href="/events/(\d+)"', browser.page(f"/events?{query}", status))]

    between = f"{api.clock.now() - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    assert found("") == [second, first]
    assert found("username=alice") == [first]
    assert found("action=user_updated") == [second]
    assert found(f"since={between}") == [second]
    assert found(f"until={between}") == [first]
    assert found(f"endpoint={endpoint}") == [second, first]
    assert found("state=dead") == [first]
    assert found("endpoint=2") == []
    assert found("before=y") == [second, first]
    assert found("state=nonsense&endpoint=x&since=yesterday&username=alice", 422) == [first]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Alice", "alice"),
        ("alice", "alice"),
        (" alice ", "alice"),
        ("BOB", "BOB"),
        ("bob", "bob"),
        (" bob", " bob"),
        ("ali", ""),
    ],
)
def test_a_user_is_found_however_his_name_is_written(browser: Browser, written: str, found: str) -> None:
    """As the registry tells names apart, unless events tell of more than one; by the whole name."""
    api = browser.api
    endpoint = api.endpoint()
    for name in ("alice", "bob"):
        browser.post("/users/new", {"username": name})
    events = {name: api.publish(username=name) for name in ("alice", "bob", "BOB", " bob")}
    for event in events.values():
        api.settle(endpoint, event, DEAD)
    for path in ("/events?state=dead", "/dead?states=dead"):
        page = browser.page(f"{path}&{urlencode({'username': written})}")
        assert re.findall(r'href="/events/(\d+)"', page) == ([str(events[found])] if found else [])
        assert f'name="username" value="{found or written}"' in page


@pytest.mark.parametrize("query", ["", "state=pending"])
def test_long_lists_have_pages(browser: Browser, query: str) -> None:
    """Each event is on one page, none on two."""
    browser.api.endpoint()
    ids = [browser.api.publish(username=f"user{i}") for i in range(60)]
    seen: list[int] = []
    path = f"/events?{query}"
    while path:
        page = browser.page(path)
        seen += map(int, re.findall(r'href="/events/(\d+)"', page))
        older = re.search(r'rel="next" href="(\?[^"]+)"', page)
        path = f"/events{html.unescape(older[1])}" if older else ""
    assert seen == ids[::-1]


# -- users


def is_over(page: str) -> bool:
    """Whether the browser draws the bar of the traffic in another colour than that of what is well."""
    [found] = re.findall(r"<meter ([^>]*)>", page)
    values = {name: float(value) for name, value in re.findall(r'(\w+)="([\d.]+)"', found)}
    return values.get("optimum", values["max"] / 2) <= values.get("high", values["max"]) < values["value"]


def test_a_user_is_created_charged_and_reset(browser: Browser) -> None:
    """From his first day to his last; each step is an event on his page."""
    made = browser.post(
        "/users/new", {"username": "alice", "data_limit": "1", "expire": "2030-01-31T12:00", "note": "hi"}
    )
    assert made.headers["location"] == "/user/alice"
    page = browser.page("/user/alice")
    assert "2030-01-31T12:00:00" in page
    browser.post("/user/alice/charge", {"amount": "0.5"})
    assert '512 MiB</bdi> / <bdi dir="ltr">1 GiB</bdi> (50%)' in browser.page("/user/alice")
    assert not is_over(browser.page("/user/alice"))
    browser.post("/user/alice/charge", {"amount": "0.5"})
    assert "Data limit reached" in browser.page("/user/alice")
    assert is_over(browser.page("/user/alice"))
    browser.post("/user/alice/reset")
    assert "badge active" in browser.page("/user/alice")
    browser.post("/user/alice/disable")
    assert "badge disabled" in browser.page("/user/alice")
    browser.post("/user/alice/enable")
    form = browser.page("/user/alice/edit")
    assert 'value="2030-01-31T12:00:00"' in form
    browser.post("/user/alice/edit", {"data_limit": "", "expire": "", "note": "", "data_limit_reset_strategy": "month"})
    user = browser.services.registry.get("alice", None)
    assert (user.data_limit, user.expire, user.note, user.data_limit_reset_strategy) == (None, None, "", "month")
    browser.post("/user/alice/delete")
    assert browser.get("/user/alice").status_code == 404


def test_a_users_wrong_fields_are_told_at_their_places(browser: Browser) -> None:
    """What is wrong stands where it was typed, and the rest is kept."""
    got = browser.post("/users/new", {"username": "a b", "note": "kept"})
    assert got.status_code == 422
    assert 'id="wrong-username" role="alert">3 to 32 Latin letters' in got.text
    assert '<input name="username" aria-invalid="true"' in got.text
    assert "kept</textarea>" in got.text
    browser.post("/users/new", {"username": "alice"})
    for path, fields, said in (
        ("/users/new", {"username": "ALICE"}, 'id="wrong-username" role="alert">There is a user of this name already.'),
        ("/users/new", {"username": "bob", "data_limit": "nan"}, 'id="wrong-data_limit" role="alert">A number'),
        ("/users/new", {"username": "bob", "expire": "soon"}, 'id="wrong-expire" role="alert">A date'),
        ("/user/alice/charge", {"amount": "-1"}, 'id="wrong" role="alert">This number is'),
        (
            "/users/new",
            {"username": "bob", "data_limit": "1,000"},
            'id="wrong-data_limit" role="alert">Write this number',
        ),
        ("/user/alice/charge", {"amount": "1,000"}, 'id="wrong" role="alert">Write this number without a comma'),
    ):
        got = browser.post(path, fields)
        assert got.status_code == 422 or "already" in said
        assert said in got.text


def test_a_note_that_is_no_text_is_told_so(browser: Browser) -> None:
    """Its length has nothing to do with it."""
    got = browser.post("/users/new", {"username": "bob", "note": "a\0b"})
    assert got.status_code == 422
    assert 'id="wrong-note" role="alert">This text cannot be used: it has characters that no text has.' in got.text


def test_a_choice_that_is_none_is_told_at_its_place(browser: Browser) -> None:
    """Forged, or of a version that knows more: in the reader's language, and it is not another one by itself."""
    browser.post("/users/new", {"username": "alice"})
    for code, said in (("en", "Choose one of these."), ("ru", "Выберите"), ("fa", "انتخاب کنید"), ("zh", "请选择")):
        browser.client.cookies.set("marzhook_language", code)
        for path in ("/users/new", "/user/alice/edit"):
            got = browser.post(path, {"username": "bob", "data_limit_reset_strategy": "hour"}, on="/users/new")
            assert got.status_code == 422
            told = re.search(
                '<option value="hour" selected>.*?</select><small[^>]*role="alert">([^<]*)', got.text, re.S
            )
            assert told, got.text
            assert said in told[1]
            assert "must be" not in got.text


@pytest.mark.parametrize(("code", "said"), [("fa", "حرف لاتین"), ("ru", "латинских букв"), ("zh", "500 个字符")])
def test_a_users_wrong_fields_are_told_in_the_readers_language(browser: Browser, code: str, said: str) -> None:
    """No English sentence in the middle of a page in another language."""
    browser.client.cookies.set("marzhook_language", code)
    got = browser.post("/users/new", {"username": "ok", "note": "n" * 501}, on="/users/new")
    assert got.status_code == 422
    assert said in got.text
    assert "must " not in got.text


def test_users_are_found_by_the_beginning_of_their_names(browser: Browser) -> None:
    """In any case of the letters, and by status."""
    for name in ("alice", "Alina", "bob"):
        browser.post("/users/new", {"username": name})
    browser.post("/user/alice/disable")

    def found(query: str) -> list[str]:
        return re.findall(r'href="/user/([^"/]+)"', browser.page(f"/users?{query}"))

    assert found("") == ["alice", "Alina", "bob"]
    assert found("search=AL") == ["alice", "Alina"]
    assert found("status=disabled") == ["alice"]


# -- inbox and settings


def test_the_inbox_is_an_endpoint_that_shows_what_arrives(browser: Browser) -> None:
    """One click, and a first delivery can be seen; what is secret is masked there, too."""
    assert browser.post("/inbox").headers["location"] == "/inbox"
    assert browser.post("/inbox").status_code == 409
    with browser.services.database.read() as conn:
        [endpoint] = endpoints.all_endpoints(conn)
        token = inbox.token(browser.services.database, conn)
    assert endpoint.url == f"http://testserver:80/inbox/{token}"
    body = '{"username": "<b>eve</b>", "action": "user_created"}'
    sent = browser.client.post(
        f"/inbox/{token}", content=body, headers={"x-webhook-secret": "s3cret", "webhook-id": "m"}
    )
    assert sent.status_code == 200
    page = browser.page("/inbox")
    assert "User created" in page
    assert "&lt;b&gt;eve&lt;/b&gt;" in page
    assert "x-webhook-secret: ***" in page
    assert browser.client.post(f"/inbox/{'0' * 32}", content=body).status_code == 404

    browser.post("/inbox/answer", {"status": "500"})
    browser.post("/inbox/answer", {"status": "999"})
    assert browser.client.post(f"/inbox/{token}", content="[1, \xff").status_code == 500
    assert "answered 500" in browser.page("/inbox")

    assert browser.post(f"/endpoints/{endpoint.id}/delete").status_code == 303
    with browser.services.database.read() as conn:
        assert endpoints.all_endpoints(conn) == []
        assert inbox.address(browser.services.database, conn) is None


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            b'{"type": "user_expired", "timestamp": "", "data": {"action": "user_expired", "username": "eve"}}',
            "<bdi>eve</bdi> —",
        ),
        (b'[{"action": "user_expired", "username": "eve"}, {}, {}]', "<bdi>eve</bdi> and 2 more —"),
        (
            b'{"action": "user_expired", "username": "eve", "more": "%s"}' % (b"x" * 16_384),
            "further bytes are not kept",
        ),
        (b'{"action": {"x": 1}, "username": 5}', "A request"),
        (b"[" * 15_000, "A request"),
        (b'[{"x": %s}]' % (b"[" * 980 + b"]" * 980), "A request"),
        (b"[]", "A request"),
        (b"", "A request"),
    ],
)
def test_the_inbox_shows_whatever_arrives(browser: Browser, body: bytes, shown: str) -> None:
    """Each of the formats by its event; what is none, what is huge and what is nested without end as a request."""
    browser.site.inbox.take((), body)
    page = browser.page("/inbox")
    assert shown in page
    assert ("User expired" in page) == (b"user_expired" in body)


def test_the_inbox_keeps_the_newest_only(browser: Browser) -> None:
    """However much is sent to it, it stays small."""
    for _ in range(60):
        browser.site.inbox.take((), b"x" * 100_000)
    kept = browser.site.inbox.all()
    assert [got.number for got in kept] == list(range(60, 10, -1))
    assert {len(got.body) for got in kept} == {16 * 1024}


def test_settings_are_shown_with_their_source(browser: Browser) -> None:
    """Every one of them, masked, with what would change it."""
    page = html.unescape(browser.page("/settings"))
    for entry in browser.services.settings.entries:
        assert f">{entry.name}</code>" in page
    assert "the variable in the service's environment" in page
    assert "the default" in page
    browser.get("/look?language=fa")
    assert "⟨U+" not in browser.page("/settings"), "a translator's own mark is no text"


def test_a_line_of_a_file_is_told_in_the_readers_language() -> None:
    """Where a setting comes from; another setting is called by its name."""
    said = [config._place(language, ".env line 12") for language in load().values()]
    file = '<code dir="ltr">.env</code>'
    assert said == [f"line 12 of {file}", f"سطر ۱۲ از {file}", f"строка 12 файла {file}", f"{file} 第 12 行"]
    assert config._place(load()["fa"], "WEBHOOK_SECRET") == '<code dir="ltr">WEBHOOK_SECRET</code>'


def test_endpoints_that_are_called_the_same_can_be_told_apart(browser: Browser) -> None:
    """Of their addresses what may be secret is not shown, so they get their numbers."""
    api = browser.api
    one, two, _ = (api.endpoint(f"https://shop.example/{rest}") for rest in ("x?a=1", "x?a=2", "y"))
    event = api.publish()
    api.settle(one, event, DEAD)
    letters = browser.page("/dead?count=yes").partition('id="letters"')[2]
    for page in (browser.page("/"), browser.page("/endpoints"), browser.page(f"/events/{event}"), letters):
        assert f"<bdi>https://shop.example/x?… · {one}</bdi>" in page
    for path in ("/events", "/dead"):
        page = browser.page(path)
        assert f"https://shop.example/x?… · {one}</option>" in page
        assert f"https://shop.example/x?… · {two}</option>" in page
        assert "https://shop.example/y</option>" in page


def test_the_inbox_is_called_as_in_the_menu(browser: Browser) -> None:
    """By all that is listed or chosen; another endpoint of that name is somebody's, who called it so."""
    browser.post("/inbox")
    endpoint, event = 1, browser.api.publish()
    browser.get("/look?language=fa")
    name = load()["fa"].gettext("Inbox")
    browser.api.endpoint(name="Inbox")
    for path in ("/", "/endpoints", f"/endpoints/{endpoint}", f"/events/{event}"):
        assert f"<bdi>{name}</bdi>" in browser.page(path)
    assert "<h1><bdi>Inbox</bdi></h1>" in browser.page("/endpoints/2")
    for path in ("/events", "/dead"):
        assert f'<option value="{endpoint}">{name}</option>' in browser.page(path)


def test_a_trys_number_stands_off_its_time(browser: Browser) -> None:
    """Two numbers side by side are read as one, and from the wrong end; an event's own is in the reader's digits."""
    endpoint, event = browser.api.endpoint(), browser.api.publish()
    browser.api.settle(endpoint, event, PENDING)
    browser.get("/look?language=fa")
    page = browser.page(f"/events/{event}")
    assert "<summary>تلاش ۱ · <time" in page
    assert f'<span dir="ltr">{load()["fa"].number(event)}</span>' in page


def test_a_secrets_length_is_told_in_the_readers_language() -> None:
    """It is all that the page shows of one."""
    secret = next(setting for setting in SETTINGS if setting.name == "WEBHOOK_SECRET")
    said = [config._text(language, secret.shown("x" * 9)) for language in load().values()]
    assert said == ["set (9 characters)", "تعیین شده (۹ نویسه)", "задано (9 символов)", "已设置（9 个字符）"]
