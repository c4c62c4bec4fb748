"""Remnawave: one object a request, `{scope, event, timestamp, data, meta}`, signed (read from the panel).

A retry is the same body again, up to three times, 5 s apart; `timestamp` (milliseconds) is the event's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from marzhook import event, signing
from marzhook.errors import InvalidError
from marzhook.event import JSON
from marzhook.sources.panels.base import Panel, Reading, detail_of, field_of, unix_of

ACTIONS: Final = {
    "user.created": event.USER_CREATED,
    "user.modified": event.USER_UPDATED,
    "user.deleted": event.USER_DELETED,
    "user.limited": event.USER_LIMITED,
    "user.expired": event.USER_EXPIRED,
    "user.disabled": event.USER_DISABLED,
    "user.enabled": event.USER_ENABLED,
    "user.traffic_reset": event.DATA_USAGE_RESET,
    "user.revoked": event.SUBSCRIPTION_REVOKED,
    "user.bandwidth_usage_threshold_reached": event.REACHED_USAGE_PERCENT,
    "user.expires_in_72_hours": event.REACHED_DAYS_LEFT,
    "user.expires_in_48_hours": event.REACHED_DAYS_LEFT,
    "user.expires_in_24_hours": event.REACHED_DAYS_LEFT,
}
"""Any other event keeps its name, such as `user.first_connected` or `node.connection_lost`."""
_DAYS_LEFT: Final = {"user.expires_in_72_hours": 3, "user.expires_in_48_hours": 2, "user.expires_in_24_hours": 1}
_EXPIRATION: Final = "user.expiration"
"""Since 3.x: `meta.expiration` hours after the expiry; below 0, before it."""

FIELDS: Final = {
    "trafficLimitBytes": "data_limit",
    "trafficLimitStrategy": "data_limit_reset_strategy",
    "expireAt": "expire",
    "description": "note",
    "subLastUserAgent": "sub_last_user_agent",
    "subLastOpenedAt": "sub_updated_at",
    "createdAt": "created_at",
    "updatedAt": "edited_at",
    "subscriptionUrl": "subscription_url",
}
"""A user's field -> Marzban's. `userTraffic` and the credentials are taken apart below; what is not named keeps its name."""
_TRAFFIC: Final = {
    "usedTrafficBytes": "used_traffic",
    "lifetimeUsedTrafficBytes": "lifetime_used_traffic",
    "onlineAt": "online_at",
}
_PROXIES: Final = {
    "vlessUuid": ("vless", "id"),
    "trojanPassword": ("trojan", "password"),
    "ssPassword": ("shadowsocks", "password"),
}
_SUBSCRIPTION: Final = "shortUuid"
"""The secret part of the subscription's URL, which has it too."""
_HAPP: Final = "happ"
"""Before 2.4: a link that has the subscription's URL in it, encrypted for one app that opens it for anybody."""
_OWN: Final = frozenset({"scope", "event", "timestamp", "data"})


class Remnawave(Panel):
    name: ClassVar[str] = "remnawave"
    credentials: ClassVar[frozenset[str]] = frozenset({*_PROXIES, _SUBSCRIPTION, _HAPP, "subscriptionUrl"})
    signs: ClassVar[bool] = True

    def authentic(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        # The timestamp's header is not signed; the body's timestamp is.
        return signing.same(headers.get("x-remnawave-signature", ""), signing.hex_hmac(secret, body))

    def read(self, item: dict[str, JSON]) -> Reading:
        sent, data = field_of(item, "event"), item.get("data")
        detail = detail_of(item, without=_OWN)
        scope = item.get("scope")
        user = _user_in(scope, sent, data)
        if user is not None:
            username = field_of(user, "username")
            detail["user"] = _user(user)
            # What comes beside the user, of a device for example.
            if user is not data and isinstance(data, dict):
                detail["data"] = {name: value for name, value in data.items() if name != "user"}
        elif isinstance(scope, str):
            # Nodes, logins, bills. The scope stands for a user, so that these too arrive in order.
            username, detail["data"] = f"remnawave-{scope}", data
        else:
            raise InvalidError("there is neither a user nor a scope", code="invalid_scope")
        action, extras = _action(sent, item.get("meta"), user)
        detail |= extras
        if action != sent:
            detail["source_action"] = sent
        if "timestamp" in item:
            detail["source_enqueued_at"] = item["timestamp"]
        return Reading(action, username, detail, identity=item, dated="timestamp" in item)


def _user_in(scope: JSON, sent: JSON, data: JSON) -> dict[str, JSON] | None:
    """The user of whom this speaks: all of the data, or a part of it."""
    if not isinstance(data, dict):
        return None
    if isinstance(data.get("user"), dict):
        return data["user"]  # type: ignore[no-any-return]
    # Before 2.1 there was no scope.
    of_user = scope == "user" or (scope is None and isinstance(sent, str) and sent.startswith("user."))
    return data if of_user else None


def _action(sent: JSON, meta: JSON, user: JSON) -> tuple[JSON, dict[str, JSON]]:
    """Marzban's action, and the extras that it has there."""
    if not isinstance(sent, str):
        return sent, {}
    if sent in _DAYS_LEFT:
        return ACTIONS[sent], {"days_left": _DAYS_LEFT[sent]}
    hours = meta.get("expiration") if isinstance(meta, dict) else None
    if sent == _EXPIRATION and type(hours) is int and hours < 0:
        return event.REACHED_DAYS_LEFT, {"days_left": -hours // 24}
    action = ACTIONS.get(sent, sent)
    if action == event.REACHED_USAGE_PERCENT and isinstance(user, dict):
        percent = user.get("lastTriggeredThreshold")
        if type(percent) in (int, float):
            return action, {"used_percent": percent}
    return action, {}


def _user(user: dict[str, JSON]) -> dict[str, JSON]:
    """Marzban's names and types where there are any, the panel's own fields behind them."""
    mapped: dict[str, JSON] = {}
    own: dict[str, JSON] = {}
    proxies: dict[str, JSON] = {}
    for name, value in user.items():
        if name in FIELDS:
            mapped[FIELDS[name]] = value
        elif name in _PROXIES:
            kind, part = _PROXIES[name]
            proxies[kind] = {part: value}
        elif name == "userTraffic" and isinstance(value, dict):
            mapped |= {to: value[traffic] for traffic, to in _TRAFFIC.items() if traffic in value}
            rest = {traffic: part for traffic, part in value.items() if traffic not in _TRAFFIC}
            if rest:
                own[name] = rest
        elif name in _TRAFFIC:  # before 2.3 they stood in the user
            mapped[_TRAFFIC[name]] = value
        elif name != _SUBSCRIPTION:
            own[name] = value
    for name in ("status", "data_limit_reset_strategy"):
        place = own if name == "status" else mapped
        if isinstance(place.get(name), str):
            place[name] = place[name].lower()
    if "expire" in mapped:
        mapped["expire"] = unix_of(mapped["expire"])
    if mapped.get("data_limit") == 0:
        mapped["data_limit"] = None
    if proxies:
        mapped["proxies"] = proxies
    return mapped | own
