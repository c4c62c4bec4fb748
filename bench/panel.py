"""How long a panel waits that sends what it has kept back: 10,000 events in one request of 10 MB, on disk when it is answered.

Against the real service process, with two endpoints that are owed all of it and disabled, so that nothing else has the
processor. The events are as Marzban writes them, each with its user and his links. Each round sends new ones, and once more
the same, as the panel does when it did not get the answer.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.service import Client, Service
from marzhook.cli.bench import SECRET, fill, settings_for

EVENTS = 10_000


def measure(options: Options) -> Measured:
    new, again, processor, size = [], [], [], 0
    for number in range(options.rounds):
        with _service() as service:
            client = service.client()
            body = json.dumps([_event(n, tries=0, start=number) for n in range(EVENTS)]).encode()
            retry = json.dumps([_event(n, tries=1, start=number) for n in range(EVENTS)]).encode()
            size = len(body)
            before = service.processor()
            new.append(_seconds(client, body, accepted=EVENTS))
            processor.append(service.processor() - before)
            again.append(_seconds(client, retry, accepted=0))
            client.close()
    what = f"{EVENTS:,} events, {size / 1e6:.1f} MB"
    return Measured(
        [
            Figure.of(f"POST /ingest/marzban, {what}", new, "s", at_most=2),
            Figure.of("of which the service computes", processor, "s"),
            Figure.of("the same once more, all of them known", again, "s", at_most=2),
        ]
    )


def _seconds(client: Client, body: bytes, *, accepted: int) -> float:
    begun = time.perf_counter()
    answer = json.loads(client.call("POST", "/ingest/marzban", body, **{"x-webhook-secret": SECRET}))
    taken = time.perf_counter() - begun
    if answer != {"accepted": accepted, "duplicates": EVENTS - accepted, "rejected": 0}:
        raise RuntimeError(f"the service took {answer}")
    return taken


def _event(number: int, *, tries: int, start: int) -> dict[str, Any]:
    """As the panel writes it: about 1,100 bytes."""
    username = f"user{number}"
    admin = {"username": "shop1", "is_sudo": True, "telegram_id": None, "discord_webhook": None, "users_usage": number}
    user = {
        "proxies": {"vless": {"id": f"35e4e39c-7d5c-4f4b-8b71-{number:012x}", "flow": ""}}, "expire": 1798015397,
        "data_limit": 10737418240, "data_limit_reset_strategy": "no_reset", "inbounds": {"vless": ["VLESS TCP"]},
        "note": None, "sub_updated_at": None, "sub_last_user_agent": None, "online_at": None,
        "on_hold_expire_duration": None, "on_hold_timeout": None, "auto_delete_in_days": None, "next_plan": None,
        "username": username, "status": "active", "used_traffic": number, "lifetime_used_traffic": number,
        "created_at": "2026-11-23T08:43:17.961009", "subscription_url": f"/sub/YWxpY2UsMTc5NTQyMzQwMgEh4Y6wR5{number}",
        "links": [f"vless://35e4e39c-7d5c-4f4b-8b71-{number:012x}@203.0.113.9:21001?security=none&type=tcp#{username}"],
        "excluded_inbounds": {"vless": []}, "admin": admin,
    }  # fmt: skip
    return {
        "enqueued_at": 1795423342.0 + start, "send_at": 1795423342.0 + 180 * tries, "tries": tries, "username": username,
        "action": "user_updated", "by": admin, "user": user,
    }  # fmt: skip


@contextmanager
def _service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as one, receiver() as two:
        folder = Path(made)
        fill(settings_for(folder, one.url, two.url), 1)
        with Service(folder, one.url, two.url) as service:
            client = service.client()
            for endpoint in (1, 2):
                client.call("POST", f"/api/v1/endpoints/{endpoint}/disable")
            client.close()
            yield service
