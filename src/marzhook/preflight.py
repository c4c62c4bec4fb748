"""Whether what is no HTTP request can be done on this machine, as far as that is known without doing it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from marzhook.destinations.exec import argv_of
from marzhook.errors import InvalidError
from marzhook.transport.alerts import MISSING, NOT_UNDERSTOOD, TOO_MANY, service_of
from marzhook.transport.commands import Programs

_NOTHING: Final[Mapping[str, str | int]] = MappingProxyType({})

NOT_ALLOWED, NO_PROGRAM, NOT_RUNNABLE, NO_INTERPRETER, *_ = PREFLIGHT_PROBLEMS = (
    "%(program)s may not be run",
    "there is no program %(program)s",
    "%(program)s cannot be run by this user",
    "%(program)s begins with #!%(interpreter)s, and there is no such program",
    MISSING,
    NOT_UNDERSTOOD,
    TOO_MANY,
)
"""What a face has its own words for."""


class Trouble(NamedTuple):
    """Why nothing can be sent to an address: `reason`, which has `values` in places like %(program)s."""

    reason: str
    values: Mapping[str, str | int] = _NOTHING
    mend: str = ""
    """What to do; empty: the reason says so, behind its semicolon."""

    @property
    def told(self) -> str:
        return self.reason % self.values if self.values else self.reason


def trouble(kind: str, url: str, programs: Sequence[str]) -> Trouble | None:
    """Of a command's or an alert's address; None: there is none, or nobody knows. `programs`: those that may be run."""
    match kind:
        case "exec":
            # What cannot be read is `Destination.problem`'s to tell.
            with suppress(InvalidError):
                return _command(argv_of(url)[0], programs)
        case "alert":
            return _alert(url)
    return None


def check(kind: str, url: str) -> None:
    """Raises InvalidError for an address that no installation mends. A program may come later, or be on another machine."""
    found = trouble(kind, url, ()) if kind == "alert" else None
    if found and found.reason != MISSING:
        raise InvalidError(found.told, code="invalid_url", reason=found.reason, values=found.values)


def _command(program: str, programs: Sequence[str]) -> Trouble | None:
    named = {"program": program}
    # First of all: what else there is on this machine is nobody's business.
    if not Programs(programs).permit(program):
        return Trouble(NOT_ALLOWED, named, "Name it, or its folder, in MARZHOOK_EXEC_ALLOW.")
    if not os.path.exists(program):
        return Trouble(NO_PROGRAM, named, "Correct its path, or install it.")
    if not os.path.isfile(program) or not os.access(program, os.X_OK):
        return Trouble(NOT_RUNNABLE, named, f"Type: chmod +x {program}")
    interpreter = _interpreter(program)
    if interpreter and not os.access(interpreter, os.X_OK):
        mend = "Correct its first line; one that ends like \\r was written on Windows, and wants other line ends."
        return Trouble(NO_INTERPRETER, {**named, "interpreter": repr(interpreter)}, mend)
    return None


def _interpreter(program: str) -> str | None:
    """The program that a script's first line names. A script that may be run, but not read, is run by nobody."""
    try:
        with open(program, "rb") as file:
            head = file.read(256)
    except OSError:
        return None
    if not head.startswith(b"#!"):
        return None
    # As the kernel takes it apart: at spaces and tabs, and nowhere else.
    return os.fsdecode(head[2:].split(b"\n")[0].strip(b" \t").replace(b"\t", b" ").split(b" ")[0])


def _alert(url: str) -> Trouble | None:
    try:
        service, too_many = service_of(url)
    except ModuleNotFoundError:
        return Trouble(MISSING)
    if service is None:
        page = "https://github.com/caronc/apprise/wiki"
        return Trouble(NOT_UNDERSTOOD, mend=f"Compare it with the service's page in Apprise's documentation: {page}")
    return Trouble(TOO_MANY, too_many) if too_many else None
