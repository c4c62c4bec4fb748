"""The whole, as its operators use it: a real service process, real receivers, real clients."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from aiomarzban import MarzbanAPI, UserDataLimitResetStrategy

from marzhook.event import DOCUMENTED_ACTIONS
from marzhook.testing import eventually
from receivers import Receiver, events_of, header_of
from service import Service, marzhook

SECRET = "something-very-very-secret"


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    found = [Receiver(), Receiver()]
    yield found
    for receiver in found:
        receiver.stop()


def addresses(receivers: list[Receiver]) -> str:
    return ",".join(receiver.url for receiver in receivers)


def test_send_reaches_both_documented_addresses_byte_for_byte(tmp_path: Path, receivers: list[Receiver]) -> None:
    """With the documented `.env`, `marzhook send` beside a running service arrives as documented, within a second."""
    lines = [f'WEBHOOK_ADDRESS = "{addresses(receivers)}"', f'WEBHOOK_SECRET = "{SECRET}"']
    (tmp_path / ".env").write_text("\n".join(lines) + "\n")
    with Service(tmp_path) as service:
        sent = marzhook(tmp_path, "send", "user_updated", "marzban_test_user")
        assert sent.returncode == 0, sent.stderr
        for receiver in receivers:
            (record,) = receiver.wait(1, timeout=5)
            assert record["method"] == "POST"
            assert record["path"] == "/"
            assert header_of(record, "x-webhook-secret") == SECRET
            assert header_of(record, "Content-Type") == "application/json"
            documented = (
                r'\{"username": "marzban_test_user", "action": "user_updated",'
                r' "enqueued_at": (\d+\.\d+), "tries": 0\}'
            )
            found = re.fullmatch(documented, record["body"])
            assert found, record["body"]
            assert 0 <= record["at"] - float(found[1]) < 1.5
        assert service.stop() == 0


def test_the_documented_flask_receiver_accepts_it_unchanged(tmp_path: Path, receivers: list[Receiver]) -> None:
    """Default settings serve the documented Flask receiver (HMAC) beside one that compares the raw secret."""
    raw = receivers[0]
    raw.do(secret=SECRET)
    script = Path(__file__).with_name("flask_receiver.py")
    flask = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert flask.stdout
    try:
        url = f"http://127.0.0.1:{int(flask.stdout.readline())}/"
        with Service(tmp_path, WEBHOOK_ADDRESS=f"{url},{raw.url}", WEBHOOK_SECRET=SECRET) as service:
            for name in ("anna", "bert"):
                assert service.call("POST", "/api/user", {"username": name, "proxies": {}})[0] == 200
            expected = [{"action": "user_created", "username": name} for name in ("anna", "bert")]

            def understood() -> list[object]:
                with urllib.request.urlopen(f"{url}understood") as answer:
                    return sorted(json.load(answer), key=lambda e: e["username"])

            eventually(lambda: understood() == expected, what="the Flask receiver's understanding")
            eventually(lambda: len(raw.accepted()) == 2)
            _, listed = service.call("GET", "/api/v1/deliveries")
            # Finding out which way the receiver wants the secret is part of the first try, not a failed one.
            assert all(delivery["tries"] == 0 for delivery in listed["deliveries"])
            modes = {e["url"]: e["learned_mode"] for e in service.call("GET", "/api/v1/endpoints")[1]["endpoints"]}
            assert modes == {url: "hmac", raw.url: "plain"}
    finally:
        flask.terminate()
        flask.wait()
        flask.stdout.close()


def test_a_users_life_arrives_in_order_once_with_true_times(tmp_path: Path, receivers: list[Receiver]) -> None:
    """The seven documented actions, driven by a public client library and a traffic report, reach both addresses."""
    times: dict[str, tuple[float, float]] = {}

    async def live(service: Service) -> None:
        panel = MarzbanAPI(
            f"http://127.0.0.1:{service.port}/", "root", "toor-toor", default_proxies={"vless": {"flow": ""}}
        )
        try:

            async def step(action: str, call: object) -> None:
                before = time.time()
                await call  # type: ignore[misc]
                times[action] = (before, time.time())

            await step("user_created", panel.add_user("traveller", data_limit=1))
            await step("user_updated", panel.modify_user("traveller", note="hello"))
            await step("user_disabled", panel.modify_user("traveller", status="disabled"))
            await step("user_enabled", panel.modify_user("traveller", status="active"))
            loop = asyncio.get_running_loop()
            report = [{"username": "traveller", "bytes": 2 << 30}]
            await step("user_limited", loop.run_in_executor(None, service.call, "POST", "/api/v1/usage", report))
            await step("reset", panel.reset_user_usage_data("traveller"))
            expire = int(time.time()) + 2
            await loop.run_in_executor(None, service.call, "PUT", "/api/user/traveller", {"expire": expire})
            times["user_expired"] = (expire, expire + 1.0)
            done = lambda: any(e["action"] == "user_expired" for e in receivers[0].accepted())  # noqa: E731
            await loop.run_in_executor(None, lambda: eventually(done, what="the expiry"))
            await step("user_deleted", panel.remove_user("traveller"))
        finally:
            await panel.close()

    with Service(tmp_path, WEBHOOK_ADDRESS=addresses(receivers), WEBHOOK_SECRET=SECRET) as service:
        asyncio.run(live(service))
        expected = [
            "user_created", "user_updated", "user_updated", "user_disabled", "user_updated", "user_enabled",
            "user_limited", "data_usage_reset", "user_enabled", "user_updated", "user_expired", "user_deleted",
        ]  # fmt: skip
        for receiver in receivers:
            events = [event for record in receiver.wait(len(expected)) for event in events_of(record["body"])]
            heard = [e for e in events if e["action"] != "reached_days_left"]
            assert [e["action"] for e in heard] == expected
            assert set(DOCUMENTED_ACTIONS) <= {e["action"] for e in heard}
            for action in ("user_created", "user_disabled", "user_limited", "user_expired", "user_deleted"):
                earliest, latest = times[action]
                (event,) = [e for e in heard if e["action"] == action]
                assert earliest - 0.001 <= event["enqueued_at"] <= latest + 0.001, action
            assert all(e["tries"] == 0 for e in heard)
            assert [e["enqueued_at"] for e in heard] == sorted(e["enqueued_at"] for e in heard)
        assert service.stop() == 0


def test_every_user_call_of_a_public_client_succeeds(tmp_path: Path) -> None:
    """aiomarzban, written against the real panel, works against Marzhook."""

    async def use(port: int) -> None:
        panel = MarzbanAPI(f"http://127.0.0.1:{port}/", "root", "toor-toor", default_proxies={"vless": {"flow": ""}})
        try:
            assert (await panel.get_current_admin()).username == "root"
            created = await panel.add_user("client_1", days=30, data_limit=5, note="n")
            assert created.data_limit == 5 * 1024**3
            assert (await panel.get_user("client_1")).username == "client_1"
            changed = await panel.modify_user(
                "client_1", data_limit=7, data_limit_reset_strategy=UserDataLimitResetStrategy.month, note="x"
            )
            assert changed.data_limit == 7 * 1024**3
            for status in ("disabled", "active"):
                assert (await panel.modify_user("client_1", status=status)).status == status
            await panel.reset_user_usage_data("client_1")
            await panel.revoke_user_subscription("client_1")
            assert (await panel.get_users(limit=5)).total == 1
            assert [u.username for u in (await panel.get_users(search="client")).users] == ["client_1"]
            assert (await panel.get_users(limit=1, status="active", sort="-created_at")).total == 1
            assert (await panel.get_user_usage("client_1")).used_traffic == 0
            assert await panel.get_expired_users() == []
            added = await panel.user_add_days("client_1", 3)
            assert added.expire == changed.expire + 3 * 86400
            await panel.create_admin("shop", "shop-password")
            await panel.set_owner("client_1", "shop")
            await panel.disable_all_active_users("shop")
            assert (await panel.get_user("client_1")).status == "disabled"
            await panel.activate_all_disabled_users("shop")
            assert (await panel.get_user("client_1")).status == "active"
            assert (await panel.get_users(admin="shop")).total == 1
            assert (await panel.get_or_create_user("client_1")).username == "client_1"
            await panel.set_owner("client_1", "root")
            await panel.reset_users_usage_data()
            await panel.add_user("client_2")
            await panel.remove_user("client_1")
            await panel.delete_expired_users()
            assert (await panel.get_users()).total == 1
        finally:
            await panel.close()

    with Service(tmp_path) as service:
        asyncio.run(use(service.port))


def test_a_failing_or_hanging_address_delays_nobody_and_gets_everything_later(
    tmp_path: Path, receivers: list[Receiver]
) -> None:
    """While one address answers 500 and one hangs, the third is served at once; when they are back they get it all."""
    healthy, failing = receivers
    with Receiver() as hanging:
        failing.do(status=500)
        hanging.do(mode="hang")
        three = addresses([failing, hanging, healthy])
        retries = {"NUMBER_OF_RECURRENT_NOTIFICATIONS": "50", "RECURRENT_NOTIFICATIONS_TIMEOUT": "1"}
        with Service(tmp_path, WEBHOOK_ADDRESS=three, MARZHOOK_REQUEST_TIMEOUT="2", **retries) as service:
            names = [f"user{i}" for i in range(40)]
            for name in names:
                assert service.call("POST", "/api/user", {"username": name, "proxies": {}})[0] == 200
            records = healthy.wait(40, timeout=10)
            latencies = sorted(r["at"] - json.loads(r["body"])["enqueued_at"] for r in records)
            # Far below the hanging address's 2 s, however slow the machine.
            assert latencies[20] < 0.5
            assert not failing.accepted()
            assert not hanging.accepted()
            for receiver in (failing, hanging):
                receiver.do(status=200)
            for receiver in (failing, hanging):
                eventually(lambda r=receiver: {e["username"] for e in r.accepted()} == set(names), timeout=60)
            assert service.stop() == 0


def test_a_stop_waits_for_nobody_who_hangs(tmp_path: Path, receivers: list[Receiver]) -> None:
    """SIGTERM while a receiver hangs: exit 0 after the ten seconds' grace, and what hung is sent again by the next run."""
    hanging, healthy = receivers
    hanging.do(mode="hang")
    with Service(tmp_path, WEBHOOK_ADDRESS=addresses(receivers), MARZHOOK_REQUEST_TIMEOUT="60") as service:
        service.call("POST", "/api/user", {"username": "stuck", "proxies": {}})
        hanging.wait(1)
        healthy.wait(1)
        begun = time.monotonic()
        assert service.stop(timeout=40) == 0
        assert time.monotonic() - begun < 20
    hanging.do(status=200)
    with Service(tmp_path, WEBHOOK_ADDRESS=addresses(receivers)) as service:
        eventually(lambda: [e["username"] for e in hanging.accepted()] == ["stuck"])
        assert service.stop() == 0
    assert len(healthy.accepted()) == 1


def test_a_signal_is_noted_at_whatever_moment_it_comes() -> None:
    """SIGTERM in the middle of the wait's own beginning, with other threads busy, ends the wait like any other."""
    code = """
import os, random, signal, threading, time
from marzhook.runtime import hold_signals, wait_for_signal

def send(after):
    end = time.perf_counter() + after
    while time.perf_counter() < end:
        pass
    os.kill(os.getpid(), signal.SIGTERM)

hold_signals()
chance = random.Random(7)
for _ in range(500):
    threading.Thread(target=send, args=(chance.uniform(0, 2e-4),)).start()
    wait_for_signal()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_second_service_on_the_same_file_is_told_who_holds_it(tmp_path: Path) -> None:
    """One database, one service: the second says in one line which process has it, and exits with 2."""
    with Service(tmp_path) as service:
        second = Service(tmp_path, wait=False)
        assert second.end() == 2
        text = "".join(second.log)
        assert str(service.process.pid) in text
        assert len(text.strip().splitlines()) == 1


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    """The port is checked before anything starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = Service(tmp_path, wait=False, UVICORN_PORT=str(taken.getsockname()[1]))
        assert service.end() == 2
        assert len(service.log) == 1
        assert "UVICORN_PORT" in service.log[0]


@pytest.mark.parametrize(
    ("settings", "told", "name", "password"),
    [
        ({"SUDO_USERNAME": "chief", "SUDO_PASSWORD": ""}, True, "chief", None),
        ({"SUDO_USERNAME": "", "SUDO_PASSWORD": "toor-toor"}, False, "admin", "toor-toor"),
    ],
)
def test_one_of_the_two_settings_of_the_first_admin_is_enough(
    tmp_path: Path, settings: dict[str, str], told: bool, name: str, password: str | None
) -> None:
    """A name without a password gets one that is shown; a password without a name is that of `admin`."""
    with Service(tmp_path, **settings) as service:
        if told:
            assert service.process.stdout
            lines = iter(service.process.stdout.readline, "")
            found = next(filter(None, (re.match(r"First admin: (\S+)   password: (\S+)", line) for line in lines)))
            assert found[1] == name
            password = found[2]
        form = f"username={name}&password={password}"
        status, _ = service._http(
            "POST", "/api/admin/token", form, {"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert status == 200


def test_an_admins_name_in_another_case_is_explained(tmp_path: Path) -> None:
    """SUDO_USERNAME=ROOT, where the database knows root, stops the start with one line that names the setting."""
    with Service(tmp_path) as service:
        assert service.stop() == 0
    second = Service(tmp_path, wait=False, SUDO_USERNAME="ROOT")
    assert second.end() == 2
    (line,) = second.log
    assert "SUDO_USERNAME is ROOT" in line


def test_metrics_count_what_anybody_publishes_and_how_late_the_review_is(
    tmp_path: Path, receivers: list[Receiver]
) -> None:
    """Events of the API, of the registry and of `marzhook send` are counted alike, and none twice; the review's lag is
    that of the moment, also where the review cannot write."""
    with Service(tmp_path, WEBHOOK_ADDRESS=receivers[0].url) as service:

        def figure(name: str) -> float:
            found = re.search(rf"^{name} (\S+)$", service.call("GET", "/metrics")[1], re.M)
            assert found
            return float(found[1])

        assert figure("marzhook_events_published_total") == 0
        service.call("POST", "/api/user", {"username": "alice", "proxies": {}})
        service.call("POST", "/api/v1/events", [{"username": "bob", "action": "user_updated"}] * 3)
        assert marzhook(tmp_path, "send", "user_updated", "carol").returncode == 0
        assert figure("marzhook_events_published_total") == 5
        assert figure("marzhook_events_published_total") == 5
        # Updated, and less than three days left.
        service.call("PUT", "/api/user/alice", {"expire": int(time.time()) + 4})
        with closing(sqlite3.connect(tmp_path / "marzhook.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            eventually(lambda: figure("marzhook_review_lag_seconds") > 0.5, timeout=20)
            assert figure("marzhook_events_published_total") == 7
            other.execute("ROLLBACK")
        eventually(lambda: figure("marzhook_events_published_total") == 8, timeout=20)
        eventually(lambda: figure("marzhook_review_lag_seconds") == 0)


def test_the_interval_is_kept_where_it_is_set(tmp_path: Path, receivers: list[Receiver]) -> None:
    """JOB_SEND_NOTIFICATIONS_INTERVAL=2: the queue is looked at every two seconds, not at once."""
    with Service(tmp_path, WEBHOOK_ADDRESS=receivers[0].url, JOB_SEND_NOTIFICATIONS_INTERVAL="2") as service:
        for name in ("one", "two", "three"):
            service.call("POST", "/api/user", {"username": name, "proxies": {}})
        records = receivers[0].wait(3, timeout=10)
        # All three were waiting for the same look.
        assert max(r["at"] for r in records) - min(r["at"] for r in records) < 1.0
        service.call("POST", "/api/user", {"username": "four", "proxies": {}})
        last = receivers[0].wait(4, timeout=10)[-1]
        assert last["at"] - records[0]["at"] > 1.5


def test_an_endpoint_that_says_gone_is_disabled_and_keeps_what_it_is_owed(
    tmp_path: Path, receivers: list[Receiver]
) -> None:
    """410: no further request, the endpoint shows why; enabled again, it gets everything."""
    gone = receivers[0]
    gone.do(status=410)
    with Service(tmp_path, WEBHOOK_ADDRESS=gone.url) as service:
        service.call("POST", "/api/user", {"username": "first", "proxies": {}})
        gone.wait(1)
        endpoint = lambda: service.call("GET", "/api/v1/endpoints")[1]["endpoints"][0]  # noqa: E731
        eventually(lambda: not endpoint()["enabled"])
        assert "410" in endpoint()["disabled_reason"]
        service.call("POST", "/api/user", {"username": "second", "proxies": {}})
        gone.do(status=200)
        service.call("POST", f"/api/v1/endpoints/{endpoint()['id']}/enable")
        # The first waits for its retry; the second is another user's and goes at once.
        eventually(lambda: "second" in {e["username"] for e in gone.accepted()})
        eventually(lambda: {e["username"] for e in gone.accepted()} == {"first", "second"}, timeout=30)


def test_what_ended_is_sent_again_at_once_when_that_is_asked(tmp_path: Path, receivers: list[Receiver]) -> None:
    """A delivered, a dead and a cancelled one over the API, and the delivered one by the command, without a wait."""
    receiver = receivers[0]
    with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url, MARZHOOK_REJECTED_SCHEDULE="1") as service:

        def state(event: int) -> str:
            return str(service.call("GET", f"/api/v1/deliveries/1/{event}")[1]["state"])

        def published(username: str) -> int:
            service.call("POST", "/api/v1/events", {"action": "user_updated", "username": username})
            return int(service.call("GET", f"/api/v1/events?username={username}")[1]["events"][0]["id"])

        delivered = published("delivered")
        receiver.wait(1)
        eventually(lambda: state(delivered) == "delivered")
        receiver.do(status=400)
        dead = published("dead")
        eventually(lambda: state(dead) == "dead")
        service.call("POST", "/api/v1/endpoints/1/disable")
        cancelled = published("cancelled")
        service.call("POST", f"/api/v1/deliveries/1/{cancelled}/cancel")
        assert state(cancelled) == "cancelled"
        receiver.do(status=200)
        service.call("POST", "/api/v1/endpoints/1/enable")
        for event in (delivered, dead, cancelled):
            assert service.call("POST", f"/api/v1/deliveries/1/{event}/retry?force=true")[0] == 200
        again = ["delivered"] * 2 + ["dead", "cancelled"]
        eventually(lambda: sorted(e["username"] for e in receiver.accepted()) == sorted(again))
        eventually(lambda: state(delivered) == "delivered")
        assert marzhook(tmp_path, "deliveries", "retry", "1", str(delivered)).returncode == 0
        eventually(lambda: sorted(e["username"] for e in receiver.accepted()) == sorted([*again, "delivered"]))
