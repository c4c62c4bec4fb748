"""`marzhook config`, and what the command line does with errors: run as people run it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from command_line import on_a_terminal
from marzhook import __version__, errors
from marzhook.cli import output
from marzhook.cli.main import COMMANDS, LazyGroup, app, exit_code
from marzhook.cli.output import command_line_of

ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def marzhook(cwd: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marzhook", *args]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT | environ, capture_output=True, text=True, timeout=60)


def test_config_shows_value_and_source(tmp_path: Path) -> None:
    """Each setting is one line with its value and where it came from; the panel's other names are listed below."""
    (tmp_path / ".env").write_text('WEBHOOK_SECRET = "something-very-very-secret"\nXRAY_JSON = x\n')
    address = "http://127.0.0.1:9000/a-rather-long-path-that-does-not-fit-into-eighty-columns/at-all"
    done = marzhook(tmp_path, "config", WEBHOOK_ADDRESS=address)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    # A long path may be a password.
    assert rows["WEBHOOK_ADDRESS"] == ["http://127.0.0.1:9000/…", "environment"]
    assert rows["WEBHOOK_SECRET"] == ["set", "(26", "characters)", ".env", "line", "1"]
    assert rows["MARZHOOK_INGEST_SECRET"][-1] == "WEBHOOK_SECRET"
    assert rows["UVICORN_PORT"] == ["8787", "default"]
    assert "not used by Marzhook: XRAY_JSON" in done.stdout
    assert "something-very" not in done.stdout
    assert "\x1b" not in done.stdout


def test_config_fits_a_terminal(tmp_path: Path) -> None:
    """On a terminal of 80 columns no line is longer, and names are whole."""
    addresses = "http://127.0.0.1:9000/,http://127.0.0.1:9001/"
    lines = on_a_terminal(tmp_path, "config", TERM="dumb", WEBHOOK_ADDRESS=addresses).replace("\r", "").split("\n")
    assert max(len(line) for line in lines) <= 80
    assert any(line.startswith("NOTIFY_IF_DATA_USAGE_PERCENT_REACHED ") for line in lines)


def test_config_as_json(tmp_path: Path) -> None:
    """--json gives the same with types; secrets stay masked."""
    done = marzhook(tmp_path, "config", "--json", WEBHOOK_SECRET="hunter2", UVICORN_PORT="0")
    document = json.loads(done.stdout)
    settings = {entry.pop("name"): entry for entry in document["settings"]}
    assert settings["UVICORN_PORT"] == {"value": 0, "source": "environment"}
    assert settings["WEBHOOK_ADDRESS"] == {"value": [], "source": "default"}
    assert settings["WEBHOOK_SECRET"] == {"value": "set (7 characters)", "source": "environment"}
    assert document["unused"] == []
    assert "hunter2" not in done.stdout


def test_malformed_setting(tmp_path: Path) -> None:
    """A malformed setting is one line on stderr and exit code 2."""
    done = marzhook(tmp_path, "config", UVICORN_PORT="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "marzhook: UVICORN_PORT is 'x' (environment); expected a whole number from 0 to 65535\n"


def test_usage(tmp_path: Path) -> None:
    """--version and --help answer, and an unknown command is exit code 2."""
    assert marzhook(tmp_path, "--version").stdout == f"marzhook {__version__}\n"
    done = marzhook(tmp_path, "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert marzhook(tmp_path, "confg").returncode == 2


def test_help_imports_no_command(tmp_path: Path) -> None:
    """--help does not import the commands, nor what they need."""
    code = (
        "import sys; from marzhook.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "loaded = {'sqlalchemy', 'fastapi', 'pycurl', 'marzhook.settings', 'marzhook.cli.config'} & set(sys.modules)\n"
        "print(sorted(loaded), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads(name: str) -> None:
    """Each registered command can be imported and has help."""
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingError("x"), 2),
        (errors.AlreadyRunningError("x"), 2),
        (errors.InvalidUserError({"username": "x"}), 2),
        (errors.NotFoundError("x"), 1),
        (errors.StoreBusyError("x"), 2),
    ],
)
def test_exit_codes(error: errors.MarzhookError, code: int) -> None:
    """Wrong usage or settings, or a database that cannot be used just now, are 2; work that failed is 1."""
    assert exit_code(error) == code


def test_errors_are_one_line() -> None:
    """An error with line breaks is told in one line, and an interrupt ends with 130."""
    small = typer.Typer(cls=LazyGroup, pretty_exceptions_enable=False)

    @small.callback(invoke_without_command=True)
    def fail(interrupt: bool = False) -> None:
        raise KeyboardInterrupt if interrupt else errors.ConflictError("first\nsecond")

    done = CliRunner().invoke(small, [])
    assert (done.exit_code, done.stderr) == (1, "marzhook: first second\n")
    assert CliRunner().invoke(small, ["--interrupt"]).exit_code == 130


def test_how_it_is_called_can_be_copied() -> None:
    """The commands that `run` advises work in the shell in which it was typed."""
    assert command_line_of("/srv/marzhook/.venv/bin/marzhook") == "/srv/marzhook/.venv/bin/marzhook"
    assert command_line_of(".venv/bin/marzhook") == ".venv/bin/marzhook"
    assert command_line_of("marzhook") == "marzhook"
    assert command_line_of("/srv/marzhook/src/marzhook/__main__.py") == f"{sys.executable} -m marzhook"


def test_lines_are_broken_between_words_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in backticks stays in one piece, to be copied, and what goes on does so under its line's beginning."""
    text = "ok   settings\n     there is nothing here; type `marzhook users create alice` to make it"
    monkeypatch.setenv("COLUMNS", "44")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert output.fitting(text, io.StringIO()) == text
    assert output.fitting(text, Terminal()).splitlines() == [
        "ok   settings",
        "     there is nothing here; type",
        "     `marzhook users create alice` to make",
        "     it",
    ]
