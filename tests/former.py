"""The version before this one, whose `src/marzhook` is in `previous/marzhook.tar.xz`, made anew with each release:

    git archive --format=tar <its tag> src/marzhook | xz -9e > tests/previous/marzhook.tar.xz

Run as a script, this is a process of it that works on the database of its environment: each line of its standard input says
what its `World` is to do, and each of its standard output what that gave.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histories import World
from marzhook import settings
from marzhook.store.database import Database
from marzhook.testing import FakeClock

ARCHIVE = Path(__file__).with_name("previous") / "marzhook.tar.xz"


def unpacked(folder: Path) -> dict[str, str]:
    """What the environment of its processes says."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "before", filter="data")
    return {"PYTHONPATH": str(folder / "before" / "src")}


@contextmanager
def working(folder: Path, database: Mapping[str, str]) -> Iterator[Callable[..., Any]]:
    """A process of it, until the block ends; yields what tells it a verb of `World` or of its clock, and gives the answer."""
    with subprocess.Popen(
        [sys.executable, __file__], cwd=folder, env={**os.environ, **database, **unpacked(folder)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def told(verb: str, *arguments: Any) -> Any:
            print(json.dumps([verb, *arguments]), file=orders, flush=True)
            return json.loads(answers.readline())

        yield told


def main() -> None:
    loaded = settings.load(env_file=None)
    world = World(Database.open(loaded.database_url, secret_keys=loaded.secret_keys), FakeClock())
    # It may know partitions, which there were none of before the migration.
    world.retention._partitions = None
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        answer = getattr(world.clock if verb == "advance" else world, verb)(*arguments)
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main()
