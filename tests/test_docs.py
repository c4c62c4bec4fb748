"""The docs tell the truth: everything that exists is in them, and what they show is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marzhook import condition, operations, settings
from marzhook.api.app import create_app
from marzhook.cli.main import COMMANDS, _load
from marzhook.clock import from_unix
from marzhook.delivery import Delivery
from marzhook.destinations.kinds import destination
from marzhook.destinations.values import FILTERS, TESTS
from marzhook.dispatch.health import OPERATOR_ACTIONS
from marzhook.endpoint import Endpoint
from marzhook.event import PANEL_ACTIONS, TEST_ACTION, Event, NewEvent, detail_json
from marzhook.filter import Filter, Offered
from marzhook.signing import new_secret

ROOT = Path(__file__).parent.parent
READMES = {page.name: page.read_text() for page in sorted(ROOT.glob("README*.md"))}
REFERENCE = (ROOT / "docs/reference.md").read_text()


class NoServices:
    """Routes can be listed without a service behind them."""


def routes() -> list[str]:
    spec: dict[str, Any] = create_app(NoServices()).openapi()  # type: ignore[arg-type]
    return [f"{method.upper()} {path}" for path, methods in spec["paths"].items() for method in methods]


def commands(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    """All that can be called, with what `--help` shows of its options."""
    for part, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {part}")
    if not hasattr(command, "commands"):
        shown = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        yield name, {option for p in shown for option in p.opts if option.startswith("--")}


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda s: s.name)
def test_every_setting_is_documented_with_its_meaning(setting: settings.Setting) -> None:
    """The reference has the row that follows from the code, and `.env.example` names the setting."""
    default = "unset" if setting.default is None else f"`{setting.default}`" if setting.default else "none"
    row = f"| `{setting.name}` | {default} | {setting.doc} |"
    assert row in REFERENCE, f"put this row into docs/reference.md: {row}"
    assert re.search(rf"^# ?{setting.name} ?=", (ROOT / ".env.example").read_text(), re.MULTILINE)


@pytest.mark.parametrize("route", routes())
def test_every_route_is_documented(route: str) -> None:
    """The reference lists each route of the API."""
    assert f"| `{route}` |" in REFERENCE


@pytest.mark.parametrize("action", [*PANEL_ACTIONS, TEST_ACTION, *OPERATOR_ACTIONS])
def test_every_action_is_documented(action: str) -> None:
    """The reference lists each action that Marzhook emits."""
    assert f"| `{action}` |" in REFERENCE


def test_every_command_is_documented_with_its_options() -> None:
    """The reference has a row for each command, also those of commands, with all options that `--help` shows and no other."""
    rows = re.findall(r"^\| `marzhook ([a-z ]*[a-z])(.*?)` \|", REFERENCE, re.MULTILINE)
    documented = {name: set(re.findall(r"--[a-z-]+", rest)) for name, rest in rows}
    # Which panel it is comes before the address.
    documented["source add"] = documented.pop("source add marzban")
    assert documented == {command: options for top in COMMANDS for command, options in commands(_load(top), top)}
    assert len(rows) == len(documented)


def test_no_route_is_documented_that_does_not_exist() -> None:
    """The reference promises nothing."""
    documented = re.findall(r"^\| `((?:GET|POST|PUT|PATCH|DELETE) [^`]+)` \|", REFERENCE, re.MULTILINE)
    assert sorted(documented) == sorted(routes())


@pytest.mark.parametrize("readme", READMES)
def test_the_readmes_env_example_works(tmp_path: Path, readme: str) -> None:
    """What the README says to put into `.env` is understood."""
    text = re.search(r"```sh\n(WEBHOOK_ADDRESS.*?)```", READMES[readme], re.DOTALL)
    assert text
    (tmp_path / ".env").write_text(text[1])
    loaded = settings.load({}, tmp_path / ".env")
    assert loaded.webhook_addresses == ("http://127.0.0.1:9000/", "http://127.0.0.1:9001/")
    assert loaded.webhook_secret == "something-very-very-secret"


@pytest.mark.parametrize("readme", READMES)
def test_the_readmes_request_is_what_is_sent(readme: str) -> None:
    """The documented request, header and body, is rendered byte for byte."""
    found = re.search(r"```http\n(.*?)\n\n(.*?)\n```", READMES[readme], re.DOTALL)
    assert found
    head, body = found[1].splitlines(), found[2]
    documented = json.loads(body)
    endpoint = Endpoint(
        1, "docs", "webhook", "http://127.0.0.1:9000/", secret="something-very-very-secret", signing_secret=new_secret()
    )
    target = destination(endpoint, instance="docs")
    event = Event(1, documented["action"], documented["username"], documented["enqueued_at"])
    now = from_unix(documented["enqueued_at"])
    request = target.request([target.item(Delivery(1, event), now)], [1], now, mode="plain")
    assert request.body.decode() == body
    for line in head[1:]:
        assert tuple(line.split(": ", 1)) in request.headers


def test_the_references_filter_is_one() -> None:
    """Its example is taken as it stands, and lets pass what it says."""
    found = re.search(r"```json\n(\{[^`]*\"condition\".*?)```\n\nA condition", REFERENCE, re.DOTALL)
    assert found
    wanted = Filter(**operations.checked("webhook", json.loads(found[1])))
    detail = {"by": {"username": "alice"}, "user": {"status": "limited", "data_limit": 10737418241}}
    for name, passes in (("vip_1", True), ("vip_test1", False), ("anna", False)):
        new = NewEvent("user_limited", name, detail)
        assert wanted.passes(Offered(new, 0.0, detail_json(new.detail))) is passes
    assert {f"`{name}`" for name in condition.ARGUMENTS} <= set(re.findall("`[a-z_]+`", REFERENCE))


def test_the_references_template_makes_what_it_says() -> None:
    """Template, event and body stand one after the other; and each filter and test has its word."""
    found = re.search(r"```jinja\n(.*?)\n```.*?```json\n(.*?)\n```.*?```json\n(.*?)\n```", REFERENCE, re.DOTALL)
    assert found
    event = json.loads(found[2])
    detail = {key: value for key, value in event.items() if key in ("by", "user")}
    one = Event(1, event["action"], event["username"], event["enqueued_at"], detail_json(detail))
    endpoint = Endpoint(1, "docs", "webhook", "http://x/", template=found[1], signing_secret=new_secret())
    assert destination(endpoint, instance="docs").item(Delivery(1, one), one.time) == found[3]
    for name in (*FILTERS, *TESTS):
        assert re.search(rf"`{name}[`(]", REFERENCE), name


@pytest.mark.parametrize("readme", READMES)
def test_make_targets_of_the_readme_exist(readme: str) -> None:
    """The two commands are in the Makefile, with a line in its help."""
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", READMES[readme], re.MULTILINE)
    assert targets == ["run", "test"]
    for target in targets:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)
