"""Workers and the server die under load, and nothing is lost, comes in another order or comes again without need.

The full size is `make test-long`.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from dispatching import House
from marzhook.event import SHARDS
from marzhook.testing import eventually
from postgresql import Server
from receivers import Receiver
from service import Service
from storm import Blow, Load, check, now
from workers import Start, WorkerProcess, shards_of, shares

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(300)]

KILL_EVERY = 1.0
"""Seconds."""


@pytest.mark.parametrize(
    ("users", "rounds", "every", "kills"),
    [
        pytest.param(100, 20, 0.4, 4, id="small"),
        pytest.param(1_000, 100, 0.5, 6, id="full", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_a_worker_killed_every_second_and_a_restart_of_the_server(
    tmp_path: Path,
    house: House,
    database_settings: dict[str, str],
    start: Start,
    postgresql: Server,
    users: int,
    rounds: int,
    every: float,
    kills: int,
) -> None:
    """Four workers, three endpoints; the load comes over the API of a process that does not send. Each second a worker is
    killed and replaced, and in between the server restarts as after a crash. Everything arrives everywhere, in order per
    user; only what was on its way to the killed one's users comes again, with the same id."""
    events = users * rounds
    with ExitStack() as stack:
        receivers = [stack.enter_context(Receiver()) for _ in range(3)]
        for receiver in receivers:
            receiver.do(brief=True)
        addresses = ",".join(receiver.url for receiver in receivers)
        service = stack.enter_context(
            Service(tmp_path, "--no-dispatch", WEBHOOK_ADDRESS=addresses, **database_settings)
        )
        workers = [start() for _ in range(4)]
        eventually(lambda: shares(house.database) == [SHARDS // 4] * 4, timeout=60)
        begun = now()
        load = stack.enter_context(Load(service, users=users, rounds=rounds, every=every))
        blows: list[Blow] = []
        clock = threading.Event()
        restarted, settled = False, 0
        while not (len(blows) > kills and restarted and load.done and house.count("pending") == 0):
            clock.wait(KILL_EVERY)
            # On a machine where a worker takes longer than that to start, nobody would ever get to send.
            eventually(lambda seen=settled: house.count("settled") > seen or house.count("pending") == 0, timeout=30)
            settled = house.count("settled")
            blows.append(kill_eldest(house, workers))
            workers.append(start())
            if not restarted and len(blows) > kills // 2 and house.count("settled") > events:
                restarted = True
                # Who is only just starting ends with an error when there is no server, and nobody starts him again here.
                eventually(lambda: len(house.database.workers()) == len(workers), timeout=60)
                blows.append(restart(house, postgresql))
        took = now() - begun
        load.stop()
        reports = [check(house.database, receiver, load, blows) for receiver in receivers]
        eventually(lambda: shares(house.database) == [SHARDS // 4] * 4, timeout=60)
        assert [worker.end() for worker in workers] == [0] * 4
        assert service.stop() == 0
    assert load.total == events
    assert house.states() == {"delivered": 3 * events}
    print(
        f"{events} events of {users} users to 3 endpoints in {took:.0f} s, {len(blows) - 1} kills and a restart:"
        f" {sum(r.arrived for r in reports)} requests, {sum(r.repeated for r in reports)} came again"
        f" (of {sum(r.in_flight for r in reports)} on their way), {load.repeated} calls repeated,"
        f" at most {max(r.longest_silence for r in reports):.1f} s of silence"
    )


def kill_eldest(house: House, workers: list[WorkerProcess]) -> Blow:
    """The worker that has lived longest. Frozen first, so that what it holds is known."""
    worker = workers.pop(0)
    worker.freeze()
    shards = shards_of(house.database, worker.told)
    worker.kill()
    # What it had written to the socket may be read a little later.
    return Blow(now(), now() + 0.5, frozenset(shards))


def restart(house: House, server: Server) -> Blow:
    """Until all shards are held again, what is sent may come again: nobody can settle."""
    begin = now()
    server.restart()
    eventually(lambda: sum(shares(house.database)) == SHARDS, timeout=60)
    return Blow(begin, now())
