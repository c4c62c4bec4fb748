"""Run as a script: another process on the database of its environment. `VERB`; says what it did on its standard output, then
waits for the end of its standard input where it holds something."""

from __future__ import annotations

import os
import resource
import signal
import sys
from datetime import UTC, datetime

from holding import held
from marzhook import settings
from marzhook.errors import MarzhookError
from marzhook.event import NewEvent
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox


def say(text: object) -> None:
    print(text, flush=True)


def publish(database: Database, name: str) -> None:
    with database.write() as tx:
        Outbox(database).publish(tx, [NewEvent("user_created", name, {"x": "y" * 10_000})], now=datetime.now(UTC))


def main(verb: str) -> None:
    loaded = settings.load(env_file=None)
    database = Database.open(loaded.database_url, secret_keys=loaded.secret_keys)
    match verb:
        case "claim":
            database.claim()
            say("claimed")
            sys.stdin.read()
        case "hold":
            with held(database):
                say("holding")
                sys.stdin.read()
        case "publish":
            publish(database, "u")
            say("published")
        case "fill":
            # What a full disk does, without filling one: no file may grow beyond this.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            written = 0
            try:
                while written < 1000:
                    publish(database, "u")
                    written += 1
                say(f"{written} nothing happened")
            except MarzhookError as error:
                say(f"{written} {type(error).__name__} {error.code} {error}")
        case "unprivileged":
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            try:
                database.upgrade()
                publish(database, "u")
                say("nothing happened")
            except MarzhookError as error:
                say(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
