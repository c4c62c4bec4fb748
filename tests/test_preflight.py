"""What nothing can be sent to from this machine is refused, or warned of, as the endpoint is made, whichever face makes it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from marzhook.preflight import trouble
from marzhook.store import endpoints

if TYPE_CHECKING:
    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]

WARNED = "Nothing can be sent there from this machine"


@pytest.fixture
def database_settings(database_settings: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Where these kinds may be made over the API, too."""
    return database_settings | {"MARZHOOK_API_KINDS": "alert,exec", "MARZHOOK_EXEC_ALLOW": str(tmp_path)}


def test_an_alert_that_apprise_does_not_understand_is_refused(browser: Browser) -> None:
    """At once, over the API and at its place in the form; an older one can still be changed."""
    api, url = browser.api, "tgram://hush"
    made = api.post("/api/v1/endpoints", json={"kind": "alert", "url": "json://127.0.0.1:1/hush"}).json()
    for answer in (
        api.post("/api/v1/endpoints", json={"kind": "alert", "url": url}),
        api.call("PATCH", f"/api/v1/endpoints/{made['id']}", json={"url": url}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_url")
        assert "Apprise does not understand this URL" in answer.text
        assert "hush" not in answer.text
    with api.services.database.write() as tx:
        older = endpoints.create(tx, now=api.clock.now(), kind="alert", url=url)
    renamed = api.call("PATCH", f"/api/v1/endpoints/{older.id}", json={"name": "older"})
    assert (renamed.status_code, renamed.json()["warning"]) == (200, "Apprise does not understand this URL")
    browser.get("/look?language=ru")
    refused = browser.post("/endpoints/new", {"kind": "alert", "url": url, "which": "all"}, on="/endpoints/new")
    assert refused.status_code == 422
    assert 'aria-describedby="wrong" autofocus' in refused.text
    assert "<strong>Этот адрес не подходит: Apprise не понимает этот адрес.</strong>" in refused.text


def test_a_program_that_is_not_there_is_warned_of(browser: Browser, tmp_path: Path) -> None:
    """Before it is saved and afterwards, until it is there: it may be installed later, or on the machine that sends."""
    program = tmp_path / "told"
    fields = {"kind": "exec", "url": f"exec:{program} --now", "which": "all"}
    told = f"{WARNED}: there is no program {program}."
    pages = [
        browser.post("/endpoints/preview", fields, on="/endpoints/new").text,
        browser.page(browser.post("/endpoints/new", fields, on="/endpoints/new").headers["location"]),
    ]
    assert all(told in html.unescape(page.replace('<bdi dir="ltr">', "").replace("</bdi>", "")) for page in pages)
    change = {"url": f"exec:{program} --all"}
    assert (
        browser.api.call("PATCH", "/api/v1/endpoints/1", json=change).json()["warning"]
        == f"there is no program {program}"
    )
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert browser.api.get("/api/v1/endpoints/1").json()["warning"] is None
    assert WARNED not in browser.page("/endpoints/1")
    assert WARNED not in browser.post("/endpoints/preview", fields, on="/endpoints/new").text


def test_the_preview_tells_nothing_of_programs_that_may_not_be_run(browser: Browser) -> None:
    """What is on the machine, and what is not, is nobody's business."""
    for program in ("/bin/sh", "/bin/no-such-program"):
        got = browser.post("/endpoints/preview", {"kind": "exec", "url": f"exec:{program}"}, on="/endpoints/new").text
        assert f'<bdi dir="ltr">{program}</bdi> may not be run' in got


@pytest.mark.parametrize(("kind", "url"), [("exec", "exec:'"), ("webhook", "https://a.example/"), ("unheard", "of")])
def test_of_what_is_no_job_nothing_is_said(kind: str, url: str) -> None:
    """Nor of a command that cannot be read, as another version may have stored it."""
    assert trouble(kind, url, ("/bin",)) is None
