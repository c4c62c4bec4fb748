from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest

from marzhook.clock import from_unix
from marzhook.dashboard import words
from marzhook.dashboard.languages import NAMES, choose, load
from marzhook.delivery import ERRORS, Attempt, Delivery
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError, MarzhookError, RenderError
from marzhook.event import Event
from marzhook.operations import checked
from marzhook.signing import new_secret
from messages import TRANSLATED, catalog_of, extracted

LANGUAGES = load()
_FIELD = re.compile(r"%\(\w+\)s|%%")
_APART = re.compile("\u2066[^\u2069]*\u2069")


def texts(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


@pytest.mark.parametrize("code", TRANSLATED)
def test_every_text_is_translated(code: str) -> None:
    """No page falls back to English, and no translation is left of a text that is gone."""
    wanted = {message.id for message in extracted() if message.id}
    found = {message.id: message for message in catalog_of(code) if message.id}
    assert wanted == found.keys(), "bring the .po files up to date with `python tests/messages.py`, then translate"
    missing = [id_ for id_, message in found.items() if message.fuzzy or not all(texts(message.string))]
    assert not missing


@pytest.mark.parametrize("code", TRANSLATED)
def test_translations_have_the_fields_of_their_texts(code: str) -> None:
    """A figure that a text names is in its translation, too, and no translation breaks a page."""
    for message in catalog_of(code):
        if not message.id:
            continue
        fields = set(_FIELD.findall(texts(message.id)[-1])) - {"%%"}
        for string in texts(message.string):
            assert set(_FIELD.findall(string)) - {"%%"} == fields, message.id
            if fields or "%%" in texts(message.id)[0]:
                assert string % {name[2:-2]: "1" for name in fields} is not None


def test_numbers_and_directions_are_those_of_the_language() -> None:
    """Persian reads from right to left and has its own digits; each language groups in its own way."""
    assert [LANGUAGES[code].direction for code in NAMES] == ["ltr", "rtl", "ltr", "ltr"]
    assert LANGUAGES["fa"].number(1234567) == "۱٬۲۳۴٬۵۶۷"
    assert LANGUAGES["ru"].number(1234.5) == "1\N{NO-BREAK SPACE}234,5"
    assert [LANGUAGES["en"].seconds(value) for value in (0.0124, 0.0006, 0.0)] == ["12 ms", "0.6 ms", "0 ms"]
    assert LANGUAGES["fa"].seconds(3.44) == "۳٫۴ ثانیه"
    assert "۲" in LANGUAGES["fa"].seconds(7200)
    assert [LANGUAGES[code].percent(0.5) for code in NAMES] == ["50%", "۵۰٪", "50\N{NO-BREAK SPACE}%", "50%"]
    assert [LANGUAGES[code].size(5.5 * 1024**3) for code in NAMES] == ["5.5 GiB", "۵٫۵ GiB", "5,5 ГиБ", "5.5 GiB"]


def test_latin_words_with_a_hyphen_stay_in_one_direction_in_persian() -> None:
    """Where a line ends behind its hyphen, that would go to the wrong side of it: each is isolated."""
    for message in filter(lambda message: message.id, catalog_of("fa")):
        for string in texts(message.string):
            assert not re.search(r"[A-Za-z\d]-[A-Za-z\d]", _APART.sub("", string)), message.id


def test_numbers_in_persian_have_its_digits_or_stand_apart() -> None:
    """A version is a name, and stays as it is written; bare beside a sign, it would change places with that."""
    for message in filter(lambda message: message.id, catalog_of("fa")):
        for string in texts(message.string):
            assert not re.search(r"(?<![A-Za-z\d])[0-9]|[<>]=", _APART.sub("", string)), message.id


def test_russian_counts_in_its_three_forms() -> None:
    """1 доставка, 2 доставки, 5 доставок."""
    one, many = "%(number)s delivery is owed again.", "%(number)s deliveries are owed again."
    forms = [LANGUAGES["ru"].ngettext(one, many, count).split()[1] for count in (1, 2, 5, 11, 21)]
    assert forms == ["доставка", "доставки", "доставок", "доставок", "доставка"]
    one, many = "after %(number)s try", "after %(number)s tries"
    forms = [LANGUAGES["ru"].ngettext(one, many, count) % {"number": count} for count in (21, 3, 5)]
    assert forms == ["за 21 попытку", "за 3 попытки", "за 5 попыток"]


@pytest.mark.parametrize(("code", "panel", "ours"), [("ru", "панел", "веб-интерфейс"), ("zh", "面板", "控制台")])
def test_the_dashboard_is_not_called_like_the_panel(code: str, panel: str, ours: str) -> None:
    """Its users have a panel already, and know it by that word."""
    for message in catalog_of(code):
        if "dashboard" in str(message.id):
            assert ours in str(message.string)
            assert panel not in str(message.string)


def test_one_word_of_english_is_told_apart_where_others_have_two() -> None:
    """Who signs in has a user's name; a thing has another kind of name. A filter is cleared, not what it finds."""
    said = {code: [LANGUAGES[code].gettext(text) for text in ("Name", "Username")] for code in TRANSLATED}
    assert said["zh"] == ["名称", "用户名"]
    assert said["fa"] == ["نام", "نام کاربری"]
    assert all(
        "филь" in text or "فیلتر" in text or "筛选" in text
        for text in (LANGUAGES[code].gettext("Clear the filter") for code in TRANSLATED)
    )


def test_persian_has_one_word_for_the_comma() -> None:
    """Two would look like two signs."""
    assert not [message.id for message in catalog_of("fa") if "کاما" in str(message.string)]


@pytest.mark.parametrize(
    ("wanted", "header", "code"),
    [
        (None, "", "en"),
        ("ru", "fa", "ru"),
        ("xx", "fa-IR,fa;q=0.9,en;q=0.8", "fa"),
        (None, "de, zh-CN;q=0.5, ru;q=0.3", "zh"),
        (None, "en;q=0.1, ru;q=0.9", "ru"),
        (None, "tlh, ;q=x,,*", "en"),
    ],
)
def test_the_language_is_the_chosen_one_or_the_browsers(wanted: str | None, header: str, code: str) -> None:
    """A visitor reads his own language at once, and keeps the one that he chose."""
    assert choose(wanted, header) == code


@pytest.mark.parametrize("wrong", [{"admins": ["x"] * 101}, {"usernames": ["\n"]}, {"condition": "[a, b]"}])
def test_what_is_wrong_with_a_filter_is_said_in_the_readers_language(wrong: dict[str, object]) -> None:
    """With no English beside it."""
    with pytest.raises(InvalidError) as raised:
        checked("webhook", wrong)
    said_in_each_language(raised.value)


def said_in_each_language(error: MarzhookError, *values: str) -> None:
    """All of it, and what was written is shown in it as it is."""
    said = [words.problem(LANGUAGES[code], error) for code in NAMES]
    assert len({what for what, _detail in said}) == len(NAMES)
    assert {detail for _what, detail in said} == {""}
    assert len({str(what).partition("(")[2] for what, _detail in said}) == len(NAMES)
    for what, _detail in said:
        assert not [value for value in values if value not in html.unescape(what)]


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ("user.status ==", ()),
        ("length(user", ()),
        ("user.status = 'a'", ("=",)),
        ("user.status == 'a", ("'",)),
        ("user) || a", (")",)),
        ('status == "act\u202eive"', ("'act⟨U+202E⟩ive'",)),
        ("{a: b}", ("{…}",)),
        ("nope(user)", ("nope()", "starts_with")),
        ("length(a, b)", ("length()",)),
        (" ", ()),
        ("@." + "a." * 600, ()),
        ("!" * 60 + "a", ()),
        ("a\n", ()),
    ],
)
def test_what_is_wrong_with_a_condition_is_said_in_the_readers_language(
    condition: str, values: tuple[str, ...]
) -> None:
    """What a library says of it, too: where, and what stands there."""
    with pytest.raises(InvalidError) as raised:
        checked("webhook", {"condition": condition})
    said_in_each_language(raised.value, *values)


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{{ 1 + }}", ("}}",)),
        ("{{ username", ()),
        ("{% if a %}b", ()),
        ("{# never", ()),
        ("{{ a b }}", ("b",)),
        ("{{ a ( }}", ("}", ")")),
        ("{{ a| }}", ("}}",)),
        ("{{ a[1) }}", (")", "]")),
        ("{{ § }}", ("§",)),
        ("{% fly %}", ("fly",)),
        ("{% for a in b recursive %}{% endfor %}", ()),
        ("{% for 1 in b %}{% endfor %}", ()),
        ("{{ a() }}", ("upper",)),
        ("{{ 2 ** 2 }}", ("**",)),
        ("{% include 'x' %}", ("Include",)),
        ("{{ a|nope }}", ("nope", "tojson")),
        ("{{ a is callable }}", ("defined",)),
        ("{{ " + "(" * 2000 + " }}", ()),
        ("x" * 20_000, ()),
        ("a\x00", ()),
    ],
)
def test_what_is_wrong_with_a_template_is_said_in_the_readers_language(template: str, values: tuple[str, ...]) -> None:
    """What a library says of it, too: in which line, and what stands there."""
    with pytest.raises(InvalidError) as raised:
        checked("webhook", {"template": template})
    said_in_each_language(raised.value, *values)


@pytest.mark.parametrize("text", ["{{ title", "<b>{{ title }}", "<x>", "</b>", " ", "{{ title + 1 }}"])
def test_what_is_wrong_with_a_message_is_said_in_the_readers_language(text: str) -> None:
    """Also what Telegram does not know, and what comes out only when a message is made."""
    with pytest.raises(InvalidError) as raised:
        checked("telegram", {"options": {"chat": 1, "templates": {"*": text}}})
    said_in_each_language(raised.value)


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{{ username + 1 }}", ("+",)),
        ("{{ username }}", ()),
        ("{{ 1 // 0 }}", ()),
        ("{% for a in 5 %}{% endfor %}", ()),
        ("{{ username|truncate('x') }}", ("truncate",)),
        ("{% for a in [1,2,3,4,5,6,7,8,9] %}{{ 9|string * 1 }}{% endfor %}", ("*",)),
    ],
)
def test_what_a_template_cannot_make_is_said_in_the_readers_language(template: str, values: tuple[str, ...]) -> None:
    """Of the event that it is to be made for."""
    delivery = Delivery(1, Event(1, "user_updated", "alice", 1.0), 0)
    endpoint = Endpoint(1, "s", "webhook", "http://s.example/", signing_secret=new_secret(), template=template)
    with pytest.raises(RenderError) as raised:
        Webhook(endpoint, instance="").item(delivery, from_unix(0))
    said_in_each_language(raised.value, *values)


@pytest.mark.parametrize("code", NAMES)
@pytest.mark.parametrize("failure", [*ERRORS, 0, 3, 200, 301, 401, 404, 410, 422, 429, 503, 102])
def test_every_way_to_fail_has_words(code: str, failure: str | int) -> None:
    """Whatever a try came to, a sentence says so."""
    status, error = (failure, None) if isinstance(failure, int) else (None, failure)
    one = Attempt(1, from_unix(0), 15.0, status, error, "", "", None if status == 200 else "standard")
    said = words.attempt(LANGUAGES[code], one)
    assert said
    assert "%(" not in said


def test_a_long_outage_is_told_from_its_begin() -> None:
    """Of many tries the newest are read: then it is said that there may be more, and the outage began when it began."""
    hour = 3600
    secret = new_secret()
    endpoint = Endpoint(1, "s", "webhook", "http://s.example/", signing_secret=secret, failing_since=from_unix(hour))
    failed = [
        Attempt(1, from_unix(at), 0.1, 503, None, "", "", "standard") for at in range(1003 * hour, 3 * hour, -hour)
    ]
    worked = Attempt(1, from_unix(3 * hour), 0.1, 200, None, "", "", None)
    for tries, wanted in (
        (failed, (from_unix(hour), 100, True)),
        ([*failed[:-1], worked], (from_unix(hour), 999, False)),
        (failed[:3], (from_unix(hour), 3, False)),
    ):
        for one in (endpoint, replace(endpoint, enabled=False)):
            found = words.health(LANGUAGES["en"], one, tries)
            assert (found.since, found.in_a_row, found.at_least) == wanted
    # The breaker opens some failures after the first.
    late = replace(endpoint, failing_since=from_unix(2000 * hour))
    assert words.health(LANGUAGES["en"], late, failed[:3]).since == failed[2].at
    # What nobody knows the beginning of has none, and its count does not fall when older ones are read no more.
    for endless in (replace(endpoint, failing_since=None), late):
        for read in (failed, failed[:183], failed[:100]):
            found = words.health(LANGUAGES["en"], endless, read)
            assert (found.since, found.in_a_row, found.at_least) == (None, 100, True)
