"""The registry: changes and their events, in one transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from marzhook import signals
from marzhook.errors import ConflictError, ForbiddenError, InvalidError, InvalidUserError, NotFoundError
from marzhook.sources.registry import Registry
from marzhook.store.user_lists import UserQuery
from marzhook.user import Thresholds

if TYPE_CHECKING:
    from registries import World

pytest_plugins = ["registries"]


def test_a_user_lives_and_each_step_is_told(world: World) -> None:
    """Every change leaves its events, in order, each with the time of its own commit."""
    boss = world.admin("boss", is_sudo=True)
    world.add(data_limit=100, by=boss)
    times = [world.last()[0]]
    steps = (
        lambda: world.registry.modify("ALICE", {"note": "x"}, boss),
        lambda: world.registry.charge([("alice", 100)]),
        lambda: world.registry.reset("alice", boss),
        lambda: world.registry.revoke_sub("alice", boss),
        lambda: world.registry.set_owner("alice", "boss", boss),
        lambda: world.registry.delete("alice", boss),
    )
    for step in steps:
        world.clock.advance(10)
        step()
        times.append(world.last()[0])
    assert world.actions() == [
        "user_created", "user_updated", "user_limited", "data_usage_reset", "user_enabled", "subscription_revoked",
        "user_updated", "user_deleted",
    ]  # fmt: skip
    assert times == [times[0] + 10 * i for i in range(7)]
    assert world.last()[1] == {"by": {"username": "boss", "is_sudo": True}}
    with pytest.raises(NotFoundError, match="User not found"):
        world.registry.get("alice", boss)


def test_a_change_and_its_events_are_one(world: World) -> None:
    """What fails between the change and the commit leaves neither of them (the panel leaves either one)."""
    world.add()

    def crash() -> None:
        raise RuntimeError("crash")

    for step in (
        lambda: world.registry.delete("alice", None),
        lambda: world.registry.modify("alice", {"status": "disabled"}, None),
        lambda: world.add("bob"),
    ):
        with signals.listening("publish.before_commit", crash), pytest.raises(RuntimeError, match="crash"):
            step()
    assert world.events() == [("user_created", "alice")]
    assert world.registry.get("alice", None).status == "active"


def test_what_is_stored_is_what_was_said(world: World) -> None:
    """A user read back is the user that create returned, with every field."""
    made = world.add(
        proxies={"vless": {"id": "é", "flow": ""}}, inbounds={"vless": ["VLESS TCP"]}, links=["vless://x"],
        excluded_inbounds={"vless": []}, data_limit="1000", expire=world.at + 999, note="n",
        data_limit_reset_strategy="month", auto_delete_in_days=-1, on_hold_timeout="2027-01-01T00:00:00",
        next_plan={"data_limit": 5, "expire": 0, "fire_on_either": False}, unknown="field", online_at=None,
    )  # fmt: skip
    got = world.registry.get("alice", None)
    assert got.shown() == made.shown()
    assert got.shown()["on_hold_timeout"] == "2027-01-01T00:00:00"
    assert got.shown()["next_plan"] == {
        "data_limit": 5, "expire": None, "add_remaining_traffic": False, "fire_on_either": False,
    }  # fmt: skip
    assert got.next_plan == made.next_plan


def test_a_change_is_stored_to_the_letter(world: World) -> None:
    """What Python takes for equal (1 and true, another order of keys) is stored as it was sent all the same."""
    world.add(proxies={"a": 1, "b": 2})
    for proxies in ({"a": True, "b": 2}, {"b": 2, "a": True}):
        world.registry.modify("alice", {"proxies": proxies}, None)
        assert json.dumps(world.registry.get("alice", None).proxies) == json.dumps(proxies)


def test_names_differ_by_more_than_case(world: World) -> None:
    """Alice and alice are one."""
    world.add("Alice")
    with pytest.raises(ConflictError, match="User already exists"):
        world.add("alice")
    assert world.registry.get("aLICE", None).username == "Alice"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"username": "ab"}, "username"),
        ({"username": "a" * 33}, "username"),
        ({"username": "with space"}, "username"),
        ({"username": "nul\0nul"}, "username"),
        ({"username": None}, "username"),
        ({"username": 12345}, "username"),
        ({"data_limit": -1}, "data_limit"),
        ({"data_limit": 1.5}, "data_limit"),
        ({"data_limit": True}, "data_limit"),
        ({"data_limit": 2**63}, "data_limit"),
        ({"expire": 10**15}, "expire"),
        ({"expire": "soon"}, "expire"),
        ({"status": "disabled"}, "status"),
        ({"status": "on_hold"}, "status"),
        ({"status": "on_hold", "on_hold_expire_duration": 9, "expire": 9}, "expire"),
        ({"data_limit_reset_strategy": "hourly"}, "data_limit_reset_strategy"),
        ({"note": "x" * 501}, "note"),
        ({"note": "\ud800"}, "note"),
        ({"proxies": []}, "proxies"),
        ({"proxies": {"x": "y" * 40_000}}, "proxies"),
        ({"links": "vless://"}, "links"),
        ({"on_hold_timeout": "tomorrow"}, "on_hold_timeout"),
        ({"on_hold_timeout": "0001-01-01T00:00:00+14:00"}, "on_hold_timeout"),
        ({"next_plan": 5}, "next_plan"),
        ({"next_plan": {"fire_on_either": "yes"}}, "next_plan"),
        ({"auto_delete_in_days": 10**9}, "auto_delete_in_days"),
        ({"on_hold_expire_duration": 10**12}, "on_hold_expire_duration"),
    ],
)
def test_wrong_fields_are_named(world: World, fields: dict[str, Any], wrong: str) -> None:
    """Each wrong field is told in the panel's way, and nothing is made."""
    with pytest.raises(InvalidUserError) as caught:
        world.registry.create({"username": "alice", **fields}, None)
    assert caught.value.fields[wrong].startswith("Value error, ")
    assert world.events() == []


def test_zero_means_unlimited_and_null_means_unchanged(world: World) -> None:
    """The panel's convention for a PUT."""
    world.add(data_limit=100, expire=world.at + 9999, note="x")
    same = world.registry.modify("alice", {"data_limit": None, "expire": None, "note": None}, None)
    assert (same.data_limit, same.expire, same.note) == (100, world.at + 9999, "x")
    free = world.registry.modify("alice", {"data_limit": 0, "expire": 0}, None)
    assert (free.data_limit, free.expire) == (None, None)


def test_an_admin_reaches_his_own_users_only(world: World) -> None:
    """Another's user is forbidden, missing ones are missing; sudo reaches all."""
    ann, bob, boss = world.admin("ann"), world.admin("bob"), world.admin("boss", is_sudo=True)
    world.add("anns", by=ann)
    world.add("nobodys")
    for username in ("anns", "nobodys"):
        for call in (
            lambda name: world.registry.get(name, bob),
            lambda name: world.registry.modify(name, {}, bob),
            lambda name: world.registry.reset(name, bob),
            lambda name: world.registry.revoke_sub(name, bob),
            lambda name: world.registry.delete(name, bob),
            lambda name: world.registry.usage(name, world.clock.now(), world.clock.now(), bob),
        ):
            with pytest.raises(ForbiddenError, match="You're not allowed"):
                call(username)
    for sudo_only in (
        lambda: world.registry.set_owner("anns", "bob", ann),
        lambda: world.registry.reset_all(ann),
        lambda: world.registry.disable_all("ann", ann),
        lambda: world.registry.activate_all("ann", ann),
    ):
        with pytest.raises(ForbiddenError):
            sudo_only()
    assert [user.username for user in world.registry.list(UserQuery(), ann)[0]] == ["anns"]
    assert world.registry.list(UserQuery(admins=["ann"]), bob) == ([], 0)
    given_away = world.registry.set_owner("anns", "bob", boss)
    assert given_away.admin is not None
    assert world.registry.get("anns", bob).admin == given_away.admin
    with pytest.raises(NotFoundError, match="Admin not found"):
        world.registry.set_owner("anns", "nobody", boss)


def test_bulk_calls_tell_every_user(world: World) -> None:
    """Disable, activate and reset of many users, which the panel does silently, make their events."""
    ann = world.admin("ann")
    for i in range(3):
        world.add(f"user{i}", by=ann, data_limit=10)
    world.add("held", by=ann, status="on_hold", on_hold_expire_duration=60)
    world.add("other")
    world.registry.charge([("user0", 10)])
    assert world.registry.disable_all("ann", None) == 3
    assert world.registry.activate_all("ann", None) == 3
    assert world.registry.reset_all(None) == 5
    assert world.actions("user0") == ["user_created", "user_limited", "data_usage_reset", "user_enabled"]
    assert world.actions("user1") == ["user_created", "user_disabled", "user_enabled", "data_usage_reset"]
    assert world.actions("held") == ["user_created", "user_disabled", "user_updated", "data_usage_reset"]
    assert world.actions("other") == ["user_created", "data_usage_reset"]
    with pytest.raises(NotFoundError, match="Admin not found"):
        world.registry.disable_all("nobody", None)


def test_bulk_calls_work_in_chunks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More users than fit in one transaction are all reached, each once, and a broken row stops nobody."""
    monkeypatch.setattr("marzhook.sources.registry.CHUNK", 3)
    for i in range(8):
        world.add(f"user{i}")
    world.sql("UPDATE users SET inbounds = '[' WHERE username = 'user4'")
    assert world.registry.reset_all(None) == 7
    assert sum(action == "data_usage_reset" for action, _ in world.events()) == 7
    assert world.errors() == 1


def test_expired_users_are_listed_and_deleted(world: World) -> None:
    """By the range of their expiry; a broken row can be deleted, too."""
    for i in range(4):
        world.add(f"user{i}", expire=world.at + 100 * (i + 1))
    world.sql("UPDATE users SET proxies = 'broken' WHERE username = 'user0'")
    world.clock.advance(350)
    world.review.pass_once(world.clock.now())
    world.sql("UPDATE users SET status = 'expired' WHERE username = 'user0'")
    assert world.registry.expired(None, None, None) == ["user0", "user1", "user2"]
    after, before = world.clock.now().replace(second=0), world.clock.now()
    assert world.registry.expired(after, before, None) == ["user2"]
    assert world.registry.delete_expired(None, None, None) == ["user0", "user1", "user2"]
    assert world.registry.delete_expired(None, None, None) == []
    assert world.actions("user0")[-1] == "user_deleted"


def test_the_list_filters_sorts_and_pages(world: World) -> None:
    """Every filter of the panel's list; total ignores offset and limit."""
    ann = world.admin("ann")
    for name, note, limit, by in (("Anna", "x%y", 5, ann), ("berta", None, 1, None), ("carla", "anna's", 3, ann)):
        world.add(name, note=note, data_limit=limit, by=by)
    world.registry.modify("berta", {"status": "disabled"}, None)

    def names(**query: Any) -> list[str]:
        return [user.username for user in world.registry.list(UserQuery(**query), None)[0]]

    assert names() == ["Anna", "berta", "carla"]
    assert names(search="ANN") == ["Anna", "carla"]
    assert names(search="%") == ["Anna"]
    assert names(usernames=["BERTA", "carla"]) == ["berta", "carla"]
    assert names(admins=["ann"]) == ["Anna", "carla"]
    assert names(status="disabled") == ["berta"]
    assert names(sort="-data_limit") == ["Anna", "carla", "berta"]
    assert names(sort="-created_at,username") == ["Anna", "berta", "carla"]
    assert names(sort="-username", offset=1, limit=1) == ["berta"]
    assert world.registry.list(UserQuery(limit=1), None)[1] == 3
    assert world.registry.list(UserQuery(offset=2), None)[1] == 3
    with pytest.raises(InvalidError, match="password") as caught:
        names(sort="password")
    assert caught.value.code == "invalid_sort"


def test_actions_that_are_switched_off_are_not_published(world: World) -> None:
    """Only published_actions leave events; the change is made all the same."""
    quiet = Registry(
        world.database, world.outbox, world.clock, published_actions={"user_disabled"}, thresholds=Thresholds()
    )
    quiet.create({"username": "alice"}, None)
    quiet.modify("alice", {"status": "disabled"}, None)
    assert world.actions() == ["user_disabled"]
