"""`marzhook worker` as processes of their own, as operators run them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import preloaded
from marzhook.errors import MarzhookError
from marzhook.store.database import Database


class WorkerProcess:
    """A running worker. Settings are environment variables; `through`: a command that runs it (`ip netns exec …`)."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str, through: Sequence[str] = ()) -> None:
        self.log = (folder / f"worker-{os.urandom(3).hex()}.log").open("w+")
        self.process = preloaded.start(
            "marzhook", *(arguments or ("worker",)), folder=folder,
            environment={"PATH": os.environ["PATH"], **environment}, log=self.log, through=through,
        )  # fmt: skip

    @property
    def told(self) -> str:
        return f"process {self.process.pid} "

    def freeze(self) -> None:
        """It does nothing more, and is not gone yet."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


Start = Callable[..., WorkerProcess]


def shares(database: Database) -> list[int]:
    """How many shards each worker has."""
    return sorted(len(worker.shards) for worker in database.workers())


def shards_of(database: Database, name: str) -> set[int]:
    """Those of the workers in whose names this is."""
    return {shard for worker in database.workers() if name in worker.name for shard in worker.shards}


def holding(database: Database) -> int:
    """How many shards are held; 0 where nobody can be asked."""
    try:
        return sum(shares(database))
    except MarzhookError:
        return 0
