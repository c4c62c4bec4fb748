"""What goes wrong around the engine: receivers, names, certificates, disks, locks and clocks that misbehave, all of them real.

Each leaves the engine healthy: other endpoints get theirs meanwhile, and when the trouble is over nothing is missing.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dispatching import CLOCK, House
from marzhook.clock import SystemClock
from marzhook.errors import StoreBusyError
from marzhook.retry import RetryPolicy
from marzhook.store import driver, endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import eventually
from processes import process, said
from receivers import Receiver
from service import Service
from tls_server import certificate, server_context, tls_receiver

USERS = 5
EVENTS = 40
LOCKED = float(os.environ.get("LOCKED", "0"))
"""Seconds for which another process locks the database of a running service; 0: that test is left out, for it is long."""


def memory() -> int:
    """Bytes that this process has had in memory at the most since `fresh_peak`."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def fresh_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return memory()


def sockets() -> int:
    """Those of TCP: a database may have others."""
    links = (os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink())
    tcp = {line.split()[9] for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]}
    return sum(link.removeprefix("socket:[").removesuffix("]") in tcp for link in links)


class Trouble:
    """A database with one endpoint in trouble beside one that is well, and events of a few users for both."""

    def __init__(self, house: House, well: Receiver, url: str) -> None:
        self.house, self._well = house, well
        self.sick = house.endpoint(url)
        house.endpoint(well.url)
        users = [f"user{i % USERS}" for i in range(EVENTS)]
        self.ids = house.publish(users)

    def answers(self) -> set[tuple[int | None, str | None]]:
        """What came of the tries at the endpoint in trouble."""
        with self.house.database.read() as conn:
            rows = driver.execute(conn, "SELECT status, error FROM attempts WHERE endpoint_id = ?", (self.sick.id,))
            return {(row[0], row[1]) for row in rows}

    def tries(self) -> int:
        return self.house.count("attempts", f"endpoint_id = {self.sick.id}")

    def the_other_one_is_served(self) -> None:
        self._well.wait(EVENTS, timeout=10)

    def move(self, url: str) -> None:
        """The operator corrects the address."""
        with self.house.database.write() as tx:
            endpoints.update(tx, self.sick.id, url=url)
            tx.after_commit(self.house.outbox.wake)

    def everything_arrives(self) -> None:
        """What was owed meanwhile, and what is published now."""
        self.house.publish(["user0"], n=EVENTS)
        eventually(lambda: self.house.count("pending") == 0, what="an empty backlog")
        assert self.house.states() == {"delivered": 2 * EVENTS + 2}
        assert len(self._well.seen()) == EVENTS + 1

    def in_order(self, receiver: Receiver) -> bool:
        events = receiver.accepted()
        of_user = [[e["n"] for e in events if e["username"] == f"user{i}"] for i in range(USERS)]
        return sum(map(len, of_user)) == EVENTS + 1 and all(numbers == sorted(numbers) for numbers in of_user)


# -- receivers


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("hang", {(None, "timeout")}), ("drip", {(None, "timeout")}), ("reset", {(None, "reset")}),
        ("close", {(None, "reset")}), ("garbage", {(None, "protocol"), (None, "reset")}),
    ],
)  # fmt: skip
def test_a_receiver_that_gives_no_whole_answer(
    house: House, receiver: Receiver, mode: str, wanted: set[tuple[None, str]]
) -> None:
    """No answer, one byte a second, cut off in the middle, no HTTP: the tries say so, and once the receiver has been
    mended it gets all it missed, in order."""
    with Receiver() as bad:
        bad.do(mode=mode)
        trouble = Trouble(house, receiver, bad.url)
        before = sockets()
        with house.dispatching(timeout=1.2) as dispatcher:
            trouble.the_other_one_is_served()
            eventually(lambda: trouble.tries() >= USERS)
            assert dispatcher.not_ready == []
            assert trouble.answers() <= wanted
            bad.do()
            trouble.everything_arrives()
            # No more than what is kept for the next requests.
            assert sockets() <= before + 2 * USERS
        assert trouble.in_order(bad)


@pytest.mark.parametrize("mode", ["huge", "endless"])
def test_a_response_without_end_costs_neither_time_nor_memory(house: House, receiver: Receiver, mode: str) -> None:
    """A gigabyte in answer to each of 40 requests, or answers that never end, are judged by their status: delivered, within
    seconds, in a few megabytes."""
    with Receiver() as bad:
        bad.do(mode=mode)
        trouble = Trouble(house, receiver, bad.url)
        before = fresh_peak()
        with house.dispatching(timeout=10.0) as dispatcher:
            trouble.the_other_one_is_served()
            trouble.everything_arrives()
            assert dispatcher.not_ready == []
        assert trouble.answers() == {(200, None)}
        assert memory() - before < 32 * 2**20


def test_a_connection_that_is_refused(house: House, receiver: Receiver) -> None:
    """A receiver that is down gets everything when it is up again, at the same port."""
    with socket.socket() as down:
        # Bound and not listening: nobody else gets the port, and whoever connects is refused.
        down.bind(("127.0.0.1", 0))
        port = down.getsockname()[1]
        trouble = Trouble(house, receiver, f"http://127.0.0.1:{port}/")
        with house.dispatching() as dispatcher:
            trouble.the_other_one_is_served()
            eventually(lambda: trouble.tries() >= USERS)
            assert dispatcher.not_ready == []
            assert trouble.answers() == {(None, "connect")}
            down.close()
            with Receiver(port) as up:
                trouble.everything_arrives()
                assert trouble.in_order(up)


def test_a_name_that_is_not_found(house: House, receiver: Receiver) -> None:
    """A look-up that fails takes nothing from the others, and everything goes to the address once it is corrected."""
    trouble = Trouble(house, receiver, "http://no-such-host.invalid/")
    with Receiver() as right, house.dispatching() as dispatcher:
        trouble.the_other_one_is_served()
        eventually(lambda: trouble.tries() >= USERS)
        assert dispatcher.not_ready == []
        assert trouble.answers() == {(None, "dns")}
        trouble.move(right.url)
        trouble.everything_arrives()
        assert trouble.in_order(right)


def test_a_certificate_that_is_wrong(house: House, receiver: Receiver, tmp_path: Path) -> None:
    """With a certificate for another name nothing is sent; once the receiver shows the right one, all of it is."""
    wrong, right = certificate(tmp_path / "wrong", "IP:127.0.0.9"), certificate(tmp_path / "right", "IP:127.0.0.1")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(wrong[0].read_bytes() + right[0].read_bytes())
    context = server_context(*wrong)
    with tls_receiver(context) as port:
        trouble = Trouble(house, receiver, f"https://127.0.0.1:{port}/")
        with house.dispatching(ca_file=str(trusted)) as dispatcher:
            trouble.the_other_one_is_served()
            eventually(lambda: trouble.tries() >= USERS)
            assert dispatcher.not_ready == []
            assert trouble.answers() == {(None, "tls")}
            context.load_cert_chain(*right)
            trouble.everything_arrives()


# -- the database


def test_a_database_that_another_process_locks(
    house: House, receiver: Receiver, reopen: Callable[..., Database], database_settings: dict[str, str]
) -> None:
    """While another process holds the write lock for longer than anybody's patience, what can be sent is sent, publishing
    is refused and says so, readiness tells why; afterwards all of it is settled, and nothing was sent twice."""
    impatient = reopen(busy_timeout=0.05)
    house = House(impatient, Outbox(impatient))
    house.endpoint(receiver.url)
    receiver.do(hold=True)
    house.publish([f"user{i % USERS}" for i in range(EVENTS)])
    with house.dispatching() as dispatcher:
        receiver.wait(USERS)
        with process("hold", database_settings) as child:
            assert said(child) == "holding"
            receiver.do()
            eventually(lambda: any("settling" in reason for reason in dispatcher.not_ready))
            with pytest.raises(StoreBusyError, match="nothing was changed"):
                house.publish(["late"])
            assert house.count("settled") == 0
        eventually(lambda: house.count("pending") == 0)
        eventually(lambda: dispatcher.not_ready == [])
    assert house.states() == {"delivered": EVENTS}
    numbers = [event["n"] for event in receiver.accepted()]
    assert sorted(numbers) == list(range(EVENTS))


@pytest.mark.skipif(not LOCKED, reason="LOCKED=60 makes it lock the database for 60 s")
@pytest.mark.timeout(LOCKED + 120)
def test_a_service_whose_database_is_locked_for_long(tmp_path: Path, receiver: Receiver) -> None:
    """As above, with the real service and its own patience: calls are answered in time, reading goes on, and what was
    accepted arrives once."""
    with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url) as service:
        event = {"username": "anna", "action": "user_updated"}
        receiver.do(hold=True)
        assert service.call("POST", "/api/v1/events", event)[0] == 202
        receiver.wait(1)
        with process("hold", {"MARZHOOK_DATABASE_URL": f"sqlite:///{tmp_path}/marzhook.db"}) as child:
            assert said(child) == "holding"
            receiver.do()
            until, refused, slowest = CLOCK.monotonic() + LOCKED, 0, 0.0
            callers = [threading.Thread(target=service.call, args=("POST", "/api/v1/events", event)) for _ in range(60)]
            for caller in callers:
                caller.start()
            while CLOCK.monotonic() < until:
                began = CLOCK.monotonic()
                assert service.call("GET", "/api/v1/events")[0] == 200
                slowest = max(slowest, CLOCK.monotonic() - began)
                status, answer = service.call("POST", "/api/v1/events", event)
                assert (status, answer["code"]) == (503, "store_busy")
                refused += 1
            assert service.call("GET", "/healthz")[0] == 200
            status, answer = service.call("GET", "/readyz")
            assert (status, "settling" in answer["reasons"][0]) == (503, True)
            print(f"refused {refused}, slowest read {slowest:.2f} s")
        for caller in callers:
            caller.join()
        eventually(lambda: service.call("GET", "/readyz")[0] == 200)
        assert service.call("POST", "/api/v1/events", event)[0] == 202
        receiver.wait(2)
        assert service.stop() == 0
    assert len(receiver.seen()) == 2


def test_a_disk_that_is_full(tmp_path: Path, receiver: Receiver) -> None:
    """Where nothing more can be written, calls are refused with `disk_full` and readiness says why; with room again the answer
    that had come is written, its event is not sent twice, and the service goes on as ever."""
    event = {"username": "anna", "action": "user_updated"}
    with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url) as service:
        service.token()
        receiver.do(hold=True)
        assert service.call("POST", "/api/v1/events", event)[0] == 202
        receiver.wait(1)
        pid = service.process.pid
        room = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # What a full disk does, without filling one: no file can be written any more.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, room[1]))
        receiver.do()
        status, answer = service.call("POST", "/api/v1/events", event)
        assert (status, answer["code"]) == (503, "disk_full")
        eventually(lambda: service.call("GET", "/readyz")[0] == 503)
        (reason,) = service.call("GET", "/readyz")[1]["reasons"]
        assert "settling" in reason
        assert "free some space" in reason
        assert service.call("GET", "/healthz")[0] == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, room)
        eventually(lambda: service.call("GET", "/readyz")[0] == 200)
        assert service.call("POST", "/api/v1/events", event)[0] == 202
        receiver.wait(2)
        assert service.stop() == 0
    assert len(receiver.seen()) == 2
    with closing(sqlite3.connect(tmp_path / "marzhook.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT state, count(*) FROM settled GROUP BY 1").fetchall() == [("delivered", 2)]


# -- the clock


class SetClock(SystemClock):
    """The machine's clocks, of which somebody sets the one on the wall."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


HOUR = timedelta(hours=1)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_clock_that_is_set_while_deliveries_wait(
    database: Database, outbox: Outbox, receiver: Receiver, ahead: timedelta
) -> None:
    """Set an hour forward or back while retries wait and a request is on its way, the wall clock neither hastens nor delays
    anything: each is tried again when its time has come."""
    clock = SetClock()
    house = House(database, outbox, clock)
    house.endpoint(receiver.url)
    receiver.do(status=500, hold=True)
    with house.dispatching(RetryPolicy((1.0,) * 9, jitter=0.0)) as dispatcher:
        house.publish(["anna", "bert"])
        receiver.wait(2)
        clock.ahead = ahead
        receiver.do(status=500)
        eventually(lambda: house.count("pending", "tries = 1") == 2)
        receiver.do()
        first, _, *again = receiver.wait(4, timeout=10)
        assert all(0.9 < record["at"] - first["at"] < 3 for record in again)
        clock.ahead = timedelta()
        house.publish(["anna"])
        eventually(lambda: house.count("pending") == 0)
        assert dispatcher.not_ready == []
    assert house.states() == {"delivered": 3}
