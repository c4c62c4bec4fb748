"""Killed at any moment, the service loses nothing that it has acknowledged."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from marzhook.testing import eventually
from receivers import Receiver, header_of
from service import Service

POINTS = (
    "publish.before_commit", "publish.after_commit", "window.read", "send.started", "send.answered",
    "settle.before_commit", "settle.after_commit",
)  # fmt: skip
KILLS = int(os.environ.get("KILLS", "50"))


@pytest.mark.timeout(400)
def test_fifty_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    """Events are posted without pause while the service is killed 50 times, at every named point in turn: each accepted
    event reaches each endpoint, in order per user; one that comes twice has the same id."""
    accepted: list[tuple[str, int]] = []
    numbers = itertools.count()
    with Receiver() as one, Receiver() as two:
        settings = {"WEBHOOK_ADDRESS": f"{one.url},{two.url}", "UVICORN_PORT": "0"}
        chance = random.Random(7)
        for kill in range(KILLS):
            point = f"{POINTS[kill % len(POINTS)]}:{chance.randrange(2, 12)}"
            with Service(tmp_path, point=point, **settings) as service:
                _load_until_dead(service, accepted, numbers)
                assert service.end() == -9
        with Service(tmp_path, **settings) as service:
            wanted = {number for _, number in accepted}
            for receiver in (one, two):
                eventually(
                    lambda r=receiver: wanted <= {event["number"] for event in r.accepted()},
                    timeout=60,
                    what="the arrival of every accepted event",
                )
            assert service.stop() == 0
        assert len(accepted) > KILLS
        for receiver in (one, two):
            _check_order(receiver, accepted)


def test_killed_while_migrating_it_starts_anew(tmp_path: Path) -> None:
    """A database that was half made when the power failed is made by the next start."""
    with Service(tmp_path, point="migrate.before_commit:1") as service:
        assert service.end() == -9
    with Receiver() as receiver, Service(tmp_path, WEBHOOK_ADDRESS=receiver.url) as service:
        assert service.call("POST", "/api/user", {"username": "anna", "proxies": {}})[0] == 200
        receiver.wait(1)
        assert service.stop() == 0


def test_killed_while_draining_it_sends_again_what_was_on_its_way(tmp_path: Path) -> None:
    """A stop that is cut short loses nothing either."""
    with Receiver() as receiver:
        receiver.do(mode="hang")
        with Service(tmp_path, point="dispatcher.draining:1", WEBHOOK_ADDRESS=receiver.url) as service:
            service.call("POST", "/api/user", {"username": "anna", "proxies": {}})
            (first,) = receiver.wait(1)
            assert service.stop() == -9
        receiver.do(status=200)
        with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url) as service:
            second = receiver.wait(2)[1]
            assert service.stop() == 0
    assert header_of(first, "webhook-id") == header_of(second, "webhook-id")


def _load_until_dead(service: Service, accepted: list[tuple[str, int]], numbers: itertools.count[int]) -> None:
    """Post until the service is gone; note what it acknowledged."""
    failed = threading.Event()

    def post(worker: int) -> None:
        while not failed.is_set():
            number = next(numbers)
            username = f"user{worker}"
            event = {"username": username, "action": "user_updated", "number": number}
            try:
                status, _ = service.call("POST", "/api/v1/events", event)
            except Exception:  # however it died
                failed.set()
                return
            if status == 202:
                accepted.append((username, number))

    workers = [threading.Thread(target=post, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _check_order(receiver: Receiver, accepted: list[tuple[str, int]]) -> None:
    """The first arrival of each event comes after those of all its user's earlier ones; copies have one id."""
    ids: dict[int, set[str]] = defaultdict(set)
    first: dict[str, list[int]] = defaultdict(list)
    for record in receiver.seen():
        headers = {key.lower(): value for key, value in record["headers"]}
        event = json.loads(record["body"])
        if event["number"] not in ids:
            first[event["username"]].append(event["number"])
        ids[event["number"]].add(headers["webhook-id"])
    assert all(len(found) == 1 for found in ids.values())
    for username, numbers in first.items():
        assert numbers == sorted(numbers), username
