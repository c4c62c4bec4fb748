"""Filters as pure decisions: which events an endpoint is owed."""

from __future__ import annotations

import fnmatch
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook.condition import MAX_LENGTH, Condition, check_condition
from marzhook.errors import ConditionError, InvalidError
from marzhook.event import NewEvent, detail_json, safe
from marzhook.filter import MOST, Filter, Offered, check_actions, check_admins, check_usernames

USER = {
    "status": "active", "note": None, "data_limit": 1 << 30, "used_traffic": 0, "links": ["vless://hush"],
    "subscription_url": "/sub/hush", "inbounds": {"vless": ["A", "B"]}, "admin": {"username": "alice", "telegram_id": 7},
}  # fmt: skip
DETAIL = {"by": {"username": "root", "is_sudo": True}, "user": USER}


def offered(username: str = "vip_1", action: str = "user_updated", **values: Any) -> Offered:
    new = NewEvent(action, username, values.pop("detail", DETAIL), **values)
    return Offered(new, 1680506457.5, detail_json(safe(new.detail)))


def owed(one: Offered | None = None, **values: Any) -> bool:
    return Filter(**values).passes(one or offered())


# -- users' names


@pytest.mark.parametrize(
    ("patterns", "matching", "other"),
    [
        (["vip_*"], ["vip_1", "VIP_x", "vip_"], ["a_vip_1", "vip"]),
        (["VIP_?", "gold"], ["vip_1", "Gold"], ["vip_12", "golden"]),
        (["!test_*"], ["anna", "atest_1", "endpoint-3"], ["test_1", "TEST_"]),
        (["*", "!test_*", "!*_old"], ["anna"], ["test_1", "anna_old"]),
        (["!vip_1", "vip_*"], ["vip_2"], ["vip_1", "anna"]),
        (["user[0-9]", "[!a]b"], ["user7", "bb"], ["userx", "ab"]),
        (["علی*"], ["علی۱"], ["رضا"]),
    ],
)
def test_patterns_of_names(patterns: list[str], matching: list[str], other: list[str]) -> None:
    """Some pattern has to match, where not all exclude, and no exclusion may; case means nothing, as in the registry."""
    wanted = check_usernames(patterns)
    assert all(owed(offered(name), usernames=wanted) for name in matching)
    assert not any(owed(offered(name), usernames=wanted) for name in other)


GLOBS = st.text("ab*?[]!-_A", min_size=1, max_size=8)
SHORT = st.text("abAB_-!", min_size=1, max_size=6)


@given(st.lists(GLOBS.filter(lambda p: p != "!"), min_size=1, max_size=4), SHORT)
def test_patterns_are_those_of_a_shell(patterns: list[str], name: str) -> None:
    """`fnmatch` of the standard library on names in lower case is what decides about each pattern."""

    def matches(pattern: str) -> bool:
        return fnmatch.fnmatchcase(name.lower(), pattern.lower())

    including = [p for p in patterns if not p.startswith("!")]
    excluding = [p[1:] for p in patterns if p.startswith("!")]
    expected = (not including or any(map(matches, including))) and not any(map(matches, excluding))
    assert owed(offered(name), usernames=check_usernames(patterns)) is expected


def test_no_pattern_takes_long() -> None:
    """Stars upon stars are no work."""
    began = time.thread_time()
    assert not owed(offered("a" * 128), usernames=check_usernames(["*a" * 60 + "b"]))
    assert time.thread_time() - began < 1


# -- admins


@pytest.mark.parametrize(
    ("one", "names"),
    [
        (offered(), {"alice", "root"}),
        (offered(detail={"by": None, "user": USER}), {"alice"}),
        (offered(action="user_deleted", detail={"by": {"username": "root"}}, owner="alice"), {"alice", "root"}),
        (offered("endpoint-1", "endpoint_failing", detail={"endpoint": {"id": 1}}), set()),
        (offered(detail={"by": "root", "user": [], "x": {"admin": {"username": "x"}}}), set()),
        (offered(detail={"by": {"username": 5}, "user": {"admin": None}}), set()),
    ],
)
def test_whose_user_it_is_and_who_did_it(one: Offered, names: set[str]) -> None:
    """An event is its user's admin's, and that of who did it; one about an endpoint is nobody's."""
    assert one.admins == names
    for name in ("alice", "root", "Alice", "bob"):
        assert owed(one, admins=check_admins([name])) is (name in names)


# -- conditions


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        ("user.status == 'active'", True),
        ("user.status != 'active'", False),
        ("username == 'vip_1' && action == 'user_updated'", True),
        ("by.is_sudo", True),
        ("!by.is_sudo || user.note", False),
        ("user.used_traffic", True),  # 0 is true
        ("user.note", False),
        ("nothing.at.all", False),
        ("user.data_limit > `1000000`", True),
        ("user.data_limit > user.note", False),
        ("contains(user.inbounds.vless, 'A')", True),
        ("contains(['active', 'on_hold'], user.status)", True),
        ("starts_with(username, 'vip_') && length(user.inbounds.vless[?@ != 'A']) == `1`", True),
        ("user.inbounds.*[]|[0]", True),
        ("user.inbounds.vless[5:]", False),
        ("tries == `0` && enqueued_at > `1`", True),
        ("not_null(user.note, 'x') == 'x'", True),
        # What only `full` sees is not there, and cannot be found out.
        ("user.links || user.subscription_url || user.proxies", False),
        ("user.admin.telegram_id", False),
    ],
)
def test_conditions(condition: str, true: bool) -> None:
    """JMESPath over the event as the wire has it, without credentials; its own rules say what is true."""
    assert owed(condition=check_condition(condition)) is true


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "1 to"),
        ("x" * (MAX_LENGTH + 1), "1 to"),
        (5, "1 to"),
        ("a\nb", "control"),
        ("user.status ==", "Incomplete expression"),
        ("user.status = 'a'", "(character"),
        ("user status", "(character"),
        ('user.status == "active"', "write a text as 'active'"),
        ("foo(user)", "there is no function foo()"),
        ("contains(user)", "contains() takes 2 arguments, not 1"),
        ("[@, @]", "may only hold"),
        ("{a: @, b: @}", "an object"),
        ("map(&a, b)", "there is no function map()"),
        ("max(&a)", "an expression as an argument"),
        ("!" * 60 + "a", "nested"),
    ],
)  # fmt: skip
def test_conditions_that_are_refused(condition: Any, said: str) -> None:
    """What is no JMESPath, what nobody means, and what could make much out of little, is named when it is written."""
    with pytest.raises(InvalidError) as raised:
        check_condition(condition)
    assert said in str(raised.value)
    assert raised.value.code == "invalid_condition"
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("contains(user.note, 'vip')", "contains() got null, and takes array or string"),
        ("username > `5`", "it cannot be evaluated (TypeError)"),
        ("big[*].[*].[*].a", "may only"),
        ("big[*].a", "steps"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_told(condition: str, said: str) -> None:
    """A value of the wrong kind, and more than a condition may look at, are told without the values."""
    one = offered(detail={**DETAIL, "big": [{"a": n} for n in range(5000)]})
    with pytest.raises((ConditionError, InvalidError)) as raised:
        owed(one, condition=check_condition(condition))
    assert said in str(raised.value)


EXPRESSIONS = st.recursive(
    st.sampled_from(["@", "user", "big", "action", "'x'", "`1`", "user.note", "['a', 'b']"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["==", "<", "&&", "||", "|"]), inner),
        st.builds("!{}".format, inner),
        st.builds("{}[{}]".format, inner, st.sampled_from(["*", "", "0", "::2", "?a", "?@ == 'x'"])),
        st.builds("{}.*".format, inner),
        st.builds(
            "{}({})".format, st.sampled_from(["length", "to_string", "to_array", "values", "sort", "keys"]), inner
        ),
        st.builds("contains({}, {})".format, inner, inner),
    ),
    max_leaves=15,
)


@given(EXPRESSIONS)
def test_whatever_is_asked_is_answered_soon(condition: str) -> None:
    """Any expression is refused, or ends within its steps (the time is its own: the machine may be busy), and is the same when
    it is read again."""
    one = offered(detail={**DETAIL, "big": [[{"a": [n] * 10} for n in range(10)] * 20] * 20})
    began = time.thread_time()
    try:
        answers = [Condition(condition).holds(one.wire) for _ in range(2)]
    except (ConditionError, InvalidError):
        answers = []
    assert time.thread_time() - began < 2
    assert answers in ([], [True, True], [False, False])


# -- all of it


@given(
    *[st.booleans()] * 4,
    st.sampled_from(["vip_1", "test_1"]),
    st.sampled_from(["user_updated", "user_deleted"]),
    st.sampled_from(["active", "limited"]),
    st.sampled_from(["alice", "bob"]),
)
def test_all_that_is_named_must_hold(
    by_action: bool, by_admin: bool, by_name: bool, by_condition: bool, name: str, action: str, status: str, admin: str
) -> None:
    """A filter is the conjunction of its parts, and what it does not name does not matter."""
    one = offered(name, action, detail={"by": {"username": admin}, "user": {"status": status}})
    parts: list[tuple[bool, dict[str, Any], bool]] = [
        (by_action, {"actions": {"user_updated"}}, action == "user_updated"),
        (by_admin, {"admins": {"alice"}}, admin == "alice"),
        (by_name, {"usernames": ("vip_*",)}, name == "vip_1"),
        (by_condition, {"condition": "user.status == 'active'"}, status == "active"),
    ]
    wanted = Filter(**{k: v for named, values, _ in parts if named for k, v in values.items()})
    assert wanted.passes(one) is all(holds for named, _, holds in parts if named)
    assert wanted.by_action is not (by_admin or by_name or by_condition)
    assert one.meets(wanted) is one.meets(wanted) is wanted.passes(one)


def test_a_condition_is_evaluated_once_for_all_that_share_it() -> None:
    """A thousand endpoints with one filter ask it once of an event, and its object is made once."""
    wanted, one = Filter(condition="user.status == 'active'"), offered()
    assert one.meets(wanted)
    one.wire.clear()
    assert one.meets(wanted)
    assert not one.meets(Filter(condition="user.status == 'active'"))


def test_an_event_is_only_looked_at_by_filters_that_ask() -> None:
    """Where names suffice, nothing is parsed."""
    assert not owed(Offered(NewEvent("user_created", "anna"), 0.0, "no json"), usernames=("vip_*",), condition="a")
    with pytest.raises(json.JSONDecodeError):
        owed(Offered(NewEvent("user_created", "anna"), 0.0, "no json"), condition="a")


@pytest.mark.parametrize("check", [check_actions, check_admins, check_usernames])
@pytest.mark.parametrize(
    "value", [[], "user_created", None, {"a": 1}, [5], [""], ["a\nb"], ["x" * 200], ["a"] * (MOST + 1)]
)
def test_lists_that_are_refused(check: Any, value: Any) -> None:
    """Empty lists mean nothing that somebody could want; names are names."""
    with pytest.raises(InvalidError) as raised:
        check(value)
    assert raised.value.code in ("invalid_action", "invalid_admins", "invalid_usernames")


def test_an_exclusion_needs_a_name() -> None:
    with pytest.raises(InvalidError):
        check_usernames(["!"])
