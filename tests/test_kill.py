"""Killed at any moment, the service loses nothing that it has acknowledged."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from marzhook.testing import eventually
from receivers import Receiver, events_of, header_of
from service import Service

POINTS = (
    "publish.before_commit", "publish.after_commit", "window.read", "send.started", "send.answered",
    "settle.before_commit", "settle.after_commit",
)  # fmt: skip
KILLS = int(os.environ.get("KILLS", "56"))
"""Of the long run; the short one dies at each point once in either form."""


@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize(
    ("form", "kills"),
    [
        ("event", len(POINTS)),
        ("list", len(POINTS)),
        pytest.param("event", KILLS - KILLS // 4, marks=pytest.mark.long),
        pytest.param("list", KILLS // 4, marks=pytest.mark.long),
    ],
)
def test_kills_under_load_lose_nothing(tmp_path: Path, form: str, kills: int) -> None:
    """Events are posted without pause while the service is killed again and again, at every named point in turn: each
    accepted event reaches each endpoint, in order per user, and what was posted together comes whole or not at all. Only
    what was on its way or answered and not yet settled comes twice, with the same id; in `event` form that is the event's."""
    load = Load()
    chance = random.Random(7)
    with Receiver() as one, Receiver() as two:
        stories = Story(one), Story(two)
        settings = {"WEBHOOK_ADDRESS": f"{one.url},{two.url}", "WEBHOOK_FORMAT": form}
        for kill in range(kills):
            point = f"{POINTS[kill % len(POINTS)]}:{chance.randrange(2, 12)}"
            with Service(tmp_path, point=point, **settings) as service:
                load.until_dead(service)
                assert service.end() == -9
            settled = settled_in(tmp_path / "marzhook.db", tmp_path / "copy")
            for endpoint_id, story in enumerate(stories, start=1):
                story.end_of_life(settled.get(endpoint_id, set()))
        with Service(tmp_path, **settings) as service:
            for receiver in (one, two):
                eventually(
                    lambda r=receiver: load.accepted <= {event["number"] for event in r.accepted()},
                    timeout=60,
                    what="the arrival of every accepted event",
                )
            assert service.stop() == 0
        for story in stories:
            story.end_of_life(set())
    assert len(load.accepted) > kills
    for story in stories:
        story.check(load, same_id=form == "event")
        print(f"{form}: {kills} kills, {len(load.accepted)} events accepted, {story.repeated} came again")


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


class Load:
    """Posts, a few at a time, until the service is gone; notes what it acknowledged."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.posted: list[range] = []
        """The numbers of what was posted together."""
        self.accepted: set[int] = set()

    def until_dead(self, service: Service) -> None:
        dead = threading.Event()
        workers = [threading.Thread(target=self._post, args=(service, f"user{i}", dead)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _post(self, service: Service, username: str, dead: threading.Event) -> None:
        while not dead.is_set():
            first = next(self._numbers)
            numbers = range(first * 3, first * 3 + 1 + first % 3)
            self.posted.append(numbers)
            events = [{"username": username, "action": "user_updated", "number": number} for number in numbers]
            try:
                status, _ = service.call("POST", "/api/v1/events", events)
            except Exception:  # however it died
                dead.set()
                return
            assert status == 202
            self.accepted.update(numbers)


class Story:
    """What one receiver was sent, life by life of the service."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._lives: list[list[dict[str, Any]]] = []
        self._settled: list[set[int]] = []
        self.repeated = 0

    def end_of_life(self, settled: set[int]) -> None:
        """The service is gone. `settled`: the numbers that are delivered to this receiver, as the disk has it."""
        eventually(lambda: self._receiver.connections() == 0)
        self._lives.append(self._receiver.seen(sum(map(len, self._lives))))
        self._settled.append(settled)

    def check(self, load: Load, *, same_id: bool) -> None:
        ids: dict[int, set[str | None]] = defaultdict(set)
        first: dict[str, list[int]] = defaultdict(list)
        done: set[int] = set()
        for life, settled in zip(self._lives, self._settled, strict=True):
            came: set[int] = set()
            for record in life:
                for event in events_of(record["body"]):
                    number = event["number"]
                    assert number not in done, "it came again though its settlement was on disk"
                    assert number not in came, "it came twice in one life of the service"
                    came.add(number)
                    if number in ids:
                        self.repeated += 1
                    else:
                        first[event["username"]].append(number)
                    ids[number].add(header_of(record, "webhook-id"))
            done |= settled
        assert not same_id or all(len(found) == 1 for found in ids.values())
        for username, numbers in first.items():
            assert numbers == sorted(numbers), username
        for together in load.posted:
            assert len(ids.keys() & together) in (0, len(together))


def settled_in(database: Path, copy: Path) -> dict[int, set[int]]:
    """The numbers that are delivered, by endpoint. Of a copy: whoever opens the file itself mends what the kill left."""
    shutil.copy(database, copy)
    shutil.copy(f"{database}-wal", f"{copy}-wal")
    found: dict[int, set[int]] = defaultdict(set)
    with closing(sqlite3.connect(copy)) as connection:
        query = "SELECT s.endpoint_id, e.detail ->> 'number' FROM settled s JOIN events e ON e.id = s.event_id"
        for endpoint_id, number in connection.execute(query):
            found[endpoint_id].add(number)
    return found
