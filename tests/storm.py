"""What is sent through a service while parts of it are killed: a load over the API, and a check of all that arrived."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from types import TracebackType
from typing import Any

from marzhook.event import SHARDS, shard_of
from marzhook.store import endpoints
from marzhook.store.database import Database
from receivers import Receiver
from service import Service

LANES = 4
"""Threads that post, each for users of its own."""
REPEAT_AFTER = 0.2
"""Seconds after which a call that was not accepted is made again."""
SETTLED = """
    SELECT e.username, (e.detail::json ->> 'number')::integer, s.settled_at
    FROM settled s JOIN events e ON e.id = s.event_id WHERE s.state = 'delivered' AND s.endpoint_id ="""


class Load:
    """Posts an event of each of `users` every `every` seconds, each user's numbered from 0, `rounds` times or until it is
    stopped. What is not accepted is posted again with the same Idempotency-Key, until it is."""

    def __init__(self, service: Service, *, users: int, every: float, rounds: int | None = None) -> None:
        self._service = service
        self._every = every
        self._limit = rounds
        self._stopped = threading.Event()
        self._names = [[f"user{n}" for n in range(lane, users, LANES)] for lane in range(LANES)]
        self.accepted: dict[str, int] = dict.fromkeys(itertools.chain(*self._names), 0)
        """How many events of each user were."""
        self.repeated = 0
        """Calls that were made again."""
        service.token()
        self._threads = [threading.Thread(target=self._post, args=(names,), daemon=True) for names in self._names]
        for thread in self._threads:
            thread.start()

    @property
    def total(self) -> int:
        return sum(self.accepted.values())

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Post nothing new; what was not accepted yet is repeated until it is."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a call was not accepted within two minutes"

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit = 0
        self._stopped.set()

    def _post(self, names: Sequence[str]) -> None:
        begun = time.monotonic()
        for number in itertools.count():
            if self._stopped.wait(max(0.0, begun + number * self._every - time.monotonic())):
                return
            if self._limit is not None and number >= self._limit:
                return
            body = [{"username": name, "action": "user_updated", "number": number} for name in names]
            if not self._accepted(body, key=f"{names[0]}-{number}"):
                return
            self.accepted.update(dict.fromkeys(names, number + 1))

    def _accepted(self, body: list[dict[str, Any]], key: str) -> bool:
        pause = threading.Event()
        while self._limit != 0:
            with suppress(OSError, HTTPException):
                status, answer = self._service.call("POST", "/api/v1/events", body, key=key)
                if status == 202:
                    return True
                assert status == 503, answer
            self.repeated += 1
            pause.wait(REPEAT_AFTER)
        return False


@dataclass
class Blow:
    """Something was killed: what was on its way to users of `shards` may come again. Unix seconds."""

    begin: float
    end: float
    shards: frozenset[int] = frozenset(range(SHARDS))


@dataclass
class Report:
    arrived: int = 0
    repeated: int = 0
    in_flight: int = 0
    """At the blows: had arrived, and was not settled."""
    longest_silence: float = 0.0
    """Seconds in which nothing arrived at the receiver, at the most."""
    silences: list[float] = field(default_factory=list)
    """That around each blow."""


def check(database: Database, receiver: Receiver, load: Load, blows: Sequence[Blow]) -> Report:
    """All that was accepted arrived, in order per user; what came again has the same id, and was on its way at a blow."""
    came: dict[tuple[str, int], list[float]] = defaultdict(list)
    ids: dict[str, tuple[str, int]] = {}
    last: dict[str, int] = defaultdict(lambda: -1)
    newest: dict[str, int] = defaultdict(lambda: -1)
    moments: list[float] = []
    for record in receiver.seen():
        name, number, at = record["username"], record["number"], record["at"]
        assert record["answered"] == 200
        # One after the other; or from one on that was not settled, and then again one after the other.
        assert number == last[name] + 1 or (number <= last[name] and (name, number) in came), (record, last[name])
        last[name] = number
        newest[name] = max(number, newest[name])
        came[name, number].append(at)
        assert ids.setdefault(record["id"], (name, number)) == (name, number), "one id for two events"
        moments.append(at)
    assert len(ids) == len(came), "an event came again with another id"
    assert {name: number + 1 for name, number in newest.items()} == load.accepted
    with database.read() as conn:
        endpoint = next(one.id for one in endpoints.all_endpoints(conn) if one.url == receiver.url)
        rows = conn.exec_driver_sql(f"{SETTLED} {endpoint}")
        settled = {(name, number): at for name, number, at in rows}
    assert settled.keys() == came.keys()
    report = Report(arrived=len(moments), repeated=len(moments) - len(came))
    for (name, number), times in came.items():
        shard = shard_of(name)
        ended = settled[name, number]
        report.in_flight += sum(shard in blow.shards and times[0] <= blow.end and ended >= blow.begin for blow in blows)
        assert ended >= times[-1], (name, number, "came again though it was settled")
        for before, again in itertools.pairwise(times):
            assert any(shard in blow.shards and before <= blow.end and again >= blow.begin for blow in blows), (
                name,
                number,
                shard,
                before,
                again,
                "came again though nobody who sent it was killed",
            )
    moments.sort()
    gaps = [(end - begin, begin, end) for begin, end in itertools.pairwise(moments)]
    report.longest_silence = max(gaps)[0]
    report.silences = [
        max((gap for gap, begin, end in gaps if begin <= blow.end and end >= blow.begin), default=0.0) for blow in blows
    ]
    return report


def now() -> float:
    return time.time()
