"""What becomes of commands: real processes, well-behaved and not, through the transport that the dispatcher uses."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dispatching import House
from marzhook.clock import SystemClock
from marzhook.delivery import Delivery, Verdict
from marzhook.destinations.exec import Exec
from marzhook.endpoint import Endpoint, masked_url
from marzhook.errors import InvalidError
from marzhook.event import Event, detail_json
from marzhook.request import MAX_RESPONSE, Job, Response, Rows
from marzhook.testing import eventually
from marzhook.transport.carriers import Carriers
from marzhook.transport.local import GRACE, MAX_HUNG
from receivers import Receiver

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = Event(7, "user_created", "alice 'x'; $(id)", 1680506457.5, detail_json({"user": {"status": "active"}}))


@pytest.fixture
def carriers(tmp_path: Path) -> Iterator[Carriers]:
    carriers = Carriers(SystemClock(), programs=[str(tmp_path), "/bin/sh"])
    yield carriers
    carriers.close()


def script(folder: Path, text: str, name: str = "told") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def send(carriers: Carriers, url: str, *, timeout: float = 10.0, token: object = None) -> Exec:
    target = Exec(Endpoint(1, "x", "exec", Exec.checked_url(url)), instance="i", timeout=timeout)
    items = [target.item(Delivery(1, EVENT, 2), NOW)]
    carriers.send(target.request(items, [7], NOW, mode=target.mode(items)), token)
    return target


def answer(carriers: Carriers) -> Response:
    [response] = answers(carriers, 1)
    return response


def answers(carriers: Carriers, count: int, timeout: float = 20.0) -> list[Response]:
    deadline = time.monotonic() + timeout
    found: list[Response] = []
    while len(found) < count:
        assert time.monotonic() < deadline, "no answer came"
        found += [response for _, response in carriers.poll(0.5)]
    return found


def gone(pid: int) -> bool:
    """Whether it has ended, or only waits to be asked how."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_a_command_gets_the_event(carriers: Carriers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its input and in its environment, its arguments as they were written, and nothing of the service's secrets."""
    monkeypatch.setenv("WEBHOOK_SECRET", "hush")
    program = script(tmp_path, f'cat > {tmp_path}/in; env > {tmp_path}/env; printf "%s|" "$@" > {tmp_path}/args')
    target = send(carriers, f"exec:{program} --to 'a b' $HOME")
    response = answer(carriers)
    assert response.status == 0
    assert target.judge(response, NOW).verdict is Verdict.ACCEPTED
    assert (tmp_path / "in").read_text() == target.item(Delivery(1, EVENT, 2), NOW)
    assert (tmp_path / "args").read_text() == "--to|a b|$HOME|"
    environment = (tmp_path / "env").read_text()
    assert "MARZHOOK_EVENT_ID=msg_i_7\n" in environment
    assert "MARZHOOK_EVENT_USERNAME=alice 'x'; $(id)\n" in environment
    assert "MARZHOOK_EVENT_TRIES=2\n" in environment
    assert "hush" not in environment


@pytest.mark.parametrize(("status", "verdict"), [(1, Verdict.FAILED), (65, Verdict.REJECTED), (127, Verdict.FAILED)])
def test_a_failure_tells_its_status_and_what_it_said(
    carriers: Carriers, tmp_path: Path, status: int, verdict: Verdict
) -> None:
    """What stands on stderr is the answer."""
    target = send(carriers, str(script(tmp_path, f"echo no >&2; exit {status}")))
    response = answer(carriers)
    assert (response.status, response.body) == (status, b"no\n")
    assert target.judge(response, NOW).verdict is verdict


def test_a_hanging_command_is_killed_with_all_that_it_started(carriers: Carriers, tmp_path: Path) -> None:
    """Its children, too, also those that ignore what they can ignore."""
    program = script(tmp_path, f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/me; wait")
    send(carriers, str(program), timeout=1.0)
    response = answer(carriers)
    assert response.error == "timeout"
    assert 1.0 <= response.duration < 1.0 + GRACE
    eventually(lambda: gone(int((tmp_path / "child").read_text())))
    eventually(lambda: gone(int((tmp_path / "me").read_text())))


def test_huge_output_is_read_and_forgotten(carriers: Carriers, tmp_path: Path) -> None:
    """A command that says a lot neither blocks nor fills the memory; the end of it is kept, which says why it failed."""
    program = script(
        tmp_path, "head -c 20000000 /dev/zero | tr '\\0' x >&2; head -c 20000000 /dev/zero; echo why >&2; exit 3"
    )
    send(carriers, str(program))
    response = answer(carriers)
    assert (response.status, response.body) == (3, b"x" * (MAX_RESPONSE - 4) + b"why\n")


def test_who_does_not_read_and_leaves_somebody_behind_is_done_all_the_same(carriers: Carriers, tmp_path: Path) -> None:
    """Input that nobody reads is no failure, and a child that holds stderr open keeps nobody waiting."""
    began = time.monotonic()
    send(carriers, str(script(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child")))
    assert answer(carriers).status == 0
    assert time.monotonic() - began < 5
    os.kill(int((tmp_path / "child").read_text()), 9)


@pytest.mark.parametrize("program", ["/usr/bin/env", "{}/../../bin/ls", "{}/link", "{}/missing"])
def test_only_what_is_allowed_is_run(carriers: Carriers, tmp_path: Path, program: str) -> None:
    """Whatever a path looks like, it is where it leads that counts."""
    (tmp_path / "link").symlink_to("/usr/bin/env")
    send(carriers, program.format(tmp_path))
    response = answer(carriers)
    assert response.error == "other"
    assert "may not be run" in response.message or "cannot be run: No such file" in response.message


def test_one_that_is_killed_says_by_what(carriers: Carriers, tmp_path: Path) -> None:
    """A crash is a failure like any other."""
    send(carriers, str(script(tmp_path, "kill -SEGV $$")))
    assert answer(carriers).message == "signal 11 ended it"


def test_stopping_ends_what_runs(tmp_path: Path) -> None:
    """Nothing that was started outlives the service's stop."""
    carriers = Carriers(SystemClock(), programs=[str(tmp_path)])
    send(carriers, str(script(tmp_path, f"echo $$ > {tmp_path}/me; mv {tmp_path}/me {tmp_path}/pid; sleep 600")))
    deadline = time.monotonic() + 10
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        carriers.poll(0.01)
    carriers.close()
    eventually(lambda: gone(int((tmp_path / "pid").read_text())))


def test_many_at_once_all_come_back(carriers: Carriers, tmp_path: Path) -> None:
    """More than there are threads, each with its own token."""
    program = script(tmp_path, "exit 3")
    for number in range(100):
        send(carriers, str(program), timeout=60.0, token=number)
    seen: list[Any] = []
    deadline = time.monotonic() + 60
    while len(seen) < 100:
        assert time.monotonic() < deadline
        seen += [token for token, response in carriers.poll(0.5) if response.status == 3]
    assert sorted(seen) == list(range(100))
    assert carriers.in_flight == 0


def test_a_hanging_command_holds_up_nobody_else(house: House, receiver: Receiver, tmp_path: Path) -> None:
    """Other endpoints get theirs, a stop waits no longer than it would for a receiver, and nothing is left running."""
    program = script(tmp_path, f"echo $$ >> {tmp_path}/pids; exec sleep 600")
    house.endpoint(receiver.url)
    hanging = house.endpoint(f"exec:{program}", kind="exec")
    with house.dispatching(transport=Carriers(house.clock, programs=[str(tmp_path)])):
        house.publish([f"user{number}" for number in range(50)])
        receiver.wait(50)
        pids = tmp_path / "pids"
        eventually(lambda: pids.exists() and len(pids.read_text().split()) == 4, what="as many as run at once")
        began = time.monotonic()
    assert time.monotonic() - began < 5
    eventually(lambda: all(gone(int(pid)) for pid in pids.read_text().split()))
    assert house.states() == {"delivered": 50}
    assert house.count("pending", f"endpoint_id = {hanging.id}") == 50


def test_a_job_that_cannot_be_ended_is_answered_and_left_behind(carriers: Carriers) -> None:
    """A database behind a socket that never answers: its time is up, and others go on meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=600"
        for together in (range(MAX_HUNG), range(1)):
            for number in together:
                carriers.send(Job(5, Rows(url, "", ()), 0.1), number)
            for response in answers(carriers, len(together)):
                assert response.error in ("timeout", "other")
        send(carriers, "exec:/bin/sh -c 'exit 0'")
        assert answer(carriers).status == 0


@pytest.mark.parametrize("url", ["", "exec:", "told", "exec:./told", "exec:'/bin/x", 3])
def test_a_command_line_begins_with_a_whole_path(url: object) -> None:
    """A shell's PATH and folder are none of the service's."""
    with pytest.raises(InvalidError):
        Exec.checked_url(url)


def test_arguments_are_not_shown() -> None:
    """They may hold passwords."""
    assert masked_url("exec:/usr/bin/told --password hush") == "exec:/usr/bin/told …"
    assert masked_url("exec:/usr/bin/told") == "exec:/usr/bin/told"
    assert masked_url("tgram://123:hush/-5") == "tgram://…"
    assert masked_url("postgresql+psycopg://u:hush@h/d") == "postgresql://…"
