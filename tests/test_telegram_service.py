"""A real service and a Bot API that behaves like Telegram's: what comes into which chat, and what becomes of refusals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bot_api import TOKEN, BotApi
from marzhook.testing import eventually
from receivers import Receiver
from service import Service


def bot(api: BotApi, **settings: str) -> dict[str, str]:
    return {"TELEGRAM_API_TOKEN": TOKEN, "MARZHOOK_TELEGRAM_URL": api.url, "TELEGRAM_ADMIN_ID": "5", **settings}


def publish(service: Service, *usernames: str, action: str = "user_updated", **detail: Any) -> list[int]:
    events = [{"username": name, "action": action, **detail} for name in usernames]
    status, answer = service.call("POST", "/api/v1/events", events)
    assert status == 202, answer
    return [event["id"] for event in answer["events"]]


def deliveries(service: Service, state: str) -> list[dict[str, Any]]:
    status, answer = service.call("GET", f"/api/v1/deliveries?state={state}")
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["deliveries"]
    return found


def test_messages_come_into_the_chats_of_the_settings(tmp_path: Path) -> None:
    """In the language that is set, to all's chat and to an admin's; who blocked the bot holds nobody up."""
    with BotApi(5, 7) as api:
        settings = bot(api, MARZHOOK_TELEGRAM_CHATS="shop1=7", MARZHOOK_LANGUAGE="fa")
        with Service(tmp_path, **settings) as service:
            publish(service, "alice", user={"used_traffic": 1 << 30, "data_limit": 0})
            chat, text = api.message()
            assert chat == 5
            assert "کاربر ویرایش شد" in text
            assert "۱.۰ گیگابایت از نامحدود" in text
            publish(service, "bob", action="user_expired", user={"admin": {"username": "shop1"}})
            chat, text = api.message()
            assert chat == 7
            assert "<code>bob</code>" in text

            api.chats[7].blocked = True
            publish(service, "carol", user={"admin": {"username": "shop1"}})
            chat, text = api.message()
            assert (chat, "carol" in text) == (5, True)
            eventually(lambda: len(deliveries(service, "delivered")) == 3)
            status, shown = service.call("GET", "/api/v1/endpoints")
            assert status == 200
            assert shown["endpoints"][0]["options"] == {"chat": 5, "chats": {"shop1": 7}, "language": "fa"}
            assert service.stop() == 0
            assert TOKEN not in "".join(service.log)


def test_an_admin_of_a_panel_has_his_own_chat(tmp_path: Path) -> None:
    """By the telegram_id that its events bear: from the very event that tells it, and nothing of it goes elsewhere."""
    with BotApi(5, 7) as api, Receiver() as receiver:
        settings = bot(api, MARZHOOK_TELEGRAM_CHATS="*=telegram_id", WEBHOOK_ADDRESS=receiver.url)
        with Service(tmp_path, **settings) as service:
            owner = {"username": "shop1", "is_sudo": False, "telegram_id": 7, "discord_webhook": None, "users_usage": 0}
            for name, admin in (("alice", owner), ("bob", None)):
                user = {"username": name, "status": "expired", "admin": admin}
                told = [{"username": name, "action": "user_expired", "enqueued_at": 1.0, "tries": 0, "user": user}]
                assert service.call("POST", "/ingest/marzban", told, token=False)[0] == 200
            chats = {text.split("<code>")[1].split("</code>")[0]: chat for chat, text in (api.message(), api.message())}
            assert chats == {"alice": 7, "bob": 5}
            assert "telegram_id" not in str([record["body"] for record in receiver.wait(2)])


def test_a_group_that_became_a_supergroup_is_followed_from_then_on(tmp_path: Path) -> None:
    """The message that met the change arrives in the same try, and the next ones go there straight."""
    with BotApi(-5, -1005) as api, Service(tmp_path, **bot(api, TELEGRAM_LOGGER_CHANNEL_ID="-5")) as service:
        api.chats[-5].moved = -1005
        publish(service, "alice")
        assert api.message()[0] == -1005
        eventually(lambda: service.call("GET", "/api/v1/endpoints/1")[1]["options"]["chat"] == -1005)
        publish(service, "bob")
        assert api.message()[0] == -1005
        assert len(api.refused) == 1
        eventually(lambda: len(deliveries(service, "delivered")) >= 2)
        delivered = deliveries(service, "delivered")
        assert [one["tries"] for one in delivered] == [0, 0]


def test_a_burst_stays_within_telegrams_limits(tmp_path: Path) -> None:
    """Nothing is refused for coming too fast: what waits goes together, in order, and the pace is kept."""
    names = [f"user{number:02}" for number in range(30)]
    with BotApi(5, patient=False) as api, Service(tmp_path, **bot(api)) as service:
        for start in range(0, 30, 10):
            publish(service, *names[start : start + 10])
        eventually(lambda: len(deliveries(service, "delivered")) == 30, timeout=30)
        assert api.refused == []
        shown = "\n".join(api.chats[5].messages)
        assert sorted(names, key=shown.index) == names
        assert len(api.chats[5].messages) <= 6


def test_asking_for_patience_is_obeyed(tmp_path: Path) -> None:
    """429 lets the bot rest for as long as Telegram says, and nothing is lost."""
    with BotApi(5) as api, Service(tmp_path, **bot(api, MARZHOOK_RETRY_SCHEDULE="1,1")) as service:
        refusal = {"ok": False, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 2}}
        api.answers.append((429, refusal))
        began = time.monotonic()
        publish(service, "alice")
        assert "alice" in api.message()[1]
        assert time.monotonic() - began >= 1.9
        assert len(api.refused) == 1


def test_what_cannot_be_said_is_dead_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Whether it cannot be rendered or Telegram cannot read it: the reason is kept, and others arrive."""
    templates = [
        "{{ title }}{% if detail.parts is number %}{{ 6 / detail.parts }}{% endif %}",
        "{{ title }}{% if detail.parts == 0 %}<b>{% endif %}",
    ]
    allowed = {"MARZHOOK_ALLOW_ADDRESSES": "127.0.0.0/8", "MARZHOOK_REJECTED_SCHEDULE": "1"}
    with BotApi(1, 2) as api, Service(tmp_path, **allowed) as service:
        for chat, template in enumerate(templates, start=1):
            options = {"chat": chat, "templates": {"user_updated": template}}
            new = {"kind": "telegram", "url": f"{api.url}/bot{TOKEN}", "options": options}
            status, made = service.call("POST", "/api/v1/endpoints", new)
            assert status == 201, made
        publish(service, "alice", parts=2)
        assert {api.message()[0], api.message()[0]} == {1, 2}
        [bad] = publish(service, "bob", parts=0)
        publish(service, "carol", parts=3)
        assert {api.message()[0], api.message()[0]} == {1, 2}
        eventually(lambda: len(deliveries(service, "dead")) == 2, timeout=30)
        dead = {one["endpoint_id"]: one for one in deliveries(service, "dead")}
        assert {one["event_id"] for one in dead.values()} == {bad}
        assert "division by zero" in dead[1]["last_attempt"]["message"]
        assert "can't parse" in str(api.refused)
