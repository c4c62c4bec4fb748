"""A service in which much has happened, so that each page of the dashboard has something of everything to show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from marzhook.testing import eventually
from person import calls
from receivers import Receiver
from service import Service

EVIL = "<script>alert(1)</script>"
TURNED = "alice\u202egnp.exe"
LONG = "a_name_of_which_there_is_no_end_" + "x" * 88


@dataclass
class Eventful:
    """The service, and the addresses of its pages by what they show."""

    service: Service
    main: list[str]
    """One of each sort; the last is for who is not signed in."""
    paths: list[str]
    """All, in the order in which they can be opened."""
    wrong: dict[str, dict[str, str]]
    """What is written into the forms of some of these pages, and refused."""


@contextmanager
def eventful(folder: Path) -> Iterator[Eventful]:
    settings = {
        "MARZHOOK_REJECTED_SCHEDULE": "1",
        "MARZHOOK_ALLOW_ADDRESSES": "127.0.0.0/8",
        "MARZHOOK_ENDPOINT_CONCURRENCY": "1",
        "MARZHOOK_API_KINDS": "alert,sql,exec",
    }
    with Receiver() as well, Receiver() as choosy, Receiver() as ill, Service(folder, **settings) as service:
        ids = {
            name: calls(service, "POST", "/api/v1/endpoints", {"kind": "webhook", "url": url, "name": name, **more})["id"]
            for name, url, more in (
                ("shop", well.url + "hook", {"secret": "something-very-secret"}),
                ("choosy-crm", choosy.url, {"format": "standard", "signatures": "both"}),
                ("bot " + "of-a-very-long-name-" * 4, ill.url, {"actions": ["user_created", "user_updated"]}),
            )
        }  # fmt: skip
        shop, choosy_id, bot = ids.values()
        choosy.do(refuse="refused", status=200)
        ill.do(status=503, body="upstream is down, come back later " * 20)
        for user in _USERS:
            calls(service, "POST", "/api/user", user)
        calls(service, "POST", "/api/v1/usage", [{"username": "alice", "bytes": 13_000_000_000}])
        calls(service, "PUT", "/api/user/carol", {"status": "disabled"})
        for name in (EVIL, TURNED, LONG, "refused_one", "refused_two", "plain"):
            calls(service, "POST", "/api/v1/events", _event(name))
        eventually(lambda: _deliveries(service, choosy_id, "dead") >= 2, timeout=60, what="two dead letters")
        eventually(lambda: _deliveries(service, shop, "pending") == 0, timeout=60)
        paused = calls(
            service, "POST", "/api/v1/endpoints",
            {"kind": "discord", "url": "https://discord.com/api/webhooks/1/x", "name": "دیسکورد فروشگاه", "admins": [EVIL]},
        )["id"]  # fmt: skip
        calls(service, "POST", f"/api/v1/endpoints/{paused}/disable")
        others = [
            calls(service, "POST", "/api/v1/endpoints", {"kind": kind, "url": url, "enabled": False, "options": options})["id"]
            for kind, url, options in (
                ("telegram", "123456:" + "A" * 35, {"chat": -1001234567890, "chats": {"shop1": 5}, "language": "fa"}),
                ("alert", "mailto://user:word@mail.example", {"timezone": "Asia/Tehran"}),
                ("sql", "sqlite:////srv/users.db", {"prefix": "m_"}),
            )
        ]  # fmt: skip
        calls(service, "POST", "/api/v1/events", _event("waits_for_the_paused"))
        events = {one["username"]: one["id"] for one in calls(service, "GET", "/api/v1/events?limit=100")["events"]}
        main = [
            "/", "/endpoints", f"/endpoints/{bot}", "/endpoints/new", "/events", f"/events/{events['refused_one']}",
            "/dead?count=yes", "/users", "/users/new", "/user/alice", "/inbox", "/settings", "/sign-in",
        ]  # fmt: skip
        yield Eventful(
            service,
            main,
            [
                *main[:-1],
                f"/endpoints/{shop}", f"/endpoints/{paused}", f"/endpoints/{choosy_id}/edit",
                *(f"/endpoints/{other}/edit" for other in others),
                f"/events?username={quote(EVIL)}&state=pending", f"/events/{events[EVIL]}", f"/events/{events[LONG]}",
                "/dead", "/user/alice/edit", "/user/carol", "/events/999999", "/sign-in", "/docs",
            ],
            {
                "/endpoints/new": {"kind": "exec", "url": "exec:/no/such/program"},
                "/users/new": {"username": "a b", "note": LONG * 5},
            },
        )  # fmt: skip


_USERS: list[dict[str, Any]] = [
    {
        "username": "alice",
        "data_limit": 13_421_772_800,
        "note": "مشتری قدیمی، پرداخت با کارت",
        "proxies": {"vless": {}},
    },
    {"username": "bob_with_a_name_of_32_characters", "data_limit": 0, "expire": 1893456000, "proxies": {"vless": {}}},
    {"username": "carol", "data_limit": 1073741824, "note": EVIL, "proxies": {"vless": {}}},
]


def _event(username: str) -> dict[str, Any]:
    by = {"username": EVIL, "is_sudo": True}
    return {"username": username, "action": "user_updated", "by": by, "user": {"status": "active", "note": EVIL}}


def _deliveries(service: Service, endpoint: int, state: str) -> int:
    return len(calls(service, "GET", f"/api/v1/deliveries?endpoint={endpoint}&state={state}&limit=100")["deliveries"])
