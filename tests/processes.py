"""Other processes: one that works on a database (database_process.py), and their end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("database_process.py")


@contextmanager
def process(verb: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`settings` name its database. What it says is on its standard output; it is gone when the block ends."""
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), verb],
        env=os.environ | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout
    return child.stdout.readline().strip()


def die_with_parent(number: int = signal.SIGQUIT) -> None:
    """This process gets this signal when its parent ends: also where the tests are killed, nothing stays behind."""
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
