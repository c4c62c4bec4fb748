"""What each extra is needed for: the product runs on SQLite without PostgreSQL's driver, and says so where it is wanted."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import SECRET_KEY
from receivers import Receiver
from service import Service, marzhook

ROOT = Path(__file__).parent.parent
POSTGRESQL_ONLY = {"marzhook.store.postgresql", "marzhook.store.sessions", "marzhook.store.shards"}


@pytest.fixture
def without_driver(tmp_path: Path) -> dict[str, str]:
    """An environment in which nobody can import psycopg."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/psycopg.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'psycopg'\", name='psycopg')"
    )
    return {"PYTHONPATH": str(tmp_path / "blocked")}


def test_the_service_delivers_on_sqlite_without_the_driver(
    tmp_path: Path, without_driver: dict[str, str], receiver: Receiver
) -> None:
    """Started, told of an event, and the event has arrived."""
    with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url, **without_driver) as service:
        status, _ = service.call("POST", "/api/v1/events", {"action": "user_created", "username": "anna"})
        assert status < 300
        receiver.wait(1)
        assert service.stop() == 0


def test_every_module_but_postgresqls_own_imports_without_the_driver(
    tmp_path: Path, without_driver: dict[str, str]
) -> None:
    """Of the whole package only what is about PostgreSQL alone needs it."""
    printed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib, pkgutil, marzhook\n"
            "for module in pkgutil.walk_packages(marzhook.__path__, 'marzhook.'):\n"
            "    if any(part in module.name for part in ('.receiver.', '.migrations.', '__main__')): continue\n"
            "    try: importlib.import_module(module.name)\n"
            "    except ModuleNotFoundError as error:\n"
            "        if error.name != 'psycopg': raise\n"
            "        print(module.name)\n",
        ],
        cwd=tmp_path, env=without_driver, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert set(printed.split()) == POSTGRESQL_ONLY


@pytest.mark.parametrize("arguments", [("run",), ("worker",), ("check",), ("db", "migrate"), ("users", "list")])
def test_a_postgresql_url_says_what_to_install(
    arguments: tuple[str, ...], tmp_path: Path, without_driver: dict[str, str]
) -> None:
    """One line with what to type, and exit code 2; the password of the URL is not in it."""
    settings = {"MARZHOOK_DATABASE_URL": "postgresql://u:hunter2@h/db", "MARZHOOK_SECRET_KEY": SECRET_KEY}
    ended = marzhook(tmp_path, *arguments, **settings, **without_driver)
    assert ended.returncode == 2, ended.stderr
    assert "pip install 'marzhook[server,postgres]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "hunter2" not in ended.stderr


def test_whoever_installs_for_people_installs_the_driver() -> None:
    """`make run` and the image take both extras, so a postgresql:// URL works there at once."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not [one for one in extras["server"] if one.startswith("psycopg")]
    assert [one for one in extras["postgres"] if one.startswith("psycopg")]
    installed = re.findall(r"\.?/?\S*\[(server[^\]]*)\]", (ROOT / "Makefile").read_text())
    installed += re.findall(r"/src\[(.+?)\]", (ROOT / "deploy/Dockerfile").read_text())
    assert len(installed) == 3
    assert all({"server", "postgres"} <= set(one.split(",")) for one in installed), installed
