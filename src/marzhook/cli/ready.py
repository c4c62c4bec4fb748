"""Whether what is no HTTP request can be done here, as far as that is known without doing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from marzhook.cli.reach import Reach
from marzhook.destinations.exec import argv_of
from marzhook.endpoint import Endpoint
from marzhook.transport.alerts import MISSING
from marzhook.transport.commands import Programs


def ready(endpoint: Endpoint, programs: Sequence[str]) -> Reach:
    """Of an alert, a database or a command. `programs`: those that may be run."""
    match endpoint.kind:
        case "exec":
            return _command(endpoint, programs)
        case "alert" if find_spec("apprise") is None:
            problem, _, mend = MISSING.partition("; ")
            return Reach("", problem, mend[0].upper() + mend[1:] + ".")
        case "alert":
            return Reach("Apprise is installed")
    return Reach("its database is asked when there is something to write")


def _command(endpoint: Endpoint, programs: Sequence[str]) -> Reach:
    program = argv_of(endpoint.url)[0]
    if not os.access(program, os.X_OK) or os.path.isdir(program):
        return Reach("", f"{program} is no program that can be run", "Correct its path, or make it executable.")
    if not Programs(programs).permit(program):
        return Reach("", f"{program} may not be run", "Name it, or its folder, in MARZHOOK_EXEC_ALLOW.")
    return Reach(f"{program} can be run")
