"""Receivers built on the kit, fed by a real `marzhook run`, with kills on both sides."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from framework_process import FrameworkReceiver
from marzhook.testing import eventually
from receiver_frameworks import NAMES
from service import Service

SECRET = "something-very-very-secret"
USERS = 10
RETRIES = ",".join(["1"] * 30)


def publish(service: Service, numbers: list[int], **more: Any) -> bool:
    """Whether it was acknowledged; the service may die meanwhile."""
    events = [{"username": f"user{n % USERS}", "action": "user_updated", "number": n, **more} for n in numbers]
    try:
        return service.call("POST", "/api/v1/events", events)[0] == 202
    except Exception:  # however it died
        return False


def check(receiver: FrameworkReceiver, accepted: set[int]) -> None:
    """Every accepted event had its effect, none had it twice, and each user's came in order."""
    numbers = [number for _, _, _, number in receiver.effects() if number is not None]
    twice = {number: times for number, times in Counter(numbers).items() if times > 1}
    assert not twice, (receiver.framework, twice)
    assert accepted <= set(numbers), receiver.framework
    by_user: dict[int, list[int]] = defaultdict(list)
    for number in numbers:
        by_user[number % USERS].append(number)
    assert all(found == sorted(found) for found in by_user.values()), receiver.framework


@pytest.mark.timeout(240)
def test_effects_happen_once_behind_every_framework(tmp_path: Path) -> None:
    """Every receiver is killed once, in a transaction or between its commit and its answer, and so is the service, before
    it has settled: at each of them every accepted event has its effect exactly once, in order per user."""
    accepted: set[int] = set()
    with ExitStack() as stack:
        receivers = []
        for name, kill in zip(NAMES, itertools.cycle(["handler:7", "answer:9"]), strict=False):
            (folder := tmp_path / name).mkdir()
            receivers.append(stack.enter_context(FrameworkReceiver(name, folder, SECRET, kill=kill)))
        settings = {
            "WEBHOOK_ADDRESS": ",".join(receiver.url for receiver in receivers), "WEBHOOK_SECRET": SECRET,
            "MARZHOOK_RETRY_SCHEDULE": RETRIES, "MARZHOOK_ENDPOINT_CONCURRENCY": "4",
        }  # fmt: skip
        with Service(tmp_path, point="settle.before_commit:3", **settings) as service:
            for start in itertools.count(step=USERS):
                numbers = list(range(start, start + USERS))
                if not publish(service, numbers):
                    break
                accepted.update(numbers)
            assert service.end() == -9
        with Service(tmp_path, **settings) as service:
            more = list(range(start + USERS, start + USERS * 11))
            assert publish(service, more)
            accepted.update(more)
            for receiver in receivers:
                assert receiver.end() == -9
                receiver.start()
            for receiver in receivers:
                eventually(
                    lambda r=receiver: accepted <= {effect[3] for effect in r.effects()},
                    timeout=90, what=f"every effect at {receiver.framework}",
                )  # fmt: skip
            assert service.stop() == 0
        for receiver in receivers:
            check(receiver, accepted)


@pytest.mark.timeout(240)
def test_lists_survive_kills_at_any_moment(tmp_path: Path) -> None:
    """Signed lists, their receiver killed again and again while they come: exactly once, in order, though a list that comes
    again may be cut differently."""
    (folder := tmp_path / "receiver").mkdir()
    with Service(tmp_path, MARZHOOK_RETRY_SCHEDULE=RETRIES, MARZHOOK_ALLOW_ADDRESSES="127.0.0.0/8") as service:
        # The secret is known once the endpoint is made, and the receiver's port before: so it is made for a placeholder.
        placeholder = {"url": "http://127.0.0.1:9/", "format": "list", "enabled": False}
        status, endpoint = service.call("POST", "/api/v1/endpoints", placeholder)
        assert status == 201
        with FrameworkReceiver("asgi", folder, endpoint["signing_secret"]) as receiver:
            path = f"/api/v1/endpoints/{endpoint['id']}"
            assert service.call("PATCH", path, {"url": receiver.url})[0] == 200
            assert service.call("POST", f"{path}/enable")[0] == 200
            accepted: set[int] = set()
            for kill in range(4):
                numbers = list(range(kill * 200, kill * 200 + 200))
                assert publish(service, numbers)
                accepted.update(numbers)
                before = len(receiver.effects())
                eventually(lambda n=before: len(receiver.effects()) > n, timeout=30, what="something of it")
                receiver.kill()
                receiver.start()
                if kill < 3:
                    # Another address is not judged by what was, and so not waited for as after the last kill.
                    assert service.call("PATCH", path, {"url": f"{receiver.url}?life={kill}"})[0] == 200
            eventually(lambda: accepted <= {e[3] for e in receiver.effects()}, timeout=60, what="every effect")
            check(receiver, accepted)
        assert service.stop() == 0


@pytest.mark.timeout(120)
def test_one_bad_event_of_a_list_is_dead_alone(tmp_path: Path) -> None:
    """A list holds an event that its receiver refuses: the others have their effect once and are delivered; it alone is
    dead, with the receiver's reason, and its user's later event follows."""
    (folder := tmp_path / "receiver").mkdir()
    with FrameworkReceiver("fastapi", folder, SECRET) as receiver:
        settings = {
            "WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": SECRET, "WEBHOOK_FORMAT": "list",
            "MARZHOOK_REJECTED_SCHEDULE": "1,1",
        }  # fmt: skip
        with Service(tmp_path, **settings) as service:
            assert publish(service, [0])
            eventually(lambda: len(receiver.effects()) == 1)
            names = [f"user{n}" for n in range(30)]
            names[20:20] = ["refused", "refused"]
            actions = ["user_created"] * 21 + ["user_limited"] * 11
            events = [
                {"username": name, "action": action, "number": n}
                for n, (name, action) in enumerate(zip(names, actions, strict=True), start=100)
            ]
            assert service.call("POST", "/api/v1/events", events)[0] == 202

            def states() -> Counter[str]:
                deliveries = service.call("GET", "/api/v1/deliveries?limit=100")[1]["deliveries"]
                return Counter(delivery["state"] for delivery in deliveries)

            eventually(lambda: states() == {"delivered": 32, "dead": 1}, timeout=60, what="the end of them all")
            numbers = sorted(effect[3] for effect in receiver.effects())
            assert numbers == [0, *(n for n in range(100, 132) if n != 120)]
            (dead,) = service.call("GET", "/api/v1/deliveries?state=dead")[1]["deliveries"]
            assert (dead["event"]["username"], dead["event"]["action"]) == ("refused", "user_created")
            path = f"/api/v1/deliveries/{dead['endpoint_id']}/{dead['event_id']}"
            assert "not one of ours" in service.call("GET", path)[1]["attempt_log"][-1]["response"]
            assert service.stop() == 0
