"""Run as a script: another process that prunes. `NOW POINT NTH`: dies when it passes the point for the nth time. `LEAST
SMALL`: of its partitions. The database is that of its environment."""

from __future__ import annotations

import sys
from datetime import timedelta

from marzhook import settings
from marzhook.clock import from_unix
from marzhook.store.database import Database
from marzhook.store.partitions import Partitions
from marzhook.store.retention import Ages, Retention
from marzhook.testing import kill_point


def main(now: str, point: str, nth: str, *sizes: str) -> None:
    loaded = settings.load(env_file=None)
    database = Database.open(loaded.database_url, secret_keys=loaded.secret_keys)
    partitions = None
    if sizes:
        least, small = map(int, sizes)
        partitions = Partitions(database, least=least, small=small)
    retention = Retention(database, Ages(timedelta(days=30), timedelta(days=90)), partitions=partitions)
    with kill_point(point, int(nth)):
        for _ in retention.steps(from_unix(float(now))):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
