"""A real PgBouncer in transaction mode in front of a server of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from marzhook.testing import eventually
from postgresql import Server, free_port, unprivileged
from processes import die_with_parent
from programs import program

SESSIONS = 3
"""With the server, for all clients together: so few that one client's transactions come to have several of them."""


@contextmanager
def pgbouncer(server: Server) -> Iterator[int]:
    """Its port on 127.0.0.1. Whoever says that he is `marzhook` is let in."""
    executable, port, (uid, gid) = program("pgbouncer", package="pgbouncer"), free_port(), unprivileged()
    with tempfile.TemporaryDirectory(prefix="marzhook-pgbouncer-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "users").write_text('"marzhook" ""\n')
        (folder / "ini").write_text(f"""
[databases]
* = host={server.folder} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {SESSIONS}
""")
        for path in (folder, folder / "users", folder / "ini"):
            os.chown(path, uid, gid)
        as_user = {"user": uid, "group": gid} if os.geteuid() == 0 else {}
        with (folder / "log").open("w+") as log:
            process = subprocess.Popen(
                [executable, folder / "ini"],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent, **as_user,
            )  # fmt: skip

            def ready() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"PgBouncer ended: {(folder / 'log').read_text()}")
                with (
                    suppress(psycopg.OperationalError),
                    psycopg.connect(f"postgresql://marzhook@127.0.0.1:{port}/postgres"),
                ):
                    return True
                return False

            try:
                eventually(ready, what="PgBouncer")
                yield port
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(10)
