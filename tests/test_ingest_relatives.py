"""Marzban's relatives: what their adapters make of their requests, in Marzban's names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marzhook import signing
from marzhook.destinations.sql import state
from marzhook.event import detail_json
from marzhook.sources.panels import PANELS
from panel_requests import SECRET, taken

PASARGUARD, MARZNESHIN, REMNAWAVE = (PANELS[name] for name in ("pasarguard", "marzneshin", "remnawave"))


def test_pasarguard_speaks_of_the_same_in_other_words() -> None:
    """Receivers that know Marzban's user understand PasarGuard's."""
    item = {
        "enqueued_at": 1795423342.5, "send_at": 1795423342.6, "tries": 0, "username": "alice", "action": "user_updated",
        "by": {"username": "shop1", "is_sudo": False, "discord_webhook": "https://discord.com/api/webhooks/1/x"},
        "user": {
            "proxy_settings": {"vless": {"id": "u-u-i-d", "flow": "xtls-rprx-vision"}, "wireguard": {"private_key": "k"}},
            "expire": "2026-12-23T08:43:17Z", "data_limit": 10, "id": 5, "username": "alice", "status": "active",
            "subscription_url": "https://x/sub/y", "group_ids": [1],
        },
    }  # fmt: skip
    one = taken(PASARGUARD, item)
    user = one.event.detail["user"]
    assert user["expire"] == 1798015397
    assert user["proxies"] == {"vless": {"flow": "xtls-rprx-vision"}, "wireguard": {}}
    assert (user["id"], user["group_ids"]) == (5, [1])
    assert one.event.detail["by"] == {"username": "shop1", "is_sudo": False}
    assert "u-u-i-d" not in detail_json(one.event.detail)
    full = taken(PASARGUARD, item, credentials=True).event.detail["user"]
    assert full["proxies"] == item["user"]["proxy_settings"]  # type: ignore[index]


def test_pasarguards_next_plan_gets_its_own_name() -> None:
    """The panel calls the start of a next plan a reset; only a reset names an admin."""
    reset = {"username": "alice", "action": "data_usage_reset", "by": {"username": "shop1"}, "user": {}}
    assert taken(PASARGUARD, reset).event.action == "data_usage_reset"
    del reset["by"]
    one = taken(PASARGUARD, reset)
    assert one.event.action == "data_reset_by_next"
    assert one.event.detail["source_action"] == "data_usage_reset"


def marzneshin(action: str, **user: Any) -> dict[str, Any]:
    return {
        "created_at": 1795423342.0, "action": action, "by": None,
        "user": {"username": "alice", "key": "0123abcd", "enabled": True, "expired": False, "data_limit_reached": False,
                 "expire_strategy": "fixed_date", "expire_date": "2026-12-23T08:43:17", "subscription_url": "https://x/y/0123abcd",
                 "owner_username": "shop1", "used_traffic": 5, **user},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("action", "user", "wanted", "status"),
    [
        ("user_created", {}, "user_created", "active"),
        ("user_created", {"expire_strategy": "start_on_first_use", "expire_date": None}, "user_created", "on_hold"),
        ("user_activated", {}, "user_enabled", "active"),
        ("user_deactivated", {"expired": True}, "user_expired", "expired"),
        ("user_deactivated", {"data_limit_reached": True}, "user_limited", "limited"),
        ("user_deactivated", {"enabled": False, "expired": True}, "user_disabled", "disabled"),
        ("user_deactivated", {}, "user_disabled", "active"),
        ("user_disabled", {"enabled": False}, "user_disabled", "disabled"),
        ("user_teleported", {}, "user_teleported", "active"),
    ],
)
def test_marzneshins_actions_get_marzbans_names(action: str, user: dict[str, Any], wanted: str, status: str) -> None:
    """Receivers that know Marzban's events understand Marzneshin's, and can still see what it said."""
    one = taken(MARZNESHIN, marzneshin(action, **user))
    assert (one.event.action, one.event.username) == (wanted, "alice")
    assert one.fingerprint is None
    detail = one.event.detail
    assert detail["user"]["status"] == status
    assert detail["user"]["admin"] == {"username": "shop1"}
    assert detail.get("source_action", action) == action
    assert ("source_action" in detail) == (action != wanted)
    assert detail["source_enqueued_at"] == 1795423342.0
    assert "0123abcd" not in detail_json(detail)
    full = taken(MARZNESHIN, marzneshin(action, **user), credentials=True).event.detail["user"]
    assert full["proxies"] == {"marzneshin": {"key": "0123abcd"}}
    assert "key" not in full


def test_marzneshins_user_without_an_owner_is_nobodys() -> None:
    """Also in a table that had one for him; where the panel says nothing of owners, nothing is said."""
    detail = taken(MARZNESHIN, marzneshin("user_updated", owner_username=None)).event.detail
    assert detail["user"]["admin"] is None
    assert state("user_updated", detail) == {
        "deleted": False, "status": "active", "used_traffic": 5, "expire": 1798015397, "admin": None,
    }  # fmt: skip
    silent = marzneshin("user_updated")
    del silent["user"]["owner_username"]
    assert "admin" not in taken(MARZNESHIN, silent).event.detail["user"]


REMNAWAVE_USER = {
    "uuid": "7d1e", "shortUuid": "sHoRt", "username": "alice", "status": "LIMITED", "trafficLimitBytes": 0,
    "trafficLimitStrategy": "NO_RESET", "expireAt": "2026-12-23T08:43:17.000Z", "telegramId": 42, "description": "a note",
    "trojanPassword": "tRoJaN", "vlessUuid": "vLeSs", "ssPassword": "sHaDoW", "lastTriggeredThreshold": 80,
    "subscriptionUrl": "https://sub.example/sHoRt", "happ": {"cryptoLink": "happ://crypt3/hApP"},
    "userTraffic": {"usedTrafficBytes": 5, "lifetimeUsedTrafficBytes": 50, "onlineAt": None, "firstConnectedAt": None},
}  # fmt: skip


def remnawave(name: str, data: Any = REMNAWAVE_USER, **more: Any) -> dict[str, Any]:
    scope = name.partition(".")[0]
    return {"scope": scope, "event": name, "timestamp": "2026-11-23T08:43:17.123Z", "data": data, **more}


@pytest.mark.parametrize(
    ("name", "wanted", "extras"),
    [
        ("user.created", "user_created", {}),
        ("user.modified", "user_updated", {}),
        ("user.deleted", "user_deleted", {}),
        ("user.revoked", "subscription_revoked", {}),
        ("user.disabled", "user_disabled", {}),
        ("user.enabled", "user_enabled", {}),
        ("user.limited", "user_limited", {}),
        ("user.expired", "user_expired", {}),
        ("user.traffic_reset", "data_usage_reset", {}),
        ("user.bandwidth_usage_threshold_reached", "reached_usage_percent", {"used_percent": 80}),
        ("user.expires_in_72_hours", "reached_days_left", {"days_left": 3}),
        ("user.expires_in_48_hours", "reached_days_left", {"days_left": 2}),
        ("user.expires_in_24_hours", "reached_days_left", {"days_left": 1}),
        ("user.expired_24_hours_ago", "user.expired_24_hours_ago", {}),
        ("user.first_connected", "user.first_connected", {}),
    ],
)
def test_remnawaves_events_get_marzbans_names(name: str, wanted: str, extras: dict[str, Any]) -> None:
    """Receivers that know Marzban's events and user understand Remnawave's; what has no name there keeps its own."""
    one = taken(REMNAWAVE, remnawave(name, meta={"notConnectedAfterHours": None}))
    assert (one.event.action, one.event.username, one.dated) == (wanted, "alice", True)
    detail = one.event.detail
    assert {key: detail[key] for key in extras} == extras
    assert detail["source_enqueued_at"] == "2026-11-23T08:43:17.123Z"
    assert detail["meta"] == {"notConnectedAfterHours": None}
    user = detail["user"]
    assert (user["status"], user["expire"], user["data_limit"]) == ("limited", 1798015397, None)
    assert (user["used_traffic"], user["lifetime_used_traffic"], user["note"]) == (5, 50, "a note")
    assert (user["data_limit_reset_strategy"], user["uuid"], user["telegramId"]) == ("no_reset", "7d1e", 42)
    assert not {"sHoRt", "tRoJaN", "vLeSs", "sHaDoW", "hApP"} & set(detail_json(detail).replace("/", '"').split('"'))
    full = taken(REMNAWAVE, remnawave(name), credentials=True).event.detail["user"]
    keys = {"vless": {"id": "vLeSs"}, "trojan": {"password": "tRoJaN"}, "shadowsocks": {"password": "sHaDoW"}}
    assert full["proxies"] == keys
    assert full["subscription_url"] == "https://sub.example/sHoRt"
    assert full["happ"] == {"cryptoLink": "happ://crypt3/hApP"}


def test_remnawaves_reminder_names_the_days() -> None:
    """Newer versions say how many hours it is to the expiry."""
    one = taken(REMNAWAVE, remnawave("user.expiration", meta={"expiration": -48}))
    assert (one.event.action, one.event.detail["days_left"]) == ("reached_days_left", 2)
    after = taken(REMNAWAVE, remnawave("user.expiration", meta={"expiration": 24}))
    assert after.event.action == "user.expiration"


def test_remnawave_speaks_of_more_than_users() -> None:
    """Devices belong to their user; what belongs to none travels under its scope's name, without passwords."""
    device = taken(
        REMNAWAVE, remnawave("user_hwid_devices.added", {"user": REMNAWAVE_USER, "hwidUserDevice": {"hwid": "x"}})
    )
    assert (device.event.action, device.event.username) == ("user_hwid_devices.added", "alice")
    assert device.event.detail["data"] == {"hwidUserDevice": {"hwid": "x"}}
    node = taken(REMNAWAVE, remnawave("node.connection_lost", {"name": "nl-1"}))
    assert (node.event.action, node.event.username) == ("node.connection_lost", "remnawave-node")
    assert node.event.detail["data"] == {"name": "nl-1"}
    login = remnawave("service.login_attempt_failed", {"loginAttempt": {"username": "root", "password": "guess"}})
    assert taken(REMNAWAVE, login).event.detail["data"] == {"loginAttempt": {"username": "root"}}


def test_remnawaves_signature_is_verified() -> None:
    """Only who knows the secret can sign, and only this very body."""
    body = json.dumps(remnawave("user.created")).encode()
    good = {"x-remnawave-signature": signing.hex_hmac(SECRET, body)}
    assert REMNAWAVE.authentic(SECRET, good, body)
    assert not REMNAWAVE.authentic(SECRET, good, body + b" ")
    assert not REMNAWAVE.authentic(SECRET, {}, body)
    assert not REMNAWAVE.authentic(SECRET, {"x-webhook-secret": SECRET}, body)
    assert not REMNAWAVE.authentic("another", good, body)
