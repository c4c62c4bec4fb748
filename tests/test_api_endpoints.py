from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from marzhook.store import endpoints

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]

DISCORD = "https://discord.com/api/webhooks/1234/hush-token"


def make(api: Api, **values: Any) -> Any:
    answered = api.post("/api/v1/endpoints", json={"url": "https://shop.example/hook", **values})
    assert answered.status_code == 201, answered.text
    return answered.json()


def environment(api: Api, kind: str = "webhook", url: str = "http://127.0.0.1:9000/") -> int:
    with api.services.database.write() as tx:
        wanted = [endpoints.Wanted(kind, url, {"name": "from the settings"})]
        endpoints.sync_environment(tx, wanted, now=api.clock.now())
        return endpoints.all_endpoints(tx.conn)[0].id


TOKEN = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(
    ("kind", "known"),
    [("webhook", "this kind has none"), ("telegram", "there are chat, chats, language, timezone, templates")],
)
def test_an_option_that_a_kind_does_not_have_is_refused(api: Api, kind: str, known: str) -> None:
    """With those that it has; what a newer version has written may stay as it is, and nothing else."""
    url, options = (TOKEN, {"chat": 5}) if kind == "telegram" else ("https://shop.example/", {})
    made = api.post("/api/v1/endpoints", json={"kind": kind, "url": url, "options": {**options, "wings": 2}})
    assert (made.status_code, made.json()["code"]) == (422, "invalid_options")
    assert made.json()["detail"] == f"there is no option 'wings'; {known}"
    with api.services.database.write() as tx:
        one = endpoints.create(
            tx, now=api.clock.now(), kind=kind, url="https://x.example/bot" + TOKEN, options={**options, "wings": 2}
        )
    path = f"/api/v1/endpoints/{one.id}"
    assert api.call("PATCH", path, json={"name": "changed"}).json()["options"] == {**options, "wings": 2}
    changed = api.call("PATCH", path, json={"options": {**options, "wings": 3}})
    assert (changed.status_code, known in changed.json()["detail"]) == (422, True)
    assert api.call("PATCH", path, json={"options": {**options, "wings": 2}}).json()["options"] == {
        **options,
        "wings": 2,
    }
    assert api.call("PATCH", path, json={"options": options}).json()["options"] == options


def test_create_and_show(api: Api) -> None:
    """A new endpoint has the defaults, shows its signing secret once, and is guarded."""
    made = make(api, secret="hush", actions=["user_expired", "user_limited"])
    secret = made.pop("signing_secret")
    shown = api.get(f"/api/v1/endpoints/{made['id']}")

    assert secret.startswith("whsec_")
    assert shown.json() == made
    assert "hush" not in shown.text
    assert secret not in shown.text + api.get("/api/v1/endpoints").text
    assert made == {
        "id": 1, "name": "https://shop.example/hook", "kind": "webhook", "url": "https://shop.example/hook",
        "format": "event", "has_secret": True, "secret_mode": "auto", "learned_mode": None,
        "signatures": "v1", "public_key": None, "detail": "safe",
        "actions": ["user_expired", "user_limited"], "admins": None, "usernames": None, "condition": None,
        "has_template": False, "template": None, "ordered": True, "concurrency": 32,
        "rate_limit": None, "options": {}, "enabled": True, "disabled_reason": None, "problem": None,
        "warning": None, "failing_since": None, "source": "api",
        "previous_secret_expires_at": None,
        "created_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    with api.services.database.read() as conn:
        assert endpoints.get(conn, 1).guarded


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (DISCORD, "https://discord.com/api/…"),
        ("https://user:hush@shop.example/a?key=hush", "https://shop.example/a?…"),
    ],
)
def test_urls_are_masked_for_readers(api: Api, url: str, masked: str) -> None:
    """Who may only read sees no token and no password of a URL, in whatever answer; an admin sees it whole."""
    made = make(api, url=url, kind="discord")
    api.publish()
    reader = api.key("read")

    assert made["url"] == url
    assert api.get("/api/v1/endpoints", headers=reader).json()["endpoints"][0]["url"] == masked
    for path in ("/api/v1/endpoints", "/api/v1/endpoints/1", "/api/v1/deliveries", "/api/v1/events/1", "/metrics"):
        assert "hush" not in api.get(path, headers=reader).text
    assert api.get("/api/v1/endpoints").json()["endpoints"][0]["url"] == url


def test_a_name_is_taken_away_with_null(api: Api) -> None:
    """The address is one again, and follows it; a name that was given does not, and what is missing stays."""
    make(api, url="https://a.example/hook", name="shop")
    for change, name in (
        ({"url": "https://b.example/hook"}, "shop"),
        ({"name": None}, "https://b.example/hook"),
        ({"url": "https://c.example/hook"}, "https://c.example/hook"),
        ({"name": "again", "url": "https://d.example/hook"}, "again"),
        ({"name": None, "url": "https://e.example/hook"}, "https://e.example/hook"),
        ({"detail": "none"}, "https://e.example/hook"),
    ):
        assert api.call("PATCH", "/api/v1/endpoints/1", json=change).json()["name"] == name


@pytest.mark.parametrize(
    ("name", "kept"),
    [("shop", "shop"), (DISCORD, "https://discord.com/api/…"), ("https://[hush", "…"), ("a://[b", "a://[b")],
)
def test_names_are_no_hiding_place(api: Api, name: str, kept: str) -> None:
    """A name goes to logs and metrics, so one that is a URL is kept without its token."""
    made = make(api, name=name)
    assert made["name"] == kept
    assert api.get("/api/v1/endpoints", headers=api.key("read")).json()["endpoints"][0]["name"] == kept


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"url": "ftp://x.example/"}, "invalid_url"),
        ({"url": None}, "invalid_url"),
        ({"url": "http://x.example:99999/"}, "invalid_url"),
        ({"kind": "pigeon"}, "invalid_kind"),
        ({"format": "xml"}, "invalid_format"),
        ({"secret_mode": "rot13"}, "invalid_secret_mode"),
        ({"detail": "all"}, "invalid_detail"),
        ({"actions": ["No Action"]}, "invalid_action"),
        ({"actions": []}, "invalid_action"),
        ({"admins": []}, "invalid_admins"),
        ({"usernames": ["!"]}, "invalid_usernames"),
        ({"condition": "user.status == "}, "invalid_condition"),
        ({"condition": 'user.status == "active"'}, "invalid_condition"),
        ({"template": "{{ username"}, "invalid_template"),
        ({"template": "{% include 'x' %}"}, "invalid_template"),
        ({"secret": "a\nb"}, "invalid_secret"),
        ({"secret": ""}, "invalid_secret"),
        ({"name": ""}, "invalid_name"),
        ({"concurrency": 0}, "invalid"),
        ({"concurrency": 1001}, "invalid"),
        ({"source": "environment"}, "invalid"),
    ],
)
def test_bad_endpoint(api: Api, values: Any, code: str) -> None:
    """Whatever is wrong is refused when it is made and when it is changed, and changes nothing."""
    made = make(api)
    created = api.post("/api/v1/endpoints", json={"url": "https://shop.example/", **values})
    changed = api.call("PATCH", f"/api/v1/endpoints/{made['id']}", json=values)

    assert (created.status_code, created.json()["code"]) == (422, code)
    if values not in ({"url": None}, {"kind": "pigeon"}):
        assert (changed.status_code, changed.json()["code"]) == (422, code)
    assert [e["id"] for e in api.get("/api/v1/endpoints").json()["endpoints"]] == [made["id"]]


def test_change(api: Api) -> None:
    """Only what is given changes; null takes the secret and the filter away."""
    made = make(api, secret="x", actions=["user_created"], detail="full")
    path = f"/api/v1/endpoints/{made['id']}"

    after = api.call("PATCH", path, json={"format": "list", "concurrency": 4, "ordered": False}).json()
    assert (after["format"], after["concurrency"], after["ordered"]) == ("list", 4, False)
    assert (after["has_secret"], after["actions"], after["detail"]) == (True, ["user_created"], "full")
    bare = api.call("PATCH", path, json={"secret": None, "actions": None, "detail": None}).json()
    assert (bare["has_secret"], bare["actions"], bare["detail"]) == (False, None, "full")


def test_a_filter_and_a_template(api: Api) -> None:
    """They come back as they were given, apply to what is published from then on, and null takes each away."""
    values = {
        "admins": ["root"], "usernames": ["vip_*", "!vip_2"], "condition": "user.note",
        "template": '{"key": "hush", "who": "{{ username }}"}',
    }  # fmt: skip
    made = make(api, **values)
    path = f"/api/v1/endpoints/{made['id']}"
    event = {"action": "user_updated", "by": {"username": "root"}, "user": {"note": "x"}}
    given = [{**event, "username": "vip_1"}, {**event, "username": "vip_2"}, {**event, "username": "vip_3", "user": {}}]
    assert api.post("/api/v1/events", json=given).status_code == 202

    assert {name: made[name] for name in values} == values
    listed = api.get("/api/v1/deliveries").json()["deliveries"]
    assert [one["event"]["username"] for one in listed] == ["vip_1"]
    bare = api.call("PATCH", path, json=dict.fromkeys(values)).json()
    assert {name: bare[name] for name in values} == dict.fromkeys(values)


def test_a_template_may_hold_a_token(api: Api) -> None:
    """Who may only read learns that there is one; only webhooks have one."""
    made = make(api, template='{"routing_key": "hush"}')
    reader = api.key("read")
    for path in ("/api/v1/endpoints", f"/api/v1/endpoints/{made['id']}"):
        shown = api.get(path, headers=reader)
        assert "hush" not in shown.text
        assert '"has_template": true' in shown.text or '"has_template":true' in shown.text
    answered = api.post("/api/v1/endpoints", json={"url": DISCORD, "kind": "discord", "template": "{}"})
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid_template")
    other = make(api, url=DISCORD, kind="discord")
    changed = api.call("PATCH", f"/api/v1/endpoints/{other['id']}", json={"template": "{}"})
    assert (changed.status_code, changed.json()["code"]) == (422, "invalid_template")


def test_a_broken_template_is_refused_with_its_line(api: Api) -> None:
    answered = api.post("/api/v1/endpoints", json={"url": "https://shop.example/", "template": "{\n{{ 1 + }}\n}"})
    assert answered.json() == {
        "detail": "template, line 2: unexpected 'end of print statement'", "code": "invalid_template",
    }  # fmt: skip


def test_delete(api: Api) -> None:
    """A deleted endpoint is gone from the list, what it was owed is cancelled, and its history can be read."""
    made = make(api)
    event_id = api.publish()
    path = f"/api/v1/endpoints/{made['id']}"

    assert api.call("DELETE", path).status_code == 204
    assert api.get(path).json()["code"] == "endpoint_not_found"
    assert api.get("/api/v1/endpoints").json() == {"endpoints": []}
    delivery = api.get(f"/api/v1/deliveries/{made['id']}/{event_id}").json()
    assert delivery["state"] == "cancelled"
    again = api.post(f"/api/v1/deliveries/{made['id']}/{event_id}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "endpoint_deleted")


def test_disable_and_enable(api: Api) -> None:
    """A disabled endpoint says why, keeps what it is owed, and cannot be tested."""
    path = f"/api/v1/endpoints/{make(api)['id']}"

    off = api.post(f"{path}/disable").json()
    api.publish()
    assert (off["enabled"], off["disabled_reason"]) == (False, "over the API")
    assert api.post(f"{path}/test").json()["code"] == "endpoint_disabled"
    assert api.get("/api/v1/deliveries").json()["deliveries"][0]["state"] == "pending"
    on = api.post(f"{path}/enable").json()
    assert (on["enabled"], on["disabled_reason"]) == (True, None)


def test_rotate_secret(api: Api) -> None:
    """The new secret is shown once; the old one signs too for another day."""
    made = make(api)
    path = f"/api/v1/endpoints/{made['id']}"

    rotated = api.post(f"{path}/rotate-secret").json()

    assert rotated["signing_secret"] != made["signing_secret"]
    assert rotated["previous_secret_expires_at"] == "2026-01-02T00:00:00Z"
    assert "signing_secret" not in api.get(path).json()
    with api.services.database.read() as conn:
        stored = endpoints.get(conn, made["id"])
    assert (stored.signing_secret, stored.previous_signing_secret) == (
        rotated["signing_secret"],
        made["signing_secret"],
    )


def test_test_event_goes_to_one(api: Api) -> None:
    """A test event is owed to the one endpoint only, whatever its filter."""
    other, tested = make(api), make(api, actions=["user_created"])

    answered = api.post(f"/api/v1/endpoints/{tested['id']}/test")

    assert answered.status_code == 202
    body = answered.json()
    assert (body["event"]["action"], body["delivery"]["state"]) == ("marzhook_test", "pending")
    assert body["event"]["webhook_id"].startswith("msg_")
    assert [d.event.id for d in api.services.outbox.window(tested["id"], after=0, limit=9)] == [body["event"]["id"]]
    assert api.services.outbox.window(other["id"], after=0, limit=9) == []


@pytest.mark.parametrize(("kind", "setting"), [("webhook", "WEBHOOK_ADDRESS"), ("discord", "DISCORD_WEBHOOK_URL")])
def test_endpoints_of_the_settings(api: Api, kind: str, setting: str) -> None:
    """What the settings say is changed there; on, off, testing and a new signing secret work over the API too."""
    path = f"/api/v1/endpoints/{environment(api, kind)}"

    for refused in (api.call("PATCH", path, json={"format": "list"}), api.call("DELETE", path)):
        assert (refused.status_code, refused.json()["code"]) == (409, "endpoint_from_environment")
        assert setting in refused.json()["detail"]
    for verb, status in (("disable", 200), ("enable", 200), ("rotate-secret", 200), ("test", 202)):
        assert api.post(f"{path}/{verb}").status_code == status


def test_endpoint_gone_from_the_settings(api: Api) -> None:
    """One that the settings name no longer cannot be enabled here, but can be deleted."""
    path = f"/api/v1/endpoints/{environment(api)}"
    with api.services.database.write() as tx:
        endpoints.sync_environment(tx, [], now=api.clock.now())

    api.post(f"{path}/disable")
    refused = api.post(f"{path}/enable")
    assert (refused.status_code, refused.json()["code"]) == (409, "endpoint_from_environment")
    assert "WEBHOOK_ADDRESS" in refused.json()["detail"]
    assert api.call("DELETE", path).status_code == 204


@pytest.mark.parametrize("verb", ["test", "enable", "disable", "rotate-secret"])
def test_no_such_endpoint(api: Api, verb: str) -> None:
    """Every verb says when there is no such endpoint."""
    answered = api.post(f"/api/v1/endpoints/9/{verb}")
    assert (answered.status_code, answered.json()["code"]) == (404, "endpoint_not_found")


def test_enabling_sends_or_skips_what_was_kept(api: Api) -> None:
    """What came while it was disabled is owed; `backlog=skip` cancels it, and it can be replayed."""
    made = make(api)
    for choice, expected in (("send", 1), ("skip", 0)):
        api.post(f"/api/v1/endpoints/{made['id']}/disable")
        api.post("/api/v1/events", json={"username": "anna", "action": "user_updated"})
        assert api.post(f"/api/v1/endpoints/{made['id']}/enable?backlog={choice}").status_code == 200
        owed = api.get("/api/v1/deliveries?state=pending").json()["deliveries"]
        assert len(owed) == expected
    assert api.post("/api/v1/replay", json={"dry_run": True}).json()["matched"] == 2


def test_a_rate_limit_can_be_set_and_removed(api: Api) -> None:
    """`rate_limit` is requests a second; null lifts it; zero is refused."""
    made = make(api, rate_limit=2.5)
    path = f"/api/v1/endpoints/{made['id']}"
    assert made["rate_limit"] == 2.5
    assert api.call("PATCH", path, json={"rate_limit": None}).json()["rate_limit"] is None
    assert api.call("PATCH", path, json={"rate_limit": 0}).status_code == 422
