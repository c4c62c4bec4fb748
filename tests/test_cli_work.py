"""The commands that work on the database, beside a service and without one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from command_line import Running, as_json, made, marzhook, on_a_terminal
from marzhook.delivery import DEAD, Attempt, Settlement
from marzhook.store import rejected
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.store.rejected import NewRejected
from marzhook.testing import eventually
from receivers import Receiver, events_of

URL = "http://127.0.0.1:9/hook?key=hidden"
"""Nobody sends here: no service runs."""


@pytest.fixture(autouse=True)
def _database(tmp_path: Path) -> None:
    made(tmp_path)


def published(folder: Path, count: int = 1, url: str = URL) -> None:
    for number in range(count):
        marzhook(folder, "send", "user_updated", f"user{number}", WEBHOOK_ADDRESS=url)


def died(folder: Path) -> None:
    """Everything that is owed to endpoint 1 has failed for the last time, with an answer that would drive a terminal."""
    database = Database.open(f"sqlite:///{folder}/marzhook.db")
    outbox = Outbox(database)
    now = datetime.now(UTC)
    tried = Attempt(1, now - timedelta(seconds=2), 0.25, 503, None, "", "\x1b[2Jtry later", "standard")
    owed = outbox.window(1, after=0, limit=10_000)
    outbox.settle([Settlement(delivery, tried, DEAD, 1) for delivery in owed], now=now - timedelta(seconds=1))
    database.close()


# -- send


def test_send_delivers_through_a_running_service(tmp_path: Path) -> None:
    """An event that is sent by hand reaches the receiver of the running service, with its data behind the four keys."""
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url}
        with Running(tmp_path, "run", UVICORN_PORT="0", **settings) as service:
            service.line("ready")
            sent = marzhook(tmp_path, "send", "user_updated", "alice", "--data", '{"reason": "test", "n": 1}')
            assert sent.stdout == "Published event 1 (user_updated of alice), owed to 1 endpoint.\n"
            assert sent.stderr == ""
            [event] = events_of(receiver.wait(1)[0]["body"])
            assert list(event) == ["username", "action", "enqueued_at", "tries", "reason", "n"]
            assert service.stop() == 0


def test_send_without_service_keeps_the_event_and_says_so(tmp_path: Path) -> None:
    """Without a service the settings' endpoints are taken over, the event is owed to them, and the next step is named."""
    sent = marzhook(tmp_path, "send", "user_updated", "alice", WEBHOOK_ADDRESS=URL)
    assert "owed to 1 endpoint" in sent.stdout
    assert "make run" in sent.stderr
    assert as_json(tmp_path, "endpoints", "list")[0]["pending"] == 1


def test_send_without_endpoints_warns(tmp_path: Path) -> None:
    """Where no endpoint is set, it says that the event goes nowhere and which setting is missing."""
    assert "WEBHOOK_ADDRESS" in marzhook(tmp_path, "send", "user_updated", "alice").stderr


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("user_updated", "alice", "--data", '{"a": }'), "at character 7"),
        (("user_updated", "alice", "--data", "[1]"), "must be an object"),
        (("user_updated", "alice", "--data", '{"tries": 5}'), "tries"),
        (("user_updated", "alice", "--data", '{"a": NaN}'), "JSON"),
        (("User Updated", "alice"), "action"),
        (("user_updated", "a\x07"), "control characters"),
    ],
)
def test_send_refuses_bad_input_in_one_line(tmp_path: Path, args: tuple[str, ...], part: str) -> None:
    """Bad data, actions and names end with exit 2 and one line; nothing is published."""
    ended = marzhook(tmp_path, "send", *args, expect=2)
    assert ended.stderr.count("\n") == 1
    assert part in ended.stderr


# -- endpoints


def test_endpoints_show_state_and_no_secret(tmp_path: Path) -> None:
    """Lists and details show state and what is owed; secrets, and what a URL's query may hide, do not appear."""
    marzhook(tmp_path, "send", "user_updated", "alice", WEBHOOK_ADDRESS=URL, WEBHOOK_SECRET="sesame")
    marzhook(tmp_path, "endpoints", "disable", "1", "--reason", "holidays")
    texts = [
        marzhook(tmp_path, "endpoints", *args).stdout
        for args in (["list"], ["show", "1"], ["list", "--json"], ["show", "1", "--json"])
    ]
    for text in texts:
        assert "holidays" in text
        assert not any(secret in text for secret in ("sesame", "hidden", "whsec_"))
    assert "1 delivery owed" in marzhook(tmp_path, "endpoints", "enable", "1").stdout
    assert as_json(tmp_path, "endpoints", "show", "1")["enabled"]


def test_enabling_sends_what_was_kept_or_skips_it(tmp_path: Path) -> None:
    """Where nobody can be asked, what was kept is sent; --backlog skip cancels it, and it can be replayed."""
    published(tmp_path, 3)
    for choice, words, pending in (((), "3 deliveries owed", 3), (("--backlog", "skip"), "3 deliveries cancelled", 0)):
        marzhook(tmp_path, "endpoints", "disable", "1")
        assert words in marzhook(tmp_path, "endpoints", "enable", "1", *choice, text="n\n").stdout
        assert as_json(tmp_path, "endpoints", "show", "1")["pending"] == pending
    assert "enabled already" in marzhook(tmp_path, "endpoints", "enable", "1", "--backlog", "skip").stdout
    assert "3 deliveries" in marzhook(tmp_path, "replay", "--endpoint", "1", "--state", "cancelled").stdout
    assert "send, skip" in marzhook(tmp_path, "endpoints", "enable", "1", "--backlog", "some", expect=2).stderr


@pytest.mark.parametrize(("answer", "pending"), [("\n", 2), ("n\n", 0)])
def test_on_a_terminal_enabling_asks(tmp_path: Path, answer: str, pending: int) -> None:
    """On a terminal it says how many were kept, and asks whether they are to be sent; Enter sends them."""
    published(tmp_path, 2)
    marzhook(tmp_path, "endpoints", "disable", "1")
    shown = on_a_terminal(tmp_path, "endpoints", "enable", "1", answer=answer, ask="[Y/n]")
    assert "2 deliveries were kept for it." in shown
    assert as_json(tmp_path, "endpoints", "show", "1")["pending"] == pending
    assert as_json(tmp_path, "endpoints", "show", "1")["enabled"]


def test_endpoints_test_shows_the_answer(tmp_path: Path) -> None:
    """A test event goes out at once; its answer is shown, and a refusal is exit 1 with its meaning."""
    with Receiver() as receiver:
        settings = {"WEBHOOK_ADDRESS": receiver.url, "WEBHOOK_SECRET": "sesame"}
        receiver.do(secret="sesame")
        marzhook(tmp_path, "send", "user_updated", "alice", **settings)
        assert "(plain)" in marzhook(tmp_path, "endpoints", "test", "1", **settings).stdout
        receiver.do(status=404, secret=None)
        refused = marzhook(tmp_path, "endpoints", "test", "1", expect=1, **settings)
        assert "refused with 404" in refused.stdout


def test_endpoints_are_made_and_edited_with_filters_and_a_template(tmp_path: Path) -> None:
    """What is given is kept, what is cleared is gone, and a new endpoint shows its signing secret once."""
    template = tmp_path / "body.jinja"
    template.write_text('{"token": "hush", "who": "{{ username }}"}')
    filters = ("--admin", "alice", "--user", "vip_*", "--user", "!vip_2", "--condition", "user.status == 'active'")
    new = as_json(
        tmp_path, "endpoints", "create", "https://shop.example/hook?key=hidden", *filters, "--template", str(template),
        "--action", "user_updated", "--secret", "sesame", "--rate-limit", "2",
    )  # fmt: skip
    assert (new["admins"], new["usernames"], new["actions"]) == (["alice"], ["vip_*", "!vip_2"], ["user_updated"])
    assert (new["condition"], new["has_template"], new["has_secret"]) == ("user.status == 'active'", True, True)
    assert new["signing_secret"].startswith("whsec_")
    shown = marzhook(tmp_path, "endpoints", "show", "1").stdout
    assert "vip_*, !vip_2" in shown
    assert not any(secret in shown for secret in ("hush", "sesame", "hidden", "whsec_"))

    edited = marzhook(tmp_path, "endpoints", "edit", "1", "--template", "-", "--clear", "admins", text="{}").stdout
    assert edited == "Endpoint 1 is changed: admins, template.\n"
    after = as_json(tmp_path, "endpoints", "edit", "1", "--clear", "template", "--clear", "condition", "--name", "shop")
    assert as_json(tmp_path, "endpoints", "edit", "1", "--clear", "name")["name"] != after["name"] == "shop"
    assert (after["admins"], after["condition"], after["has_template"], after["name"]) == (None, None, False, "shop")


def test_an_endpoint_of_the_settings_gets_a_filter_and_a_template(tmp_path: Path) -> None:
    """What the settings do not say of it; what they say is changed there. The next start leaves it as it is."""
    published(tmp_path)
    edited = marzhook(
        tmp_path,
        "endpoints",
        "edit",
        "1",
        "--action",
        "user_limited",
        "--rate-limit",
        "2",
        "--template",
        "-",
        text="{}",
    ).stdout
    assert edited == "Endpoint 1 is changed: actions, rate_limit, template.\n"
    refused = marzhook(
        tmp_path, "endpoints", "edit", "1", "--action", "user_deleted", "--detail", "none", expect=1
    ).stderr
    assert "comes from the settings; change WEBHOOK_ADDRESS" in " ".join(refused.split())
    with Running(tmp_path, "run", UVICORN_PORT="0", WEBHOOK_ADDRESS=URL) as service:
        service.line("ready")
        assert service.stop() == 0
    after = as_json(tmp_path, "endpoints", "show", "1")
    assert (after["actions"], after["has_template"]) == (["user_limited"], True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("create", "ftp://x/"), "must start with http"),
        (("create", "http://x/", "--condition", 'user.status == "active"'), "write a text as 'active'"),
        (("create", "http://x/", "--user", "!"), "usernames"),
        (("create", "http://x/", "--template", "nowhere"), "cannot be read: No such file"),
        (("create", "http://x/", "--kind", "discord", "--template", "body"), "for the kind webhook"),
        (("edit", "1"), "nothing is to be changed"),
        (("edit", "1", "--clear", "url"), "--clear must be one of"),
        (("edit", "1", "--clear", "admins", "--admin", "a"), "exclude each other"),
        (("edit", "1", "--template", "broken"), "template, line 2"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_told(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    """Exit 2, one line, and nothing is made or changed."""
    (tmp_path / "body").write_text("{}")
    (tmp_path / "broken").write_text("{\n{{ 1 + }}")
    marzhook(tmp_path, "endpoints", "create", "http://first.example/")
    before = as_json(tmp_path, "endpoints", "list")
    ended = marzhook(tmp_path, "endpoints", *args, expect=2)
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert as_json(tmp_path, "endpoints", "list") == before


def test_endpoints_try_says_what_an_event_comes_to(tmp_path: Path) -> None:
    """Whether it is owed, which part says no, and the body; nothing is sent, and nothing owed."""
    user = '{"user": {"status": "active", "note": null}}'
    marzhook(tmp_path, "send", "user_updated", "vip_1", "--data", user)
    (tmp_path / "body").write_text('{"who": "{{ username }}"}')
    marzhook(
        tmp_path,
        "endpoints",
        "create",
        "http://x/",
        "--user",
        "vip_*",
        "--condition",
        "user.note",
        "--template",
        "body",
    )

    def tried(*changes: str, expect: int = 0) -> str:
        if changes:
            marzhook(tmp_path, "endpoints", "edit", "1", *changes)
        return marzhook(tmp_path, "endpoints", "try", "1", "--event", "1", expect=expect).stdout

    refused = tried()
    assert "is not for endpoint 1." in refused
    assert "Its filter does not let it pass: condition." in refused
    assert '{"who": "vip_1"}' in refused
    assert "cannot be evaluated, so it is delivered" in tried("--condition", "contains(user.note, 'x')")
    assert "is for endpoint 1." in tried("--condition", "user.status == 'active'")
    assert "does not let it pass: usernames" in tried("--user", "gold_*")
    (tmp_path / "body").write_text("{{ username }}")
    assert "No body can be made: template: what it makes is no JSON" in tried("--template", "body", expect=1)
    assert as_json(tmp_path, "endpoints", "show", "1")["pending"] == 0


@pytest.mark.parametrize(
    "args", [("endpoints", "show", "7"), ("deliveries", "show", "1", "9"), ("users", "show", "zoe")]
)
def test_what_is_not_there_is_one_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    """Asking for what is not there is exit 1 and one line."""
    published(tmp_path)
    assert marzhook(tmp_path, *args, expect=1).stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["endpoints", "list"], ["send", "user_updated", "alice"], ["users", "create", "alice"]], ids=lambda a: a[0]
)
def test_wrong_folder_is_noticed(tmp_path: Path, args: list[str]) -> None:
    """In a folder without a database no command makes one, where nothing would ever be sent: it says where it looked."""
    (tmp_path / "elsewhere").mkdir()
    ended = marzhook(tmp_path / "elsewhere", *args, expect=2, WEBHOOK_ADDRESS=URL)
    assert str(tmp_path / "elsewhere" / "marzhook.db") in ended.stderr
    assert "make run" in ended.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- deliveries and replay


def test_deliveries_are_listed_and_filtered(tmp_path: Path) -> None:
    """Filters by state, action, name and endpoint work; a pipe gets whole lines."""
    published(tmp_path, 3)
    died(tmp_path)
    published(tmp_path)
    assert [row["event_id"] for row in as_json(tmp_path, "deliveries", "list")] == [4, 3, 2, 1]
    assert [row["event_id"] for row in as_json(tmp_path, "deliveries", "list", "--state", "pending")] == [4]
    assert [row["event_id"] for row in as_json(tmp_path, "deliveries", "list", "--username", "user0")] == [4, 1]
    assert as_json(tmp_path, "deliveries", "list", "--action", "user_created") == []
    assert len(as_json(tmp_path, "deliveries", "list", "--endpoint", "1", "--limit", "2")) == 2
    assert "must be one of" in marzhook(tmp_path, "deliveries", "list", "--state", "lost", expect=2).stderr
    lines = marzhook(tmp_path, "deliveries", "list").stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[:2] == ["to", "event"]


def test_delivery_shows_each_attempt_harmlessly(tmp_path: Path) -> None:
    """Each try is shown with the receiver's answer, whose control characters cannot drive the terminal."""
    published(tmp_path)
    died(tmp_path)
    text = marzhook(tmp_path, "deliveries", "show", "1", "1").stdout
    assert "dead" in text
    assert "503" in text
    assert "\\x1b[2Jtry later" in text
    assert "MARZHOOK_RETRY_SCHEDULE" in text
    assert as_json(tmp_path, "deliveries", "show", "1", "1")["attempt_list"][0]["response"] == "\x1b[2Jtry later"


def test_what_no_request_could_be_made_of_is_no_fault_of_the_receivers(tmp_path: Path) -> None:
    """A template that failed: the words say what to mend, and accuse nobody who was sent nothing."""
    published(tmp_path)
    database = Database.open(f"sqlite:///{tmp_path}/marzhook.db")
    now = datetime.now(UTC)
    tried = Attempt(1, now, 0.0, None, "render", "line 1: 'plan' is undefined", "", "rejected")
    outbox = Outbox(database)
    outbox.settle([Settlement(one, tried, DEAD, 1) for one in outbox.window(1, after=0, limit=1)], now=now)
    database.close()
    shown = marzhook(tmp_path, "deliveries", "show", "1", "1").stdout
    assert "no request could be made of this event" in shown
    assert "the receiver refuses" not in shown


def test_lists_say_truly_whether_there_is_more(tmp_path: Path) -> None:
    """One more than were asked for, and the same again where that was all."""
    published(tmp_path, 3)
    assert (
        "The newest 2 are shown; --limit shows more." in marzhook(tmp_path, "deliveries", "list", "--limit", "2").stderr
    )
    assert marzhook(tmp_path, "deliveries", "list", "--limit", "3").stderr == ""
    assert len(as_json(tmp_path, "deliveries", "list", "--limit", "2")) == 2
    database = Database.open(f"sqlite:///{tmp_path}/marzhook.db")
    with database.write() as tx:
        rejected.keep(tx, "marzban", [NewRejected("unreadable_event", "NaN", "{}")] * 3, now=datetime.now(UTC))
    database.close()
    assert "--limit shows more." in marzhook(tmp_path, "ingest", "rejected", "--limit", "2").stderr
    assert marzhook(tmp_path, "ingest", "rejected", "--limit", "3").stderr == ""


@pytest.mark.parametrize(
    ("kind", "url"), [("sql", "sqlite:////tmp/x.db"), ("discord", "https://discord.com/api/webhooks/1/x")]
)
def test_only_a_webhook_has_a_signing_secret_to_keep(tmp_path: Path, kind: str, url: str) -> None:
    """Nobody else's requests are signed with it."""
    assert "secret" not in marzhook(tmp_path, "endpoints", "create", url, "--kind", kind).stdout


def test_cancel_and_retry(tmp_path: Path) -> None:
    """A pending delivery is cancelled once; retry makes it due again, and says that nobody sends it just now."""
    published(tmp_path)
    marzhook(tmp_path, "deliveries", "cancel", "1", "1")
    assert "cancelled already" in marzhook(tmp_path, "deliveries", "cancel", "1", "1", expect=1).stderr
    assert "make run" in marzhook(tmp_path, "deliveries", "retry", "1", "1").stderr
    assert as_json(tmp_path, "deliveries", "show", "1", "1")["state"] == "pending"
    marzhook(tmp_path, "deliveries", "retry", "1", "1")
    assert as_json(tmp_path, "deliveries", "show", "1", "1")["state"] == "pending"


def test_retry_hastens_a_waiting_delivery(tmp_path: Path) -> None:
    """A delivery that waits minutes for its next try goes out at once when it is retried beside the running service, in an
    outage, too. The tries before stay counted."""
    with Receiver() as receiver:
        settings = {
            "WEBHOOK_ADDRESS": receiver.url, "NUMBER_OF_RECURRENT_NOTIFICATIONS": "3",
            "RECURRENT_NOTIFICATIONS_TIMEOUT": "600",
        }  # fmt: skip
        receiver.do(status=503, times=1)
        with Running(tmp_path, "run", UVICORN_PORT="0", **settings) as service:
            service.line("ready")
            marzhook(tmp_path, "send", "user_updated", "alice")
            receiver.wait(1)
            eventually(lambda: as_json(tmp_path, "deliveries", "show", "1", "1")["due_at"], what="the next try's time")
            marzhook(tmp_path, "deliveries", "retry", "1", "1")
            assert json.loads(receiver.wait(2, timeout=10)[1]["body"])["tries"] == 1
            eventually(lambda: as_json(tmp_path, "deliveries", "show", "1", "1")["state"] == "delivered")
            assert service.stop() == 0


def test_replay_counts_then_replays_all(tmp_path: Path) -> None:
    """A dry run counts and changes nothing; the replay owes all of them again, and a second one finds nothing."""
    published(tmp_path, 3)
    died(tmp_path)
    assert as_json(tmp_path, "replay", "--dry-run") == {"matched": 3}
    assert as_json(tmp_path, "replay", "--username", "user1") == {"replayed": 1}
    assert as_json(tmp_path, "replay", "--until", "2020-01-01T00:00:00Z") == {"replayed": 0}
    assert as_json(tmp_path, "replay", "--since", "2020-01-01") == {"replayed": 2}
    assert as_json(tmp_path, "replay") == {"replayed": 0}


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "25:00", ""])
def test_replay_explains_times(tmp_path: Path, text: str) -> None:
    """A malformed time is one line with the forms that are understood."""
    published(tmp_path)
    ended = marzhook(tmp_path, "replay", "--since", text, expect=2)
    assert ended.stderr.count("\n") == 1
    assert "2026-11-23T13:15" in ended.stderr


# -- users


def test_users_live_and_emit_events(tmp_path: Path) -> None:
    """Creating, disabling, enabling and deleting a user publish their events; lists filter and page."""
    marzhook(tmp_path, "users", "create", "alice", "--data-limit", "10GB", "--expire", "30d", WEBHOOK_ADDRESS=URL)
    marzhook(tmp_path, "send", "user_updated", "somebody", WEBHOOK_ADDRESS=URL)
    user = as_json(tmp_path, "users", "create", "bobby", "--note", "VIP")
    assert (user["status"], user["data_limit"], "proxies" in user) == ("active", None, False)
    assert as_json(tmp_path, "users", "show", "alice")["data_limit"] == 10 * 1024**3
    marzhook(tmp_path, "users", "disable", "bobby")
    found = as_json(tmp_path, "users", "list", "--status", "disabled")
    assert ([one["username"] for one in found["users"]], found["total"]) == (["bobby"], 1)
    marzhook(tmp_path, "users", "enable", "bobby")
    assert as_json(tmp_path, "users", "list", "--limit", "1", "--offset", "1")["total"] == 2
    assert [one["username"] for one in as_json(tmp_path, "users", "list", "--search", "vip")["users"]] == ["bobby"]
    marzhook(tmp_path, "users", "delete", "bobby", text="n\n", expect=1)
    marzhook(tmp_path, "users", "delete", "bobby", "--yes")
    rows = as_json(tmp_path, "deliveries", "list", "--username", "bobby")
    assert [row["action"] for row in rows][::-1] == [
        "user_created", "user_updated", "user_disabled", "user_updated", "user_enabled", "user_deleted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "args", [("ab",), ("alice", "--data-limit", "many"), ("alice", "--expire", "soon"), ("alice", "--data-limit", "-5")]
)
def test_users_create_explains_bad_input(tmp_path: Path, args: tuple[str, ...]) -> None:
    """A bad name, amount or time ends with exit 2, and no user is made."""
    assert marzhook(tmp_path, "users", "create", *args, expect=2).stderr
    marzhook(tmp_path, "send", "user_updated", "somebody")
    assert json.loads(marzhook(tmp_path, "users", "list", "--json").stdout)["total"] == 0


def test_every_command_has_help(tmp_path: Path) -> None:
    """Every command has a help text."""
    for command in ("check", "send", "listen", "demo", "users", "endpoints", "deliveries", "replay"):
        assert "Usage: marzhook " in marzhook(tmp_path, command, "--help").stdout
