"""Another process that works on a database (database_process.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("database_process.py")


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """What it says is on its standard output; it is gone when the block ends."""
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout
    return child.stdout.readline().strip()
