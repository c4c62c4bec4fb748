"""`marzhook` as people call it: in a folder of its own, with an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

import preloaded
from marzhook.cli.main import app
from marzhook.settings import SETTINGS
from marzhook.store.database import Database

_NAMES = {setting.name for setting in SETTINGS}
_MARZHOOK = [sys.executable, "-m", "marzhook"]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without Marzhook's settings, and with these."""
    kept = {k: v for k, v in os.environ.items() if k not in _NAMES and not k.startswith("MARZHOOK_")}
    return {**kept, "COLUMNS": "80", **settings}


def made(folder: Path) -> None:
    """The database that the first start of a service makes, and the key to it."""
    shutil.copytree(_first().name, folder, dirs_exist_ok=True)


@cache
def _first() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="marzhook-made-")
    database = Database.open(f"sqlite:///{folder.name}/marzhook.db")
    database.upgrade()
    database.close()
    return folder


@dataclass(frozen=True)
class Ended:
    """A command that has come to its end."""

    stdout: str
    stderr: str


def marzhook(folder: Path, *args: str, text: str = "", expect: int = 0, **settings: str) -> Ended:
    """Run a command in `folder`; its exit code must be `expect`. In this process: a start costs more than most commands."""
    with contextlib.chdir(folder), patch.dict(os.environ, environment(**settings), clear=True):
        result = CliRunner().invoke(app, args, input=text, prog_name="marzhook")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, (result.exit_code, result.stdout, result.stderr)
    return Ended(result.stdout, result.stderr)


def on_a_terminal(folder: Path, *args: str, answer: str = "", ask: str = "", **settings: str) -> str:
    """Run a command on a terminal of 80 columns, type `answer` when it shows `ask`; it must end well.
    Returns what was shown."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    with subprocess.Popen(
        [*_MARZHOOK, *args], cwd=folder, env=environment(**settings), stdin=theirs, stdout=theirs, stderr=theirs
    ) as command:
        os.close(theirs)
        shown = b""
        try:
            # At its end the terminal is gone, which is an error of input and output.
            while data := os.read(ours, 4096):
                shown += data
                if answer and ask.encode() in shown:
                    os.write(ours, answer.encode())
                    answer = ""
        except OSError:
            pass
        finally:
            os.close(ours)
    assert command.returncode == 0, shown
    return shown.decode()


def marzhook_process(folder: Path, *args: str, **settings: str) -> Ended:
    """The same in a process of its own, for commands that own the process; it must end well."""
    ended = preloaded.run("marzhook", *args, folder=folder, environment=environment(**settings))
    assert ended.returncode == 0, (ended.returncode, ended.stdout, ended.stderr)
    return Ended(ended.stdout, ended.stderr)


def as_json(folder: Path, *args: str, expect: int = 0, **settings: str) -> Any:
    """What the command prints with --json."""
    return json.loads(marzhook(folder, *args, "--json", expect=expect, **settings).stdout)


class Running:
    """A command that runs until it is stopped; its lines can be waited for."""

    def __init__(self, folder: Path, *args: str, **settings: str) -> None:
        self.process = subprocess.Popen(
            [*_MARZHOOK, *args], cwd=folder, env=environment(**settings),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.seen: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, part: str, *, timeout: float = 20.0) -> str:
        """The next line that contains `part`. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no line with {part!r} within {timeout} s, but {self.seen}") from None
            self.seen.append(line)
            if part in line:
                return line

    def stop(self, number: int = signal.SIGINT) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._reader.join(5)
        return code

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        assert self.process.stdout
        self.process.stdout.close()
