"""Following a panel over its API: every change is one event, whatever fails, shifts or is told by the webhook as well."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import as_json, made, marzhook
from marzhook.endpoint import EACH, OWN_CHAT
from marzhook.errors import PanelError
from marzhook.event import PANEL_ACTIONS
from marzhook.sources import marzban_api
from marzhook.sources.ingest import Ingest
from marzhook.sources.marzban_api import PanelApi
from marzhook.sources.marzban_poll import Following
from marzhook.sources.panels import PANELS
from marzhook.sources.snapshot import Snapshots, shown
from marzhook.store import admins, endpoints, schema, source_users, sources
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.telemetry import Metrics
from marzhook.testing import FakeClock
from marzhook.user import Thresholds
from panel_server import PASSWORD, PanelServer, deleting, panel_server

DAY = 86_400


@pytest.fixture
def panel(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[PanelServer]:
    monkeypatch.setattr(marzban_api, "PAGE", 3)
    with panel_server(tmp_path, clock) as panel:
        yield panel


class Follow:
    """A source with its first snapshot, polled by hand; and the same panel's webhook."""

    def __init__(self, panel: PanelServer, database: Database, clock: FakeClock, *, detail: str = "safe") -> None:
        self.panel, self.database, self.clock = panel, database, clock
        self.metrics, outbox = Metrics(), Outbox(database)
        self.actions = set(PANEL_ACTIONS)
        self.snapshots = Snapshots(
            database, outbox, clock, published_actions=self.actions, thresholds=Thresholds(), detail=detail
        )
        self.ingest = Ingest(database, outbox, clock, self.snapshots, secret=None, detail=detail, metrics=self.metrics)
        with database.write() as tx:
            self.id = sources.create(
                tx, kind="marzban", url=panel.url, username="root", password=PASSWORD, now=clock.now()
            )
        api = PanelApi(panel.url, "root", PASSWORD)
        for page, _ in api.users():
            self.snapshots.begin(self.id, shown(page))
        with database.write() as tx:
            sources.note(tx, self.id, snapshot_at=clock.now())
        self.following = self.again()
        self._tries = itertools.count(1)
        self._read = 0

    def again(self) -> Following:
        """As a restart begins it."""
        with self.database.read() as conn:
            source = sources.get(conn, self.id)
        return Following(
            source, self.database, self.snapshots, self.clock, interval=60.0, metrics=self.metrics, ca_file=None
        )

    def polled(self) -> list[tuple[str, str]]:
        """(action, username) of what was told by a whole pass, and whatever came before."""
        self.clock.advance(60)
        while not self.following.step():
            pass
        return self.told()

    def told(self) -> list[tuple[str, str]]:
        """What was told since the last call."""
        return [(event["action"], event["username"]) for event in self.events()]

    def events(self) -> list[dict[str, Any]]:
        query = schema.events.select().where(schema.events.c.id > self._read).order_by("id")
        with self.database.read() as conn:
            rows = conn.execute(query).all()
        self._read = max((row.id for row in rows), default=self._read)
        return [{"action": row.action, "username": row.username, **json.loads(row.detail or "{}")} for row in rows]

    def webhook(self, action: str, username: str, user: dict[str, Any] | None = None, **extras: Any) -> bool:
        """The panel's webhook tells something; whether that was taken for news."""
        item = {"action": action, "username": username, "tries": 0, "enqueued_at": 1.0, "send_at": float(next(self._tries)),
                "by": None, "n": next(self._tries), **({"user": user} if user else {}), **extras}  # fmt: skip
        self.clock.advance(1)
        return self.ingest.take(PANELS["marzban"], json.dumps([item]).encode()).accepted == 1

    def source(self) -> sources.Source:
        with self.database.read() as conn:
            return sources.get(conn, self.id)

    def change(self, username: str, **fields: Any) -> dict[str, Any]:
        """An admin of the panel changes a user; how the panel shows him then."""
        self.panel.registry.modify(username, fields, self.panel.root)
        return self.panel.shown(username)


@pytest.fixture
def follow(panel: PanelServer, database: Database, clock: FakeClock) -> Follow:
    panel.add("ann", "bob", "cid", "dan", "eve", "fay", "gil", data_limit=1000, expire=2_000_000_000)
    return Follow(panel, database, clock)


def test_nothing_is_told_of_what_was_there(follow: Follow) -> None:
    """The first snapshot is no news, nor is a look at which nothing has changed; one request at a time, pages in turn."""
    assert follow.polled() == []
    assert follow.polled() == []
    assert follow.panel.most_open == 1
    assert follow.panel.asked.count("/api/users") == 3 * 3
    assert follow.panel.asked.count("/api/admin/token") == 2
    assert follow.source().passed_at == follow.clock.now()


def test_what_people_do_is_told(follow: Follow) -> None:
    """Each change is the event that the panel's webhook has for it, also where the panel itself keeps silent."""
    panel = follow.panel
    follow.change("ann", note="paid")
    panel.registry.delete("bob", panel.root)
    panel.add("zoe")
    follow.change("cid", status="disabled")
    panel.registry.revoke_sub("dan", panel.root)
    panel.registry.charge([("eve", 1500), ("fay", 850)])
    follow.change("gil", data_limit=0)
    told = follow.polled()
    assert sorted(told) == [
        ("reached_usage_percent", "fay"), ("subscription_revoked", "dan"), ("user_created", "zoe"),
        ("user_deleted", "bob"), ("user_disabled", "cid"), ("user_limited", "eve"), ("user_updated", "ann"),
        ("user_updated", "gil"),
    ]  # fmt: skip
    assert follow.polled() == []


def test_bulk_operations_are_told(follow: Follow) -> None:
    """All users disabled, activated and reset at once, of which the panel itself tells nothing."""
    panel, names = follow.panel, ["ann", "bob", "cid", "dan", "eve", "fay", "gil"]
    panel.registry.disable_all("root", panel.root)
    assert follow.polled() == [("user_disabled", name) for name in names]
    panel.registry.activate_all("root", panel.root)
    assert follow.polled() == [("user_enabled", name) for name in names]
    panel.registry.charge([(name, 100) for name in names])
    assert follow.polled() == []
    panel.registry.reset_all(panel.root)
    assert follow.polled() == [("data_usage_reset", name) for name in names]
    assert follow.polled() == []


def test_a_reset_of_a_limited_user_also_enables_him(follow: Follow) -> None:
    """The panel tells of the reset alone, and its receivers keep him limited."""
    follow.panel.registry.charge([("ann", 1000)])
    assert follow.polled() == [("user_limited", "ann")]
    follow.panel.registry.reset("ann", follow.panel.root)
    assert follow.polled() == [("data_usage_reset", "ann"), ("user_enabled", "ann")]


def test_a_name_that_is_used_again_is_another_user(follow: Follow) -> None:
    """Deleted and made anew between two looks: both are told, in this order."""
    follow.panel.registry.delete("ann", follow.panel.root)
    follow.clock.advance(1)  # which is what tells the two: when they were made, to the second
    follow.panel.add("ann")
    assert follow.polled() == [("user_deleted", "ann"), ("user_created", "ann")]


def test_a_reminder_comes_once(follow: Follow) -> None:
    """Days before the expiry, though nothing in the panel has changed; and after a renewal again."""
    soon = int(follow.clock.now().timestamp()) + 5 * DAY
    follow.change("ann", expire=soon)
    assert follow.polled() == [("user_updated", "ann")]
    follow.clock.advance(2 * DAY + 1)
    assert follow.polled() == [("reached_days_left", "ann")]
    assert follow.polled() == []
    follow.change("ann", expire=soon + DAY)
    assert follow.polled() == [("user_updated", "ann")]
    follow.clock.advance(DAY)
    assert follow.polled() == [("reached_days_left", "ann")]


def test_the_user_is_shown_as_the_panel_shows_him(follow: Follow) -> None:
    """With all of the panel's fields, and without what gives access to anything; so is what is kept of him."""
    user = follow.change("ann", note="paid")
    follow.polled()
    follow._read = 0
    [event] = follow.events()
    hidden = {"proxies", "links", "subscription_url", "admin"}
    assert {k: v for k, v in event["user"].items() if k not in hidden} == {
        k: v for k, v in user.items() if k not in hidden
    }
    with follow.database.read() as conn:
        kept = str(conn.execute(schema.source_users.select()).all()) + str(conn.execute(schema.events.select()).all())
        kept += str(conn.execute(schema.sources.select()).all())
    for secret in ("id-ann", user["subscription_url"], PASSWORD, follow.panel.url):
        assert secret not in kept


def test_admins_telegram_ids_are_learned(follow: Follow) -> None:
    """Before the first event of an admin's user can be sent, also where the panel has no webhook."""
    with follow.database.write() as tx:
        options = {"chat": 5, "chats": {EACH: OWN_CHAT}}
        bot = endpoints.create(
            tx, now=follow.clock.now(), kind="telegram", url="https://tg.example/bot1:a", options=options
        )
    panel = follow.panel.services
    with panel.database.write() as tx:
        admins.change(tx, "root", {"telegram_id": 71}, now=panel.clock.now())
    follow.change("ann", note="paid")
    assert follow.polled() == [("user_updated", "ann")]
    with follow.database.read() as conn:
        assert endpoints.get(conn, bot.id).own_chats == {"root": 71}


def test_what_is_not_to_be_published_is_not(follow: Follow) -> None:
    """NOTIFY_ settings count, as for the registry's own users; and the webhook's event is then no repetition."""
    follow.snapshots._published = frozenset(PANEL_ACTIONS) - {"user_disabled"}
    user = follow.change("ann", status="disabled", note="x")
    assert follow.polled() == [("user_updated", "ann")]
    assert follow.webhook("user_disabled", "ann", user)


# -- a panel that moves, falls and comes back


def test_pages_that_shift_delete_nobody(follow: Follow) -> None:
    """Whoever is deleted between two pages makes everybody after him move up by one, so that one is on no page: he is asked
    for by name, and only who is gone is told as deleted."""
    panel = follow.panel
    deleted = iter(["ann"])

    def shift(path: str) -> None:
        if path == "/api/users" and follow.following._offset:
            for name in itertools.islice(deleted, 1):
                panel.registry.delete(name, panel.root)

    panel.before = shift
    assert follow.polled() == []
    assert [path for path in panel.asked if path.startswith("/api/user/")] == ["/api/user/dan"]
    panel.before = lambda path: None
    panel.registry.delete("gil", panel.root)
    assert sorted(follow.polled()) == [("user_deleted", "ann"), ("user_deleted", "gil")]


SHIFTS = pytest.mark.parametrize(
    ("deleted", "then"),
    [("a", ""), ("c", ""), ("b", "user_z"), ("bcdef", ""), ("abcdefghij", "user_z"), ("jklm", "")],
)


@SHIFTS
def test_a_first_snapshot_leaves_nobody_out(
    deleted: str, then: str, panel: PanelServer, tmp_path: Path, clock: FakeClock
) -> None:
    """Whoever is deleted while its pages are read, and whoever comes meanwhile: of the others all are in it, so the first pass
    takes nobody for new."""
    names = [f"user_{letter}" for letter in "abcdefghijklm"]
    panel.add(*names)
    gone = [f"user_{letter}" for letter in deleted]
    panel.before = deleting(panel, *gone, then=then)
    arguments = ("source", "add", "marzban", panel.url, "--username", "root")
    (tmp_path / "here").mkdir()
    made(tmp_path / "here")
    marzhook(tmp_path / "here", *arguments, PANEL_PASSWORD=PASSWORD)
    database = Database.open(f"sqlite:///{tmp_path}/here/marzhook.db")
    with database.read() as conn:
        [source] = sources.all_sources(conn)
        found = set(source_users.names(conn, source.id))
    database.close()
    assert found >= {*names, *([then] if then else [])} - {*gone}


@SHIFTS
def test_an_import_leaves_nobody_out(
    deleted: str, then: str, panel: PanelServer, tmp_path: Path, clock: FakeClock
) -> None:
    """The same; each user is counted once."""
    names = [f"user_{letter}" for letter in "abcdefghijklm"]
    panel.add(*names)
    gone = [f"user_{letter}" for letter in deleted]
    panel.before = deleting(panel, *gone, then=then)
    (tmp_path / "here").mkdir()
    made(tmp_path / "here")
    arguments = ("import", "marzban", panel.url, "--username", "root")
    first = as_json(tmp_path / "here", *arguments, PANEL_PASSWORD=PASSWORD)
    assert (first["different"], first["same"]) == (0, 0)
    again = as_json(tmp_path / "here", *arguments, PANEL_PASSWORD=PASSWORD)
    assert (again["new"], again["same"]) == (0, len(names) - len(gone) + bool(then))


def test_a_panel_that_never_shows_everybody_is_an_error(panel: PanelServer) -> None:
    """Instead of a snapshot that lacks some; after a few tries."""
    panel.add("ann", "bob", "cid", "dan")
    api = PanelApi(panel.url, "root", PASSWORD)
    page = api.page
    api.page = lambda offset: (*page(offset)[:2], 5)  # type: ignore[method-assign]
    with pytest.raises(PanelError, match="only 4 of its 5 users"):
        list(api.users())
    assert panel.asked.count("/api/users") < 100


def test_users_who_come_meanwhile_are_told_once(follow: Follow) -> None:
    """Pages go by the day of creation: who is new comes last."""
    panel, new = follow.panel, iter(["xan", "yve", "zoe"])

    def come(path: str) -> None:
        if path == "/api/users":
            for name in itertools.islice(new, 1):
                panel.add(name)

    panel.before = come
    told = follow.polled()
    told += follow.polled()
    assert sorted(told) == [("user_created", "xan"), ("user_created", "yve"), ("user_created", "zoe")]


def failing_with(status: int) -> Any:
    return lambda path: status


@pytest.mark.parametrize("status", [404, 500, 502])
def test_a_panel_that_is_down_loses_no_user(follow: Follow, status: int) -> None:
    """Whatever stands in its place answers, also that there is nothing: nobody is deleted, what is wrong is said, and what
    happened meanwhile is told when it is back."""
    panel = follow.panel
    panel.before = failing_with(status)
    for _ in range(3):
        assert not follow.following.step()
        follow.clock.advance(1000)
    assert str(status) in (follow.source().error or "")
    assert follow.source().failing_since is not None
    panel.registry.delete("bob", panel.root)
    follow.change("ann", status="disabled", note="x")
    # On its way up: pages come, and users are not found yet.
    panel.before = lambda path: status if path.startswith("/api/user/") else None
    for _ in range(6):
        follow.following.step()
    assert sorted(follow.told()) == [("user_disabled", "ann"), ("user_updated", "ann")]
    panel.before = lambda path: None
    assert follow.polled() == [("user_deleted", "bob")]
    assert (follow.source().error, follow.source().failing_since) == (None, None)


@pytest.mark.parametrize("status", [403, 404, 405, 500])
def test_a_panel_need_not_say_who_is_sudo(panel: PanelServer, status: int) -> None:
    """A fork may not know that path, or a proxy let only some pass: its users can be followed all the same. A wrong password
    is said at once."""
    panel.before = lambda path: status if path == "/api/admin" else None
    assert PanelApi(panel.url, "root", PASSWORD).sees_all()
    with pytest.raises(PanelError, match="refuses this name and password"):
        PanelApi(panel.url, "root", "wrong").sees_all()


def test_failures_are_spaced_out(follow: Follow) -> None:
    """Twice as long from try to try, never longer than ten minutes, and not in step with others."""
    follow.panel.before = failing_with(503)
    waits = []
    for _ in range(12):
        follow.following.step()
        waits.append(follow.following.due - follow.clock.monotonic())
        follow.clock.advance(waits[-1])
    for n, wait in enumerate(waits):
        longest = min(5 * 2**n, 600)
        assert longest / 2 - 1e-6 <= wait <= longest + 1e-6
    follow.panel.before = lambda path: None
    follow.polled()
    assert follow.following.due - follow.clock.monotonic() == pytest.approx(60)


def test_an_expired_token_is_renewed(follow: Follow) -> None:
    """A password that has changed makes old tokens void, and so does a restart of some panels: one new login, nothing lost."""
    follow.polled()
    follow.following._api._token = "void"
    logins = follow.panel.asked.count("/api/admin/token")
    follow.change("ann", note="x")
    assert follow.polled() == [("user_updated", "ann")]
    assert follow.panel.asked.count("/api/admin/token") == logins + 1
    assert follow.source().error is None


def test_who_may_not_log_in_any_more_is_told_so(follow: Follow) -> None:
    """Without the password in it."""
    follow.following._api._token = "void"
    follow.following._api._login = {"username": "root", "password": "changed-meanwhile"}
    assert not follow.following.step()
    assert "refuses this name and password" in (follow.source().error or "")
    assert "changed" not in (follow.source().error or "")


def test_a_restart_goes_on_from_what_is_on_disk(follow: Follow) -> None:
    """What happened while the service was down, and what a pass that was cut short has not seen, is told once."""
    follow.change("ann", note="x")
    follow.change("gil", note="x")
    follow.following.step()
    assert follow.told() == [("user_updated", "ann")]
    follow.following = follow.again()
    assert follow.polled() == [("user_updated", "gil")]


# -- together with the panel's webhook


def test_what_the_webhook_told_first_is_not_told_again(follow: Follow) -> None:
    """Each action by each way of the panel to tell it."""
    panel = follow.panel
    user = follow.change("ann", note="x", status="disabled")
    assert follow.webhook("user_updated", "ann", user)
    assert follow.webhook("user_disabled", "ann", user)
    panel.registry.delete("bob", panel.root)
    assert follow.webhook("user_deleted", "bob")
    panel.add("zoe")
    assert follow.webhook("user_created", "zoe", panel.shown("zoe"))
    panel.registry.charge([("cid", 900), ("dan", 1000)])
    assert follow.webhook("reached_usage_percent", "cid", panel.shown("cid"), used_percent=90.0)
    assert follow.webhook("user_limited", "dan", panel.shown("dan"))
    panel.registry.revoke_sub("eve", panel.root)
    assert follow.webhook("subscription_revoked", "eve", panel.shown("eve"))
    follow.told()
    assert follow.polled() == []
    panel.registry.reset("cid", panel.root)
    assert follow.webhook("data_usage_reset", "cid", panel.shown("cid"))
    follow.told()
    assert follow.polled() == []


def test_what_polling_told_first_is_not_taken_again(follow: Follow) -> None:
    """The panel sends its webhook every 30 seconds, and later where that fails."""
    panel = follow.panel
    user = follow.change("ann", note="x", status="disabled")
    panel.registry.delete("bob", panel.root)
    panel.add("zoe")
    panel.registry.charge([("cid", 900), ("dan", 1000)])
    panel.registry.revoke_sub("eve", panel.root)
    assert len(follow.polled()) == 7
    told = {"ann": "user_updated", "zoe": "user_created", "cid": "reached_usage_percent", "dan": "user_limited",
            "eve": "subscription_revoked"}  # fmt: skip
    assert not follow.webhook("user_disabled", "ann", user)
    for name, action in told.items():
        assert not follow.webhook(action, name, user if name == "ann" else panel.shown(name)), action
    assert not follow.webhook("user_deleted", "bob")
    assert follow.polled() == []
    # The same again is another one.
    assert follow.webhook("user_updated", "ann", user)
    follow.change("ann", status="active")
    assert follow.polled() == [("user_updated", "ann"), ("user_enabled", "ann")]


def test_a_user_whose_deletion_was_told_stays_deleted(follow: Follow) -> None:
    """A change that the webhook brings after polling has told of the deletion that followed it is told no more: it would bring
    him back. Who is made anew under his name is told of like anybody."""
    older = follow.change("ann", note="paid")
    follow.panel.registry.delete("ann", follow.panel.root)
    assert follow.polled() == [("user_deleted", "ann")]
    assert not follow.webhook("user_updated", "ann", older)
    assert not follow.webhook("user_deleted", "ann")
    assert follow.polled() == []
    follow.panel.add("ann")
    assert follow.webhook("user_created", "ann", follow.panel.shown("ann"))
    assert follow.webhook("user_updated", "ann", follow.change("ann", note="paid again"))
    assert follow.polled() == [("user_created", "ann"), ("user_updated", "ann")]


def test_both_ways_in_between(follow: Follow) -> None:
    """Of one call that makes two events, the webhook tells one before the look and one after it."""
    user = follow.change("ann", note="x", status="disabled")
    assert follow.webhook("user_updated", "ann", user)
    follow.told()
    assert follow.polled() == [("user_disabled", "ann")]
    assert not follow.webhook("user_disabled", "ann", user)
    assert follow.polled() == []


def test_what_the_webhook_keeps_silent_about_is_still_told(follow: Follow) -> None:
    """A bulk operation, and then a webhook about the same user which shows its outcome, but is about something else."""
    follow.panel.registry.disable_all("root", follow.panel.root)
    user = follow.change("ann", note="x")
    assert follow.webhook("user_updated", "ann", user)
    follow.told()
    assert ("user_disabled", "ann") in follow.polled()


def test_an_older_look_does_not_take_back_what_the_webhook_told(follow: Follow) -> None:
    """The page was made before the change, and comes in after it."""
    panel, done = follow.panel, []

    def meanwhile(path: str) -> None:
        # The answer is made from what was read at the start of the request.
        if path == "/api/users" and not done:
            done.append(True)
            follow.clock.advance(0.5)
            follow.ingest.take(
                PANELS["marzban"], json.dumps([{"action": "user_deleted", "username": "ann", "by": None}]).encode()
            )

    panel.before = meanwhile
    assert follow.polled() == [("user_deleted", "ann")]
    panel.before = lambda path: None
    panel.registry.delete("ann", panel.root)
    assert follow.polled() == []


def test_of_several_panels_the_one_that_is_named_counts(follow: Follow) -> None:
    """`/ingest/marzban?source=ID`; where nobody says which, nothing is compared, and nothing is lost."""
    with follow.database.write() as tx:
        other = sources.create(tx, kind="marzban", url="http://127.0.0.1:1", token="t", now=follow.clock.now())
        sources.note(tx, other, snapshot_at=follow.clock.now())
    follow.change("ann", note="x")
    assert follow.polled() == [("user_updated", "ann")]
    body = json.dumps(
        [{"action": "user_updated", "username": "ann", "by": None, "user": follow.panel.shown("ann")}]
    ).encode()
    assert follow.ingest.take(PANELS["marzban"], body, source_id=follow.id).duplicates == 1
    follow.change("ann", note="y")
    assert follow.polled() == [("user_updated", "ann")]
    assert follow.webhook("user_updated", "ann", follow.panel.shown("ann"))


def test_a_number_that_no_source_has_counts_for_none(follow: Follow, caplog: pytest.LogCaptureFixture) -> None:
    """As after a panel was removed and added anew, and its webhook still says the old number: the only one is meant, and
    the log says what to mend."""
    follow.change("ann", note="x")
    assert follow.polled() == [("user_updated", "ann")]
    body = json.dumps(
        [{"action": "user_updated", "username": "ann", "by": None, "user": follow.panel.shown("ann")}]
    ).encode()
    assert follow.ingest.take(PANELS["marzban"], body, source_id=follow.id + 1).duplicates == 1
    assert "marzhook source list" in caplog.text


def test_a_user_who_makes_no_sense_stops_nobody() -> None:
    """Of whatever shape: the others of his page are followed."""
    users = shown([{"username": "odd", "status": None}, {"username": "x" * 200, "status": "active"}, {},
                   {"username": "even", "status": "active", "used_traffic": "many"},
                   {"username": "ann", "status": "active", "created_at": "2026"}])  # fmt: skip
    assert [*users] == ["ann"]
