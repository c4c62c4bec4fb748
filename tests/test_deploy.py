"""deploy/: what operators copy is understood by the programs that it is for, and speaks of what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from marzhook import settings
from receivers import Receiver
from service import Service

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def compose() -> dict[str, Any]:
    """Of the service, as programs read it."""
    service: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["marzhook"]
    return service


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")
def test_the_unit_is_understood_by_systemd(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, and rates the unit's exposure below 3 of 10."""
    unit = tmp_path / "marzhook.service"
    text = (DEPLOY / "marzhook.service").read_text()
    program = "/opt/marzhook/.venv/bin/marzhook"
    assert f"ExecStart={program} run" in text
    unit.write_text(text.replace(program, "/bin/true"))
    verified = run("systemd-analyze", "verify", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = run("systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit))
    assert rated.returncode == 0, rated.stdout[-300:]


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx on this machine")
def test_nginx_takes_its_snippet(tmp_path: Path) -> None:
    """`nginx -t` accepts the server block, with a certificate made for the test."""
    text = (DEPLOY / "nginx.conf").read_text()
    made = run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test",
        "-keyout", str(tmp_path / "privkey.pem"), "-out", str(tmp_path / "fullchain.pem"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    text = text.replace("/etc/letsencrypt/live/marzhook.example.com", str(tmp_path))
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{text}}}\n")
    checked = run("nginx", "-t", "-q", "-c", str(whole))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(not shutil.which("caddy"), reason="no Caddy on this machine")
def test_caddy_takes_its_snippet() -> None:
    """`caddy validate` accepts the site, and `caddy fmt` would change nothing."""
    snippet = DEPLOY / "Caddyfile"
    checked = run("caddy", "validate", "--adapter", "caddyfile", "--config", str(snippet))
    assert checked.returncode == 0, checked.stderr
    assert run("caddy", "fmt", str(snippet)).stdout == snippet.read_text()


def test_the_dockerfile_copies_what_exists_and_compose_sets_what_is_known() -> None:
    """Each file copied into the image is there and not ignored; each setting that compose gives exists."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert "src" in names
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    given = compose()["environment"]
    assert "MARZHOOK_SECRET_KEY" in given
    assert set(given) <= {setting.name for setting in settings.SETTINGS}


def test_the_image_has_every_extra_that_a_service_can_use() -> None:
    """Alerts need Apprise, a table or database on PostgreSQL its driver: nothing is to be installed in a container."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [installed] = re.findall(r"/src\[([a-z,]+)\]", (DEPLOY / "Dockerfile").read_text())
    assert set(installed.split(",")) == set(extras) - {"dev", "docs", "peers"}


def test_the_image_can_be_built_upon_another_base() -> None:
    """The documented argument is the one that the container file takes, before anything else."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    assert re.fullmatch(r"ARG BASE=[a-z.]+/\S+:\S+", lines[0])
    assert lines[1] == "FROM ${BASE}"
    assert "--build-arg BASE=" in (ROOT / "docs/operating.md").read_text()


def test_compose_gives_the_service_all_of_env() -> None:
    """Beside it stands only what has to be, and what is the container's own: no default that would hide a line of `.env`."""
    assert compose()["env_file"] == [{"path": "../.env", "required": False}]
    assert "env-file .env -f deploy/compose.yaml" in (DEPLOY / "compose.yaml").read_text()
    own = compose()["environment"]
    assert {name for name, text in own.items() if ":-" in text} == set()
    # What is in the file for the database's container is nothing to the service.
    fixed = {name: text for name, text in own.items() if "$" not in text}
    loaded = settings.load({**fixed, "POSTGRES_PASSWORD": "x", "MARZHOOK_ALERT_URLS": "ntfy://h/t"}, ROOT / "nothing")
    assert loaded.alert_urls == ("ntfy://h/t",)


def test_the_dashboard_for_grafana_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    """Every metric in its queries is in what a service renders that has delivered an event."""
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bmarzhook_\w+", target["expr"])
    }
    receiver = Receiver()
    try:
        with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url) as service:
            status, _ = service.call("POST", "/api/v1/events", {"action": "user_created", "username": "alice"})
            assert status < 300
            receiver.wait(1)
            _, rendered = service.call("GET", "/metrics", token=False)
            service.stop()
    finally:
        receiver.stop()
    there = set(re.findall(r"^# TYPE (\w+) ", rendered, re.MULTILINE))
    assert len(asked) > 8
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= there
