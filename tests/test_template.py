"""Templates: what they can say, and that whatever somebody writes ends soon, small, and inside."""

from __future__ import annotations

import html
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marzhook.destinations.template import MAX_OUTPUT, MAX_SOURCE, Template
from marzhook.destinations.values import FILTERS, TESTS, plain_text
from marzhook.errors import InvalidError, RenderError

EVENT: dict[str, Any] = {
    "username": 'a"b\\',
    "action": "user_updated",
    "tries": 0,
    "by": None,
    "user": {
        "status": "active", "note": None, "data_limit": 1 << 30, "used_traffic": 1.5, "expire": 1680506457,
        "links": ["x", "y"], "on": True, "items": "a key like any other",
    },
}  # fmt: skip
SOON = 2.0
"""Seconds. Measured are 0.2 at the most; a machine with much else to do takes longer."""


def rendered(source: str, **values: Any) -> str:
    return Template(source, **values).render(EVENT)


def refused(source: str) -> str:
    with pytest.raises(InvalidError) as raised:
        Template(source)
    assert raised.value.code == "invalid_template"
    return str(raised.value)


def failing(source: str) -> str:
    with pytest.raises(RenderError) as raised:
        rendered(source)
    return str(raised.value)


def test_what_is_put_out_is_json() -> None:
    """Within quotes a value is part of a string, without them it is itself; what is not there is null."""
    source = '{"t": "user {{ username }}", "note": {{ user.note }}, "no": {{ nobody.at.all }}, "u": {{ user }}}'
    assert json.loads(rendered(source)) == {"t": 'user a"b\\', "note": None, "no": None, "u": EVENT["user"]}
    assert rendered("{{ username|tojson }}{{ nobody|tojson }}") == '"a\\"b\\\\"null'
    # Taken apart, it is a text again.
    assert rendered("{{ (username|tojson) ~ 1 }}{{ username|tojson|upper }}") == r"\"a\\\"b\\\\\"1\"A\\\"B\\\\\""


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), RecursionError(), AttributeError(), AssertionError()])
def test_whatever_is_raised_within_names_the_line(error: Exception) -> None:
    """By a filter, or where a value is put out: all of it is the template's failure, and no other's."""

    def fail(_value: object) -> str:
        raise error

    for values in ({"filters": {"fail": fail}}, {"written": fail}):
        with pytest.raises(RenderError, match=f"template, line 2: {type(error).__name__}"):
            rendered("\n{{ username|fail }}" if "filters" in values else "\n{{ username }}", **values)


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("{{ user.data_limit|bytes }}", "1.0 GB"),
        ("{{ user.expire|time }}", "2023-04-03T07:20:57Z"),
        ("{{ user.note|time }}", "null"),
        ("{{ user.note|default('none') }}{{ nobody|default(1) }}", "none1"),
        ("{{ (user.used_traffic * 100 / 3)|round(2) }}", "50.0"),
        ("{{ 'a-b'|replace('-', '+')|upper }}", "A+B"),
        ("{{ 'abcdef'|truncate(4) }}", r"abc\u2026"),
        ("{{ user.links|join('-') }}{{ user.links|first }}{{ user.links|last }}{{ user.links|length }}", "x-yxy2"),
        ("{{ ' x '|trim|lower }}{{ 7.9|int }}{{ 7|float }}{{ 7|string }}{{ (-7)|abs }}", "x77.077"),
        ("{{ [{'a': 1}, {}]|map('a')|tojson }}", "[1, null]"),
        ("{% for k, v in {'a': 1}|items %}{{ k }}={{ v }}{% endfor %}", "a=1"),
        ("{% for l in user.links if l != 'x' %}{{ loop.index }}{{ l }}{% endfor %}", "1y"),
        ("{% for l in user.note %}{% else %}nobody{% endfor %}", "nobody"),
        ("{% set n = user.links|length %}{{ n + 1 if n is number and by is none else 0 }}", "3"),
        ("{% if user.note is defined and nobody is not defined %}yes{% endif %}", "yes"),
        ("{{ user.items }} {{ user['status'] }} {{ user.links[1] }}{{ user.links[5] }}{{ user.status[:3] }}",
         "a key like any other active ynullact"),
        ("{{ 'x' in user.links }}{{ 7 // 2 }}{{ 7 % 2 }}{{ 'a' + 'b' }}", "true31ab"),
    ],
)  # fmt: skip
def test_filters_and_operators(source: str, made: str) -> None:
    """What the reference promises."""
    assert rendered(source) == made


def test_other_ways_of_writing_and_other_filters() -> None:
    """Messages are written for people: plain, or as HTML; further filters pay like the rest."""
    assert rendered("{{ username }}{{ user.note }}{{ by.username }}", written=plain_text) == 'a"b\\'
    assert rendered("{{ '<' ~ 1 }}", written=lambda value: html.escape(plain_text(value))) == "&lt;1"
    assert rendered("{{ 'ab'|twice }}", filters={"twice": lambda text: text * 2}) == "abab"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{{ 1 + }}", "line 2"),
        ("a\n\n{{ x|nope }}", "line 3: there is no filter nope"),
        ("{{ x is callable }}", "no such test"),
        ("{{ x|map(*x) }}", "take no *"),
        ("{{ 2 ** 3 }}", "there is no **"),
        ("{{ ''.join(x) }}", "nothing can be called"),
        ("{{ range(10**9)|join }}", "nothing can be called"),
        ("{{ '{:>999999999}'.format(1) }}", "nothing can be called"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "Macro"),
        ("{% for x in [1] recursive %}{{ loop(x) }}{% endfor %}", "recursive"),
        ("{% set x %}{{ username }}{% endset %}", "AssignBlock"),
        ("{% filter upper %}x{% endfilter %}", "FilterBlock"),
        ("{% include 'x' %}", "Include"),
        ("{% extends 'x' %}", "Extends"),
        ("{% import 'x' as y %}", "Import"),
        ("{% block a %}{% endblock %}", "Block"),
        ("{% set ns.a = 1 %}", "NSRef"),
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "too complicated"),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "too complicated"),
        ("{{ " + "1+" * 5000 + "1 }}", "too complicated"),
        ("", "1 to"),
        ("x" * (MAX_SOURCE + 1), "1 to"),
        ("\0", "control characters"),
        ("\ud800", "control characters"),
    ],
)  # fmt: skip
def test_what_is_refused_when_it_is_read(source: str, said: str) -> None:
    """Broken templates, and what could take for ever, are named with their line before anything is sent with them."""
    began = time.monotonic()
    assert said in refused(source)
    assert time.monotonic() - began < SOON


TEN = "{% set a = [1,2,3,4,5,6,7,8,9,0] %}"


def loops(depth: int, body: str) -> str:
    return TEN + "{% for x in a %}" * depth + body + "{% endfor %}" * depth


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 'x' * 1000000000 }}", "two numbers"),
        ("{{ [1] * 1000000000 }}", "two numbers"),
        ("{{ '%1000000000d' % 1 }}", "two numbers"),
        ("{{ 1.5|round(1000000000) }}", "round wants"),
        ("{{ 15|round(-1000000000) }}", "round wants"),
        (loops(15, "x"), "too long"),
        (loops(15, ""), "too long"),
        (loops(4, "x" * 9000), f"more than {MAX_OUTPUT}"),
        ("{% set a = 'xxxxxxxxxx' %}" + "{% set a = a ~ a %}" * 60, "too long"),
        ("{% set a = 'xxxxxxxxxx' %}" + "{% set a = a + a %}" * 60, "too long"),
        ("{% set a = [1] %}" + "{% set a = [a, a] %}" * 60, "too long"),
        ("{% set a = {} %}" + "{% set a = {'x': a, 'y': a} %}" * 60, "too long"),
        ("{% set a = 99999999 %}" + "{% set a = a * a %}" * 60, "too large"),
        ("{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = a|replace('a', a) %}" * 20, "more than"),
        ("{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = [a, a, a, a]|join(a) %}" * 20, "o"),
        ("{% set a = 'xxxxxxxxxx' %}" + "{% set a = a|tojson|tojson|tojson %}" * 60, "o"),
        ("a\n\n{{ user.note + 1 }}", "line 3"),
        ("\n{{ -username }}", "line 2: TypeError"),
        ("{{ user.links[::0] }}", "ValueError"),
        ("{{ user < 3 }}", "TypeError"),
        ("{% for x in 5 %}{% endfor %}", "a loop wants"),
        ("{{ self }}", "TemplateReference"),
        ("{% for x in [1] %}{{ loop }}{% endfor %}", "LoopContext"),
        ("{% for x in [1] %}{{ [loop]|tojson }}{% endfor %}", "LoopContext"),
    ],
)  # fmt: skip
def test_what_fails_fails_soon_and_says_why(source: str, said: str) -> None:
    """Each attack ends within its budget, with the line."""
    began = time.monotonic()
    assert said in failing(source)
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize(
    "source",
    [
        "{{ username.__class__ }}", "{{ user.__init__.__globals__ }}", "{{ user['__class__'] }}", "{{ username.upper }}",
        "{{ user.links.append }}", "{{ loop }}", "{{ environment }}", "{{ range }}", "{{ cycler }}", "{{ [].__class__ }}",
        "{{ user|map('__class__')|first }}", "{{ nobody.__class__ }}", "{{ 1.__class__ }}",
        "{% for x in [1] %}{{ loop._iterator }}{{ loop.__class__ }}{% endfor %}",
    ],
)  # fmt: skip
def test_nothing_of_python_is_to_be_seen(source: str) -> None:
    """A dot reads keys of objects; attributes, methods and Jinja's globals are not there."""
    try:
        assert set(rendered(source).split("null")) == {""}
    except InvalidError:
        assert "1.__class__" in source


NAMES = st.sampled_from(["username", "action", "user", "user.links", "user.note", "tries", "a", "b", "loop", "nobody"])
LITERALS = st.sampled_from(
    ["1", "0", "99999999", "1.5", "'x'", "'xxxxxxxxxxxxxxxxxxxxxxxx'", "none", "true", "[]", "{}"]
)
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "%", "~", "==", "<", "in", "and", "or", "**"])


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, inner, OPERATORS, inner),
        st.builds("{}|{}".format, inner, st.sampled_from(sorted(FILTERS))),
        st.builds("{}|{}({})".format, inner, st.sampled_from(sorted(FILTERS)), inner),
        st.builds("{}|replace({}, {})".format, inner, inner, inner),
        st.builds("({} is {})".format, inner, st.sampled_from(sorted(TESTS))),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{'x': {}, 'y': {}}}".format, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}[{}:{}]".format, inner, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("{}.{}".format, inner, st.sampled_from(["x", "index", "__class__", "items"])),
        st.builds("(not {})".format, inner),
    )  # fmt: skip


EXPRESSIONS = st.recursive(NAMES | LITERALS, _compound, max_leaves=8)


def _statement(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{{% for {} in {} %}}{}{{% endfor %}}".format, st.sampled_from("ab"), EXPRESSIONS, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, EXPRESSIONS, inner, inner),
        st.builds(lambda count, a: f"{{% set a = {a} %}}" * count, st.integers(1, 50), EXPRESSIONS),
        st.builds("{}{}".format, inner, inner),
    )


TEMPLATES = st.recursive(
    st.builds("{{{{ {} }}}}".format, EXPRESSIONS) | st.sampled_from(["text", '{"a": 1}']), _statement, max_leaves=12
)


@settings(max_examples=200, deadline=None)
@given(TEMPLATES)
def test_whatever_is_written_ends_within_its_budget(source: str) -> None:
    """Any template is refused, fails with a reason, or makes a bounded text; soon, in any case."""
    began = time.monotonic()
    with suppress(InvalidError, RenderError):
        assert len(rendered(source)) <= MAX_OUTPUT
    assert time.monotonic() - began < SOON


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200).filter(lambda text: "\0" not in text), st.text(max_size=50))
def test_no_name_breaks_out_of_its_string(name: str, note: str) -> None:
    """Whatever a user is called, the template's JSON stays what it was meant to be."""
    text = Template('{"name": "{{ username }}", "both": "{{ username ~ note }}"}').render(
        {"username": name, "note": note}
    )
    assert json.loads(text) == {"name": name, "both": name + note}
