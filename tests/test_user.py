"""The pure core of the registry: transitions of users, and the events that they make."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook import user as u
from marzhook.admin import Admin
from marzhook.errors import InvalidUserError
from marzhook.user import NextPlan, Thresholds, User, changes

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
AT = int(NOW.timestamp())
DAY = 86_400
BOSS = Admin(1, "boss", True)
THRESHOLDS = Thresholds((80, 95), (7, 3))

# -- what users can be like

moments = st.integers(-400 * DAY, 400 * DAY).map(lambda seconds: NOW + timedelta(seconds=seconds))
past = st.integers(0, 500 * DAY).map(lambda seconds: NOW - timedelta(seconds=seconds))
expires = st.none() | st.integers(AT - 30 * DAY, AT + 30 * DAY)
limits = st.none() | st.integers(1, 1000)
plans = st.builds(
    NextPlan,
    data_limit=limits,
    expire=st.none() | st.integers(1, 30 * DAY) | st.integers(AT - DAY, AT + 30 * DAY),
    add_remaining_traffic=st.booleans(),
    fire_on_either=st.booleans(),
)
users = st.builds(
    User,
    username=st.just("alice"),
    created_at=past,
    status=st.sampled_from(u.STATUSES),
    expire=expires,
    data_limit=limits,
    data_limit_reset_strategy=st.sampled_from(sorted(u.RESET_DAYS)),
    used_traffic=st.integers(0, 1200),
    on_hold_expire_duration=st.none() | st.integers(1, 60 * DAY),
    on_hold_timeout=st.none() | moments,
    auto_delete_in_days=st.none() | st.integers(-1, 10),
    next_plan=st.none() | plans,
    status_changed_at=st.none() | past,
    traffic_reset_at=st.none() | past,
    announced_days_left=st.none() | st.sampled_from([3, 7]),
)
thresholds = st.builds(
    Thresholds,
    usage_percents=st.lists(st.integers(1, 100), max_size=3).map(tuple),
    days_left=st.lists(st.integers(1, 30), max_size=3).map(tuple),
)
settled = st.builds(lambda user, th: (u.assessed(user, NOW, th), th), users, thresholds)
"""A user as he is after a write, and the thresholds in force."""


def actions(before: User | None, after: User | None, th: Thresholds = THRESHOLDS, now: datetime = NOW) -> list[str]:
    return [event.action for event in changes(before, after, by=BOSS, now=now, thresholds=th)]


def make(**fields: Any) -> User:
    return replace(User("alice", NOW - timedelta(days=1)), **fields)


def put(user: User, now: datetime = NOW, **fields: Any) -> User:
    return u.assessed(u.modified(user, fields, now), now, THRESHOLDS)


# -- properties


@given(settled, st.data())
def test_nothing_happens_before_review_at(settled: tuple[User, Thresholds], data: st.DataObject) -> None:
    """Whoever is looked at before his review_at is found unchanged."""
    user, th = settled
    due = u.next_review_at(user, th)
    latest = NOW + timedelta(days=800) if due is None else due - timedelta(microseconds=1)
    if latest < NOW:
        assert u.is_forgotten(user, NOW)
        return
    then = NOW + data.draw(st.timedeltas(timedelta(0), latest - NOW))
    assert u.assessed(user, then, th) == user
    assert not u.is_forgotten(user, then)


@given(settled, st.data())
def test_traffic_below_review_traffic_moves_only_the_counters(
    settled: tuple[User, Thresholds], data: st.DataObject
) -> None:
    """A report that leaves a user below his review_traffic makes no event and changes nothing but the counters."""
    user, th = settled
    limit = u.next_review_traffic(user, th)
    if limit is not None and limit <= user.used_traffic + 1:
        return
    amount = data.draw(st.integers(1, 2000 if limit is None else limit - 1 - user.used_traffic))
    after = u.assessed(u.charged(user, amount, NOW), NOW, th)
    assert changes(user, after, by=None, now=NOW, thresholds=th) == []
    counters = {"used_traffic": user.used_traffic, "lifetime_used_traffic": 0, "online_at": None}
    assert replace(after, **counters) == user


@given(settled)
def test_a_review_makes_progress(settled: tuple[User, Thresholds]) -> None:
    """After a review at review_at the next one is later, or the user is gone: the review never spins."""
    user, th = settled
    due = u.next_review_at(user, th)
    if due is None:
        return
    then = max(due, NOW)
    if u.is_forgotten(user, then):
        return
    after = u.assessed(user, then, th)
    assert u.assessed(after, then, th) == after
    following = u.next_review_at(after, th)
    assert following is None or following > then or u.is_forgotten(after, then)


@given(users, thresholds, moments, st.integers(0, 1500))
def test_a_receiver_that_follows_the_events_knows_the_status(
    user: User, th: Thresholds, now: datetime, amount: int
) -> None:
    """A status that time or traffic change is always told, and told as it finally is."""
    after = u.assessed(u.charged(user, amount, now), now, th)
    told = [a for a in actions(user, after, th, now) if a in ("user_enabled", "user_limited", "user_expired")]
    expected = {"active": "user_enabled", "limited": "user_limited", "expired": "user_expired"}
    assert told == ([] if after.status == user.status else [expected[after.status]])
    assert user.status != "disabled" or after.status == "disabled"


@given(users, thresholds, moments)
def test_events_have_the_panels_keys_and_are_json(user: User, th: Thresholds, now: datetime) -> None:
    """Each event's detail is JSON with the panel's keys in the panel's order."""
    for before, after in ((None, user), (user, u.assessed(u.reset(user, now), now, th)), (user, None)):
        for event in changes(before, after, by=BOSS, now=now, thresholds=th):
            json.dumps(event.detail, allow_nan=False)
            assert list(event.detail) == KEYS[event.action]


KEYS = {
    "user_created": ["by", "user"],
    "user_updated": ["by", "user"],
    "user_enabled": ["by", "user"],
    "data_usage_reset": ["by", "user"],
    "subscription_revoked": ["by", "user"],
    "user_limited": ["user"],
    "user_expired": ["user"],
    "data_reset_by_next": ["user"],
    "user_disabled": ["by", "user", "reason"],
    "user_deleted": ["by"],
    "reached_usage_percent": ["user", "used_percent"],
    "reached_days_left": ["user", "days_left"],
}


def test_a_user_is_shown_with_the_panels_keys_in_their_order() -> None:
    """The keys of a snapshot, and of its admin, are those of the panel."""
    assert list(make(admin=BOSS, next_plan=NextPlan()).shown()) == [
        "proxies", "expire", "data_limit", "data_limit_reset_strategy", "inbounds", "note", "sub_updated_at",
        "sub_last_user_agent", "online_at", "on_hold_expire_duration", "on_hold_timeout", "auto_delete_in_days",
        "next_plan", "username", "status", "used_traffic", "lifetime_used_traffic", "created_at", "links",
        "subscription_url", "excluded_inbounds", "admin",
    ]  # fmt: skip
    assert make().shown()["created_at"] == "2026-02-28T12:00:00.250000"


# -- what people do


def test_the_first_event_of_a_user() -> None:
    """A new user makes user_created; one whose time is over already makes user_expired, too."""
    assert actions(None, make()) == ["user_created"]
    assert actions(None, make(status="on_hold")) == ["user_created"]
    late = u.assessed(u.created({"username": "alice", "expire": AT - 5}, NOW, BOSS), NOW, THRESHOLDS)
    assert actions(None, late) == ["user_created", "user_expired"]


@pytest.mark.parametrize(
    ("user", "fields", "expected"),
    [
        ({}, {"note": "x"}, ["user_updated"]),
        ({}, {}, ["user_updated"]),
        ({}, {"status": "disabled"}, ["user_updated", "user_disabled"]),
        ({"status": "disabled"}, {"status": "active"}, ["user_updated", "user_enabled"]),
        ({"used_traffic": 500}, {"data_limit": 400}, ["user_updated", "user_limited"]),
        ({}, {"expire": AT - 1}, ["user_updated", "user_expired"]),
        ({"status": "expired", "expire": AT - 9}, {"expire": AT + 90 * DAY}, ["user_updated", "user_enabled"]),
        ({"status": "expired", "expire": AT - 9}, {"expire": None}, ["user_updated", "user_enabled"]),
        ({"status": "limited", "used_traffic": 9, "data_limit": 9}, {"data_limit": 99}, ["user_updated", "user_enabled"]),
        ({"status": "limited", "used_traffic": 9, "data_limit": 9}, {"status": "active"}, ["user_updated"]),
        ({"used_traffic": 85}, {"data_limit": 100}, ["user_updated", "reached_usage_percent"]),
        ({}, {"expire": AT + 2 * DAY}, ["user_updated", "reached_days_left"]),
        ({"status": "expired", "expire": AT - 9, "used_traffic": 9, "data_limit": 9}, {"expire": None},
         ["user_updated", "user_limited"]),
    ],
)  # fmt: skip
def test_what_a_put_makes(user: dict[str, Any], fields: dict[str, Any], expected: list[str]) -> None:
    """A PUT makes user_updated, and behind it what the change leads to."""
    before = make(**user)
    assert actions(before, put(before, **fields)) == expected


def test_two_puts_at_the_same_clock_reading_are_two_events() -> None:
    """A coarse clock hides no change."""
    once = put(make())
    assert actions(once, put(once)) == ["user_updated"]


def test_reset_of_a_limited_user_enables_him() -> None:
    """Where the panel leaves its receivers believing that he is limited, user_enabled follows the reset."""
    before = make(status="limited", used_traffic=100, data_limit=100)
    after = u.assessed(u.reset(before, NOW), NOW, THRESHOLDS)
    assert actions(before, after) == ["data_usage_reset", "user_enabled"]
    assert (after.used_traffic, after.status) == (0, "active")


def test_revoking_renews_every_credential() -> None:
    """Ids, passwords and the subscription address change; what else a proxy has stays."""
    before = make(
        proxies={"vless": {"id": "old", "flow": "x"}, "trojan": {"password": "old"}}, subscription_url="/sub/1"
    )
    after = u.revoked(before, NOW)
    assert actions(before, after) == ["subscription_revoked"]
    assert after.proxies["vless"]["id"] != "old"
    assert after.proxies["vless"]["flow"] == "x"
    assert after.proxies["trojan"]["password"] != "old"
    assert after.subscription_url != "/sub/1"


def test_bulk_disabling_and_back() -> None:
    """Bulk calls make user_disabled and user_enabled; who was on hold goes back on hold, which is told as an update."""
    before = make()
    off = u.disabled(before, NOW)
    assert actions(before, off) == ["user_disabled"]
    assert actions(off, u.activated(off, NOW)) == ["user_enabled"]
    held = make(status="on_hold", on_hold_expire_duration=DAY)
    back = u.activated(u.disabled(held, NOW), NOW)
    assert back.status == "on_hold"
    assert actions(u.disabled(held, NOW), back) == ["user_updated"]


def test_going_on_hold_needs_a_duration() -> None:
    """A PUT to on_hold without a duration anywhere is refused; with one, the old expiry is gone."""
    with pytest.raises(InvalidUserError, match="on_hold_expire_duration"):
        put(make(), status="on_hold")
    held = put(make(expire=AT + DAY), status="on_hold", on_hold_expire_duration=9 * DAY)
    assert (held.status, held.expire) == ("on_hold", None)
    begun = put(held, status="active")
    assert (begun.status, begun.expire, begun.on_hold_expire_duration) == ("active", AT + 9 * DAY, None)


# -- what time and traffic do


def test_the_highest_threshold_crossed_is_told_once() -> None:
    """One report across two thresholds makes one event; more traffic below the next makes none."""
    before = make(data_limit=1000)
    after = u.assessed(u.charged(before, 960, NOW), NOW, THRESHOLDS)
    [event] = changes(before, after, by=None, now=NOW, thresholds=THRESHOLDS)
    assert (event.action, event.detail["used_percent"]) == ("reached_usage_percent", 96.0)
    assert actions(after, u.charged(after, 10, NOW)) == []
    over = u.assessed(u.charged(before, 1000, NOW), NOW, THRESHOLDS)
    assert actions(before, over) == ["user_limited"]


def used(user: User, amount: int) -> User:
    return u.assessed(u.charged(user, amount, NOW), NOW, THRESHOLDS)


def test_a_threshold_crossed_while_disabled_is_told_then() -> None:
    """Late reports of a user who is disabled: told at once, and not again when he is enabled."""
    before = make(status="disabled", used_traffic=700, data_limit=1000)
    assert u.next_review_traffic(before, THRESHOLDS) == 800
    after = used(before, 150)
    assert actions(before, after) == ["reached_usage_percent"]
    assert actions(after, put(after, status="active")) == ["user_updated", "user_enabled"]


@pytest.mark.parametrize("status", ["limited", "expired"])
def test_who_comes_back_with_much_used_is_told_anew(status: str) -> None:
    """A report that went past the threshold and the limit at once tells of the limit alone. With a higher limit, or a later
    expiry, the user is active again: that he has used 85 % of it is news."""
    before = make(status=status, used_traffic=850, data_limit=850, expire=AT - 9 if status == "expired" else None)
    again = put(before, data_limit=1000, expire=None)
    assert actions(before, again) == ["user_updated", "user_enabled", "reached_usage_percent"]
    roomy = put(before, data_limit=9000, expire=None)
    assert actions(before, roomy) == ["user_updated", "user_enabled"]


def test_days_left_are_told_once_per_threshold_and_expiry() -> None:
    """At 7 and at 3 days before expiry, and again after a renewal; just announced at 3 days it says 3."""
    user = make(expire=AT + 10 * DAY)
    seen = []
    for day in range(8):
        then = NOW + timedelta(days=day)
        after = u.assessed(user, then, THRESHOLDS)
        seen += [
            (day, event.detail["days_left"]) for event in changes(user, after, by=None, now=then, thresholds=THRESHOLDS)
        ]
        user = after
    assert seen == [(3, 7), (7, 3)]
    then = NOW + timedelta(days=8)
    renewed = put(user, then, expire=AT + 10 * DAY)
    assert actions(user, renewed, now=then) == ["user_updated"]
    renewed = put(user, then, expire=AT + 12 * DAY)
    assert actions(user, renewed, now=then) == ["user_updated", "reached_days_left"]


@pytest.mark.parametrize("how", ["traffic", "timeout"])
def test_a_user_on_hold_begins(how: str) -> None:
    """The first traffic, or the timeout, makes him active and sets the end of his time."""
    held = make(status="on_hold", on_hold_expire_duration=30 * DAY, on_hold_timeout=NOW if how == "timeout" else None)
    assert u.next_review_traffic(held, THRESHOLDS) == 0
    after = u.assessed(u.charged(held, 5 if how == "traffic" else 0, NOW), NOW, THRESHOLDS)
    assert actions(held, after) == ["user_enabled"]
    assert (after.expire, after.on_hold_expire_duration, after.on_hold_timeout) == (AT + 30 * DAY, None, None)


def test_periodic_reset_keeps_to_its_grid() -> None:
    """After ten weeks' downtime there is one reset, and the next is due where it would have been anyway."""
    began = NOW - timedelta(days=72)
    user = make(data_limit_reset_strategy="week", created_at=began, used_traffic=9, data_limit=9, status="limited")
    after = u.assessed(user, NOW, THRESHOLDS)
    assert actions(user, after) == ["data_usage_reset", "user_enabled"]
    assert after.traffic_reset_at == began + timedelta(days=70)
    assert u.next_review_at(after, THRESHOLDS) == began + timedelta(days=77)


def test_the_next_plan_takes_over() -> None:
    """With fire_on_either the first end fires it: no user_limited, and what was left is added if wanted."""
    plan = NextPlan(data_limit=500, expire=30 * DAY, add_remaining_traffic=True)
    full = make(data_limit=100, used_traffic=99, next_plan=plan)
    after = u.assessed(u.charged(full, 1, NOW), NOW, THRESHOLDS)
    assert actions(full, after) == ["data_reset_by_next"]
    assert (after.data_limit, after.used_traffic, after.expire, after.next_plan) == (500, 0, AT + 30 * DAY, None)
    late = make(data_limit=100, used_traffic=60, expire=AT, next_plan=plan)
    assert u.assessed(late, NOW, THRESHOLDS).data_limit == 540


def test_a_plan_that_waits_for_both_ends() -> None:
    """Without fire_on_either the user is limited or expired first, and the plan revives him at the second end."""
    plan = NextPlan(data_limit=500, fire_on_either=False)
    user = make(data_limit=100, expire=AT + DAY, next_plan=plan)
    limited = u.assessed(u.charged(user, 100, NOW), NOW, Thresholds((), ()))
    assert limited.status == "limited"
    then = NOW + timedelta(days=1)
    assert actions(limited, u.assessed(limited, then, THRESHOLDS), now=then) == ["data_reset_by_next", "user_enabled"]
    expired = u.assessed(user, then, THRESHOLDS)
    assert (expired.status, u.next_review_traffic(expired, THRESHOLDS)) == ("expired", 100)
    revived = u.assessed(u.charged(expired, 100, then), then, THRESHOLDS)
    assert actions(expired, revived, now=then) == ["data_reset_by_next", "user_enabled"]


def test_a_plan_given_to_a_user_at_his_end_fires_at_once() -> None:
    """A PUT that brings a plan to a limited user is told as update, takeover and enabling."""
    limited = make(data_limit=10, used_traffic=10, status="limited")
    after = put(limited, next_plan=NextPlan(data_limit=50))
    assert actions(limited, after) == ["user_updated", "data_reset_by_next", "user_enabled"]


def test_expired_users_are_forgotten_when_they_want_to_be() -> None:
    """auto_delete_in_days counts from expiry; None and negative numbers mean never."""
    expired = make(status="expired", expire=AT - DAY, status_changed_at=NOW - timedelta(days=2))
    assert u.is_forgotten(replace(expired, auto_delete_in_days=2), NOW)
    assert not u.is_forgotten(replace(expired, auto_delete_in_days=3), NOW)
    for never in (None, -1):
        assert u.next_review_at(replace(expired, auto_delete_in_days=never), THRESHOLDS) is None
    [event] = changes(expired, None, by=None, now=NOW, thresholds=THRESHOLDS)
    assert (event.action, event.detail) == ("user_deleted", {"by": None})
